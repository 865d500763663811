"""Build an aggregated reply: one whole reply from the events of a stream.

gatepass does this for an upstream that only streams, or that streams without being asked. `BodyAggregator` frames the
body. `CompletionAggregator` joins the chunks of a chat or of `/v1/completions`; the aggregator of the Responses API is
in responses_api.py.
"""

from __future__ import annotations

import base64
import binascii
from abc import ABC, abstractmethod
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from gatepass.errors import GatepassError
from gatepass.sse import chunk
from gatepass.sse.choice_repair import CumulativeTextRepair, PendingChunk
from gatepass.sse.chunk import (
    CHAT,
    ENVELOPE,
    LEGACY,
    MAX_CHOICES,
    REASONING,
    EnvelopeDefaults,
    Object,
    StreamSource,
    argument_text,
    complete_envelope,
    error_in_event,
    event_value,
    finish_reason,
    has_content,
    has_large_objects,
    has_output,
    has_too_many_entries,
    is_chunk,
    json_text,
    shown_error,
    unwrap,
)
from gatepass.sse.event import EventTransform, Framer, is_json, parse_event, single_line_data, split_events
from gatepass.sse.large_event import CUT_EVENT, LongTexts, has_marks
from gatepass.sse.tool_calls import ToolCall, ToolCallTracker, is_complete_json

_BOM = b"\xef\xbb\xbf"


class StreamAggregator(ABC):
    """Builds one reply from the events of a stream: of a completion (below), or of a response (responses_api.py).

    `failure` is set as soon as the stream cannot give a reply: after an error event of the upstream, after an event
    that is not JSON, or after more than `source.limit_bytes` of events. `finish` raises it. After the last event or a
    failure `is_over` is True, and further events are ignored.
    """

    __slots__ = ("_bytes_left", "_has_done", "_read_error", "_upstream", "failure", "is_over")

    def __init__(self, source: StreamSource) -> None:
        self.failure: GatepassError | None = None
        self.is_over = False
        self._upstream = source.upstream
        self._bytes_left = source.limit_bytes
        self._read_error = source.read_error
        self._has_done = False

    def feed(self, run: bytes) -> None:
        """Take whole events, with any line ends."""
        if self.is_over:
            return
        self._bytes_left -= len(run)
        if self._bytes_left < 0:
            self.fail(chunk.reply_too_large(self._upstream))
            return
        if (data := single_line_data(run)) is not None:
            self._add_data(data.strip(), b"")
            return
        for block in split_events(run):
            data, name = single_line_data(block), b""
            if data is None:
                event = parse_event(block)
                data, name = event.data or b"", event.name
            self._add_data(data.strip(), name)

    def count(self, size_bytes: int) -> None:
        """Count bytes of events that `feed` does not receive because they were shortened."""
        self._bytes_left -= size_bytes

    def fail(self, error: GatepassError) -> None:
        """Drop the collected events, and ignore further ones. `finish` raises `error`."""
        self.failure, self.is_over = error, True

    def finish(self) -> bytes:
        """Return the reply as JSON. Raises `failure`, or an error for a stream that was empty or was cut."""
        if self.failure is None:
            self._end()
        if self.failure is not None:
            raise self.failure
        try:
            return json_text(self._reply())
        except ValueError:
            raise chunk.event_not_json(self._upstream) from None

    @abstractmethod
    def _add(self, payload: Any, data: bytes) -> None:
        """Take the JSON value of an event that is not an error, and the event's data."""

    @abstractmethod
    def _end(self) -> None:
        """End a stream that has not failed yet: fail if it was empty or was cut."""

    @abstractmethod
    def _reply(self) -> Object:
        """Return the reply of a complete stream."""

    def _add_data(self, data: bytes, name: bytes) -> None:
        if self.is_over or not data or data.startswith(b":"):  # some upstreams send comments as data
            return
        if data == b"[DONE]":
            self._has_done = self.is_over = True
            return
        try:
            payload = event_value(data, name)
        except ValueError:
            self.fail(chunk.event_not_json(self._upstream))
            return
        error_body = error_in_event(payload, name, self._read_error)
        if error_body is not None:
            error_body = shown_error(error_body, data, name, self._read_error)
            self.fail(chunk.upstream_error_event(self._upstream, error_body))
            return
        self._add(payload, data)


class BodyAggregator:
    """Frames a body, runs its events through `transform`, and feeds them to `aggregator`.

    Memory is bounded: one event of `event_limit_bytes`, what the transform holds, and the answer, which the aggregator
    bounds. While `waiting`, the caller lets the event loop run and then calls `feed` without a piece, because a large
    event is shortened in steps.
    """

    __slots__ = (
        "_aggregator",
        "_framer",
        "_has_started",
        "_long_texts",
        "_shortens_tail",
        "_transform",
        "_upstream",
        "waiting",
    )

    def __init__(
        self,
        upstream: str,
        aggregator: StreamAggregator,
        event_limit_bytes: int,
        transform: EventTransform | None = None,
    ) -> None:
        self._upstream = upstream
        self._aggregator = aggregator
        self._framer = Framer(event_limit_bytes)
        self._transform = transform
        self._has_started = False
        self._long_texts: LongTexts | None = None
        self._shortens_tail = False
        self.waiting = b""

    @property
    def adapted(self) -> tuple[str, ...]:
        """The changes that its transform has made so far."""
        return () if self._transform is None else self._transform.adapted

    def feed(self, piece: bytes = b"") -> bool:
        """Take the next bytes of the body. Return False after the last event or the first error."""
        while self.waiting:
            self._shorten()
            if not piece:
                break
        if run := self._framer.feed(piece):
            self._add(run)
        if self._framer.is_blocked and not self.waiting:
            if self._framer.large:
                self._start_shortening(self._framer.take_large())
            else:
                self._aggregator.fail(chunk.event_too_large(self._upstream))
        return not self._aggregator.is_over

    def shorten_tail(self) -> None:
        """Prepare `finish`: an unfinished large event is `waiting` until it is shortened."""
        if self._framer.has_large_tail and not self._aggregator.is_over:
            self._shortens_tail = True
            self._start_shortening(self._framer.tail + b"\n\n")

    def _start_shortening(self, run: bytes) -> None:
        if self._long_texts is None:
            self._long_texts = LongTexts()
        self._long_texts.start(run)
        self.waiting = run

    def _shorten(self) -> None:
        texts = self._long_texts
        if texts is None or texts.step():
            return
        run, self.waiting, shortened = self.waiting, b"", texts.shortened
        if self._shortens_tail:  # `finish` adds it
            self._framer.replace_tail(CUT_EVENT if shortened is None else shortened[: -len(b"\n\n")])
        elif shortened is None:
            self._aggregator.fail(chunk.event_too_large(self._upstream))
        else:
            self._aggregator.count(len(run) - len(shortened))
            self._add(shortened)

    def finish(self) -> bytes:
        """Return the reply as JSON. Raises the errors of the aggregator's `finish`."""
        tail = self._framer.tail
        data = (parse_event(tail + b"\n\n").data or b"").strip()
        if is_json(data) or data == b"[DONE]":  # a complete last event that only lacks its blank line
            self._add(tail + b"\n\n")
        if self._transform is not None:
            self._aggregator.feed(self._transform.finish())
        reply = self._aggregator.finish()
        return reply if self._long_texts is None else self._long_texts.restore(reply)

    def _add(self, run: bytes) -> None:
        if not self._has_started:
            self._has_started = True
            run = run.removeprefix(_BOM)  # a byte order mark would hide the first event
        self._aggregator.feed(run if self._transform is None else self._transform.feed(run))


_KNOWN_OF_CHUNK = frozenset({*ENVELOPE, "choices", "usage", "obfuscation"})
"""OpenAI pads each event with a random `obfuscation`; a plain reply has none."""


class CompletionAggregator(StreamAggregator):
    """Builds the `chat.completion` or `text_completion` of one stream.

    `finish` raises `upstream_closed` for a stream that was cut:

    - it has neither `[DONE]` nor a finish reason for each of `choices`, or
    - a choice `is_cut` before `[DONE]`.

    `cumulative`: cut texts that repeat all earlier text to their new part.
    """

    __slots__ = (
        "_choices",
        "_cumulative",
        "_defaults",
        "_envelope",
        "_expected_choices",
        "_extra",
        "_missing",
        "_usage",
    )

    def __init__(
        self,
        source: StreamSource,
        defaults: EnvelopeDefaults,
        *,
        choices: int = 1,
        cumulative: bool = False,
    ) -> None:
        super().__init__(source)
        self._defaults = defaults
        self._expected_choices = choices
        self._cumulative = CumulativeTextRepair(lambda _: None) if cumulative else None
        self._choices: dict[int, ChatChoice | TextChoice] = {}
        self._envelope: Object = {}
        self._missing: tuple[str, ...] = ENVELOPE
        self._extra: Object = {}
        self._usage: Object | None = None

    def fail(self, error: GatepassError) -> None:
        super().fail(error)
        self._choices, self._extra = {}, {}  # frees the answer, because an error replaces it

    def _end(self) -> None:
        if self._cumulative is not None:
            self._add_chunks(self._cumulative.finish())
        if self.failure is not None:  # by one of these chunks
            return
        choices = self._choices.values()
        finished = [choice.has_finished for choice in choices]
        # TGI before 2.2 sends no `[DONE]`. Without it every requested choice must have its finish reason.
        is_complete = self._has_done or (len(finished) >= self._expected_choices and all(finished))
        if choices and not is_complete:
            self.fail(chunk.stream_closed(self._upstream))
        # vLLM ends a failed stream with `[DONE]` alone (vllm-project/vllm#40986)
        elif not any(choice.has_output for choice in choices):
            self.fail(chunk.stream_empty(self._upstream))
        elif any(choice.is_cut for choice in choices):
            self.fail(chunk.stream_closed(self._upstream))

    def _add(self, payload: Any, data: bytes) -> None:
        fields = payload if isinstance(payload, dict) else {}
        choices = fields.get("choices")
        if not choices:
            fields = unwrap(fields)
            choices = fields.get("choices")
            if not is_chunk(fields):
                return
        if has_too_many_entries(choices):
            self.fail(chunk.too_many_choices(self._upstream))
        elif has_marks(data) and has_large_objects(choices):
            self.fail(chunk.arguments_too_large(self._upstream))
        elif self._cumulative is None:
            self._add_chunk(fields, choices)
        else:
            self._add_chunks(self._cumulative.feed(PendingChunk(data, fields)))

    def _add_chunks(self, items: list[PendingChunk]) -> None:
        for item in items:
            self._add_chunk(item.payload, item.payload.get("choices"))

    def _add_chunk(self, fields: Object, choices: Any) -> None:
        for position, payload in enumerate(choices if isinstance(choices, list) else ()):
            if not isinstance(payload, dict):
                continue
            index = payload.get("index")
            # some upstreams send no index, and `isinstance` would accept `true` as one
            if type(index) is not int:
                index = position
            choice = self._choices.get(index)
            if choice is None:
                if len(self._choices) >= MAX_CHOICES:
                    self.fail(chunk.too_many_choices(self._upstream))
                    return
                # The first piece of a choice decides its kind
                is_text = "text" in payload and "delta" not in payload and "message" not in payload
                choice = self._choices[index] = TextChoice() if is_text else ChatChoice()
            choice.add(payload)
        usage = fields.get("usage")
        if usage and isinstance(usage, dict):
            self._usage = usage  # the last one: vLLM, SGLang and DashScope can send a usage in every chunk
        for name in self._missing:  # usually empty after the first chunk
            if fields.get(name):
                self._envelope[name] = fields[name]
                self._missing = tuple(other for other in ENVELOPE if other not in self._envelope)
        if not (fields.keys() <= _KNOWN_OF_CHUNK or self.is_over):
            for name, value in fields.items():
                if name not in _KNOWN_OF_CHUNK:
                    keep_last(self._extra, name, value)

    def _reply(self) -> Object:
        is_text = any(isinstance(choice, TextChoice) for choice in self._choices.values())
        object_name, id_prefix = (LEGACY, "cmpl-") if is_text else (CHAT, "chatcmpl-")
        envelope = complete_envelope(self._envelope, self._defaults, object_name, id_prefix)
        in_order = sorted(self._choices.items(), key=itemgetter(0))
        choices = [choice.build(index, self._defaults) for index, choice in in_order]
        usage: Object = {} if self._usage is None else {"usage": self._usage}
        return {**envelope, "choices": choices, **usage, **self._extra}


_CHOICE = frozenset({"index", "delta", "message", "text", "logprobs", "finish_reason"})
_CHAT_CHOICE = frozenset({"index", "delta", "logprobs", "finish_reason"})
_IN_FIXED_ORDER = frozenset({"role", "content", "refusal", *REASONING})


class _Choice:
    """The part that chat and text choices share: finish reason, logprobs and unknown members."""

    __slots__ = ("_extra", "_has_content", "_logprobs", "_reason", "has_output")

    def __init__(self) -> None:
        self.has_output = False
        """Whether it has any output or a finish reason. A role alone does not count."""
        self._has_content = False
        self._reason = ""
        self._logprobs: MemberAggregator | None = None
        self._extra: Object = {}

    @property
    def has_finished(self) -> bool:
        return bool(self._reason)

    @property
    def is_cut(self) -> bool:
        """Whether it has no finish reason, and no content or incomplete arguments of a call."""
        return not (self._reason or self._has_content)

    def _add_common(self, payload: Object, known: frozenset[str]) -> None:
        self.has_output = self.has_output or has_output(payload)
        self._has_content = self._has_content or has_content(payload)
        self._reason = finish_reason(payload) or self._reason
        logprobs = payload.get("logprobs")
        if logprobs and isinstance(logprobs, dict):
            self._logprobs = self._logprobs or MemberAggregator()
            for name, value in logprobs.items():
                self._logprobs.add(name, value)
        if not payload.keys() <= known:
            for name, value in payload.items():
                if name not in _CHOICE:
                    keep_last(self._extra, name, value)

    def _built_logprobs(self, names: tuple[str, ...]) -> Object | None:
        """Return the logprobs, with null for those of `names` that never came."""
        if self._logprobs is None:
            return None
        return {**dict.fromkeys(names), **self._logprobs.build()}


class ChatChoice(_Choice):
    """A choice of a chat, from its deltas.

    A `message` is read as a delta. After deltas or after the finish reason it only repeats them and is ignored.
    """

    __slots__ = ("_audio", "_audio_data", "_calls", "_function_call", "_has_deltas", "_message", "_role", "_tracker")

    def __init__(self) -> None:
        super().__init__()
        self._message = MemberAggregator()
        self._role = ""
        self._tracker = ToolCallTracker()
        self._calls: list[_Call] = []
        self._function_call: MemberAggregator | None = None
        self._audio: MemberAggregator | None = None
        self._audio_data: list[str] = []
        self._has_deltas = False

    @property
    def is_cut(self) -> bool:
        if self._reason:
            return False
        function = None if self._function_call is None else self._function_call.text("arguments") or ""
        calls_complete = all(call.is_complete for call in self._calls)
        return not (self._has_content and calls_complete and (function is None or is_complete_json(function)))

    def add(self, payload: Object) -> None:
        delta = payload.get("delta")
        if type(delta) is dict:
            self._has_deltas = True
            self._add_delta(delta)
        elif not (self._has_deltas or self._reason) and isinstance(message := payload.get("message"), dict):
            self._add_delta(message)
        self._add_common(payload, _CHAT_CHOICE)

    def _add_delta(self, delta: Object) -> None:
        for name, value in delta.items():
            if value is None:
                continue
            if name == "role":
                # once, because RAGFlow sends the role in every delta
                self._role = self._role or (value if isinstance(value, str) else "")
            elif name == "tool_calls" and isinstance(value, list):
                for part in self._tracker.assign(value):
                    if part.is_first:
                        self._calls.append(_Call(part.call))
                    self._calls[part.call.number].add(part.entry)
            elif name == "function_call" and isinstance(value, dict):
                call = self._function_call = self._function_call or MemberAggregator()
                for key, part in value.items():
                    if key != "name" or not call.text("name"):  # upstreams repeat the name
                        call.add(key, part)
            elif name == "audio" and isinstance(value, dict):
                audio = self._audio = self._audio or MemberAggregator()
                for key, part in value.items():
                    if key == "data" and isinstance(part, str):
                        self._audio_data.append(part)
                    elif key != "id" or not audio.text("id"):  # every delta repeats the id
                        audio.add(key, part)
            else:
                self._message.add(name, value)

    def build(self, index: int, defaults: EnvelopeDefaults) -> Object:
        """Return the choice of a plain reply. The content suggests a missing finish reason."""
        reason = self._reason
        # Gemini and Ollama end tool calls with `stop`
        if self._calls and reason in ("", "stop"):
            reason = "tool_calls"
        return {
            "index": index,
            "message": self._build_message(defaults),
            "logprobs": self._built_logprobs(("content", "refusal")),
            "finish_reason": reason or ("function_call" if self._function_call is not None else "stop"),
            **self._extra,
        }

    def _build_message(self, defaults: EnvelopeDefaults) -> Object:
        members = self._message.build()
        message: Object = {
            "role": self._role or "assistant",
            "content": None,
            "refusal": members.get("refusal") or None,
        }
        message.update({name: members[name] for name in REASONING if name in members})
        if self._calls:
            message["tool_calls"] = [call.build(defaults) for call in self._calls]
        if self._function_call is not None:
            message["function_call"] = {"name": "", "arguments": "", **self._function_call.build()}
        if self._audio is not None or self._audio_data:
            audio = self._audio.build() if self._audio is not None else {}
            data, transcript = joined_base64(self._audio_data), audio.get("transcript", "")
            message["audio"] = {**audio, "data": data, "transcript": transcript}
        # As OpenAI does: content is null only if the message has something else
        has_other = message["refusal"] is not None or message.keys() & {"tool_calls", "function_call", "audio"}
        message["content"] = members.get("content", None if has_other else "")
        message.update({name: value for name, value in members.items() if name not in _IN_FIXED_ORDER})
        return message


class TextChoice(_Choice):
    """A choice of `/v1/completions`."""

    __slots__ = ("_texts",)

    def __init__(self) -> None:
        super().__init__()
        self._texts: list[str] = []

    def add(self, payload: Object) -> None:
        text = payload.get("text")
        if isinstance(text, str):
            self._texts.append(text)
        self._add_common(payload, _CHOICE)

    def build(self, index: int, _defaults: EnvelopeDefaults) -> Object:
        return {
            "text": "".join(self._texts),
            "index": index,
            "logprobs": self._built_logprobs(()),
            "finish_reason": self._reason or "stop",
            **self._extra,
        }


_KNOWN_OF_CALL = frozenset({"index", "id", "type", "function", "custom"})
_KNOWN_OF_FUNCTION = frozenset({"name", "arguments", "input"})


class _Call:
    """One tool call, without `index`. Its first id, type and name count, because upstreams repeat them."""

    __slots__ = ("_arguments", "_call", "_extra", "_inner_extra", "_kind", "_name", "_type")

    def __init__(self, call: ToolCall) -> None:
        self._call = call
        self._kind = "function"
        self._type = self._name = ""
        self._arguments: list[str] = []
        self._extra: Object = {}
        self._inner_extra: Object = {}

    @property
    def is_complete(self) -> bool:
        arguments = "".join(self._arguments)
        # The input of a custom call is free text: only an empty one is known to be incomplete
        return arguments != "" if self._kind == "custom" else is_complete_json(arguments)

    def add(self, payload: Object) -> None:
        kind = payload.get("type")
        if isinstance(kind, str) and not self._type:
            self._type = kind
        for name, value in payload.items():
            if name in ("function", "custom") and isinstance(value, dict):
                self._kind = name
                self._add_inner(value)
            elif name not in _KNOWN_OF_CALL:
                keep_last(self._extra, name, value)

    def _add_inner(self, payload: Object) -> None:
        name = payload.get("name")
        if isinstance(name, str) and not self._name:
            self._name = name
        arguments = payload.get("arguments", payload.get("input"))
        if arguments is not None:
            # some upstreams send an object where the API has its text
            self._arguments.append(argument_text(arguments))
        if payload.keys() - _KNOWN_OF_FUNCTION:
            for key, value in payload.items():
                if key not in _KNOWN_OF_FUNCTION:
                    keep_last(self._inner_extra, key, value)

    def build(self, defaults: EnvelopeDefaults) -> Object:
        arguments_name = "input" if self._kind == "custom" else "arguments"
        return {
            "id": self._call.id or defaults.new_id("call_"),
            "type": self._type or self._kind,
            self._kind: {"name": self._name, arguments_name: "".join(self._arguments), **self._inner_extra},
            **self._extra,
        }


class MemberAggregator:
    """Joins the members of one object that comes in pieces.

    Texts are joined and lists are extended. Of other values it keeps the last one, and ignores empty ones.
    """

    __slots__ = ("_lists", "_texts", "_values")

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._lists: dict[str, list[Any]] = {}
        self._values: Object = {}

    def add(self, name: str, value: Any) -> None:
        """Add one piece of the member `name`. Null is ignored."""
        if type(value) is str:
            texts = self._texts.get(name)
            if texts is None:
                self._texts[name] = [value]
            else:
                texts.append(value)
        elif type(value) is list:
            self._lists.setdefault(name, []).extend(value)
        elif value is not None:
            keep_last(self._values, name, value)

    def text(self, name: str) -> str | None:
        """Return the joined text, None if no text came."""
        pieces = self._texts.get(name)
        return None if pieces is None else "".join(pieces)

    def build(self) -> Object:
        """Return all members. If a member came as text and as a list, its text becomes the first part of the list."""
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        lists = {
            name: [{"type": "text", "text": texts.pop(name)}, *parts] if texts.get(name) else parts
            for name, parts in self._lists.items()
        }
        return {**self._values, **texts, **lists}


def keep_last(members: Object, name: str, value: Any) -> None:
    """Set the member to `value`, unless `value` is empty and the member has a value."""
    if value is not None and (value not in ({}, []) or name not in members):
        members[name] = value


_BASE64_GROUP = 4


def joined_base64(pieces: Sequence[str]) -> str:
    """Return one base64 text from several. They may be cut anywhere, or each be encoded with its own padding."""
    joined = "".join(pieces)
    # base64 has padding only at its end (RFC 4648, section 4)
    if "=" not in joined.rstrip("=") and len(joined) % _BASE64_GROUP == 0:
        return joined
    data = []
    try:
        for piece in pieces:
            bare = piece.rstrip("=")
            data.append(base64.b64decode(bare + "=" * (-len(bare) % _BASE64_GROUP), validate=True))
    except (ValueError, binascii.Error):
        return joined
    return base64.b64encode(b"".join(data)).decode()
