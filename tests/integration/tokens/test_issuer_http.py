"""Requests to token endpoints: TLS, proxies, deadlines, cancellation and bounds, over real sockets."""

import asyncio
import base64
import gzip
import logging
import ssl
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from gatepass.clock import SystemClock
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.network import Network
from gatepass.errors import Fault, TransportFault
from gatepass.http_client.tls import TLSContexts, ssl_context
from gatepass.tokens import token_endpoint
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer_error import REPLY_BYTES
from gatepass.tokens.source import build_source, transport_of
from gatepass.tokens.token_endpoint import issuer_transport, send_request
from gatepass.types import OutboundRequest, Secret
from tests.integration.gateway import descriptors
from tests.integration.scripted import Dialogue, Fin, Hold, Rst, Scripted, Send, head, reply
from tests.integration.transport.proxies import Tunnel
from tests.integration.transport.test_tls import AUTHORITY, client_context, server_context, strict_server
from tests.memory import traced_memory, without_collection
from tests.waiting import until

HANDSHAKES = 50
TOKEN = [Send(reply({"access_token": "token-1", "expires_in": 300}))]
BASIC = "Basic " + base64.b64encode(b"user:pass word").decode()


def oauth2(url: str, **settings: Any) -> Oauth2Credential:
    given = {"client_id": "me", "client_secret": Secret("s3cr3t-of-the-client"), "client_auth": "form"}
    return Oauth2Credential.model_validate({"type": "oauth2", "token_url": url, **given, **settings})


async def reply_of(url: str, context: ssl.SSLContext | None = None, **network: Any) -> Any:
    settings = oauth2(url, network=network)
    connect = issuer_transport(settings, context or ssl_context(settings.network))
    return await send_request(connect, OutboundRequest("POST", url, ((b"accept-encoding", b"identity"),), b"x=1"), 10.0)


async def fault_of(url: str, context: ssl.SSLContext | None = None, **network: Any) -> TransportFault:
    with pytest.raises(TransportFault) as caught:
        await reply_of(url, context, **network)
    return caught.value


async def failure_of(url: str, **settings: Any) -> FetchFailure:
    own = oauth2(url, **settings)
    with pytest.raises(FetchFailure) as caught:
        await build_source("corp", own, transport_of(own, TLSContexts()), SystemClock()).fetch()
    return caught.value


async def test_a_secret_that_the_bound_of_a_refusal_halves_is_not_shown():
    """gatepass reads 64 KiB of a rejection. Blanks are folded, so the end of those bytes may be shown."""
    secret = "s3cr3t-of-the-client"
    page = "wrong:".ljust(REPLY_BYTES - 12) + secret
    async with Scripted([Send(reply(page.encode(), 400, content_type="text/plain"))]) as issuer:
        failure = await failure_of(issuer.url)
    assert "wrong:" in failure.reason
    assert secret[:8] not in failure.reason


@asynccontextmanager
async def silent_server(way: str) -> AsyncIterator[tuple[Scripted, str, dict[str, str]]]:
    """A server that accepts and sends nothing, the URL to ask, and the network that leads to the server."""
    async with AsyncExitStack() as stack:
        silent = await stack.enter_async_context(Scripted([Hold()], sends_first=True))
        secure = silent.url.replace("http:", "https:")
        match way:
            case "directly":
                yield silent, secure, {}
            case "at a proxy":
                yield silent, "https://sso.example/token", {"proxy": secure}
            case "in a tunnel":
                yield silent, secure, {"proxy": await stack.enter_async_context(Tunnel().open())}


WAYS = ["directly", "at a proxy", "in a tunnel"]


@pytest.mark.parametrize("way", WAYS)
async def test_fifty_cancelled_handshakes_leave_no_descriptor_open(way):
    context = client_context()
    async with silent_server(way) as (silent, url, network):
        before = descriptors()
        with without_collection():
            asked = [asyncio.create_task(reply_of(url, context, **network)) for _ in range(HANDSHAKES)]
            # each has sent its part of the handshake, and waits for the server's
            await until(lambda: sum(bool(talk._buffer) for talk in silent._talks) == HANDSHAKES)
            for task in asked:
                task.cancel()
            ended = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(error) for error in ended} == {asyncio.CancelledError}
            await until(lambda: descriptors() <= before)


async def test_a_handshake_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(token_endpoint, "CONNECT_S", 2.0)
    async with silent_server("directly") as (_, url, _):
        failure = await failure_of(url)
    assert "connected to 127.0.0.1" in failure.reason
    assert "but the TLS handshake did not end within 2 s" in failure.reason
    assert "begin credentials.corp.token_url with http://" in str(failure.advice)


async def test_a_client_certificate_that_was_replaced_is_shown_by_the_next_fetch(tmp_path: Path):
    cert, key, ca = tmp_path / "client.pem", tmp_path / "client.key", tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(ca)

    def put(authority: trustme.CA) -> None:
        issued = authority.issue_cert("client.example")
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(cert)

    put(trustme.CA())
    network = {"client_cert": str(cert), "client_key": str(key), "ca_file": str(ca)}
    async with Scripted(TOKEN, tls=server_context(asks=True)) as issuer:
        settings = oauth2(issuer.url, network=network)
        source = build_source("corp", settings, transport_of(settings, TLSContexts()), SystemClock())
        with pytest.raises(FetchFailure, match=r"secure connection|closed the connection"):
            await source.fetch()
        put(AUTHORITY)
        assert (await source.fetch()).text == "token-1"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_missing_client_certificate_is_a_fault_of_tls(version):
    """TLS 1.3 reports it after the handshake."""
    with strict_server(version) as url:
        assert (await fault_of(url, client_context())).kind is Fault.TLS


@pytest.mark.parametrize(
    ("dialogue", "fault"),
    [
        ([Fin()], Fault.CLOSED),
        ([Rst()], Fault.CLOSED),
        ([Send(b"no HTTP\r\n\r\n")], Fault.INVALID),
        ([Send(head(content_length="9") + b"half"), Fin()], Fault.CLOSED),
        ([Send(head(content_length="9") + b"half"), Rst()], Fault.CLOSED),
        ([Send(head(content_encoding="gzip", content_length="4") + b"half")], Fault.INVALID),
        ([Send(head(content_length="99999") + b"x" * 99_999)], Fault.TOO_LARGE),
    ],
)
async def test_a_reply_that_is_no_whole_reply_is_a_fault(dialogue: Dialogue, fault: Fault):
    async with Scripted(dialogue) as server:
        assert (await fault_of(server.url)).kind is fault


async def test_a_compressed_reply_is_unpacked_and_a_bomb_is_not():
    small, packing = gzip.compress(b'{"access_token": "t"}'), zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    bomb = b"".join(packing.compress(bytes(1_000_000)) for _ in range(300)) + packing.flush()
    dialogues = [[Send(reply(body, content_encoding="gzip"))] for body in (small, bomb)]
    async with Scripted(*dialogues) as server:
        assert (await reply_of(server.url)).body == b'{"access_token": "t"}'
        with traced_memory() as memory, pytest.raises(TransportFault, match="larger than 65536 bytes"):
            await reply_of(server.url)
        assert memory.peak_bytes < 10_000_000


async def test_a_request_arrives_byte_for_byte_and_its_connection_ends_with_the_reply(caplog):
    caplog.set_level(logging.DEBUG)
    async with Scripted([Send(reply(b"{}", set_cookie="session=1; Path=/"))]) as server:
        url, headers = f'{server.url}/a/../token?a="|b&c=%7e', ((b"x-sign", b"a=b"), (b"accept-encoding", b"identity"))
        connect = issuer_transport(oauth2(url), ssl_context(Network()))
        for _ in range(2):
            await send_request(connect, OutboundRequest("POST", url, headers, b"x=1"), 10.0)
        await server.left()
    asked = server.received[1]
    assert (asked.target, asked.body) == ('/a/../token?a="|b&c=%7e', b"x=1")
    assert {name: asked.header(name) for name in ("x-sign", "accept-encoding", "cookie", "user-agent")} == {
        "x-sign": "a=b",
        "accept-encoding": "identity",
        "cookie": None,
        "user-agent": None,
    }
    assert server.connections == 2
    assert "session=1" not in caplog.text
    assert "/token" not in caplog.text


@pytest.mark.parametrize("value", [b"a\r\nx: y", b"a\ny", b"a\0"])
async def test_a_header_with_a_line_break_is_not_sent(value):
    async with Scripted(TOKEN) as server:
        with pytest.raises(TransportFault, match="line break"):
            await send_request(
                issuer_transport(oauth2(server.url), ssl_context(Network())),
                OutboundRequest("GET", server.url, ((b"x", value),)),
                10.0,
            )
    assert server.connections == 0


async def test_environment_does_not_configure_the_http_client(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with Scripted([Send(reply(b"decoy"))]) as decoy, Scripted(TOKEN) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, decoy.url)
        assert (await reply_of(server.url)).status == 200
    assert decoy.connections == 0
    assert server.received[0].header("authorization") is None


async def test_a_plain_request_goes_to_the_proxy_with_its_whole_url_and_the_proxys_password():
    async with Scripted(TOKEN) as proxy:
        await reply_of('http://sso.example:8080/token?x="y', proxy=proxy.url, proxy_auth="user:pass word")
    asked = proxy.received[0]
    assert (asked.target, asked.body) == ('http://sso.example:8080/token?x="y', b"x=1")
    assert (asked.header("host"), asked.header("proxy-authorization")) == ("sso.example:8080", BASIC)


@pytest.mark.parametrize("is_secure", [False, True])
async def test_a_secure_request_goes_through_a_tunnel_and_reveals_nothing_to_the_proxy(is_secure):
    tunnel = Tunnel(server_context() if is_secure else None)
    async with Scripted(TOKEN, tls=server_context()) as issuer, tunnel.open() as proxy:
        answer = await reply_of(f"{issuer.url}/token", client_context(), proxy=proxy, proxy_auth="user:pass word")
    assert answer.status == 200
    assert len(tunnel.asked) == 1
    assert BASIC in tunnel.asked[0]
    assert "/token" not in tunnel.asked[0]
    assert issuer.received[0].header("proxy-authorization") is None


@pytest.mark.parametrize("url", ["https://sso.example/token", "http://sso.example/token"])
@pytest.mark.parametrize(("status", "definite"), [(407, True), (403, False)])
async def test_proxy_that_refuses_the_password_receives_no_second_request(url, status, definite):
    """Another try could lock the proxy's account."""
    async with Scripted([Send(reply(b"who are you?", status, proxy_authenticate="Basic"))]) as proxy:
        network = {"proxy": proxy.url, "proxy_auth": "user:wrong"}
        failure = await failure_of(url, network=network, allow_plain_http=True)
    assert failure.is_refused is definite
    if definite:
        assert failure.reason.startswith("the proxy in front of sso.example refuses (407")
