"""The response to the client: its state, its headers, how an error is reported in each state, and keep-alives.

`KeepAlive` decides when a keep-alive is written; the client protocol has its form. `RequestCycle` is the connection
below, which `server` implements for HTTP/1.1 and for ASGI.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Protocol

import msgspec

from gatepass.clock import Timer
from gatepass.errors import GatepassError
from gatepass.observability.story import token_wait_of
from gatepass.protocols.client_protocol import KeepAliveEncoder, comment_keep_alive
from gatepass.protocols.error_objects import NO_STORE, retry_after
from gatepass.protocols.translation.answer_blocks import Early
from gatepass.proxy.context import RequestContext
from gatepass.sse.event_stream import EventStream
from gatepass.types import OK, Headers, Hidden

SLICE_BYTES = 256 * 1024
"""A reply larger than WHOLE_BYTES is written to the client's connection in slices of this size."""
WHOLE_BYTES = 2 * SLICE_BYTES
"""A reply up to this size is written in one piece. Of a larger one two slices wait in the connection, and slices are
copies, so slicing a smaller reply would save no memory."""

STREAM_HEADERS: Headers = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
)
"""Without the last field nginx buffers event streams; without the second, caches store or compress them."""

NO_CONTENT = 204

SYNTHESIZED_HOLD_S = 5.0
"""Time that the head of a stream is held back if the upstream does not stream: its errors then keep their status."""
STREAM_HOLD_S = 15.0
"""The same for an upstream that streams and sends its head at once.

It is longer than the timeouts that produce an error (a connection 5 s, a credential 10 s). It is shorter than the 30 s
after which the strictest proxies close a connection.
"""
EVERY_S = 12.0
"""Interval between keep-alives. nginx closes a connection without data after 60 s (proxy_read_timeout), simple clients
earlier."""

_STREAM_FIELDS = frozenset(name for name, _ in STREAM_HEADERS)


class ClientResponse(Hidden, msgspec.Struct, eq=False):
    """The response to one request. Its states: not begun, `begun`, `ended`, `is_sent`."""

    cycle: RequestCycle
    context: RequestContext
    begun: bool = False
    ended: bool = False
    """No more bytes are added to it."""
    is_sent: bool = False
    """The client's connection has accepted all of its bytes."""
    is_within_event: bool = False
    """A part of a large event is sent, and the rest waits for the client to read."""
    _is_raw: bool = False

    async def send(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        # a 204 has no content-length (RFC 9110 8.6)
        self._begin(status, headers, (NO_STORE,), None if status == NO_CONTENT else len(body))
        context = self.context
        context.first_byte_s = context.head_s  # the body is written together with its head
        context.access.bytes_out += len(body)
        self.ended = True  # before the write: no keep-alive may follow while it waits for the client
        if len(body) > WHOLE_BYTES:
            body = await self._send_slices(body)
        await self.cycle.write(body, last=True)
        self.is_sent = True

    def begin_stream(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Write the head of a stream, unless a keep-alive has already sent one."""
        if self.begun:
            return
        # the upstream's own would be a second field of the same name
        kept = [field for field in headers if field[0] not in _STREAM_FIELDS]
        self._begin(status, kept, STREAM_HEADERS)

    def begin_raw(self, status: int, headers: Iterable[tuple[bytes, bytes]], length_bytes: int | None) -> None:
        """Write the head of a raw body. A later error can only be reported by closing the connection."""
        self._is_raw = True
        self._begin(status, headers, (NO_STORE,), length_bytes)

    async def send_events(self, data: bytes, *, last: bool = False) -> None:
        if data and self.context.first_byte_s is None:
            self.mark_first_byte()
        self.ended = last
        self.context.access.bytes_out += len(data)
        self.is_within_event = len(data) > WHOLE_BYTES
        if self.is_within_event:
            data = await self._send_slices(data)
        await self.cycle.write(data, last=last)
        self.is_sent, self.is_within_event = last, False

    def try_send_events(self, data: bytes) -> bool:
        """Send the next piece of a begun body, and return True, if the client accepts it at once."""
        if not self.cycle.try_write(data):
            return False
        context = self.context
        if context.first_byte_s is None:
            context.first_byte_s = context.state.clock.now() - context.client_request.arrived_s
        context.access.bytes_out += len(data)
        return True

    async def send_error(self, error: GatepassError) -> None:
        """Report `error` to the client, as the response itself or as the last events of a begun stream.

        A begun raw response stays incomplete, and the connection is closed.
        """
        context = self.context
        context.error = error
        error.trace_id = context.access.trace_id
        if self.ended or self._is_raw:  # an error inside a file would look like its content
            return
        rewords = context.profile_rules.settings.rewords_errors
        if rewords and (wait_s := retry_after(error)) is not None:
            # an import reads it nowhere else; three digits could be a status for RAGFlow
            wait = f"{min(wait_s, 99)} s."
            error.cause = error.cause.removesuffix(f" Retry in {wait}")
            error.advice = f"{error.advice} Retry after {wait}".lstrip()
        if self.begun:
            last_events = b""
            if not error.is_told:
                last_events = context.protocol.stream_error(error, context.streamed_response(), rewords=rewords)
            await self.send_events(last_events, last=True)
            return
        headers = [field for field in context.protocol.error_headers(error) if field != NO_STORE]  # `send` adds it
        if error.trace_id:
            headers.append((b"x-gatepass-trace-id", error.trace_id.encode()))
        body = context.protocol.error_body(error, context.client_request.id)
        await self.send(context.protocol.error_status(error), [*headers, *error.relayed], body)

    def _begin(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], own: Headers, length_bytes: int | None = None
    ) -> None:
        self.begun = True
        context = self.context
        context.access.status = status
        context.head_s = head_s = context.state.clock.now() - context.client_request.arrived_s
        attempt, failover, token_wait_s = None, None, 0.0
        if context.attempt is not None:
            attempt, failover = context.attempt.record, context.attempt.failover
            token_wait_s = attempt.token_wait_s + attempt.renewal_s if attempt.after is None else token_wait_of(attempt)
        timing = b"total;dur=%.1f, token;dur=%.1f" % (head_s * 1000, token_wait_s * 1000)
        if failover is not None and (waits := [one for one in context.attempts() if one.queue_position]):
            wait_s = sum(one.queue_wait_s for one in waits)
            timing += b', queue;dur=%.1f;desc="position %d"' % (wait_s * 1000, waits[0].queue_position)
        request_id = context.client_request.id.encode("latin-1")
        fields = [*headers, *own, *context.cors_headers, (b"x-request-id", request_id), (b"server-timing", timing)]
        if attempt is not None and (attempt.adapted or attempt.after is not None or attempt.requests > 1):
            if changes := attempt.changes:
                fields.append((b"x-gatepass-adapted", ", ".join(changes).encode("latin-1", "replace")))
            if attempt.tried and context.error is not None:
                fields.append((b"x-gatepass-tried", ", ".join(attempt.tried).encode("latin-1", "replace")))
            requests = attempt.requests if attempt.after is None else sum(one.requests for one in context.attempts())
            if requests > 1:
                fields.append((b"x-gatepass-attempts", str(requests).encode()))
            if failover is not None and failover.route.names_targets and attempt.after is not None:
                tried = [f"{one.upstream}/{one.upstream_model or one.model}" for one in context.attempts()]
                names = ", ".join(name for name, _ in groupby(reversed(tried)))
                fields.append((b"x-gatepass-targets", names.encode("latin-1", "replace")))
        if context.protocol.family == "messages" and all(name != b"request-id" for name, _ in fields):
            fields.append((b"request-id", request_id))  # Anthropic's SDKs show it
        if context.admitted is not None:
            is_messages = context.protocol.family == "messages"
            context.admitted.replace_in(fields, context.state.clock.wall(), is_messages=is_messages)
        self.cycle.start(status, fields, length_bytes)

    async def _send_slices(self, data: bytes) -> bytes:
        """Write `data` in slices and return the last one, which the caller writes.

        While a slow client reads, the rest of `data` stays here, where `MemoryBudget` counts it.
        """
        at = 0
        while len(data) - at > SLICE_BYTES:
            await self.cycle.write(data[at : at + SLICE_BYTES])
            at += SLICE_BYTES
            await asyncio.sleep(0)  # `write` does not wait for a client that reads fast
        return data[at:]

    def mark_first_byte(self) -> None:
        context = self.context
        if context.first_byte_s is None:
            context.first_byte_s = context.state.clock.now() - context.client_request.arrived_s


class KeepAlive(msgspec.Struct, eq=False):
    """Hold back the head of a stream, then send the 200 and a keep-alive whenever nothing was sent for EVERY_S.

    An error within the hold time keeps its HTTP status. A keep-alive resets the read timeouts of the client and of the
    proxies on the way, and never splits an event. Nothing follows the end of the reply or `stop`.
    """

    _client_response: ClientResponse
    _encoder: KeepAliveEncoder = comment_keep_alive
    events: EventStream | None = None
    """The stream that the keep-alives are written into, once it has begun."""
    early: Early | None = None
    """What they begin before that."""
    due_s: float = math.inf
    """When the next one is due, by `Clock.now`, if nothing is sent before."""
    timer: Timer | None = None
    """Set in the last second before that."""
    _hold_s: float = math.inf
    _since_s: float = 0.0
    _seen_bytes: int = 0

    def start(self, encoder: KeepAliveEncoder, hold_s: float) -> None:
        """Start the hold time. It spans all attempts, so a second call can only shorten it."""
        state = self._client_response.context.state
        if self._hold_s == math.inf:
            self._encoder, self._since_s = encoder, state.clock.now()
            state.in_flight.add_keep_alive(self, state.clock)
        if hold_s < self._hold_s:
            self._hold_s, self.due_s = hold_s, min(self.due_s, self._since_s + hold_s)

    def stop(self) -> None:
        self._client_response.context.state.in_flight.keep_alives.discard(self)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def send(self) -> None:
        """Send a keep-alive if nothing was sent since the last call, and set when the next one is due."""
        client_response, context = self._client_response, self._client_response.context
        self.timer, now_s = None, context.state.clock.now()
        self.due_s = now_s + EVERY_S
        if client_response.ended or client_response.is_within_event:
            return
        if context.access.bytes_out != self._seen_bytes:
            self._seen_bytes = context.access.bytes_out
            # what arrived last was sent by then; of an MCP stream that is not noted, so a pause may last two intervals
            arrivals = None if context.attempt is None else context.attempt.record.arrivals
            silent_s = 0.0 if arrivals is None else now_s - arrivals.last_s
            if silent_s < EVERY_S:
                self.due_s -= silent_s
                return
        keep_alive = self._encoder(self.events)
        if keep_alive and not client_response.begun:
            client_response.begin_stream(OK, ())
        # a client that does not read gets none: more bytes would only queue
        if keep_alive and client_response.cycle.try_write(keep_alive):
            context.access.bytes_out += len(keep_alive)
            if (begun := self.events or self.early) is not None:
                begun.note_own_event(keep_alive)
        self._seen_bytes = context.access.bytes_out


class RequestCycle(Protocol):
    """The client's side of one request. Implemented for HTTP/1.1 (`server.cycle`) and ASGI (`server.asgi`).

    One task calls `read_body`, then `start`, then `write` and `try_write` until one `write` with
    `last`. If `last` never comes, the connection is closed, so an incomplete reply never looks complete. Bytes sent
    after the client has disconnected are dropped.
    """

    @property
    def connected_before_drain(self) -> bool:
        """Whether the connection was open before gatepass began to refuse new ones."""

    @property
    def gave_up(self) -> bool:
        """Whether gatepass closed the connection because the client did not read."""

    def set_caller(self, caller: str) -> None:
        """Count the connection for `caller`, whose request was accepted."""

    async def read_body(self, limit_bytes: int, claim: Callable[[int], None] | None = None) -> bytes:
        """Return the whole request body. `100 Continue` is not sent before this call.

        `claim` is called with the size in bytes of each arriving piece and may raise Overloaded. The rest of the body
        is then dropped, and the connection closes after the response.
        Raises: BodyTooLarge, InvalidRequest, Overloaded, ReceiveTimeout, ClientGone.
        """

    def start(self, status: int, headers: list[tuple[bytes, bytes]], length_bytes: int | None = None) -> None:
        """Set the response's head, which is sent together with the first bytes of the body.

        `length_bytes`: the size of the body, None if unknown. The implementation chooses the framing.
        """

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send `data` as soon as the client reads. `last` ends the response and returns when all of it is sent."""

    def try_write(self, data: bytes) -> bool:
        """Send `data` without waiting and return True, or send none of it and return False."""

    def unread_s(self) -> float:
        """Return for how long the client has read nothing of the response, or too slowly, although more of it waits."""

    def abort(self) -> None:
        """Close the connection of a client that does not read, at once, and drop what it has not read."""

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the client disconnects before the end of the response, at once if it already has.

        Under ASGI nothing reads from the client before `read_body`.
        """
