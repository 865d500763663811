"""TLS: whom it trusts, and that all else is the same over it."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import trustme

from gatepass.config.network import Network
from gatepass.errors import Fault
from gatepass.http_client.tls import LATE_TLS, ssl_context
from gatepass.types import Timeouts
from tests.integration.scripted import Hold, Rst, Scripted, Send, reply
from tests.integration.transport.hand import Way

OK = reply(b"fine")
AUTHORITY = trustme.CA()


def server_context(host: str = "127.0.0.1", *, asks: bool = False) -> ssl.SSLContext:
    """Of a server; `asks` for a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    AUTHORITY.issue_cert(host).configure_cert(context)
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        AUTHORITY.configure_trust(context)
    return context


def client_context(*, shows: bool = False) -> ssl.SSLContext:
    context = ssl_context(Network())
    AUTHORITY.configure_trust(context)
    if shows:
        AUTHORITY.issue_cert("client.example").configure_cert(context)
    return context


async def test_connection_to_a_trusted_server_is_kept(way: Way):
    async with Scripted([Send(OK)], tls=server_context()) as upstream, way.open(1, client_context()) as hand:
        for _ in range(3):
            assert (await hand.ask(upstream.url)).body == b"fine"
    assert upstream.connections == 1


@pytest.mark.parametrize(("host", "is_trusted"), [("127.0.0.1", False), ("other.example", True)])
async def test_a_wrong_certificate_is_a_fault_of_tls(way: Way, host: str, is_trusted: bool, logged_errors: list[str]):
    client = client_context() if is_trusted else None
    async with Scripted([Send(OK)], tls=server_context(host)) as upstream, way.open(1, client) as hand:
        for _ in range(2):
            fault = await hand.fault(upstream.url)
            assert (fault.kind, fault.sent) == (Fault.TLS, False)
            assert "certificate" in fault.detail.lower()
    assert upstream.received == []
    logged_errors.clear()  # the scripted server's own loop complains of the handshake


async def test_a_client_certificate_is_shown(way: Way):
    server, client = server_context(asks=True), client_context(shows=True)
    async with Scripted([Send(OK)], tls=server) as upstream, way.open(1, client) as hand:
        assert (await hand.ask(upstream.url)).body == b"fine"


@contextmanager
def strict_server(version: ssl.TLSVersion) -> Iterator[str]:
    """Requires a client certificate, and sends an alert before it closes; asyncio's servers only close."""
    context = server_context(asks=True)
    context.minimum_version = context.maximum_version = version
    listening = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secure:
                    with suppress(OSError):
                        secure.do_handshake()
                    while socket.socket.recv(secure, 65_536):  # closing with bytes unread would reset, alert and all
                        pass

    serving = threading.Thread(target=refuse)
    serving.start()
    try:
        yield f"https://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        serving.join()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_missing_client_certificate_is_a_fault_of_tls(way: Way, version: ssl.TLSVersion):
    """TLS 1.3 reports it after the handshake, when the request may be on its way."""
    with strict_server(version) as url:
        async with way.open(1, client_context()) as hand:
            fault = await hand.fault(url)
    assert (fault.kind, fault.stale) == (Fault.TLS, False)


async def test_a_server_that_hangs_up_in_the_handshake_is_a_fault_of_tls(way: Way):
    async with Scripted([Rst()], sends_first=True) as upstream, way.open(1) as hand:
        fault = await hand.fault(upstream.url.replace("http:", "https:"))
    assert (fault.kind, fault.sent) == (Fault.TLS, False)


async def test_a_handshake_that_never_ends_is_bounded_by_connect_s(way: Way):
    async with Scripted([Hold()], sends_first=True) as upstream, way.open(1) as hand:
        fault = await hand.fault(upstream.url.replace("http:", "https:"), bounds=Timeouts(0.2, 5, 5))
        assert (fault.kind, fault.sent, fault.detail) == (Fault.TIMEOUT_CONNECT, False, LATE_TLS)
        await upstream.left()


async def test_large_bodies_pass_in_both_directions(way: Way):
    up, down = b"u" * 3_000_001, b"d" * 5_000_003
    async with Scripted([Send(reply(down))], tls=server_context()) as upstream, way.open(1, client_context()) as hand:
        for _ in range(2):
            assert (await hand.ask(upstream.url, up)).body == down
    assert [asked.body == up for asked in upstream.received] == [True, True]
    assert upstream.connections == 1
