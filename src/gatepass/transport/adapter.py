"""A Transport in the shape of httpx2's own, for code that speaks httpx."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType

import httpx2

from gatepass.call import Request, Response, Timeouts, header
from gatepass.errors import Fault, TransportFault
from gatepass.transport.seam import Transport

_ERRORS: Mapping[Fault, type[httpx2.TransportError]] = MappingProxyType(
    {
        Fault.DNS: httpx2.ConnectError,
        Fault.CONNECT: httpx2.ConnectError,
        Fault.TLS: httpx2.ConnectError,
        Fault.PROXY: httpx2.ProxyError,
        Fault.CLOSED: httpx2.RemoteProtocolError,
        Fault.INVALID: httpx2.RemoteProtocolError,
        Fault.TOO_LARGE: httpx2.RemoteProtocolError,
        Fault.TIMEOUT_CONNECT: httpx2.ConnectTimeout,
        Fault.TIMEOUT_POOL: httpx2.PoolTimeout,
        Fault.TIMEOUT_FIRST_BYTE: httpx2.ReadTimeout,
        Fault.TIMEOUT_IDLE: httpx2.ReadTimeout,
    }
)
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
_CODING = frozenset((b"content-length", b"content-encoding"))

UNBOUNDED_S = 24 * 3600.0
"""httpx's timeout None: a day is as good, and timers take it."""


class HttpxTransport(httpx2.AsyncBaseTransport):
    """Sends over `transport`, whose timeouts are httpx's: connect, and read for the head and each piece.

    Request bodies are read whole before they are sent. Content codings are undone below, so a reply
    does not name them.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        try:
            response = await self._transport.send(_request(request, body))
        except TransportFault as fault:
            raise _error(fault, request) from fault
        hidden = _CODING if header(response.headers, b"content-encoding") else frozenset()
        return httpx2.Response(
            response.status,
            headers=[field for field in response.headers if field[0] not in hidden],
            stream=_Body(response, request),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: Response, request: httpx2.Request) -> None:
        self._response = response
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response:
                yield piece
        except TransportFault as fault:
            raise _error(fault, self._request) from fault

    async def aclose(self) -> None:
        await self._response.aclose()


def _request(request: httpx2.Request, body: bytes) -> Request:
    bounds = request.extensions.get("timeout", {})
    connect_s, read_s = bounds.get("connect"), bounds.get("read")
    return Request(
        request.method,
        str(request.url),
        headers=tuple((name.lower(), value) for name, value in request.headers.raw if name.lower() not in _FRAMING),
        body=body,
        timeouts=Timeouts(connect_s or UNBOUNDED_S, read_s or UNBOUNDED_S, read_s or UNBOUNDED_S),
    )


def _error(fault: TransportFault, request: httpx2.Request) -> httpx2.TransportError:
    if fault.fault is Fault.INVALID and not fault.sent:
        return httpx2.LocalProtocolError(fault.detail, request=request)
    return _ERRORS[fault.fault](fault.detail, request=request)
