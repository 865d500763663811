"""Chat completions of an upstream that has nothing else, for the tests of translated protocols."""

import json
from collections.abc import Mapping
from typing import Any

from tests.integration.scripted import event

Document = dict[str, Any]


def completion(text: str, calls: Mapping[str, Any] = {}, *, name: str = "add", **members: Any) -> Document:
    """Return a whole chat. `calls` has the arguments of each call of the function `name` by its id.

    `members` are those of its message, such as `reasoning_content`, and `finish_reason` and `usage`.
    """
    called = [
        {"id": key, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for key, arguments in calls.items()
    ]
    reason = members.pop("finish_reason", "tool_calls" if called else "stop")
    usage = members.pop("usage", {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18})
    message = {"role": "assistant", "content": text, **({"tool_calls": called} if called else {}), **members}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    envelope = {"id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "m"}
    return {**envelope, "choices": [choice], "usage": usage}


def chunks(document: Document) -> list[bytes]:
    """Return the events of the stream of `document`. The pieces of parallel calls mix."""
    (choice,) = document["choices"]
    message = choice["message"]
    deltas: list[Document] = [{"role": "assistant", "content": ""}]
    for member in message.keys() - {"role", "content", "tool_calls"}:
        deltas += [{member: piece} for piece in _pieces(message[member])]
    deltas += [{"content": piece} for piece in _pieces(message["content"])]
    calls = message.get("tool_calls", ())
    for index, call in enumerate(calls):
        deltas.append({"tool_calls": [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]})
    pieces = [_pieces(call["function"]["arguments"]) for call in calls]
    for turn in zip(*pieces, strict=True):
        deltas += [{"tool_calls": [{"index": at, "function": {"arguments": one}}]} for at, one in enumerate(turn)]
    envelope = {**document, "object": "chat.completion.chunk", "usage": None}
    ends = [(delta, None) for delta in deltas] + [({}, choice["finish_reason"])]
    made = [{**envelope, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in ends]
    return [event(one) for one in (*made, {**envelope, "choices": [], "usage": document["usage"]}, "[DONE]")]


def _pieces(text: str) -> list[str]:
    """Return three pieces of `text`."""
    third = len(text) // 3
    return [text[:third], text[third : 2 * third], text[2 * third :]]
