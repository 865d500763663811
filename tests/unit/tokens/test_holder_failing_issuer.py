"""An issuer that fails, hangs or is slow: what requests get, how often it is called, when its return is noticed."""

import asyncio
from itertools import pairwise

import pytest

from gatepass.errors import TokenUnavailable
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.fleet import Fleet, Upstream
from tests.unit.tokens.scripted import (
    Answer,
    Broken,
    Hang,
    IssuerReply,
    Mint,
    Stubborn,
    answer,
    kept,
    outcomes,
    refused,
)

FAULTS: dict[str, IssuerReply] = {
    "down": Broken(),
    "hangs": Hang(),
    "dribbles": Answer(pieces=[b" "] * 10_000, every_s=1.0),
    "500": answer({}, 500),
    "dead on arrival": answer({"access_token": "dead", "expires_in": -2}),
    "429": answer({"msg": "slow down"}, 429),
    "refused": refused(),
}
PASSING = ("down", "hangs", "dribbles", "500", "dead on arrival")


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_good_token_is_used_to_its_end_and_a_dead_one_never(fault):
    async with kept(Mint(), otherwise=FAULTS[fault], timeout_s=10.0) as it:
        for _ in range(59):
            assert await outcomes(await it.asked(1)) == ["token-1"]
            await it.clock.advance(4.9999)
        assert it.issuer.calls > 1
        await it.clock.advance(1.1)
        for _ in range(10):
            tasks = await it.asked(50)
            await it.clock.advance(1.0)
            assert await outcomes(tasks) == ["TokenUnavailable"] * 50
            error = tasks[0].exception()
            assert isinstance(error, TokenUnavailable)
            assert "sso.example" in error.message
            assert 1.0 <= (error.retry_after_s or 0.0) <= 300.0


@pytest.mark.parametrize("state", ["none yet", "ended", "ended in a refresh"])
@pytest.mark.parametrize("fault", PASSING)
async def test_its_return_is_noticed_in_time_without_traffic(fault, state):
    """Within 4 s of the return of an issuer that fails, within the fetch timeout of one that hangs."""
    hangs = fault in ("hangs", "dribbles")
    for outage_s in (0.1, 2.9, 9.9, 10.5, 15.0, 26.0) if hangs else (0.0, 0.7, 1.4, 2.1, 2.8, 17.7):
        before = [] if state == "none yet" else [Mint()]
        async with kept(*before, otherwise=FAULTS[fault], jitter=1.0, timeout_s=10.0) as it:
            await settle()
            if state == "ended":
                it.clock.suspend(296.0)
            elif state == "ended in a refresh":
                await it.clock.advance(295.0)
            await it.clock.advance(outage_s)
            assert not it.holder.usable
            it.issuer.otherwise = Mint()
            await it.clock.advance(10.0 if hangs else 4.0)
            assert it.holder.usable, outage_s


@pytest.mark.parametrize("fault", PASSING)
async def test_it_is_not_hammered_and_has_one_request_at_a_time(fault):
    async with kept(otherwise=FAULTS[fault], timeout_s=10.0) as it:
        for _ in range(120):
            await it.asked(2)
            await it.clock.advance(0.5)
            assert it.issuer.under_way <= 1
        assert it.issuer.calls <= 4 + 60 / 2
        gaps = [late - early for early, late in pairwise(it.issuer.started_s[4:])]
        assert not gaps or min(gaps) >= 2.0


@pytest.mark.parametrize("fault", ["hangs", "dribbles"])
async def test_a_cold_request_waits_for_a_hanging_fetch_and_later_ones_one_second(fault):
    async with kept(otherwise=FAULTS[fault], timeout_s=10.0) as it:
        tasks = await it.asked(50)
        await it.clock.advance(9.9)
        assert not any(task.done() for task in tasks)
        await it.clock.advance(0.2)
        assert await outcomes(tasks) == ["TokenUnavailable"] * 50
        assert "sent no complete answer within 10 s" in str(tasks[0].exception())
        later = await it.asked(50)
        await it.clock.advance(1.0)
        assert await outcomes(later) == ["TokenUnavailable"] * 50


async def test_two_faults_and_then_a_token_lose_no_request():
    async with kept(answer({}, 500), Broken()) as it:
        tasks = await it.asked(50)
        await it.clock.advance(0.7)
        assert await outcomes(tasks) == ["token-1"] * 50
        assert it.issuer.started_s == [1000.0, 1000.2, 1000.7]


async def test_four_tries_that_fail_slowly_are_one_fetch():
    async with kept(otherwise=answer({"error": "temporarily_unavailable"}, 503, delay_s=0.8)) as it:
        await it.clock.advance(4.8)
        assert [round(each - 1000.0, 1) for each in it.issuer.started_s] == [0.0, 1.0, 2.3, 4.1]
        assert it.holder.status().failing is False
        await it.clock.advance(0.2)
        assert it.holder.status().failing
    async with kept(otherwise=answer({"error": "temporarily_unavailable"}, 503, delay_s=1.1)) as it:
        tasks = await it.asked(1)
        await it.clock.advance(1.1)
        assert await outcomes(tasks) == ["TokenUnavailable"], "the reason is told before another slow try"


async def test_retry_after_is_obeyed_for_all_waiting_requests_and_reaches_them():
    async with kept(otherwise=answer({}, 429, (b"retry-after", b"20"))) as it:
        for second in range(19):
            tasks = await it.asked(50)
            await it.clock.advance(1.0)
            assert await outcomes(tasks) == ["TokenUnavailable"] * 50
            assert getattr(tasks[0].exception(), "retry_after_s", None) == 20.0 - second
        assert it.issuer.calls == 1
        it.issuer.otherwise = Mint()
        await it.clock.advance(1.1)
        assert it.holder.usable


async def test_a_token_that_dies_on_its_way_is_named_and_a_slow_one_is_awaited_by_one_fetch():
    async with kept(otherwise=Mint(2, delay_s=3.0), timeout_s=10.0) as it:
        tasks = await it.asked(1)
        await it.clock.advance(3.0)
        assert await outcomes(tasks) == ["TokenUnavailable"]
        assert "expired on arrival: 2.0 s of lifetime, and fetching it took 3.0 s" in str(tasks[0].exception())
    async with kept(otherwise=Mint(delay_s=9.9), timeout_s=10.0) as it:
        tasks = await it.asked(10)
        await it.clock.advance(9.9)
        assert await outcomes(tasks) == ["token-1"] * 10
        assert it.issuer.calls == 1


async def test_a_rejection_joins_a_refresh_in_progress_and_keeps_to_the_backoff():
    async with kept(Mint(), Hang(), timeout_s=10.0) as it:
        await it.clock.advance(241.0)
        assert it.holder.reject("token-1")
        tasks = await it.asked(5, instead_of="token-1")
        assert (await it.holder.token()).text == "token-1", "only the rejecting requests wait"
        await it.clock.advance(8.9)
        assert it.issuer.calls == 2
        await it.clock.advance(0.2)
        assert it.issuer.calls == 3
        assert await outcomes(tasks) == ["TokenUnavailable"] * 5
        assert it.holder.usable
    async with kept(Mint(), otherwise=answer({}, 503, (b"retry-after", b"30"))) as it:
        await it.clock.advance(241.0)
        calls = it.issuer.calls
        assert it.holder.reject("token-1")
        assert await outcomes(await it.asked(20, instead_of="token-1")) == ["TokenUnavailable"] * 20
        assert it.issuer.calls == calls


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("delay_s", [4.0, 8.0])
async def test_every_request_is_served_if_a_new_token_ends_the_old_one(delay_s, processes):
    """One refusal for each process and life at most, before it knows the new token."""
    issuer = Stubborn(DrivenClock(), otherwise=Mint(delay_s=delay_s))
    upstream = Upstream(issuer)
    async with Fleet(issuer, processes, jitter=0.5) as fleet:
        requests = []
        for second in range(600):
            requests.append(asyncio.create_task(upstream.serve(fleet.replicas[second % processes])))
            await fleet.clock.advance(1.0)
        await fleet.clock.advance(30.0)
        assert [str(each.exception()) for each in requests if each.exception()] == []
        assert (upstream.served, upstream.lost) == (600, 0)
        assert upstream.refused <= 2 * processes
        assert issuer.calls == 3
