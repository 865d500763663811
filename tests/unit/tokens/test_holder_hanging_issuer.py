"""An issuer that takes a fetch and never answers it: its return is noticed within the fetch timeout."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from gatepass.errors import TokenUnavailable
from gatepass.observability.redaction import Redactor
from gatepass.proxy.app_state import FETCH_GRACE_S
from gatepass.tokens import Token, TokenHolder, WaitBudget
from gatepass.tokens.holder import OUTAGE_WAIT_S, WAIT_MARGIN_S
from gatepass.tokens.sharing import MAX_POLL_S, YIELD_LEAD_S
from gatepass.types import Secret
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.fleet import Fleet
from tests.unit.tokens.scripted import (
    Answer,
    Hang,
    IssuerReply,
    Mint,
    RunningHolder,
    ScriptedIssuer,
    oauth2,
    outcomes,
    refused,
)

TIMEOUT_S = 10.0
TURN_S = YIELD_LEAD_S + MAX_POLL_S
"""The time that it takes to let another process lead first."""
OUTAGES_S = (0.1, 1.0, 2.9, 3.1, 5.0, 7.0, 9.0, 9.9, 10.5, 12.0, 13.5, 15.0, 19.0, 23.0, 26.0, 30.0, 60.0)
FAULTS: dict[str, IssuerReply] = {"hangs": Hang(), "dribbles": Answer(pieces=[b" "] * 10_000, every_s=1.0)}
ROTATING: dict[str, Any] = {"grant_type": "refresh_token", "refresh_token": Secret("the-first-refresh-token")}


@asynccontextmanager
async def holding(
    *replies: IssuerReply,
    otherwise: IssuerReply | None = None,
    jitter: float = 0.0,
    grace_s: float = 0.0,
    **settings: Any,
) -> AsyncIterator[RunningHolder]:
    clock = DrivenClock()
    issuer = ScriptedIssuer(clock, *replies, otherwise=otherwise)
    async with RunningHolder(
        clock, issuer, oauth2(**{"timeout_s": TIMEOUT_S, **settings}), jitter=jitter, grace_s=grace_s
    ) as it:
        await settle()
        yield it


async def leave_without(it: RunningHolder, state: str) -> None:
    """No request has a token any more, and the fetch of the next one hangs."""
    if state == "ended":
        it.clock.suspend(296.0)
    elif state == "ended in a refresh":
        await it.clock.advance(295.0)
    await settle()


@pytest.mark.parametrize("jitter", [0.0, 1.0])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("state", ["none yet", "ended", "ended in a refresh"])
async def test_its_return_is_noticed_within_the_fetch_timeout_whenever_it_comes(state, fault, jitter):
    for outage_s in OUTAGES_S:
        before = () if state == "none yet" else (Mint(),)
        async with holding(*before, otherwise=FAULTS[fault], jitter=jitter) as it:
            await leave_without(it, state)
            await it.clock.advance(outage_s)
            assert not it.holder.usable
            it.issuer.otherwise = Mint()
            await it.clock.advance(TIMEOUT_S)
            assert it.holder.usable, outage_s


@pytest.mark.parametrize("timeout_s", [10.0, 8.9, 4.0, 1.0, 30.0])
async def test_hanging_issuer_receives_one_fetch_at_a_time(timeout_s):
    async with holding(otherwise=Hang(), timeout_s=timeout_s) as it:
        for _ in range(240):
            await it.asked(1)
            await it.clock.advance(0.5)
            assert it.issuer.under_way <= 1
        gaps = [late - early for early, late in zip(it.issuer.started_s, it.issuer.started_s[1:], strict=False)]
        assert gaps
        assert max(2.0, timeout_s) - 1e-6 <= min(gaps)
        assert max(gaps) <= max(2.0, timeout_s) + 1e-6
    await settle()


@pytest.mark.parametrize("arrives_s", [4.05, 4.2, 4.6, 5.5, 7.0, 8.05, 8.3, 12.0])
async def test_a_request_waits_a_second_after_the_first_fetch_of_a_hanging_issuer_failed(arrives_s):
    async with holding(otherwise=Hang(), timeout_s=4.0, grace_s=FETCH_GRACE_S) as it:
        await it.clock.advance(arrives_s)
        (task,) = await it.asked(1)
        await it.clock.advance(OUTAGE_WAIT_S)
        assert task.done()
        assert await outcomes([task]) == ["TokenUnavailable"]


@pytest.mark.parametrize("arrives_s", [1.0, 3.9, 4.2, 6.0])
async def test_a_quick_try_that_hangs_keeps_no_request_beyond_the_bound_of_its_fetch(arrives_s):
    slow_failure = Answer(503, b"{}", delay_s=3.5)
    async with holding(slow_failure, otherwise=Hang(), timeout_s=4.0, grace_s=FETCH_GRACE_S) as it:
        await it.clock.advance(arrives_s)
        (task,) = await it.asked(1)
        await it.clock.advance(max(OUTAGE_WAIT_S, 4.0 + FETCH_GRACE_S + WAIT_MARGIN_S - arrives_s))
        assert task.done()
        assert await outcomes([task]) == ["TokenUnavailable"]


async def test_slow_answer_is_awaited_by_one_fetch():
    async with holding(otherwise=Mint(delay_s=9.9)) as it:
        tasks = await it.asked(10)
        await it.clock.advance(9.9)
        assert await outcomes(tasks) == ["token-1"] * 10
        assert it.issuer.calls == 1


async def test_a_rejection_in_a_refresh_that_hangs_waits_for_it():
    async with holding(Mint(), Hang()) as it:
        await it.clock.advance(241.0)
        assert it.holder.reject("token-1")
        tasks = await it.asked(5, instead_of="token-1")
        await it.clock.advance(8.9)
        assert it.issuer.calls == 2
        await it.clock.advance(0.2)
        assert it.issuer.calls == 3
        assert await outcomes(tasks) == ["TokenUnavailable"] * 5
        assert it.holder.usable


class OnSignal:
    """Fetches that all come to their end in the same moment, the one asked last with its token first or last."""

    def __init__(self, clock: DrivenClock) -> None:
        self.clock = clock
        self.signal = asyncio.Event()
        self.begun = 0

    def secrets(self) -> tuple[Secret, ...]:
        return ()

    async def fetch(self) -> Token:
        self.begun += 1
        text, born_s = f"token-{self.begun}", self.clock.now()
        await self.signal.wait()
        return Token(Secret(text), born_s, 300.0)


@dataclass
class Odd:
    """A started holder over such a source."""

    clock: DrivenClock
    source: OnSignal
    holder: TokenHolder


@pytest.fixture
async def odd() -> AsyncIterator[Odd]:
    clock = DrivenClock()
    source = OnSignal(clock)
    holder = TokenHolder("odd", source, clock, Redactor(), WaitBudget(10.0, random_fraction=lambda: 0.0))
    holder.start()
    yield Odd(clock, source, holder)
    await holder.aclose()


async def test_closed_holder_ignores_a_late_token(odd):
    await odd.clock.advance(4.0)
    odd.source.signal.set()
    await odd.holder.aclose()
    assert odd.holder.current() is None


async def test_source_without_a_limit_is_named_at_the_timeout(odd):
    task = asyncio.create_task(odd.holder.token())
    await odd.clock.advance(10.3)
    with pytest.raises(TokenUnavailable, match="within 10 s"):
        await task
    assert odd.source.begun == 1


async def test_a_slow_refusal_is_not_retried_early():
    async with holding(otherwise=Answer(401, b'{"error": "invalid_client"}', delay_s=4.0)) as it:
        await it.clock.advance(33.9)
        assert it.issuer.calls == 1
        await it.clock.advance(0.2)
        assert it.issuer.calls == 2
        await it.clock.advance(4.0 + 59.0)
        assert it.issuer.calls == 2


async def test_wrong_secret_is_sent_once_per_pause_if_the_issuer_then_hangs():
    async with holding(refused(), otherwise=Hang()) as it:
        await it.clock.advance(39.9)
        assert it.issuer.calls == 2


async def test_a_refresh_token_is_never_in_flight_twice():
    async with holding(otherwise=Hang(), **ROTATING) as it:
        for _ in range(120):
            await it.asked(1)
            await it.clock.advance(0.5)
            assert it.issuer.under_way <= 1
        assert all(b"the-first-refresh-token" in request.body for request in it.issuer.requests)
        it.issuer.otherwise = Mint(more={"refresh_token": "the-second"})
        await it.clock.advance(14.0)
        assert it.holder.usable
        calls = it.issuer.calls
        await it.clock.advance(30.0)
        assert it.issuer.calls == calls


async def test_a_refresh_token_is_used_once_though_its_answer_takes_long():
    new = {"refresh_token": "the-next"}
    async with holding(Mint(delay_s=4.0, more=new), otherwise=Mint(more=new), **ROTATING) as it:
        await it.clock.advance(60.0)
        assert it.holder.usable
        assert it.issuer.calls == 1


async def test_during_a_fetch_the_status_has_no_next_attempt():
    async with holding(otherwise=Hang()) as it:
        await it.clock.advance(1.0)
        status = it.holder.status()
        assert (status.refreshing, status.failing, status.next_try_in_s) == (True, False, None)
        await it.clock.advance(9.5)
        status = it.holder.status()
        assert (status.refreshing, status.failing, status.next_try_in_s) == (True, True, None)


@pytest.mark.parametrize("outage_s", OUTAGES_S)
@pytest.mark.parametrize("processes", [1, 4])
async def test_the_processes_that_share_a_store_notice_its_return_within_the_fetch_timeout(processes, outage_s):
    issuer = ScriptedIssuer(DrivenClock(), otherwise=Hang())
    async with Fleet(issuer, processes, jitter=0.5) as fleet:
        await fleet.clock.advance(outage_s)
        issuer.otherwise = Mint()
        await fleet.clock.advance(TIMEOUT_S + TURN_S)
        assert None not in fleet.texts


@pytest.mark.parametrize("outage_s", OUTAGES_S)
async def test_processes_notice_a_recovery_after_the_leader_died(outage_s):
    issuer = ScriptedIssuer(DrivenClock(), otherwise=Hang())
    async with Fleet(issuer, 4, jitter=0.5) as fleet:
        await fleet.clock.advance(outage_s / 2)
        await fleet.kill(next(replica for replica in fleet.replicas if replica.asks))
        await fleet.clock.advance(outage_s / 2)
        issuer.otherwise = Mint()
        await fleet.clock.advance(TIMEOUT_S + TURN_S)
        assert None not in fleet.texts


@pytest.mark.parametrize("reply", [Hang(), Mint(delay_s=12.0), Mint(delay_s=8.0)], ids=["hangs", "too slow", "slow"])
async def test_the_processes_that_share_a_store_ask_little_more_often_than_one_would(reply):
    async def calls(replicas: int) -> int:
        issuer = ScriptedIssuer(DrivenClock(), otherwise=reply)
        async with Fleet(issuer, count=replicas, jitter=0.5) as fleet:
            await fleet.clock.advance(60.0)
        return issuer.calls

    assert await calls(8) <= 1.5 * await calls(1)
