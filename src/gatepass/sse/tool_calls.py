"""Assign the tool deltas of a stream to tool calls, and decide whether the arguments of a call are complete.

A call begins with a new index, with a new id, or with a name that comes after whole arguments. Every other name belongs
to the call at its index, or to the last one, and is a piece of its name. The names of the request's tools decide only
what kind of piece.

- The API allows a name in pieces, which SDKs join (Kimi, Gemini).
- Gemini's OpenAI endpoint omits `index` (openai/openai-python#2806).
- Other upstreams send index 0 with every call.
- Others send an id or a name with every delta. Some of them change the id from delta to delta.
- SGLang and older versions of vLLM send null for the id, the type and the name that a delta lacks.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from gatepass.json_body import LENIENT_WORK, RAW, takes_long
from gatepass.sse.asked import Asked
from gatepass.sse.chunk import (
    ARGUMENTS,
    MAX_ENTRIES,
    ArgumentsTooLarge,
    ErrorOf,
    Object,
    arguments_cut,
    arguments_joined,
    text_of_id,
)
from gatepass.sse.synthesize import PIECE_CHARS
from gatepass.sse.usage import Usage
from gatepass.types import Hidden

KEY_CHARS = 256
"""Calls are compared by this many characters of an id, because relays append whole signatures to it, and of a name."""
MARK = "<|"
"""What begins the marks of a model that a server left in a name: `look<|channel|>commentary` (gpt-oss)."""


@dataclass(slots=True)
class ToolCall:
    """One tool call of a choice.

    `number` is 0 for the first call, 1 for the second. `id` is empty if the upstream did not send one yet. `name` is
    what came of the name so far, without marks and at most KEY_CHARS.
    """

    number: int
    id: str
    name: str = ""
    has_marks: bool = False
    """Marks came after the name, so that it is over."""
    has_input: bool = False
    """A part of the input of a custom tool came."""
    is_open: bool = False
    """Its first entry was sent."""
    has_sent_name: bool = False
    waiting: Object | None = None
    """Its entries that were not sent, as one."""
    waiting_chars: int = 0
    repair: str = ""
    """The name of the repair for which they wait."""


def inner_of(entry: Object) -> Object | None:
    """Return the object of an entry with the name and the arguments, or the input of a custom tool."""
    inner = entry.get("function")
    inner = inner if isinstance(inner, dict) else entry.get("custom")
    return inner if isinstance(inner, dict) else None


def has_text(inner: Object) -> bool:
    """Return whether an entry has a part of the arguments."""
    return any(map(inner.get, ARGUMENTS.values()))


class ToolCallTracker:
    """The calls of a choice. `first` is the number of its first call."""

    __slots__ = ("_arguments", "_asked", "_by_id", "_by_index", "_choice", "_first", "calls")

    def __init__(self, asked: Asked, arguments: ArgumentBuffer, choice: int, first: int = 0) -> None:
        self._asked, self._arguments, self._choice, self._first = asked, arguments, choice, first
        self.calls: list[ToolCall] = []
        self._by_index: dict[int, ToolCall] = {}
        self._by_id: dict[str, ToolCall] = {}

    def name(self, number: int) -> str:
        at = number - self._first
        return self.calls[at].name if 0 <= at < len(self.calls) else ""

    def has_arguments(self, call: ToolCall) -> bool:
        return call.has_input or self._arguments.has(self._choice, call.number)

    def may_grow(self, call: ToolCall) -> bool:
        """Return whether the name of `call` is missing, or a later piece may make it that of another tool."""
        if not call.name or call.has_marks or not self._asked.tools.begins(call.name):
            return not call.name
        return not (call.name in self._asked.tools and self.has_arguments(call))

    def assign(self, entry: Object, before: set[int]) -> tuple[ToolCall, bool, str]:
        """Return the call of an entry, whether it is its first one, and the piece that it adds to the call's name.

        `before` has the numbers of the calls with an earlier entry in the same delta.
        """
        index, identity, inner = entry.get("index"), entry.get("id"), inner_of(entry) or {}
        name = inner.get("name")
        # without it openai-python's helper raises TypeError, and openai-node's returns no calls
        if type(index) is not int or index < 0:
            index = None
        elif not (identity or name) and (known := self._by_index.get(index)) is not None:
            return known, False, ""  # fast path: most deltas of a correct stream
        identity = text_of_id(identity)
        name = name if isinstance(name, str) else ""
        own = self._by_id.get(identity[:KEY_CHARS])
        last = self.calls[-1] if self.calls else None
        call = own or (last if index is None else self._by_index.get(index))
        piece: str | None = ""
        if call is None or (identity and own is None and call.id and (name or not has_text(inner))):
            piece = None  # bare arguments belong to the call whose id changes
        elif name:
            is_alone = index is None and not identity and call.number in before
            piece = self._piece(call, name, is_own=own is not None, is_alone=is_alone)
        if len(self.calls) >= MAX_ENTRIES:  # deltas of further calls are assigned to the last one
            return call or self.calls[-1], False, piece or ""
        if call is None or piece is None:
            call = ToolCall(len(self.calls) + self._first, identity)
            self.calls.append(call)
            if identity:
                self._by_id.setdefault(identity[:KEY_CHARS], call)
            if index is not None:
                self._by_index[index] = call
            return call, True, (self._piece(call, name) or "") if name else ""
        if identity and not call.id:
            call.id = identity
            self._by_id.setdefault(identity[:KEY_CHARS], call)
        if index is not None and len(self._by_index) < MAX_ENTRIES:
            self._by_index.setdefault(index, call)
        return call, False, piece

    def _piece(self, call: ToolCall, name: str, *, is_own: bool = False, is_alone: bool = False) -> str | None:
        """Return what `name` adds to the name of `call`; None if it is that of the next call.

        `is_own`: it came with the id of the call. `is_alone`: it is the call's second name in one delta, without index
        and id, and two such entries are two calls unless the names join.
        """
        before, tools = call.name, self._asked.tools
        if before and not is_own and self._arguments.is_whole(self._choice, call.number):
            return None
        if call.has_marks:
            return ""
        joined = (before + name)[:KEY_CHARS]
        is_other = not (joined in tools or tools.begins(joined))
        if before and is_other:
            if name[:KEY_CHARS] == before:
                return None if is_alone else ""
            if name.startswith(before) and (name in tools or tools.begins(name)):
                call.name = name
                return name[len(before) :]
        head, mark, _ = joined.partition(MARK)
        if mark and is_other and head in tools:
            call.name, call.has_marks = head, True
            return head[len(before) :]
        if before and is_other and (is_alone or name in tools or self.has_arguments(call)):
            return "" if is_own else None
        call.name = joined
        return name


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


def arguments_fault(arguments: str) -> ErrorOf:
    """Return the error of arguments that are not complete JSON: they are cut, or more than one value."""
    if len(arguments) <= MOST_HELD_BYTES and not takes_long(arguments.encode("utf-8", "replace"), LENIENT_WORK):
        try:
            json.loads(arguments, strict=False)
        except json.JSONDecodeError as error:
            if error.msg == "Extra data" and arguments[error.pos] in "{[":
                return arguments_joined
        except RecursionError:
            pass
    return arguments_cut


MOST_WAITING_CHARS = 64 * 1024
"""The limit of the arguments and unknown members of a stream that wait for the name of their call."""
_ENDS = (b"}", b"]", b"null")
"""The ends of whole arguments. Others are not looked at, because a name may come with each piece of the arguments."""


class ArgumentBuffer(Hidden, msgspec.Struct, eq=False):
    """The arguments of all tool calls in the open choices of a stream, by choice index and call number."""

    held: dict[int, dict[int, bytearray]] = {}
    continued: bytearray | None = None  # by the last event, and by one that differs from it in their text alone
    waiting_chars: int = 0
    _bytes_left: int = MOST_HELD_BYTES
    _work_left: int = MOST_HELD_BYTES

    @property
    def fault(self) -> ErrorOf | None:
        """The error of the arguments of an open choice that are not complete JSON; None without such."""
        texts = (text for choice in self.held for text in self.texts(choice).values())
        cut = next((text for text in texts if text.strip() and not is_complete_json(text)), None)
        return None if cut is None else arguments_fault(cut)

    def has(self, choice: int, call: int) -> bool:
        """Return whether a part of the call's arguments came that is not blank."""
        held = self.held.get(choice, {}).get(call, b"")
        return held != b"" and not held[:CALL_BYTES].isspace()

    def is_whole(self, choice: int, call: int) -> bool:
        """Return whether the call's arguments are complete. A stream in which that takes long has no whole ones."""
        held = self.held.get(choice, {}).get(call, b"")
        if not held[-CALL_BYTES:].rstrip().endswith(_ENDS) or len(held) > self._work_left:
            return False
        self._work_left -= len(held)
        return is_complete_json(held.decode("utf-8", "surrogatepass"))

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


def is_cut(arguments: str, name: str, asked: Asked) -> bool:
    """Return whether a call of the function `name` ended inside its arguments.

    Empty ones are complete unless the request declares a required parameter.
    """
    return not is_complete_json(arguments) if arguments.strip() else asked.tools.requires_arguments(name)


def is_at_limit(asked: Asked, usage: Usage | None) -> bool:
    """Return whether an answer has as many tokens as its request allows."""
    made = None if usage is None else usage.completion_tokens
    return made is not None and made >= asked.most_tokens
