"""Build the messages of a chat from those of another protocol: parts, roles in turns, results behind their calls."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gatepass.errors import InvalidRequest
from gatepass.sse.chunk import Object

SHOWN_CHARS = 64


class Tool(msgspec.Struct, frozen=True):
    """A tool as the client knows it. A chat calls each one as a function."""

    name: str
    namespace: str = ""
    is_custom: bool = False
    """It takes a text instead of arguments."""


class About(msgspec.Struct, frozen=True):
    """What the answer needs of the request: its tools by their names in the chat, and the members that it repeats."""

    tools: Mapping[str, Tool] = {}
    repeated: Object = {}


_SHOWN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
OTHERS = "others"
"""What a name is called that is long or no plain word: the client chooses it, and it would stand in a header."""
MOST_ENTRIES = 16


class Dropped:
    """What a translation leaves out of a request.

    `entries` are those of `x-gatepass-adapted`, each once. After MOST_ENTRIES all others are OTHERS.
    """

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    @property
    def entries(self) -> tuple[str, ...]:
        return tuple(f"untranslated={name}" for name in self._names)

    def note(self, name: str) -> None:
        is_shown = len(self._names) < MOST_ENTRIES and _SHOWN.fullmatch(name)
        self._names[name if is_shown else OTHERS] = None

    def note_others(self, members: Object, carried: Iterable[str], where: str = "") -> None:
        """Note each of `members` that is not `carried` and has a value."""
        for name in members.keys() - set(carried):
            if members[name] not in (None, "", [], {}):
                self.note(f"{where}{name}")


def members_of(owner: Object, name: str) -> Object:
    """Return the object `name` of `owner`; an empty one if it has none."""
    value = owner.get(name)
    return value if isinstance(value, dict) else {}


def text_part(text: str) -> Object:
    return {"type": "text", "text": text}


def image_part(url: Any) -> Object:
    return {"type": "image_url", "image_url": {"url": url}}


def content_of(parts: list[Object]) -> str | list[Object]:
    """Return the content of a message: one text if there is nothing else, because some servers accept no parts."""
    if all(part["type"] == "text" for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def result_messages(call_id: Any, parts: list[Object]) -> list[Object]:
    """Return a tool's result: its texts, and a message of the user with its images, because no tool may send any."""
    texts = [part for part in parts if part["type"] == "text"]
    images = [part for part in parts if part["type"] != "text"]
    result: Object = {"role": "tool", "tool_call_id": call_id, "content": content_of(texts)}
    return [result, {"role": "user", "content": [text_part(f"Images of {call_id}:"), *images]}] if images else [result]


def in_turns(messages: list[Object]) -> list[Object]:
    """Return the messages as strict servers require them.

    Several of one role in a row become one, and the results of tools follow their calls at once, in their order.
    Raises InvalidRequest for a call without a result, and for a result without a call.
    """
    segments: list[list[Object]] = [[]]
    for message in _merged(messages):
        segments.append([message]) if message["role"] == "assistant" else segments[-1].append(message)
    return _merged(message for segment in segments for message in _with_results(segment))


def _merged(messages: Iterable[Object]) -> list[Object]:
    found: list[Object] = []
    for message in messages:
        last = found[-1] if found else {}
        if message["role"] == "tool" or last.get("role") != message["role"]:
            found.append(message)
        else:
            found[-1] = _joined(last, message)
    return found


def _joined(first: Object, second: Object) -> Object:
    parts = [*_parts(first.get("content")), *_parts(second.get("content"))]
    calls = [*first.get("tool_calls", ()), *second.get("tool_calls", ())]
    content = content_of(parts) if parts else None if calls else ""
    return {**first, **second, "content": content} | ({"tool_calls": calls} if calls else {})


def _parts(content: Any) -> list[Object]:
    return content if isinstance(content, list) else [text_part(content)] if content else []


def _with_results(segment: list[Object]) -> list[Object]:
    """Return an answer and what follows it, the results of its calls first."""
    calls = segment[0].get("tool_calls", ()) if segment else ()
    results: dict[Any, Object] = {}
    for message in segment:
        if message["role"] == "tool":
            results.setdefault(message["tool_call_id"], message)
    ordered = []
    for call in calls:
        if (result := results.pop(call["id"], None)) is None:
            raise InvalidRequest(f"The tool call {_shown(call['id'])} has no result.", param="messages")
        ordered.append(result)
    if results:
        raise InvalidRequest(f"The result {_shown(next(iter(results)))} has no tool call before it.", param="messages")
    answer, others = segment[: len(calls) > 0], segment[len(calls) > 0 :]
    return [*answer, *ordered, *(message for message in others if message["role"] != "tool")]


def _shown(name: Any) -> str:
    return repr(name)[:SHOWN_CHARS]


def refused_part(kind: str, where: str) -> InvalidRequest:
    """Return the error for a part or item at `where`, of the type `kind`, that a chat cannot carry."""
    what = f"is {_shown(kind)}, or of a stored file" if kind else "has no type"
    return InvalidRequest(
        f"`{where}` {what}. The upstream has chat completions alone, which take texts and images.", param=where
    )
