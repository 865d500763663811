"""The Transport on httpx2's own engine: HTTP/1.1 with a pool per hop, called without the client layers above it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol, Self, cast

import httpcore2

from gatepass.call import Headers, Request, Response, Upload
from gatepass.config.network import Network
from gatepass.errors import Fault, TransportFault
from gatepass.transport.coding import decoded
from gatepass.transport.head import objection, place_of, request_fields, request_head
from gatepass.transport.seam import pour
from gatepass.transport.watched import Unanswered, WatchedNetwork

KEEPALIVE_S = 30.0
"""Idle connections are dropped after this, so that a changed DNS record is followed soon."""

CLOSE_S = 2.0
"""The bound of closing a connection."""

_FAILED = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol,
)
"""All that httpcore2 raises: its errors have no root."""

SLICE_BYTES = 256 * 1024
"""A larger body is written in slices of this size: the bound of a write is that of each."""

SWITCHING = 101
CONNECT = b"CONNECT"


class PooledTransport:
    """One pool of connections for one hop.

    httpcore2 is chosen over httpcore: with pool limits the latter loses slots for good when requests
    are cancelled, 50 of 50 later requests failed in our measurement, none with httpcore2 2.16. It is
    used without httpx2's transport above it, which lets nobody watch the network.
    """

    def __init__(self, network: Network, max_connections: int, context: ssl.SSLContext) -> None:
        limits: dict[str, Any] = {
            "ssl_context": context,
            "max_connections": max_connections,
            "max_keepalive_connections": max_connections,
            "keepalive_expiry": KEEPALIVE_S,
            "network_backend": WatchedNetwork(),
        }
        self._pool = _proxied(network.proxy, network, limits) if network.proxy else _direct(limits)

    async def send(self, request: Request) -> Response:
        trail = _Trail(request)
        bounds = request.timeouts
        # httpcore2 bounds each read, so a head that dribbles would never time out: the outer bound ends it
        outer_s = 3 * bounds.connect_s + bounds.first_byte_s
        outer = asyncio.timeout(outer_s)
        foreign = _foreign(request, trail, outer)
        try:
            async with outer:
                reply = await self._pool.handle_async_request(foreign)
        except TimeoutError:
            raise TransportFault(Fault.TIMEOUT_FIRST_BYTE, f"no head within {outer_s:g} s", sent=trail.sent) from None
        except _FAILED as error:
            raise _fault(error, trail, Fault.TIMEOUT_FIRST_BYTE) from error
        # httpcore2 looks the bound up again for the body, where ours is another one (PooledResponse.__anext__)
        foreign.extensions["timeout"]["read"] = None
        response = PooledResponse(reply, bounds.idle_s, trail)
        try:
            return _judged(response)
        except BaseException:
            await response.aclose()
            raise

    async def aclose(self) -> None:
        await self._pool.aclose()


class PooledResponse:
    """A reply under way. Reads are bounded by `idle_s`."""

    def __init__(self, reply: httpcore2.Response, idle_s: float, trail: _Trail) -> None:
        self.status: int = reply.status
        self.headers: Headers = tuple((name.lower(), value) for name, value in reply.headers)
        self._stream = cast(_Stream, reply.stream)
        self._idle_s = idle_s
        self._trail = trail
        self._pieces = aiter(self._stream)
        self.ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle_s):
                return await anext(self._pieces)
        except StopAsyncIteration:
            self.ended = True
            raise
        except TimeoutError:
            raise TransportFault(Fault.TIMEOUT_IDLE, f"nothing came for {self._idle_s:g} s") from None
        except _FAILED as error:
            raise _fault(error, self._trail, Fault.TIMEOUT_IDLE) from error

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        return await pour(self, take)

    async def aclose(self) -> None:
        """Free or kill the connection; a generator that was begun is closed first, or it lingers."""
        try:
            async with asyncio.timeout(CLOSE_S):
                if (finish := getattr(self._pieces, "aclose", None)) is not None:
                    await finish()
                await self._stream.aclose()
        except (TimeoutError, *_FAILED):
            return  # the connection is as dead as we wanted it


class _Stream(Protocol):
    """The body of a reply as httpcore2's pool gives it."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def aclose(self) -> Awaitable[None]: ...


class _Trail:
    """What happened on the way to a reply, told by httpcore2's trace; in the end the credential is put on anew."""

    __slots__ = ("_request", "connected", "secured", "sent")

    def __init__(self, request: Request) -> None:
        self._request = request
        self.connected = self.secured = self.sent = False

    async def __call__(self, event: str, told: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.started":
            self.connected = True
        elif event == "connection.start_tls.started":
            self.secured = True
        elif event == "http11.send_request_headers.started":
            if self._request.anew is not None and told["request"].method != CONNECT:
                _put_on(told["request"], self._request, self._request.anew())
            self.sent = True


def _direct(limits: dict[str, Any]) -> httpcore2.AsyncConnectionPool:
    return httpcore2.AsyncConnectionPool(**limits)


def _proxied(proxy: str, network: Network, limits: dict[str, Any]) -> httpcore2.AsyncConnectionPool:
    user, _, password = network.proxy_auth.reveal().partition(":") if network.proxy_auth else ("", "", "")
    if proxy.startswith("https:"):
        limits = {**limits, "proxy_ssl_context": limits["ssl_context"]}
    return httpcore2.AsyncHTTPProxy(proxy, proxy_auth=(user, password) if user else None, **limits)


class _Moving:
    """A body in pieces, each of which has `bound_s` of its own to be taken in, as has the reply behind the last one.
    While its sender is waited for, nothing runs: that one is bounded elsewhere."""

    def __init__(self, body: bytes | Upload, outer: asyncio.Timeout, bound_s: float) -> None:
        self._body = body
        self._outer = outer
        self._bound_s = bound_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._outer.reschedule(None)
        async for piece in _slices(self._body) if isinstance(self._body, bytes) else self._body:
            self._outer.reschedule(asyncio.get_running_loop().time() + self._bound_s)
            yield piece
            self._outer.reschedule(None)
        self._outer.reschedule(asyncio.get_running_loop().time() + self._bound_s)


async def _slices(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), SLICE_BYTES):
        yield body[start : start + SLICE_BYTES]


def _foreign(request: Request, trail: _Trail, outer: asyncio.Timeout) -> httpcore2.Request:
    bounds = request.timeouts
    body = request.upload or request.body
    is_long = not isinstance(body, bytes) or len(body) > SLICE_BYTES
    times = {
        "connect": bounds.connect_s,
        "pool": bounds.connect_s,
        "read": bounds.first_byte_s,
        "write": bounds.first_byte_s,
    }
    place = place_of(request.url)
    request_head(request, place)  # what must not be sent is refused before anything is
    scheme = b"https" if place.secure else b"http"
    return httpcore2.Request(
        request.method,
        httpcore2.URL(scheme=scheme, host=place.host.encode(), port=place.port, target=place.target),
        headers=request_fields(request, place),
        content=_Moving(body, outer, bounds.first_byte_s) if is_long else body,
        extensions={"timeout": times, "trace": trail},
    )


def _put_on(foreign: httpcore2.Request, before: Request, anew: Request | None) -> None:
    """Make `foreign`, which was made of `before` and is not written yet, what `anew` is. A proxy's own fields in
    front of it stay, and so does what makes its target a whole URL."""
    if anew is None:
        return
    was, now = place_of(before.url), place_of(anew.url)
    request_head(anew, now)
    theirs = len(foreign.headers) - len(request_fields(before, was))
    foreign.headers = [*foreign.headers[:theirs], *request_fields(anew, now)]
    foreign.url.target = foreign.url.target.removesuffix(was.target) + now.target


def _judged(response: PooledResponse) -> Response:
    named = dict(response.headers)
    if response.status == SWITCHING:
        raise TransportFault(Fault.INVALID, "it switches protocols, which nobody asked for")
    if (problem := objection(response.headers, named)) is not None:
        raise TransportFault(Fault.INVALID, problem)
    return decoded(response, named.get(b"content-encoding"))


def _fault(error: Exception, trail: _Trail, slow: Fault) -> TransportFault:
    """`error` in gatepass's words; `slow` is what a read timeout means at this point."""
    detail = str(error) or type(error).__name__
    match error:
        case httpcore2.ConnectTimeout():
            return TransportFault(Fault.TIMEOUT_CONNECT, "no connection in time", sent=False)
        case httpcore2.PoolTimeout():
            return TransportFault(Fault.TIMEOUT_POOL, "every connection of the pool is in use", sent=False)
        case httpcore2.TimeoutException():
            return TransportFault(slow, "nothing came in time", sent=trail.sent)
        case httpcore2.ConnectError():
            return TransportFault(Fault.TLS if trail.secured else _cause(error), detail, sent=False)
        case httpcore2.ProxyError():
            return TransportFault(Fault.PROXY, detail, sent=False)
        case Unanswered() if trail.connected and _cause(error) is Fault.TLS:
            return TransportFault(
                Fault.TLS, detail
            )  # TLS 1.3: a refused client certificate is told after the handshake
        case Unanswered():
            return TransportFault(Fault.CLOSED, detail, stale=not trail.connected)
        case httpcore2.RemoteProtocolError() if "disconnected" not in detail and "closed connection" not in detail:
            return TransportFault(Fault.INVALID, detail)
        case httpcore2.LocalProtocolError() | httpcore2.UnsupportedProtocol():
            return TransportFault(Fault.INVALID, detail, sent=False)
        case _:
            return TransportFault(Fault.CLOSED, detail, sent=trail.sent)


def _cause(error: BaseException) -> Fault:
    """What kept a connection from being made, by the errors behind `error`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return Fault.DNS
        if isinstance(cause, ssl.SSLError | ssl.CertificateError):
            return Fault.TLS
        cause = cause.__cause__ or cause.__context__
    return Fault.CONNECT
