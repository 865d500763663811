"""Repair the choices of a chunk: deltas, roles, finish reasons, tool calls and cumulative texts.

repair.py applies these repairs to a whole stream, whole_reply.py applies the same rules to a plain reply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from gatepass.sse.chunk import (
    REASONING,
    REASONING_MEMBERS,
    EnvelopeDefaults,
    Object,
    argument_text,
    completed_reason,
    finish_reason,
    has_content,
    has_output,
)
from gatepass.sse.tool_calls import KEY_CHARS, ToolCallDelta, ToolCallTracker, is_complete_json

# The names of the repairs, as they appear in x-gatepass-adapted

WRAPPED = "repair=wrapped"
"""`{"code": 0, "data": {chunk}}` of corporate gateways is unwrapped."""
MESSAGE = "repair=message"
"""A chunk with `message` instead of `delta`, or a whole completion in one event, becomes deltas."""
EMPTY_CHOICES = "repair=choices"
"""The other members of a chunk without choices, such as Azure's first one, move into the next chunk."""
ENVELOPE = "repair=envelope"
"""Missing id, object, created and model are copied from the first chunk that has them. Azure's first chunk has none."""
ONE_ID = "repair=one-id"
"""All chunks get the id of the first one."""
INDEX = "repair=index"
"""A choice without an index gets its position."""
DELTA = "repair=delta"
"""A null or missing delta becomes `{}`; a first one with only a role gets `content: ""`.

Azure's asynchronous filter sends a last choice without a delta. Spring AI fails at a first delta without content.
"""
ROLE = "repair=role"
"""The role is sent once and is never empty. RAGFlow sends it in every chunk, MiniMax an empty one."""
FINISH = "repair=finish"
"""An empty finish reason becomes null (Ollama, SGLang), `stop` after tool calls becomes `tool_calls` (Gemini)."""
USAGE = "repair=usage"
"""Usage is sent once, and in a separate chunk if the client requested it."""
TOOL_INDEX, TOOL_ID, TOOL_NAME = "repair=tool-index", "repair=tool-id", "repair=tool-name"
TOOL_TYPE, TOOL_ARGUMENTS = "repair=tool-type", "repair=tool-arguments"
"""Tool deltas get a missing index, id and type, lose a repeated id and name, and have text as arguments."""
SPLIT = "repair=split"
"""A finish reason is sent in a separate chunk."""
CUMULATIVE = "repair=cumulative"
"""Texts that repeat all earlier text are cut to the new part."""
ADDED_FINISH = "repair=added-finish"
"""A choice without a finish reason at `[DONE]` gets one in a separate chunk: see `ChoiceRepair.reason_at_end`."""

NAMES = (
    *(WRAPPED, MESSAGE, EMPTY_CHOICES, ENVELOPE, ONE_ID, INDEX, DELTA, ROLE, FINISH, USAGE),
    *(TOOL_INDEX, TOOL_ID, TOOL_NAME, TOOL_TYPE, TOOL_ARGUMENTS, SPLIT, CUMULATIVE, ADDED_FINISH),
)

OnRepair = Callable[[str], None]


class RepairOptions(msgspec.Struct, frozen=True):
    """The repairs that depend on the client or the upstream."""

    include_usage: bool | None = False
    """What the client requested. None leaves the usage unchanged, for vLLM's `continuous_usage_stats`."""
    without_choices: Literal["move", "keep", "drop"] = "move"
    """The treatment of members in chunks without choices, such as `prompt_filter_results` in Azure's first chunk:
    clients that read `choices[0]` fail at such a chunk."""
    splits_finish: bool = False
    cumulative: bool = False
    one_id: bool = False
    drops_usage: bool = False
    """Without a request for usage none is sent, not even with the last finish reason."""


class ChoiceRepair:
    """The state of one choice of a stream, and the repair of its next delta."""

    __slots__ = (
        "_arguments",
        "_defaults",
        "_has_content",
        "_has_deltas",
        "_has_function",
        "_has_role",
        "_has_started",
        "_index",
        "_stopped",
        "_tools",
        "has_finished",
    )

    def __init__(self, defaults: EnvelopeDefaults, arguments: ArgumentBuffer, index: int) -> None:
        self._defaults = defaults
        self._arguments = arguments
        self._index = index
        self._tools: ToolRepair | None = None
        self._has_started = self._has_deltas = self._has_role = self._has_content = self._has_function = False
        self.has_finished = self._stopped = False

    @property
    def is_empty(self) -> bool:
        """Whether the choice ended with `stop` and has no content."""
        return self._stopped and not self._has_content

    def note(self, payload: Object) -> None:
        """Record a choice that needs no repair, because gatepass wrote it."""
        self._has_content = self._has_content or has_content(payload)
        self._note_end(finish_reason(payload))

    def _note_end(self, reason: str) -> None:
        if reason:
            self.has_finished = True
            self._stopped = reason == "stop"

    def reason_at_end(self) -> str | None:
        """Return a finish reason for a choice that has none at `[DONE]`; None if the choice was cut.

        It was cut if it has no content, or arguments that are not complete JSON. Without a finish reason openai-node,
        the AI SDK and other tool loops fail or stop.
        """
        if not self._has_content or not self._arguments.are_complete(self._index):
            return None
        if self._tools and self._tools.without_input:
            return None
        return completed_reason("", has_tools=bool(self._tools), has_function=self._has_function)

    def repair(self, payload: Object, on_repair: OnRepair) -> bool:
        """Repair one choice of a chunk in place. Return True if a choice with another text needs no repair either."""
        delta, had_content = payload.get("delta"), self._has_content
        if type(delta) is dict:
            self._has_content = had_content or has_content(payload)
            self._has_deltas = self._has_deltas or (self._has_content and not had_content) or has_output(payload)
        else:
            delta = self._add_delta(payload, on_repair)
            self._has_content = had_content or has_content(payload)
        is_plain = delta is None or self._repair_delta(delta, on_repair)
        if is_plain and not self._has_content:  # a text member could bring content in a similar choice
            texts = (
                [payload.get("text")] if delta is None else [delta[name] for name in delta.keys() - REASONING_MEMBERS]
            )
            is_plain = not any(isinstance(text, str) for text in texts)
        # Ollama and SGLang send it in chunks that do not end the choice
        if payload.get("finish_reason") == "":
            payload["finish_reason"] = None
            on_repair(FINISH)
        elif reason := finish_reason(payload):
            is_plain = False
            self._arguments.drop(self._index)
            self._repair_reason(payload, reason, on_repair)
            self._note_end(finish_reason(payload))
        return is_plain

    def _repair_reason(self, payload: Object, reason: str, on_repair: OnRepair) -> None:
        is_text = "text" in payload and "delta" not in payload
        has_tools = self._tools is not None
        standard = text_reason(reason) if is_text else chat_reason(reason, has_tools=has_tools, has_function=False)
        if standard == reason:
            return
        if (native := native_of(reason, is_text=is_text)) is not None:
            payload.setdefault(NATIVE, native)
        payload["finish_reason"] = standard
        on_repair(FINISH)

    def _add_delta(self, payload: Object, on_repair: OnRepair) -> Object | None:
        """Add and return the missing delta; None for a choice of `/v1/completions`, which has no delta."""
        message = payload.pop("message", None)
        if isinstance(message, dict):
            on_repair(MESSAGE)
            # A message after deltas, or after the end, only repeats them
            delta = {} if self._has_deltas or self.has_finished else message
        elif "text" in payload:
            return None
        else:
            on_repair(DELTA)
            delta = {}
        payload["delta"] = delta
        return delta

    def _repair_delta(self, delta: Object, on_repair: OnRepair) -> bool:
        is_plain = True
        if "role" in delta:
            is_plain = self._repair_role(delta, on_repair)
        if not self._has_started and delta:
            self._has_started = True
            if delta.keys() == {"role"}:
                delta["content"] = ""
                on_repair(DELTA)
        calls = delta.get("tool_calls")
        if calls and isinstance(calls, list):
            is_plain = False
            if self._tools is None:
                self._tools = ToolRepair(self._defaults, self._arguments, self._index)
            self._tools.repair(calls, on_repair)
        function = delta.get("function_call")
        if not function:
            return is_plain
        if isinstance(function, dict):
            self._has_function = True
            arguments = function.get("arguments")
            self._arguments.add(self._index, _FUNCTION_CALL, arguments if isinstance(arguments, str) else "")
        return False

    def _repair_role(self, delta: Object, on_repair: OnRepair) -> bool:
        """Keep one role: openai-python's helper joins the roles of all deltas to `assistantassistant…`."""
        role = delta["role"]
        if role is None:
            return True
        if role and not self._has_role:
            self._has_role = True
        elif role == "" and not self._has_started:
            self._has_role = True
            delta["role"] = "assistant"
            on_repair(ROLE)
        else:
            del delta["role"]
            on_repair(ROLE)
        return False


# --- finish reasons -------------------------------------------------------------------------------

TEXT_REASONS = frozenset({"stop", "length", "content_filter"})
CHAT_REASONS = TEXT_REASONS | {"tool_calls", "function_call"}
NATIVE = "native_finish_reason"
"""The member that keeps the upstream's finish reason. The name is OpenRouter's."""

_STOP = ("eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete", "completed", "finished")
# An answer that was cut must not get `stop`, which means that it is complete
_LENGTH = (
    *("max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded", "pause_turn"),
    *("insufficient_system_resource", "abort", "error", "network_error", "cancelled", "malformed_function_call"),
)
_FILTERED = (
    *("safety", "recitation", "sensitive", "blocklist", "prohibited_content", "spii", "refusal"),
    *("content_filtered", "guardrail_intervened"),
)
_STANDARD_REASONS: Mapping[str, str] = MappingProxyType(
    {
        **{reason: reason for reason in CHAT_REASONS},
        **dict.fromkeys(_STOP, "stop"),
        **dict.fromkeys(_LENGTH, "length"),
        **dict.fromkeys(_FILTERED, "content_filter"),
        "tool_use": "tool_calls",
    }
)
"""The finish reasons of Anthropic, Bedrock, Cohere, Gemini, Mistral, DeepSeek, Zhipu, vLLM and SGLang.

An unknown reason stays unchanged, because `stop` could make a cut answer look complete.
"""


def chat_reason(payload: Any, *, has_tools: bool, has_function: bool) -> str:
    """Return OpenAI's finish reason for a chat choice. `payload` is the upstream's; `has_function`: `function_call`."""
    reason = _STANDARD_REASONS.get(payload.lower(), payload) if isinstance(payload, str) else ""
    return completed_reason(reason, has_tools=has_tools, has_function=has_function)


def text_reason(payload: Any) -> str:
    """Return the finish reason for a choice of `/v1/completions`, which has no tool calls."""
    reason = chat_reason(payload, has_tools=False, has_function=False)
    return "stop" if reason in CHAT_REASONS and reason not in TEXT_REASONS else reason


def native_of(payload: Any, *, is_text: bool) -> str | None:
    """Return the upstream's finish reason if OpenAI's types do not know it, else None."""
    known = TEXT_REASONS if is_text else CHAT_REASONS
    return payload if payload and isinstance(payload, str) and payload not in known else None


# --- tool calls -----------------------------------------------------------------------------------


class ToolRepair:
    __slots__ = ("_arguments", "_choice", "_defaults", "_named", "_tracker", "without_input")

    def __init__(self, defaults: EnvelopeDefaults, arguments: ArgumentBuffer, choice: int) -> None:
        self._defaults = defaults
        self._arguments = arguments
        self._choice = choice
        self._tracker = ToolCallTracker()
        self._named: set[int] = set()
        self.without_input: set[int] = set()
        """Custom calls without input. Their input is free text, so only an empty one is known to be incomplete."""

    def __len__(self) -> int:
        return len(self._tracker)

    def repair(self, entries: list[Any], on_repair: OnRepair) -> None:
        """Repair the entries of one delta in place."""
        for delta in self._tracker.assign(entries):
            payload, number = delta.entry, delta.call.number
            if payload.get("index") != number or type(payload["index"]) is not int:
                payload["index"] = number
                on_repair(TOOL_INDEX)
            if delta.is_first:
                self._open(delta, on_repair)
            elif payload.get("id"):
                del payload["id"]
                on_repair(TOOL_ID)
            inner = payload.get("function")
            if isinstance(inner, dict):
                self._repair_function(inner, number, on_repair)
            elif isinstance(inner := payload.get("custom"), dict):
                if inner.get("input"):
                    self.without_input.discard(number)
                elif delta.is_first:
                    self.without_input.add(number)
            elif delta.is_first:
                self._arguments.add(self._choice, number, "")

    def _open(self, delta: ToolCallDelta, on_repair: OnRepair) -> None:
        """Give the first delta of a call its id and type."""
        payload, call = delta.entry, delta.call
        if not call.id:
            call.id = self._defaults.new_id("call_")
        if payload.get("id") != call.id:
            payload["id"] = call.id
            on_repair(TOOL_ID)
        call.id = call.id[:KEY_CHARS]  # the whole id is sent and no longer needed
        if not payload.get("type"):
            payload["type"] = "custom" if isinstance(payload.get("custom"), dict) else "function"
            on_repair(TOOL_TYPE)

    def _repair_function(self, inner: Object, number: int, on_repair: OnRepair) -> None:
        if inner.get("name"):
            # openai-python's helper and LangChain join the names of all deltas: `fff`
            if number in self._named:
                del inner["name"]
                on_repair(TOOL_NAME)
            self._named.add(number)
        arguments = inner.get("arguments")
        # SDKs join the arguments of all deltas as texts
        if arguments is not None and not isinstance(arguments, str):
            inner["arguments"] = arguments = argument_text(arguments)
            on_repair(TOOL_ARGUMENTS)
        self._arguments.add(self._choice, number, arguments or "")


_FUNCTION_CALL = -1
"""The number of the legacy `function_call` among the calls of its choice."""

MAX_ARGUMENT_BYTES = 1_048_576
"""The limit of the arguments held for one stream. gatepass cannot check whether longer ones are complete."""
CALL_BYTES = 256
"""The estimated memory of one held call without its arguments."""


class ArgumentBuffer:
    """The arguments of all tool calls in the open choices of a stream, by choice index and call number."""

    __slots__ = ("_bytes_left", "_held")

    def __init__(self) -> None:
        self._held: dict[int, dict[int, bytearray]] = {}
        self._bytes_left = MAX_ARGUMENT_BYTES

    def add(self, choice: int, call: int, piece: str) -> None:
        """Hold the next piece of a call's arguments. The first piece may be empty."""
        bytes_left = self._bytes_left
        if bytes_left < 0:
            return
        calls = self._held.get(choice)
        if calls is None:
            calls = self._held[choice] = {}
        held = calls.get(call)
        if held is None:
            held = calls[call] = bytearray()
            bytes_left -= CALL_BYTES
        data = piece.encode("utf-8", "surrogatepass")  # a piece may end inside a surrogate pair
        self._bytes_left = bytes_left = bytes_left - len(data)
        if bytes_left < 0:  # stays negative, so that nothing is held again
            self._held.clear()
        else:
            held += data

    def are_complete(self, choice: int) -> bool:
        """Return whether each call of the choice has complete JSON as arguments; False after the limit."""
        texts = (held.decode("utf-8", "surrogatepass") for held in self._held.get(choice, {}).values())
        return self._bytes_left >= 0 and all(map(is_complete_json, texts))

    def drop(self, choice: int) -> None:
        """Release the calls of a choice that has ended."""
        for held in self._held.pop(choice, {}).values():
            self._bytes_left += len(held) + CALL_BYTES


# --- cumulative texts -----------------------------------------------------------------------------
#
# DashScope's Coding Plan (qwen-code#3896) and older agents of RAGFlow send the whole text so far in every chunk. A
# chunk is evidence of this if its text begins with all earlier text, is longer, and the earlier text has MIN_CHARS. A
# plain stream may repeat a syllable, but not twice a phrase in growing form.

EVIDENCE = 2
MIN_CHARS = 8

# The memory limits: watched texts, held chunks (one text needs ten), and the remembered length of one text that once
# did not begin with all earlier text
MAX_TEXTS = 64
MAX_HELD = 64
MAX_HELD_BYTES = 1_048_576
MAX_CHARS = 16_777_216

_TEXT_MEMBERS = ("content", *REASONING)


class TextKind(Enum):
    UNKNOWN = "unknown"
    PLAIN = "plain"
    CUMULATIVE = "cumulative"


@dataclass(slots=True)
class PendingChunk:
    """A chunk that is not sent yet. `has_changed`: it must be written again, because it differs from its event."""

    block: bytes = field(repr=False)
    payload: Object = field(repr=False)
    has_changed: bool = False


class CumulativeTextRepair:
    """Cuts cumulative texts to their new part, each text of each choice separately.

    It starts only after EVIDENCE matches. Until then it holds a chunk that may be the second, third or fourth of a
    cumulative text. At the end of a stream one match is enough if no chunk contradicted it.
    """

    __slots__ = ("_held", "_held_bytes", "_on_repair", "_texts")

    def __init__(self, on_repair: OnRepair) -> None:
        self._on_repair = on_repair
        self._texts: dict[tuple[int, str], WatchedText] = {}
        self._held: list[PendingChunk] = []
        self._held_bytes = 0

    @property
    def is_settled(self) -> bool:
        """Whether every text so far is known to be plain."""
        return all(text.kind is TextKind.PLAIN for text in self._texts.values())

    def feed(self, item: PendingChunk) -> list[PendingChunk]:
        """Take the next chunk and return the chunks that may be sent, in order."""
        for index, delta, name in _texts(item.payload):
            text = self._texts.get((index, name))
            if text is None:
                if len(self._texts) >= MAX_TEXTS:
                    continue
                text = self._texts[index, name] = WatchedText(name)
            if text.kind is not TextKind.PLAIN and text.take(item, delta, delta[name]):
                self._on_repair(CUMULATIVE)
        self._held.append(item)
        self._held_bytes += len(item.block)
        if len(self._held) > MAX_HELD or self._held_bytes > MAX_HELD_BYTES:
            self._settle(EVIDENCE)
        return [] if any(text.waiting for text in self._texts.values()) else self._release()

    def finish(self) -> list[PendingChunk]:
        """Return all held chunks."""
        self._settle(evidence=1)
        return self._release()

    def _settle(self, evidence: int) -> None:
        for text in self._texts.values():
            if text.waiting and text.decide(TextKind.CUMULATIVE if text.matches >= evidence else TextKind.PLAIN):
                self._on_repair(CUMULATIVE)

    def _release(self) -> list[PendingChunk]:
        held, self._held, self._held_bytes = self._held, [], 0
        return held


@dataclass(slots=True)
class WatchedText:
    """One text of one choice: what came so far, and its kind."""

    name: str
    so_far: str = ""
    kind: TextKind = TextKind.UNKNOWN
    matches: int = 0
    waiting: list[tuple[PendingChunk, Object, str]] = field(default_factory=list)
    """Held deltas, each with its new part in case the text is cumulative."""

    def take(self, item: PendingChunk, delta: Object, value: str) -> bool:
        """Take the next value. Cut it, and the held ones, if the text is cumulative. Return whether any was cut."""
        if self.kind is TextKind.CUMULATIVE:
            item.has_changed, delta[self.name] = True, self._new_part(value)
            return True
        if self.so_far and not (len(value) > len(self.so_far) and value.startswith(self.so_far)):
            return self.decide(TextKind.PLAIN)
        if self.so_far:
            self.waiting.append((item, delta, value[len(self.so_far) :]))
            self.matches += len(self.so_far) >= MIN_CHARS
        self.so_far = value
        return self.matches >= EVIDENCE and self.decide(TextKind.CUMULATIVE)

    def decide(self, kind: TextKind) -> bool:
        """Set the kind, and cut the held deltas if the text is cumulative. Return whether any was cut."""
        self.kind = kind
        waiting, self.waiting = self.waiting, []
        if kind is TextKind.PLAIN:
            self.so_far = ""
            return False
        for item, delta, part in waiting:
            item.has_changed, delta[self.name] = True, part
        return True

    def _new_part(self, value: str) -> str:
        """Return the part of `value` that is new."""
        if value.startswith(self.so_far):
            part, self.so_far = value[len(self.so_far) :], value
            return part
        if self.so_far.startswith(value):
            return ""
        self.so_far += value  # a value that does not repeat the text adds to it: sent text cannot be changed
        if len(self.so_far) > MAX_CHARS:
            self.decide(TextKind.PLAIN)
        return value


def _texts(payload: Object) -> Iterator[tuple[int, Object, str]]:
    """Yield choice index, delta and member name of each text in a chunk."""
    choices = payload.get("choices")
    for position, choice in enumerate(choices if isinstance(choices, list) else ()):
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(delta, dict):
            index = choice.get("index")
            for name in _TEXT_MEMBERS:
                if delta.get(name) and isinstance(delta[name], str):
                    yield index if type(index) is int else position, delta, name
