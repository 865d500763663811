"""The Transport on httpx2's own: HTTP/1.1 with a pool per hop, called without the client layer."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import httpx2

from gatepass.call import Headers, Request, header
from gatepass.config.model import Network
from gatepass.errors import Fault, TransportFault
from gatepass.transport.coding import Decoder, decoder_of

KEEPALIVE_S = 30.0
"""Idle connections are dropped after this, so that a changed DNS record is followed soon."""

CLOSE_S = 2.0
"""The bound of closing a connection."""


class PooledTransport:
    """One pool of connections for one hop.

    httpx2 is chosen over httpx: with pool limits httpx 0.28 loses slots for good when requests are
    cancelled, 50 of 50 later requests failed in our measurement, none with httpx2 2.16.
    """

    def __init__(self, network: Network, max_connections: int, context: ssl.SSLContext) -> None:
        self._inner = httpx2.AsyncHTTPTransport(
            verify=context,
            trust_env=False,
            limits=httpx2.Limits(
                max_connections=max_connections,
                max_keepalive_connections=max_connections,
                keepalive_expiry=KEEPALIVE_S,
            ),
            proxy=_proxy(network),
        )

    async def send(self, request: Request) -> PooledResponse:
        trail = _Trail()
        bounds = request.timeouts
        # httpcore bounds each read, so a head that dribbles would never time out: the outer bound ends it
        outer_s = 3 * bounds.connect_s + bounds.first_byte_s
        foreign = _foreign(request, trail)
        try:
            async with asyncio.timeout(outer_s):
                reply = await self._inner.handle_async_request(foreign)
        except TimeoutError:
            raise TransportFault(Fault.TIMEOUT_FIRST_BYTE, f"no head within {outer_s:g} s", sent=trail.sent) from None
        except httpx2.HTTPError as error:
            raise _fault(error, trail, Fault.TIMEOUT_FIRST_BYTE) from error
        # httpcore looks the bound up again for the body, where ours is another one (PooledResponse._read)
        foreign.extensions["timeout"]["read"] = None
        try:
            return PooledResponse(reply, bounds.idle_s, trail)
        except BaseException:
            await _close(reply)
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()


class PooledResponse:
    """A reply under way. Reads are bounded by `idle_s`; codings are undone."""

    def __init__(self, reply: httpx2.Response, idle_s: float, trail: _Trail) -> None:
        self.status: int = reply.status_code
        self.headers: Headers = tuple((name.lower(), value) for name, value in reply.headers.raw)
        self._reply = reply
        self._idle_s = idle_s
        self._trail = trail
        self._decoder: Decoder | None = decoder_of(header(self.headers, b"content-encoding"))
        self._decoded: Iterator[bytes] = iter(())
        self._pieces = _stream(reply).__aiter__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if (ready := next(self._decoded, None)) is not None:
                return ready
            piece = await self._read()
            if self._decoder is None:
                return piece
            self._decoded = self._decoder.decode(piece)

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle_s):
                return await self._pieces.__anext__()
        except StopAsyncIteration:
            if self._decoder is not None:
                self._decoder.finish()
            raise
        except TimeoutError:
            raise TransportFault(Fault.TIMEOUT_IDLE, f"nothing came for {self._idle_s:g} s") from None
        except httpx2.HTTPError as error:
            raise _fault(error, self._trail, Fault.TIMEOUT_IDLE) from error

    async def aclose(self) -> None:
        await _close(self._reply, self._pieces)


def _proxy(network: Network) -> httpx2.Proxy | None:
    if network.proxy is None:
        return None
    user, _, password = network.proxy_auth.reveal().partition(":") if network.proxy_auth else ("", "", "")
    return httpx2.Proxy(network.proxy, auth=(user, password) if user else None)


class _Trail:
    """What happened on the way to a reply, told by httpcore's trace."""

    __slots__ = ("connected", "sent")

    def __init__(self) -> None:
        self.connected = self.sent = False

    async def __call__(self, event: str, _: Any) -> None:
        if event == "connection.connect_tcp.started":
            self.connected = True
        elif event == "http11.send_request_headers.started":
            self.sent = True


def _foreign(request: Request, trail: _Trail) -> httpx2.Request:
    bounds = request.timeouts
    times = {
        "connect": bounds.connect_s,
        "pool": bounds.connect_s,
        "read": bounds.first_byte_s,
        "write": bounds.first_byte_s,
    }
    return httpx2.Request(
        request.method,
        request.url,
        headers=list(request.headers),
        content=request.body,
        extensions={"timeout": times, "trace": trail},
    )


def _stream(reply: httpx2.Response) -> httpx2.AsyncByteStream:
    stream = reply.stream
    if not isinstance(stream, httpx2.AsyncByteStream):
        raise TypeError("an async transport answers with an async stream")
    return stream


async def _close(reply: httpx2.Response, pieces: AsyncIterator[bytes] | None = None) -> None:
    """Free or kill the connection; a generator that was begun is closed first, or it lingers."""
    try:
        async with asyncio.timeout(CLOSE_S):
            if (finish := getattr(pieces, "aclose", None)) is not None:
                await finish()
            await _stream(reply).aclose()
    except (TimeoutError, httpx2.HTTPError):
        return  # the connection is as dead as we wanted it


def _fault(error: httpx2.HTTPError, trail: _Trail, slow: Fault) -> TransportFault:
    """`error` in gatepass's words; `slow` is what a read timeout means at this point."""
    detail = str(error) or type(error).__name__
    match error:
        case httpx2.ConnectTimeout():
            return TransportFault(Fault.TIMEOUT_CONNECT, "no connection in time", sent=False)
        case httpx2.PoolTimeout():
            return TransportFault(Fault.TIMEOUT_POOL, "every connection of the pool is in use", sent=False)
        case httpx2.TimeoutException():
            return TransportFault(slow, "nothing came in time", sent=trail.sent)
        case httpx2.ConnectError():
            return TransportFault(_connect_fault(error), detail, sent=False)
        case httpx2.ProxyError():
            return TransportFault(Fault.PROXY, detail, sent=False)
        case httpx2.RemoteProtocolError() if "disconnected without sending" in detail:
            return TransportFault(Fault.CLOSED, detail, stale=not trail.connected)
        case httpx2.RemoteProtocolError() if "closed connection" not in detail:
            return TransportFault(Fault.INVALID, detail)
        case httpx2.LocalProtocolError() | httpx2.UnsupportedProtocol():
            return TransportFault(Fault.INVALID, detail, sent=False)
        case _:
            return TransportFault(Fault.CLOSED, detail, sent=trail.sent)


def _connect_fault(error: BaseException) -> Fault:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return Fault.DNS
        if isinstance(cause, ssl.SSLError | ssl.CertificateError):
            return Fault.TLS
        cause = cause.__cause__ or cause.__context__
    return Fault.CONNECT
