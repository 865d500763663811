"""Connections that cannot be made, that die while they wait, and what may be sent again."""

import asyncio
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import trustme

from tests.integration.answers import COMPLETION, EVENTS
from tests.integration.gateway import HELLO, STREAMED, gateway
from tests.integration.issuer import minted
from tests.integration.scripted import Fin, Hold, Move, Scripted, Send, Wait, reply, stream
from tests.integration.transport.proxies import Tunnel

GOOD = Send(reply(COMPLETION))


@contextmanager
def refusing_server() -> Iterator[str]:
    """The URL of a server that refuses connections: its port is bound, and no server listens on it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def full_server() -> Iterator[str]:
    """The URL of a server whose queue is full, so that the kernel drops new connections."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        queued = [socket.socket() for _ in range(3)]
        try:
            for waiting in queued:
                waiting.setblocking(False)
                waiting.connect_ex(address)
            yield f"http://127.0.0.1:{address[1]}"
        finally:
            for waiting in queued:
                waiting.close()


async def test_a_connection_that_cannot_be_made_has_a_code_and_names_the_setting_to_look_at():
    with refusing_server() as refuses, full_server() as full:
        for upstream, status, code, named in (
            ({"base_url": f"{refuses}/v1"}, 502, "upstream_connect", "upstreams.far.base_url"),
            ({"base_url": "http://nosuch.invalid/v1"}, 502, "upstream_dns", "nosuch.invalid"),
            (
                {"base_url": full, "timeouts": {"connect_s": 0.3}},
                *(504, "upstream_timeout_connect", "upstreams.far.timeouts.connect_s"),
            ),
        ):
            async with gateway(upstreams={"far": upstream}) as gp:
                answer = await gp.ask().answer()
            assert (answer.status, answer.error["code"], answer.error["hop"]) == (status, code, "upstream:far")
            assert answer.headers["x-gatepass-hop"] == "upstream:far"
            assert "x-should-retry" not in answer.headers  # a connection may be there the next time
            assert named in answer.error["message"]


# --- TLS ----------------------------------------------------------------------------------------------------------

CA = trustme.CA()


def secured(names: Sequence[str] = ("127.0.0.1",)) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture
def ca_file(tmp_path) -> str:
    CA.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


async def test_the_default_network_carries_an_upstream_and_a_token_endpoint(ca_file, monkeypatch):
    """The names below corp.example lead here. The default proxy is not used for those of `no_proxy`."""
    resolve = socket.getaddrinfo

    def resolved(host: Any, *arguments: Any, **more: Any) -> Any:
        return resolve("127.0.0.1" if str(host).endswith(".corp.example") else host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    tunnel, hosts = Tunnel(), ("llm.corp.example", "sso.corp.example", "near.corp.example")
    tls = secured(hosts)
    async with (
        tunnel.open() as proxy,
        Scripted([GOOD], tls=tls) as far,
        Scripted(minted(), tls=tls) as issuer,
        Scripted([GOOD], tls=tls) as near,
    ):
        urls = [server.url.replace("127.0.0.1", host) for host, server in zip(hosts, (far, issuer, near), strict=True)]
        network = {"ca_file": ca_file, "proxy": proxy, "no_proxy": ["near.corp.example"]}
        login = {"type": "oauth2", "token_url": urls[1], "client_id": "me", "client_secret": "secret"}
        upstreams = {"far": {"base_url": urls[0], "credential": "corp"}, "near": {"base_url": urls[2]}}
        models = {name: {"upstream": name} for name in upstreams}
        blocks: dict[str, Any] = {"credentials": {"corp": login}, "upstreams": upstreams, "models": models}
        async with gateway(network=network, **blocks) as gp:
            answers = [await gp.ask({**HELLO, "model": name}).answer() for name in upstreams]
        assert [answer.status for answer in answers] == [200, 200], [answer.body for answer in answers]
        async with gateway(**blocks) as gp:
            assert (await gp.ask({**HELLO, "model": "near"}).answer()).error["code"] == "upstream_tls"
    assert far.received[0].header("authorization") == "Bearer good-token-1"
    connects = {f"CONNECT {url.removeprefix('https://')} HTTP/1.1" for url in urls[:2]}
    assert {asked.partition("\r\n")[0] for asked in tunnel.asked} == connects
    assert len(near.received) == 1


@pytest.mark.parametrize(
    ("scheme", "does", "code", "said"),
    [
        ("http", None, "upstream_closed", "If the port requires TLS, begin upstreams.far.base_url with https://. "),
        ("http", Send(b"\x15"), "upstream_invalid", "requires TLS on this port. Begin upstreams.far.base_url with"),
        ("https", Send(reply(b"", 400)), "upstream_tls", "(it does not use TLS on this port). Check the port in "),
        ("https", Fin(), "upstream_tls", "Check the port in upstreams.far.base_url, or begin it with http:// if it"),
        ("https", Hold(), "upstream_timeout_connect", "but the TLS handshake did not end within 2 s (upstreams.far."),
    ],
)
async def test_a_base_url_with_the_other_scheme_is_named(scheme: str, does: Move | None, code: str, said: str):
    """`does`: of a server of the other scheme. None: it closes, because the request is no TLS handshake."""
    tls = secured() if does is None else None
    async with Scripted([does or GOOD], sends_first=scheme == "https", tls=tls) as upstream:
        url = f"{scheme}://{upstream.url.partition('//')[2]}"
        timeouts = {"connect_s": 2} if isinstance(does, Hold) else {}
        async with gateway(upstreams={"far": {"base_url": url, "timeouts": timeouts}}) as gp:
            answer = await gp.ask().answer()
    assert answer.error["code"] == code
    assert said in answer.error["message"]
    assert re.search(r"begin (`?upstreams.far.base_url`?|it) with http", answer.error["message"], re.IGNORECASE)


# --- requests that are sent again, and others ---------------------------------------------------------------------


@pytest.mark.parametrize("body", [HELLO, STREAMED], ids=["plain", "stream"])
@pytest.mark.parametrize("settings", [{}, {"repeat_stale": False}], ids=["repeats", "repeat_stale: false"])
async def test_request_on_a_closed_reused_connection_is_repeated_once_on_a_new_one(settings, body):
    """The upstream closes the kept connection on the next request, as one does whose idle time is over."""
    whole = Send(stream(*EVENTS)) if body is STREAMED else GOOD
    async with Scripted([whole], [Fin()], [whole]) as upstream:
        async with gateway(upstreams={"far": {"base_url": upstream.url, **settings}}) as gp:
            assert (await gp.ask(body).answer()).status == 200
            answer = await gp.ask(body).answer()
            counted = (
                b'gatepass_repeats_total{cause="new_connection",upstream="far"} 1' in gp.state.metrics.exposition()
            )
        connections = [request.connection for request in upstream.received]
        assert len({(one.headers, one.body) for one in upstream.received[1:]}) == 1, "a repeat has the same bytes"
    if settings:
        assert (answer.status, answer.error["code"], connections) == (502, "upstream_closed", [1, 1])
    else:
        assert (answer.status, answer.headers["x-gatepass-attempts"], connections) == (200, "2", [1, 1, 2])
    assert counted is not bool(settings)


async def test_the_repeat_goes_over_a_new_connection_whatever_else_was_kept():
    """llama.cpp closes every connection after its stream: the second kept one would be as dead as the first."""
    both = asyncio.Event()
    first: list[Move] = [Wait(both), GOOD]
    async with Scripted(first, first, [Fin()], [GOOD]) as upstream:
        async with gateway(upstreams={"far": {"base_url": upstream.url}}) as gp:
            asking = [asyncio.create_task(gp.ask().answer()) for _ in range(2)]
            await upstream.requested(2)
            both.set()
            assert [answer.status for answer in await asyncio.gather(*asking)] == [200, 200]
            answer = await gp.ask().answer()
        assert (answer.status, answer.headers["x-gatepass-attempts"], len(upstream.received)) == (200, "2", 4)
        *before, last = (one.connection for one in upstream.received)
        assert last > max(before)
