"""Http1Transport's own part: it remembers the destinations of URLs. The rest is in tests/integration/transport."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from typing import Any

from gatepass.http_client.connection import Connection
from gatepass.http_client.message_head import Destination, ProxyServer, destination_of
from gatepass.http_client.pool import URLS, Http1Transport, Tunnel
from gatepass.types import OutboundRequest
from tests.memory import traced_memory
from tests.unit.http_client.loop import rest
from tests.unit.http_client.wire import FakeTransport, feed


class AnsweringTransport(FakeTransport):
    """Answers each request at once."""

    def write(self, data: Any) -> None:
        assert isinstance(self.protocol, Connection)
        asyncio.get_running_loop().call_soon(feed, self.protocol, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


async def test_urls_of_one_server_share_one_pool_and_no_more_of_them_are_kept_than_a_bound():
    dialed: list[str] = []

    async def dial(destination: Destination, context: ssl.SSLContext, connection: Connection, bound_s: float) -> None:
        dialed.append(f"{destination.secure} {destination.host}:{destination.port}")
        connection.connection_made(AnsweringTransport(connection))

    transport = Http1Transport(4, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), dial)

    async def send(url: str) -> None:
        await (await transport.send(OutboundRequest("GET", url))).aclose()
        await rest()

    for number in range(URLS):
        await send(f"http://h.example/{number}")
    with traced_memory() as memory:
        for number in range(4 * URLS):
            await send(f"http://h.example/more/{number}")
    assert memory.kept_bytes < 1000 * URLS
    assert dialed == ["False h.example:80"]
    for url in ("https://h.example/", "http://h.example:81/", "http://i.example/"):
        await send(url)
    assert dialed[1:] == ["True h.example:443", "False h.example:81", "False i.example:80"]
    await transport.aclose()


def test_no_http_library_is_loaded_for_it():
    code = "import sys, gatepass.http_client.pool; print({'httpx2', 'httpcore2', 'h11'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


async def test_a_tunnel_that_is_open_reads_nothing_that_belongs_to_tls():
    proxy = ProxyServer.of("http://proxy.example:3128", None)
    tunnel = Tunnel(asyncio.get_running_loop(), destination_of("https://llm.example/v1", proxy), proxy)
    transport = FakeTransport(tunnel)
    tunnel.connection_made(transport)
    assert transport.written == [b"CONNECT llm.example:443 HTTP/1.1\r\nhost: llm.example:443\r\n\r\n"]
    tunnel.data_received(b"HTTP/1.1 200 OK\r\n\r")
    assert transport.reading
    tunnel.data_received(b"\n")
    await tunnel.opened()
    assert not transport.reading
