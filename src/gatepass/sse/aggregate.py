"""One choice of an answer, gathered from its pieces: texts, lists, audio and tool calls.

A whole reply made from a stream, for an upstream that only streams or streamed without being asked.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Protocol

from gatepass.errors import GatepassError, UpstreamInvalid
from gatepass.sse import chunk
from gatepass.sse.chunk import (
    CHAT,
    ENVELOPE,
    LEGACY,
    EnvelopeDefaults,
    Object,
    complete_envelope,
    error_of,
    finish_reason,
    has_content,
    has_output,
    has_too_many_entries,
    is_chunk,
    json_text,
    unwrap,
)
from gatepass.sse.event import Framer, is_json, parse_event, read_json, single_line_data, split_events
from gatepass.sse.tool_calls import ToolCall, ToolCallTracker, is_complete_json
from gatepass.sse.transform import EventTransform
from gatepass.types import UpstreamErrorBody

_CHOICE = frozenset({"index", "delta", "message", "text", "logprobs", "finish_reason"})
_CHAT_CHOICE = frozenset({"index", "delta", "logprobs", "finish_reason"})
_REASONING = ("reasoning_content", "reasoning")
_PLACED = frozenset({"role", "content", "refusal", *_REASONING})


class Choice(Protocol):
    """`has_finished` is set by a finish reason; an empty one (Ollama, SGLang) is none. `has_said`: something
    beyond a role, be it that it is finished."""

    @property
    def has_finished(self) -> bool: ...
    @property
    def has_said(self) -> bool: ...
    @property
    def is_cut(self) -> bool:
        """Whether it lacks a finish reason, and content or the end of a call's arguments too."""
        ...

    def add(self, payload: Object) -> None: ...
    def whole(self, index: int, defaults: EnvelopeDefaults, /) -> Object:
        """The choice as a plain reply has it; without a finish reason it gets the one that its content suggests."""
        ...


class _Ends:
    """What both kinds of choices tell beside their text."""

    __slots__ = ("_has_content", "_logprobs", "_reason", "_rest", "has_said")

    def __init__(self) -> None:
        self.has_said = self._has_content = False
        self._reason = ""
        self._logprobs: MemberAggregator | None = None
        self._rest: Object = {}

    @property
    def has_finished(self) -> bool:
        return bool(self._reason)

    @property
    def is_cut(self) -> bool:
        return not (self._reason or self._has_content)

    def _add_ends(self, payload: Object, known: frozenset[str]) -> None:
        self.has_said = self.has_said or has_output(payload)
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
                    keep_last(self._rest, name, value)

    def _ends(self, names: tuple[str, ...]) -> Object | None:
        """The logprobs, with null for those of `names` that never came."""
        if self._logprobs is None:
            return None
        return {**dict.fromkeys(names), **self._logprobs.whole()}


class ChatChoice(_Ends):
    """A choice of a chat. `delta` and `message` both count, but a message after deltas, or after the
    end, repeats what was said."""

    __slots__ = ("_audio", "_audio_data", "_call", "_has_deltas", "_message", "_role", "_tools")

    def __init__(self) -> None:
        super().__init__()
        self._message = MemberAggregator()
        self._role = ""
        self._tools: ToolCallAggregator | None = None
        self._call: MemberAggregator | None = None
        self._audio: MemberAggregator | None = None
        self._audio_data: list[str] = []
        self._has_deltas = False

    @property
    def is_cut(self) -> bool:
        if self._reason:
            return False
        function = None if self._call is None else self._call.text("arguments") or ""
        calls_whole = self._tools is None or self._tools.are_whole
        return not (self._has_content and calls_whole and (function is None or is_complete_json(function)))

    def add(self, payload: Object) -> None:
        delta = payload.get("delta")
        if type(delta) is dict:
            self._has_deltas = True
            self._add_delta(delta)
        elif not (self._has_deltas or self._reason) and isinstance(message := payload.get("message"), dict):
            self._add_delta(message)
        self._add_ends(payload, _CHAT_CHOICE)

    def _add_delta(self, delta: Object) -> None:
        for name, value in delta.items():
            if value is None:
                continue
            if name == "role":
                self._role = self._role or (value if isinstance(value, str) else "")
            elif name == "tool_calls" and isinstance(value, list):
                self._tools = self._tools or ToolCallAggregator()
                self._tools.add(value)
            elif name == "function_call" and isinstance(value, dict):
                self._add_call(value)
            elif name == "audio" and isinstance(value, dict):
                self._add_audio(value)
            else:
                self._message.add(name, value)

    def _add_call(self, payload: Object) -> None:
        """The legacy way to call one function: its name counts once."""
        call = self._call = self._call or MemberAggregator()
        for name, value in payload.items():
            if name != "name" or not call.text("name"):
                call.add(name, value)

    def _add_audio(self, payload: Object) -> None:
        audio = self._audio = self._audio or MemberAggregator()
        for name, value in payload.items():
            if name == "data" and isinstance(value, str):
                self._audio_data.append(value)
            elif name != "id" or not audio.text("id"):
                audio.add(name, value)

    def whole(self, index: int, defaults: EnvelopeDefaults) -> Object:
        return {
            "index": index,
            "message": self._whole_message(defaults),
            "logprobs": self._ends(("content", "refusal")),
            "finish_reason": self._whole_reason(),
            **self._rest,
        }

    def _whole_reason(self) -> str:
        reason = self._reason
        if self._tools and reason in ("", "stop"):
            return "tool_calls"
        return reason or ("function_call" if self._call is not None else "stop")

    def _whole_message(self, defaults: EnvelopeDefaults) -> Object:
        told = self._message.whole()
        message: Object = {"role": self._role or "assistant", "content": None, "refusal": told.get("refusal") or None}
        message.update({name: told[name] for name in _REASONING if name in told})
        if self._tools:
            message["tool_calls"] = self._tools.whole(defaults)
        if self._call is not None:
            message["function_call"] = {"name": "", "arguments": "", **self._call.whole()}
        if self._audio is not None or self._audio_data:
            message["audio"] = self._whole_audio()
        has_other = message["refusal"] is not None or message.keys() & {"tool_calls", "function_call", "audio"}
        message["content"] = told.get("content", None if has_other else "")
        message.update({name: value for name, value in told.items() if name not in _PLACED})
        return message

    def _whole_audio(self) -> Object:
        told = self._audio.whole() if self._audio is not None else {}
        return {**told, "data": joined_base64(self._audio_data), "transcript": told.get("transcript", "")}


class TextChoice(_Ends):
    """A choice of `/v1/completions`."""

    __slots__ = ("_texts",)

    def __init__(self) -> None:
        super().__init__()
        self._texts: list[str] = []

    def add(self, payload: Object) -> None:
        text = payload.get("text")
        if isinstance(text, str):
            self._texts.append(text)
        self._add_ends(payload, _CHOICE)

    def whole(self, index: int, _origin: EnvelopeDefaults) -> Object:
        return {
            "text": "".join(self._texts),
            "index": index,
            "logprobs": self._ends(()),
            "finish_reason": self._reason or "stop",
            **self._rest,
        }


def new_choice(payload: Any) -> ChatChoice | TextChoice:
    """The kind that the first piece of a choice tells."""
    is_text = "text" in payload and "delta" not in payload and "message" not in payload
    return TextChoice() if is_text else ChatChoice()


_BASE64_GROUP = 4


class MemberAggregator:
    """The members of one object that comes in pieces: texts are joined, lists are extended, of
    anything else the last value counts that says something."""

    __slots__ = ("_lists", "_texts", "_values")

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._lists: dict[str, list[Any]] = {}
        self._values: Object = {}

    def add(self, name: str, value: Any) -> None:
        """One piece of the member `name`; null says nothing."""
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
        """The whole text, None where no piece of one came."""
        pieces = self._texts.get(name)
        return None if pieces is None else "".join(pieces)

    def whole(self) -> Object:
        """All members, whole. Where a member came in texts and in lists the texts are parts among its parts."""
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        parted = {
            name: [{"type": "text", "text": texts.pop(name)}, *parts] if texts.get(name) else parts
            for name, parts in self._lists.items()
        }
        return {**self._values, **texts, **parted}


def keep_last(payload: Object, name: str, value: Any) -> None:
    """Remember `value` unless it says nothing and something was said before."""
    if value is not None and (value not in ({}, []) or name not in payload):
        payload[name] = value


def joined_base64(pieces: Sequence[str]) -> str:
    """One base64 text for what came in several: cut anywhere, or each encoded by itself with its padding."""
    joined = "".join(pieces)
    if "=" not in joined.rstrip("=") and len(joined) % _BASE64_GROUP == 0:
        return joined
    try:
        return base64.b64encode(b"".join(_decoded(piece) for piece in pieces)).decode()
    except (ValueError, binascii.Error):
        return joined


def _decoded(piece: str) -> bytes:
    bare = piece.rstrip("=")
    return base64.b64decode(bare + "=" * (-len(bare) % _BASE64_GROUP), validate=True)


_KNOWN_OF_CHOICE = frozenset({"index", "id", "type", "function", "custom"})
_NAMED = frozenset({"name", "arguments", "input"})


class ToolCallAggregator:
    """Puts tool deltas together; calls come out in the order of appearance, without `index`."""

    __slots__ = ("_calls", "_whole")

    def __init__(self) -> None:
        self._calls = ToolCallTracker()
        self._whole: list[_Call] = []

    def __len__(self) -> int:
        return len(self._whole)

    @property
    def are_whole(self) -> bool:
        return all(call.is_whole for call in self._whole)

    def add(self, entries: list[Any]) -> None:
        for piece in self._calls.assign(entries):
            if piece.is_first:
                self._whole.append(_Call(piece.call))
            self._whole[piece.call.number].add(piece.entry)

    def whole(self, defaults: EnvelopeDefaults) -> list[Object]:
        return [call.whole(defaults) for call in self._whole]


class _Call:
    """One call. Its id, type and name count once, whatever repeats them; its arguments are joined."""

    __slots__ = ("_arguments", "_call", "_inner", "_kind", "_name", "_rest", "_type")

    def __init__(self, call: ToolCall) -> None:
        self._call = call
        self._kind = "function"
        self._type = self._name = ""
        self._arguments: list[str] = []
        self._rest: Object = {}
        self._inner: Object = {}

    def add(self, payload: Object) -> None:
        kind = payload.get("type")
        if isinstance(kind, str) and not self._type:
            self._type = kind
        for name, value in payload.items():
            if name in ("function", "custom") and isinstance(value, dict):
                self._kind = name
                self._add_inner(value)
            elif name not in _KNOWN_OF_CHOICE:
                keep_last(self._rest, name, value)

    def _add_inner(self, payload: Object) -> None:
        name = payload.get("name")
        if isinstance(name, str) and not self._name:
            self._name = name
        arguments = payload.get("arguments", payload.get("input"))
        if arguments is not None:
            self._arguments.append(arguments if isinstance(arguments, str) else json_text(arguments).decode())
        if payload.keys() - _NAMED:
            for key, value in payload.items():
                if key not in _NAMED:
                    keep_last(self._inner, key, value)

    @property
    def is_whole(self) -> bool:
        """Whether it has all that it is called with; whether a text is whole, no text tells."""
        arguments = "".join(self._arguments)
        return arguments != "" if self._kind == "custom" else is_complete_json(arguments)

    def whole(self, defaults: EnvelopeDefaults) -> Object:
        text = "input" if self._kind == "custom" else "arguments"
        return {
            "id": self._call.id or defaults.new_id("call_"),
            "type": self._type or self._kind,
            self._kind: {"name": self._name, text: "".join(self._arguments), **self._inner},
            **self._rest,
        }


MAX_CHOICES = 1024
"""More are no answer to any request (OpenAI takes an `n` of 128), and each costs memory."""

_KNOWN = frozenset({*ENVELOPE, "choices", "usage", "obfuscation"})
"""`obfuscation` pads each event of OpenAI's by random letters; a plain reply has none."""


class CompletionAggregator:
    """Takes the events of one stream, gives the `chat.completion` (or `text_completion`) that they are.

    `failure` is set as soon as there will be no answer: the upstream's own error event in its own
    words, an event that is no JSON, more than `limit_bytes` of events. `finish` raises it, and raises
    `upstream_closed` for a stream that was cut: one with neither `[DONE]` nor a finish reason for each
    of `choices`, or with a choice that `is_cut` before `[DONE]`. No call after `failure` keeps anything.

    `read_error` reads an upstream's error out of a JSON value, or returns None.
    """

    __slots__ = (
        "_bytes_left",
        "_choices",
        "_choices_wanted",
        "_envelope",
        "_is_done",
        "_is_over",
        "_missing",
        "_origin",
        "_read_error",
        "_rest",
        "_upstream",
        "_usage",
        "failure",
    )

    def __init__(
        self,
        upstream: str,
        limit_bytes: int,
        read_error: Callable[[Any], UpstreamErrorBody | None],
        defaults: EnvelopeDefaults,
        *,
        choices: int = 1,
    ) -> None:
        self.failure: GatepassError | None = None
        self._upstream = upstream
        self._bytes_left = limit_bytes
        self._read_error = read_error
        self._origin = defaults
        self._choices_wanted = choices
        self._choices: dict[int, Choice] = {}
        self._envelope: Object = {}
        self._missing: tuple[str, ...] = ENVELOPE
        self._rest: Object = {}
        self._usage: Object | None = None
        self._is_done = self._is_over = False

    def feed(self, run: bytes) -> None:
        """Take a run of whole events, of any line ends."""
        if self._is_over:
            return
        self._bytes_left -= len(run)
        if self._bytes_left < 0:
            self.fail(_too_large(self._upstream))
            return
        if (data := single_line_data(run)) is not None:
            self._add(data.strip(), b"")
            return
        for block in split_events(run):
            self._take(block)

    def finish(self) -> bytes:
        """The reply as JSON; raises `failure`, or that there was no answer or only a part of one."""
        if self.failure is None and not self._choices:
            self.failure = chunk.stream_empty(self._upstream)
        elif self.failure is None and not self._is_complete:
            self.failure = chunk.stream_closed(self._upstream)
        elif self.failure is None and not any(choice.has_said for choice in self._choices.values()):
            self.failure = chunk.stream_empty(self._upstream)
        elif self.failure is None and any(choice.is_cut for choice in self._choices.values()):
            self.failure = chunk.stream_closed(self._upstream)
        if self.failure is not None:
            raise self.failure
        try:
            return json_text(self._document())
        except ValueError:
            raise chunk.event_not_json(self._upstream) from None

    @property
    def is_over(self) -> bool:
        """Whether nothing that may come matters any more: `[DONE]` was here, or there is a failure."""
        return self._is_over

    @property
    def _is_complete(self) -> bool:
        if self._is_done:
            return True
        finished = [choice.has_finished for choice in self._choices.values()]
        return len(finished) >= self._choices_wanted and all(finished)

    def fail(self, error: GatepassError) -> None:
        """There will be no answer: `error` says why."""
        self.failure = error
        self._is_over = True
        self._choices, self._rest = {}, {}

    def _take(self, block: bytes) -> None:
        """One event of several; after the last one that counts nothing is done."""
        if self._is_over:
            return
        data, name = single_line_data(block), b""
        if data is None:
            event = parse_event(block)
            data, name = event.data or b"", event.name
        self._add(data.strip(), name)

    def _add(self, data: bytes, name: bytes) -> None:
        if not data or data.startswith(b":"):
            return
        if data == b"[DONE]":
            self._is_done = self._is_over = True
            return
        try:
            payload = read_json(data)
        except ValueError:
            if name != b"error":
                self.fail(chunk.event_not_json(self._upstream))
                return
            payload = data.decode("utf-8", "replace")
        self._add_said(payload, name)

    def _add_said(self, payload: Any, name: bytes) -> None:
        fields = payload if isinstance(payload, dict) else {}
        choices = fields.get("choices")
        if name == b"error" or not choices or fields.get("error") or fields.get("object") == "error":
            error_body = self._read_error(payload)
            if error_body is None and name == b"error":
                error_body = self._read_error({"error": payload}) or chunk.UNREADABLE
            if error_body is not None:
                self.fail(chunk.upstream_error_event(self._upstream, error_body))
                return
            fields = unwrap(fields)
            choices = fields.get("choices")
            if not is_chunk(fields):
                return
        elif (error := error_of(choices)) is not None:
            error_body = self._read_error({"error": error}) or chunk.UNREADABLE
            self.fail(chunk.upstream_error_event(self._upstream, error_body))
            return
        if isinstance(choices, list):
            if has_too_many_entries(choices):
                self.fail(chunk.too_many_choices(self._upstream))
                return
            self._add_choices(choices)
        self._add_rest(fields)

    def _add_choices(self, choices: list[Any]) -> None:
        for place, payload in enumerate(choices):
            if not isinstance(payload, dict):
                continue
            index = payload.get("index")
            if type(index) is not int:
                index = place
            choice = self._choices.get(index)
            if choice is None:
                if len(self._choices) >= MAX_CHOICES:
                    self.fail(chunk.too_many_choices(self._upstream))
                    return
                choice = self._choices[index] = new_choice(payload)
            choice.add(payload)

    def _add_rest(self, fields: Object) -> None:
        usage = fields.get("usage")
        if usage and isinstance(usage, dict):
            self._usage = usage
        for name in self._missing:
            if fields.get(name):
                self._envelope[name] = fields[name]
                self._missing = tuple(other for other in ENVELOPE if other not in self._envelope)
        if not (fields.keys() <= _KNOWN or self._is_over):
            for name, value in fields.items():
                if name not in _KNOWN:
                    keep_last(self._rest, name, value)

    def _document(self) -> Object:
        is_text = any(isinstance(choice, TextChoice) for choice in self._choices.values())
        head = complete_envelope(
            self._envelope, self._origin, LEGACY if is_text else CHAT, "cmpl-" if is_text else "chatcmpl-"
        )
        found = sorted(self._choices.items(), key=itemgetter(0))
        choices = [choice.whole(index, self._origin) for index, choice in found]
        usage: Object = {} if self._usage is None else {"usage": self._usage}
        return {**head, "choices": choices, **usage, **self._rest}


def _too_large(upstream: str) -> GatepassError:
    return UpstreamInvalid("The upstream's answer is larger than limits.reply_bytes.", upstream=upstream)


_BOM = b"\xef\xbb\xbf"


class StreamAggregator(Protocol):
    """What makes one reply of whole events: of a chat's (aggregator.py), or of a response's (relay/responses/)."""

    @property
    def is_over(self) -> bool: ...
    def feed(self, run: bytes) -> None: ...
    def fail(self, error: GatepassError) -> None: ...
    def finish(self) -> bytes: ...


class BodyAggregator:
    """Takes the pieces of a body, gives the reply: frames the events, shapes them, and adds them up.

    It wants no more after the last event or the first error. What is held is one event of `event_limit_bytes`, what
    the shapers hold, and the answer, which the aggregator bounds. A last event without its blank line counts
    where it is whole.
    """

    __slots__ = ("_aggregator", "_framer", "_has_begun", "_shapers", "_upstream")

    def __init__(
        self,
        upstream: str,
        aggregator: StreamAggregator,
        event_limit_bytes: int,
        shapers: Sequence[EventTransform] = (),
    ) -> None:
        self._upstream = upstream
        self._aggregator = aggregator
        self._framer = Framer(event_limit_bytes)
        self._shapers = tuple(shapers)
        self._has_begun = False

    @property
    def adapted(self) -> tuple[str, ...]:
        """What its shapers have changed so far."""
        return tuple(dict.fromkeys(name for transform in self._shapers for name in transform.adapted))

    def feed(self, piece: bytes) -> bool:
        """Whether more is wanted after `piece`."""
        if run := self._framer.feed(piece):
            self._add(run)
        if self._framer.overflowed:
            self._aggregator.fail(chunk.event_too_large(self._upstream))
        return not self._aggregator.is_over

    def finish(self) -> bytes:
        """The reply as JSON; raises what the aggregator's `finish` does."""
        tail = self._framer.tail
        data = (parse_event(tail + b"\n\n").data or b"").strip()
        if is_json(data) or data == b"[DONE]":
            self._add(tail + b"\n\n")
        for at, transform in enumerate(self._shapers):
            self._shape(transform.finish(), at + 1)
        return self._aggregator.finish()

    def _add(self, run: bytes) -> None:
        if not self._has_begun:
            self._has_begun = True
            run = run.removeprefix(_BOM)
        self._shape(run, 0)

    def _shape(self, run: bytes, first: int) -> None:
        for transform in self._shapers[first:]:
            if run:
                run = transform.feed(run)
        if run:
            self._aggregator.feed(run)
