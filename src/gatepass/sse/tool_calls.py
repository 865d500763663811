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
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from operator import is_not
from typing import Any

import msgspec

from gatepass.json_body import LENIENT_WORK, RAW, takes_long
from gatepass.sse.asked import Asked
from gatepass.sse.chunk import (
    ARGUMENTS,
    MAX_ENTRIES,
    ArgumentsTooLarge,
    EnvelopeDefaults,
    ErrorOf,
    Object,
    argument_text,
    arguments_cut,
    arguments_joined,
    json_text,
    text_of_id,
)
from gatepass.sse.synthesize import PIECE_CHARS
from gatepass.sse.usage import Usage
from gatepass.types import Hidden

TOOL_INDEX, TOOL_ID, TOOL_NAME = "repair=tool-index", "repair=tool-id", "repair=tool-name"
TOOL_TYPE, TOOL_ARGUMENTS = "repair=tool-type", "repair=tool-arguments"
"""Tool deltas get a missing index, id and type, lose a repeated or empty one, and have text as arguments: `{}` for
none.

A name in pieces is sent once, without marks of the model. Entries that are no objects are removed, and a list without
calls. In a whole reply an entry that is no call is removed too.
"""

OnRepair = Callable[[str], None]

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
    is_named: bool = False
    """So it is, because nothing of it can follow its last entry."""
    is_repeated: bool = False
    """Its name alone came again behind whole arguments: the next ones are those of another call."""
    has_input: bool | None = None
    """A part of the input of a custom tool came; None for a function."""
    is_open: bool = False
    """Its first entry was sent."""
    passes: bool = False
    """So was its name. Later entries pass."""
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


def type_of(entry: Object) -> str:
    """Return the type that an entry names; `function` if it names none, or its type is no text."""
    kind = entry.get("type")
    return kind if kind and isinstance(kind, str) else "function"


def has_text(inner: Object) -> bool:
    """Return whether an entry has a part of the arguments."""
    return any(inner.get(name) not in (None, "") for name in ARGUMENTS.values())


MOST_HELD_BYTES = 4 * 1024 * 1024
"""The limit of what is held for the arguments of one stream, or of a reply that is repaired."""
CALL_BYTES = 256
"""The estimated memory of one held call without its arguments."""


_VALUE = re.compile(r'[\[{"\d-]|true|false|null')
"""The beginning of a JSON value."""


def arguments_fault(arguments: str) -> ErrorOf | None:
    """Return the error of arguments that the parser of no client reads: they are cut, or several values.

    Parsers accept NaN, half of a surrogate pair and a line end in a text.
    """
    text = arguments.encode("utf-8", "replace")  # half a pair is no fault of the JSON
    with suppress(msgspec.DecodeError, RecursionError):
        RAW.decode(text)
        return None
    if len(text) <= MOST_HELD_BYTES and not takes_long(text, LENIENT_WORK):
        try:
            json.loads(text, strict=False)
        except json.JSONDecodeError as error:
            if error.msg == "Extra data" and _VALUE.match(error.doc, error.pos):
                return arguments_joined
        except (ValueError, RecursionError):
            pass
        else:
            return None
    return arguments_cut


def is_complete_json(arguments: str) -> bool:
    return arguments_fault(arguments) is None


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

    def fault(self, choices: Iterable[int]) -> ErrorOf | None:
        """Return the error of arguments of `choices` that are not complete JSON; None without such."""
        texts = (text for choice in choices for text in self.texts(choice).values())
        return next((fault for text in texts if text.strip() and (fault := arguments_fault(text))), None)

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
    return not is_complete_json(arguments) if arguments.strip() else asked.requires_arguments(name)


def is_at_limit(asked: Asked, usage: Usage | None) -> bool:
    """Return whether an answer has as many tokens as its request allows."""
    made = None if usage is None else usage.completion_tokens
    return made is not None and made >= asked.most_tokens


# --- the repair ------------------------------------------------------------------------------------


class ToolRepair:
    """Repairs the tool calls of a choice. `first` is the number of its first call.

    The first entry of a call is sent when its name can grow no more, in the order in which the calls began.
    """

    __slots__ = ("_arguments", "_by_id", "_by_index", "_calls", "_choice", "_defaults", "_first", "_next", "_ready")

    def __init__(self, defaults: EnvelopeDefaults, arguments: ArgumentBuffer, choice: int, first: int = 0) -> None:
        self._defaults, self._arguments, self._choice, self._first = defaults, arguments, choice, first
        self._calls: list[ToolCall] = []
        self._by_index: dict[int, ToolCall] = {}
        self._by_id: dict[str, ToolCall] = {}
        self._next, self._ready = 0, first - 1

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def lacks_input(self) -> bool:
        """Whether a custom call has none. It is free text, so only an empty one is known to be incomplete."""
        return any(call.has_input is False for call in self._calls)

    def name(self, number: int) -> str:
        at = number - self._first
        return self._calls[at].name if 0 <= at < len(self._calls) else ""

    def repair(self, entries: list[Any], on_repair: OnRepair, *, is_named: bool = False) -> bool:
        """Repair the entries of a delta in place. Return whether they only continue the arguments of calls.

        `is_named`: no name in it can grow, so that its calls wait for no piece of one.
        """
        continues, sent = True, list[Object]()
        for entry in entries:
            if not isinstance(entry, dict):
                on_repair(TOOL_ARGUMENTS)
                continues = False
                continue
            call, piece = self._assign(entry)
            number, call.is_named = call.number, is_named
            inner, passes, is_first = inner_of(entry), call.passes, not call.is_open and call.waiting is None
            is_text = inner is not None and not inner.get("name") and type(inner.get("arguments")) is str
            continues = continues and passes and is_text and not entry.get("id")
            if entry.get("index") != number or type(entry["index"]) is not int:
                entry["index"] = number
                on_repair(TOOL_INDEX)
            if not is_first:
                _take_out_absent(entry, on_repair)
            if call.is_open:
                _take_out(entry, "id", on_repair, TOOL_ID)
            if inner is not None and not piece:
                _take_out(inner, "name", on_repair, TOOL_NAME)
            elif inner is not None and inner.get("name") != piece:
                inner["name"] = piece
                on_repair(TOOL_NAME)
            if inner is not None:
                self._hold(entry, inner, call, on_repair)
            elif is_first and type_of(entry) == "function":
                self._arguments.add(self._choice, number, "")
            sent += (entry,) if passes else self._wait(entry, call, on_repair)
        if len(sent) != len(entries) or any(map(is_not, sent, entries)):
            entries[:] = sent
        return continues

    def take_rest(self, on_repair: OnRepair) -> list[Object]:
        """Return what waits, at the end of the choice."""
        return [self._take(call, call.waiting, on_repair) for call in self._calls if call.waiting is not None]

    # --- which call, and what of its name ---

    def _has_arguments(self, call: ToolCall) -> bool:
        return bool(call.has_input) or self._arguments.has(self._choice, call.number)

    def _assign(self, entry: Object) -> tuple[ToolCall, str]:
        """Return the call of an entry, and the piece that it adds to the call's name."""
        index, identity, inner = entry.get("index"), entry.get("id"), inner_of(entry) or {}
        name = inner.get("name")
        # without it openai-python's helper raises TypeError, and openai-node's returns no calls
        if type(index) is not int or index < 0:
            index = None
        elif not (identity or name) and (known := self._by_index.get(index)) is not None and not known.is_repeated:
            return known, ""  # fast path: most deltas of a correct stream
        identity = text_of_id(identity)
        name = name if isinstance(name, str) else ""
        own = self._by_id.get(identity[:KEY_CHARS])
        last = self._calls[-1] if self._calls else None
        call = own or (last if index is None else self._by_index.get(index))
        piece: str | None = ""
        if call is None or (identity and own is None and call.id and (name or not has_text(inner))):
            piece = None  # bare arguments belong to the call whose id changes
        elif name:
            piece = self._piece(call, name, is_own=own is not None)
            if piece is None and name == call.name and not (identity or has_text(inner)):
                call.is_repeated, piece = True, ""
        elif call.is_repeated and has_text(inner):
            piece, name = None, call.name
        if last is not None and len(self._calls) >= MAX_ENTRIES:  # deltas of further calls are assigned to the last one
            return call or last, piece or ""
        if call is None or piece is None:
            call = ToolCall(len(self._calls) + self._first, "")
            self._calls.append(call)
            if index is not None:
                self._by_index[index] = call
            piece = self._piece(call, name) if name else ""
        if identity and not call.id:
            call.id = identity
            self._by_id.setdefault(identity[:KEY_CHARS], call)
        if index is not None and len(self._by_index) < MAX_ENTRIES:
            self._by_index.setdefault(index, call)
        return call, piece or ""

    def _piece(self, call: ToolCall, name: str, *, is_own: bool = False) -> str | None:
        """Return what `name` adds to the name of `call`; None if it is that of the next call.

        `is_own`: it came with the id of the call.
        """
        before, asked = call.name, self._defaults.asked
        tools, may_become = asked.tools, asked.is_beginning
        if before and not is_own and self._arguments.is_whole(self._choice, call.number):
            return None
        joined, tool = (before + name)[:KEY_CHARS], name.partition(MARK)[0]
        if call.has_marks or not (joined in tools or may_become(joined)):
            if before and before in (name[:KEY_CHARS], tool):
                return ""
            if before and not call.has_marks and name.startswith(before) and (name in tools or may_become(name)):
                call.name = name
                return name[len(before) :]
            head, mark, _ = joined.partition(MARK)
            if mark and head in tools and not call.has_marks:
                call.name, call.has_marks = head, True
                return head[len(before) :]
            if before and (tool in tools or self._has_arguments(call)):
                return "" if is_own else None
            if call.has_marks:
                return ""
        call.name = joined
        return name

    # --- what waits ---

    def _hold(self, entry: Object, inner: Object, call: ToolCall, on_repair: OnRepair) -> None:
        """Hold the arguments of an entry as text, which SDKs join with those of all deltas."""
        kind = "function" if inner is entry.get("function") else "custom"
        text = inner.get(ARGUMENTS[kind])
        if text is not None and not isinstance(text, str):
            inner[ARGUMENTS[kind]] = text = argument_text(text)
            on_repair(TOOL_ARGUMENTS)
        if kind == "function":
            self._arguments.continued = self._arguments.add(self._choice, call.number, text or "")
        else:
            call.has_input = bool(call.has_input or text)

    def _wait(self, entry: Object, call: ToolCall, on_repair: OnRepair) -> Iterator[Object]:
        """Let `entry` wait with those of its call, and yield what can be sent now."""
        if call.waiting is None:
            call.waiting = entry
        else:
            _join(call.waiting, entry)
        yield from self._take_due(call, on_repair)
        if call.waiting is not None:
            call.repair = call.repair or (TOOL_NAME if call.id else TOOL_ID)
            on_repair(call.repair)
            chars = len(json_text(entry))
            call.waiting_chars += chars
            self._arguments.waiting_chars += chars
            yield from self._take_due(call, on_repair)

    def _take_due(self, call: ToolCall, on_repair: OnRepair) -> Iterator[Object]:
        """Yield the first entries of the calls that wait for nothing more. `call` is the one that was continued."""
        if self._is_due(call):
            self._ready = max(self._ready, call.number)
            if call.is_open and call.waiting is not None:
                yield self._take(call, call.waiting, on_repair)
        while self._next < len(self._calls) and self._is_due(call := self._calls[self._next]):
            self._next += 1
            if call.waiting is not None:
                yield self._take(call, call.waiting, on_repair)

    def _is_due(self, call: ToolCall) -> bool:
        asked, entry, has_arguments = self._defaults.asked, call.waiting or {}, self._has_arguments(call)
        is_other = inner_of(entry) is None and type_of(entry) not in ARGUMENTS
        if (call.is_named and call.id) or is_other or self._arguments.waiting_chars > MOST_WAITING_CHARS:
            return True
        if call.name and not call.has_marks and asked.is_beginning(call.name):
            return has_arguments and call.name in asked.tools
        # a later call does not wait for a name or an id that may never come
        yields = call.number < self._ready and not has_arguments
        return yields or (call.name != "" and (call.id != "" or has_arguments))

    def _take(self, call: ToolCall, entry: Object, on_repair: OnRepair) -> Object:
        self._arguments.waiting_chars -= call.waiting_chars
        call.waiting, call.waiting_chars = None, 0
        if call.repair:
            on_repair(call.repair)
        if not call.is_open:
            self._open(entry, call, on_repair)
        call.is_open, call.passes = True, call.name != "" or entry.get("type") not in ARGUMENTS
        return entry

    def _open(self, entry: Object, call: ToolCall, on_repair: OnRepair) -> None:
        if not call.id:
            call.id = self._defaults.new_id("call_")
        if entry.get("id") != call.id:
            entry["id"] = call.id
            on_repair(TOOL_ID)
        call.id = call.id[:KEY_CHARS]  # the whole id is sent and no longer needed
        # The content decides the type. An unknown type stays, because there may be new ones
        kind = next((kind for kind in ARGUMENTS if isinstance(entry.get(kind), dict)), type_of(entry))
        if entry.get("type") != kind:
            entry["type"] = kind
            on_repair(TOOL_TYPE)


def _take_out(owner: Object, member: str, on_repair: OnRepair, name: str) -> None:
    """Remove an id or a name that is repeated: SDKs join those of all entries."""
    if member in owner:
        del owner[member]
        on_repair(name)


def _take_out_absent(entry: Object, on_repair: OnRepair) -> None:
    """Remove an id and a type that are empty, or no text. An id may be a number."""
    if not text_of_id(entry.get("id")):
        _take_out(entry, "id", on_repair, TOOL_ID)
    if not (entry.get("type") and isinstance(entry["type"], str)):
        _take_out(entry, "type", on_repair, TOOL_TYPE)


def _join(first: Object, entry: Object) -> None:
    """Add a later entry of a call to its first one, as SDKs do."""
    for name, value in entry.items():
        before = first.get(name)
        if name in ARGUMENTS and isinstance(before, dict) and isinstance(value, dict):
            for member, text in value.items():
                has_both = isinstance(before.get(member), str) and isinstance(text, str)
                before[member] = before[member] + text if has_both else before.get(member) if text is None else text
        else:
            first[name] = value


FUNCTION_CALL = -1
"""The number of the legacy `function_call` among the calls of its choice."""


def of_function(on_repair: OnRepair) -> OnRepair:
    """Return what notes the repairs of a `function_call`, which has no id."""
    return lambda name: on_repair(name) if name in (TOOL_NAME, TOOL_ARGUMENTS) else None
