"""One connection of a client: HTTP/1.1 on asyncio and httptools, under uvicorn's server.

uvicorn's own protocol takes 35 µs more for each request. It limits neither the size of a head (see `parser`) nor the
time to receive a request. It keeps an incomplete head or body for more than 31 s, which was measured. nginx has
client_header_timeout and client_body_timeout. asyncio calls the protocol methods, which return at once. Each request
has one task, which waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from enum import StrEnum
from functools import partial
from typing import Any, cast

import msgspec
from uvicorn.config import Config
from uvicorn.server import ServerState

from gatepass.config.advice import with_variable
from gatepass.errors import GatepassError, InternalError, Overloaded, ReceiveTimeout
from gatepass.http_client.connection import Deadline, WriteBatcher
from gatepass.http_client.loop_turns import SMALL_READ_BYTES, LoopTurns
from gatepass.protocols.error_objects import error_body, error_headers
from gatepass.proxy.in_flight import InFlightRequests
from gatepass.server.connection_shares import ConnectionShares, UnfinishedHeads
from gatepass.server.cycle import UNSENT_BYTES, Fields, HttpRequestCycle, header_lines
from gatepass.server.listener_tls import ListenerTls, handshake_error
from gatepass.server.listening import RESET, sent_to
from gatepass.server.parser import RequestParser


def error_response(error: GatepassError) -> bytes:
    """Encode a complete response that ends its connection."""
    body = error_body(error)
    fields: Fields = [*error_headers(error), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    # without a reason, but with the space before it (RFC 9112 4)
    return b"HTTP/1.1 %d \r\n" % error.http_status + header_lines(fields) + b"\r\n" + body


RECEIVE_S = 20.0
"""The time for the head of a request, with the TLS handshake before it, and for each next piece of a body. Apache's
mod_reqtimeout grants as much by default."""
LEAST_BYTES_PER_S = 1024
"""The least average rate of a body, beyond RECEIVE_S, and at which a client reads a response. GPRS, the slowest mobile
network, has four times as much."""
STEP_BYTES = 16 * 1024
"""By how much a client that reads at that rate may be behind it. What the kernel says was acknowledged grows in steps:
Linux opens a full window again at a sixteenth of the buffer, other systems at half of it, or at one segment."""
STALL_S = 300.0
"""The time for which a client may read nothing of a response. A machine that sleeps for some minutes goes on with its
stream."""


def slow_body() -> ReceiveTimeout:
    return ReceiveTimeout(
        f"No more of the request body arrived for {RECEIVE_S:g} s, or it arrived slower than {LEAST_BYTES_PER_S} bytes"
        " per second."
    )


BODY_GRACE_S = 5.0
"""A body that is too late gets a response. This much later its connection is closed."""

LINGER_S = 1.0
"""How long gatepass still reads after an error response.

Closing a connection with unread bytes resets it, and the client never reads the response. nginx has lingering_close.
"""

DRAIN_IDLE_S = 1.0
"""During a drain a connection closes once its client has sent nothing for this long.

A connection in use closes with a response instead: a request that crosses the close would be lost.
"""
DRAIN_RECHECK_S = 0.2
"""How much longer the connection still reads after DRAIN_IDLE_S.

A machine that pauses for a second wakes with this deadline passed and with clients that send their next request.
"""


PROBE_S, LAST_PROBE_S = 0.25, 32.0
"""A client that sends no more is probed: at once, after PROBE_S, and after twice the time before, LAST_PROBE_S at last.

Behind a proxy that forwards TCP, only the second probe meets the reset. Some clients read 16 digits of a chunk's size.
"""


class AwaitedInput(StrEnum):
    """What a deadline waits for."""

    HEAD = "head"
    BODY = "body"
    REST = "rest of a body that is too late"
    NEXT = "next request"
    LAST = "request that its client has already sent, before a drain closes the connection"
    CLOSE = "close by the client after an error response"


_HEAD, _NEXT = AwaitedInput.HEAD, AwaitedInput.NEXT


class ReceiveTimeouts:
    """The deadline of a connection for the input it waits for, at first the head of a request.

    While a complete request is served, no input is awaited. A deadline that passes then has no effect.
    """

    __slots__ = ("_awaited", "_body_since_s", "_deadline", "_loop", "idle_timeout_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], None], idle_timeout_s: float) -> None:
        self._loop = loop
        self._deadline = Deadline(loop, passed)
        self._deadline.set(RECEIVE_S)
        self._body_since_s = 0.0
        """When the connection began to wait for the current body."""
        self.idle_timeout_s = idle_timeout_s
        self._awaited: AwaitedInput | None = _HEAD

    def update(self, parser: RequestParser, serving: HttpRequestCycle | None) -> None:
        """Set the deadline for the next input, unless the connection already waits for it.

        Each piece of a body has one, which ends earlier if the pieces before it were slower than LEAST_BYTES_PER_S.
        """
        cycle, current = parser.cycle, self._awaited
        if parser.in_head:
            awaited, bound_s = _HEAD, RECEIVE_S
        elif cycle is not None:
            if current is AwaitedInput.REST:
                return
            awaited, now_s = AwaitedInput.BODY, self._loop.time()
            if current is not awaited:
                self._body_since_s = now_s
            ahead_s = cycle.size_bytes / LEAST_BYTES_PER_S - (now_s - self._body_since_s)
            if ahead_s > RECEIVE_S:  # what came fast allows no hours of single bytes
                self._body_since_s -= ahead_s - RECEIVE_S
                ahead_s = RECEIVE_S
            bound_s = max(0.0, RECEIVE_S + min(0.0, ahead_s))
            current = None  # sets the deadline again although the body was awaited before
        elif serving is None:
            awaited, bound_s = _NEXT, self.idle_timeout_s
        else:
            self._awaited = None
            return
        if current is not awaited:
            self.start(awaited, bound_s)

    def start(self, awaited: AwaitedInput | None, bound_s: float) -> None:
        self._awaited = awaited
        self._deadline.set(bound_s)

    def clear(self) -> None:
        """Wait for nothing. The next input has its full time."""
        self._awaited = None

    def shorten(self, *, is_idle: bool) -> None:
        """Wait only DRAIN_IDLE_S for each next request; if `is_idle`, also for the one awaited now."""
        if is_idle:
            # counted from the begin of the wait: a connection that has been idle for long closes at once
            granted_s = self.idle_timeout_s if self._awaited is AwaitedInput.NEXT else RECEIVE_S
            left_s = self._deadline.at_s - self._loop.time()
            self.start(self._awaited, max(0.0, left_s - granted_s + DRAIN_IDLE_S))
        self.idle_timeout_s = DRAIN_IDLE_S

    def take_expired(self) -> AwaitedInput | None:
        """Return the input whose deadline passed, and stop waiting for it. None if none is awaited now."""
        awaited, self._awaited = self._awaited, None
        return awaited

    def close(self) -> None:
        self._deadline.close()


Serve = Callable[[HttpRequestCycle], Coroutine[Any, Any, None]]
"""Serves one cycle: a page, or an API request. `connection_context` (process.py) makes it."""

OnRefused = Callable[[GatepassError, str], None]
"""Called with an error that a client receives without a complete request, and with the client's address."""


class ConnectionContext(msgspec.Struct, frozen=True):
    """What all connections of a server share."""

    serve: Serve
    refused: OnRefused
    idle_timeout_s: float
    """Maximum wait of a connection for its next request."""
    shares: ConnectionShares[ClientConnection]
    heads: UnfinishedHeads
    in_flight: InFlightRequests
    tls: ListenerTls | None = None
    write_batcher: WriteBatcher = msgspec.field(default_factory=WriteBatcher)
    turns: LoopTurns = msgspec.field(default_factory=LoopTurns)


class _Handshake(asyncio.Transport):
    """The transport of a connection during its TLS handshake. It sends nothing, and each way to end it cancels."""

    def __init__(self, task: asyncio.Task[Any], accepted: socket.socket) -> None:
        with suppress(OSError):  # the client has closed it
            super().__init__({"socket": accepted, "peername": accepted.getpeername()})
        self._task = task

    def is_closing(self) -> bool:
        return self._task.cancelling() > 0

    def close(self) -> None:
        if not self.is_closing():
            self._task.cancel()

    abort = write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send nothing: the client does not expect plain HTTP."""

    def get_write_buffer_size(self) -> int:
        return 0


LOG = logging.getLogger("gatepass.serve")

HEAD_COPIES = 2
"""Memory of an unfinished head per byte: httptools joins the pieces of a field, and the heap keeps the gaps."""

MOST_AHEAD = 100
"""Requests that wait behind the one in progress. The connection closes after these: one read may have thousands."""

INTERNAL_ERROR = "Internal error while handling the request. Search the gatepass log for `request_failed`."


class ClientConnection(asyncio.Protocol):
    """Serves the requests of one connection in order, one at a time. Pipelined requests are read ahead."""

    __slots__ = (
        *("connected_before_drain", "is_write_paused", "_caller", "_default_lines", "_default_fields", "_deferred"),
        *("_closes_s", "_ignores_input", "_is_ending", "_lingers_until_s", "_loop", "_timeouts", "_queue"),
        *("_head_bytes", "_parser", "_reading_paused", "_context", "_writable_waiter", "_serve", "_current", "_shares"),
        *("gave_up", "_acked_bytes", "_server_state", "_stall_timer", "_unread", "transport"),
    )

    def __init__(
        self,
        context: ConnectionContext,
        *,
        server_state: ServerState,
        config: Config | None = None,  # noqa: ARG002 - uvicorn's signature
        app_state: dict[str, Any] | None = None,  # noqa: ARG002 - uvicorn's signature
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._context, self._serve = context, context.serve
        self._shares = context.shares
        self._server_state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self.transport = cast(asyncio.Transport, None)
        self._parser = RequestParser(self)
        self._timeouts = ReceiveTimeouts(self._loop, self._on_timeout, context.idle_timeout_s)
        self._current: HttpRequestCycle | None = None
        """The cycle that is served. The cycles after it wait in `_queue`."""
        self._queue: list[HttpRequestCycle] = []  # an empty deque takes 700 bytes more
        self._ignores_input = self._reading_paused = False
        self._lingers_until_s = self._closes_s = 0.0
        self._head_bytes = self._acked_bytes = 0
        self._stall_timer: asyncio.TimerHandle | None = None
        self._writable_waiter: asyncio.Future[None] | None = None
        self._default_fields: list[tuple[bytes, bytes]] | None = None
        self._caller = ""
        self._default_lines = self._deferred = self._unread = b""
        self.is_write_paused = self._is_ending = False
        self.connected_before_drain, self.gave_up = True, False

    # called by asyncio and uvicorn

    async def begin_tls(self, accepted: socket.socket, context: ssl.SSLContext) -> None:
        """Serve `accepted` after a TLS handshake, during which it counts as a connection without a key."""
        handshake = _Handshake(cast(asyncio.Task[Any], asyncio.current_task()), accepted)
        self.connection_made(handshake)
        try:
            await self._loop.connect_accepted_socket(
                lambda: self,
                accepted,
                ssl=context,
                ssl_handshake_timeout=RECEIVE_S + 2 * LINGER_S,  # after the deadline for a head
                ssl_shutdown_timeout=STALL_S,
            )
        except ssl.SSLError as error:
            self._context.refused(handshake_error(error), self._parser.peer)
        except OSError:  # the client has closed the connection
            pass
        finally:
            if self.transport is handshake:
                self.connection_lost(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(self.transport, _Handshake):
            self.transport = cast(asyncio.Transport, transport)
            self.transport.set_write_buffer_limits(UNSENT_BYTES)
            return
        self.transport = cast(asyncio.Transport, transport)
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # uvicorn names its own classes
        in_flight = self._context.in_flight
        self._is_ending, self.connected_before_drain = in_flight.draining, not in_flight.refusing
        peer = transport.get_extra_info("peername")
        self._parser.peer = str(peer[0]) if isinstance(peer, tuple | list) else ""  # a Unix socket's is a string
        for connection in self._shares.connect(self):
            connection.evict()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self not in self._server_state.connections:
            return  # TLS: a handshake that was cancelled just when it was complete
        self._server_state.connections.discard(self)
        self._shares.disconnect(self)
        if self._head_bytes:
            self.hold_head(0)
        if self.is_write_paused:
            self.resume_writing()  # wakes a task in `wait_writable`
        cycles = (self._current, self._parser.cycle, *self._queue)
        self._ignores_input, self._unread = True, b""
        self._parser.close()
        self._queue.clear()
        for cycle in cycles:
            if cycle is not None:
                cycle.disconnect()
        self._current = None  # the cycle refers to this object: break the reference cycle
        self._timeouts.close()

    def data_received(self, data: bytes) -> None:
        if self._ignores_input:
            if self._loop.time() < self._lingers_until_s:
                self._timeouts.start(AwaitedInput.CLOSE, LINGER_S)
            return
        if self._unread or (len(data) > SMALL_READ_BYTES and not self._context.turns.begins()):
            if not self._unread:
                self.transport.pause_reading()
                self._context.turns.defer(self._take_turn)
            self._unread += data
        else:
            self._receive(data)

    def _take_turn(self) -> None:
        """Parse the bytes that waited (see LoopTurns). They are dropped if the connection was closed meanwhile."""
        if self._unread and not self._ignores_input:
            self._receive(self._unread)
        self._unread = b""
        if not (self._reading_paused or self.transport.is_closing()):
            self.transport.resume_reading()

    def _receive(self, data: bytes) -> None:
        parser = self._parser
        try:
            parser.feed(data)
        except GatepassError as error:
            self._refuse(error)
        else:
            self._timeouts.update(parser, self._current)

    def eof_received(self) -> bool:
        """Return whether to keep the connection for the responses to complete requests (RFC 9112 9.6)."""
        # uvloop closes the transport next, possibly before the loop runs the WriteBatcher
        self.flush()
        # after TLS the loop closes it in any case
        is_complete = self._parser.is_idle and not self._ignores_input and self.transport.can_write_eof()
        return is_complete and self._probe(PROBE_S)

    def _probe(self, again_s: float) -> bool:
        """Return whether the client, which sends no more, may still read. One that has left resets what is written."""
        cycle = self._current
        if cycle is None or self.transport.is_closing() or not cycle.probe():
            return False
        self._last_cycle().persists = False
        if self._polls(0):
            self.transport.abort()
        elif again_s <= LAST_PROBE_S:
            self._loop.call_later(again_s, self._probe, 2 * again_s)
        return True

    def pause_writing(self) -> None:
        """Limit how long the client may read nothing. The timer exists only while writing is paused."""
        self.is_write_paused = True
        _, self._acked_bytes = sent_to(self.transport.get_extra_info("socket"))
        self._stall_timer = self._loop.call_later(STALL_S, self.abort)

    def resume_writing(self) -> None:
        self.is_write_paused = False
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        waiter, self._writable_waiter = self._writable_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def evict(self) -> None:
        """Close a connection without a request in progress, to make room for others."""
        limit = with_variable("limits.connections")
        evicted = Overloaded(f"An idle connection was closed to make room for others ({limit}).")
        self._context.refused(evicted, self._parser.peer)
        self._close()
        # a close waits until the client has read the response, and with TLS until it closes as well
        if self.transport.get_write_buffer_size() or not self.transport.can_write_eof():
            self._loop.call_later(LINGER_S, self.transport.abort)

    def retire(self) -> None:
        """Close after the next response, with `connection: close` unless its head is already sent."""
        self._is_ending = True

    def close_when_idle(self) -> None:
        """Close after the next response, or as soon as no request is in progress."""
        self._is_ending = True
        if not (self._ignores_input or self.transport.is_closing()):
            self._timeouts.shorten(is_idle=self._is_idle())

    @property
    def is_in_handshake(self) -> bool:
        return isinstance(self.transport, _Handshake)

    @property
    def scheme(self) -> str:
        return "http" if self._context.tls is None else "https"

    @property
    def accepts_requests(self) -> bool:
        return self.connected_before_drain and not (self._ignores_input or self.transport.is_closing())

    def shutdown(self) -> None:
        """Close when all requests of the connection have ended, at once if it is idle (called by uvicorn)."""
        self._is_ending = True
        if self._current is not None:
            self._last_cycle().persists = False
        elif self._is_idle():
            self.close_when_idle()
        elif not self._ignores_input:
            self._linger()

    # called by the parser

    def hold_head(self, size_bytes: int) -> None:
        """Count `size_bytes` of an incomplete head, 0 once it is complete. Raises Overloaded above the limit."""
        heads, held_bytes = self._context.heads, HEAD_COPIES * size_bytes
        heads.total_bytes += held_bytes - self._head_bytes
        self._head_bytes = held_bytes
        if size_bytes and heads.total_bytes > heads.limit_bytes:
            self.hold_head(0)
            limit = with_variable("limits.held_bytes")
            raise Overloaded(f"The heads of other requests that have not arrived take all memory ({limit}).")

    def begin_cycle(self, cycle: HttpRequestCycle) -> None:
        """Serve `cycle` after the cycles before it."""
        if self._current is None:
            self._current = cycle
            self._shares.begin(self)
            task = self._loop.create_task(self._serve(cycle))
            self._server_state.tasks.add(task)  # uvicorn's shutdown waits for these
            task.add_done_callback(partial(self._on_served, cycle))
        else:
            if len(self._queue) == MOST_AHEAD:
                raise Overloaded("Too many requests wait behind the one in progress.")  # ends the parser: see `_refuse`
            self._queue.append(cycle)
            if not (self._reading_paused or self._unread):
                self.transport.pause_reading()  # bounds the pipelined requests in memory
            self._reading_paused = True

    # called by a cycle

    @property
    def closes_after_response(self) -> bool:
        return self._is_ending and not self._queue

    def common_fields(self) -> bytes:
        """Return the header lines of every response, with the last line break."""
        fields = self._server_state.default_headers  # uvicorn makes a new list with the date each second
        if fields is not self._default_fields:
            self._default_fields = fields
            self._default_lines = header_lines(fields)
        return self._default_lines

    def send(self, data: bytes) -> None:
        transport = self.transport
        if not transport.is_closing():
            if self._deferred:
                self.flush()
            transport.write(data)

    def send_all(self, pieces: list[bytes]) -> None:
        if not self.transport.is_closing():
            self.flush()
            self.transport.writelines(pieces)

    def send_batched(self, response: bytes) -> None:
        """Write a complete small response, together with others of this loop iteration (see WriteBatcher)."""
        if self._deferred:
            self.flush()
        # each request in progress has a task in `tasks`
        if self._context.write_batcher.defer(self.flush, len(self._server_state.tasks), self._loop):
            self._deferred = response
        else:
            self.send(response)

    def flush(self) -> None:
        """Write the deferred response (see WriteBatcher)."""
        deferred, self._deferred = self._deferred, b""
        if deferred and not self.transport.is_closing():
            self.transport.write(deferred)

    def unread_s(self) -> float:
        if (timer := self._stall_timer) is None:
            return 0.0
        paused_s = STALL_S - (timer.when() - self._loop.time())
        silent_s, acked_bytes = sent_to(self.transport.get_extra_info("socket"))
        is_slow = acked_bytes - self._acked_bytes + STEP_BYTES < LEAST_BYTES_PER_S * paused_s
        return paused_s if is_slow else min(paused_s, silent_s)

    def abort(self) -> None:
        """Close at once, because the client does not read, and drop the bytes that it has not read."""
        self.gave_up = True
        if (connection := self.transport.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()

    async def wait_writable(self) -> None:
        while self.is_write_paused:
            self._writable_waiter = self._loop.create_future()
            await self._writable_waiter

    def set_caller(self, caller: str) -> None:
        if caller == self._caller:  # all requests of a connection except the first
            return
        self._caller = caller
        for connection in self._shares.authenticate(self):
            connection.evict()

    def response_complete(self) -> None:
        cycle, self._current = self._current, None
        if self.transport.is_closing():
            return
        if cycle is not None:
            self._shares.end(self)
        if cycle is None or not cycle.persists:
            # unread bytes of a body would reset the connection at its close
            if self._is_ending or self._parser.cycle is not None:
                self._linger()
            else:
                self._close()
            return
        if self._queue:
            self.begin_cycle(self._queue.pop(0))
            self._timeouts.clear()  # restart the deadline: the body could not arrive while reading was paused
        if self._reading_paused and not self._queue:
            self._reading_paused = False
            if not self._unread:  # then `_take_turn` does that
                self.transport.resume_reading()
        self._timeouts.update(self._parser, self._current)

    def _on_served(self, cycle: HttpRequestCycle, task: asyncio.Task[None]) -> None:
        """The task of `cycle` has ended. End the response if an internal error left it incomplete."""
        self._server_state.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # no task awaits this one, so log every error; Starlette raises also what it responded to
            LOG.error("request_failed", exc_info=error)
        if cycle.has_ended or cycle.is_disconnected:
            return
        cycle.persists = False
        if cycle.has_begun or self.transport.is_closing():
            self._close()
        else:
            self.send(error_response(InternalError(INTERNAL_ERROR)))
            self.response_complete()

    # closing

    def _on_timeout(self) -> None:
        awaited, receiving = self._timeouts.take_expired(), self._parser.cycle
        if awaited is None:
            return
        is_idle = self._is_idle() and not self._ignores_input
        if is_idle and self._has_unread():
            self._timeouts.update(self._parser, self._current)  # the loop reads the request next
        elif is_idle and self._is_ending:
            late_s = self._loop.time() - self._closes_s
            if awaited is AwaitedInput.LAST and late_s < DRAIN_RECHECK_S:
                self._send_fin()
                self._linger()
            else:  # also after another pause of the machine
                self._closes_s = self._loop.time() + DRAIN_RECHECK_S
                self._timeouts.start(AwaitedInput.LAST, DRAIN_RECHECK_S)
        elif awaited is AwaitedInput.HEAD:
            late = "The TLS handshake was not complete" if self.is_in_handshake else "The request's head did not arrive"
            self._refuse(ReceiveTimeout(f"{late} within {RECEIVE_S:g} s."))
        elif awaited is AwaitedInput.BODY and receiving is not None:
            if receiving is not self._current and self._current is not None:
                # reading is paused while another request is served, so the client cannot send this body
                self._timeouts.update(self._parser, self._current)
                return
            receiving.fail(slow_body())
            self._timeouts.start(AwaitedInput.REST, BODY_GRACE_S)
        elif awaited is AwaitedInput.NEXT:
            self._send_fin()
            self._close()
            self._timeouts.start(AwaitedInput.CLOSE, LINGER_S)  # a client need not close when TLS ends
        elif awaited is AwaitedInput.CLOSE and self.transport.get_write_buffer_size():
            self._timeouts.start(AwaitedInput.CLOSE, LINGER_S)  # the client still reads: see `_stall_timer`
        else:
            self.transport.abort()

    def _refuse(self, error: GatepassError) -> None:
        """Respond to an incomplete or invalid request after the current one, and ignore all further input."""
        self._ignores_input = True
        self._parser.drop_head()
        self._timeouts.clear()
        if self.transport.is_closing():
            return
        receiving = self._parser.cycle
        if receiving in self._queue:
            self._queue.pop()  # the last one, because only the newest request can be incomplete
        # whether the refused request has no response yet and no other request comes first
        if receiving is not None:
            is_next = receiving is self._current and not receiving.has_begun
        else:
            is_next = self._current is None and (self._parser.in_head or self.is_in_handshake)
        if is_next:
            if receiving is not None:
                receiving.disconnect()  # its task waits for the rest of the body, and must not respond
            self._context.refused(error, self._parser.peer)
            self.send(error_response(error))
            self._linger()
        elif self._current is None:
            self._close()
        else:
            self._last_cycle().persists = False

    def _last_cycle(self) -> HttpRequestCycle:
        return self._queue[-1] if self._queue else cast(HttpRequestCycle, self._current)

    def _is_idle(self) -> bool:
        return self._current is None and self._parser.is_idle

    def _has_unread(self) -> bool:
        """Whether bytes, or the end of the input, have arrived that the loop has not read yet.

        A loop that was busy, or a process without processor time, finds its deadlines passed before it reads.
        """
        return self._unread != b"" or self._polls(select.POLLIN)

    def _polls(self, events: int) -> bool:
        """Whether the system reports `events`, or a reset."""
        poll = select.poll()
        if (connected := self.transport.get_extra_info("socket")) is not None:
            poll.register(connected, events)
        return bool(poll.poll(0))

    def _close(self) -> None:
        self.flush()
        self.transport.close()

    def _send_fin(self) -> None:
        """End an idle connection for its client at once.

        uvloop does that later in its iteration, and a request that came in between would be lost.
        """
        connected = self.transport.get_extra_info("socket")
        if connected is not None and self.transport.can_write_eof() and not self.transport.get_write_buffer_size():
            with suppress(OSError), socket.socket(fileno=os.dup(connected.fileno())) as same:
                same.shutdown(socket.SHUT_WR)

    def _linger(self) -> None:
        """Close the sending side, and read and drop what the client still sends.

        The rest of a body is read for up to RECEIVE_S: most clients read no response before they have sent all
        of it.
        """
        self._ignores_input = True
        self.flush()
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()  # the client sees the end of the response, and gatepass can still read
        elif self._parser.cycle is None:  # TLS: a close would reset a client that still sends its body
            self.transport.close()
        if self._reading_paused and not self._unread:
            self.transport.resume_reading()
        self._reading_paused = False
        if self._parser.cycle is not None:
            self._lingers_until_s = self._loop.time() + RECEIVE_S
        self._timeouts.start(AwaitedInput.CLOSE, LINGER_S)
