"""Connections that cannot be made, that die while they wait, and what may be sent again."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trustme

from gatepass.cli.reach import reach, upstream_server
from gatepass.config.model import Config
from tests.integration.answers import COMPLETION, EVENTS
from tests.integration.gateway import HELLO, gateway
from tests.integration.issuer import minted
from tests.integration.scripted import Fin, Hold, Move, Rst, Scripted, Send, Wait, reply, stream
from tests.integration.transport.proxies import Tunnel
from tests.waiting import until

STREAMED = {**HELLO, "stream": True}
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


async def reported(upstream: dict[str, Any], body: Any = HELLO) -> tuple[int, str, str]:
    async with gateway(upstreams={"far": upstream}) as gp:
        answer = await gp.ask(body).answer()
    if answer.status == 200:
        return 200, "", ""
    assert answer.headers["x-gatepass-hop"] == answer.error["hop"] == "upstream:far"
    # a connection may be there the next time, and a certificate stays wrong
    is_certificate = answer.error["code"] == "upstream_tls" and "its certificate" in answer.error["message"]
    assert answer.headers.get("x-should-retry") == ("false" if is_certificate else None)
    return answer.status, answer.error["code"], answer.error["message"]


@pytest.mark.parametrize("body", [HELLO, STREAMED], ids=["plain", "stream"])
async def test_a_connection_that_cannot_be_made_has_a_code_and_names_the_setting_to_look_at(body):
    with refusing_server() as refuses, full_server() as full:
        for upstream, status, code, named in (
            ({"base_url": f"{refuses}/v1"}, 502, "upstream_connect", "upstreams.far.base_url"),
            ({"base_url": "http://nosuch.invalid/v1"}, 502, "upstream_dns", "nosuch.invalid"),
            (
                {"base_url": full, "timeouts": {"connect_s": 0.3}},
                *(504, "upstream_timeout_connect", "upstreams.far.timeouts.connect_s"),
            ),
        ):
            found = await reported(upstream, body)
            assert found[:2] == (status, code)
            assert named in found[2]


async def test_a_pool_that_is_full_is_503_with_retry_after_and_harms_no_other_upstream():
    async with Scripted([Hold()]) as hung, Scripted([GOOD]) as other:
        upstreams = {
            "hung": {"base_url": hung.url, "max_connections": 2, "timeouts": {"connect_s": 0.3}},
            "other": {"base_url": other.url},
        }
        models = {"h": {"upstream": "hung"}, "o": {"upstream": "other"}}
        async with gateway(upstreams=upstreams, models=models) as gp:
            async with gp.ask({**HELLO, "model": "h"}), gp.ask({**HELLO, "model": "h"}):
                await hung.requested(2)
                third = await gp.ask({**HELLO, "model": "h"}).answer()
                fine = await gp.ask({**HELLO, "model": "o"}).answer()
            assert len(hung.received) == 2
    assert (third.status, third.error["code"], third.error["hop"]) == (503, "overloaded", "gatepass")
    assert third.headers["retry-after"] == "1"
    assert "upstreams.hung.max_connections" in third.error["message"]
    assert fine.status == 200


# --- TLS ----------------------------------------------------------------------------------------------------------

CA = trustme.CA()


def secured(
    names: tuple[str, ...] = ("127.0.0.1",), *, by: trustme.CA = CA, wants: trustme.CA | None = None
) -> ssl.SSLContext:
    """A server's TLS context with a certificate of `by` for `names`. It requires client certificates of `wants`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    by.issue_cert(*names).configure_cert(context)
    if wants is not None:
        wants.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def ca_file(tmp_path) -> str:
    CA.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


async def test_an_unknown_ca_is_reported_with_the_way_to_add_it():
    async with Scripted([GOOD], tls=secured()) as upstream:
        status, code, message = await reported({"base_url": f"{upstream.url}/v1"})
        assert upstream.received == []
    assert (status, code) == (502, "upstream_tls")
    assert " Set network.ca_file" in message


async def test_added_ca_is_trusted_for_its_own_hop_only(ca_file):
    async with Scripted([GOOD], tls=secured()) as upstream:
        upstreams = {
            "trusted": {"base_url": upstream.url, "network": {"ca_file": ca_file}},
            "other": {"base_url": upstream.url},
        }
        models = {name: {"upstream": name} for name in upstreams}
        async with gateway(upstreams=upstreams, models=models) as gp:
            answers = [await gp.ask({**HELLO, "model": name}).answer() for name in upstreams]
    assert [answer.status for answer in answers] == [200, 502]
    assert answers[1].error["code"] == "upstream_tls"


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
        settings = Config.model_validate({"network": network, **blocks}).upstreams["far"]
        step = await reach(upstream_server("far", settings))
        host, through = urls[0].removeprefix("https://"), proxy.removeprefix("http://")
        assert step.why.startswith(f"{host} by the proxy {through}, TLSv1.3, certificate of ")
        async with gateway(**blocks) as gp:
            assert (await gp.ask({**HELLO, "model": "near"}).answer()).error["code"] == "upstream_tls"
    assert far.received[0].header("authorization") == "Bearer good-token-1"
    connects = {f"CONNECT {url.removeprefix('https://')} HTTP/1.1" for url in urls[:2]}
    assert {asked.partition("\r\n")[0] for asked in tunnel.asked} == connects
    assert len(near.received) == 1


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
            counted = b'gatepass_stale_connection_retries_total{upstream="far"} 1.0' in gp.state.metrics.exposition()
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


async def test_failed_new_connection_causes_no_third_attempt():
    async with Scripted([GOOD], [Fin()]) as upstream:
        async with gateway(upstreams={"far": {"base_url": upstream.url}}) as gp:
            assert (await gp.ask().answer()).status == 200
            answer = await gp.ask().answer()
        assert (answer.status, answer.error["code"], len(upstream.received)) == (502, "upstream_closed", 3)


HALF_A_HEAD = Send(b"HTTP/1.1 200 OK\r\ncontent-")
BEGUN: dict[str, list[Move]] = {
    "half a head, FIN": [HALF_A_HEAD, Fin()],
    "an error": [Send(reply({"error": {"message": "no"}}, 503))],
}


@pytest.mark.parametrize("case", BEGUN)
async def test_request_on_a_reused_connection_is_not_repeated_after_one_byte_of_the_reply(case):
    async with Scripted([GOOD], BEGUN[case]) as upstream, gateway(upstream=upstream.url) as gp:
        await gp.ask().answer()
        answer = await gp.ask().answer()
        assert (answer.status >= 500, len(upstream.received)) == (True, 2)
        assert "x-gatepass-attempts" not in answer.headers


@pytest.mark.parametrize("end", [Fin(), Rst()], ids=["FIN", "RST"])
async def test_request_on_a_new_connection_is_not_repeated(end):
    async with Scripted([end]) as upstream, gateway(upstream=upstream.url) as gp:
        answer = await gp.ask().answer()
        assert (answer.status, answer.error["code"], len(upstream.received)) == (502, "upstream_closed", 1)
        assert upstream.connections == 1


# --- targets in order ---------------------------------------------------------------------------------------------


def two(first: dict[str, Any], second: Scripted, **blocks: Any) -> dict[str, Any]:
    return {
        "upstreams": {"first": first, "second": {"base_url": second.url}},
        "models": {"m": {"targets": [{"upstream": "first", "name": "a"}, {"upstream": "second", "name": "b"}]}},
        **blocks,
    }


async def test_next_target_is_tried_if_no_byte_was_written_to_the_first(caplog):
    caplog.set_level(logging.INFO, "gatepass.access")
    with full_server() as full:
        for first, code in (
            ({"base_url": "http://nosuch.invalid"}, "upstream_dns"),
            ({"base_url": full, "timeouts": {"connect_s": 0.2}}, "upstream_timeout_connect"),
        ):
            async with Scripted([GOOD]) as second, gateway(**two(first, second)) as gp:
                answer = await gp.ask().answer()
                metrics = gp.state.metrics.exposition().decode()
            assert (answer.status, answer.json()) == (200, COMPLETION)
            assert second.received[0].json() == {**HELLO, "model": "b"}
            line = caplog.records[-1].__dict__["fields"]
            assert (line["upstream"], line["failover"], line["outcome"]) == ("second", (f"first={code}",), "ok")
            assert f'gatepass_failovers_total{{code="{code}",upstream="first"}} 1.0' in metrics


@pytest.mark.parametrize("body", [HELLO, {**HELLO, "stream": True}], ids=["plain", "stream"])
async def test_the_total_timeout_names_the_target_that_is_tried(body):
    """The timeout is the first target's, and the second one hangs."""
    with refusing_server() as refuses:
        first = {"base_url": refuses, "timeouts": {"total_s": 0.4}}
        async with Scripted([Hold()]) as second, gateway(**two(first, second)) as gp:
            answer = await gp.ask(body).answer()
            await second.left()
    error = answer.error
    assert (answer.status, error["code"], error["hop"]) == (504, "upstream_timeout_total", "upstream:second")
    assert answer.headers["x-gatepass-hop"] == "upstream:second"
    assert error["message"].endswith(
        "(upstreams.first.timeouts.total_s). A long answer needs more: raise this setting."
    )


@pytest.mark.parametrize("block", ["upstreams", "operations", "models"])
@pytest.mark.parametrize("body", [HELLO, {**HELLO, "stream": True}], ids=["plain", "stream"])
async def test_a_timeout_names_the_setting_that_ended_it(block: str, body: dict[str, Any]):
    async with Scripted([Hold()]) as upstream:
        blocks: dict[str, Any] = {
            "upstreams": {"far": {"base_url": upstream.url}},
            "models": {"m": {"upstream": "far"}},
            "operations": {"chat": {"model": "m"}},
        }
        (name,) = blocks[block]
        blocks[block][name]["timeouts"] = {"first_byte_s": 0.2}
        async with gateway(**blocks) as gp:
            answer = await gp.ask(body).answer()
    setting = f"{block}.{name}.timeouts.first_byte_s"
    assert f"sent no reply within 0.2 s ({setting}). A slow model needs more" in answer.error["message"]


async def test_next_target_is_tried_without_a_token():
    with refusing_server() as issuer:
        login = {"type": "http_json", "url": issuer, "timeout_s": 0.3}
        async with Scripted([GOOD]) as first, Scripted([GOOD]) as second:
            blocks = two({"base_url": first.url, "credential": "corp"}, second, credentials={"corp": login})
            async with gateway(**blocks) as gp:
                assert (await gp.ask().answer()).status == 200
            assert (first.connections, len(second.received)) == (0, 1)


async def test_a_full_pool_sends_to_the_next_target():
    async with Scripted([Hold()]) as first, Scripted([GOOD]) as second:
        narrow = {"base_url": first.url, "max_connections": 1, "timeouts": {"connect_s": 0.2}}
        async with gateway(**two(narrow, second)) as gp, gp.ask():
            await first.requested()
            assert (await gp.ask().answer()).status == 200
        assert (len(first.received), len(second.received)) == (1, 1)


async def test_no_target_is_tried_after_one_that_rejected_the_token():
    """The issuer dies between the first token and the second: that request is not one that was never sent."""
    refuses = [Send(reply({"error": {"message": "token expired"}}, 401))]
    minted = [Send(reply({"access_token": "first-token", "expires_in": 300}))]
    async with Scripted(minted, [Rst()]) as issuer, Scripted(refuses) as first, Scripted([GOOD]) as second:
        login = {"type": "http_json", "url": issuer.url, "timeout_s": 2}
        blocks = two({"base_url": first.url, "credential": "corp"}, second, credentials={"corp": login})
        async with gateway(**blocks) as gp:
            answer = await gp.ask().answer()
        assert (answer.status, answer.error["code"], answer.error["hop"]) == (
            503,
            "token_unavailable",
            "credential:corp",
        )
        assert (len(first.received), second.connections) == (1, 0)


async def test_target_counts_as_written_if_the_repeat_finds_no_connection():
    """The server closed the kept connection after the request was written, so the request may have been read."""
    async with (
        Scripted([GOOD]) as second,
        Scripted([GOOD], [Hold()]) as first,
        gateway(**two({"base_url": first.url}, second)) as gp,
    ):
        assert (await gp.ask().answer()).status == 200
        asking = asyncio.create_task(gp.ask().answer())
        await first.requested(2)
        await first.__aexit__(None)
        assert (await asking).status == 502
        await until(lambda: not gp.state.in_flight.busy)
        assert second.connections == 0
