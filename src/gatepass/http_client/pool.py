"""The connections to one server: how many there may be, which one is next, and who waits for one.

How a connection is made, directly or through a proxy, and which fault keeps it from being made.

The Transport on the hot path: HTTP/1.1 over asyncio and httptools, with nothing above them.

Read on in head.py (what is written and what may come), connect.py (how a connection is made, through a proxy too),
connection.py (one connection), response_body.py (one reply) and pool.py (all of them). It does not speak HTTP/2.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from gatepass.config.network import Network
from gatepass.errors import Fault, TransportFault
from gatepass.http_client.connection import Connection
from gatepass.http_client.message_head import HEAD_BYTES, Destination, ProxyServer, destination_of, request_head
from gatepass.http_client.response_body import decoded
from gatepass.http_client.write_batcher import WriteBatcher
from gatepass.types import OutboundRequest, Response

_HEAD = rb"HTTP/1\.[01] (%b)(?: ([^\r\n]*+))?\r?\n(?:[^\r\n]++\r?\n)*+\r?\n"
_ANSWER = re.compile(b"(?:%b)*+%b" % (_HEAD % b"10[023]", _HEAD % b"[2-5][0-9]{2}"))
"""The whole head of a reply to CONNECT, behind interim ones; a line may end in a bare LF (RFC 9112 2.2)."""
_BLANK_LINE = re.compile(rb"\n\r?\n")

FAILS_IN_TLS = sys.version_info < (3, 11, 8) or (3, 12) <= sys.version_info < (3, 12, 2)
"""asyncio raises TypeError where TLS inside TLS fails, and hides the reason (python/cpython#113214)."""


async def dial(destination: Destination, context: ssl.SSLContext, connection: Connection, bound_s: float) -> None:
    """Connect `connection` to the server of `destination`; `bound_s` covers the proxy and every TLS handshake.

    Raises TransportFault, unsent. asyncio's own bound of a handshake is put behind ours.
    """
    loop = asyncio.get_running_loop()
    proxy = destination.proxy
    tunnel = None if proxy is None or not destination.secure else _Tunnel(loop, destination, proxy)
    first, where = (destination, "") if proxy is None else (proxy.place, f"proxy {proxy.place.authority.decode()}: ")
    tls: dict[str, Any] = {"ssl": context, "server_hostname": first.host, "ssl_handshake_timeout": bound_s + 1}
    try:
        async with asyncio.timeout(bound_s):
            protocol = connection if tunnel is None else tunnel
            await loop.create_connection(lambda: protocol, first.host, first.port, **(tls if first.secure else {}))
            if tunnel is not None:
                await tunnel.opened()
                where = ""
                await tunnel.become(connection, context, bound_s)
    except BaseException as error:
        if tunnel is not None:
            tunnel.abort()
        if isinstance(error, TimeoutError):
            raise TransportFault(Fault.TIMEOUT_CONNECT, f"no connection within {bound_s:g} s", sent=False) from None
        if isinstance(error, OSError | UnicodeError):
            detail = where + (str(error) or "the server hung up")
            fault = Fault.CONNECT
            # one that is refused was never made; one that is reset here was, and the handshake was under way
            if isinstance(error, ssl.SSLError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
                fault = Fault.TLS
            elif isinstance(error, socket.gaierror | UnicodeError):  # the idna codec takes no label of 64 characters
                fault = Fault.DNS
            raise TransportFault(fault, detail, sent=False) from error
        raise


class _Tunnel(asyncio.Protocol):
    """A connection to a proxy that is asked by CONNECT to lead to the server of `destination` (RFC 9110 9.3.6)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, destination: Destination, proxy: ProxyServer) -> None:
        self._loop = loop
        self._place = destination
        self._proxy = proxy
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._refusal: asyncio.Future[TransportFault | None] = loop.create_future()

    async def opened(self) -> None:
        """Wait for the reply to CONNECT; raises TransportFault PROXY where it is not a success."""
        if (refusal := await self._refusal) is not None:
            raise refusal

    async def become(self, connection: Connection, context: ssl.SSLContext, bound_s: float) -> None:
        """Do the TLS handshake with the server at the other end, and give the tunnel to `connection`."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise _refused("it closed the tunnel")
        if self._proxy.place.secure and FAILS_IN_TLS and hasattr(transport, "__dict__"):  # uvloop's do not, nor fail

            def force_close(error: Exception | None) -> None:
                connection.broke_off(error)
                transport.abort()

            transport._force_close = force_close  # type: ignore[attr-defined]  # noqa: SLF001 - else asyncio drops the error (python/cpython#113214)
        host = self._place.host
        secured = await self._loop.start_tls(
            transport, connection, context, server_hostname=host, ssl_handshake_timeout=bound_s + 1
        )
        if secured is None or secured.is_closing():  # uvloop says nothing of a server that hangs up in the handshake
            raise ConnectionResetError("the server hung up in the TLS handshake")
        connection.connection_made(secured)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        lines = [b"CONNECT %b HTTP/1.1" % self._place.host_and_port, b"host: " + self._place.host_and_port]
        if self._proxy.authorization is not None:
            lines.append(b"proxy-authorization: " + self._proxy.authorization)
        self._transport.write(b"\r\n".join((*lines, b"", b"")))

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = _ANSWER.match(self._received)
        if answer is not None:
            self._answered(answer)
        elif len(self._received) > HEAD_BYTES:
            self._refuse(f"the head of its reply is larger than {HEAD_BYTES} bytes")
        elif not self._received.startswith(b"HTTP/1."[: len(self._received)]) or _BLANK_LINE.search(self._received):
            self._refuse("its reply is invalid HTTP")

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ssl.SSLError):  # in TLS 1.3 a client certificate is refused after the handshake
            self._end(TransportFault(Fault.TLS, str(exc), sent=False))
        self._refuse("it closed the connection without an answer")

    def _answered(self, answer: re.Match[bytes]) -> None:
        status, reason = answer[3].decode(), answer[4] or b""
        if not status.startswith("2"):
            told = "".join(char for char in reason.decode("latin-1") if char.isprintable())
            self._refuse(f"{status} {self._proxy.mask(told)}".strip())
        elif answer.end() < len(self._received):
            self._refuse("it sent data before the TLS handshake")
        elif self._transport is not None and not self._refusal.done():
            self._transport.pause_reading()  # whatever comes now is for TLS to read
            self._end(None)

    def _refuse(self, why: str) -> None:
        self._end(_refused(why))

    def _end(self, refusal: TransportFault | None) -> None:
        if not self._refusal.done():
            self._refusal.set_result(refusal)


def _refused(why: str) -> TransportFault:
    return TransportFault(Fault.PROXY, why, sent=False)


Dial = Callable[[Connection, float], Awaitable[None]]
"""Connects a new Connection within so many seconds, or raises TransportFault, unsent."""

IDLE_S = 30.0
"""An idle connection is dropped after this; the server would do so too, and might while we write."""

AGE_S = 120.0
"""A connection older than this takes no further request: the server's name may mean another address now."""

AHEAD_S, SPARE_S = 10.0, 3.0
"""How long a connection may take that is made ahead of its request, and how long it then waits for one."""

BUFFER_BYTES = 128 * 1024
"""What is read at once, at most."""


class ConnectionPool:
    """A Connection is a slot. It counts from before it is dialed until it is lost, which happens once.

    Whoever waits gets one in the order of coming: one that was freed, or a new one to dial in place of
    one that was lost. So each slot has somebody at every moment who frees or kills it, however and
    wherever a task is cancelled (encode/httpcore#1093 is the story of slots that had nobody).
    """

    def __init__(self, dial: Dial, limit: int, *, dials_ahead: bool = True) -> None:
        self._dial = dial
        self._limit = limit
        self._dials_ahead = dials_ahead
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._outbox = WriteBatcher()
        self._slots: set[Connection] = set()
        self._idle: dict[Connection, float] = {}
        self._waiting: OrderedDict[asyncio.Future[Connection], None] = OrderedDict()
        self._sweep: asyncio.TimerHandle | None = None
        self._spare: Connection | None = None
        self._is_kept_by_server = False
        self._ahead: asyncio.Handle | asyncio.Task[None] | None = None
        self._closed = False

    def idle(self) -> Connection | None:
        """The connection that was freed last, so that those of a busier hour may expire."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.open:
                if connection is self._spare:
                    self._spare = None
                    if not self._idle:
                        self._dial_ahead()
                return connection
        return None

    async def take(self, bound_s: float, *, fresh: bool = False) -> Connection:
        """An open connection, never used before where it is to be `fresh`.

        Waiting for it and dialing it are bounded by `bound_s` each. Raises TransportFault, unsent.
        """
        while (connection := self.idle()) is None or fresh:
            if connection is not None:  # a server that closed one of its kept connections has closed others
                connection.abort()
                continue
            connection = self._slot() if len(self._slots) < self._limit else await self._turn(bound_s)
            if connection.new:
                if not fresh and any(other.open for other in self._slots):
                    self._dial_ahead()
                return await self._dialed(connection, bound_s)
            if connection.open and not fresh:  # what was freed for us may be lost by the time we wake up
                return connection
            connection.abort()
        return connection

    def on_idle(self, connection: Connection) -> None:
        self._is_kept_by_server = True
        self._have(connection)

    def _have(self, connection: Connection) -> None:
        """It goes to who waits, or lies idle."""
        now_s = self._loop.time()
        if now_s > (connection.made_s or 0.0) + AGE_S:
            connection.abort()
        elif self._waiting and (waiter := self._next_waiter()) is not None:
            waiter.set_result(connection)
        else:
            self._idle[connection] = now_s
            if self._sweep is None:
                self._sweep = self._loop.call_at(now_s + IDLE_S, self._drop_expired)

    def on_lost(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        if connection in self._slots:
            self._slots.remove(connection)
            if (waiter := self._next_waiter()) is not None:
                waiter.set_result(self._slot())

    def defers_write(self, connection: Connection) -> bool:
        """Those that are dialed ahead count as under way: there are more than a few then."""
        return self._outbox.defer(connection, len(self._slots) - len(self._idle), self._loop)

    def close(self) -> None:
        """Kill every connection, busy ones too."""
        self._closed = True
        if self._ahead is not None:
            self._ahead.cancel()
        while (waiter := self._next_waiter()) is not None:
            waiter.set_exception(_closed())
        for connection in list(self._slots):
            connection.abort()

    def _dial_ahead(self) -> None:
        """Have one made while nobody waits for it: where every connection is busy and one more had to be dialed, the
        next request is likely to find none as well, and a handshake is most of the time to its first token.

        Not before the server has kept a connection: some serve one at a time and sit on one that says nothing, but
        those close each (gunicorn's sync worker, http.server). Not before the request that wants none of it is out."""
        if self._dials_ahead and self._is_kept_by_server and self._ahead is None and not self._closed:
            self._ahead = self._loop.call_soon(self._make_ahead)

    def _make_ahead(self) -> None:
        self._ahead = None
        if len(self._slots) < self._limit:
            self._spare = self._slot()
            self._ahead = self._loop.create_task(self._made(self._spare), name="connection ahead")

    async def _made(self, connection: Connection) -> None:
        try:
            await self._dialed(connection, AHEAD_S)
        except TransportFault:
            return  # who needs one dials for itself, and is told why
        finally:
            self._ahead = None
        connection.kept = True
        self._have(connection)
        if connection in self._idle:
            self._loop.call_later(SPARE_S, self._drop_spare, connection)
        else:
            self._spare = None  # somebody had waited for it

    def _drop_spare(self, connection: Connection) -> None:
        if connection is self._spare and self._idle.pop(connection, None) is not None:
            self._spare = None
            connection.abort()

    def _slot(self) -> Connection:
        if self._closed:
            raise _closed()
        connection = Connection(self._loop, self, self._buffer)
        self._slots.add(connection)
        return connection

    async def _dialed(self, connection: Connection, bound_s: float) -> Connection:
        try:
            await self._dial(connection, bound_s)
        except BaseException:
            self._drop(connection)
            raise
        return connection

    async def _turn(self, bound_s: float) -> Connection:
        waiter: asyncio.Future[Connection] = self._loop.create_future()
        self._waiting[waiter] = None

        def refuse() -> None:
            if not waiter.done():
                detail = f"every connection of the pool was in use for {bound_s:g} s"
                waiter.set_exception(TransportFault(Fault.TIMEOUT_POOL, detail, sent=False))

        bound = self._loop.call_later(bound_s, refuse)
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.give_back(waiter.result())  # cancelled in the moment between its turn and waking up
            raise
        finally:
            bound.cancel()
            self._waiting.pop(waiter, None)

    def _next_waiter(self) -> asyncio.Future[Connection] | None:
        while self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():
                return waiter
        return None

    def give_back(self, connection: Connection) -> None:
        """What was taken and is not used after all."""
        if connection.new:
            self._drop(connection)
        elif connection.open:
            self.on_idle(connection)

    def _drop(self, connection: Connection) -> None:
        connection.abort()
        self.on_lost(connection)

    def _drop_expired(self) -> None:
        self._sweep = None
        now_s = self._loop.time()
        for connection, since_s in list(self._idle.items()):
            if now_s < since_s + IDLE_S:
                self._sweep = self._loop.call_at(since_s + IDLE_S, self._drop_expired)
                break
            del self._idle[connection]
            connection.abort()


def _closed() -> TransportFault:
    return TransportFault(Fault.CLOSED, "gatepass closed the transport", sent=False)


WAYS = 256
"""How many URLs are remembered; a hop has as many as it has operations."""


Dialer = Callable[[Destination, ssl.SSLContext, Connection, float], Awaitable[None]]


class Http1Transport:
    """Sends requests over one hop's network: its CA, proxy and client certificate.

    There are up to `max_connections` to each server that is asked; a hop asks one.
    """

    def __init__(
        self, max_connections: int, context: ssl.SSLContext, dial: Dialer = dial, proxy: ProxyServer | None = None
    ) -> None:
        self._max_connections = max_connections
        self._context = context
        self._dial = dial
        self._proxy = proxy
        self._pools: dict[tuple[bool, str, int], ConnectionPool] = {}
        self._ways: dict[str, tuple[Destination, ConnectionPool]] = {}

    async def send(self, request: OutboundRequest) -> Response:
        """Return when the reply's head is here. Raises TransportFault.

        It follows no redirect and repeats nothing, and one that is cancelled leaves no connection behind.
        """
        destination, pool = self._ways.get(request.url) or self._way(request.url)
        head = request_head(request, destination)
        bounds = request.timeouts
        connection = None if request.new_connection else pool.idle()
        if connection is None:
            connection = await pool.take(bounds.connect_s, fresh=request.new_connection)
            if request.reauthorize is not None:
                head = self._head_anew(request.reauthorize, pool, connection) or head
        reply = await connection.send_request(
            head, request.upload or request.body, bounds, to_head=request.method == "HEAD"
        )
        if (
            destination.proxy is not None
            and reply.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
            and not destination.secure
        ):
            reply.discard()
            raise TransportFault(Fault.PROXY, "407 Proxy Authentication Required")  # the request went to the proxy
        coding = reply.named.get(b"content-encoding")
        if coding is None:
            return reply
        try:
            return decoded(reply, coding)
        except TransportFault:
            reply.discard()
            raise

    async def aclose(self) -> None:
        """Close what is idle and what is not."""
        for pool in self._pools.values():
            pool.close()
        await asyncio.sleep(0)  # the loop closes the sockets in its next turn

    def _head_anew(
        self, anew: Callable[[], OutboundRequest | None], pool: ConnectionPool, connection: Connection
    ) -> bytes | None:
        """The head as it is after the wait for `connection`, where it has changed."""
        try:
            request = anew()
            if request is None:
                return None
            destination, _ = self._ways.get(request.url) or self._way(request.url)
            return request_head(request, destination)
        except BaseException:  # whatever it is, the slot keeps an owner
            pool.give_back(connection)
            raise

    def _way(self, url: str) -> tuple[Destination, ConnectionPool]:
        destination = destination_of(url, self._proxy)
        server = (destination.secure, destination.host, destination.port)
        if server not in self._pools:
            self._pools[server] = ConnectionPool(
                partial(self._dial, destination, self._context),
                self._max_connections,
                # wrong credentials are shown once for each request: shown more often, they lock an account
                dials_ahead=self._proxy is None or self._proxy.authorization is None,
            )
        if len(self._ways) >= WAYS:
            self._ways.clear()
        way = self._ways[url] = (destination, self._pools[server])
        return way


def open_transport(network: Network, max_connections: int, context: ssl.SSLContext) -> Http1Transport:
    """The Transport of one hop. Opens nothing yet; `proxy_auth` counts as it is now."""
    auth = None if network.proxy_auth is None else network.proxy_auth.reveal()
    proxy = None if network.proxy is None else ProxyServer.of(network.proxy, auth)
    return Http1Transport(max_connections, context, proxy=proxy)
