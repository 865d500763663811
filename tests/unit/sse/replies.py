"""Correct whole replies, to be varied."""

from typing import Any

HEAD = {"id": "x", "created": 7, "model": "m"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
CALL: dict[str, Any] = {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"a":"stop"}'}}
CUSTOM = {"id": "c", "type": "custom", "custom": {"name": "look", "input": "[{"}}


def choice(*calls: Any, finish: Any = None, index: Any = 0, **message: Any) -> dict[str, Any]:
    """A choice of a chat; it ends as it should unless `finish` is given."""
    payload = {"role": "assistant", **({"tool_calls": [*calls]} if calls else {"content": "hi"}), **message}
    return {"index": index, "finish_reason": finish or ("tool_calls" if calls else "stop"), "message": payload}


def chat(*choices: Any, **more: Any) -> dict[str, Any]:
    return {**HEAD, "object": "chat.completion", "choices": [*choices], **more}


def text(finish: Any = "stop", **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "finish_reason": finish, "text": "hi", **more}]
    return {**HEAD, "object": "text_completion", "choices": choices}


def without(payload: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in payload.items() if name not in names}


def refuse_to_write(_: Any) -> bytes:
    """Fail as the encoder does for a value that is nested too deep."""
    raise ValueError("recursion limit exceeded")
