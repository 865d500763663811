"""The way through a proxy, which the pooled transport goes."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trustme

from gatepass.config.network import Network
from gatepass.errors import Fault
from gatepass.transport.choice import open_transport
from tests.integration.scripted import Fin, Rst, Scripted, Send, reply
from tests.integration.transport.hand import Hand

OK = reply(b"fine")
BASIC = "Basic " + base64.b64encode(b"user:pass word").decode()


@asynccontextmanager
async def through(proxy: str, auth: str | None = None, context: ssl.SSLContext | None = None) -> AsyncIterator[Hand]:
    network = Network.model_validate({"proxy": proxy, "proxy_auth": auth})
    transport = open_transport(network, 4, context or ssl.create_default_context())
    try:
        yield Hand(transport)
    finally:
        await transport.aclose()


@dataclass(slots=True)
class Tunnel:
    """A proxy that connects whom it is asked to connect, and notes the heads of the asking."""

    asked: list[str] = field(default_factory=list)
    _tunnels: list[asyncio.Task[None] | None] = field(default_factory=list)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*filter(None, self._tunnels))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tunnels.append(asyncio.current_task())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        host, _, port = head.split()[1].rpartition(":")
        there, there_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(self._pump(reader, there_writer), self._pump(there, writer), return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


async def test_a_plain_request_goes_to_the_proxy_with_its_whole_url_and_the_proxys_password():
    async with Scripted([Send(OK)]) as proxy, through(proxy.url, "user:pass word") as hand:
        for _ in range(2):
            assert (await hand.ask("http://llm.example:8080/v1/x?y", b"abc")).body == b"fine"
    asked = proxy.received[0]
    assert (asked.target, asked.body) == ("http://llm.example:8080/v1/x?y", b"abc")
    assert (asked.header("host"), asked.header("proxy-authorization")) == ("llm.example:8080", BASIC)
    assert proxy.connections == 1


async def test_a_secure_request_goes_through_a_tunnel_and_tells_the_proxy_nothing():
    authority, tunnel = trustme.CA(), Tunnel()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    async with (
        Scripted([Send(OK)], tls=server) as upstream,
        tunnel.open() as proxy,
        through(proxy, "user:pass word", client) as hand,
    ):
        for _ in range(2):
            answer = await hand.ask(upstream.url, headers=((b"authorization", b"Bearer secret"),))
            assert answer.body == b"fine"
    assert len(tunnel.asked) == 1
    assert "secret" not in tunnel.asked[0]
    assert BASIC in tunnel.asked[0]
    assert upstream.received[0].header("proxy-authorization") is None


async def test_a_proxy_that_refuses_a_tunnel_is_named():
    refusal = reply(b"who are you?", 407, proxy_authenticate="Basic")
    async with Scripted([Send(refusal)]) as proxy, through(proxy.url) as hand:
        fault = await hand.fault("https://llm.example/")
    assert (fault.fault, fault.sent) == (Fault.PROXY, False)


@pytest.mark.parametrize("end", [Fin(), Rst()], ids=["FIN", "RST"])
async def test_a_reused_connection_to_a_proxy_is_stale_too(end: Fin | Rst):
    async with Scripted([Send(OK)], [end]) as proxy, through(proxy.url) as hand:
        await hand.ask("http://llm.example/")
        fault = await hand.fault("http://llm.example/")
    assert (fault.fault, fault.stale) == (Fault.CLOSED, True)


async def test_a_proxy_that_is_down_is_no_connection():
    async with Scripted([Fin()]) as proxy:
        url = proxy.url
    async with through(url) as hand:
        assert (await hand.fault("http://llm.example/")).fault is Fault.CONNECT
