"""One connection to a server: HTTP/1.1, one request and its reply after the other.

asyncio calls the protocol's methods, httptools those that begin with `on_`; neither ever waits. Whoever
sends waits in `Connection.ask`, and then in the Incoming that it gets.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from typing import Protocol, cast

import httptools

from gatepass.clock import Deadline
from gatepass.errors import Fault, TransportFault
from gatepass.http_client.message_head import FIELDS, HEAD_BYTES, objection
from gatepass.http_client.response_body import UpstreamResponse
from gatepass.types import Timeouts, Upload

AHEAD_BYTES = 256 * 1024
"""Reading stops while more than this of a body is here and nobody takes it."""

JOINED_BYTES = 64 * 1024
"""A body up to this size goes out in one piece with its head: a copy is cheaper than a call."""

SLICE_BYTES = 256 * 1024
"""A larger body is handed to the loop in slices of this size, each when the one before is nearly out."""

CONTINUE, SWITCHING, OK = 100, 101, 200


class ConnectionOwner(Protocol):
    """Who is told of what becomes of a connection."""

    def on_idle(self, connection: Connection) -> None:
        """It is whole, and ready for another request."""
        ...

    def on_lost(self, connection: Connection) -> None:
        """It is no more. Told once, whoever ended it."""
        ...

    def defers_write(self, connection: Connection) -> bool:
        """Whether it is told to flush when this iteration of the loop is over, and writes then and not now."""
        ...


class Connection(asyncio.BufferedProtocol):
    """New until it is dialed, then idle, or busy with one reply, and at last lost.

    What is read goes through `buffer`, which all connections of a loop may share: each read is used
    up before the next one begins. Of a large reply half the cost were fresh pages for every read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: ConnectionOwner, buffer: memoryview) -> None:
        self.deadline = Deadline(loop, self._late)
        self.made_s: float | None = None
        self._loop = loop
        self._owner = owner
        self._buffer = buffer
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._reply: UpstreamResponse | None = None
        self.kept = False
        """It has lain idle: its server may have closed it meanwhile, and nobody is to blame."""
        self._killed = False
        self._why = (Fault.CLOSED, "it closed before it was asked")
        self._forget()

    def _forget(self) -> None:
        """As before the first request."""
        self._fields: list[tuple[bytes, bytes]] = []
        self._problem: str | None = None
        self._held = b""
        self._sending: BodyWriter | None = None
        self._overhead_bytes = 0
        self._heard = self._whole = self._keeps = self._surplus = False
        self._until_close = self._to_head = self._is_cut = False
        self._reading_paused = self.is_full = False

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._killed and not self._transport.is_closing()

    @property
    def new(self) -> bool:
        """Whether it was never dialed."""
        return self.made_s is None and not self._killed

    async def send_request(
        self, head: bytes, body: bytes | Upload, bounds: Timeouts, *, to_head: bool = False
    ) -> UpstreamResponse:
        """Send a request; returns when the head of its reply is here. Raises TransportFault.

        `to_head`: the method is HEAD, so there is no body, whatever length the reply claims. A reply
        that comes before the body is out ends the sending: it is an error that wants no more of it.
        `first_byte_s` bounds each wait for the server: to take more of the body, and then to reply.
        """
        transport = self._transport
        if transport is None or not self.open:
            raise TransportFault(*self._why, sent=False, stale=self.kept)
        self._forget()
        reply = self._reply = UpstreamResponse(self, self._loop, bounds.idle_s)
        self._to_head = to_head
        self.deadline.set(bounds.first_byte_s)
        sending: BodyWriter | None = None
        try:
            if isinstance(body, bytes) and len(body) <= JOINED_BYTES:
                if self._owner.defers_write(self):
                    self._held = head + body
                else:
                    transport.write(head + body)
            else:
                sending = self._sending = BodyWriter(self, transport, reply, bounds.first_byte_s)
                await (sending.write(head, body) if isinstance(body, bytes) else sending.pass_on(head, body))
            while not reply.status:
                if reply.ended:
                    reply.check()
                await reply.changed()
        except BaseException:
            reply.discard()
            raise
        finally:
            if sending is not None:
                sending.close()
                if self._sending is sending:  # the next request is not here yet; let go of it, for it knows this object
                    self._sending, self._is_cut = None, not sending.is_out
        if not reply.ended:
            self.deadline.lift()
        return reply

    def abort(self, fault: Fault = Fault.CLOSED, detail: str = "gatepass closed it", *, stale: bool = False) -> None:
        """End it at once, in whatever state; a reply that it is busy with breaks off by `fault`."""
        if not self._killed:
            self._killed, self._why = True, (fault, detail)
        if self._transport is not None:
            self._transport.abort()
        reply, self._reply = self._reply, None
        if reply is not None:
            if self._sending is not None:
                self._sending.stop()
            reply.end(TransportFault(fault, detail, sent=not self._held, stale=stale))

    def resume(self) -> None:
        """Read on, where reading stopped."""
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()

    def flush(self) -> None:
        """Write the request that waited (see Outbox), unless its connection has ended meanwhile."""
        held, self._held = self._held, b""
        if held and self._transport is not None and self.open:
            self._transport.write(held)

    def _late(self) -> None:
        if self._reply is not None and self._reply.status:
            self.abort(Fault.TIMEOUT_IDLE, "the reply stopped coming")
        else:
            self.abort(Fault.TIMEOUT_FIRST_BYTE, "no whole head came in time")

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made_s = self._loop.time()
        self._transport = cast(asyncio.Transport, transport)
        if self._killed:
            self._transport.abort()
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            # RFC 9112 2.2 allows to take a bare LF, and old servers pad the sizes of their chunks
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        reply, parser = self._reply, self._parser
        if reply is None or parser is None or self._held:
            # a server that is tired of waiting says 408 to nobody: what is still held goes over another connection
            self.abort(Fault.INVALID, "the server spoke before it was asked", stale=self._held != b"")
            return
        self._heard = True
        self._overhead_bytes += nbytes
        begun, size = reply.status, reply.size
        try:
            parser.feed_data(self._buffer[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._problem = self._problem or str(error)
        if self._whole:
            self._finish(reply)
        elif self._problem is not None:
            self.abort(Fault.INVALID, self._problem)
        elif reply.size != size:
            self._overhead_bytes = 0
            if reply.size > AHEAD_BYTES and not self._reading_paused and self._transport is not None and self.open:
                self._reading_paused = True
                self._transport.pause_reading()
            reply.wake()
        elif self._overhead_bytes > HEAD_BYTES:  # an endless head, or trailers, or extensions of chunks
            self.abort(Fault.INVALID, f"its fields are larger than {HEAD_BYTES} bytes")
        elif reply.status != begun:
            reply.wake()

    def eof_received(self) -> None:
        if self._reply is not None and self._until_close:
            self._finish(self._reply)
        else:
            self.broke_off(None)

    def connection_lost(self, exc: Exception | None) -> None:
        sending = self._sending
        while sending is not None and self._reply is not None and (size := sending.last_words(self._buffer)):
            self.buffer_updated(size)
        self.broke_off(exc)
        self.deadline.close()
        self._parser = self._transport = None  # the parser holds this object's methods
        self._owner.on_lost(self)

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        if self._reply is not None:
            self._reply.wake()

    def broke_off(self, exc: Exception | None) -> None:
        """The server ended the connection, and with it what it was busy with."""
        if isinstance(exc, ssl.SSLError) and not (self.kept or self._heard):
            self.abort(Fault.TLS, str(exc))  # in TLS 1.3 a client certificate is refused after the handshake
            return
        where = "in the middle of its reply" if self._heard else "without an answer"
        self.abort(Fault.CLOSED, str(exc or where), stale=self.kept and not self._heard)

    def _finish(self, reply: UpstreamResponse) -> None:
        """The reply is whole; the connection is free where nothing is left on either way."""
        self._reply = None
        self.deadline.lift()
        reply.end()
        if self._keeps and not (self._surplus or self._problem) and self._is_written():
            if self._reading_paused:
                self.resume()
            self.kept = True
            self._owner.on_idle(self)
        else:
            self.abort()

    def _is_written(self) -> bool:
        """Whether nothing of the request is left, and the next one can follow."""
        is_cut = self._is_cut if self._sending is None else not self._sending.is_out
        return self._transport is not None and self.open and not is_cut and not self._transport.get_write_buffer_size()

    # httptools calls these

    def on_message_begin(self) -> None:
        self._surplus = self._whole

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self._fields) <= FIELDS:  # one more than may be, so that it shows
            self._fields.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        parser, reply = self._parser, self._reply
        if parser is None or reply is None or self._whole:
            return
        status = parser.get_status_code()
        if CONTINUE <= status < OK and status != SWITCHING:
            self._fields.clear()
            return
        headers = tuple(self._fields)
        named = dict(headers)
        self._problem = self._problem_of(status) or objection(headers, named)
        if self._problem is not None:
            return
        self._until_close = b"content-length" not in named and b"transfer-encoding" not in named
        self._whole = self._to_head
        if self._sending is not None:
            self._sending.stop()
        reply.status, reply.headers, reply.named = status, headers, named

    def _problem_of(self, status: int) -> str | None:
        if status < OK:
            return "it switches protocols, which nobody asked for" if status == SWITCHING else "its status is no status"
        if self._overhead_bytes > HEAD_BYTES and sum(len(n) + len(v) for n, v in self._fields) > HEAD_BYTES:
            return f"its fields are larger than {HEAD_BYTES} bytes"
        return None

    def on_body(self, body: bytes) -> None:
        reply = self._reply
        if reply is None or self._whole or not reply.status:
            self._surplus = True
            return
        reply.pieces.append(body)
        reply.size += len(body)

    def on_message_complete(self) -> None:
        if self._parser is not None and self._reply is not None and self._reply.status:
            self._whole = True
            self._keeps = self._parser.should_keep_alive()


class BodyWriter:
    """A body that does not go out with its head: `is_out` when all of it does.

    A reply that comes meanwhile ends the sending: it is an error that wants no more of it. Each wait for the server is
    bounded by `bound_s`. Whoever makes it closes it.
    """

    __slots__ = ("_bound_s", "_connection", "_handle", "_reply", "_transport", "_wait", "is_out")

    def __init__(
        self, connection: Connection, transport: asyncio.Transport, reply: UpstreamResponse, bound_s: float
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._reply = reply
        self._bound_s = bound_s
        self._wait: asyncio.Timeout | None = None
        self._handle = _second_handle(transport)
        self.is_out = False

    async def write(self, head: bytes, body: bytes) -> None:
        """Write a body that is here, behind its head."""
        self._transport.write(head)
        view = memoryview(body)
        for start in range(0, len(body), SLICE_BYTES):
            await self._room()
            if self._is_over():
                return
            self._transport.write(view[start : start + SLICE_BYTES])
        self._end()

    async def pass_on(self, head: bytes, body: Upload) -> None:
        """Write an upload, piece by piece as it comes: while one is waited for, its sender is bounded and not the
        server, and a reply ends the wait."""
        self._connection.deadline.lift()
        is_chunked = body.length_bytes is None
        self._transport.write(head)
        try:
            async with asyncio.timeout(None) as wait:
                self._wait = wait
                async for piece in body:
                    if self._connection.is_full:
                        await self._room()
                        self._connection.deadline.lift()
                    if self._is_over():
                        return
                    self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
        except TimeoutError:
            if not wait.expired():
                raise
            return  # `stop` was here
        finally:
            self._wait = None
        if self._is_over():
            return
        if is_chunked:
            self._transport.write(b"0\r\n\r\n")
        self._end()

    def last_words(self, into: memoryview) -> int:
        """How many bytes of what the server said before it hung up are now in `into`; 0 when there are no more.

        A server that answers a body which it does not read, and closes, resets the connection (RFC 9112 9.6). The loop
        ends it at the next write that fails, before it has read the answer: that lies in the kernel.
        """
        try:
            return 0 if self._handle is None else os.readv(self._handle, [into])
        except OSError:  # it never said more, or the reset was first
            return 0

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def stop(self) -> None:
        """The reply is here, or there will be none: nothing more of an upload is waited for."""
        wait, self._wait = self._wait, None
        if wait is not None:
            wait.reschedule(0)

    async def _room(self) -> None:
        while self._connection.is_full and not (self._reply.status or self._reply.ended):
            self._connection.deadline.set(self._bound_s)
            await self._reply.changed()

    def _is_over(self) -> bool:
        """Whether nothing more is wanted; uvloop raises where asyncio ignores a write to what is closing."""
        return bool(self._reply.status) or not self._connection.open

    def _end(self) -> None:
        self.is_out = True
        self._connection.deadline.set(self._bound_s)


def _second_handle(transport: asyncio.Transport) -> int | None:
    """The transport's socket, to outlive it; None over TLS, where nobody else could read it."""
    connected = transport.get_extra_info("socket")
    if connected is None or transport.get_extra_info("sslcontext") is not None:
        return None
    with suppress(OSError):  # too many files are open
        return os.dup(connected.fileno())
    return None
