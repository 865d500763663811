"""Assign the tool deltas of a stream to tool calls, and decide whether the arguments of a call are complete.

Upstreams omit or repeat the index and the id of a call. Clients then crash, merge the calls or lose all of them.

- Gemini's OpenAI endpoint omits `index` (openai/openai-python#2806).
- Other upstreams send index 0 with every call.
- Others send an id or a name with every delta. Some of them change the id from delta to delta.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from gatepass.json_body import LENIENT_WORK, RAW, takes_long
from gatepass.sse.chunk import MAX_ENTRIES, ArgumentsTooLarge, Object, text_of_id
from gatepass.sse.synthesize import PIECE_CHARS
from gatepass.sse.usage import Usage
from gatepass.types import Hidden

KEY_CHARS = 256
"""Calls are compared by this many characters of an id, because relays append whole signatures to it."""


@dataclass(slots=True)
class ToolCall:
    """One tool call of a choice.

    `number` is 0 for the first call, 1 for the second. `id` is empty if the upstream did not send one, or sent that of
    an earlier call. `name` has at most KEY_CHARS characters. It is empty if the upstream did not send one.
    """

    number: int
    id: str
    name: str = ""


class ToolCallDelta(msgspec.Struct, gc=False):
    """One entry of a `tool_calls` delta with its call. `is_first`: it is the first entry of the call."""

    entry: Object
    call: ToolCall
    is_first: bool


class ToolCallTracker:
    __slots__ = ("_all", "_by_id", "_by_index")

    def __init__(self) -> None:
        self._all: list[ToolCall] = []
        self._by_index: dict[int, ToolCall] = {}
        self._by_id: dict[str, ToolCall] = {}

    def __len__(self) -> int:
        return len(self._all)

    def name(self, number: int) -> str:
        return self._all[number].name if 0 <= number < len(self._all) else ""

    def assign(self, entries: list[Any]) -> list[ToolCallDelta]:
        """Return each entry of one delta with its call. Entries that are not objects are left out."""
        deltas: list[ToolCallDelta] = []
        for payload in entries:
            if isinstance(payload, dict):
                deltas.append(self._assign_one(payload, deltas))
        return deltas

    def _assign_one(self, payload: Object, before: list[ToolCallDelta]) -> ToolCallDelta:
        index, identity, inner = payload.get("index"), payload.get("id"), payload.get("function")
        if not isinstance(inner, dict):
            inner = payload.get("custom")
        inner = inner if isinstance(inner, dict) else {}
        # without it openai-python's helper raises TypeError, and openai-node's returns no calls
        if type(index) is not int or index < 0:
            index = None
        elif not (identity or inner.get("name")) and (call := self._by_index.get(index)) is not None and call.name:
            return ToolCallDelta(payload, call, is_first=False)  # fast path: most deltas of a correct stream
        if type(identity) is not str:
            identity = text_of_id(identity)
        name = inner.get("name") or ""
        name = name[:KEY_CHARS] if isinstance(name, str) else "?"
        has_arguments = bool(inner.get("arguments") or inner.get("input"))
        call = self._find(index, identity, name, has_arguments=has_arguments)
        # Two named entries of one delta without index and id are two calls. `call` is the last one, so its entry is
        # among the last: 1,000 searches from the first would take 25 ms.
        is_named = index is None and not identity and name != ""
        is_second = is_named and any(delta.call is call for delta in reversed(before))
        if len(self._all) >= MAX_ENTRIES:  # deltas of further calls are assigned to the last one
            call = call or self._all[-1]
        elif call is None or is_second:
            return ToolCallDelta(payload, self._open(index, identity, name), is_first=True)
        if identity and not call.id:
            call.id = identity
            self._by_id.setdefault(identity[:KEY_CHARS], call)
        if index is not None and len(self._by_index) < MAX_ENTRIES:
            self._by_index.setdefault(index, call)
        call.name = call.name or name
        return ToolCallDelta(payload, call, is_first=False)

    def _find(self, index: int | None, identity: str, name: str, *, has_arguments: bool) -> ToolCall | None:
        if (same := self._by_id.get(identity[:KEY_CHARS])) is not None:
            # An id overrides an index, but two named entries with one id and different indices are two calls
            return None if name and index is not None and index not in self._by_index else same
        last = self._all[-1] if self._all else None
        at = last if index is None else self._by_index.get(index)
        if at is None:
            return None
        if not identity:
            # A different name opens a call; a repetition would repeat the name
            return None if name and at.name and name != at.name else at
        if at.id:
            # A new id at a known index opens a call, unless bare arguments come with it: then the id of the known
            # call changes from delta to delta
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


MOST_HELD_BYTES = 4 * 1024 * 1024
"""The limit of what is held for the arguments of one stream, or of a reply that is repaired."""
CALL_BYTES = 256
"""The estimated memory of one held call without its arguments."""


def is_complete_json(arguments: str) -> bool:
    """Return whether the parser of some client reads `arguments`: NaN, half a surrogate pair, a line end in a text."""
    text = arguments.encode("utf-8", "replace")  # half a pair is no fault of the JSON
    with suppress(msgspec.DecodeError, RecursionError):
        RAW.decode(text)
        return True
    if len(text) <= MOST_HELD_BYTES and not takes_long(text, LENIENT_WORK):
        with suppress(ValueError, RecursionError):
            json.loads(text, strict=False)
            return True
    return False


class ArgumentBuffer(Hidden, msgspec.Struct, eq=False):
    """The arguments of all tool calls in the open choices of a stream, by choice index and call number."""

    held: dict[int, dict[int, bytearray]] = {}
    continued: bytearray | None = None  # by the last event, and by one that differs from it in their text alone
    _bytes_left: int = MOST_HELD_BYTES

    @property
    def is_cut(self) -> bool:
        """Whether arguments of an open choice are not complete JSON."""
        texts = [text for choice in self.held for text in self.texts(choice).values()]
        return any(text.strip() and not is_complete_json(text) for text in texts)

    def extend(self, text: str) -> bool:
        """Hold `text`, which follows `continued`; return False if it is too large, or so long that it may be split."""
        data = text.encode()
        if self.continued is None or len(data) > min(self._bytes_left, PIECE_CHARS):
            return False
        self.continued += data
        self._bytes_left -= len(data)
        return True

    def add(self, choice: int, call: int, piece: str) -> bytearray:
        """Hold the next piece of a call's arguments. It may be empty. Return them all; raise ArgumentsTooLarge."""
        bytes_left = self._bytes_left
        calls = self.held.get(choice)
        if calls is None:
            calls = self.held[choice] = {}
        held = calls.get(call)
        if held is None:
            held = calls[call] = bytearray()
            bytes_left -= CALL_BYTES
        data = piece.encode("utf-8", "surrogatepass")  # a piece may end inside a surrogate pair
        held += data
        self._bytes_left = bytes_left = bytes_left - len(data)
        if bytes_left < 0:
            raise ArgumentsTooLarge
        return held

    def texts(self, choice: int) -> dict[int, str]:
        """Return the arguments of the choice's calls."""
        return {number: held.decode("utf-8", "surrogatepass") for number, held in self.held.get(choice, {}).items()}

    def drop(self, choice: int) -> None:
        for held in self.held.pop(choice, {}).values():
            self._bytes_left += len(held) + CALL_BYTES


def is_cut(arguments: str, name: str, request: bytes) -> bool:
    """Return whether a call of the function `name` ended inside its arguments.

    Empty ones are complete unless `request`, the body that the upstream received, declares a required parameter.
    """
    return not is_complete_json(arguments) if arguments.strip() else name in _asked(request).with_required


def is_at_limit(request: bytes, usage: Usage | None) -> bool:
    """Return whether an answer has as many tokens as its `request` allows."""
    made = None if usage is None else usage.completion_tokens
    return made is not None and made >= _asked(request).most_tokens


class _Function(msgspec.Struct, frozen=True):
    name: str = ""
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct, frozen=True):
    function: _Function = _Function()


class _Asked(msgspec.Struct, frozen=True):
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    tools: list[_Tool] | None = None

    @property
    def most_tokens(self) -> float:
        stated = (self.max_tokens, self.max_completion_tokens, self.max_output_tokens)
        return min((limit for limit in stated if limit is not None), default=math.inf)

    @property
    def with_required(self) -> frozenset[str]:
        functions = [tool.function for tool in self.tools or ()]
        return frozenset(one.name for one in functions if (one.parameters or {}).get("required"))


_ASKED = msgspec.json.Decoder(_Asked)


def _asked(request: bytes) -> _Asked:
    """Return what a request asks for; nothing if it cannot be read. A finished answer is seldom in doubt."""
    try:
        return _ASKED.decode(request)
    except (ValueError, RecursionError):
        return _Asked()
