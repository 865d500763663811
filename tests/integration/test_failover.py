"""Where a request goes: retries, failover, breakers and waits over the targets of a model, and what each target got."""

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from gatepass.config.access import hash_key
from gatepass.policy.breaker import Breaker
from gatepass.proxy.retry import MOST_CALLS, MOST_TRIES_S
from tests.integration.answers import COMPLETION, EVENTS, VECTORS, delta
from tests.integration.gateway import CHAT, HELLO, JSON, STREAMED, Answer, Gateway, gateway
from tests.integration.issuer import SECRET, minted
from tests.integration.messages_upstream import MESSAGE
from tests.integration.refusing import without
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
from tests.integration.test_connections import refusing_server
from tests.unit.clock import DrivenClock
from tests.unit.proxy.test_attempt_learning import MEMBERS
from tests.waiting import until

GOOD = [Send(reply(COMPLETION))]
GOOD_STREAM = [Send(stream(*EVENTS))]
EMBEDDINGS = "/v1/embeddings"
TOO_LONG = "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens."


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
    """gatepass with the model `m` at `first`, which may be a URL, and at `second` if there is one. It starts both."""
    named = {"first": first} if second is None else {"first": first, "second": second}
    async with AsyncExitStack() as started:
        for one in named.values():
            if not isinstance(one, str):
                await started.enter_async_context(one)
        upstreams = {name: {"base_url": one if isinstance(one, str) else one.url} for name, one in named.items()}
        gp = await started.enter_async_context(
            gateway(upstreams=upstreams, models=models(*upstreams, **(entry or {})), **blocks)
        )
        yield gp


def key_of(name: str) -> str:
    return f"gp-{name}-0123456789abcdef"


def callers(*names: str) -> dict[str, Any]:
    return {"keys": [{"name": name, "hash": hash_key(key_of(name))} for name in names]}


def caller(name: str) -> dict[str, str]:
    return {**JSON, "authorization": f"Bearer {key_of(name)}"}


async def as_caller(gp: Gateway, name: str, body: Any = HELLO) -> Answer:
    return await gp.ask(body, headers=caller(name)).answer()


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
    first, second = Scripted(error(429, retry_after_ms="100"), GOOD), Scripted(error(429, retry_after_ms="60000"))
    async with two(first, second, REFUSED) as gp:
        answer = await gp.ask().answer()
    assert (answer.status, answer.headers["x-gatepass-targets"]) == (200, "first/a, second/b, first/a")


SHORT: dict[str, tuple[dict[str, Any], dict[str, str], str, int]] = {
    "no limit": ({}, {}, "300", 2),
    "total_s": ({"timeouts": {"total_s": 8}}, {}, "9000", 1),
    "a repeat of an SDK": ({}, {"x-stainless-retry-count": "1"}, "3000", 1),
    "too long a wait": ({}, {}, "11000", 1),
}
"""Settings of the model, headers of the request, the wait in milliseconds, and the requests that the upstream gets."""


@pytest.mark.parametrize(("entry", "headers", "wait_ms", "requests"), SHORT.values(), ids=SHORT)
async def test_no_repeat_is_sent_that_would_come_too_late(entry, headers, wait_ms, requests):
    upstream = Scripted(error(429, retry_after_ms=wait_ms), GOOD)
    async with two(upstream, None, {**REFUSED, **entry}) as gp:
        began_s = gp.state.clock.now()
        answer = await gp.ask(headers={**JSON, **headers}).answer()
        took_s = gp.state.clock.now() - began_s
    assert (answer.status, len(upstream.received)) == ((200, 2) if requests == 2 else (429, 1))
    if requests == 2:
        assert took_s >= 0.3
    else:
        assert answer.error["code"] == "upstream_error"
        assert answer.headers["retry-after"] == str(-(-int(wait_ms) // 1000))


# --- waits --------------------------------------------------------------------------------------------------------


async def test_all_targets_wait():
    clock = DrivenClock()
    first, second = Scripted(error(429, retry_after="50")), Scripted(error(503, retry_after="30"))
    async with two(first, second, REFUSED, clock=clock) as gp:
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


def by_tier(received: Received) -> Dialogue:
    """A model whose cheap tier has no room."""
    body = received.json()
    is_full = body.get("service_tier") == "flex" or body.get("metadata") == {"tier": "flex"}
    if is_full:
        return error(429, "No capacity for this tier", retry_after="50")
    return GOOD_STREAM if body.get("stream") else GOOD


@pytest.mark.parametrize("cheap", [{"service_tier": "flex"}, {"metadata": {"tier": "flex"}}])
@pytest.mark.parametrize("usual", [HELLO, STREAMED])
async def test_a_wait_that_one_callers_request_began_lets_a_probe_of_another_through(cheap, usual, caplog):
    caplog.set_level(logging.INFO, "gatepass.targets")
    first, second = Scripted(answer=by_tier), Scripted(answer=by_tier)
    async with two(first, second, REFUSED, clock=DrivenClock(), access=callers("ana", "ben")) as gp:
        assert (await as_caller(gp, "ana", {**HELLO, **cheap})).status == 429
        assert (await as_caller(gp, "ana", HELLO)).error["code"] == "targets_limited"  # who began the wait waits
        for _ in range(3):
            assert (await as_caller(gp, "ben", usual)).status == 200
        assert (await as_caller(gp, "ana", {**HELLO, **cheap})).headers["retry-after"] == "50"
        assert (len(first.received), len(second.received)) == (4, 1)
    events = [(record.message, record.__dict__["fields"]["target"]) for record in caplog.records]
    assert events == [("target_waits", "first/a"), ("target_waits", "second/b"), ("target_recovered", "first/a")]


async def test_one_probe_at_a_time_and_a_wait_that_others_confirm_stays():
    clock, go = DrivenClock(), asyncio.Event()
    first = Scripted(error(429, retry_after="50"), [Wait(go), *error(429, retry_after="40")], GOOD)
    second = Scripted(error(429, retry_after="50"), error(500), GOOD)
    async with two(first, second, {"breaker": {}}, clock=clock, access=callers("ana", "ben", "cem")) as gp:
        assert [(await as_caller(gp, "ana")).status for _ in range(2)] == [429, 429]
        async with gp.ask(headers=caller("ben")) as probing:
            await until(lambda: len(first.received) == 2)
            assert (await as_caller(gp, "cem")).status == 500  # the probe of the other target, which says nothing
            refused = await as_caller(gp, "cem")
            assert (refused.error["code"], refused.headers["retry-after"]) == ("targets_limited", "1")
            go.set()
            assert (await probing.answer()).status == 429
        assert (await as_caller(gp, "ben")).headers["retry-after"] == "1"  # for a probe of the other target
        assert (len(first.received), len(second.received)) == (2, 2)
        await clock.advance(1.1)
        assert [(await as_caller(gp, name)).status for name in ("cem", "ben", "cem", "ana")] == [200, 200, 200, 429]
    assert (len(first.received), len(second.received)) == (4, 3)


async def test_a_429_that_is_not_repeated_has_the_wait_of_the_target_that_is_available_first():
    clock, entry = DrivenClock(), {"breaker": dict[str, Any]()}
    first, second = (
        Scripted(error(429, retry_after="200", retry_after_ms="200000"), error(429, retry_after="9")),
        Scripted(error(429, retry_after="30"), error(429, TOO_LONG, retry_after="40")),
    )
    async with two(first, second, entry, clock=clock) as gp:
        answer = await gp.ask().answer()
        assert answer.status == 429
        assert not {"retry-after", "retry-after-ms", "x-should-retry"} & answer.headers.keys()
        assert (await gp.ask().answer()).headers["retry-after"] == "30"
        await clock.advance(30.1)
        # what concerns the size of the request would be the same at each target
        assert (await gp.ask().answer()).headers["retry-after"] == "40"
    assert (len(first.received), len(second.received)) == (1, 2)


@pytest.mark.parametrize(
    ("asked", "limits", "waits"),
    [
        (("5", None), (0, 0), ["5"]),
        ((None, "90000"), (0, 0), [None]),
        (("500", None), (0, 1), ["60", "60"]),
        ((None, "12"), (1, 0), ["12", "12"]),
    ],
)
async def test_a_429_of_two_targets_has_the_wait_of_the_one_that_is_known_to_be_free_first(asked, limits, waits):
    entry = {"retry": {"on": ["refused"], "attempts": 2}, "policy": "order"}
    dialogues = [error(429) if one is None else error(429, retry_after=one) for one in asked]
    async with Scripted(dialogues[0]) as one, Scripted(dialogues[1]) as two:
        rows = (("first", one.url, limits[0]), ("second", two.url, limits[1]))
        upstreams = {
            name: {"base_url": url, "limits": {"requests": {"minute": most or 99}}} for name, url, most in rows
        }
        named = {**models(*upstreams, **entry), **{name: {"upstream": name} for name in upstreams}}
        async with gateway(upstreams=upstreams, models=named, clock=DrivenClock()) as gp:
            for used_up in (name for name, _, most in rows if most):
                await gp.ask({**HELLO, "model": used_up}).answer()
            answers = [await gp.ask().answer() for _ in waits]
    assert [(one.status, one.headers.get("retry-after")) for one in answers] == [(429, wait) for wait in waits]


async def test_the_client_is_told_the_wait_that_was_asked_for_although_gatepass_waits_for_less():
    clock = DrivenClock()
    long, longer = error(429, retry_after="100"), error(429, retry_after="3600")
    first, second = Scripted(longer, longer, GOOD), Scripted(long, longer, GOOD)
    async with two(first, second, REFUSED, clock=clock) as gp:
        for after_s, code, wait in ((0, "upstream_error", "100"), (40, "targets_limited", "60")):
            await clock.advance(after_s)
            answer = await gp.ask().answer()
            assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (429, code, wait)
            assert answer.headers.get("x-should-retry") == ("false" if code == "upstream_error" else None)
        await clock.advance(21)
        for code in ("upstream_error", "targets_limited"):
            answer = await gp.ask().answer()
            assert (answer.error["code"], answer.headers["retry-after"]) == (code, "3600")
            assert answer.headers["x-should-retry"] == "false"
        await clock.advance(61)
        assert (await gp.ask().answer()).status == 200
    assert (len(first.received), len(second.received)) == (3, 2)


async def test_an_upstream_that_forbids_a_repeat_is_passed_on():
    clock = DrivenClock()
    forbids = error(429, retry_after="20", x_should_retry="false")
    async with two(Scripted(forbids), Scripted(forbids), REFUSED, clock=clock) as gp:
        assert (await gp.ask().answer()).headers["x-should-retry"] == "false"


# --- breaker ------------------------------------------------------------------------------------------------------


def breaker(gp: Gateway, upstream: str = "first", name: str = "a") -> Breaker:
    return gp.state.upstreams[upstream].state.healths[name].breaker


async def test_five_errors_eject_a_target_and_one_probe_brings_it_back(caplog):
    caplog.set_level(logging.INFO, "gatepass.targets")
    clock, release = DrivenClock(), asyncio.Event()
    healed: Dialogue = (Wait(release), *GOOD)
    first, second = Scripted(*[error(500)] * 5, error(500), healed, GOOD), Scripted(GOOD)
    async with two(first, second, {"breaker": {"ejection_s": 3}}, clock=clock) as gp:
        assert [(await gp.ask().answer()).status for _ in range(8)] == [500] * 5 + [200] * 3
        assert (len(first.received), len(second.received)) == (5, 3)
        # the probe fails: the next ejection begins
        await clock.advance(3.1)
        assert [(await gp.ask().answer()).status for _ in range(3)] == [500, 200, 200]
        await clock.advance(2.9)
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
        ("target_ejected", "first/a", 3, "failures", "upstream_error"),
        ("target_ejected", "first/a", 3, "probe", "upstream_error"),
        ("target_recovered", "first/a"),
    ]


UNKNOWN = {"error": {"message": "no", "type": "t", "code": "odd"}}
CUT_LATER: Dialogue = [*begin_stream(), Send(chunk(delta(content="hi"))), Rst()]
UNKNOWN_EVENT: Dialogue = [Send(stream(b"data: " + json.dumps(UNKNOWN).encode()))]
VERDICTS: dict[str, tuple[Dialogue, Any, bool]] = {
    "400": (error(400), HELLO, False),
    "429": (error(429), HELLO, False),
    "503 with a wait": (error(503, retry_after_ms="1"), HELLO, False),
    "token ids": ([Send(reply({**VECTORS, "data": []}))], {"model": "m", "input": [1, 2]}, False),
    "no choice": ([Send(reply({**COMPLETION, "choices": []}))], HELLO, False),
    "too large": ([Send(reply({**COMPLETION, "id": "x" * 9_000}))], HELLO, False),
    "an unknown error in a 200": ([Send(reply(UNKNOWN))], HELLO, False),
    "an unknown error in a stream": (UNKNOWN_EVENT, STREAMED, False),
    "503": (error(503), HELLO, True),
    "no answer in time": ([Hold()], HELLO, True),
    "closed": ([Rst()], HELLO, True),
    "an error in a 200": ([Send(reply({"error": {"message": "no", "code": 500}}))], HELLO, True),
    "an empty body": ([Send(reply(b""))], HELLO, True),
    "cut after an event": (CUT_LATER, STREAMED, True),
}


@pytest.mark.parametrize(("dialogue", "body", "ejects"), VERDICTS.values(), ids=VERDICTS)
async def test_only_what_a_failing_target_alone_answers_ejects_it(dialogue, body, ejects):
    timeouts = {"first_byte_s": 0.5} if isinstance(dialogue[0], Hold) else {}
    entry = {"breaker": {"failures": 1}, "timeouts": timeouts}
    path = EMBEDDINGS if "input" in body else CHAT
    async with two(Scripted(dialogue), None, entry, limits={"reply_bytes": 8_000}) as gp:
        for _ in range(1 if ejects else 2):
            await gp.ask(body, path).answer()
        assert (breaker(gp).ejected_s is not None) is ejects


async def test_the_time_of_the_request_is_a_failure_of_a_target_that_had_all_of_it():
    entry = {"retry": {}, "breaker": {"failures": 1}, "timeouts": {"total_s": 3}}
    clock, go = DrivenClock(), asyncio.Event()
    first, second = Scripted([Wait(go), *error(429)]), Scripted([Hold()])
    async with two(first, second, entry, clock=clock) as gp:
        asked = asyncio.create_task(gp.ask().answer())
        await first.requested()
        await clock.advance(0.3)
        go.set()
        await second.requested()
        await clock.advance(2.7)
        answer = await asked
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout_total")
        assert breaker(gp, "second", "b").ejected_s is None
    begun: Dialogue = [*begin_stream(), Send(chunk(delta(content="hi"))), Hold()]
    for dialogue, body, is_failure in (([Hold()], HELLO, True), (begun, STREAMED, False)):
        first = Scripted(dialogue)
        async with two(first, None, entry, clock=clock) as gp, gp.ask(body) as ask:
            await (first.requested() if is_failure else ask.head())
            await clock.advance(3)
            await ask.answer()
            assert (breaker(gp).ejected_s is not None) is is_failure


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
PATHS = {"/v1/responses": RESPONSE, CHAT: COMPLETION}


def answering(request: Received) -> Dialogue:
    return [Send(reply(PATHS[f"/v1{request.target}"]))]


RESPONSES: dict[str, Any] = {"model": "m", "input": "hi", "stream": False}
MOST_RETRY = {"on": ["refused", "may_have_run"], "operations": ["chat", "responses", "messages"]}


@pytest.mark.parametrize("fault", [error(429), error(500), [Rst()], None], ids=["429", "500", "reset", "refused"])
async def test_a_request_that_names_a_stored_object_is_never_moved(fault):
    with refusing_server() as refuses:
        first = Scripted(fault) if fault else refuses
        second = Scripted(answer=answering)
        async with two(first, second, {"retry": MOST_RETRY}) as gp:
            pinned = await gp.ask({**RESPONSES, "previous_response_id": "resp_1"}, "/v1/responses").answer()
            assert (pinned.status >= 400, second.received) == (True, [])
            assert (await gp.ask(RESPONSES, "/v1/responses").answer()).status == 200


# --- conversations ------------------------------------------------------------------------------------------------

KEYS = {name: f"gp-{name}-0123456789abcdef" for name in ("ana", "ben")}
BALANCED: dict[str, Any] = {
    "entry": {"policy": "weighted"},
    "access": {"keys": [{"name": name, "hash": hash_key(key)} for name, key in KEYS.items()]},
}
MESSAGES, COUNT, COMPACT = "/v1/messages", "/v1/messages/count_tokens", "/v1/responses/compact"
KINDS: dict[str, Any] = {
    CHAT: COMPLETION,
    "/v1/responses": RESPONSE,
    COMPACT: RESPONSE,
    MESSAGES: MESSAGE,
    COUNT: {"input_tokens": 1},
    EMBEDDINGS: VECTORS,
}
UNSTORED: dict[str, Any] = {**RESPONSES, "store": False}
PROMPT: dict[str, Any] = {**HELLO, "max_tokens": 9}
Turn = Callable[[str], tuple[Any, dict[str, str]]]
"""Returns the body and the fields of a request of the conversation."""


def keyed(body: Any) -> Turn:
    return lambda name: ({**body, "prompt_cache_key": name}, {})


def fielded(field: str, body: Any) -> Turn:
    return lambda name: (body, {field: name})


TURNS: dict[str, list[tuple[str, Turn]]] = {
    "chats": [(CHAT, keyed(HELLO)), (CHAT, keyed({**HELLO, "store": False}))],
    "a body above 256 KiB": [(CHAT, keyed({**HELLO, "x": "a" * 300_000})), (CHAT, keyed(HELLO))],
    "Claude Code": [(path, fielded("x-claude-code-session-id", PROMPT)) for path in (MESSAGES, COUNT, MESSAGES)],
    "Codex": [
        ("/v1/responses", lambda name: ({**UNSTORED, "prompt_cache_key": name}, {"session-id": "other"})),
        (COMPACT, keyed(RESPONSES)),
        ("/v1/responses", keyed(UNSTORED)),
    ],
    "Codex's session": [
        ("/v1/responses", fielded("session-id", UNSTORED)),
        (COMPACT, fielded("session-id", RESPONSES)),
    ],
    "an older Codex": [("/v1/responses", fielded(name, UNSTORED)) for name in ("session_id", "conversation_id")],
    "a field after a longer key": [
        (CHAT, lambda name: ({**HELLO, "prompt_cache_key": "x" * 257}, {"session_id": name})),
        (CHAT, fielded("session_id", HELLO)),
    ],
}


def counting(met: Counter[str], at: str) -> Callable[[Received], Dialogue]:
    def answer(request: Received) -> Dialogue:
        met[at] += 1
        path = f"/v1{request.target}"
        return [Send(reply(KINDS.get(path, RESPONSE)))]

    return answer


@asynccontextmanager
async def places(**blocks: Any) -> AsyncIterator[Callable[..., Any]]:
    """Yield a function that sends a request and returns which of two targets got it."""
    met: Counter[str] = Counter()
    upstreams = (Scripted(answer=counting(met, name)) for name in ("first", "second"))
    async with two(*upstreams, **{**BALANCED, **blocks}) as gp:

        async def place(path: str, body: Any, name: str = "ana", method: str = "POST", **fields: str) -> str:
            met.clear()
            headers = {**JSON, "authorization": f"Bearer {KEYS[name]}", **fields}
            answer = await gp.ask(body, path, method=method, headers=headers).answer()
            assert answer.status == 200, answer.body
            ((at, count),) = met.items()
            assert count == 1
            return at

        yield place


@pytest.mark.parametrize("turns", TURNS.values(), ids=TURNS)
async def test_each_conversation_of_one_caller_prefers_a_target(turns):
    homes: list[str] = []
    async with places() as place:
        for at in range(12):
            found = []
            for path, turn in turns:
                body, fields = turn(f"conversation-{at}")
                found.append(await place(path, body, **fields))
            assert len({*found}) == 1, found
            homes += {*found}
    assert {*homes} == {"first", "second"}


STORING: dict[str, tuple[str, Any]] = {
    "a response": ("/v1/responses", RESPONSES),
    "null": ("/v1/responses", {**RESPONSES, "store": None}),
    "in the background": ("/v1/responses", {**UNSTORED, "background": True}),
    "a chat": (CHAT, {**HELLO, "store": True}),
}


@pytest.mark.parametrize(("path", "body"), STORING.values(), ids=STORING)
async def test_requests_about_a_stored_answer_meet_its_target_whatever_conversation_they_name(path, body):
    access = {
        "keys": [{**key, "operations": ["chat", "responses", "stored_responses"]} for key in BALANCED["access"]["keys"]]
    }
    async with places(access=access, operations={"responses": {"model": "m"}}) as place:
        for at in range(12):
            named = {"prompt_cache_key": f"conversation-{at}"}
            first = await place(path, {**body, **named}, session_id=f"session-{at}")
            follows = {**UNSTORED, **named, "previous_response_id": "resp_1"}
            assert await place("/v1/responses", follows) == first
            assert await place("/v1/responses", {**UNSTORED, **named, "conversation": "conv_1"}) == first
            for method, rest in (("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", "")):
                fetched = await place(f"/v1/responses/resp_1{rest}", None, method=method, session_id=f"session-{at}")
                assert fetched == first


async def test_a_name_above_256_bytes_names_no_conversation():
    async with places() as place:
        for length, count in ((256, 2), (257, 1)):
            names = [f"{at}".rjust(length, "k") for at in range(12)]
            assert len({await place(CHAT, {**HELLO, "prompt_cache_key": name}) for name in names}) == count
            assert len({await place(MESSAGES, PROMPT, **{"x-claude-code-session-id": name}) for name in names}) == count
        wide = ["é" * 127 + f"{at:03d}" for at in range(12)]  # 257 bytes of 130 characters
        assert len({await place(CHAT, {**HELLO, "prompt_cache_key": name}) for name in wide}) == 1
        for value in ("", 7, None, {"a": 1}):
            assert len({await place(CHAT, {**HELLO, "prompt_cache_key": value}, session_id="") for _ in range(3)}) == 1


async def test_callers_with_one_name_of_a_conversation_share_no_target():
    async with places() as place:
        names = [f"conversation-{at}" for at in range(24)]
        found = {who: [await place(CHAT, keyed(HELLO)(name)[0], who) for name in names] for who in KEYS}
    assert found["ana"] != found["ben"]


async def test_a_busy_target_gives_a_conversation_to_the_other_and_vectors_follow_none():
    ended, met = asyncio.Event(), Counter[str]()

    def held(at: str) -> Callable[[Received], Dialogue]:
        def answer(request: Received) -> Dialogue:
            met[at] += 1
            return [Send(reply(VECTORS))] if "embeddings" in request.target else [Wait(ended), *GOOD]

        return answer

    body = {**HELLO, "prompt_cache_key": "one"}
    async with (
        two(Scripted(answer=held("a")), Scripted(answer=held("b")), {"policy": "weighted"}) as gp,
        AsyncExitStack() as asked,
    ):
        for count in range(1, 7):
            await asked.enter_async_context(gp.ask(body))
            await until(partial(lambda most: met.total() == most, count))
        assert sorted(met.values()) == [2, 4]  # 1.25 times its share of all in progress
        ended.set()
        met.clear()
        vectors = {"model": "m", "input": "x", "prompt_cache_key": "one"}
        for _ in range(40):
            assert (await gp.ask(vectors, EMBEDDINGS, headers={**JSON, "session_id": "one"}).answer()).status == 200
        assert {*met} == {"a", "b"}


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
    "429, refused": ({"retry": {"on": ["refused"]}}, error(429, **WAIT), 429),
    "allowed": ({"retry": {"on": ["may_have_run"], "operations": ["embeddings"]}}, error(503), 200),
    "both": ({"retry": {"on": ["refused", "may_have_run"], "operations": ["embeddings"]}}, error(429, **WAIT), 200),
}


@pytest.mark.parametrize(("entry", "fault", "status"), SPLITS.values(), ids=SPLITS)
async def test_a_split_call_is_repeated_whole_or_not_at_all(entry, fault, status):
    body = {"model": "m", "input": [str(number) for number in range(6)]}
    rules = {"rules": {"split": 2}}
    second = Scripted(answer=part)
    async with two(Scripted(answer=failing_at("4", fault)), second, {**entry, **rules}) as gp:
        answer = await gp.ask(body, EMBEDDINGS).answer()
        assert in_flight(gp) == 0
    assert answer.status == status
    texts = sorted(text for one in second.received for text in one.json()["input"])
    assert texts == (body["input"] if status == 200 else [])
    assert {one.json()["model"] for one in second.received} <= {"b"}


async def test_a_part_that_is_refused_needs_the_budget_of_what_may_run_twice():
    """Other parts have run. Thirty repeats are allowed at once."""
    entry = {"retry": {"on": ["refused", "may_have_run"], "operations": ["embeddings"]}, "rules": {"split": 2}}
    body, clock = {"model": "m", "input": ["0", "1", "2", "3"]}, DrivenClock()
    second = Scripted(answer=part)
    async with two(Scripted(answer=failing_at("2", error(429))), second, entry, clock=clock) as gp:
        statuses = [(await gp.ask(body, EMBEDDINGS).answer()).status for _ in range(31)]
    assert statuses == [200] * 30 + [429]
    assert len(second.received) == 2 * 30


# --- tries over several targets -----------------------------------------------------------------------------------

ONE_BY_ONE = dict([*MEMBERS.items()][: MOST_CALLS - 1])
"""Members that an upstream may not know, which it refuses in this order: one for each try."""
PICKY = {**HELLO, **ONE_BY_ONE}


def refused_member(received: Received, most: int = len(ONE_BY_ONE)) -> Dialogue | None:
    known = received.json()
    name = next((one for one in [*ONE_BY_ONE][:most] if one in known), None)
    return None if name is None else without(name).dialogue


@pytest.mark.parametrize(
    ("members", "status", "calls"),
    [
        (1, 429, [2, 2, 2, 2]),
        (2, 429, [3, 3, 3, 3]),
        (3, 400, [4, 4, 3, 0]),
        (8, 400, [MOST_CALLS, 1, 0, 0]),
    ],
)
async def test_one_request_has_nine_calls_and_one_for_each_further_target(members: int, status: int, calls: list[int]):
    """Each of four targets refuses so many members one by one, and then the request for now."""
    entry = {"retry": {"on": ["refused"], "attempts": 4}}
    names = ("first", "second", "third", "fourth")
    async with AsyncExitStack() as started:
        served = [
            await started.enter_async_context(Scripted(answer=lambda one: refused_member(one, members) or error(429)))
            for _ in names
        ]
        upstreams = {name: {"base_url": one.url} for name, one in zip(names, served, strict=True)}
        gp = await started.enter_async_context(gateway(upstreams=upstreams, models=models(*names, **entry)))
        answer = await gp.ask(PICKY).answer()
    assert [len(one.received) for one in served] == calls
    assert (answer.status, answer.headers["x-gatepass-attempts"]) == (status, str(sum(calls)))


@pytest.mark.parametrize(("members", "calls"), [(0, [2, 2, 2, 2]), (2, [4, 4, 3, 0]), (8, [MOST_CALLS, 0, 0, 0])])
async def test_a_renewed_token_is_one_of_the_nine_calls(members: int, calls: list[int]):
    """Each of four targets rejects its first token, refuses so many members one by one, and then fails."""
    entry = {"retry": {"on": ["refused", "may_have_run"], "operations": ["chat"], "attempts": 4}}
    names, rejected = ("first", "second", "third", "fourth"), set[tuple[int, str]]()

    def answer(at: int, received: Received) -> Dialogue:
        sent = (at, dict(received.headers)["authorization"])
        if not any(one == at for one, _ in rejected):
            rejected.add(sent)
        if sent in rejected:
            return error(401, "The token is expired.", "invalid_token")
        return refused_member(received, members) or error(500, "overloaded")

    async with AsyncExitStack() as started:
        issuer = await started.enter_async_context(Scripted(*[minted(f"token-{at}") for at in range(40)]))
        login = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": SECRET}
        served = [await started.enter_async_context(Scripted(answer=partial(answer, at))) for at, _ in enumerate(names)]
        upstreams = {name: {"base_url": one.url, "credential": name} for name, one in zip(names, served, strict=True)}
        logins, entries = dict.fromkeys(names, login), models(*names, **entry)
        gp = await started.enter_async_context(gateway(upstreams=upstreams, credentials=logins, models=entries))
        asked = await gp.ask(PICKY).answer()
    assert [len(one.received) for one in served] == calls
    assert asked.status == (400 if members else 500)


@pytest.mark.parametrize(("repeats", "status"), [(0, 400), (3, 400), (8, 400), (10, 429)])
async def test_what_retry_repeats_is_counted_and_not_limited(repeats: int, status: int):
    """An upstream refuses so many calls for now, and then nine members one by one."""
    entry = {"retry": {"on": ["refused"], "attempts": 10}}
    left = iter(range(repeats))

    def answer(received: Received) -> Dialogue:
        is_limited = next(left, None) is not None
        return error(429, **{"retry-after": "0"}) if is_limited else refused_member(received) or error(400, "Bad.")

    served, model = Scripted(answer=answer), models("only", **entry)
    async with served as only, gateway(upstreams={"only": {"base_url": only.url}}, models=model) as gp:
        asked = await gp.ask(PICKY).answer()
    assert (asked.status, len(only.received)) == (status, max(MOST_CALLS, repeats))


@pytest.mark.parametrize("tries", [1, 3])
async def test_a_target_that_hangs_takes_no_tries_from_the_next(tries: int):
    """The first one refuses some members and then hangs for longer than tries may take at one target."""
    clock = DrivenClock()
    first = Scripted(*[without(name).dialogue for name in [*ONE_BY_ONE][:tries]], [Hold()])
    second = Scripted(answer=lambda received: refused_member(received) or GOOD)
    asked = {**HELLO, **dict([*MEMBERS.items()][:4])}
    entry = {"retry": {"on": ["may_have_run"], "operations": ["chat"]}, "timeouts": {"first_byte_s": 0.5}}
    async with two(first, second, entry, clock=clock) as gp:
        asking = asyncio.create_task(gp.ask(asked).answer())
        await first.requested(tries + 1)
        clock.suspend(MOST_TRIES_S + 5)
        answer = await asking
    assert (answer.status, len(first.received), len(second.received)) == (200, tries + 1, 5)
    assert second.received[-1].json() == {**HELLO, "model": "b"}


# --- what the error says of the others, and of a limit ------------------------------------------------------------

RUNS = {"retry": {"on": ["refused", "may_have_run"], "operations": ["chat"]}}
DIGITS = re.compile(r"\d{3}")


@pytest.mark.parametrize(
    ("entry", "last", "why"),
    [
        ({}, "second", "upstream_connect"),
        (RUNS, "third", "upstream_connect"),
        (RUNS, "a page", "upstream_connect"),
    ],
)
async def test_the_error_names_each_target_that_failed(entry, last, why):
    page = [Send(reply(b"<html><title>Bad Gateway</title></html>", 502, content_type="text/html"))]
    second = Scripted(answer=lambda _: page if last == "a page" else error(500))
    with refusing_server() as refuses, refusing_server() as also_refuses:
        async with two(refuses, second, entry) as gp, AsyncExitStack() as started:
            if last == "second":
                upstreams = {"first": {"base_url": refuses}, "second": {"base_url": also_refuses}}
                gp = await started.enter_async_context(gateway(upstreams=upstreams, models=models(*upstreams)))
            answer = await gp.ask().answer()
    said = answer.error["message"]
    assert answer.headers["x-gatepass-hop"] == "upstream:second"
    assert f"Other targets of the model failed too: first ({why})." in said
    assert said.count("first") == 1


async def test_a_target_that_is_kept_away_is_named_and_one_that_works_is_not():
    clock = DrivenClock()
    first, second = Scripted(error(429, retry_after="50")), Scripted(answer=lambda _: error(500))
    async with two(first, second, REFUSED, clock=clock) as gp:
        assert "first (upstream_error)" in (await gp.ask().answer()).error["message"]
        assert "Other targets of the model failed too: first (waits)." in (await gp.ask().answer()).error["message"]
    good = Scripted(GOOD, error(400, "no such thing"))
    async with two(good, Scripted(GOOD), RUNS) as gp:
        await gp.ask().answer()
        assert "Other targets" not in (await gp.ask().answer()).error["message"]


async def test_two_targets_at_one_upstream_and_an_error_of_the_request_name_no_other():
    async with two(Scripted(error(500), error(400, "no such thing")), None, RUNS) as gp:
        gp_models = gp.state.config.models["m"]
        assert len(gp_models.ordered_targets()) == 1
        assert "Other targets" not in (await gp.ask().answer()).error["message"]


LIMITED = "The upstream 'first' sets this limit, not gatepass."


@pytest.mark.parametrize(
    ("wait", "told"),
    [
        ({"retry_after": "12"}, f"{LIMITED} Retry in 12 s."),
        ({"retry_after": "429"}, f"{LIMITED} Retry in 8 min."),
        ({"retry_after": "413000"}, f"{LIMITED} Retry in 5 d."),
        ({"retry_after_ms": "99"}, f"{LIMITED} Retry in 1 s."),
        ({}, LIMITED),
    ],
)
@pytest.mark.parametrize("is_plain", [True, False])
async def test_a_429_says_whose_limit_it_is_and_for_how_long(wait, told, is_plain):
    async with two(Scripted(error(429, "Rate limit exceeded", **wait)), None, {} if is_plain else RUNS) as gp:
        answer = await gp.ask(headers={**JSON, "x-stainless-retry-count": "1"}).answer()
    said = answer.error["message"]
    assert said == f"Rate limit exceeded. {told}"
    assert not DIGITS.search(said)


async def test_all_targets_that_wait_are_named_in_one_error():
    clock = DrivenClock()
    first, second = Scripted(error(429, retry_after="429")), Scripted(error(429, retry_after="600"))
    async with two(first, second, REFUSED, clock=clock) as gp:
        await gp.ask().answer()
        answer = await gp.ask().answer()
    assert answer.error["message"] == "Every target of the model 'm' asked to wait, for at least 8 min: first, second."


TOO_LONG_FOR_RAGFLOW = (
    *("20015", "too long", "too many tokens", "maximum context", "context length", "context_length", "input length"),
    *("token limit", "reduce the length", "maximum allowed"),
)


async def test_no_sentence_about_a_limit_has_a_word_for_which_ragflows_import_shortens_documents():
    """It searches the text of an error for one of these words together with 400, 413 or 422."""
    said = []
    limits = {"tokens": {"minute": 4_000}, "requests": {"minute": 1, "day": 413}, "max_concurrent": 422}
    async with two(Scripted(answer=lambda _: error(429, retry_after="5")), Scripted(error(500)), REFUSED) as gp:
        said += [(await gp.ask().answer()).error["message"] for _ in range(2)]
    async with two(Scripted(answer=lambda _: GOOD), None, {"limits": limits}) as gp:
        for body in ({**HELLO, "max_tokens": 9}, {**HELLO, "max_tokens": 9}, {**HELLO, "max_tokens": 4_130}):
            answer = await gp.ask(body).answer()
            said += [answer.error["message"]] if answer.status != 200 else []
    assert len(said) == 4
    assert not [text for text in said for word in TOO_LONG_FOR_RAGFLOW if word in text.lower()]


async def test_a_target_whose_token_is_missing_and_one_that_is_ejected_are_named():
    with refusing_server() as refuses:
        login = {"type": "oauth2", "token_url": refuses, "client_id": "i", "client_secret": SECRET}
        upstreams = {"first": {"base_url": refuses, "credential": "corp"}, "second": {"base_url": refuses}}
        async with gateway(upstreams=upstreams, models=models(*upstreams), credentials={"corp": login}) as gp:
            assert "too: first (token_unavailable)." in (await gp.ask().answer()).error["message"]
        upstreams = {"first": {"base_url": refuses}, "second": {"base_url": refuses, "credential": "corp"}}
        async with gateway(upstreams=upstreams, models=models(*upstreams), credentials={"corp": login}) as gp:
            answer = await gp.ask().answer()
        assert (answer.status, answer.headers["x-gatepass-hop"]) == (503, "credential:corp")
        assert "too: first (upstream_connect)." in answer.error["message"]
    first, second = Scripted(answer=lambda _: error(500)), Scripted(answer=lambda _: error(500))
    async with two(first, second, {"breaker": {"failures": 2}}) as gp:
        said = [(await gp.ask().answer()).error["message"] for _ in range(3)]
    assert ["Other targets" in one for one in said] == [False, False, True]
    assert said[2].endswith("Other targets of the model failed too: first (ejected).")


@pytest.mark.parametrize("path", [EMBEDDINGS, "/v1/rerank", "/v1/completions", "/v1/messages"])
async def test_a_429_of_every_api_says_whose_limit_it_is(path):
    body = {
        **HELLO,
        "input": ["a", "b"],
        "query": "q",
        "documents": ["d"],
        "prompt": "p",
        "voice": "v",
        "max_tokens": 9,
    }
    async with two(Scripted(answer=lambda _: error(429, "slow down", retry_after="7")), None) as gp:
        answer = await gp.ask(body, path).answer()
    assert answer.error["message"] == f"slow down. {LIMITED} Retry in 7 s."
