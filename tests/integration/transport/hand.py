"""A transport in the hand of a test: asked directly, each reply read to its end."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gatepass.call import Headers, Request, Response, Timeouts
from gatepass.config.network import Network
from gatepass.errors import TransportFault
from gatepass.transport.lean import LeanTransport
from gatepass.transport.pooled import PooledTransport
from gatepass.transport.seam import Transport, read_whole

BOUNDS = Timeouts(connect_s=5, first_byte_s=5, idle_s=5)
BOUND_S = 20.0
LIMIT_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    build: Callable[[int, ssl.SSLContext], Transport]

    @asynccontextmanager
    async def open(self, max_connections: int = 10, context: ssl.SSLContext | None = None) -> AsyncIterator[Hand]:
        """A transport of this kind, closed at the end. Without `context` it trusts nobody."""
        transport = self.build(max_connections, context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        try:
            yield Hand(transport)
        finally:
            await transport.aclose()


LEAN = Kind("lean", LeanTransport)
POOLED = Kind("pooled", lambda limit, context: PooledTransport(Network(), limit, context))


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Hand:
    transport: Transport

    async def send(
        self, url: str, body: bytes = b"{}", *, method: str = "POST", headers: Headers = (), bounds: Timeouts = BOUNDS
    ) -> Response:
        return await self.transport.send(Request(method, url, headers, body, bounds))

    async def ask(
        self, url: str, body: bytes = b"{}", *, method: str = "POST", headers: Headers = (), bounds: Timeouts = BOUNDS
    ) -> Answer:
        async with asyncio.timeout(BOUND_S):
            response = await self.send(url, body, method=method, headers=headers, bounds=bounds)
            try:
                return Answer(response.status, response.headers, await read_whole(response, LIMIT_BYTES))
            finally:
                await response.aclose()

    async def fault(
        self, url: str, body: bytes = b"{}", *, method: str = "POST", headers: Headers = (), bounds: Timeouts = BOUNDS
    ) -> TransportFault:
        """What a request that must fail fails by, in its head or in its body."""
        try:
            answer = await self.ask(url, body, method=method, headers=headers, bounds=bounds)
        except TransportFault as fault:
            return fault
        raise AssertionError(f"expected a fault: {answer}")
