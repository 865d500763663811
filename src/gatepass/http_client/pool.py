"""The transport to upstreams: dials connections, directly or through a proxy, and pools them per server.

`Http1Transport` sends requests. `ConnectionPool` holds the connections to one server. `dial` opens a connection and
maps every failure to a TransportFault.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import NamedTuple, cast

from gatepass.cancel import timeout
from gatepass.clock import SystemClock
from gatepass.config.network import Network
from gatepass.errors import Fault, TransportFault, system_reason
from gatepass.http_client.connection import Connection, WriteBatcher
from gatepass.http_client.loop_turns import LoopTurns
from gatepass.http_client.message_head import (
    HEAD_BYTES,
    Destination,
    ProxyServer,
    destination_of,
    request_head,
    schemes_text,
)
from gatepass.http_client.response_body import DecodedResponse, is_coded
from gatepass.http_client.tls import LATE_TLS, LATE_TUNNEL, tls_detail
from gatepass.types import ConnectionTimes, OutboundRequest, Response

# possessive quantifiers (`*+`, `++`): a proxy's bytes must not cause backtracking
_HEAD = rb"HTTP/1\.[01] (%b)(?: ([^\r\n]*+))?\r?\n(?:[^\r\n]++\r?\n)*+\r?\n"
_ANSWER = b"(?:%b)*+%b" % (_HEAD % b"10[023]", _HEAD % b"[2-5][0-9]{2}")
"""The complete head of a reply to CONNECT, after interim replies. A line may end in a bare LF (RFC 9112 2.2)."""
_BLANK_LINE = re.compile(rb"\n\r?\n")
_CHALLENGES = rb"(?i)\nproxy-authenticate: *([^\r\n]*)"


async def dial(
    destination: Destination, context: ssl.SSLContext, connection: asyncio.BaseProtocol, bound_s: float
) -> None:
    """Connect `connection` to the server within `bound_s`, through its proxy and TLS; raise TransportFault, unsent."""
    loop = asyncio.get_running_loop()
    proxy = destination.proxy
    tunnel = None if proxy is None or not destination.secure else Tunnel(destination, proxy)
    first, where, late = destination, "", "no connection"
    if proxy is not None:
        first = proxy.destination
        where = f"proxy {first.authority.decode()}: "
    transport: asyncio.Transport | None = None

    async def connect() -> None:
        nonlocal where, late, transport
        protocol = connection if tunnel is None else tunnel
        made = _BeforeTls() if first.secure else protocol
        transport, _ = await loop.create_connection(lambda: made, first.host, first.port)
        if first.secure:
            late = LATE_TLS
            transport = await _secured(transport, protocol, context, first.host, bound_s)
        if tunnel is not None:
            late = LATE_TUNNEL
            await tunnel.opened()
            where, late = "", LATE_TLS
            transport = await _secured(transport, connection, context, destination.host, bound_s)

    try:
        await timeout(SystemClock(), bound_s, connect(), TimeoutError())
    except BaseException as error:  # a cancellation too: the socket must not stay open
        if transport is not None:
            transport.abort()
        if isinstance(error, TimeoutError):
            raise TransportFault(Fault.TIMEOUT_CONNECT, where + late, sent=False, limit_s=bound_s) from None
        if isinstance(error, OSError | UnicodeError):
            # A refused connection was never open (CONNECT). One that is reset here was open, in its TLS handshake.
            if isinstance(error, ssl.SSLError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
                fault, detail = Fault.TLS, tls_detail(error)
            elif isinstance(error, UnicodeError):  # the idna codec rejects labels of 64 characters
                fault, detail = Fault.DNS, "it is not a valid name"
            else:
                fault = Fault.DNS if isinstance(error, socket.gaierror) else Fault.CONNECT
                detail = system_reason(error) or "the server closed the connection"
            raise TransportFault(fault, where + detail, sent=False) from error
        raise


class _BeforeTls(asyncio.Protocol):
    """Leaves what a server sends to the TLS handshake."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).pause_reading()


async def _secured(
    transport: asyncio.Transport, protocol: asyncio.BaseProtocol, context: ssl.SSLContext, host: str, bound_s: float
) -> asyncio.Transport:
    """Do the TLS handshake with `host`, and hand the connection to `protocol`."""
    if transport.is_closing():
        raise ConnectionResetError
    # asyncio's own timeout must end after `bound_s`, which has the better error
    secured = await asyncio.get_running_loop().start_tls(
        transport, protocol, context, server_hostname=host, ssl_handshake_timeout=bound_s + 1
    )
    if secured is None or secured.is_closing():  # uvloop raises nothing if the server closes during the handshake
        raise ConnectionResetError
    protocol.connection_made(secured)
    return secured


class Tunnel(asyncio.Protocol):
    """A connection to a proxy on which CONNECT opens a tunnel to the server of `destination` (RFC 9110 9.3.6)."""

    def __init__(self, destination: Destination, proxy: ProxyServer) -> None:
        self._destination = destination
        self._proxy = proxy
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._refusal: asyncio.Future[TransportFault | None] = asyncio.get_running_loop().create_future()

    async def opened(self) -> None:
        """Wait for the reply to CONNECT. Raises TransportFault PROXY if it is not a success."""
        if (refusal := await self._refusal) is not None:
            raise refusal

    # called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        lines = [b"CONNECT %b HTTP/1.1" % self._destination.host_and_port, b"host: " + self._destination.host_and_port]
        if self._proxy.authorization is not None:
            lines.append(b"proxy-authorization: " + self._proxy.authorization)
        self._transport.write(b"\r\n".join((*lines, b"", b"")))

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = re.match(_ANSWER, self._received)
        if answer is not None and not self._refusal.done():
            self._answered(answer)
        elif len(self._received) > HEAD_BYTES:
            self._refuse(f"the head of its reply is larger than {HEAD_BYTES} bytes")
        elif not self._received.startswith(b"HTTP/1."[: len(self._received)]) or _BLANK_LINE.search(self._received):
            self._refuse("its reply is invalid HTTP")

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ssl.SSLError):  # in TLS 1.3 the proxy rejects a client certificate after the handshake
            self._end(TransportFault(Fault.TLS, tls_detail(exc), sent=False))
        self._refuse("it closed the connection without an answer")

    def _answered(self, answer: re.Match[bytes]) -> None:
        if not answer[3].startswith(b"2"):
            reason = "".join(char for char in (answer[4] or b"").decode("latin-1") if char.isprintable())
            status = f"{answer[3].decode()} {self._proxy.mask(reason)}".strip()
            offered = schemes_text(re.findall(_CHALLENGES, answer[0])) if answer[3] == b"407" else ""
            self._refuse(f"{status} from {self._proxy.destination.authority.decode()}{offered}")
        elif answer.end() < len(self._received):
            self._refuse("it sent data before the TLS handshake")
        elif self._transport is not None and not self._refusal.done():
            self._transport.pause_reading()  # the next bytes belong to the TLS handshake
            self._end(None)

    def _refuse(self, why: str) -> None:
        self._end(TransportFault(Fault.PROXY, why, sent=False))

    def _end(self, refusal: TransportFault | None) -> None:
        if not self._refusal.done():
            self._refusal.set_result(refusal)


Dial = Callable[[Connection, float], Awaitable[None]]
"""Connects a new Connection within a number of seconds, or raises TransportFault, unsent."""

IDLE_S = 30.0
"""Lifetime of an idle connection. The server closes idle ones too, possibly while gatepass writes a request."""

SHORT_IDLE_S = 4.0
"""The same for servers whose requests must not be repeated after such a close, as the calls of MCP tools. uvicorn and
Node.js close an idle connection after 5 s by default (uvicorn's `--timeout-keep-alive`, `server.keepAliveTimeout`)."""

AGE_S = 120.0
"""Maximum age of a connection for another request: the server's name may resolve to another address by then."""

BUFFER_BYTES = 128 * 1024


class PoolCounts(NamedTuple):
    """How many connections are in use or being dialed, how many are idle, and how many requests wait for one."""

    busy: int
    idle: int
    waiting: int


class ConnectionPool:
    """The connections to one server, at most `limit` of them.

    A Connection is a slot: it counts from before it is dialed until it is lost, which happens once. Requests that wait
    are served first come, first served. Each gets a connection that became idle, or a new one to dial.
    """

    # At every moment each slot has exactly one owner that releases or aborts it, wherever a task is cancelled.
    # encode/httpcore#1093 describes the leak that slots without an owner cause.

    def __init__(self, dial: Dial, limit: int, turns: LoopTurns | None = None, *, idle_s: float = IDLE_S) -> None:
        self.on_wait: Callable[[float], object] = lambda _: None
        """Called with the seconds that a request waited for a slot, whether or not it got one."""
        self._dial = dial
        self._limit = limit
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._write_batcher = WriteBatcher()
        self._turns = turns or LoopTurns()
        self._slots: set[Connection] = set()
        self._idle: dict[Connection, float] = {}
        self._waiting: OrderedDict[asyncio.Future[Connection], None] = OrderedDict()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def counts(self) -> PoolCounts:
        idle = len(self._idle)
        return PoolCounts(len(self._slots) - idle, idle, len(self._waiting))

    def take_idle(self) -> Connection | None:
        """Take the connection that became idle last, if any, so that connections beyond the current load expire."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.is_open():
                return connection
        return None

    async def take(self, bound_s: float, times: ConnectionTimes | None = None, *, fresh: bool = False) -> Connection:
        """Return an open connection; with `fresh` one that has not been used.

        The wait for a slot and the dialing are bounded by `bound_s` each, and noted in `times`. Raises TransportFault,
        unsent.
        """
        times = times or ConnectionTimes()
        while (connection := self.take_idle()) is None or fresh:
            if connection is not None:  # a server that closed one idle connection has probably closed others
                connection.abort()
                continue
            connection = (
                self._new_slot() if len(self._slots) < self._limit else await self._wait_for_slot(bound_s, times)
            )
            if connection.new:
                return await self._dialed(connection, bound_s, times)
            if connection.is_open() and not fresh:  # it may be lost between its release and the wake-up of this task
                return connection
            connection.abort()
        return connection

    def on_idle(self, connection: Connection) -> None:
        """Give `connection` to the first waiting request, or keep it idle."""
        now_s = self._loop.time()
        if now_s > (connection.made_s or 0.0) + AGE_S:
            connection.abort()
        elif self._waiting and (waiter := self._next_waiter()) is not None:
            waiter.set_result(connection)
        else:
            self._idle[connection] = now_s
            if self._sweep is None:
                self._sweep = self._loop.call_at(now_s + self._idle_s, self._drop_expired)

    def on_lost(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        if connection in self._slots:
            self._slots.remove(connection)
            if (waiter := self._next_waiter()) is not None:
                waiter.set_result(self._new_slot())  # still to dial: the waiting request does that

    def defers_write(self, connection: Connection) -> bool:
        """Count every connection that is not idle as a request in flight."""
        return self._write_batcher.defer(connection.flush, len(self._slots) - len(self._idle), self._loop)

    def close(self) -> None:
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()  # a timer would keep the pool and its buffer in memory
        while (waiter := self._next_waiter()) is not None:
            waiter.set_exception(_closed())
        for connection in list(self._slots):
            connection.abort()

    def _new_slot(self) -> Connection:
        if self._closed:
            raise _closed()
        connection = Connection(self._loop, self, self._buffer, self._turns)
        self._slots.add(connection)
        return connection

    async def _dialed(self, connection: Connection, bound_s: float, times: ConnectionTimes) -> Connection:
        began_s = self._loop.time()
        try:
            await self._dial(connection, bound_s)
        except BaseException:  # a cancellation too: the slot must become free again
            self._drop(connection)
            raise
        finally:
            times.connect_s = self._loop.time() - began_s
        return connection

    async def _wait_for_slot(self, bound_s: float, times: ConnectionTimes) -> Connection:
        began_s = self._loop.time()
        waiter: asyncio.Future[Connection] = self._loop.create_future()
        self._waiting[waiter] = None
        detail = f"every connection of the pool was in use for {bound_s:g} s"
        try:
            return await timeout(
                SystemClock(), bound_s, waiter, TransportFault(Fault.TIMEOUT_POOL, detail, sent=False, limit_s=bound_s)
            )
        except BaseException:  # ended, perhaps after the waiter got a connection and before the task woke up
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.give_back(waiter.result())
            raise
        finally:
            self._waiting.pop(waiter, None)
            waited_s = self._loop.time() - began_s
            self.on_wait(waited_s)
            times.pool_wait_s += waited_s

    def _next_waiter(self) -> asyncio.Future[Connection] | None:
        while self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():
                return waiter
        return None

    def give_back(self, connection: Connection) -> None:
        """Return a connection from `take` that was not used."""
        if connection.new:
            self._drop(connection)
        elif connection.is_open():
            self.on_idle(connection)

    def _drop(self, connection: Connection) -> None:
        connection.abort()
        self.on_lost(connection)

    def _drop_expired(self) -> None:
        self._sweep = None
        now_s = self._loop.time()
        for connection, since_s in list(self._idle.items()):
            if now_s < since_s + self._idle_s:
                self._sweep = self._loop.call_at(since_s + self._idle_s, self._drop_expired)
                break
            del self._idle[connection]
            connection.abort()


def _closed() -> TransportFault:
    return TransportFault(Fault.CLOSED, "gatepass closed the transport", sent=False)


URLS = 256
"""Maximum number of cached URLs. An upstream has about one for each operation."""

Dialer = Callable[[Destination, ssl.SSLContext, Connection, float], Awaitable[None]]


class Http1Transport:
    """Sends requests to an upstream over its network: its CA, proxy and client certificate."""

    def __init__(
        self,
        max_connections: int,
        context: ssl.SSLContext,
        dial: Dialer = dial,
        proxy: ProxyServer | None = None,
        turns: LoopTurns | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        self.max_connections = max_connections
        self.idle_s = idle_s
        self._turns = turns or LoopTurns()
        self.on_wait: Callable[[float], object] = lambda _: None
        """As `ConnectionPool.on_wait`, for all servers. Set it before the first request."""
        self._context = context
        self._dial = dial
        self._proxy = proxy
        self._pools: dict[tuple[bool, str, int], ConnectionPool] = {}
        self._by_url: dict[str, tuple[Destination, ConnectionPool]] = {}

    @property
    def counts(self) -> PoolCounts:
        """The sum over all servers."""
        counts = [pool.counts for pool in self._pools.values()]
        return PoolCounts(*map(sum, zip(*counts, strict=True))) if counts else PoolCounts(0, 0, 0)

    async def send(self, request: OutboundRequest, times: ConnectionTimes | None = None) -> Response:
        """Send `request` and return its reply once the head has arrived. Raises TransportFault.

        A wait for a connection is noted in `times`. Follows no redirect and never retries. A cancelled call leaves no
        busy connection behind.
        """
        destination, pool = self._by_url.get(request.url) or self._pool_for(request.url)
        head = request_head(request, destination)
        bounds = request.timeouts
        connection = None if request.new_connection else pool.take_idle()
        if connection is None:
            connection = await pool.take(bounds.connect_s, times, fresh=request.new_connection)
            if request.reauthorize is not None:
                try:
                    # the wait may have been longer than the token's lifetime
                    if (renewed := request.reauthorize()) is not None:
                        head = request_head(renewed, destination_of(renewed.url, self._proxy))
                except BaseException:  # a slot must keep its owner after any error
                    pool.give_back(connection)
                    raise
        to_head, times = request.method == "HEAD", times or ConnectionTimes()
        reply = await connection.send_request(head, request.body, bounds, times, to_head=to_head)
        if (
            destination.proxy is not None
            and reply.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
            and not destination.secure
        ):
            reply.discard()
            # without a tunnel the proxy received the request, so this reply is not the upstream's
            proxy = destination.proxy.destination.authority.decode()
            offered = schemes_text([value for name, value in reply.headers if name == b"proxy-authenticate"])
            raise TransportFault(Fault.PROXY, f"407 Proxy Authentication Required from {proxy}{offered}")
        coding = reply.named.get(b"content-encoding")
        if coding is None:
            return reply
        try:
            return DecodedResponse(reply, self._turns) if is_coded(coding) else reply
        except TransportFault:
            reply.discard()
            raise

    def is_like(self, other: Http1Transport) -> bool:
        """Whether `other` would open the same connections to a server."""
        return (self.max_connections, self._proxy) == (other.max_connections, other._proxy) and (
            self._context is other._context
        )

    async def aclose(self) -> None:
        """Close all connections, busy ones too."""
        for pool in self._pools.values():
            pool.close()
        await asyncio.sleep(0)  # the loop closes the sockets in its next iteration

    def _pool_for(self, url: str) -> tuple[Destination, ConnectionPool]:
        destination = destination_of(url, self._proxy)
        server = (destination.secure, destination.host, destination.port)
        if server not in self._pools:
            self._pools[server] = pool = ConnectionPool(
                partial(self._dial, destination, self._context), self.max_connections, self._turns, idle_s=self.idle_s
            )
            pool.on_wait = self.on_wait
        if len(self._by_url) >= URLS:
            self._by_url.clear()
        found = self._by_url[url] = (destination, self._pools[server])
        return found


def open_transport(
    network: Network,
    max_connections: int,
    context: ssl.SSLContext,
    turns: LoopTurns | None = None,
    idle_s: float = IDLE_S,
) -> Http1Transport:
    """Return the transport of one upstream, with the current value of `proxy_auth`. Opens no connection yet."""
    auth = None if network.proxy_auth is None else network.proxy_auth.reveal()
    proxy = None if network.proxy is None else ProxyServer.of(network.proxy, auth)
    return Http1Transport(max_connections, context, proxy=proxy, turns=turns, idle_s=idle_s)
