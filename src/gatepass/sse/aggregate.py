"""Build an aggregated reply: one whole reply from the events of a stream.

gatepass does this for an upstream that only streams, or that streams without being asked. `CompletionAggregator` joins
the chunks of a chat or of `/v1/completions`. The aggregators of the other APIs are in `protocols`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from operator import itemgetter
from typing import Any

from gatepass.errors import GatepassError
from gatepass.json_body import BOM, takes_long
from gatepass.sse import chunk, event
from gatepass.sse.choice_aggregate import ChoiceAggregator, EntryCount, TooManyEntries
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import EnvelopeDefaults, Object, StreamSource
from gatepass.sse.event import LARGE_EVENT_BYTES, EventTransform, Framer
from gatepass.sse.event_stream import Progress
from gatepass.sse.repair import ChunkRepair

MOST_BYTES = 12 * 1024 * 1024
"""Limit of an aggregated reply, and of each of its events. The text of the longest answers has 0.5 MiB."""
_WHOLE_REPLY = "12 MiB, the limit of a reply without `stream: true`"
CHECK_BYTES = 1024 * 1024
"""The reply is compared with its limits after this many bytes of events."""


class StreamAggregator(ABC):
    """Builds one reply from the body of a stream: of a completion (below), or of another API (protocols/).

    `failure` is set as soon as the stream cannot give a reply: after an error event of the upstream, after an event
    that is not JSON, or after more than `source.limit_bytes` of events. `finish` raises it. After the last event or a
    failure `is_over` is True, and further events are ignored.

    While `is_heavy`, the caller calls `feed` outside of the event loop, and after the last piece `finish`, if
    `is_large`. `limit` is the setting of `event_bytes`, or its size and the reason.
    """

    def __init__(
        self,
        source: StreamSource,
        event_bytes: int,
        transform: EventTransform | None = None,
        limit: str = chunk.EVENT_BYTES,
    ) -> None:
        self.failure: GatepassError | None = None
        self.is_over = False
        self._upstream = source.upstream
        self._limit_bytes = self._bytes_left = source.limit_bytes
        self._read_error = source.read_error
        self._keep_original = source.keep_original
        self._framer = Framer(min(event_bytes, MOST_BYTES))
        self._limit = limit if event_bytes <= MOST_BYTES else _WHOLE_REPLY
        self._transform = transform
        self._has_begun = self._has_done = False
        self._unchecked_bytes = 0

    @property
    def adapted(self) -> tuple[str, ...]:
        return () if self._transform is None else self._transform.adapted

    @property
    def is_heavy(self) -> bool:
        """Whether the next `feed` takes an event above LARGE_EVENT_BYTES, or compares the reply with its limits."""
        return bool(self._framer.large) or self._unchecked_bytes > CHECK_BYTES

    @property
    def is_large(self) -> bool:
        """Whether to write the reply takes long."""
        return self._limit_bytes - self._bytes_left > CHECK_BYTES

    def feed(self, piece: bytes = b"") -> bool:
        """Take the next bytes of the body. Return False after the last event or the first error."""
        if self._framer.large:
            self._add_run(self._framer.take_large())
        if self._unchecked_bytes > CHECK_BYTES:
            self._check_size()
        if run := self._framer.feed(piece):
            self._add_run(run)
        if self._framer.is_blocked and not self._framer.large:
            self.fail(chunk.event_too_large(self._upstream, self._limit))
        return not self.is_over

    def _check_size(self) -> None:
        """Fail if the reply so far is too large to build within 50 ms."""
        self._unchecked_bytes = 0
        if self.failure is None:
            try:
                self._write(self._collected())
            except GatepassError as error:
                self.fail(error)

    def _write(self, reply: Any) -> bytes:
        try:
            text = chunk.json_text(reply)
        except ValueError:
            raise chunk.event_not_json(self._upstream) from None
        if len(text) > MOST_BYTES or takes_long(text):
            raise chunk.answer_too_large(self._upstream)
        return text

    def _take_tail(self) -> None:
        """Take a last event without its blank line, and the events that the transform held back.

        A large one without it is a cut stream, as in EventStream.
        """
        self.feed()
        tail = self._framer.tail if len(self._framer.unfinished) <= LARGE_EVENT_BYTES else b""
        data = (event.parse_event(tail + b"\n\n").data or b"").strip()
        if event.is_json(data) or data == b"[DONE]":  # a complete last event that only lacks its blank line
            self._add_run(tail + b"\n\n")
        if self._transform is not None:
            self._add_events(self._transform.finish())

    def fail(self, error: GatepassError) -> None:
        """Drop the collected events, and ignore further ones. `finish` raises `error`."""
        self.failure, self.is_over = error, True

    def _fail_by(self, error: Any) -> None:
        """Fail with an error that only its place marks as one."""
        error_body = self._read_error({"error": error}) or chunk.UNREADABLE
        self.fail(chunk.upstream_error_event(self._upstream, error_body))

    def finish(self) -> bytes:
        """Return the reply as JSON, after the last piece.

        Raises `failure`, or an error for a stream that was empty or was cut, or whose reply is too large.
        """
        self._take_tail()
        if self.failure is None:
            self._end()
        if self.failure is not None:
            raise self.failure
        return self._write(self._reply())

    @abstractmethod
    def _add(self, payload: Any, data: bytes) -> None:
        """Take the JSON value of an event that is not an error, and the event's data."""

    def _add_late(self, payload: Any) -> None:
        """Take an event that arrived together with the `[DONE]`, after it."""
        del payload

    @abstractmethod
    def _end(self) -> None:
        """End a stream that has not failed yet: fail if it was empty or was cut."""

    def _collected(self) -> Any:
        return self._reply()

    @abstractmethod
    def _reply(self) -> Object:
        """Return the reply of a complete stream."""

    def _add_run(self, run: bytes) -> None:
        if not self._has_begun:
            self._has_begun = True
            run = run.removeprefix(BOM)
        self._add_events(run if self._transform is None else self._transform.feed(run))

    def _add_events(self, run: bytes) -> None:
        if self.failure is not None or (self.is_over and not self._has_done):  # usage may follow the `[DONE]`
            return
        self._unchecked_bytes += len(run)
        self._bytes_left -= len(run)
        if self._bytes_left < 0:
            self.fail(chunk.reply_too_large(self._upstream))
            return
        if (data := event.single_line_data(run)) is not None:
            self._add_data(data.strip(), b"")
            return
        for block in event.split_events(run):
            if len(block) <= len(b"\r\n"):  # a blank line
                continue
            data, name = event.single_line_data(block), b""
            if data is None:
                parsed = event.parse_event(block)
                data, name = parsed.data or b"", parsed.name
            self._add_data(data.strip(), name)

    def _add_data(self, data: bytes, name: bytes) -> None:
        if self.is_over or not data or data.startswith(b":"):  # some upstreams send comments as data
            if self._has_done and self.failure is None and event.is_json(data):
                self._add_late(event.read_json(data))
            return
        if data == b"[DONE]":
            self._has_done = self.is_over = True
            return
        try:
            payload = chunk.event_value(data, name)
        except ValueError:
            self.fail(chunk.event_not_json(self._upstream))
            return
        error_body = chunk.error_in_event(payload, name, self._read_error)
        if error_body is not None:
            failure = chunk.upstream_error_event(self._upstream, error_body)
            self._keep_original(failure, data)
            self.fail(failure)
            return
        self._add(payload, data)


_KNOWN_OF_CHUNK = frozenset({*chunk.ENVELOPE, "choices", "usage", "obfuscation"})
"""OpenAI pads each event with a random `obfuscation`; a plain reply has none."""


class CompletionAggregator(StreamAggregator):
    """Builds the `chat.completion` or `text_completion` of one stream.

    The chunks are repaired as for a client that reads the stream, and then merged. `finish` raises `upstream_closed`
    for a stream that was cut:

    - it has neither `[DONE]` nor a finish reason for each of `choices`, or
    - a choice was cut before `[DONE]`: see `ChoiceRepair.reason_at_end`.

    `cumulative`: cut texts that repeat all earlier text to their new part.
    """

    def __init__(
        self,
        source: StreamSource,
        event_bytes: int,
        defaults: EnvelopeDefaults,
        *,
        choices: int = 1,
        cumulative: bool = False,
        transform: EventTransform | None = None,
        limit: str = chunk.EVENT_BYTES,
    ) -> None:
        super().__init__(source, event_bytes, transform, limit)
        self._defaults = defaults
        self._expected_choices = choices
        self._repair = ChunkRepair[Object](RepairOptions(None, cumulative=cumulative), defaults, dict)
        self._progress = Progress()
        self._choices: dict[int, ChoiceAggregator] = {}
        self._entries = EntryCount()
        self._envelope: Object = {}
        self._extra: Object = {}
        self._usage: Object | None = None

    @property
    def adapted(self) -> tuple[str, ...]:
        return (*super().adapted, *self._repair.adapted)

    def fail(self, error: GatepassError) -> None:
        super().fail(error)
        self._choices, self._extra = {}, {}  # frees the answer, because an error replaces it

    def _end(self) -> None:
        progress = self._progress
        # TGI before 2.2 sends no `[DONE]`. Without it every requested choice must have its finish reason.
        if progress.has_choices and not (self._has_done or progress.is_complete(self._expected_choices)):
            self.fail(chunk.stream_closed(self._upstream))
        # vLLM ends a failed stream with `[DONE]` alone (vllm-project/vllm#40986)
        elif not progress.has_answer:
            self.fail(chunk.stream_empty(self._upstream))
        elif not self._repair.end_choices(progress.usage):
            self.fail(chunk.stream_closed(self._upstream))
        else:
            self._merge(self._repair.end())

    def _add(self, payload: Any, data: bytes) -> None:
        fields = chunk.unwrap(payload if isinstance(payload, dict) else {})
        if not chunk.is_chunk(fields):
            return
        choices = fields.get("choices")
        if len(data) > chunk.MAX_ENTRIES_MIN_BYTES and chunk.has_too_many_entries(choices):
            self.fail(chunk.too_many_choices(self._upstream))
        elif len(data) > chunk.MOST_OBJECT_BYTES and chunk.has_objects(choices):
            self.fail(chunk.arguments_too_large(self._upstream))
        else:
            self._progress.note(fields, choices if isinstance(choices, list) else [])
            # the repair of chunks without choices would only move their members
            self._merge(self._repair.repair(payload, payload) if choices else [fields])

    def _add_late(self, payload: Any) -> None:
        if isinstance(payload, dict) and isinstance(usage := chunk.unwrap(payload).get("usage"), dict):
            self._usage = usage
            self._progress.note({"usage": usage}, [])

    def _merge(self, chunks: list[Object]) -> None:
        try:
            for one in chunks:
                self._merge_chunk(one)
        except TooManyEntries:
            self.fail(chunk.too_many_choices(self._upstream))

    def _merge_chunk(self, fields: Object) -> None:
        choices = fields.get("choices")
        choices = [one for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
        for payload in choices:
            index = payload.get("index")
            if type(index) is not int:  # of an error that no client reads, which is not repaired
                continue
            choice = self._choices.get(index)
            if choice is None:
                if len(self._choices) >= chunk.MAX_CHOICES:
                    raise TooManyEntries
                # The first piece of a choice decides its kind
                is_text = "text" in payload and "delta" not in payload
                self._entries.add()
                choice = self._choices[index] = ChoiceAggregator(self._entries, is_text=is_text)
            choice.add(payload)
        usage = fields.get("usage")
        if usage and isinstance(usage, dict):
            self._usage = usage  # the last one: vLLM, SGLang and DashScope can send a usage in every chunk
        for name in chunk.ENVELOPE:
            if name not in self._envelope and fields.get(name):
                self._envelope[name] = fields[name]
        if not fields.keys() <= _KNOWN_OF_CHUNK:
            for name, value in fields.items():
                if name not in _KNOWN_OF_CHUNK:
                    self._entries.keep_last(self._extra, name, value)

    def _reply(self) -> Object:
        is_text = any(choice.is_text for choice in self._choices.values())
        object_name, id_prefix = (chunk.LEGACY, "cmpl-") if is_text else (chunk.CHAT, "chatcmpl-")
        envelope = chunk.complete_envelope(self._envelope, self._defaults, object_name, id_prefix)
        choices = [choice.build(index) for index, choice in sorted(self._choices.items(), key=itemgetter(0))]
        usage: Object = {} if self._usage is None else {"usage": self._usage}
        return {**envelope, "choices": choices, **usage, **self._extra}
