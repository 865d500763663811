"""Repairs of one choice of a chunk: its tool deltas, its finish reason, and texts that repeat what came before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal

from gatepass.sse.chunk import (
    REASONING_MEMBERS,
    EnvelopeDefaults,
    Object,
    finish_reason,
    has_content,
    has_output,
    json_text,
)
from gatepass.sse.tool_calls import KEY_CHARS, ToolCallDelta, ToolCallTracker, is_complete_json

WRAPPED, MESSAGE, EMPTY_CHOICES = "repair=wrapped", "repair=message", "repair=choices"
ENVELOPE, ONE_ID, DELTA = "repair=envelope", "repair=one-id", "repair=delta"
ROLE, FINISH, USAGE, INDEX = "repair=role", "repair=finish", "repair=usage", "repair=index"
TOOL_INDEX, TOOL_ID, TOOL_NAME, TOOL_TYPE = (
    "repair=tool-index",
    "repair=tool-id",
    "repair=tool-name",
    "repair=tool-type",
)
TOOL_ARGUMENTS, SPLIT, CUMULATIVE = "repair=tool-arguments", "repair=split", "repair=cumulative"
ADDED_FINISH = "repair=added-finish"
NAMES = (
    *(WRAPPED, MESSAGE, EMPTY_CHOICES, ENVELOPE, ONE_ID, INDEX, DELTA, ROLE, FINISH, USAGE),
    *(TOOL_INDEX, TOOL_ID, TOOL_NAME, TOOL_TYPE, TOOL_ARGUMENTS, SPLIT, CUMULATIVE, ADDED_FINISH),
)
"""What may be repaired. Wrapped: `{"code": 0, "data": {chunk}}` is unwrapped. Message: a chunk with
`message` in place of `delta`, or a whole completion in one event, becomes deltas. Choices: what comes
with `choices` empty, null or missing moves into the next chunk, or is left out where it says nothing.
Envelope: id, object, created and model are filled in from the first chunk that has them; one-id gives
all chunks the first one's. Index: a choice without one gets its place. Delta: a null or missing one
becomes `{}`, a first one with the role alone gets `content: ""`. Role: told once, never empty. Finish:
an empty reason is null, `stop` after tool calls is `tool_calls`. Usage: once, and in a chunk of its own
where the client asked for it. Tool deltas get the index, the id and the type they lack, lose the id and
the name they repeat, and have text for arguments. Split: a finish reason comes in a chunk of its own.
Cumulative: texts that repeat all that came before are cut down to what is new. Added finish: a choice that has no
finish reason when `[DONE]` comes gets one in a chunk of its own (see `ChoiceRepair.reason_at_end`)."""


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """`include_usage` is what the client asked for; None leaves the usage as the upstream sends it, for a
    client that asked for more of it (vLLM's `continuous_usage_stats`).

    `drops_usage`: where the client asked for none, none is sent, not even beside the last finish reason.
    `without_choices` says what becomes of extras that come without choices, such as the
    `prompt_filter_results` in Azure's first chunk: clients that look at `choices[0]` fail there.
    `splits_finish`, `cumulative` and `one_id` are for clients and upstreams known to need them.
    """

    include_usage: bool | None = False
    without_choices: Literal["move", "keep", "drop"] = "move"
    splits_finish: bool = False
    cumulative: bool = False
    one_id: bool = False
    drops_usage: bool = False


TEXT_REASONS = frozenset({"stop", "length", "content_filter"})
CHAT_REASONS = TEXT_REASONS | {"tool_calls", "function_call"}
NATIVE = "native_finish_reason"
"""Where the upstream's own word stays; OpenRouter calls it so."""

_WHOLE = ("eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete", "completed", "finished")
_CUT = (
    *("max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded", "pause_turn"),
    *("insufficient_system_resource", "abort", "error", "network_error", "cancelled", "malformed_function_call"),
)
_FILTERED = (
    *("safety", "recitation", "sensitive", "blocklist", "prohibited_content", "spii", "refusal"),
    *("content_filtered", "guardrail_intervened"),
)
_MEANT: Mapping[str, str] = MappingProxyType(
    {
        **{reason: reason for reason in CHAT_REASONS},
        **dict.fromkeys(_WHOLE, "stop"),
        **dict.fromkeys(_CUT, "length"),
        **dict.fromkeys(_FILTERED, "content_filter"),
        "tool_use": "tool_calls",
    }
)
"""The words of Anthropic, Bedrock, Cohere, Gemini, Mistral, DeepSeek, Zhipu, vLLM and SGLang. What broke off by itself
is cut short: `stop` would call it whole. So would it many a word that is not known here, which stays as it is."""


def chat_reason(payload: Any, *, has_tools: bool, has_function: bool) -> str:
    """What a chat's choice ends with that says `payload`, and calls tools or the one function of old."""
    if not (payload and isinstance(payload, str)):
        return "tool_calls" if has_tools else "function_call" if has_function else "stop"
    reason = _MEANT.get(payload.lower(), payload)
    return "tool_calls" if has_tools and reason == "stop" else reason


def text_reason(payload: Any) -> str:
    """What a choice of `/v1/completions` ends with that says `payload`. A text calls nothing."""
    reason = chat_reason(payload, has_tools=False, has_function=False)
    return "stop" if reason in CHAT_REASONS and reason not in TEXT_REASONS else reason


def native_of(payload: Any, *, is_text: bool) -> str | None:
    """The word `payload` that no type of OpenAI's knows, where another one stands in its place."""
    known = TEXT_REASONS if is_text else CHAT_REASONS
    return payload if payload and isinstance(payload, str) and payload not in known else None


OnRepair = Callable[[str], None]


MAX_ARGUMENT_BYTES = 1_048_576
"""So much of one stream's arguments is held until its choices end. Whether longer ones are whole is not known."""
CALL_BYTES = 256
"""What holding one call costs beside its arguments."""


class ArgumentBuffer:
    """What the calls of a stream's open choices are called with, by the numbers of the choice and of the call."""

    __slots__ = ("_held", "_left_bytes")

    def __init__(self) -> None:
        self._held: dict[int, dict[int, bytearray]] = {}
        self._left_bytes = MAX_ARGUMENT_BYTES

    def add(self, choice: int, call: int, piece: str) -> None:
        """Hold the next piece of a call's arguments; the first one may be empty."""
        left_bytes = self._left_bytes
        if left_bytes < 0:
            return
        calls = self._held.get(choice)
        if calls is None:
            calls = self._held[choice] = {}
        held = calls.get(call)
        if held is None:
            held = calls[call] = bytearray()
            left_bytes -= CALL_BYTES
        data = piece.encode("utf-8", "surrogatepass")
        self._left_bytes = left_bytes = left_bytes - len(data)
        if left_bytes < 0:
            self._held.clear()
        else:
            held += data

    def are_whole(self, choice: int) -> bool:
        """Whether each call of the choice has arguments that are whole JSON."""
        texts = (held.decode("utf-8", "surrogatepass") for held in self._held.get(choice, {}).values())
        return self._left_bytes >= 0 and all(map(is_complete_json, texts))

    def drop(self, choice: int) -> None:
        """Forget the calls of a choice that has ended."""
        for held in self._held.pop(choice, {}).values():
            self._left_bytes += len(held) + CALL_BYTES


class ToolRepair:
    """The tool deltas of one choice."""

    __slots__ = ("_arguments", "_calls", "_choice", "_named", "_origin", "_silent")

    def __init__(self, defaults: EnvelopeDefaults, arguments: ArgumentBuffer, choice: int) -> None:
        self._origin = defaults
        self._arguments = arguments
        self._choice = choice
        self._calls = ToolCallTracker()
        self._named: set[int] = set()
        self._silent: set[int] = set()
        """Custom calls without input. What they are called with is text: whether it is whole, no text tells."""

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def are_whole(self) -> bool:
        """Whether all calls have what they are called with, as far as that can be known."""
        return not self._silent and self._arguments.are_whole(self._choice)

    def mend(self, entries: list[Any], on_repair: OnRepair) -> None:
        """Mend the entries of one delta in place, and tell `on_repair` what was wrong with them."""
        for piece in self._calls.assign(entries):
            payload, number = piece.entry, piece.call.number
            if payload.get("index") != number or type(payload["index"]) is not int:
                payload["index"] = number
                on_repair(TOOL_INDEX)
            if piece.is_first:
                self._open(piece, on_repair)
            elif payload.get("id"):
                del payload["id"]
                on_repair(TOOL_ID)
            inner = payload.get("function")
            if isinstance(inner, dict):
                self._mend_function(inner, number, on_repair)
            elif isinstance(inner := payload.get("custom"), dict):
                if inner.get("input"):
                    self._silent.discard(number)
                elif piece.is_first:
                    self._silent.add(number)
            elif piece.is_first:
                self._arguments.add(self._choice, number, "")

    def _open(self, piece: ToolCallDelta, on_repair: OnRepair) -> None:
        payload, call = piece.entry, piece.call
        if not call.id:
            call.id = self._origin.new_id("call_")
        if payload.get("id") != call.id:
            payload["id"] = call.id
            on_repair(TOOL_ID)
        call.id = call.id[:KEY_CHARS]
        if not payload.get("type"):
            payload["type"] = "custom" if isinstance(payload.get("custom"), dict) else "function"
            on_repair(TOOL_TYPE)

    def _mend_function(self, inner: Object, number: int, on_repair: OnRepair) -> None:
        if inner.get("name"):
            if number in self._named:
                del inner["name"]
                on_repair(TOOL_NAME)
            self._named.add(number)
        arguments = inner.get("arguments")
        if arguments is not None and not isinstance(arguments, str):
            inner["arguments"] = arguments = json_text(arguments).decode()
            on_repair(TOOL_ARGUMENTS)
        self._arguments.add(self._choice, number, arguments or "")


EVIDENCE = 2
MIN_CHARS = 8
"""A text is evidence when it begins with all that came before, is longer, and that was this long at
least: a plain stream may repeat a syllable, but no phrase twice in growing form."""

MAX_TEXTS = 64
MAX_HELD = 64
MAX_HELD_BYTES = 1_048_576
MAX_CHARS = 16_777_216
"""What may be kept: texts that are watched, chunks that wait (ten are as many as one text needs), and
how much of one text is remembered after it has once broken its own rule."""

_FIELDS = ("content", "reasoning_content", "reasoning")


class TextKind(Enum):
    OPEN = "open"
    PLAIN = "plain"
    CUMULATIVE = "cumulative"


@dataclass(slots=True)
class PendingChunk:
    """One chunk on its way, and the event that it came in; `has_changed`: it is to be written anew."""

    block: bytes
    said: Object
    has_changed: bool = False


@dataclass(slots=True)
class _Text:
    """One text of one choice: what was said of it so far, and what is known of its kind."""

    name: str
    so_far: str = ""
    kind: TextKind = TextKind.OPEN
    matches: int = 0
    waiting: list[tuple[PendingChunk, Object, str]] = field(default_factory=list)
    """Deltas that were not let go yet, each with what is new in it if the text is cumulative."""

    def take(self, item: PendingChunk, delta: Object, value: str) -> bool:
        """Note the next piece, and cut it where the kind is known; whether anything was cut."""
        if self.kind is TextKind.CUMULATIVE:
            return self._cut(item, delta, self._new_part(value))
        if self.so_far and not (len(value) > len(self.so_far) and value.startswith(self.so_far)):
            return self.decide(TextKind.PLAIN)
        if self.so_far:
            self.waiting.append((item, delta, value[len(self.so_far) :]))
            self.matches += len(self.so_far) >= MIN_CHARS
        self.so_far = value
        return self.matches >= EVIDENCE and self.decide(TextKind.CUMULATIVE)

    def decide(self, kind: TextKind) -> bool:
        """Settle what the text is, and cut what waited if it is cumulative."""
        self.kind = kind
        waiting, self.waiting = self.waiting, []
        if kind is TextKind.PLAIN:
            self.so_far = ""
            return False
        for item, delta, part in waiting:
            self._cut(item, delta, part)
        return True

    def _cut(self, item: PendingChunk, delta: Object, part: str) -> bool:
        item.has_changed = True
        delta[self.name] = part
        return True

    def _new_part(self, value: str) -> str:
        """What `value` adds. One that does not begin with the text so far adds all of itself: what went
        out cannot be taken back."""
        if value.startswith(self.so_far):
            part, self.so_far = value[len(self.so_far) :], value
            return part
        if self.so_far.startswith(value):
            return ""
        self.so_far += value
        if len(self.so_far) > MAX_CHARS:
            self.decide(TextKind.PLAIN)
        return value


class CumulativeTextRepair:
    """Cuts cumulative texts down to what is new, each text of each choice by itself.

    It begins only when there is evidence for it; until then a chunk that may be the second, third or
    fourth of a cumulative text waits. At the end of a stream one match is evidence enough if nothing
    spoke against it.
    """

    __slots__ = ("_held", "_held_bytes", "_note", "_texts")

    def __init__(self, on_repair: OnRepair) -> None:
        self._note = on_repair
        self._texts: dict[tuple[int, str], _Text] = {}
        self._held: list[PendingChunk] = []
        self._held_bytes = 0

    @property
    def is_settled(self) -> bool:
        """Whether every text that has come is known to be a plain one."""
        return all(text.kind is TextKind.PLAIN for text in self._texts.values())

    def feed(self, item: PendingChunk) -> list[PendingChunk]:
        """The chunks that may go on now, in their order."""
        for index, delta, name in _texts(item.said):
            text = self._texts.get((index, name))
            if text is None:
                if len(self._texts) >= MAX_TEXTS:
                    continue
                text = self._texts[index, name] = _Text(name)
            if text.kind is not TextKind.PLAIN and text.take(item, delta, delta[name]):
                self._note(CUMULATIVE)
        self._held.append(item)
        self._held_bytes += len(item.block)
        if len(self._held) > MAX_HELD or self._held_bytes > MAX_HELD_BYTES:
            self._settle(EVIDENCE)
        return [] if any(text.waiting for text in self._texts.values()) else self._release()

    def finish(self) -> list[PendingChunk]:
        """All that waits."""
        self._settle(evidence=1)
        return self._release()

    def _settle(self, evidence: int) -> None:
        for text in self._texts.values():
            if text.waiting and text.decide(TextKind.CUMULATIVE if text.matches >= evidence else TextKind.PLAIN):
                self._note(CUMULATIVE)

    def _release(self) -> list[PendingChunk]:
        held, self._held, self._held_bytes = self._held, [], 0
        return held


def _texts(payload: Object) -> Iterator[tuple[int, Object, str]]:
    """The choice's index, the delta and the name of each text in a chunk that was mended before."""
    for choice in payload["choices"]:
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(delta, dict):
            index = choice.get("index")
            for name in _FIELDS:
                if delta.get(name) and isinstance(delta[name], str):
                    yield index if type(index) is int else 0, delta, name


class ChoiceRepair:
    """What one choice of a stream has told so far, and how its next piece is mended."""

    __slots__ = (
        "_arguments",
        "_has_begun",
        "_has_content",
        "_has_deltas",
        "_has_function",
        "_has_role",
        "_index",
        "_origin",
        "_stopped",
        "_tools",
        "has_finished",
    )

    def __init__(self, defaults: EnvelopeDefaults, arguments: ArgumentBuffer, index: int) -> None:
        self._origin = defaults
        self._arguments = arguments
        self._index = index
        self._tools: ToolRepair | None = None
        self._has_begun = self._has_deltas = self._has_role = self._has_content = self._has_function = False
        self.has_finished = self._stopped = False

    @property
    def is_empty(self) -> bool:
        """Whether it ended with `stop` and has no content."""
        return self._stopped and not self._has_content

    def note_whole(self, payload: Object) -> None:
        """Note a piece of a choice that needs no repair, because gatepass wrote it."""
        self._has_content = self._has_content or has_content(payload)
        self._note_end(finish_reason(payload))

    def _note_end(self, reason: str) -> None:
        if reason:
            self.has_finished = True
            self._stopped = reason == "stop"

    def reason_at_end(self) -> str | None:
        """The finish reason of a choice that has none when `[DONE]` comes; None where it must not look complete.

        Without content, or with arguments that are not whole JSON, it was cut. openai-node, the AI SDK and the tool
        loops of others fail without a reason, or stop.
        """
        if not self._has_content or not self._arguments.are_whole(self._index):
            return None
        if self._tools:
            return "tool_calls" if self._tools.are_whole else None
        return "function_call" if self._has_function else "stop"

    def mend(self, payload: Object, on_repair: OnRepair) -> bool:
        """Mend one piece in place. True if nothing but the text of a piece like it could matter."""
        delta, had_content = payload.get("delta"), self._has_content
        if type(delta) is dict:
            self._has_content = had_content or has_content(payload)
            self._has_deltas = self._has_deltas or (self._has_content and not had_content) or has_output(payload)
        else:
            delta = self._delta(payload, on_repair)
            self._has_content = had_content or has_content(payload)
        is_plain = delta is None or self._mend_delta(delta, on_repair)
        if not self._has_content:
            is_plain = is_plain and _may_not_hold(payload, delta)
        if payload.get("finish_reason") == "":
            payload["finish_reason"] = None
            on_repair(FINISH)
        elif reason := finish_reason(payload):
            is_plain = False
            self._arguments.drop(self._index)
            self._mend_reason(payload, reason, on_repair)
            self._note_end(finish_reason(payload))
        return is_plain

    def _mend_reason(self, payload: Object, reason: str, on_repair: OnRepair) -> None:
        is_text = "text" in payload and "delta" not in payload
        has_tools = self._tools is not None
        meant = text_reason(reason) if is_text else chat_reason(reason, has_tools=has_tools, has_function=False)
        if meant == reason:
            return
        if (native := native_of(reason, is_text=is_text)) is not None:
            payload.setdefault(NATIVE, native)
        payload["finish_reason"] = meant
        on_repair(FINISH)

    def _delta(self, payload: Object, on_repair: OnRepair) -> Object | None:
        """The delta of a piece that has none; None for a piece of `/v1/completions`, which needs none.

        A message after deltas, or after the end, repeats what was said: it says nothing new.
        """
        message = payload.pop("message", None)
        if isinstance(message, dict):
            on_repair(MESSAGE)
            delta = {} if self._has_deltas or self.has_finished else message
        elif "text" in payload:
            return None
        else:
            on_repair(DELTA)
            delta = {}
        payload["delta"] = delta
        return delta

    def _mend_delta(self, delta: Object, on_repair: OnRepair) -> bool:
        is_plain = True
        if "role" in delta:
            is_plain = self._mend_role(delta, on_repair)
        if not self._has_begun and delta:
            self._has_begun = True
            if delta.keys() == {"role"}:
                delta["content"] = ""
                on_repair(DELTA)
        calls = delta.get("tool_calls")
        if calls and isinstance(calls, list):
            is_plain = False
            if self._tools is None:
                self._tools = ToolRepair(self._origin, self._arguments, self._index)
            self._tools.mend(calls, on_repair)
        function = delta.get("function_call")
        if not function:
            return is_plain
        if isinstance(function, dict):
            self._has_function = True
            arguments = function.get("arguments")
            self._arguments.add(self._index, _FUNCTION, arguments if isinstance(arguments, str) else "")
        return False

    def _mend_role(self, delta: Object, on_repair: OnRepair) -> bool:
        """openai-python's helper joins the roles of all deltas to `assistantassistant…`."""
        role = delta["role"]
        if role is None:
            return True
        if role and not self._has_role:
            self._has_role = True
        elif role == "" and not self._has_begun:
            self._has_role = True
            delta["role"] = "assistant"
            on_repair(ROLE)
        else:
            del delta["role"]
            on_repair(ROLE)
        return False


_FUNCTION = -1
"""The number of the one function of old among the calls of its choice."""


def _may_not_hold(payload: Object, delta: Object | None) -> bool:
    """Whether no piece that differs from this one, which has no content, in its texts alone has some."""
    texts = [payload.get("text")] if delta is None else [delta[name] for name in delta.keys() - REASONING_MEMBERS]
    return not any(isinstance(text, str) for text in texts)
