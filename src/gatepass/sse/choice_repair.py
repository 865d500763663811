"""Repair the choices of a chunk: deltas, roles, finish reasons, tool calls and cumulative texts.

repair.py applies these repairs to a whole stream, whole_reply.py to a whole reply.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gatepass.config.access import PLAIN, Profile
from gatepass.sse.chunk import (
    REASONING,
    REASONING_MEMBERS,
    ROLE_ALONE,
    EnvelopeDefaults,
    Object,
    calls_of,
    completed_reason,
    finish_reason,
    has_content,
    text_and_thought,
)
from gatepass.sse.tool_calls import (
    FUNCTION_CALL,
    TOOL_ARGUMENTS,
    TOOL_ID,
    TOOL_INDEX,
    TOOL_NAME,
    TOOL_TYPE,
    ArgumentBuffer,
    OnRepair,
    ToolRepair,
    is_complete_json,
    is_cut,
    of_function,
)

# The names of the repairs, as they appear in x-gatepass-adapted

WRAPPED = "repair=wrapped"
"""`{"code": 0, "data": {chunk}}` of corporate gateways is unwrapped, and a `finish_reason` beside no choices moved."""
MESSAGE = "repair=message"
"""A chunk with `message`, or a chat's with `text`, gets a delta, also one that is a whole completion.

In a reply to `/v1/completions` a message or a delta becomes a text.
"""
EMPTY_CHOICES = "repair=choices"
"""The other members of a chunk without choices, such as Azure's first one, move into the next chunk."""
ENVELOPE = "repair=envelope"
"""Missing id, object, created and model are copied from the first chunk that has them. Azure's first chunk has none."""
INDEX = "repair=index"
"""A choice without an index gets its position."""
DELTA = "repair=delta"
"""A null or missing delta becomes `{}`; a first one with only a role gets `content: ""`.

Azure's asynchronous filter sends a last choice without a delta. Spring AI fails at a first delta without content.
"""
ROLE = "repair=role"
"""The role is sent once and is never empty. RAGFlow sends it in every chunk, MiniMax an empty one, SGLang null."""
CONTENT = "repair=content"
"""A content of parts, which SDKs do not read, becomes a text and reasoning (Mistral)."""
FINISH = "repair=finish"
"""An empty finish reason becomes null (Ollama, SGLang), `stop` after tool calls becomes `tool_calls` (Gemini).

Only the last one of a choice is sent, and none after arguments that are no JSON: see `ChoiceRepair.reason_at_end`.
"""
USAGE = "repair=usage"
"""Usage is sent once, and in a separate chunk if the client requested it."""
SPLIT, LINE = "repair=split", "repair=line"
"""A finish reason is sent in a separate chunk, and so are the pieces of a long text."""
CUMULATIVE = "repair=cumulative"
"""Texts that repeat all earlier text are cut to the new part."""
ADDED_FINISH = "repair=added-finish"
"""A choice without a finish reason at `[DONE]` gets one in a separate chunk: see `ChoiceRepair.reason_at_end`."""

TEXTS = "repair=texts"
"""With `plain_texts`: reasoning moves to `reasoning_content`, and an empty `error` is removed."""
NO_CHUNK, EMPTY_CHOICE = "sse=no-chunk", "repair=empty-choice"
"""With `only_chunks`, events that are no chunks are removed. With `fills_choices`, a chunk without choices gets one:
moving its usage would delay the chunk before."""

NAMES = (
    *(WRAPPED, MESSAGE, EMPTY_CHOICES, ENVELOPE, INDEX, DELTA, ROLE, CONTENT, FINISH, USAGE),
    *(TOOL_INDEX, TOOL_ID, TOOL_NAME, TOOL_TYPE, TOOL_ARGUMENTS, SPLIT, LINE, CUMULATIVE, ADDED_FINISH),
    *(TEXTS, NO_CHUNK, EMPTY_CHOICE),
)


class RepairOptions(msgspec.Struct, frozen=True):
    """The repairs that depend on the client or the upstream."""

    include_usage: bool | None = False
    """What the client requested. None leaves the usage unchanged, for vLLM's `continuous_usage_stats`."""
    profile: Profile = PLAIN
    cumulative: bool = False
    drops_usage: bool = False
    """Without a request for usage none is sent, not even with the last finish reason."""


class ChoiceRepair:
    """The state of one choice of a stream, and the repair of its next delta."""

    __slots__ = (
        "_arguments",
        "_defaults",
        "_ended_without_call",
        "_function",
        "_has_deltas",
        "_has_role",
        "_has_started",
        "_index",
        "_stopped",
        "_tools",
        "has_answer",
        "has_finished",
        "lacks_message",
    )

    def __init__(self, defaults: EnvelopeDefaults, arguments: ArgumentBuffer, index: int) -> None:
        self._defaults = defaults
        self._arguments = arguments
        self._index = index
        self._tools: ToolRepair | None = None
        self._has_started = self._has_deltas = self._has_role = self.has_answer = False
        self.lacks_message = self._ended_without_call = False
        self._function: ToolRepair | None = None
        self.has_finished = self._stopped = False

    @property
    def is_empty(self) -> bool:
        return self._stopped and not self.has_answer

    @property
    def lacks_call(self) -> bool:
        """Whether the upstream ended the choice with calls, and sent none: vLLM under load."""
        return self._ended_without_call and not (self._tools or self._function)

    def reason_at_end(self, *, is_at_limit: bool) -> str | None:
        """Return a finish reason for a choice that has none at `[DONE]`; None if the choice was cut.

        It was cut if it has no content, or arguments that are not complete JSON: then a limit of tokens, if any, is the
        reason. Without a finish reason openai-node, the AI SDK and other tool loops fail or stop.
        """
        texts, asked = self._arguments.texts(self._index), self._defaults.asked
        if self._ended_without_call:  # and then sent one
            is_complete = not any(is_cut(text, self._name(call), asked) for call, text in texts.items())
        else:
            is_complete = self.has_answer and all(map(is_complete_json, texts.values()))
        if not is_complete or self.lacks_call or (self._tools and self._tools.lacks_input):
            return "length" if is_at_limit else None
        return completed_reason("", has_tools=bool(self._tools), has_function=bool(self._function))

    def take_rest(self, on_repair: OnRepair) -> Object:
        """Return a delta with the calls that wait, at the end of the choice."""
        rest: Object = {}
        if self._tools is not None and (entries := self._tools.take_rest(on_repair)):
            rest["tool_calls"] = entries
        if self._function is not None and (entries := self._function.take_rest(of_function(on_repair))):
            rest["function_call"] = entries[0]["function"]
        return rest

    def repair(self, payload: Object, on_repair: OnRepair, *, is_named: bool = False) -> bool:
        """Repair one choice of a chunk in place. Return True if a choice with another text needs no repair either.

        `is_named`: no name in it can grow.
        """
        delta, had_content, end = payload.get("delta"), self.has_answer, payload.get("finish_reason")
        end = end if isinstance(end, str) else ""
        if not delta and self._defaults.is_chat and isinstance(payload.get("text"), str):
            delta = payload["delta"] = {"content": payload.pop("text")}
            on_repair(MESSAGE)
        if type(delta) is dict:
            self.has_answer = had_content or has_content(payload)
            if not self._has_deltas:
                has_begun = self.has_answer and not had_content
                self._has_deltas = has_begun or end != "" or has_content(payload, ROLE_ALONE)
        else:
            delta = self._add_delta(payload, on_repair)
            self.has_answer = had_content or has_content(payload)
        is_named = is_named or end != "" or self.has_finished
        is_plain = delta is None or self._repair_delta(delta, on_repair, is_named=is_named)
        if is_plain and not self.has_answer:  # a text member could bring content in a similar choice
            texts = (
                [payload.get("text")] if delta is None else [delta[name] for name in delta.keys() - REASONING_MEMBERS]
            )
            is_plain = not any(isinstance(text, str) for text in texts)
        # Ollama and SGLang send it in chunks that do not end the choice
        if payload.get("finish_reason") == "":
            payload["finish_reason"] = None
            on_repair(FINISH)
        elif end:
            is_plain = False
            self._end(payload, delta, end, on_repair)
        return is_plain

    def _end(self, payload: Object, delta: Object | None, end: str, on_repair: OnRepair) -> None:
        """Repair a choice with the finish reason `end`."""
        is_text = self._defaults.is_chat is False or ("text" in payload and "delta" not in payload)
        standard, native = end, ""
        if self._tools or end not in TEXT_REASONS:
            standard, native = standard_reason(end, is_text=is_text, has_tools=bool(self._tools))
        if standard != end:
            if native:
                payload.setdefault(NATIVE, native)
            payload["finish_reason"] = standard
            on_repair(FINISH)
        reason = payload["finish_reason"]
        if delta is not None and (self._tools or self._function):
            for name, rest in self.take_rest(on_repair).items():
                delta[name] = [*calls_of(delta), *rest] if name == "tool_calls" else rest
            if reason in COMPLETE:
                self._complete_calls(payload, delta, on_repair)
        elif delta is not None and reason in CALLS and self._defaults.asked.expects_call:
            self._ended_without_call, payload["finish_reason"] = True, None  # a call may follow
            on_repair(FINISH)
        if reason := payload["finish_reason"]:
            if self._arguments.held:
                self._arguments.drop(self._index)
            self.has_finished, self._stopped = True, reason == "stop"

    def _complete_calls(self, payload: Object, delta: Object, on_repair: OnRepair) -> None:
        """Add the arguments of calls that have none, or remove the finish reason if a call was cut."""
        texts, asked = self._arguments.texts(self._index), self._defaults.asked
        if any(is_cut(text, self._name(call), asked) for call, text in texts.items()):
            payload["finish_reason"] = None
            on_repair(FINISH)
            return
        for call in (call for call, text in texts.items() if not text.strip()):
            on_repair(TOOL_ARGUMENTS)
            owner, name = delta, "function_call"
            if call != FUNCTION_CALL:
                calls = calls_of(delta)
                entries = [entry for entry in calls if isinstance(entry, dict) and entry["index"] == call]
                owner, name = entries[0] if entries else {"index": call}, "function"
                delta["tool_calls"] = calls if entries else [*calls, owner]
            inner = owner.get(name)
            owner[name] = {**(inner if isinstance(inner, dict) else {}), "arguments": "{}"}

    def _name(self, call: int) -> str:
        repair = self._function if call == FUNCTION_CALL else self._tools
        return "" if repair is None else repair.name(call)

    def _add_delta(self, payload: Object, on_repair: OnRepair) -> Object | None:
        """Add and return the missing delta; None for a choice of `/v1/completions`, which has no delta."""
        message = payload.pop("message", None)
        if isinstance(message, dict):
            on_repair(MESSAGE)
            # A message after deltas, or after the end, only repeats them
            delta = {} if self._has_deltas or self.has_finished else message
        elif isinstance(payload.get("text"), str):
            self._has_started = True
            return None
        else:
            self.lacks_message = not (self._has_started or self.has_answer) and _ends_whole(payload)
            if "text" in payload:
                return None
            on_repair(DELTA)
            delta = {}
        payload["delta"] = delta
        return delta

    def _repair_delta(self, delta: Object, on_repair: OnRepair, *, is_named: bool) -> bool:
        is_plain = True
        if "role" in delta:
            is_plain = self._repair_role(delta, on_repair)
        begins, self._has_started = not self._has_started and len(delta) > 0, self._has_started or len(delta) > 0
        if begins and not self._has_role and "role" in delta:  # null
            self._has_role, is_plain, delta["role"] = True, False, "assistant"
            on_repair(ROLE)
        if type(content := delta.get("content")) is list and (found := text_and_thought(content)) is not None:
            delta["content"], thought = found
            if thought:
                delta[REASONING[0]] = delta.get(REASONING[0]) or thought
            is_plain = False
            on_repair(CONTENT)
        is_plain = self._repair_calls(delta, on_repair, is_named=is_named) and is_plain
        if begins and delta.keys() == {"role"}:
            delta["content"] = ""
            on_repair(DELTA)
        return is_plain

    def _repair_calls(self, delta: Object, on_repair: OnRepair, *, is_named: bool) -> bool:
        is_plain, calls = True, delta.get("tool_calls")
        if calls == []:
            del delta["tool_calls"]
            is_plain = False
            on_repair(TOOL_ARGUMENTS)
        elif calls and isinstance(calls, list):
            if self._tools is None:
                self._tools = ToolRepair(self._defaults, self._arguments, self._index)
            is_plain = self._tools.repair(calls, on_repair, is_named=is_named)
            if not calls:
                del delta["tool_calls"]
        function = delta.get("function_call")
        if not function:
            return is_plain
        if isinstance(function, dict):
            if self._function is None:
                self._function = ToolRepair(self._defaults, self._arguments, self._index, FUNCTION_CALL)
            # one call, as if each part had the same id
            entries = [{"index": FUNCTION_CALL, "id": "function_call", "type": "function", "function": function}]
            self._function.repair(entries, of_function(on_repair), is_named=is_named)
            if entries:
                delta["function_call"] = entries[0]["function"]
            else:
                del delta["function_call"]
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


def make_text(choice: Any) -> bool:
    """Make a repaired choice of a chat's chunk one of `/v1/completions`, and return whether it was one."""
    delta = choice.pop("delta", None) if isinstance(choice, dict) else None
    if not isinstance(delta, dict):
        return False
    text = choice.get("text") or delta.get("content") or delta.get("refusal")
    choice["text"] = text if isinstance(text, str) else ""
    return True


# --- finish reasons -------------------------------------------------------------------------------

TEXT_REASONS = frozenset({"stop", "length", "content_filter"})
CALLS = frozenset({"tool_calls", "function_call"})
COMPLETE = CALLS | {"stop"}
"""The finish reasons of an answer that was not cut."""
CHAT_REASONS = TEXT_REASONS | CALLS
NATIVE = "native_finish_reason"
"""The member that keeps the upstream's finish reason. The name is OpenRouter's."""

_STOP = (
    *("eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete", "completed", "finished"),
    "waiting_for_user",  # an agent of RAGFlow 1.0
)
_LENGTH = ("max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded", "pause_turn")
FAILED = ("insufficient_system_resource", "abort", "error", "network_error", "cancelled", "malformed_function_call")
"""The answer was cut: a chat must not get `stop`, which means that it is complete, and has no reason for a failure."""
_FILTERED = (
    *("safety", "recitation", "sensitive", "blocklist", "prohibited_content", "spii", "refusal"),
    *("content_filtered", "guardrail_intervened"),
)
_STANDARD_REASONS: Mapping[str, str] = {
    **{reason: reason for reason in CHAT_REASONS},
    **dict.fromkeys(_STOP, "stop"),
    **dict.fromkeys((*_LENGTH, *FAILED), "length"),
    **dict.fromkeys(_FILTERED, "content_filter"),
    "tool_use": "tool_calls",
}
"""The finish reasons of Anthropic, Bedrock, Cohere, Gemini, Mistral, DeepSeek, Zhipu, vLLM and SGLang.

An unknown reason stays unchanged, because `stop` could make a cut answer look complete.
"""


def chat_reason(payload: Any, *, has_tools: bool) -> str:
    """Return OpenAI's finish reason for a chat choice. `payload` is the upstream's."""
    reason = _STANDARD_REASONS.get(payload.lower(), payload) if isinstance(payload, str) else ""
    return completed_reason(reason, has_tools=has_tools, has_function=False)


def _ends_whole(payload: Object) -> bool:
    end = finish_reason(payload)
    return end != "" and chat_reason(end, has_tools=False) in COMPLETE


def standard_reason(payload: Any, *, is_text: bool, has_tools: bool = False) -> tuple[str, str]:
    """Return `chat_reason`, and the upstream's own reason if OpenAI's types do not know it, else "".

    `is_text`: of a choice of `/v1/completions`, which has no tool calls.
    """
    reason = chat_reason(payload, has_tools=has_tools)
    known = TEXT_REASONS if is_text else CHAT_REASONS
    native = payload if isinstance(payload, str) and payload not in known else ""
    return "stop" if reason in CHAT_REASONS - known else reason, native


# --- cumulative texts -----------------------------------------------------------------------------

MAX_TEXTS = 64
"""Limit of the texts of one stream that are remembered. An event above 1 MiB is refused, which limits each."""

_TEXT_MEMBERS = ("content", *REASONING)


class CumulativeTexts:
    """Cuts the texts of events that repeat all text so far to their new part, each text of each choice separately.

    DashScope's Coding Plan (qwen-code#3896) and older agents of RAGFlow send them. A text that does not begin with all
    text so far is plain, and passes unchanged from there on.
    """

    __slots__ = ("_so_far",)

    def __init__(self) -> None:
        self._so_far: dict[tuple[int, str], str | None] = {}
        """By the index of a choice and the member. None for a plain text."""

    @property
    def are_plain(self) -> bool:
        return not any(self._so_far.values())

    def cut(self, payload: Object) -> bool:
        """Cut the texts of a chunk in place, and return whether one repeated the text before it."""
        has_cut, choices = False, payload.get("choices")
        for position, choice in enumerate(choices if isinstance(choices, list) else ()):
            delta = choice.get("delta") if isinstance(choice, dict) else None
            if not isinstance(delta, dict):
                continue
            index = choice["index"] if type(choice.get("index")) is int else position
            for name in _TEXT_MEMBERS:
                text, before = delta.get(name), self._so_far.get((index, name), "")
                if not text or not isinstance(text, str) or before is None:
                    continue
                if not text.startswith(before):
                    self._so_far[index, name] = None
                elif before or len(self._so_far) < MAX_TEXTS:
                    self._so_far[index, name] = text
                    delta[name] = text[len(before) :]
                    has_cut = has_cut or before != ""
        return has_cut
