"""The operator's view: health, readiness, metrics, the access line, and the shutdown."""

import asyncio
import logging
import re
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from gatepass.config.access import hash_key
from gatepass.normalize.rules import DeclaredModels
from tests.integration.answers import COMPLETION, DONE, EVENTS
from tests.integration.gateway import HELLO, JSON, Gateway, gateway, relaying
from tests.integration.issuer import corp, minted, renewing
from tests.integration.raw import request, send_raw, status_of
from tests.integration.scripted import Dialogue, Hold, Rst, Scripted, Send, Wait, begin_stream, chunk, reply, stream
from tests.integration.test_profiles import lines_of
from tests.unit.clock import DrivenClock
from tests.waiting import until

STREAMED = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
KEY = "gp-a-key-that-opens-the-door"
LOCKED = {"keys": [{"name": "ragflow", "hash": hash_key(KEY), "role": "admin"}]}
GOOD = [Send(reply(COMPLETION))]


async def get(gp: Gateway, path: str, **headers: str) -> tuple[int, Any]:
    answer = await gp.ask(None, path, method="GET", headers=headers).answer()
    return answer.status, answer.json()


async def test_healthz_reports_only_that_the_process_is_alive():
    async with renewing(Scripted([Rst()]), Scripted(GOOD), access=LOCKED) as gp:
        assert await get(gp, "/healthz") == (200, {"status": "ok"})
        assert await get(gp, "/healthz", host="10.1.2.3:8080") == (200, {"status": "ok"})
        head = await send_raw(gp.port, request(target="/healthz", method="HEAD"))
        assert head.lower().count(b"cache-control: no-store") == 1
        assert (status_of(head), head.endswith(b"\r\n\r\n")) == (200, True)


async def test_ready_states_only_ready_or_not():
    """The check fails without a usable token and succeeds with one. It shows no reason, to any client."""
    clock, release = DrivenClock(), asyncio.Event()
    issuer = Scripted([Wait(release), *minted()], [Hold()])
    async with renewing(issuer, Scripted(GOOD), clock=clock, access=LOCKED) as gp:
        await issuer.requested()
        red = await gp.ask(None, "/readyz", method="GET", headers={}).answer()
        release.set()
        await until(lambda: gp.state.ready)
        green = await gp.ask(None, "/readyz", method="GET", headers={}).answer()
        await clock.advance(299)
        again = await gp.ask(None, "/readyz", method="GET", headers={}).answer()
    found = [(answer.status, answer.json()) for answer in (red, green, again)]
    assert found == [(503, {"ready": False}), (200, {"ready": True}), (503, {"ready": False})]
    assert set(red.headers) == {"date", "content-length", "content-type", "cache-control"}


async def test_ready_is_strict_on_demand_every_credential_counts():
    async with Scripted(minted()) as issuer, Scripted([Hold()]) as dead, Scripted(GOOD) as upstream:
        blocks = corp(issuer, upstream)
        blocks["credentials"]["other"] = {**blocks["credentials"]["corp"], "token_url": dead.url}
        blocks["upstreams"]["more"] = {**blocks["upstreams"]["chat"], "credential": "other"}
        async with gateway(access=LOCKED, **blocks) as gp:
            await until(lambda: gp.state.ready)
            assert await get(gp, "/readyz") == (200, {"ready": True})
            assert await get(gp, "/readyz?strict") == (503, {"ready": False})
        async with gateway(access=LOCKED, **corp(issuer, upstream)) as gp:
            await until(lambda: gp.state.ready)
            assert await get(gp, "/readyz?strict") == (200, {"ready": True})


CHATS = "caller=local,model=other,operation=chat"
TIMED_OUT = "caller=local,code=upstream_timeout_first_byte,hop=upstream:chat,model=other,operation=chat"
REFUSED = "caller=local,code=upstream_error,hop=upstream:chat,model=other,operation=chat"
UNKNOWN = "caller=none,code=unknown_path,hop=client,model=none,operation=none"


def samples(exposition: bytes) -> dict[str, float]:
    """Each sample by its name and labels, the times of creation and the buckets left out."""
    found = {}
    for family in text_string_to_metric_families(exposition.decode()):
        for sample in family.samples:
            if not sample.name.endswith(("_bucket", "_created")):
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def ended(code: str, outcome: str, status: object, **labels: str) -> str:
    """The sample of finished requests, of chats where `labels` say nothing else."""
    of_request = {"caller": "local", "model": "other", "operation": "chat", "upstream": "chat", **labels}
    all_labels = {**of_request, "code": code, "outcome": outcome, "status": status}
    return f"gatepass_requests_total{{{','.join(f'{name}={all_labels[name]}' for name in sorted(all_labels))}}}"


async def measured(gp: Gateway, **headers: str) -> dict[str, float]:
    answer = await gp.ask(None, "/metrics", method="GET", headers=headers).answer()
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return samples(answer.body)


async def test_metrics_require_a_key_if_keys_are_configured():
    async with Scripted(GOOD) as upstream:
        async with gateway(upstream=upstream.url, access=LOCKED) as gp:
            refused = await gp.ask(None, "/metrics", method="GET", headers={"x-api-key": "wrong"}).answer()
            assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
            assert "gatepass_requests_in_flight_limit{}" in await measured(gp, **{"x-api-key": KEY})
        async with gateway(upstream=upstream.url, access={**LOCKED, "metrics_open": True}) as gp:
            assert "gatepass_requests_in_flight_limit{}" in await measured(gp)
            assert (await get(gp, "/status"))[0] == 401
        async with gateway(upstream=upstream.url) as gp:
            assert "gatepass_requests_in_flight_limit{}" in await measured(gp)
            rebound = await gp.ask(None, "/metrics", method="GET", headers={"host": "evil.example"}).answer()
            assert (rebound.status, rebound.error["code"]) == (403, "forbidden_host")


async def test_metrics_count_requests_and_errors():
    """A plain answer after a renewed token, a stream, a silence, a refusal of the upstream, an unknown path."""
    silence = {"first_byte_s": 3.0}
    dialogues: list[Dialogue] = [
        [Send(reply({"error": {"message": "expired"}}, 401))],
        GOOD,
        [Send(stream(*EVENTS))],
        [Hold()],
        [Send(reply({"error": {"message": "no", "code": "its_own_code"}}, 400))],
    ]
    async with Scripted(minted(), minted("good-token-2")) as issuer, Scripted(*dialogues) as upstream:
        blocks = corp(issuer, upstream)
        blocks["upstreams"]["chat"]["timeouts"] = silence
        async with gateway(clock=(clock := DrivenClock()), **blocks) as gp:
            asks = [gp.ask(), gp.ask(STREAMED), gp.ask(), gp.ask(), gp.ask(path="/v1/nothing")]
            answers = [await ask.answer() for ask in asks]
            await clock.advance(10)
            found = await measured(gp)
    assert [answer.status for answer in answers] == [200, 200, 504, 400, 404]
    sent = sum(len(ask.data) for ask in asks[:4])
    expected = {
        ended("none", "ok", 200): 2,
        ended("upstream_timeout_first_byte", "error", 504): 1,
        ended("upstream_error", "error", 400): 1,
        ended("unknown_path", "error", 404, caller="none", model="none", operation="none", upstream="none"): 1,
        f"gatepass_attempts_total{{{CHATS},upstream=chat}}": 5,
        "gatepass_repeats_total{cause=new_token,upstream=chat}": 1,
        f"gatepass_errors_total{{{TIMED_OUT},upstream=chat}}": 1,
        f"gatepass_errors_total{{{REFUSED},upstream=chat}}": 1,
        f"gatepass_errors_total{{{UNKNOWN},upstream=none}}": 1,
        f"gatepass_request_duration_seconds_count{{{CHATS},upstream=chat}}": 2,
        f"gatepass_time_to_first_token_seconds_count{{{CHATS},upstream=chat}}": 1,
        "gatepass_added_latency_seconds_count{operation=chat,upstream=chat}": 2,
        f"gatepass_input_tokens_total{{{CHATS},upstream=chat}}": 1,
        f"gatepass_output_tokens_total{{{CHATS},upstream=chat}}": 1,
        "gatepass_upstream_connections{state=busy,upstream=chat}": 0,
        "gatepass_client_bytes_total{direction=in}": sent,
        "gatepass_client_bytes_total{direction=out}": sum(len(answer.body) for answer in answers),
        f"gatepass_requests_in_flight{{{CHATS},upstream=chat}}": 0,
        "gatepass_token_usable{credential=corp}": 1,
        "gatepass_token_age_seconds{credential=corp}": 10,
        "gatepass_token_expires_in_seconds{credential=corp}": 285,
        "gatepass_token_fetches_total{credential=corp}": 2,
        "gatepass_token_fetch_failures_total{credential=corp}": 0,
    }
    assert {name: found.get(name) for name in expected} == expected


async def line_of(caplog, count: int = 1) -> dict[str, Any]:
    """The access line of the `count`th request; its times are shown to be there and taken out."""
    fields = dict((await lines_of(caplog, count))[-1])
    for name in ("duration_s", "ttft_s"):
        if name in fields:
            assert fields.pop(name) >= 0
    return fields


async def test_a_request_with_a_key_has_its_own_line_on_a_path_or_method_without_an_operation(caplog):
    caplog.set_level(logging.INFO, "gatepass")
    upgrade = {"connection": "Upgrade", "upgrade": "websocket"}
    kinds: list[tuple[str, str, dict[str, str], int]] = [
        ("/v1/chat/completion", "POST", {}, 404),
        ("/v1/chat/completions", "PUT", {}, 405),
        ("/v1/responses", "GET", upgrade, 426),
    ]
    async with relaying(GOOD, access=LOCKED) as (_, gp):
        for path, method, more, status in kinds * 3:
            headers = {**JSON, "x-api-key": KEY, **more}
            answer = await gp.ask(path=f"{path}?key=in-the-query", method=method, headers=headers).answer()
            assert answer.status == status
        assert {line["caller"] for line in await lines_of(caplog, 9)} == {"ragflow"}
        # without a known key only the first one of the address and code
        for _ in range(3):
            await gp.ask(path="/v1/chat/completion", headers={**JSON, "x-api-key": "unknown-key-unknown"}).answer()
        line = await line_of(caplog, 10)
    assert ("caller" in line, line["peer"], line["code"]) == (False, "127.0.0.1", "unknown_path")
    assert not any(text in caplog.text for text in ("in-the-query", "unknown-key-unknown"))


async def test_a_fault_of_gatepass_itself_is_a_500_and_an_error_in_every_count(caplog, logged_errors, monkeypatch):
    class Broken:
        name = "broken"

        def concerns(self, call, target):
            return True

        def apply(self, draft, target):
            raise ZeroDivisionError("a bug")

    caplog.set_level(logging.INFO, "gatepass")
    monkeypatch.setattr(DeclaredModels, "_configured_rules", lambda *_: (Broken(),))
    async with relaying(GOOD) as (_, gp):
        answer = await gp.ask().answer()
        line = await line_of(caplog)
        found = await measured(gp)
    assert (answer.status, answer.error["code"], answer.error["hop"]) == (500, "internal_error", "gatepass")
    assert "a bug" not in answer.body.decode()
    assert (line["outcome"], line["code"], line["hop"]) == ("error", "internal_error", "gatepass")
    chats = "model=other,operation=chat,upstream=chat"
    assert found[f"gatepass_errors_total{{caller=local,code=internal_error,hop=gatepass,{chats}}}"] == 1
    assert found[ended("internal_error", "error", 500)] == 1
    assert "ZeroDivisionError: a bug" in logged_errors[0]
    logged_errors.clear()


async def test_server_timing_shows_how_long_the_token_took():
    release = asyncio.Event()
    async with renewing(Scripted([Wait(release), *minted()]), Scripted(GOOD)) as gp, gp.ask() as ask:
        await until(lambda: gp.state.in_flight.busy == 1)
        asyncio.get_running_loop().call_later(0.2, release.set)
        waited = await ask.answer()
        at_once = await gp.ask().answer()
    total_ms, token_ms = timing(waited.headers["server-timing"])
    assert 150 < token_ms <= total_ms
    assert timing(at_once.headers["server-timing"])[1] == 0


def timing(value: str) -> tuple[float, float]:
    found = re.fullmatch(r"total;dur=([0-9.]+), token;dur=([0-9.]+)", value)
    assert found is not None
    return float(found[1]), float(found[2])


async def test_stop_lets_a_stream_finish_and_refuses_new_requests():
    """A stop that waited for more than what runs would hang for an hour, and the test with it."""
    go = asyncio.Event()
    dialogue = [*begin_stream(), Send(chunk(EVENTS[0])), Wait(go), Send(chunk(EVENTS[1] + DONE) + b"0\r\n\r\n")]
    async with relaying(dialogue, server={"drain_timeout_s": 3600}) as (upstream, gp), gp.ask(STREAMED) as ask:
        await ask.head()
        await ask.until(EVENTS[0])
        gp.server.should_exit = True
        await until(lambda: gp.state.in_flight.refusing)
        ready = await get(gp, "/readyz")
        alive = await get(gp, "/healthz")
        refused = await gp.ask().answer()
        go.set()
        rest = await ask.until(DONE)
        assert await ask.piece() == b""
        await until(lambda: not gp.state.in_flight.busy)
    assert (ready, alive) == ((503, {"ready": False}), (200, {"status": "ok"}))
    assert (refused.status, refused.error["code"], refused.error["hop"]) == (503, "draining", "gatepass")
    assert refused.headers["retry-after"] == "1"
    assert "x-should-retry" not in refused.headers
    assert rest == b"".join(EVENTS)
    assert len(upstream.received) == 1


async def test_a_head_of_the_base_url_is_a_404_and_no_error(caplog):
    """Claude Code sends one at its start, without a key."""
    caplog.set_level("INFO", "gatepass.access")
    paths = ("/", "//", "/llm", "/llm/", "/llm/for/dify/", "/llm//")
    async with relaying(GOOD, access=LOCKED, server={"base_path": "/llm"}) as (_, gp):
        heads = [await send_raw(gp.port, request(target=path, method="HEAD")) for path in paths]
        quiet = gp.state.metrics.totals()
        shown = gp.state.metrics.exposition().decode()
        kept = [one.access.outcome for one in gp.state.inspector.newest()]
        lines = [one for one in caplog.records if one.msg == "request"]
        others = [("/v1", "HEAD"), ("/", "GET"), ("/chat", "HEAD")]
        await asyncio.gather(*(send_raw(gp.port, request(target=path, method=method)) for path, method in others))
        loud = gp.state.metrics.totals()
    assert [status_of(head) for head in heads] == [404] * len(paths)
    assert (quiet.requests, quiet.errors, quiet.by_code) == (len(paths), 0, {})
    assert "gatepass_errors_total{" not in shown
    assert kept == ["ok"] * len(paths)
    assert len(lines) < len(paths)  # a client without a key fills no log
    assert loud.errors == 3
