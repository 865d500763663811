"""Attacks on where a request goes: clients that invent names, hold the probe of a breaker, or fail on purpose."""

import asyncio
import json
from typing import Any

import pytest

from gatepass.config.access import hash_key
from tests.integration.answers import COMPLETION, delta
from tests.integration.gateway import CHAT, HELLO, JSON, STREAMED, gateway
from tests.integration.issuer import SECRET
from tests.integration.scripted import Hold, Rst, Scripted, Send, begin_stream, chunk, reply
from tests.integration.test_failover import (
    GOOD,
    GOOD_STREAM,
    MOST_RETRY,
    REFUSED,
    RESPONSE,
    answering,
    breaker,
    error,
    in_flight,
    two,
)
from tests.unit.clock import DrivenClock
from tests.waiting import at_rest, until


@pytest.mark.parametrize("name", ["é模", "a, b/c"])
async def test_the_name_that_a_client_invents_harms_no_header(name):
    models: Any = {"*": {"targets": [{"upstream": "first"}, {"upstream": "second"}], **REFUSED}}
    async with Scripted(error(429)) as first, Scripted(GOOD) as second:
        upstreams = {"first": {"base_url": first.url}, "second": {"base_url": second.url}}
        async with gateway(upstreams=upstreams, models=models) as gp:
            answer = await gp.ask({**HELLO, "model": name}).answer()
            assert answer.status == 200
            assert len(answer.headers["x-gatepass-targets"]) < 2000
            assert len(gp.state.upstreams["first"].state.healths) == 1


KEY = "gp-limited-0123456789abcdef"


async def test_the_error_without_a_target_names_the_model_of_the_client():
    """A limited caller sees no patterns, because they could reveal names that it may not use."""
    models: Any = {"gpt-[45]-secret*": {"targets": [{"upstream": "first"}, {"upstream": "second"}], **REFUSED}}
    access = {"keys": [{"name": "limited", "hash": hash_key(KEY), "models": ["gpt-4-secret-x"]}]}
    headers = {**JSON, "authorization": f"Bearer {KEY}"}
    async with Scripted(error(429, retry_after="50")) as first:
        upstreams = {"first": {"base_url": first.url}, "second": {"base_url": first.url + "/v2"}}
        async with gateway(upstreams=upstreams, models=models, access=access, clock=DrivenClock()) as gp:
            body = {**HELLO, "model": "gpt-4-secret-x"}
            await gp.ask(body, headers=headers).answer()
            answer = await gp.ask(body, headers=headers).answer()
    assert answer.error["code"] == "targets_limited"
    assert "[45]" not in answer.error["message"]
    assert "'gpt-4-secret-x'" in answer.error["message"]


PAGE = b"<html><head><title>413 Request Entity Too Large</title></head><body>nginx</body></html>"
PAGES = {403: (403, 1, 0), 413: (413, 1, 0), 429: (200, 1, 1), 502: (200, 1, 1)}


@pytest.mark.parametrize(("status", "expected"), PAGES.items())
async def test_the_page_of_a_proxy_counts_by_its_status(status, expected):
    page = [Send(reply(PAGE, status, content_type="text/html"))]
    entry = {"breaker": {"failures": 1}, "retry": MOST_RETRY}
    first, second = Scripted(page), Scripted(GOOD)
    async with two(first, second, entry) as gp:
        answer = await gp.ask().answer()
        assert (breaker(gp).ejected_s is not None) == (status >= 500)
        assert in_flight(gp) == 0
    assert (answer.status, len(first.received), len(second.received)) == expected


USED_UP = (
    "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29500,"
    " Requested 1200. Please try again in 20s."
)


async def test_a_used_up_limit_of_tokens_keeps_requests_away_although_it_names_the_size_of_one():
    clock = DrivenClock()
    first, second = Scripted(error(429, USED_UP, retry_after="20"), GOOD), Scripted(GOOD)
    async with two(first, second, {"breaker": {}}, clock=clock) as gp:
        assert [(await gp.ask().answer()).status for _ in range(3)] == [429, 200, 200]
    assert (len(first.received), len(second.received)) == (1, 2)


LIMIT = {"error": {"message": "Rate limit exceeded", "type": "rate_limit_error", "code": 429}}
LIMITED_AT_LAST = [
    *begin_stream(),
    Send(chunk(delta(content="hi"))),
    Send(chunk(b"data: %b\n\n" % json.dumps(LIMIT).encode()) + chunk(b"")),
]
FAILED = {
    **RESPONSE,
    "status": "failed",
    "error": {"code": "rate_limit_exceeded", "message": "Rate limit exceeded"},
}
HAVE_RUN: dict[str, tuple[str, Any, Any, dict[str, Any]]] = {
    "a stream made whole": (CHAT, HELLO, LIMITED_AT_LAST, {"stream": "aggregate"}),
    "an error beside an answer": (CHAT, HELLO, [Send(reply({**COMPLETION, **LIMIT}))], {}),
    "a failed response": ("/v1/responses", {"model": "m", "input": "hi"}, [Send(reply(FAILED))], {}),
}


@pytest.mark.parametrize(("path", "body", "dialogue", "entry"), HAVE_RUN.values(), ids=HAVE_RUN)
async def test_a_429_after_the_upstream_has_begun_to_answer_is_no_refusal(path, body, dialogue, entry):
    for retry, received in ((REFUSED["retry"], 0), (MOST_RETRY, 1)):
        first, second = (
            Scripted(dialogue),
            Scripted(answer=lambda request: GOOD_STREAM if entry else answering(request)),
        )
        async with two(first, second, {**entry, "retry": retry}) as gp:
            await gp.ask(body, path).answer()
        assert (len(first.received), len(second.received)) == (1, received)


async def test_the_wait_for_a_token_is_no_failure_of_the_target():
    async with Scripted([Hold()]) as issuer, Scripted(GOOD) as first:
        login = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": SECRET}
        models: Any = {"m": {"upstream": "first", "name": "a", "breaker": {"failures": 1}}}
        models["m"]["timeouts"] = {"total_s": 0.3}
        upstreams = {"first": {"base_url": first.url, "credential": "corp"}}
        async with gateway(upstreams=upstreams, models=models, credentials={"corp": login}) as gp:
            assert (await gp.ask().answer()).error["code"] == "upstream_timeout_total"
            assert breaker(gp).ejected_s is None
            assert in_flight(gp) == 0


async def test_requests_that_wait_for_one_target_do_not_ask_it_all_at_once():
    clock, busy = DrivenClock(), error(429, retry_after="2")
    first = Scripted(*[busy] * 20, GOOD)
    async with two(first, None, REFUSED, clock=clock) as gp:
        asked = [asyncio.create_task(gp.ask().answer()) for _ in range(20)]
        await until(lambda: len(first.received) == 20 and in_flight(gp) == 0)
        await clock.advance(2.001)
        await at_rest(lambda: len(first.received))
        assert len(first.received) < 30
        await clock.advance(0.25)
        assert {(await one).status for one in asked} == {200}


async def test_a_client_that_does_not_read_keeps_no_place_at_the_target_after_the_time_of_its_request():
    endless = [*begin_stream(), *[Send(chunk(delta(content="x" * 60_000)))] * 200, Hold()]
    entry, clock = {"breaker": {}, "timeouts": {"total_s": 3}}, DrivenClock()
    async with two(Scripted(endless), Scripted(GOOD), entry, clock=clock) as gp, gp.ask(STREAMED) as ask:
        await ask.head()
        assert in_flight(gp) == 1
        await clock.advance(3)
        await until(lambda: in_flight(gp) == 0)


async def test_a_request_that_may_have_ended_its_server_goes_to_no_other_one():
    """The repeat on a new connection is refused, but the first try may have run."""
    first, second = Scripted(GOOD, [Rst()], error(429)), Scripted(GOOD)
    async with two(first, second, REFUSED) as gp:
        assert (await gp.ask().answer()).status == 200
        assert (await gp.ask().answer()).status == 429
        assert (len(first.received), len(second.received)) == (3, 0)
