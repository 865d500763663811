"""The way through a proxy: whole URLs for http upstreams, a tunnel for https ones."""

import asyncio
import base64
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gatepass.config.network import Network
from gatepass.errors import Fault, TransportFault
from gatepass.http_client.fault_text import ServerNames, fault_text
from gatepass.http_client.pool import open_transport
from gatepass.http_client.tls import ssl_context
from gatepass.types import Timeouts
from tests.integration.gateway import descriptors
from tests.integration.scripted import Dialogue, Fin, Hold, Move, Rst, Scripted, Send, reply
from tests.integration.transport.hand import Hand
from tests.integration.transport.proxies import AUTHORITY, Tunnel, proxy_context
from tests.integration.transport.test_tls import client_context, server_context
from tests.memory import without_collection
from tests.waiting import until

OK = reply(b"fine")
PORT = re.compile(r"127\.0\.0\.1:\d+")
BASIC = "Basic " + base64.b64encode(b"user:pass word").decode()


@asynccontextmanager
async def through(proxy: str, auth: str | None = None, context: ssl.SSLContext | None = None) -> AsyncIterator[Hand]:
    network = Network.model_validate({"proxy": proxy, "proxy_auth": auth})
    transport = open_transport(network, 4, context or ssl.create_default_context())
    try:
        yield Hand(transport)
    finally:
        await transport.aclose()


@pytest.fixture
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of an upstream, and of a client that trusts it."""
    return server_context(), client_context()


async def test_a_plain_request_goes_to_the_proxy_with_its_whole_url_and_the_proxys_password():
    async with Scripted([Send(OK)]) as proxy, through(proxy.url, "user:pass word") as hand:
        for _ in range(2):
            assert (await hand.ask("http://llm.example:8080/v1/x?y", b"abc")).body == b"fine"
    asked = proxy.received[0]
    assert (asked.target, asked.body) == ("http://llm.example:8080/v1/x?y", b"abc")
    assert (asked.header("host"), asked.header("proxy-authorization")) == ("llm.example:8080", BASIC)
    assert proxy.connections == 1


async def test_a_secure_request_goes_through_a_tunnel_and_shows_the_proxy_nothing(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
):
    server, client = tls
    tunnel = Tunnel()
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


async def refused(*dialogue: Move, auth: str | None = None, connect_s: float = 5) -> TransportFault:
    """The request fails, and is not repeated, if a proxy plays `dialogue` after CONNECT."""
    async with Scripted([*dialogue]) as proxy, through(proxy.url, auth) as hand:
        fault = await hand.fault("https://llm.example/", bounds=Timeouts(connect_s, 5, 5))
        await proxy.left()
    assert (proxy.connections, [asked.method for asked in proxy.received]) == (1, ["CONNECT"])
    assert fault.sent is False
    return fault


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b"407 Proxy Authentication Required", "407 Proxy Authentication Required"),
        (b"403 Forbidden by policy 7", "403 Forbidden by policy 7"),
        (b"502 \xe4\x00\x1b[31m", "502 \xe4[31m"),
        (b"500 " + b"y" * 5_000, f"500 {'y' * 5_000}"),  # cut where it is shown, once it is masked
    ],
)
async def test_a_proxy_that_refuses_a_tunnel_is_quoted(line: bytes, detail: str):
    fault = await refused(Send(b"HTTP/1.1 " + line + b"\r\ncontent-length: 4\r\n\r\nbody"), Hold())
    assert (fault.kind, PORT.sub("PROXY", fault.detail)) == (Fault.PROXY, f"{detail} from PROXY")


@pytest.mark.parametrize(
    ("offered", "named"),
    [
        (
            b"Proxy-Authenticate: Negotiate\r\nproxy-authenticate: NTLM\r\n",
            "; it offers no Basic, only Negotiate, NTLM",
        ),
        (b'proxy-authenticate: Kerberos realm="basic"\r\n', "; it offers no Basic, only Kerberos"),
        (b'proxy-authenticate: NTLM\r\nproxy-authenticate: Basic realm="x"\r\n', ""),
        (b'proxy-authenticate: Digest qop="auth", Basic realm="x"\r\n', ""),
        (b"", ""),
    ],
)
async def test_the_schemes_of_a_proxy_without_basic_are_named(offered: bytes, named: str):
    head = b"HTTP/1.1 407 No\r\n" + offered + b"content-length: 0\r\n\r\n"
    fault = await refused(Send(head), Hold())
    assert PORT.sub("PROXY", fault.detail) == f"407 No from PROXY{named}"
    advice = str(fault_text(fault, ServerNames("llm", "upstreams.a", "upstreams.a.base_url")).advice)
    assert ("such as px or cntlm" in advice, "proxy_auth" in advice) == (named != "", named == "")
    async with Scripted([Send(head)]) as proxy, through(proxy.url) as hand:
        fault = await hand.fault("http://llm.example/")
    assert fault.detail.endswith(named or "PROXY".join(proxy.url.split("//")[1:]))


async def test_a_proxy_that_quotes_its_credentials_is_masked():
    quoted = f"407 no {BASIC} nor pass word".encode()
    fault = await refused(Send(b"HTTP/1.1 " + quoted + b"\r\n\r\nalso not pass word"), Fin(), auth="user:pass word")
    assert PORT.sub("PROXY", fault.detail) == "407 no Basic *** nor *** from PROXY"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000,
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
    ],
    ids=["bytes behind the head", "no HTTP", "no status", "an endless field", "interim replies", "fields"],
)
async def test_invalid_reply_to_connect_opens_no_tunnel(answer: bytes):
    """Sent in pieces, so that it could go on for ever: the transport hangs up by itself."""
    assert (await refused(Send(answer, 8_000), Hold())).kind is Fault.PROXY


@pytest.mark.parametrize("end", [Fin(), Rst()], ids=["FIN", "RST"])
async def test_a_proxy_that_hangs_up_on_connect_is_named(end: Fin | Rst):
    assert (await refused(Send(b"HTTP/1.1 200 O"), end)).kind is Fault.PROXY


@pytest.mark.parametrize(
    ("dialogue", "said"),
    [
        ([Hold()], "Connected to the proxy PROXY, but it opened no tunnel within 2 s."),
        ([Send(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100, 1, 0.05)], "it opened no tunnel within 2 s."),
        ([Send(b"HTTP/1.1 200 OK\r\n\r\n"), Hold()], "Connected to h, but the TLS handshake did not end within 2 s."),
    ],
    ids=["silent", "a head that dribbles", "silent in the handshake"],
)
async def test_the_way_through_a_proxy_is_bounded_by_connect_s(dialogue: Dialogue, said: str):
    fault = await refused(*dialogue, connect_s=2.0)
    assert fault.kind is Fault.TIMEOUT_CONNECT
    assert said in PORT.sub("PROXY", fault_text(fault, ServerNames("h", "s", "u")).why)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 Connection established\r\n\r\n",
        b"HTTP/1.1 200\n\n",
        b"HTTP/1.1 204 \r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
async def test_every_form_of_success_opens_the_tunnel(tls: tuple[ssl.SSLContext, ssl.SSLContext], answer: bytes):
    server, client = tls
    tunnel = Tunnel(answer=answer)
    async with (
        Scripted([Send(OK)], tls=server) as upstream,
        tunnel.open() as proxy,
        through(proxy, context=client) as hand,
    ):
        assert (await hand.ask(upstream.url)).body == b"fine"


async def test_a_407_of_the_upstream_itself_is_its_reply(tls: tuple[ssl.SSLContext, ssl.SSLContext]):
    server, client = tls
    async with (
        Scripted([Send(reply(b"no", 407))], tls=server) as upstream,
        Tunnel().open() as proxy,
        through(proxy, context=client) as hand,
    ):
        assert (await hand.ask(upstream.url)).status == 407


async def test_a_407_to_a_whole_url_is_the_proxys_refusal():
    async with Scripted([Send(reply(b"who?", 407))]) as proxy, through(proxy.url, "user:wrong") as hand:
        fault = await hand.fault("http://llm.example/")
    assert (fault.kind, fault.detail) == (
        Fault.PROXY,
        f"407 Proxy Authentication Required from {proxy.url.removeprefix('http://')}",
    )
    assert (fault.sent, proxy.connections, len(proxy.received)) == (True, 1, 1), "the proxy has read the request"


async def test_a_proxy_over_tls_gets_whole_urls_too():
    context = ssl_context(Network())
    AUTHORITY.configure_trust(context)
    async with (
        Scripted([Send(OK)], tls=proxy_context()) as proxy,
        through(proxy.url, "user:pass word", context) as hand,
    ):
        assert (await hand.ask("http://llm.example/v1")).body == b"fine"
    asked = proxy.received[0]
    assert (asked.target, asked.header("proxy-authorization")) == ("http://llm.example:80/v1", BASIC)


async def test_an_untrusted_proxy_over_tls_receives_nothing(logged_errors: list[str]):
    async with Scripted([Send(OK)], tls=proxy_context()) as proxy, through(proxy.url, "user:pass word") as hand:
        for url in ("http://llm.example/", "https://llm.example/"):
            fault = await hand.fault(url)
            assert (fault.kind, fault.sent) == (Fault.TLS, False)
            assert fault.detail.startswith(f"proxy {proxy.url.removeprefix('https://')}: ")
    assert proxy.received == []
    logged_errors.clear()  # the scripted server's own loop complains of the handshake


@pytest.mark.parametrize("over_tls", [False, True], ids=["http proxy", "https proxy"])
@pytest.mark.parametrize("silent", ["connect", "handshake"])
async def test_fifty_cancelled_dials_leave_no_descriptor(silent: str, *, over_tls: bool):
    """With the garbage collector off: each is closed by whom it was opened by."""
    context = ssl_context(Network())
    AUTHORITY.configure_trust(context)
    dialogue: Dialogue = [Hold()] if silent == "connect" else [Send(b"HTTP/1.1 200 OK\r\n\r\n"), Hold()]
    with without_collection():
        async with Scripted(dialogue, tls=proxy_context() if over_tls else None) as proxy:
            before = descriptors()
            transport = open_transport(Network(proxy=proxy.url), 50, context)
            works = [asyncio.ensure_future(Hand(transport).ask("https://llm.example/")) for _ in range(50)]
            await proxy.requested(50)
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)
            await proxy.left()
            await until(lambda: descriptors() <= before)
            await transport.aclose()


async def test_a_proxy_that_is_down_is_no_connection():
    async with Scripted([Fin()]) as proxy:
        url = proxy.url
    async with through(url) as hand:
        for target in ("http://llm.example/", "https://llm.example/"):
            fault = await hand.fault(target)
            assert (fault.kind, fault.sent) == (Fault.CONNECT, False)
            assert fault.detail.startswith(f"proxy {url.removeprefix('http://')}: ")
