"""Build an aggregated reply: one whole reply from the events of a stream.

gatepass does this for an upstream that only streams, or that streams without being asked. `CompletionAggregator` joins
the chunks of a chat or of `/v1/completions`. The aggregators of the other APIs are in `protocols`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from msgspec.structs import replace

from gatepass.errors import GatepassError, UpstreamErrorReply
from gatepass.json_body import takes_long
from gatepass.sse import chunk
from gatepass.sse.choice_aggregate import CompletionMerge, TooManyEntries
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import EnvelopeDefaults, Object, StreamSource
from gatepass.sse.event import LARGE_EVENT_BYTES, EventTransform
from gatepass.sse.event_stream import EventStream
from gatepass.sse.progress import Progress
from gatepass.sse.repair import ChunkRepair, EventRepair

MOST_BYTES = 12 * 1024 * 1024
"""Limit of an aggregated reply. The text of the longest answers has 0.5 MiB."""


class StreamAggregator(EventStream, ABC):
    """An EventStream that makes one reply of its events: of a completion (below), or of another API (protocols/).

    `feed` returns nothing. `source.limit_bytes` limits the whole body. After the last event or a failure `is_over` is
    True, and further events are ignored.

    While `is_heavy`, the caller calls `feed` outside of the event loop, and after the last piece `finish`, if
    `is_large`.
    """

    def __init__(
        self,
        source: StreamSource,
        event_bytes: int,
        done_is_required: bool = True,
        *,
        progress: Progress | None = None,
        choices: int = 1,
        transform: EventTransform | None = None,
        repair: EventRepair | None = None,
    ) -> None:
        super().__init__(
            replace(source, limit_bytes=event_bytes),
            done_is_required,
            progress=progress,
            choices=choices,
            dialect_transform=transform,
            repair=repair or EventRepair(),
            wants_usage=True,
        )
        self._limit_bytes = self._bytes_left = source.limit_bytes
        self._unchecked_bytes = 0

    @property
    def adapted(self) -> tuple[str, ...]:
        """The names of the changes of the answer. A whole reply has no lines and events."""
        return tuple(name for name in super().adapted if not name.startswith("sse="))

    @property
    def is_over(self) -> bool:
        return self._is_over

    @property
    def is_heavy(self) -> bool:
        """Whether the next `feed` takes an event above LARGE_EVENT_BYTES, or compares the reply with its limits."""
        return max(len(self.waiting), self._unchecked_bytes) > LARGE_EVENT_BYTES

    @property
    def is_large(self) -> bool:
        """Whether to write the reply takes long."""
        return self._limit_bytes - self._bytes_left > LARGE_EVENT_BYTES

    def feed(self, piece: bytes = b"") -> bytes:
        """Take the next bytes of the body."""
        if self._unchecked_bytes > LARGE_EVENT_BYTES:
            self._unchecked_bytes = 0
            if self.failure is None:
                try:  # whether the reply so far can be built within 50 ms
                    self._write(self._collected())
                except GatepassError as error:
                    self.fail(error)
        self._unchecked_bytes += len(piece)
        self._bytes_left -= len(piece)
        if self._bytes_left < 0:
            self.fail(chunk.reply_too_large(self._source.upstream))
        super().feed(piece)
        while self.waiting and not (self.is_heavy or self._is_over):
            super().feed()
        return b""

    def _write(self, reply: Any) -> bytes:
        try:
            text = chunk.json_text(reply)
        except ValueError:
            raise chunk.event_not_json(self._source.upstream) from None
        if len(text) > MOST_BYTES or takes_long(text):
            raise chunk.answer_too_large(self._source.upstream)
        return text

    def fail(self, error: GatepassError) -> None:
        """Drop the collected events, and ignore further ones. `finish` raises `error`."""
        self.failure, self.done, self._is_over = self._reason(error), False, True

    def _fail_by_event(self, failure: UpstreamErrorReply, block: bytes, data: bytes, payload: Any) -> bytes:
        del block, payload  # no event reaches the client
        self._source.keep_original(failure, data)
        self.fail(failure)
        return b""

    def finish(self) -> bytes:
        """Return the reply as JSON, after the last piece.

        Raises `failure`, or an error for a stream that was empty or was cut, or whose reply is too large.
        """
        super().finish()
        if self.failure is not None:
            raise self.failure
        return self._write(self._reply())

    def _repaired(self, block: bytes, payload: Object) -> bytes:
        del block
        self._add(payload)
        return b""

    @abstractmethod
    def _add(self, payload: Object) -> None:
        """Take the JSON object of an event that is not an error."""

    def _collected(self) -> Any:
        return self._reply()

    @abstractmethod
    def _reply(self) -> Object:
        """Return the reply of a complete stream."""


class CompletionAggregator(StreamAggregator):
    """Builds the `chat.completion` or `text_completion` of one stream.

    The chunks are repaired as for a client that reads the stream, and then merged. `cumulative`: cut texts that repeat
    all earlier text to their new part.
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
    ) -> None:
        self._chunks = ChunkRepair[Object](RepairOptions(None, cumulative=cumulative), defaults, dict)
        super().__init__(source, event_bytes, choices=choices, transform=transform, repair=self._chunks)
        self._defaults, self._merged = defaults, CompletionMerge(defaults)

    def fail(self, error: GatepassError) -> None:
        super().fail(error)
        self._merged = CompletionMerge(self._defaults)  # frees the answer, because an error replaces it

    def _add(self, payload: Object) -> None:
        fields = chunk.unwrap(payload)
        if fields.get("choices"):
            self._merge(self._chunks.repair(payload, payload))
        elif chunk.is_chunk(fields):  # the repair would only move its members
            self._merge([*self._chunks.take_held(), fields])

    def _finish_repair(self) -> bytes:
        self._merge(self._chunks.end())
        return b""

    def _merge(self, chunks: list[Object]) -> None:
        try:
            for one in chunks if self.failure is None else ():
                self._merged.add(one)
        except TooManyEntries:
            self.fail(chunk.too_many_choices(self._source.upstream))

    def _reply(self) -> Object:
        return self._merged.build()
