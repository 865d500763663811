"""Which tool call each piece belongs to: upstreams leave out the index, the id, or repeat them.

Gemini's OpenAI endpoint leaves out `index` (openai/openai-python#2806), others send index 0 with every
call, an id or a name with every piece, or an id that changes from piece to piece. Clients then crash,
merge the calls or lose them all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from gatepass.sse.chunk import Object, text_of_id

MAX_CALLS = 1024
"""What comes beyond belongs to the last one: an upstream that opens calls for ever costs no memory."""

KEY_CHARS = 256
"""So much of an id tells it from others; relays put whole signatures behind it."""


_VALUE = msgspec.json.Decoder(msgspec.Raw)
_HALF_PAIR = re.compile(rb"(?<!\\)((?:\\\\)*+)\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
"""An escape of half a surrogate pair, which msgspec takes for no JSON."""


def is_complete_json(arguments: str) -> bool:
    """Whether the arguments of a call are JSON to their end: a cut call has none, or the beginning of some.

    Nothing of them is built: 1 MiB of small lists would take 90 ms.
    """
    text = arguments.encode("utf-8", "replace")
    try:
        _VALUE.decode(_HALF_PAIR.sub(rb"\1", text) if b"\\ud" in text or b"\\uD" in text else text)
    except (ValueError, RecursionError):
        return False
    return True


@dataclass(slots=True)
class ToolCall:
    """One call of a choice. `number` counts from 0 in the order of appearance; `id` is "" where none was
    given, or only one that an earlier call has too; `name` likewise, or as much of it as tells it from others."""

    number: int
    id: str
    name: str = ""


class ToolCallDelta(NamedTuple):
    """One entry of a `tool_calls` delta, and the call that it is of; `opens`: it is the first one."""

    entry: Object
    call: ToolCall
    is_first: bool


class ToolCallTracker:
    """The calls of one choice."""

    __slots__ = ("_all", "_by_id", "_by_index")

    def __init__(self) -> None:
        self._all: list[ToolCall] = []
        self._by_index: dict[int, ToolCall] = {}
        self._by_id: dict[str, ToolCall] = {}

    def __len__(self) -> int:
        return len(self._all)

    def assign(self, entries: list[Any]) -> list[ToolCallDelta]:
        """The entries of one delta, each with its call; what is no object is left out."""
        pieces: list[ToolCallDelta] = []
        for payload in entries:
            if isinstance(payload, dict):
                pieces.append(self._piece(payload, pieces))
        return pieces

    def _piece(self, payload: Object, before: list[ToolCallDelta]) -> ToolCallDelta:
        index, identity = payload.get("index"), payload.get("id")
        if type(index) is not int or index < 0:
            index = None
        elif not identity and (call := self._by_index.get(index)) is not None and call.name and not _name(payload):
            return ToolCallDelta(payload, call, is_first=False)  # what a flawless stream has most of
        if type(identity) is not str:
            identity = text_of_id(identity)
        name, has_arguments = _name(payload), _has_arguments(payload)
        call = self._known(index, identity, name, has_arguments=has_arguments)
        is_second = index is None and not identity and name != "" and any(piece.call is call for piece in before)
        if len(self._all) >= MAX_CALLS:
            call = call or self._all[-1]
        elif call is None or is_second:
            return ToolCallDelta(payload, self._open(index, identity, name), is_first=True)
        if identity and not call.id:
            call.id = identity
            self._by_id.setdefault(identity[:KEY_CHARS], call)
        if index is not None and len(self._by_index) < MAX_CALLS:
            self._by_index.setdefault(index, call)
        call.name = call.name or name
        return ToolCallDelta(payload, call, is_first=False)

    def _known(self, index: int | None, identity: str, name: str, *, has_arguments: bool) -> ToolCall | None:
        """The call that a piece continues, None for the first of a new one.

        An id tells more than an index, but two openers with one id and indices of their own are two
        calls. A new id at an old index opens a call if a name comes with it or nothing at all; with
        bare arguments it is the old call, whose id changes from piece to piece. Without an id another
        name opens a call: a repetition would repeat the name.
        """
        if (same := self._by_id.get(identity[:KEY_CHARS])) is not None:
            return None if name and index is not None and index not in self._by_index else same
        last = self._all[-1] if self._all else None
        at = last if index is None else self._by_index.get(index)
        if at is None:
            return None
        if not identity:
            return None if name and at.name and name != at.name else at
        if at.id:
            return at if has_arguments and not name else None
        return None if at.name and name else at

    def _open(self, index: int | None, identity: str, name: str) -> ToolCall:
        key = identity[:KEY_CHARS]
        call = ToolCall(len(self._all), "" if key in self._by_id else identity, name)
        self._all.append(call)
        if identity:
            self._by_id.setdefault(key, call)
        if index is not None:
            self._by_index[index] = call
        return call


def _name(payload: Object) -> str:
    """The name that a piece gives its call, "" for none; "?" for what is no text."""
    name = _inner(payload).get("name")
    if isinstance(name, str):
        return name[:KEY_CHARS]
    return "?" if name else ""


def _has_arguments(payload: Object) -> bool:
    inner = _inner(payload)
    return bool(inner.get("arguments") or inner.get("input"))


def _inner(payload: Object) -> Object:
    inner = payload.get("function")
    if not isinstance(inner, dict):
        inner = payload.get("custom")
    return inner if isinstance(inner, dict) else {}
