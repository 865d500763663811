"""What the demo's model says: pure functions from a request to the objects of an OpenAI answer."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_KINDS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)


class Unreadable(Exception):
    """A message that a strict server does not take; the text says what is wrong with it."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Understood:
    """What a conversation holds for the model: the last user's text, and the kind of every image."""

    text: str
    images: tuple[str, ...] = ()


def understood(messages: Any) -> Understood:
    """Read `messages` as a vision model does; raises Unreadable."""
    if not isinstance(messages, list) or not messages:
        raise Unreadable("'messages' must be a list that is not empty", "messages")
    text, images = "", []
    for index, message in enumerate(messages):
        said, seen = _message(message, f"messages[{index}]")
        images.extend(seen)
        if message["role"] == "user":
            text = said
    return Understood(text, tuple(images))


def _message(message: Any, where: str) -> tuple[str, list[str]]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise Unreadable(f"'{where}' must be an object with a role", where)
    strays = sorted(set(message) - _MESSAGE_MEMBERS)
    if strays:
        raise Unreadable(f"Unrecognized request argument supplied: {where}.{strays[0]}", f"{where}.{strays[0]}")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or "", []
    if not isinstance(content, list):
        raise Unreadable(f"'{where}.content' must be a text or a list of parts", where)
    parts = [_part(part, f"{where}.content[{index}]") for index, part in enumerate(content)]
    return " ".join(text for text, _ in parts if text), [kind for _, kind in parts if kind]


def _part(part: Any, where: str) -> tuple[str, str]:
    match part:
        case {"type": "text", "text": str(text)} if text:
            return text, ""
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return "", kind_of_image(url, where)
        case _:
            raise Unreadable(f"'{where}' is neither a text that is not empty nor an image_url", where)


def kind_of_image(url: str, where: str = "url") -> str:
    """The kind of the image behind `url` by its own bytes, or "a link": nothing is fetched. Raises Unreadable."""
    if url.startswith(("http://", "https://")):
        return "a link"
    head, comma, data = url.partition(",")
    declared = head.removeprefix("data:").removesuffix(";base64")
    if not comma or head != f"data:{declared};base64":
        raise Unreadable(f"'{where}' should be a valid url or data:image/TYPE;base64,…", where)
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise Unreadable(f"'{where}' is not base64", where) from None
    kind = next((kind for magic, kind in _KINDS if content.startswith(magic)), None)
    if kind != declared:
        raise Unreadable(f"'{where}' says {declared} and is {kind or 'no image'}", where)
    return declared


def answer(question: Understood) -> str:
    if not question.images:
        return f'You said "{question.text}" and I answer word by word, each the moment it is made.'
    count = "1 image" if len(question.images) == 1 else f"{len(question.images)} images"
    return f"I see {count}: {', '.join(question.images)}."


def completion(head: dict[str, Any], text: str, usage: dict[str, int]) -> dict[str, Any]:
    """The object of a plain answer. `head` holds id, created and model."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}


def chunks(head: dict[str, Any], text: str, usage: dict[str, int], *, include_usage: bool) -> Iterator[dict[str, Any]]:
    """The same answer in pieces: the role, one chunk per word, the end, and the usage where it was asked for."""
    yield _chunk(head, {"role": "assistant", "content": ""})
    for index, word in enumerate(text.split(" ")):
        yield _chunk(head, {"content": f" {word}" if index else word})
    yield _chunk(head, {}, finish_reason="stop")
    if include_usage:
        yield {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}


def _chunk(head: dict[str, Any], delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**head, "object": "chat.completion.chunk", "choices": [choice]}


def usage_of(prompt: str, answered: str) -> dict[str, int]:
    """Words stand for tokens."""
    said, told = len(prompt.split()), len(answered.split())
    return {"prompt_tokens": said, "completion_tokens": told, "total_tokens": said + told}


_MESSAGE_MEMBERS = frozenset(
    {"role", "content", "name", "refusal", "audio", "tool_calls", "tool_call_id", "function_call"}
)
