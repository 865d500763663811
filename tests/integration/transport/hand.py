"""A transport in the hand of a test: asked directly, each reply read to its end."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from gatepass.errors import TransportFault
from gatepass.http_client.message_head import ProxyServer
from gatepass.http_client.pool import Http1Transport
from gatepass.http_client.response_body import read_whole
from gatepass.types import Headers, OutboundRequest, Response, Timeouts
from tests.integration.transport.proxies import AUTHORITY, Tunnel, proxy_context

BOUNDS = Timeouts(connect_s=5, first_byte_s=5, idle_s=5)
HIDES_REASONS = sys.version_info < (3, 11, 8) or (3, 12) <= sys.version_info < (3, 12, 2)
LIMIT_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Way:
    """The way of requests to a server: directly, or through a tunnel of a proxy over TCP or TLS."""

    name: str
    proxy_scheme: str | None = None

    @asynccontextmanager
    async def open(self, max_connections: int = 10, context: ssl.SSLContext | None = None) -> AsyncIterator[Hand]:
        """A transport, closed at the end. Without `context` it trusts only the proxy."""
        if (
            self.proxy_scheme == "https"
            and HIDES_REASONS
            and isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)
        ):
            pytest.skip("asyncio raises TypeError if TLS inside TLS fails (python/cpython#113214)")
        context = context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        AUTHORITY.configure_trust(context)
        async with AsyncExitStack() as stack:
            proxy = None
            if self.proxy_scheme is not None:
                tunnel = Tunnel(proxy_context() if self.proxy_scheme == "https" else None)
                proxy = ProxyServer.of(await stack.enter_async_context(tunnel.open()), None)
            transport = Http1Transport(max_connections, context, proxy=proxy)
            stack.push_async_callback(transport.aclose)
            yield Hand(transport)


DIRECT = Way("direct")
TUNNEL = Way("tunnel", "http")
TLS_TUNNEL = Way("tls-tunnel", "https")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Hand:
    transport: Http1Transport

    async def send(self, url: str, body: bytes = b"{}", headers: Headers = (), bounds: Timeouts = BOUNDS) -> Response:
        return await self.transport.send(OutboundRequest("POST", url, headers, body, bounds))

    async def ask(self, url: str, body: bytes = b"{}", headers: Headers = (), bounds: Timeouts = BOUNDS) -> Answer:
        response = await self.send(url, body, headers, bounds)
        try:
            return Answer(response.status, response.headers, await read_whole(response, LIMIT_BYTES))
        finally:
            await response.aclose()

    async def fault(self, url: str, body: bytes = b"{}", bounds: Timeouts = BOUNDS) -> TransportFault:
        try:
            answer = await self.ask(url, body, bounds=bounds)
        except TransportFault as fault:
            return fault
        raise AssertionError(f"expected a fault: {answer}")
