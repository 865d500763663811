"""Where a request goes: retries, failover, breakers and waits over the targets of a model, and what each target got."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain
from random import Random
from typing import Any

import openai
import pytest

from gatepass.auth.api_keys import hash_key
from gatepass.config.load import load
from gatepass.policy.breaker import Breaker
from gatepass.proxy.app_state import create_app_state
from gatepass.server.reload import ConfigSource
from tests.integration.answers import COMPLETION, EVENTS, VECTORS, delta
from tests.integration.gateway import CHAT, HELLO, JSON, Gateway, gateway, serving
from tests.integration.issuer import SECRET, minted
from tests.integration.scripted import (
    Dialogue,
    Hold,
    Pause,
    Received,
    Rst,
    Scripted,
    Send,
    Wait,
    begin_stream,
    chunk,
    reply,
    stream,
)
from tests.integration.test_connections import full_server, refusing_server
from tests.integration.test_sdk_truth import MESSAGES as MESSAGES_OF_SDK
from tests.integration.test_sdk_truth import sdk
from tests.unit.clock import DrivenClock
from tests.waiting import until

GOOD = [Send(reply(COMPLETION))]
GOOD_STREAM = [Send(stream(*EVENTS))]
STREAMED = {**HELLO, "stream": True}
EMBEDDINGS = "/v1/embeddings"


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Dialogue:
    return [Send(reply({"error": {"message": message, "type": "t", "code": code}}, status, **headers))]


def models(*names: str, **entry: Any) -> dict[str, Any]:
    """The model `m` at the upstreams `names`, with the names `a`, `b` there."""
    targets = [{"upstream": name, "name": chr(ord("a") + at)} for at, name in enumerate(names)]
    return {"m": {"targets": targets, **entry}}


@asynccontextmanager
async def two(
    first: Scripted | str, second: Scripted | None, entry: Any = None, **blocks: Any
) -> AsyncIterator[Gateway]:
    """gatepass with the model `m` at `first`, which may be a URL, and at `second` if there is one."""
    upstreams = {"first": {"base_url": first if isinstance(first, str) else first.url}}
    if second is not None:
        upstreams["second"] = {"base_url": second.url}
    async with gateway(upstreams=upstreams, models=models(*upstreams, **(entry or {})), **blocks) as gp:
        yield gp


def in_flight(gp: Gateway) -> int:
    """The requests that the targets count as in progress. Negative ones do not hide others."""
    states = [upstream.state for upstream in gp.state.upstreams.values()]
    counts = [len(state.queue.holding) + len(state.queue.waiting) for state in states]
    return sum(map(abs, counts + [health.in_flight for state in states for health in state.healths.values()]))


# --- the matrix ---------------------------------------------------------------------------------------------------

WAIT = {"retry_after_ms": "40"}
FAULTS: dict[str, Dialogue] = {
    "refused connect": [],
    "429": error(429),
    "429, wait": error(429, **WAIT),
    "503": error(503),
    "503, wait": error(503, **WAIT),
    "500": error(500),
    "hang": [Hold()],
    "slow first byte": [Pause(0.3), *GOOD],
    "error in a 200": [Send(reply({"error": {"message": "no", "code": 500}}))],
    "no JSON in a 200": [Send(reply(b"<p>"))],
    "closed": [Rst()],
    "cut": [Send(reply(COMPLETION)[:-9]), Rst()],
    "stream cut at once": [*begin_stream(), Rst()],
    "stream cut later": [*begin_stream(), Send(chunk(delta(content="hi"))), Rst()],
    "token refused once": error(401),
    "token refused": error(401),
    "400": error(400),
}
"""What the first target does."""
POLICIES: dict[str, Any] = {
    "none": {},
    "refused": {"retry": {"on": ["refused"]}},
    "run": {"retry": {"on": ["may_have_run"], "operations": ["chat"]}},
    "other": {"retry": {"on": ["refused", "may_have_run"], "operations": ["embeddings"]}},
    "breaker": {"breaker": {}},
}
MATRIX = """
                       | none        | refused     | run         | other       | breaker
    refused connect    | 200 2 0+1   | 200 2 0+1   | 200 2 0+1   | 200 2 0+1   | 200 2 0+1
    429                | 429 1 1+0   | 200 2 1+1   | 429 1 1+0   | 200 2 1+1   | 429 1 1+0
    429, wait          | 429 1 1+0   | 200 2 1+1   | 429 1 1+0   | 200 2 1+1   | 429 1 1+0
    503                | 503 1 1+0   | 503 1 1+0   | 200 2 1+1   | 503 1 1+0   | 503 1 1+0
    503, wait          | 503 1 1+0   | 200 2 1+1   | 503 1 1+0   | 200 2 1+1   | 503 1 1+0
    500                | 500 1 1+0   | 500 1 1+0   | 200 2 1+1   | 500 1 1+0   | 500 1 1+0
    hang               | 504 1 1+0   | 504 1 1+0   | 200 2 1+1   | 504 1 1+0   | 504 1 1+0
    slow first byte    | 200 1 1+0   | 200 1 1+0   | 200 1 1+0   | 200 1 1+0   | 200 1 1+0
    error in a 200     | 500 1 1+0   | 500 1 1+0   | 200 2 1+1   | 500 1 1+0   | 500 1 1+0
    no JSON in a 200   | 502 1 1+0   | 502 1 1+0   | 200 2 1+1   | 502 1 1+0   | 502 1 1+0
    closed             | 502 1 1+0   | 502 1 1+0   | 200 2 1+1   | 502 1 1+0   | 502 1 1+0
    cut                | 502 1 1+0   | 502 1 1+0   | 200 2 1+1   | 502 1 1+0   | 502 1 1+0
    stream cut at once | 502 1 1+0   | 502 1 1+0   | 200 2 1+1   | 502 1 1+0   | 502 1 1+0
    stream cut later   | event 1 1+0 | event 1 1+0 | event 1 1+0 | event 1 1+0 | event 1 1+0
    token refused once | 200 2 2+0   | 200 2 2+0   | 200 2 2+0   | 200 2 2+0   | 200 2 2+0
    token refused      | 401 2 2+0   | 401 2 2+0   | 401 2 2+0   | 401 2 2+0   | 401 2 2+0
    400                | 400 1 1+0   | 400 1 1+0   | 400 1 1+0   | 400 1 1+0   | 400 1 1+0
"""
"""The outcome at the client, `x-gatepass-attempts`, and the requests in the log of each upstream. `refused` and `run`
are the groups of `retry.on`, for chats. `other` has both, but the second one only for embeddings."""
HANG_S = 1.0


async def matrix() -> dict[tuple[str, str], str]:
    """Ask once for each fault and policy, all at once. The name of the model tells the first target what to do."""
    seen, models, upstreams = Counter[str](), {}, {}

    def fail(request: Received) -> Dialogue:
        fault = request.json()["model"].partition("/")[0]
        seen[request.json()["model"]] += 1
        return GOOD if fault == "token refused once" and seen[request.json()["model"]] > 1 else FAULTS[fault]

    def serve(request: Received) -> Dialogue:
        return GOOD_STREAM if request.json().get("stream") else GOOD

    async def cell(gp: Gateway, name: str) -> str:
        is_stream = name.startswith("stream")
        answer = await gp.ask({**HELLO, "model": name, "stream": is_stream}).answer()
        status = "event" if is_stream and "[DONE]" not in answer.events and answer.status == 200 else answer.status
        received = (sum(one.json()["model"] == name for one in upstream.received) for upstream in (first, second))
        return f"{status} {answer.headers.get('x-gatepass-attempts', '1')} {'+'.join(map(str, received))}"

    tokens = [minted(f"token-{number}") for number in range(40)]
    with refusing_server() as refuses:
        async with Scripted(*tokens) as issuer, Scripted(answer=fail) as first, Scripted(answer=serve) as second:
            login = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": SECRET}
            credentials = {}
            upstreams["second"] = {"base_url": second.url}
            for fault in FAULTS:
                for policy, entry in POLICIES.items():
                    name, upstream = f"{fault}/{policy}", f"{fault}-{policy}".replace(" ", "-").replace(",", "")
                    settings: dict[str, Any] = {"base_url": refuses if fault == "refused connect" else first.url}
                    if fault == "hang":
                        settings["timeouts"] = {"first_byte_s": HANG_S}
                    if fault.startswith("token"):
                        credentials[upstream], settings["credential"] = login, upstream
                    upstreams[upstream] = settings
                    models[name] = {"targets": [{"upstream": upstream}, {"upstream": "second"}], **entry}
            async with gateway(upstreams=upstreams, models=models, credentials=credentials) as gp:
                cells = await asyncio.gather(*(cell(gp, name) for name in models))
                assert in_flight(gp) == 0
    return {(fault, policy): cells.pop(0) for fault in FAULTS for policy in POLICIES}


async def test_failover_matrix():
    """Each fault of the first target under each policy. The logs of the upstreams show what ran twice."""
    rows = [[cell.strip() for cell in line.split("|")] for line in MATRIX.strip().splitlines()]
    assert [row[0] for row in rows[1:]] == list(FAULTS)
    expected = {(row[0], name): cell for row in rows[1:] for name, cell in zip(rows[0][1:], row[1:], strict=True)}
    assert await matrix() == expected


# --- one target ---------------------------------------------------------------------------------------------------

REFUSED = {"retry": {"on": ["refused"]}}


async def test_the_last_named_target_is_the_one_that_answered():
    async with (
        Scripted(error(429, retry_after_ms="100"), GOOD) as first,
        Scripted(error(429, retry_after_ms="60000")) as second,
        two(first, second, REFUSED) as gp,
    ):
        answer = await gp.ask().answer()
    assert (answer.status, answer.headers["x-gatepass-targets"]) == (200, "first/a, second/b, first/a")


async def test_one_target_is_asked_again_after_the_wait_that_it_asks_for():
    async with Scripted(error(429, retry_after_ms="300"), GOOD) as upstream, two(upstream, None, REFUSED) as gp:
        began_s = gp.state.clock.now()
        answer = await gp.ask().answer()
        took_s = gp.state.clock.now() - began_s
    assert (answer.status, answer.headers["x-gatepass-attempts"], len(upstream.received)) == (200, "2", 2)
    assert 0.3 <= took_s < 5.0
    assert answer.headers["x-gatepass-targets"] == "first/a"


SHORT: dict[str, tuple[dict[str, Any], dict[str, str], str, int]] = {
    "no limit": ({}, {}, "300", 2),
    "total_s": ({"timeouts": {"total_s": 1}}, {}, "3000", 1),
    "total_s, longer": ({"timeouts": {"total_s": 30}}, {}, "300", 2),
    "Python's time": ({}, {"x-stainless-read-timeout": "1.0"}, "3000", 1),
    "Python's time, longer": ({}, {"x-stainless-read-timeout": "30.0"}, "300", 2),
    "Node's time": ({}, {"x-stainless-timeout": "1"}, "3000", 1),
    "Node's time, longer": ({}, {"x-stainless-timeout": "30"}, "300", 2),
    "no time": ({}, {"x-stainless-timeout": "NaN"}, "300", 2),
    "the first request of an SDK": ({}, {"x-stainless-retry-count": "0"}, "300", 2),
    "a repeat of an SDK": ({}, {"x-stainless-retry-count": "1"}, "3000", 1),
    "too long a wait": ({}, {}, "11000", 1),
}
"""Settings of the model, headers of the request, the wait in milliseconds, and the requests that the upstream gets."""


@pytest.mark.parametrize(("entry", "headers", "wait_ms", "requests"), SHORT.values(), ids=SHORT)
async def test_no_repeat_is_sent_that_would_come_too_late(entry, headers, wait_ms, requests):
    async with (
        Scripted(error(429, retry_after_ms=wait_ms), GOOD) as upstream,
        two(upstream, None, {**REFUSED, **entry}) as gp,
    ):
        began_s = gp.state.clock.now()
        answer = await gp.ask(headers={**JSON, **headers}).answer()
        took_s = gp.state.clock.now() - began_s
    assert (answer.status, len(upstream.received)) == ((200, 2) if requests == 2 else (429, 1))
    if requests == 1:
        assert took_s < 1.0
        assert answer.error["code"] == "upstream_error"
        assert answer.headers["retry-after"] == str(-(-int(wait_ms) // 1000))


async def test_a_connection_that_is_not_made_in_time_is_asked_again():
    with full_server() as full:
        entry = {**REFUSED, "timeouts": {"connect_s": 0.1}}
        async with two(full, None, entry) as gp:
            answer = await gp.ask().answer()
    assert (answer.status, answer.headers["x-gatepass-attempts"]) == (504, "3")


async def test_a_client_that_leaves_during_the_pause_leaves_nothing_behind():
    async with Scripted(error(429, retry_after="5"), GOOD) as upstream, two(upstream, None, REFUSED) as gp:
        async with gp.ask():
            await upstream.requested()
            await until(lambda: in_flight(gp) == 0)
            assert len(gp.state.in_flight.requests) == 1
        await until(lambda: len(gp.state.in_flight.requests) == 0)
        assert in_flight(gp) == 0
    assert len(upstream.received) == 1


async def test_the_request_of_a_client_that_repeats_still_goes_to_a_healthy_target():
    headers = {**JSON, "x-stainless-retry-count": "1"}
    with refusing_server() as refuses:
        async with Scripted(GOOD) as second, two(refuses, second, REFUSED) as gp:
            assert (await gp.ask(headers=headers).answer()).status == 200
    busy = error(429, retry_after="20")
    async with Scripted(busy) as first, Scripted(GOOD) as second, two(first, second, REFUSED) as gp:
        assert (await gp.ask(headers=headers).answer()).status == 429
        assert (await gp.ask(headers=headers).answer()).status == 200
    assert (len(first.received), len(second.received)) == (1, 1)


async def test_one_target_never_gets_a_429_that_gatepass_made():
    """Also if another model has the same target among several, and waits for it."""
    entries = {
        **models("first", "second", **REFUSED),
        "one": {"upstream": "first", "name": "a", **REFUSED},
        "plain": {"targets": [{"upstream": "first", "name": "a"}]},
        "both": {"targets": [{"upstream": "first", "name": "a"}, {"upstream": "second", "name": "b"}]},
    }
    clock = DrivenClock()
    async with Scripted(error(429, retry_after="50")) as first, Scripted(error(429, retry_after="40")) as second:
        upstreams = {"first": {"base_url": first.url}, "second": {"base_url": second.url}}
        async with gateway(upstreams=upstreams, models=entries, clock=clock) as gp:
            assert (await gp.ask().answer()).error["code"] == "upstream_error"
            assert (await gp.ask().answer()).error["code"] == "targets_limited"
            for number, name in enumerate(("one", "plain", "both"), 2):
                answer = await gp.ask({**HELLO, "model": name}).answer()
                assert (name, answer.status, answer.error["code"]) == (name, 429, "upstream_error")
                assert answer.headers["retry-after"] == "50"
                assert (len(first.received), len(second.received)) == (number, 1)


async def test_attempts_are_bounded_and_the_error_is_the_upstream_s():
    async with Scripted(error(429, "slow down", "busy")) as upstream, two(upstream, None, REFUSED) as gp:
        answer = await gp.ask().answer()
    assert (answer.status, answer.error["code"], len(upstream.received)) == (429, "busy", 3)
    assert "retry-after" not in answer.headers


# --- waits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [REFUSED, {"breaker": {}}], ids=["retry", "breaker"])
async def test_a_429_keeps_requests_away_from_its_target_until_the_wait_is_over(entry):
    clock = DrivenClock()
    async with (
        Scripted(error(429, retry_after="20"), GOOD) as first,
        Scripted(GOOD) as second,
        two(first, second, entry, clock=clock) as gp,
    ):
        answer = await gp.ask().answer()
        assert answer.status == (200 if "retry" in entry else 429)
        assert "retry-after" not in answer.headers  # the second target is available
        second.received.clear()
        await clock.advance(19.9)
        assert (await gp.ask().answer()).status == 200
        assert (len(first.received), len(second.received)) == (1, 1)
        await clock.advance(0.2)
        assert (await gp.ask().answer()).status == 200
        assert (len(first.received), len(second.received)) == (2, 1)


async def test_all_targets_wait():
    clock = DrivenClock()
    async with (
        Scripted(error(429, retry_after="50")) as first,
        Scripted(error(503, retry_after="30")) as second,
        two(first, second, REFUSED, clock=clock) as gp,
    ):
        answer = await gp.ask().answer()
        # the error of the second target, with the shortest wait
        assert (answer.status, answer.headers["retry-after"]) == (503, "30")
        for body in (HELLO, STREAMED):
            answer = await gp.ask(body).answer()
            assert (answer.status, answer.error["code"]) == (429, "targets_limited")
            assert (answer.headers["retry-after"], answer.headers["x-gatepass-hop"]) == ("30", "gatepass")
            assert "x-should-retry" not in answer.headers
        assert (len(first.received), len(second.received)) == (1, 1)
        await clock.advance(30.1)
        assert (await gp.ask().answer()).status == 503
        assert (len(first.received), len(second.received)) == (1, 2)


async def test_a_429_that_is_not_repeated_has_the_wait_of_the_target_that_is_available_first():
    clock, entry = DrivenClock(), {"breaker": {}, "max_cooldown_s": 300}
    async with (
        Scripted(error(429, retry_after="200", retry_after_ms="200000"), error(429, retry_after="9")) as first,
        Scripted(error(429, retry_after="30"), error(429, SIZE["context"], retry_after="40")) as second,
        two(first, second, entry, clock=clock) as gp,
    ):
        answer = await gp.ask().answer()
        assert answer.status == 429
        assert not {"retry-after", "retry-after-ms", "x-should-retry"} & answer.headers.keys()
        assert (await gp.ask().answer()).headers["retry-after"] == "30"
        await clock.advance(30.1)
        # what concerns the size of the request would be the same at each target
        assert (await gp.ask().answer()).headers["retry-after"] == "40"
    assert (len(first.received), len(second.received)) == (1, 2)


async def test_after_a_wait_of_more_than_a_minute_no_retry_of_a_client_helps():
    clock, entry = DrivenClock(), {**REFUSED, "max_cooldown_s": 300}
    async with (
        Scripted(error(429, retry_after="200")) as first,
        Scripted(error(429, retry_after="100")) as second,
        two(first, second, entry, clock=clock) as gp,
    ):
        for code in ("upstream_error", "targets_limited"):
            answer = await gp.ask().answer()
            assert (answer.status, answer.error["code"]) == (429, code)
            assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("100", "false")
        await clock.advance(45)
        answer = await gp.ask().answer()
        assert (answer.headers["retry-after"], answer.headers.get("x-should-retry")) == ("55", None)
    assert (len(first.received), len(second.received)) == (1, 1)


async def test_the_client_is_told_the_wait_that_was_asked_for_although_gatepass_waits_for_less():
    clock = DrivenClock()
    long, longer = error(429, retry_after="100"), error(429, retry_after="3600")
    async with (
        Scripted(longer, longer, GOOD) as first,
        Scripted(long, longer, GOOD) as second,
        two(first, second, REFUSED, clock=clock) as gp,
    ):
        for after_s, code, wait in ((0, "upstream_error", "100"), (50, "targets_limited", "50")):
            await clock.advance(after_s)
            answer = await gp.ask().answer()
            assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (429, code, wait)
            assert answer.headers.get("x-should-retry") == ("false" if code == "upstream_error" else None)
        await clock.advance(11)
        for code in ("upstream_error", "targets_limited"):
            answer = await gp.ask().answer()
            assert (answer.error["code"], answer.headers["retry-after"]) == (code, "3600")
            assert answer.headers["x-should-retry"] == "false"
        await clock.advance(61)
        assert (await gp.ask().answer()).status == 200
    assert (len(first.received), len(second.received)) == (3, 2)


async def test_a_target_waits_for_a_minute_at_most_by_default():
    clock = DrivenClock()
    async with (
        Scripted(error(429, retry_after="3600"), GOOD) as first,
        Scripted(GOOD) as second,
        two(first, second, REFUSED, clock=clock) as gp,
    ):
        await gp.ask().answer()
        await clock.advance(60.1)
        await gp.ask().answer()
    assert (len(first.received), len(second.received)) == (2, 1)


async def test_an_upstream_that_forbids_a_repeat_is_passed_on():
    clock = DrivenClock()
    forbids = error(429, retry_after="20", x_should_retry="false")
    async with Scripted(forbids) as first, Scripted(forbids) as second, two(first, second, REFUSED, clock=clock) as gp:
        assert (await gp.ask().answer()).headers["x-should-retry"] == "false"


SIZE = {
    "tokens a minute": "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000,"
    " Requested 45000. The input or output tokens must be reduced in order to run successfully.",
    "context": "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
}


@pytest.mark.parametrize("message", SIZE.values(), ids=SIZE)
async def test_a_429_about_the_size_of_its_request_keeps_no_other_request_away(message):
    clock = DrivenClock()
    async with (
        Scripted(error(429, message, retry_after="20"), GOOD) as first,
        Scripted(GOOD) as second,
        two(first, second, {"breaker": {}}, clock=clock) as gp,
    ):
        assert (await gp.ask().answer()).status == 429
        assert (await gp.ask().answer()).status == 200
    assert (len(first.received), len(second.received)) == (2, 0)


@pytest.mark.parametrize(
    "headers",
    [
        {"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "20s"},
        {"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "0m20s"},
        {"anthropic_ratelimit_tokens_remaining": "0", "anthropic_ratelimit_tokens_reset": "2027-01-15T08:00:20Z"},
    ],
    ids=["requests", "tokens", "anthropic"],
)
async def test_the_reset_of_a_quota_is_the_wait_of_a_429_without_one(headers):
    clock = DrivenClock(wall=1_800_000_000.0)
    async with (
        Scripted(error(429, **headers), GOOD) as first,
        Scripted(GOOD) as second,
        two(first, second, {"breaker": {}}, clock=clock) as gp,
    ):
        answer = await gp.ask().answer()
        assert (answer.status, answer.headers.get("retry-after")) == (429, None)
        for advance_s, received in ((19.9, (1, 1)), (0.2, (2, 1))):
            await clock.advance(advance_s)
            assert (await gp.ask().answer()).status == 200
            assert (len(first.received), len(second.received)) == received


async def test_a_quota_with_something_left_and_another_error_are_no_wait():
    left = {"x_ratelimit_remaining_requests": "7", "x_ratelimit_reset_requests": "20s"}
    used_up = {"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "20s"}
    async with (
        Scripted(error(429, **left), error(503, **used_up), GOOD) as first,
        Scripted(GOOD) as second,
        two(first, second, {"breaker": {}}) as gp,
    ):
        assert [(await gp.ask().answer()).status for _ in range(3)] == [429, 503, 200]
    assert (len(first.received), len(second.received)) == (3, 0)


# --- breaker ------------------------------------------------------------------------------------------------------


def breaker(gp: Gateway, upstream: str = "first", name: str = "a") -> Breaker:
    return gp.state.upstreams[upstream].state.healths[name].breaker


async def test_five_errors_eject_a_target_and_one_probe_brings_it_back(caplog):
    caplog.set_level(logging.INFO, "gatepass.targets")
    clock, release = DrivenClock(), asyncio.Event()
    healed: Dialogue = (Wait(release), *GOOD)
    async with (
        Scripted(*[error(500)] * 5, error(500), healed, GOOD) as first,
        Scripted(GOOD) as second,
        two(first, second, {"breaker": {"ejection_s": 3}}, clock=clock) as gp,
    ):
        assert [(await gp.ask().answer()).status for _ in range(8)] == [500] * 5 + [200] * 3
        assert (len(first.received), len(second.received)) == (5, 3)
        # the probe fails: the second ejection is longer
        await clock.advance(3.1)
        assert [(await gp.ask().answer()).status for _ in range(3)] == [500, 200, 200]
        await clock.advance(5.9)
        assert (await gp.ask().answer()).status == 200
        assert len(first.received) == 6
        # one probe among 20 requests at once
        await clock.advance(0.2)
        asked = [asyncio.create_task(gp.ask().answer()) for _ in range(20)]
        await until(lambda: sum(task.done() for task in asked) == 19)
        assert len(first.received) == 7
        release.set()
        assert {(await task).status for task in asked} == {200}
        assert (await gp.ask().answer()).status == 200
        assert len(first.received) == 8
    events = [
        (one.getMessage(), *one.__dict__["fields"].values()) for one in caplog.records if one.name == "gatepass.targets"
    ]
    assert events == [
        ("target_ejected", "first/a", 3, "consecutive_failures", "upstream_error"),
        ("target_ejected", "first/a", 6, "probe", "upstream_error"),
        ("target_recovered", "first/a"),
    ]


async def test_a_probe_whose_client_leaves_gives_its_place_to_the_next_request():
    clock = DrivenClock()
    async with Scripted(error(500), [Hold()], GOOD) as first, Scripted(GOOD) as second:
        settings = {"breaker": {"consecutive_failures": 1, "ejection_s": 3}}
        async with two(first, second, settings, clock=clock) as gp:
            await gp.ask().answer()
            await clock.advance(3.1)
            async with gp.ask():
                await first.requested(2)
            await until(lambda: in_flight(gp) == 0)
            assert breaker(gp).ejected_s is not None
            assert breaker(gp).until_s <= clock.now()
            assert (await gp.ask().answer()).status == 200
            assert breaker(gp).ejected_s is None
    assert (len(first.received), len(second.received)) == (3, 0)


async def test_a_probe_whose_token_is_refused_stays_the_probe():
    clock = DrivenClock()
    async with (
        Scripted(minted("token-1"), minted("token-2")) as issuer,
        Scripted(error(500), error(401), GOOD) as first,
        Scripted(GOOD) as second,
    ):
        login = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": SECRET}
        upstreams = {"first": {"base_url": first.url, "credential": "corp"}, "second": {"base_url": second.url}}
        entries = models("first", "second", breaker={"consecutive_failures": 1, "ejection_s": 3})
        async with gateway(upstreams=upstreams, models=entries, credentials={"corp": login}, clock=clock) as gp:
            await gp.ask().answer()
            await clock.advance(3.1)
            assert (await gp.ask().answer()).status == 200
            assert breaker(gp).ejected_s is None
            assert in_flight(gp) == 0
    assert (len(first.received), len(second.received)) == (3, 0)


async def test_gatepass_itself_asks_an_ejected_upstream_for_its_models():
    clock = DrivenClock()
    listed: Dialogue = [Send(reply({"object": "list", "data": []}))]
    async with Scripted(error(500), error(503), listed, GOOD) as first, Scripted(GOOD) as second:
        upstreams = {"first": {"base_url": first.url, "credential": "corp"}, "second": {"base_url": second.url}}
        entries = models("first", "second", breaker={"consecutive_failures": 1, "ejection_s": 3, "probe": "models"})
        corp = {"type": "api_key", "key": "sk-corp-0123456789"}
        async with gateway(upstreams=upstreams, models=entries, credentials={"corp": corp}, clock=clock) as gp:
            assert (await gp.ask().answer()).status == 500
            # the first probe fails: the second ejection takes 6 s
            for probes, before_s in enumerate((2.5, 4.5), 1):
                await clock.advance(before_s)
                assert ((await gp.ask().answer()).status, len(first.received)) == (200, probes)
                await clock.advance(1.5)
                await first.requested(1 + probes)
                await until(lambda: breaker(gp).probe_since_s is None)
            assert (breaker(gp).ejected_s, len(second.received)) == (None, 2)
            assert (await gp.ask().answer()).status == 200
            assert in_flight(gp) == 0
    assert [one.target for one in first.received] == ["/chat/completions", "/models", "/models", "/chat/completions"]
    assert {one.header("api-key") for one in first.received} == {"sk-corp-0123456789"}


async def test_a_slow_target_with_good_replies_stays():
    slow: Dialogue = [Pause(0.05), *GOOD]
    async with (
        Scripted(slow) as first,
        Scripted(GOOD) as second,
        two(first, second, {"breaker": {"consecutive_failures": 1}}) as gp,
    ):
        assert {(await gp.ask().answer()).status for _ in range(4)} == {200}
    assert (len(first.received), len(second.received)) == (4, 0)


async def test_a_target_that_does_not_answer_in_time_is_ejected():
    async with Scripted([Hold()]) as first, Scripted(GOOD) as second:
        entry = {"breaker": {"consecutive_failures": 2}, "timeouts": {"first_byte_s": 0.5}}
        async with two(first, second, entry) as gp:
            assert [(await gp.ask().answer()).status for _ in range(4)] == [504, 504, 200, 200]
    assert (len(first.received), len(second.received)) == (2, 2)


NO_FAILURES: dict[str, Dialogue] = {
    "400": error(400),
    "401": error(401),
    "404": error(404),
    "429": error(429),
    "503 with a wait": error(503, retry_after_ms="1"),
}


@pytest.mark.parametrize("dialogue", NO_FAILURES.values(), ids=NO_FAILURES)
async def test_what_a_healthy_target_answers_too_ejects_nothing(dialogue):
    async with Scripted(dialogue) as first, two(first, None, {"breaker": {"consecutive_failures": 1}}) as gp:
        for _ in range(2):
            await gp.ask().answer()
        assert breaker(gp).ejected_s is None


UNKNOWN = {"error": {"message": "no", "type": "t", "code": "odd"}}
CAUSED: dict[str, tuple[Dialogue, str, Any, int]] = {
    "token ids": ([Send(reply({**VECTORS, "data": []}))], EMBEDDINGS, {"model": "m", "input": [1, 2]}, 400),
    "no choice": ([Send(reply({**COMPLETION, "choices": []}))], CHAT, HELLO, 502),
    "too large": ([Send(reply({**COMPLETION, "id": "x" * 9_000}))], CHAT, HELLO, 502),
    "an unknown error in a 200": ([Send(reply(UNKNOWN))], CHAT, HELLO, 502),
    "an unknown error in a stream": ([Send(stream(b"data: " + json.dumps(UNKNOWN).encode()))], CHAT, STREAMED, 502),
}


@pytest.mark.parametrize(("dialogue", "path", "body", "status"), CAUSED.values(), ids=CAUSED)
async def test_what_a_request_may_have_caused_ejects_nothing(dialogue, path, body, status):
    entry = {"breaker": {"consecutive_failures": 1}}
    async with Scripted(dialogue) as first, two(first, None, entry, limits={"reply_bytes": 8_000}) as gp:
        for _ in range(2):
            assert (await gp.ask(body, path).answer()).status == status
        assert breaker(gp).ejected_s is None


async def test_the_time_of_the_request_is_a_failure_of_a_target_that_had_all_of_it():
    entry = {"retry": {}, "breaker": {"consecutive_failures": 1}, "timeouts": {"total_s": 0.8}}
    limited: Dialogue = [Pause(0.3), *error(429)]
    async with Scripted(limited) as first, Scripted([Hold()]) as second, two(first, second, entry) as gp:
        answer = await gp.ask().answer()
        assert (answer.status, answer.error["code"], len(second.received)) == (504, "upstream_timeout_total", 1)
        assert breaker(gp, "second", "b").ejected_s is None
    begun: Dialogue = [*begin_stream(), Send(chunk(delta(content="hi"))), Hold()]
    for dialogue, body, is_failure in (([Hold()], HELLO, True), (begun, STREAMED, False)):
        async with Scripted(dialogue) as first, two(first, None, entry) as gp:
            await gp.ask(body).answer()
            assert (breaker(gp).ejected_s is not None) is is_failure


FAILURES: dict[str, tuple[Dialogue, Any]] = {
    "503": (error(503), HELLO),
    "closed": ([Rst()], HELLO),
    "an error in a 200": ([Send(reply({"error": {"message": "no", "code": 500}}))], HELLO),
    "an error of the server in a 200": ([Send(reply({"error": {"message": "no", "type": "server_error"}}))], HELLO),
    "an empty body": ([Send(reply(b""))], HELLO),
    "no JSON": ([Send(reply(b"<p>"))], HELLO),
    "cut after an event": ([*begin_stream(), Send(chunk(delta(content="hi"))), Rst()], STREAMED),
}


@pytest.mark.parametrize(("dialogue", "body"), FAILURES.values(), ids=FAILURES)
async def test_what_only_a_failing_target_answers_ejects_it(dialogue, body):
    async with (
        Scripted(dialogue) as first,
        Scripted(GOOD_STREAM) as second,
        two(first, second, {"breaker": {"consecutive_failures": 1}}) as gp,
    ):
        await gp.ask(body).answer()
        assert breaker(gp).ejected_s is not None
        assert (await gp.ask(STREAMED).answer()).status == 200
    assert (len(first.received), len(second.received)) == (1, 1)


async def test_if_all_targets_are_ejected_all_are_tried():
    async with Scripted(error(500), GOOD) as first, Scripted(error(500)) as second:
        entry = {"breaker": {"consecutive_failures": 1, "ejection_s": 30}}
        async with two(first, second, entry) as gp:
            assert [(await gp.ask().answer()).status for _ in range(3)] == [500, 500, 200]
    assert (len(first.received), len(second.received)) == (2, 1)


async def test_no_repeat_goes_to_an_ejected_target_beside_a_healthy_one():
    with refusing_server() as refuses:
        async with Scripted(GOOD, GOOD, error(503), GOOD) as second:
            retry = {"on": ["may_have_run"], "operations": ["chat"]}
            async with two(refuses, second, {"breaker": {"consecutive_failures": 2}, "retry": retry}) as gp:
                for _ in range(2):
                    assert (await gp.ask().answer()).headers["x-gatepass-targets"] == "first/a, second/b"
                answer = await gp.ask().answer()
                assert (answer.status, answer.headers["x-gatepass-attempts"]) == (200, "2")
                assert answer.headers["x-gatepass-targets"] == "second/b"
    assert len(second.received) == 4


async def test_the_state_of_a_target_survives_a_reload_of_its_upstream(tmp_path):
    file = tmp_path / "gatepass.json"
    async with Scripted(error(500), GOOD) as first, Scripted(GOOD) as second:
        upstreams: dict[str, Any] = {"first": {"base_url": first.url}, "second": {"base_url": second.url}}
        entry = {"breaker": {"consecutive_failures": 1}}

        def write(**more: Any) -> None:
            file.write_text(json.dumps({"upstreams": upstreams, "models": models(*upstreams, **{**entry, **more})}))

        write()
        read = partial(load, str(file), {})
        loaded = read()
        async with serving(create_app_state(loaded.config), ConfigSource(loaded, read)) as gp:
            reloader = gp.server.reloader
            assert reloader is not None
            assert (await gp.ask().answer()).status == 500
            write(timeouts={"total_s": 60})
            assert (await reloader.reload("command")).outcome == "reloaded"
            assert (await gp.ask().answer()).status == 200
            assert (len(first.received), len(second.received)) == (1, 1)
            # without a breaker nothing keeps requests away
            entry = {}
            write()
            assert (await reloader.reload("command")).outcome == "reloaded"
            assert (await gp.ask().answer()).status == 200
            assert (len(first.received), len(second.received)) == (2, 1)


# --- stored objects -----------------------------------------------------------------------------------------------

RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1760000000,
    "status": "completed",
    "model": "m",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "hi", "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
PATHS = {"/v1/responses": RESPONSE, "/v1/messages": MESSAGE, CHAT: COMPLETION, EMBEDDINGS: VECTORS}


def answering(request: Received) -> Dialogue:
    return [Send(reply(PATHS[f"/v1{request.target}"]))]


RESPONSES: dict[str, Any] = {"model": "m", "input": "hi", "stream": False}
MESSAGES: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
FILE = {"type": "file", "file": {"file_id": "file-1"}}
PINNED: dict[str, tuple[str, Any]] = {
    "previous_response_id": ("/v1/responses", {**RESPONSES, "previous_response_id": "resp_1"}),
    "conversation": ("/v1/responses", {**RESPONSES, "conversation": {"id": "conv_1"}}),
    "file in a response": (
        "/v1/responses",
        {**RESPONSES, "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
    ),
    "file in a chat": (CHAT, {**HELLO, "messages": [{"role": "user", "content": [FILE]}]}),
    "container": ("/v1/messages", {**MESSAGES, "container": "container_1"}),
    "code interpreter": (
        "/v1/responses",
        {**RESPONSES, "tools": [{"type": "code_interpreter", "container": "cntr_1"}]},
    ),
    "vector store": (
        "/v1/responses",
        {**RESPONSES, "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
    ),
    "item": ("/v1/responses", {**RESPONSES, "input": [{"type": "item_reference", "id": "msg_1"}]}),
    "prompt": ("/v1/responses", {**RESPONSES, "prompt": {"id": "pmpt_1", "variables": {"a": "b"}}}),
    "prompt of a version": ("/v1/responses", {**RESPONSES, "prompt": {"version": "2", "id": "pmpt_1"}}),
    "audio": (
        CHAT,
        {**HELLO, "messages": [{"role": "assistant", "audio": {"id": "audio_1"}}, *HELLO["messages"]]},
    ),
}
NAMES = ("previous_response_id", "conversation", "file_id", "container", "vector_store_ids", "prompt", "audio")
SCHEMA = {"type": "object", "properties": {name: {"type": "string"} for name in NAMES}, "required": list(NAMES)}
ARGUMENTS = json.dumps({**dict.fromkeys(NAMES, "x"), "type": "item_reference", "audio": {"id": "x"}})
CALL_OF_TOOL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}
FREE: dict[str, tuple[str, Any]] = {
    "a schema in a chat": (
        CHAT,
        {**HELLO, "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]},
    ),
    "a schema in a response": (
        "/v1/responses",
        {**RESPONSES, "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}]},
    ),
    "a schema in messages": ("/v1/messages", {**MESSAGES, "tools": [{"name": "f", "input_schema": SCHEMA}]}),
    "arguments": (
        CHAT,
        {**HELLO, "messages": [{"role": "assistant", "tool_calls": [CALL_OF_TOOL]}, *HELLO["messages"]]},
    ),
    "text": (CHAT, {**HELLO, "messages": [{"role": "user", "content": ARGUMENTS}]}),
    "words": ("/v1/responses", {**RESPONSES, "input": "prompt, audio, item_reference " * 2_000}),
    "the end of a text": ("/v1/responses", {**RESPONSES, "input": "Summarize this conversation:"}),
    "nothing named": ("/v1/responses", {**RESPONSES, "previous_response_id": None, "conversation": None}),
    "a new container": (
        "/v1/responses",
        {**RESPONSES, "tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
    ),
    "spoken": (
        CHAT,
        {
            **HELLO,
            "modalities": ["text", "audio"],
            "audio": {"voice": "alloy", "format": "wav"},
            "messages": [
                {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}
            ],
        },
    ),
}
MOST_RETRY = {"on": ["refused", "may_have_run"], "operations": ["chat", "responses", "messages"]}


@pytest.mark.parametrize(("path", "body"), [*PINNED.values(), *FREE.values()], ids=[*PINNED, *FREE])
async def test_a_request_that_names_a_stored_object_is_never_moved(path, body):
    is_pinned = (path, body) in PINNED.values()
    for fault in (error(429), error(500), [Rst()]):
        async with (
            Scripted(fault) as first,
            Scripted(answer=answering) as second,
            two(first, second, {"retry": MOST_RETRY}) as gp,
        ):
            answer = await gp.ask(body, path).answer()
        assert (answer.status, len(first.received), len(second.received)) == (
            (answer.status, 1, 0) if is_pinned else (200, 1, 1)
        )
        assert (answer.status == 200) is not is_pinned
    with refusing_server() as refuses:
        async with Scripted(answer=answering) as second, two(refuses, second, {"retry": MOST_RETRY}) as gp:
            answer = await gp.ask(body, path).answer()
            assert (answer.status, len(second.received)) == ((502, 0) if is_pinned else (200, 1))


ANSWERED = ("previous_response_id", "conversation", "item", "container", "code interpreter")


@pytest.mark.parametrize("case", PINNED)
async def test_a_request_that_names_a_stored_object_is_never_balanced(case):
    path, body = PINNED[case]
    async with Scripted(answer=answering) as first, Scripted(answer=answering) as second:
        for policy in ("weighted", "least_in_flight"):
            async with two(first, second, {"policy": policy}) as gp:
                for _ in range(8):
                    assert (await gp.ask(body, path).answer()).status == 200
            counts = (len(first.received), len(second.received))
            first.received.clear()
            second.received.clear()
            # an answer and its container are where the affinity of its caller led, which may be either target
            assert counts == (8, 0) or (case in ANSWERED and counts == (0, 8))


@pytest.mark.parametrize(("path", "body"), PINNED.values(), ids=PINNED)
async def test_targets_alone_move_a_request_as_before(path, body):
    with refusing_server() as refuses:
        async with Scripted(answer=answering) as second, two(refuses, second) as gp:
            assert (await gp.ask(body, path).answer()).status == 200


async def test_the_conversations_of_a_caller_stay_at_one_target():
    keys = [f"gp-caller-{number}-0123456789abcdef" for number in range(6)]
    access = {"keys": [{"name": f"c{at}", "hash": hash_key(key)} for at, key in enumerate(keys)]}
    async with (
        Scripted(answer=answering) as first,
        Scripted(answer=answering) as second,
        two(first, second, {"policy": "weighted"}, access=access) as gp,
    ):
        chosen: dict[str, set[int]] = {}
        for path, body in (("/v1/responses", RESPONSES), ("/v1/messages", MESSAGES)):
            for key in keys:
                for _ in range(4):
                    before = len(first.received)
                    headers = {**JSON, "authorization": f"Bearer {key}"}
                    assert (await gp.ask(body, path, headers=headers).answer()).status == 200
                    chosen.setdefault(key, set()).add(len(first.received) - before)
        assert [len(one) for one in chosen.values()] == [1] * len(keys)
        assert len({*chain(*chosen.values())}) == 2, "each target serves some callers"


# --- a split call -------------------------------------------------------------------------------------------------


def part(request: Received) -> Dialogue:
    inputs = request.json()["input"]
    texts = [inputs] if isinstance(inputs, str) else inputs
    data = [{"object": "embedding", "index": at, "embedding": [float(text), 0.5]} for at, text in enumerate(texts)]
    return [Send(reply({"object": "list", "data": data, "model": "e"}))]


def failing_at(text: str, fault: Dialogue) -> Callable[[Received], Dialogue]:
    return lambda request: fault if text in request.json()["input"] else part(request)


SPLITS: dict[str, tuple[Any, Dialogue, int]] = {
    "nothing allowed": ({}, error(503), 503),
    "refused": ({"retry": {"on": ["refused"]}}, error(503, **WAIT), 503),
    "429, refused": ({"retry": {"on": ["refused"]}}, error(429, **WAIT), 429),
    "another operation": ({"retry": {"on": ["may_have_run"], "operations": ["chat"]}}, error(503), 503),
    "allowed": ({"retry": {"on": ["may_have_run"], "operations": ["embeddings"]}}, error(503), 200),
    "both": ({"retry": {"on": ["refused", "may_have_run"], "operations": ["embeddings"]}}, error(429, **WAIT), 200),
}


@pytest.mark.parametrize(("entry", "fault", "status"), SPLITS.values(), ids=SPLITS)
async def test_a_split_call_is_repeated_whole_or_not_at_all(entry, fault, status):
    body = {"model": "m", "input": [str(number) for number in range(6)]}
    rules = {"rules": {"split": 2}}
    async with (
        Scripted(answer=failing_at("4", fault)) as first,
        Scripted(answer=part) as second,
        two(first, second, {**entry, **rules}) as gp,
    ):
        answer = await gp.ask(body, EMBEDDINGS).answer()
        assert in_flight(gp) == 0
    assert answer.status == status
    texts = sorted(text for one in second.received for text in one.json()["input"])
    assert texts == (body["input"] if status == 200 else [])
    assert {one.json()["model"] for one in second.received} <= {"b"}


async def test_a_part_that_is_refused_needs_the_budget_of_what_may_run_twice():
    """Other parts have run. Three repeats a second are always allowed."""
    entry = {"retry": {"on": ["refused", "may_have_run"], "operations": ["embeddings"]}, "rules": {"split": 2}}
    body, clock = {"model": "m", "input": ["0", "1", "2", "3"]}, DrivenClock()
    async with (
        Scripted(answer=failing_at("2", error(429))) as first,
        Scripted(answer=part) as second,
        two(first, second, entry, clock=clock) as gp,
    ):
        statuses = [(await gp.ask(body, EMBEDDINGS).answer()).status for _ in range(31)]
    assert statuses == [200] * 30 + [429]
    assert len(second.received) == 2 * 30


async def test_the_parts_of_a_call_go_to_one_target():
    body = {"model": "m", "input": [str(number) for number in range(8)]}
    async with (
        Scripted(answer=part) as first,
        Scripted(answer=part) as second,
        two(first, second, {"policy": "weighted", "rules": {"split": 2}}) as gp,
    ):
        for _ in range(6):
            assert (await gp.ask(body, EMBEDDINGS).answer()).status == 200
            counts = {len(first.received), len(second.received)}
            assert counts == {0, 4}
            first.received.clear()
            second.received.clear()


# --- context_fallback ---------------------------------------------------------------------------------------------

TOO_LONG = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."
KEY = "gp-limited-0123456789abcdef"


def long_context(first: Scripted, second: Scripted, **blocks: Any) -> dict[str, Any]:
    return {
        "upstreams": {"first": {"base_url": first.url}, "second": {"base_url": second.url}},
        "models": {
            "m": {"upstream": "first", "name": "a", "context_fallback": "long", "rules": {"rename": {"user": "of_m"}}},
            "long": {"upstream": "second", "rules": {"rename": {"user": "of_long"}}},
        },
        **blocks,
    }


@pytest.mark.parametrize("body", [HELLO, STREAMED], ids=["plain", "stream"])
async def test_a_request_that_is_too_long_goes_to_the_model_for_long_ones(body):
    too_long = error(400, TOO_LONG, "context_length_exceeded")
    async with (
        Scripted(too_long) as first,
        Scripted(GOOD_STREAM if "stream" in body else GOOD) as second,
        gateway(**long_context(first, second)) as gp,
    ):
        answer = await gp.ask({**body, "user": "u"}).answer()
        assert in_flight(gp) == 0
    assert answer.status == 200
    assert answer.headers["x-gatepass-adapted"] == "context_fallback=long, rename=user>of_long"
    assert (answer.headers["x-gatepass-attempts"], answer.headers["x-gatepass-targets"]) == (
        "2",
        "first/a, second/long",
    )
    assert first.received[0].json() == {**body, "model": "a", "of_m": "u"}
    assert second.received[0].json() == {**body, "model": "long", "of_long": "u"}


async def test_the_model_for_long_requests_has_its_own_error():
    too_long = error(400, TOO_LONG, "context_length_exceeded")
    async with Scripted(too_long) as first, Scripted(too_long) as second, gateway(**long_context(first, second)) as gp:
        answer = await gp.ask().answer()
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert (answer.headers["x-gatepass-hop"], len(first.received), len(second.received)) == ("upstream:second", 1, 1)


async def test_a_client_waits_for_the_model_for_long_requests():
    too_long = error(400, TOO_LONG, "context_length_exceeded")
    async with Scripted(too_long) as first, Scripted(error(429, retry_after="40")) as second:
        blocks = long_context(first, second)
        blocks["upstreams"]["third"] = {"base_url": second.url}
        blocks["models"]["long"] = {"targets": [{"upstream": "second"}, {"upstream": "third"}], **REFUSED}
        async with gateway(**blocks) as gp:
            answers = [await gp.ask().answer() for _ in range(2)]
    assert [(one.status, one.error["code"]) for one in answers] == [(429, "upstream_error"), (429, "targets_limited")]
    assert "'long'" in answers[1].error["message"]
    assert (len(first.received), len(second.received)) == (2, 2)


async def test_a_caller_without_the_model_for_long_requests_gets_the_first_error():
    access = {"keys": [{"name": "limited", "hash": hash_key(KEY), "models": ["m"]}]}
    async with (
        Scripted(error(400, TOO_LONG, "context_length_exceeded")) as first,
        Scripted(GOOD) as second,
        gateway(**long_context(first, second, access=access)) as gp,
    ):
        answer = await gp.ask(headers={**JSON, "authorization": f"Bearer {KEY}"}).answer()
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert "long" not in answer.body.decode().replace("too long", "")
    assert (len(first.received), len(second.received)) == (1, 0)


FILTERED = {
    "azure": error(400, "The response was filtered due to the prompt triggering the policy.", "content_filter"),
    "openai": error(400, "Your request was rejected as a result of our safety system.", "content_policy_violation"),
    "dashscope": error(400, "Input data may contain inappropriate content.", "data_inspection_failed"),
    "in a 200": [Send(reply({"error": {"message": "filtered", "code": "content_filter"}}))],
}


@pytest.mark.parametrize("dialogue", FILTERED.values(), ids=FILTERED)
async def test_a_content_filter_never_leads_to_another_target(dialogue):
    async with Scripted(dialogue) as first, Scripted(GOOD) as second:
        found = long_context(first, second)
        targets = [{"upstream": "first", "name": "a"}, {"upstream": "second", "name": "b"}]
        found["models"]["m"] = {"targets": targets, "context_fallback": "long", "retry": MOST_RETRY}
        async with gateway(**found) as gp:
            assert (await gp.ask().answer()).status >= 400
    assert (len(first.received), len(second.received)) == (1, 0)


LONG_OBJECTS: dict[str, Any] = {**HELLO, "messages": [{"role": "user", "content": [FILE]}]}


async def test_a_request_that_names_a_stored_object_goes_to_no_other_model():
    async with (
        Scripted(error(400, TOO_LONG, "context_length_exceeded")) as first,
        Scripted(GOOD) as second,
        gateway(**long_context(first, second)) as gp,
    ):
        assert (await gp.ask(LONG_OBJECTS).answer()).status == 400
    assert (len(first.received), len(second.received)) == (1, 0)


@pytest.mark.parametrize("fault", [error(429), error(500), error(400, TOO_LONG, "context_length_exceeded"), [Rst()]])
async def test_a_limited_key_reaches_no_other_model_by_failing_the_first(fault):
    """LiteLLM #39998."""
    access = {"keys": [{"name": "limited", "hash": hash_key(KEY), "models": ["m"]}]}
    headers = {**JSON, "authorization": f"Bearer {KEY}"}
    async with Scripted(fault) as first, Scripted(GOOD) as second:
        found = long_context(first, second, access=access)
        found["models"]["m"]["retry"] = {**MOST_RETRY, "attempts": 2}
        async with gateway(**found) as gp:
            assert (await gp.ask(headers=headers).answer()).status >= 400
            refused = await gp.ask({**HELLO, "model": "long"}, headers=headers).answer()
    assert (refused.error["code"], len(second.received)) == ("model_not_allowed", 0)


# --- headers ------------------------------------------------------------------------------------------------------


async def test_targets_are_named_only_where_a_policy_is_set():
    named = {}
    for policy, entry in {"none": {}, "retry": REFUSED, "breaker": {"breaker": {}}, "affinity": {"affinity": "caller"},
                          "weighted": {"policy": "weighted"}}.items():  # fmt: skip
        with refusing_server() as refuses:
            async with Scripted(GOOD) as second, two(refuses, second, entry) as gp:
                answers = [await gp.ask().answer() for _ in range(12)]
                failed_over = next((one for one in answers if "x-gatepass-attempts" in one.headers), None)
        assert {one.status for one in answers} == {200}
        if failed_over is not None:
            assert failed_over.headers["x-gatepass-attempts"] == "2"
            named[policy] = failed_over.headers.get("x-gatepass-targets")
    both = "first/a, second/b"
    named.setdefault("affinity", both)  # the hash may prefer the second target
    assert named == {"none": None, "retry": both, "breaker": both, "affinity": both, "weighted": both}


HEADERS = [
    *("cache-control", "content-length", "content-type", "date", "server-timing", "x-request-id"),
    "x-gatepass-attempts",
]
SENT = ["accept", "accept-encoding", "content-length", "content-type", "host", "user-agent", "x-request-id"]


async def test_with_targets_alone_headers_and_calls_are_those_of_before():
    """The list was recorded before there was a policy."""
    with refusing_server() as refuses:
        async with Scripted(GOOD) as second, two(refuses, second) as gp:
            answer = await gp.ask().answer()
    assert sorted(answer.headers) == sorted(HEADERS)
    for fault, status in ((error(429, retry_after="20"), 429), (error(500), 500), (error(503), 503), ([Rst()], 502)):
        async with Scripted(fault) as first, Scripted(GOOD) as second, two(first, second) as gp:
            for number in range(1, 8):  # more than a breaker would allow
                answer = await gp.ask().answer()
                assert (answer.status, len(first.received), len(second.received)) == (status, number, 0)
                assert "x-gatepass-attempts" not in answer.headers
                assert "x-gatepass-targets" not in answer.headers
    sent = dict(first.received[0].headers)
    assert sorted(sent) == sorted(SENT)


# --- the openai package -------------------------------------------------------------------------------------------

SDK: dict[str, tuple[Any, Dialogue, Dialogue | None, str, tuple[int, ...]]] = {
    "429, no policy": ({}, error(429, **WAIT), GOOD, "RateLimitError", (3, 0)),
    "503, no policy": ({}, error(503, **WAIT), GOOD, "InternalServerError", (3, 0)),
    "429, a second target": (REFUSED, error(429, **WAIT), GOOD, "", (1, 1)),
    "503, a second target": (REFUSED, error(503, **WAIT), GOOD, "", (1, 1)),
    # the request: 3 attempts by gatepass; each of the package's two repeats: one
    "429, one target": (REFUSED, error(429, **WAIT), None, "RateLimitError", (5,)),
    "503, one target": (REFUSED, error(503, **WAIT), None, "InternalServerError", (5,)),
    # `x-should-retry: false` ends it at once
    "429, both for long": (
        {**REFUSED, "max_cooldown_s": 300},
        error(429, retry_after="300"),
        error(429, retry_after="200"),
        "RateLimitError",
        (1, 1),
    ),
    "429 that forbids it": (REFUSED, error(429, x_should_retry="false"), None, "RateLimitError", (3,)),
}
"""The model, the replies of the targets, the package's exception, and the requests that each target gets."""


@pytest.mark.parametrize(("entry", "first", "second", "raised", "requests"), SDK.values(), ids=SDK)
async def test_the_openai_package_at_each_429_and_503(entry, first, second, raised, requests):
    async with (
        Scripted(first) as one,
        Scripted(second or GOOD) as other,
        two(one, other if second else None, entry) as gp,
        sdk(gp) as client,
    ):
        caught = ""
        try:
            await client.chat.completions.create(model="m", messages=MESSAGES_OF_SDK)
        except openai.APIStatusError as error_of_sdk:
            caught = type(error_of_sdk).__name__
    assert (caught, (len(one.received), len(other.received))[: len(requests)]) == (raised, requests)


async def test_the_openai_package_waits_as_long_as_all_targets_do():
    busy = error(429, retry_after="1")
    async with (
        Scripted(busy, GOOD) as first,
        Scripted(busy, GOOD) as second,
        two(first, second, {"breaker": {}}) as gp,
        sdk(gp) as client,
    ):
        assert [(await gp.ask().answer()).status for _ in range(2)] == [429, 429]
        began_s = gp.state.clock.now()
        await client.chat.completions.create(model="m", messages=MESSAGES_OF_SDK)
        assert 0.5 < gp.state.clock.now() - began_s < 5.0
    assert (len(first.received), len(second.received)) == (2, 1)


async def test_the_openai_package_ends_at_once_if_all_targets_wait_for_long():
    entry = {"breaker": {}, "max_cooldown_s": 300}
    async with (
        Scripted(error(429, retry_after="300")) as first,
        Scripted(error(429, retry_after="100")) as second,
        two(first, second, entry) as gp,
        sdk(gp) as client,
    ):
        assert [(await gp.ask().answer()).status for _ in range(2)] == [429, 429]
        with pytest.raises(openai.RateLimitError, match="Every target of the model 'm' asked to wait"):
            await client.chat.completions.create(model="m", messages=MESSAGES_OF_SDK)
    assert (len(first.received), len(second.received)) == (1, 1)


# --- amplification ------------------------------------------------------------------------------------------------

LOADS: dict[str, tuple[int, float, Dialogue, float, float]] = {
    "100 %": (50, 1.0, error(500), 1.15, 1.2),
    "30 %": (50, 0.3, error(500), 1.15, 1.2),
    "cuts": (50, 1.0, [*begin_stream(), Rst()], 1.15, 1.2),
    # three repeats a second are always allowed
    "100 % of few": (5, 1.0, error(500), 1.5, 1.7),
}
"""Requests a second, the share of failures, and the bounds of the upstream's requests for each of the clients'."""


@pytest.mark.parametrize(("rate", "share", "fault", "least", "most"), LOADS.values(), ids=LOADS)
async def test_repeats_do_not_multiply_an_outage(rate, share, fault, least, most, capsys):
    clock, random, asked = DrivenClock(), Random(1), 250 if rate == 50 else 100
    good = GOOD_STREAM if fault[-1] == Rst() else GOOD

    def answer(_: Received) -> Dialogue:
        return fault if random.random() < share else good

    retry = {"on": ["may_have_run"], "operations": ["chat"], "attempts": 2}
    async with (
        Scripted(answer=answer) as first,
        Scripted(answer=answer) as second,
        two(first, second, {"retry": retry}, clock=clock) as gp,
    ):
        for _ in range(asked):
            await gp.ask(STREAMED if good is GOOD_STREAM else HELLO).answer()
            await clock.advance(1 / rate)
    ratio = (len(first.received) + len(second.received)) / asked
    with capsys.disabled():
        print(f"\n{rate} requests a second, {share:.0%} {'cuts' if good is GOOD_STREAM else 'errors'}: {ratio:.3f}")
    assert least <= ratio <= most
