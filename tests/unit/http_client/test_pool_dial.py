"""Between a proxy's reply and the TLS handshake. The rest is in tests/integration/transport/test_proxy.py."""

from __future__ import annotations

import asyncio

from gatepass.http_client.message_head import ProxyServer, destination_of
from gatepass.http_client.pool import Tunnel
from tests.unit.http_client.wire import FakeTransport


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
