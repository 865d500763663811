"""A finish reason in a chunk of its own, for clients that read no text beside one."""

from __future__ import annotations

from typing import Any

from gatepass.relay.chunk import ENVELOPE, Object, finish_reason

_TEXT = ("delta", "text", "logprobs")


def split_finish(chunk: Object) -> tuple[Object, ...]:
    """`chunk` alone, or two in its place: what it says, then how it ends, with the usage.

    vLLM sends the last text and the finish reason together; RAGFlow's vision models then fail on
    the missing usage. `chunk` itself is not changed.
    """
    choices = chunk["choices"]
    if not any(isinstance(choice, dict) and finish_reason(choice) and _says(choice) for choice in choices):
        return (chunk,)
    ends = [_end(choice) for choice in choices if isinstance(choice, dict) and finish_reason(choice)]
    first = {**chunk, "choices": [_open(choice) for choice in choices]}
    last = {**{name: chunk[name] for name in ENVELOPE if name in chunk}, "choices": ends}
    if "usage" in chunk:
        first["usage"], last["usage"] = None, chunk["usage"]
    return first, last


def _says(choice: Object) -> bool:
    delta = choice.get("delta")
    return bool(choice.get("text")) or (
        isinstance(delta, dict) and any(delta[name] for name in delta if name != "role")
    )


def _open(choice: Any) -> Any:
    return {**choice, "finish_reason": None} if isinstance(choice, dict) else choice


def _end(choice: Object) -> Object:
    nothing: Object = {"delta": {}, "text": "", "logprobs": None}
    return {name: nothing[name] if name in _TEXT else value for name, value in choice.items()}
