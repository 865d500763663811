"""One connection to an upstream: HTTP/1.1 on asyncio and httptools, one request after the other.

asyncio calls the protocol methods and httptools calls the methods that begin with `on_`. Both return at once. A task
that sends a request waits in `Connection.send_request`, and then in the UpstreamResponse that it returns.
Connections to clients defer their writes with the same `WriteBatcher`.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import httptools

from gatepass.errors import Fault, TransportFault
from gatepass.http_client.loop_turns import SMALL_READ_BYTES, LoopTurns
from gatepass.http_client.message_head import HEAD_BEGINS, HEAD_BYTES, head_error, mended_head
from gatepass.http_client.response_body import UpstreamResponse
from gatepass.http_client.tls import TLS_PORT, tls_detail
from gatepass.types import OK, ConnectionTimes, Timeouts

if TYPE_CHECKING:
    from gatepass.http_client.pool import ConnectionPool

AHEAD_BYTES = 256 * 1024
"""Reading pauses while more than this of a reply is buffered."""

JOINED_BYTES = 64 * 1024
"""A body up to this size is written together with its head or its framing: a copy is cheaper than a second call."""

SLICE_BYTES = 256 * 1024
"""A larger body is written in slices of this size, so that the transport never buffers all of it."""

ID_LINE = b"\r\nx-request-id: "
KNOWN_IDS = 32
"""Ids of earlier requests on a connection by which a late reply to one of them is recognized.

A later reply to an older request would pass as the reply to this one. An upstream that needs 1 to 10 ms a request and
repeats replies up to 30 ms later was up to 12 requests behind.
"""

CONTINUE, SWITCHING = 100, 101

EARLY = "the server sent data before a request"

TLS_ALERT = b"\x15"
"""The first byte of a TLS server's answer to plain HTTP (RFC 8446 5.1)."""

MIN_IN_FLIGHT = 3
"""Minimum number of requests in flight for which small messages are deferred.

A write wakes the process that reads. To wake a process that sleeps on another core costs the kernel more than the rest
of the call. Of ten writes in a row only the first one pays that. Measured per chat (Xeon, virtual cores): with 64 chats
at a time 111 µs of CPU, 160 µs without batching; with 8 chats 129 and 165 µs. With 2 chats batching costs more.
"""


class WriteBatcher:
    """Collects connections whose complete message is deferred. Events of a stream are written at once instead."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []

    def defer(self, flush: Callable[[], None], in_flight: int, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether a message is deferred. If so, `flush` writes it at the end of this loop iteration."""
        waiting = self._waiting
        if not waiting:
            if in_flight < MIN_IN_FLIGHT:
                return False
            loop.call_soon(self.flush)
        waiting.append(flush)
        return True

    def flush(self) -> None:
        """Let each connection write its message."""
        waiting, self._waiting = self._waiting, []
        for flush in waiting:
            flush()


class Connection(asyncio.BufferedProtocol):
    """A connection with the states new, idle, busy with one reply, and lost."""

    __slots__ = (
        *("deadline", "is_full", "kept", "made_s", "_bounds", "_buffer", "_close_reason", "_deferred", "_earlier_ids"),
        *("_fields", "_has_received", "_head", "_id", "_is_complete", "_is_cut", "_keeps", "_killed"),
        *("_loop", "_overhead_bytes", "_owner", "_parser", "_poll", "_problem", "_reading_paused", "_rejected"),
        *("_reply", "_sending", "_surplus"),
        *("_to_head", "_transport", "_turns", "_unread", "_until_close", "__weakref__"),
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, owner: ConnectionPool, buffer: memoryview, turns: LoopTurns
    ) -> None:
        self.deadline = Deadline(loop, self._on_timeout)
        self.made_s: float | None = None
        self._loop = loop
        self._owner = owner
        # All connections of a loop may share the buffer: each read is parsed before the next one begins.
        # With a new buffer for each read, half the cost of a large reply was page faults.
        self._buffer = buffer
        self._turns = turns
        self._unread = b""
        """Bytes that wait for a turn. Reading is paused meanwhile."""
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._reply: UpstreamResponse | None = None
        self.kept = False
        """Whether it was idle in the pool. It is not a fault if the server closed it meanwhile."""
        self._poll: select.poll | None = None
        self._id = b""
        self._earlier_ids: list[bytes] = []  # an empty deque takes 700 bytes more
        self._killed = False
        self._bounds = Timeouts()
        self._close_reason = (Fault.CLOSED, "the server closed the connection before a request was sent")
        self._reset()

    def _reset(self) -> None:
        self._fields: list[tuple[bytes, bytes]] = []
        self._problem: str | None = None
        self._deferred = b""
        """The request that is written at the next `flush`."""
        self._sending: BodyWriter | None = None
        self._overhead_bytes = 0
        self._has_received = self._is_complete = self._keeps = self._surplus = False
        self._until_close = self._to_head = self._is_cut = False
        self._head = b""
        """What arrived of a head that is not complete, or that the parser rejected."""
        self._rejected = ""
        """Why the parser rejected it."""
        self._reading_paused = self.is_full = False

    def is_open(self) -> bool:
        return self._transport is not None and not self._killed and not self._transport.is_closing()

    @property
    def new(self) -> bool:
        """Whether it still has to be dialed."""
        return self.made_s is None and not self._killed

    async def send_request(
        self,
        head: bytes,
        body: bytes,
        bounds: Timeouts,
        times: ConnectionTimes,
        *,
        to_head: bool = False,
    ) -> UpstreamResponse:
        """Send a request and return its reply once the head has arrived. Raises TransportFault.

        `to_head`: the method is HEAD. The reply has no body even if it has a content-length.
        `bounds.first_byte_s` bounds each wait for the server: to accept more of the body, and then to reply.
        A reply that arrives before the body is sent ends the sending: it is an error that needs no more of the body.
        """
        transport = self._transport
        if transport is None or self._killed or transport.is_closing():
            raise TransportFault(*self._close_reason, sent=False, stale=self.kept)
        self._reset()
        if self._id:
            self._earlier_ids = [*self._earlier_ids[1 - KNOWN_IDS :], self._id]
        self._id = head.partition(ID_LINE)[2].partition(b"\r")[0]
        self._bounds = bounds
        reply = self._reply = UpstreamResponse(self, self._loop, bounds.idle_s)
        self._to_head = to_head
        self.deadline.set(bounds.first_byte_s)
        sending: BodyWriter | None = None
        try:
            if len(body) <= JOINED_BYTES:
                self._deferred = head + body
                if not self._owner.defers_write(self):
                    self.flush()
            else:
                self._deferred = head
                if self._aborts_unread():
                    reply.check()
                self._deferred = b""
                sending = self._sending = BodyWriter(self, transport, reply, bounds.first_byte_s)
                await sending.write(head, body)
            while not reply.status:
                if reply.ended:
                    reply.check()
                await reply.changed()
        except BaseException:  # also a cancellation: a connection in use must not return to the pool
            reply.discard()
            times.was_written = reply.was_written  # not by the connection, which may have the next request already
            raise
        finally:
            if sending is not None:
                sending.close()
                # The next request may have replaced it. The writer refers to this object: break the reference cycle.
                if self._sending is sending:
                    self._sending, self._is_cut = None, not sending.is_out
        if not reply.ended:
            self.deadline.at_s = math.inf
        return reply

    def abort(
        self,
        fault: Fault = Fault.CLOSED,
        detail: str = "gatepass closed it",
        *,
        stale: bool = False,
        limit_s: float | None = None,
    ) -> None:
        """Close the connection at once, in any state. Its current reply ends with `fault`."""
        if not self._killed:
            self._killed, self._close_reason = True, (fault, detail)
        if self._transport is not None:
            self._transport.abort()
        else:  # never open or already lost: no `connection_lost` follows
            self.deadline.close()
        reply, self._reply = self._reply, None
        if reply is not None:
            # a deferred request was never written: the caller may send it again on another connection
            answered, sent = self._has_received, not self._deferred
            reply.end(TransportFault(fault, detail, sent=sent, stale=stale, limit_s=limit_s, answered=answered))

    def resume(self) -> None:
        """Read on if reading is paused, unless `_take_turn` will do that."""
        if self._reading_paused and self._transport is not None and not self._unread:
            self._reading_paused = False
            self._transport.resume_reading()

    def flush(self) -> None:
        """Write the deferred request (see WriteBatcher) if the connection is still open."""
        transport = self._transport
        if self._deferred and transport is not None and not (transport.is_closing() or self._aborts_unread()):
            transport.write(self._deferred)
            self._deferred = b""

    def _aborts_unread(self) -> bool:
        """Abort a reused connection if the server has sent data that the loop has not read yet, or has closed it.

        The loop would read a late second reply to an earlier request after this request is written, and take it for
        the reply to this one. The caller has set `_deferred`, so the request is sent on another connection.
        """
        if not self.kept or self._transport is None:
            return False
        if self._poll is None:
            connected = self._transport.get_extra_info("socket")
            # over TLS the bytes may be a session ticket, which follows each handshake
            if connected is None or self._transport.get_extra_info("sslcontext") is not None:
                return False
            self._poll = select.poll()
            self._poll.register(connected, select.POLLIN)
        if not self._poll.poll(0):
            return False
        self.abort(Fault.INVALID, EARLY, stale=True)
        return True

    def _on_timeout(self) -> None:
        if self._reply is not None and self._reply.status:
            self.abort(Fault.TIMEOUT_IDLE, "no more of the reply arrived in time", limit_s=self._bounds.idle_s)
        else:
            detail = "the head of the reply did not arrive in time"
            self.abort(Fault.TIMEOUT_FIRST_BYTE, detail, limit_s=self._bounds.first_byte_s)

    # called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made_s = self._loop.time()
        self._transport = cast(asyncio.Transport, transport)
        if self._killed:
            self._transport.abort()
        self._parser = self._new_parser()

    def _new_parser(self) -> httptools.HttpResponseParser:
        parser = httptools.HttpResponseParser(self)
        parser.set_dangerous_leniencies(
            # RFC 9112 2.2 allows a recipient to accept a bare LF; old servers pad chunk sizes with spaces
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        return parser

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self._buffer

    def buffer_updated(self, nbytes: int, waited: bytes | None = None) -> None:
        """Parse the first `nbytes` of the buffer, at once or, if they are many, in a later turn: then they `waited`."""
        data: bytes | memoryview = self._buffer[:nbytes] if waited is None else waited
        if nbytes > SMALL_READ_BYTES and waited is None and not self._turns.begins():
            self._unread = bytes(data)
            self._pause_reading()
            self._turns.defer(self._take_turn)
            return
        reply, parser = self._reply, self._parser
        if reply is None or parser is None or self._deferred:
            # Some servers send a 408 on an idle connection. A deferred request is then sent on another connection.
            self.abort(Fault.INVALID, EARLY, stale=self._deferred != b"")
            return
        self._has_received = True
        self._overhead_bytes += nbytes
        status_before, size = reply.status, reply.size
        try:
            if status_before or not self._rejected:
                parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reject(reply, data, str(error))
        if not (status_before or reply.status):
            self._head += data
            self._mend()
        if self._is_complete:
            self._finish(reply)
        elif self._problem is not None:
            self.abort(Fault.INVALID, self._problem)
        elif reply.size != size:
            self._overhead_bytes = 0
            if reply.size > AHEAD_BYTES:
                self._pause_reading()
            reply.wake()
        elif self._overhead_bytes > HEAD_BYTES:  # an endless head, endless trailers or chunk extensions
            self.abort(Fault.INVALID, f"its fields are larger than {HEAD_BYTES} bytes")
        elif reply.status != status_before:
            reply.wake()

    def _reject(self, reply: UpstreamResponse, data: bytes | memoryview, why: str) -> None:
        """Note why the parser rejected `data`: a head may be mended, and nothing else."""
        if self._problem is None and not reply.status and HEAD_BEGINS.match(self._head + data):
            self._rejected = why
        else:
            self._problem = self._problem or (TLS_PORT if bytes(data[:1]) == TLS_ALERT else why)

    def _mend(self) -> None:
        """Parse a head that the parser rejected as a recipient may read it. This reply is the connection's last one."""
        try:
            if not (self._rejected and (mended := mended_head(self._head))):
                return
            self._fields, self._parser, self._rejected, self._head = [], self._new_parser(), "", mended
            self._parser.feed_data(mended)
        except ValueError as error:
            self._problem = f"{self._rejected}: {error}"
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._problem = self._problem or str(error)
        self._surplus = True  # another recipient may read it differently

    def _take_turn(self) -> None:
        """Parse the bytes that waited. They are dropped if the connection was closed meanwhile."""
        unread, self._unread = self._unread, b""
        if not unread or self._killed:
            return
        self.buffer_updated(len(unread), unread)
        if self._reply is None or self._reply.size <= AHEAD_BYTES:
            self.resume()

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._transport is not None and self.is_open():
            self._reading_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self._take_turn()  # over TLS the end may follow a read although reading is paused
        if self._reply is not None and self._until_close:
            self._finish(self._reply)
        else:
            self.server_closed(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._take_turn()
        sending = self._sending
        # a reply may still be in the kernel although writing failed: see `read_after_reset`
        while sending is not None and self._reply is not None and (size := sending.read_after_reset(self._buffer)):
            self.buffer_updated(size, bytes(self._buffer[:size]))
        self.server_closed(exc)
        self.deadline.close()
        self._parser = self._transport = None  # the parser refers to this object: break the reference cycle
        self._owner.on_lost(self)

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        if self._reply is not None:
            self._reply.wake()

    def server_closed(self, exc: Exception | None) -> None:
        if isinstance(exc, ssl.SSLError) and not (self.kept or self._has_received):
            # in TLS 1.3 the server rejects a client certificate after the handshake
            self.abort(Fault.TLS, tls_detail(exc))
            return
        where = "" if self._has_received else "without an answer"
        self.abort(Fault.CLOSED, str(exc or where), stale=self.kept and not self._has_received)

    def _finish(self, reply: UpstreamResponse) -> None:
        """End a complete reply. Keep the connection if no bytes are left in either direction."""
        self._reply = None
        self.deadline.at_s = math.inf
        reply.end()
        is_cut = self._is_cut if self._sending is None else not self._sending.is_out
        is_kept = self._keeps and not (is_cut or self._surplus or self._problem or self._killed)
        transport = self._transport if is_kept else None
        if transport is not None and not (transport.is_closing() or transport.get_write_buffer_size()):
            if self._reading_paused:
                self.resume()
            self.kept = True
            self._owner.on_idle(self)
        else:
            self.abort()

    # called by httptools

    def on_message_begin(self) -> None:
        self._surplus = self._is_complete  # a second reply to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        parser, reply = self._parser, self._reply
        if parser is None or reply is None or self._is_complete:
            return
        status = parser.get_status_code()
        if CONTINUE <= status < OK and status != SWITCHING:  # an interim reply
            self._fields.clear()
            return
        headers = tuple(self._fields)
        named = dict(headers)
        if status == SWITCHING:
            self._problem = "it switches protocols, which gatepass did not request"
        elif status < OK:
            self._problem = "its status is not a valid HTTP status"
        elif self._overhead_bytes > HEAD_BYTES and sum(len(n) + len(v) for n, v in headers) > HEAD_BYTES:
            self._problem = f"its fields are larger than {HEAD_BYTES} bytes"
        else:
            self._problem = head_error(headers, named)
            # some upstreams repeat the id of a request in its reply, others send ids of their own
            echoed = named.get(b"x-request-id")
            if echoed is not None and echoed != self._id and echoed in self._earlier_ids:
                self._problem = "it answers an earlier request on this connection, as its x-request-id shows"
        if self._problem is not None:
            return
        self._until_close = b"content-length" not in named and b"transfer-encoding" not in named
        self._is_complete = self._to_head
        reply.status, reply.headers, reply.named = status, headers, named

    def on_body(self, body: bytes) -> None:
        reply = self._reply
        if reply is None or self._is_complete or not reply.status:
            self._surplus = True
            return
        reply.pieces.append(body)
        reply.size += len(body)

    def on_message_complete(self) -> None:
        if self._parser is not None and self._reply is not None and self._reply.status:
            self._is_complete = True
            self._keeps = self._parser.should_keep_alive()


class BodyWriter:
    """Writes a body that is too large to be written together with its head.

    A reply that arrives first ends the writing. `is_out` is True once the transport has all of the body. Each wait for
    the server ends after `bound_s`. The code that creates a writer closes it.
    """

    __slots__ = ("_bound_s", "_connection", "_handle", "_reply", "_transport", "is_out")

    def __init__(
        self, connection: Connection, transport: asyncio.Transport, reply: UpstreamResponse, bound_s: float
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._reply = reply
        self._bound_s = bound_s
        self._handle: int | None = None
        """A duplicate of the socket, so that it can be read after the transport closes. None over TLS."""
        connected = transport.get_extra_info("socket")
        if connected is not None and transport.get_extra_info("sslcontext") is None:
            with suppress(OSError):  # too many files are open
                self._handle = os.dup(connected.fileno())
        self.is_out = False

    async def write(self, head: bytes, body: bytes) -> None:
        """Write `head` and a body that is in memory."""
        self._transport.write(head)
        view = memoryview(body)
        for start in range(0, len(body), SLICE_BYTES):
            while self._connection.is_full and not (self._reply.status or self._reply.ended):
                await self._reply.changed(self._bound_s)
            # uvloop raises on a write to a closing transport; asyncio ignores it
            if self._reply.status or not self._connection.is_open():
                return
            self._transport.write(view[start : start + SLICE_BYTES])
        self.is_out = True
        self._connection.deadline.set(self._bound_s)

    def read_after_reset(self, into: memoryview) -> int:
        """Read into `into` what the server sent before it closed; return the number of bytes, 0 at the end.

        A server that replies without reading the whole body, and closes, resets the connection (RFC 9112 9.6). The
        event loop closes the transport at the first failed write. The reply may then still be in the kernel's buffer.
        """
        try:
            return 0 if self._handle is None else os.readv(self._handle, [into])
        except OSError:  # the server sent nothing more, or the kernel dropped it at the reset
            return 0

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


class Deadline:
    """Call `passed` when the time limit that was set last has passed and was not lifted, by an infinite `at_s`.

    A later limit does not move the timer: when it fires, it is set again for the rest. So `set` is usually one
    comparison.
    """

    __slots__ = ("_due_s", "_loop", "_passed", "_timer", "at_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], None]) -> None:
        self._loop = loop
        self._passed: Callable[[], None] | None = passed
        self.at_s = self._due_s = math.inf
        """The moment of the limit. While one is set, it may be replaced by a later one without a call."""
        self._timer: asyncio.TimerHandle | None = None

    def set(self, delay_s: float) -> None:
        """Replace the limit by one that passes after `delay_s` seconds."""
        self.at_s = self._loop.time() + delay_s
        if self.at_s < self._due_s:
            self._arm()

    def close(self) -> None:
        self._passed, self.at_s = None, math.inf
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = self.at_s
        self._timer = self._loop.call_at(self._due_s, self._fire)

    def _fire(self) -> None:
        self._timer, self._due_s = None, math.inf
        if self.at_s > self._loop.time():
            if self.at_s < math.inf:
                self._arm()
        elif self._passed is not None:
            self.at_s = math.inf
            self._passed()
