"""relay: the judged reply goes to the client as it comes."""

from __future__ import annotations

import asyncio

from gatepass.errors import TransportFault
from gatepass.proxy.client_response import ClientResponse
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.keepalive import KeepAlive
from gatepass.proxy.response import BufferedReply, ClassifiedReply, RawReply, StreamingReply, close_finished_stream
from gatepass.proxy.upstream_call import connection_error
from gatepass.sse.event import DONE
from gatepass.sse.event_stream import EventStream
from gatepass.sse.usage import nonempty_usage, usage_of
from gatepass.types import Response, header

OK = 200


async def relay(
    classified: ClassifiedReply, context: RequestContext, client_response: ClientResponse, keep_alive: KeepAlive
) -> None:
    """Write `classified` to the client; raises what broke it off, for the stream's error event.

    `keep_alive`, where it was started, goes on while a stream pauses.
    """
    attempt = context.attempts[-1]
    if isinstance(classified, BufferedReply):  # most are
        context.usage = nonempty_usage(classified.usage or usage_of(classified.body))
        context.empty_answer = classified.is_empty
        attempt.add_changes(classified.adapted)
        await client_response.send(classified.status, classified.headers, classified.body)
        return
    if isinstance(classified, StreamingReply):
        keep_alive.watch_stream(classified.events)
        await _relay_stream(classified, context, client_response)
        await close_finished_stream(classified.response, context.state.in_flight.tasks, context.state.clock)
        return
    if isinstance(classified, RawReply):
        await _relay_raw(classified, attempt, client_response)
        return
    context.usage = nonempty_usage(usage_of(classified.body))
    context.empty_answer = classified.is_empty
    attempt.add_changes(classified.adapted)
    context.events = classified.events.count(b"\n\n") - classified.events.endswith(DONE)
    client_response.begin_stream(OK, classified.headers)
    await client_response.send_events(classified.events, last=True)


async def _relay_stream(stream: StreamingReply, context: RequestContext, client_response: ClientResponse) -> None:
    """Closes the stream where it did not come to its end."""
    attempt = context.attempts[-1]
    try:
        attempt.add_changes(stream.events.adapted)
        client_response.begin_stream(OK, stream.upstream.response_headers.select(stream.response.headers))
        await _relay_events(stream, attempt, client_response)
    except BaseException:  # a client that leaves in mid-stream comes as a cancellation
        await stream.response.aclose()
        raise
    finally:
        context.events = stream.events.events
        context.usage = nonempty_usage(stream.events.usage)
        context.empty_answer = stream.events.is_empty
        attempt.add_changes(stream.events.adapted)


async def _relay_raw(passed: RawReply, attempt: Attempt, client_response: ClientResponse) -> None:
    """Piece by piece, as fast as the client takes them; a failure leaves the response unfinished."""
    hop, response = passed.upstream, passed.response
    held: list[bytes] = []

    def write(piece: bytes) -> bool:
        attempt.capture_reply(piece)
        if client_response.try_send_events(piece):
            return True
        held.append(piece)
        return False

    try:
        client_response.begin_raw(
            response.status, hop.response_headers.select(response.headers), _length_bytes(response)
        )
        while not await response.stream_to(write):
            await client_response.send_events(b"".join(held))
            held.clear()
        await client_response.send_events(b"".join(held), last=True)
    except TransportFault as fault:
        raise connection_error(attempt, fault) from fault
    finally:
        await response.aclose()


def _length_bytes(response: Response) -> int | None:
    """What the upstream announced, where its body is not coded otherwise than it goes on."""
    length = header(response.headers, b"content-length")
    is_coded = header(response.headers, b"content-encoding") not in (None, b"identity")
    return int(length) if length is not None and length.isdigit() and not is_coded else None


async def _relay_events(stream: StreamingReply, attempt: Attempt, client_response: ClientResponse) -> None:
    """Each run of whole events leaves the moment it is here; returns when the stream ended well."""
    events, outlet = stream.events, _EventWriter(stream.events, attempt, client_response, stream.ready)
    at_end = stream.body_ended
    while not (at_end or outlet.is_over):
        await outlet.flush()
        if events.waiting:
            await asyncio.sleep(0)
            outlet.take(b"")
            continue
        try:
            at_end = await stream.response.stream_to(outlet.take)
            if at_end:
                outlet.hold(events.finish())
        except TransportFault as fault:
            events.broken(connection_error(attempt, fault))
            at_end = True
    if events.failure is not None:
        await client_response.send_events(outlet.held)
        raise events.failure
    await client_response.send_events(outlet.held, last=True)


class _EventWriter:
    """Passes pieces on for as long as the stream goes on and the client takes them; the run of events
    that waits, for room or for the stream's last words, is `held`."""

    def __init__(self, events: EventStream, attempt: Attempt, client_response: ClientResponse, ready: bytes) -> None:
        self._events = events
        self._attempt = attempt
        self._keeps_bodies = attempt.state.keeps_bodies
        self._reply = client_response
        self.held = b""
        self.hold(ready)

    @property
    def is_over(self) -> bool:
        return self._events.done or self._events.failure is not None

    def hold(self, ready: bytes) -> None:
        self._attempt.capture_reply(ready)
        self.held = ready

    def take(self, piece: bytes) -> bool:
        """Whether `piece` went on at once, and the next one may come. All in one frame: this is called for each."""
        events = self._events
        ready = events.feed(piece)
        if self._keeps_bodies:
            self._attempt.capture_reply(ready)
        if (
            events.done
            or events.failure is not None
            or events.waiting
            or (ready and not self._reply.try_send_events(ready))
        ):
            self.held = ready
            return False
        return True

    async def flush(self) -> None:
        ready, self.held = self.held, b""
        if ready:
            await self._reply.send_events(ready)
