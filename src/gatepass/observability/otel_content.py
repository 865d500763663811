"""The messages of a request and its answer in the JSON of the convention, from the beginnings of their bodies.

A body that is cut, or of another form, becomes one text. Media are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gatepass.observability.redaction import whole_words


def input_messages(body: bytes) -> str:
    """Return the messages of a request's body, or "" without one."""
    document = _decoded(body)
    if not isinstance(document, dict):
        return _text("user", whole_words(body).decode("utf-8", "replace"))
    system, listed = document.get("system") or document.get("instructions"), document.get("messages")
    given = listed if listed is not None else document.get("input", document.get("prompt", ""))
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    first = [{"role": "system", "content": system}] if system else []
    return _json([_message(one) for one in (*first, *_objects(messages))])


def output_messages(body: bytes) -> str:
    """Return the messages of a reply, whole or a stream of events."""
    document = _decoded(body)
    if isinstance(document, dict):
        choices = _objects(document.get("choices"))
        listed = _objects([one.get("message") or one for one in choices]) or _objects(document.get("output"))
        return _json([_message({"role": "assistant", **one}) for one in listed or [document]])
    lines = [line[5:].strip() for line in whole_words(body).split(b"\n") if line.startswith(b"data:")]
    return _text("assistant", "".join(text for line in lines for text in _texts(_decoded(line))))


def _texts(event: Any) -> Iterator[str]:
    """Yield the texts that an event of a stream adds, in each of the APIs."""
    if not isinstance(event, dict):
        return
    for one in (event, *_objects(event.get("choices"))):
        delta = one.get("delta")
        text = delta.get("content") or delta.get("text") if isinstance(delta, dict) else delta
        if isinstance(text, str):
            yield text


def _message(message: dict[str, Any]) -> dict[str, Any]:
    role, content = str(message.get("role") or "user"), message.get("content", message.get("text"))
    listed = [{"text": content}] if isinstance(content, str) else content
    parts: list[dict[str, Any]] = [
        {"type": "text", "content": one["text"]} for one in _objects(listed) if isinstance(one.get("text"), str)
    ]
    for call in _objects(message.get("tool_calls")):
        made = call.get("function")
        if isinstance(made, dict):
            about = {"name": made.get("name"), "arguments": made.get("arguments")}
            parts.append({"type": "tool_call", "id": call.get("id"), **about})
    return {"role": role, "parts": parts}


def _objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects of a list. Whatever else a client or an upstream wrote must not fail the export."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _text(role: str, text: str) -> str:
    return _json([{"role": role, "parts": [{"type": "text", "content": text}]}]) if text else ""


def _json(messages: list[dict[str, Any]]) -> str:
    return msgspec.json.encode(messages).decode() if messages else ""
