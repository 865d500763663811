"""Write a classified reply to the client: whole, event by event, or piece by piece.

`relay` is the entry point. It also notes the usage, the events and the changes of the reply for the access log.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress

from gatepass.cancel import timeout
from gatepass.clock import Clock
from gatepass.errors import TransportFault
from gatepass.http_client.response_body import TAIL_S
from gatepass.proxy.client_response import EVERY_S, WHOLE_BYTES, ClientResponse, KeepAlive
from gatepass.proxy.context import Attempt
from gatepass.proxy.in_flight import FREE_BYTES
from gatepass.proxy.response import (
    EVENT_COPIES,
    BufferedReply,
    ClassifiedReply,
    RawReply,
    StreamingReply,
    SynthesizedStream,
    last_events,
)
from gatepass.proxy.retry import COMPLETE
from gatepass.proxy.upstream_call import connection_error
from gatepass.sse.event_stream import EventStream
from gatepass.types import OK, Response, header

UNREAD_BYTES = 512 * 1024
"""Memory of a stalled stream in addition to its unsent events: pieces that were read after them, and unsent bytes in
the client's connection."""


def relay(
    classified: ClassifiedReply, attempt: Attempt, client_response: ClientResponse, keep_alive: KeepAlive
) -> Awaitable[None]:
    """Write `classified` to the client; raise the error that ended a stream early."""
    if isinstance(classified, BufferedReply):  # most are
        _note(attempt, client_response, classified)
        return client_response.send(classified.status, classified.headers, classified.body)
    if isinstance(classified, StreamingReply):
        keep_alive.events = classified.events
        keep_alive.due_s = min(keep_alive.due_s, attempt.state.clock.now() + EVERY_S)  # the hold time is over
        return _relay_stream(classified, attempt, client_response)
    if isinstance(classified, RawReply):
        return _relay_raw(classified, attempt, client_response)
    # a SynthesizedStream
    _note(attempt, client_response, classified)
    client_response.begin_stream(OK, classified.headers)
    return client_response.send_events(classified.body, last=True)


def _note(
    attempt: Attempt, client_response: ClientResponse, reply: BufferedReply | SynthesizedStream | EventStream
) -> None:
    """Note for the access log what the reply is, or was up to its end."""
    access = client_response.context.access
    access.usage = reply.usage
    if reply.events or reply.is_empty:
        access.events, access.empty_answer = reply.events, reply.is_empty
    if adapted := reply.adapted:
        attempt.add_changes(adapted)


async def _relay_stream(stream: StreamingReply, attempt: Attempt, client_response: ClientResponse) -> None:
    """Send each run of complete events as soon as it arrives, and close `stream.response`."""
    events, response, turns = stream.events, stream.response, attempt.state.turns
    try:
        headers = attempt.upstream.response_headers.select(response.headers)
        client_response.begin_stream(OK, headers)
        writer, at_end = _EventWriter(stream, attempt, client_response), stream.body_ended
        while not (at_end or events.done or events.failure is not None):
            await writer.flush()
            if events.waiting:
                await turns.wait()  # a large piece is parsed in slices: other requests run in between
                writer.relay_piece(b"")  # the next slice of the waiting bytes
                continue
            try:
                at_end = await response.stream_to(writer.relay_piece)
                if at_end:
                    writer.held = await last_events(events, turns)
            except TransportFault as fault:
                events.fail(connection_error(attempt, fault))
                at_end = True
        if events.awaits_usage:
            await writer.flush()
            writer.held = await _late_usage(events, response, attempt.state.clock)
        if len(writer.held) > WHOLE_BYTES:
            await writer.flush()  # more may be left behind a large event
        if events.failure is not None:
            await client_response.send_events(writer.held)
            raise events.failure  # noqa: TRY301 - the response is closed below
        response.finish()
        attempt.end(COMPLETE)
        await client_response.send_events(writer.held, last=True)
    except BaseException:  # a client that disconnects in mid-stream arrives here as a cancellation
        client_response.context.streamed = events.streamed  # for the error event
        await response.aclose()
        raise
    finally:
        _note(attempt, client_response, events)


async def _late_usage(events: EventStream, response: Response, clock: Clock) -> bytes:
    """Return the end of a stream whose `[DONE]` came before its usage, for which the upstream has TAIL_S."""
    ready = [events.feed()]

    def write(piece: bytes) -> bool:
        ready.append(events.feed(piece))
        return events.awaits_usage

    if events.awaits_usage:
        with suppress(TimeoutError, TransportFault):
            await timeout(clock, TAIL_S, response.stream_to(write), TimeoutError())
    return b"".join((*ready, events.finish()))


async def _relay_raw(raw: RawReply, attempt: Attempt, client_response: ClientResponse) -> None:
    """Relay the body in pieces as fast as the client reads.

    A failure before its first byte is an error of its own, a later one leaves the response unfinished.
    """
    response = raw.response
    headers = attempt.upstream.response_headers.select(response.headers)
    length = header(response.headers, b"content-length")
    # the length of a decompressed body is unknown: gatepass relays it without the upstream's content-encoding
    is_coded = header(response.headers, b"content-encoding") not in (None, b"identity")
    length_bytes = int(length) if length is not None and length.isdigit() and not is_coded else None
    held: list[bytes] = []

    def begin() -> None:
        if not client_response.begun:
            client_response.begin_raw(response.status, headers, length_bytes)

    def write(piece: bytes) -> bool:
        begin()
        if client_response.try_send_events(piece):
            return True
        held.append(piece)
        return False

    try:
        if raw.beginning and not write(raw.beginning):
            await client_response.send_events(held.pop())
        while not await response.stream_to(write):
            await client_response.send_events(held.pop())
        begin()
        attempt.end(COMPLETE)
        await client_response.send_events(b"", last=True)
    except TransportFault as fault:
        raise connection_error(attempt, fault) from fault
    finally:
        await response.aclose()


class _EventWriter:
    """Relay pieces while the stream continues and the client reads.

    `held` is the run of events that waits for room in the client's connection or for the end of the stream.
    """

    def __init__(self, stream: StreamingReply, attempt: Attempt, client_response: ClientResponse) -> None:
        self._events = stream.events
        self._access = client_response.context.access
        self._client_response = client_response
        self._memory = attempt.memory
        self._is_translated = attempt.chat is not None
        self._counts_event, self._kept_bytes = attempt.memory is not None and attempt.memory.stream_bytes > 0, 0
        self._try_write = client_response.cycle.try_write
        self._record, self._note_read = attempt.record, attempt.note_read
        self._notes_reads = attempt.record.arrivals is not None
        self._now = attempt.state.clock.now
        self.held = stream.ready

    def relay_piece(self, piece: bytes) -> bool:
        """Parse `piece` and send its events. Return whether the next piece may be read now."""
        # With few calls, because it runs for every piece of every stream. `try_send_events` would also note the first
        # byte, but `flush` has already sent the first events.
        events = self._events
        if piece and self._notes_reads:
            self._note_read(self._now())
        ready = events.feed(piece)
        kept_bytes = events.kept_bytes if self._is_translated else 0
        has_changed = not ready or self._counts_event or kept_bytes != self._kept_bytes
        if has_changed and (memory := self._memory) is not None:
            unfinished_bytes, self._kept_bytes = events.unfinished_bytes, kept_bytes
            self._counts_event = unfinished_bytes > 0
            memory.hold_of_stream(EVENT_COPIES * unfinished_bytes + kept_bytes)
            if memory.held_bytes > FREE_BYTES and memory.is_full():  # what follows must wait
                self.held = ready
                return False
        size_bytes = len(ready)
        if (
            events.done
            or events.failure is not None
            or events.waiting
            or size_bytes > WHOLE_BYTES
            or (ready and not self._try_write(ready))
        ):
            self.held = ready
            return False
        self._access.bytes_out += size_bytes
        return True

    async def flush(self) -> None:
        """Send the events that are held. Return when gatepass may read the next piece."""
        ready, self.held = self.held, b""
        memory, client_response, events = self._memory, self._client_response, self._events
        while ready:
            if len(ready) > WHOLE_BYTES or not client_response.try_send_events(ready):
                if memory is not None:
                    memory.begin_stall(len(ready) + UNREAD_BYTES + events.kept_bytes, client_response.cycle.abort)
                began_s = self._now()
                try:
                    await client_response.send_events(ready)
                finally:
                    self._record.client_wait_s += self._now() - began_s
                    if memory is not None:
                        memory.end_stall(events.kept_bytes)
            ready = events.take() if self._is_translated else b""
        is_over = events.done or events.failure is not None
        if memory is not None and memory.held_bytes > FREE_BYTES and memory.is_full() and not is_over:
            await memory.wait_for_room()
