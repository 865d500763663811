"""The Transport on the hot path: HTTP/1.1 over asyncio and httptools, with nothing above them.

Read on in head.py (what is written and what may come), connect.py (how a connection is made, through a proxy too),
connection.py (one connection), response_body.py (one reply) and pool.py (all of them). It does not speak HTTP/2.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus

from gatepass.config.network import Network
from gatepass.errors import Fault, TransportFault
from gatepass.http_client.connect import dial
from gatepass.http_client.connection import Connection
from gatepass.http_client.message_head import Place, ProxyServer, place_of, request_head
from gatepass.http_client.pool import Pool
from gatepass.http_client.response_body import decoded
from gatepass.types import Request, Response

WAYS = 256
"""How many URLs are remembered; a hop has as many as it has operations."""


Dialer = Callable[[Place, ssl.SSLContext, Connection, float], Awaitable[None]]


class LeanTransport:
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
        self._pools: dict[tuple[bool, str, int], Pool] = {}
        self._ways: dict[str, tuple[Place, Pool]] = {}

    async def send(self, request: Request) -> Response:
        """Return when the reply's head is here. Raises TransportFault.

        It follows no redirect and repeats nothing, and one that is cancelled leaves no connection behind.
        """
        place, pool = self._ways.get(request.url) or self._way(request.url)
        head = request_head(request, place)
        bounds = request.timeouts
        connection = None if request.fresh else pool.idle()
        if connection is None:
            connection = await pool.take(bounds.connect_s, fresh=request.fresh)
            if request.anew is not None:
                head = self._head_anew(request.anew, pool, connection) or head
        reply = await connection.ask(head, request.upload or request.body, bounds, to_head=request.method == "HEAD")
        if place.proxy is not None and reply.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and not place.secure:
            reply.abandon()
            raise TransportFault(Fault.PROXY, "407 Proxy Authentication Required")  # the request went to the proxy
        coding = reply.named.get(b"content-encoding")
        if coding is None:
            return reply
        try:
            return decoded(reply, coding)
        except TransportFault:
            reply.abandon()
            raise

    async def aclose(self) -> None:
        """Close what is idle and what is not."""
        for pool in self._pools.values():
            pool.close()
        await asyncio.sleep(0)  # the loop closes the sockets in its next turn

    def _head_anew(self, anew: Callable[[], Request | None], pool: Pool, connection: Connection) -> bytes | None:
        """The head as it is after the wait for `connection`, where it has changed."""
        try:
            request = anew()
            if request is None:
                return None
            place, _ = self._ways.get(request.url) or self._way(request.url)
            return request_head(request, place)
        except BaseException:  # whatever it is, the slot keeps an owner
            pool.give_back(connection)
            raise

    def _way(self, url: str) -> tuple[Place, Pool]:
        place = place_of(url, self._proxy)
        server = (place.secure, place.host, place.port)
        if server not in self._pools:
            self._pools[server] = Pool(
                partial(self._dial, place, self._context),
                self._max_connections,
                # wrong credentials are shown once for each request: shown more often, they lock an account
                dials_ahead=self._proxy is None or self._proxy.authorization is None,
            )
        if len(self._ways) >= WAYS:
            self._ways.clear()
        way = self._ways[url] = (place, self._pools[server])
        return way


def open_transport(network: Network, max_connections: int, context: ssl.SSLContext) -> LeanTransport:
    """The Transport of one hop. Opens nothing yet; `proxy_auth` counts as it is now."""
    auth = None if network.proxy_auth is None else network.proxy_auth.reveal()
    proxy = None if network.proxy is None else ProxyServer.of(network.proxy, auth)
    return LeanTransport(max_connections, context, proxy=proxy)
