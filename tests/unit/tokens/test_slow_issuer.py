"""An issuer that is slow and well: it is not taken for one that hangs, and asked as seldom as a quick one."""

from __future__ import annotations

import asyncio

import pytest

from gatepass.tokens.backoff import SILENCE_S
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.fleet import Fleet, Upstream
from tests.unit.tokens.scripted import Hang, Kept, Mint, ScriptedIssuer, Stubborn, answer, oauth2

FIRST_CALLS = 4
"""Before anybody knows that it is slow: the first fetch, what goes along with it, and another process beside it."""


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("delay_s", [4.0, 6.0, 8.0])
async def test_it_costs_a_few_calls_at_the_start_and_then_one_for_each_life(delay_s, processes):
    issuer = ScriptedIssuer(DrivenClock(), otherwise=Mint(delay_s=delay_s))
    async with Fleet(issuer, processes, jitter=0.5) as fleet:
        await fleet.clock.advance(60.0)
        assert fleet.texts == ["token-1"] * processes
        assert issuer.calls <= FIRST_CALLS
        first_calls = issuer.calls
        await fleet.clock.advance(540.0)
        assert issuer.calls == first_calls + 2
        assert len(set(fleet.texts)) == 1
        assert [replica.holder.status().failures for replica in fleet.replicas] == [0] * processes


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("delay_s", [4.0, 6.0, 8.0])
async def test_where_its_new_token_ends_the_old_one_every_request_is_served(delay_s, processes):
    """One refusal for each process, of the token that came first; after it the issuer is known for slow."""
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
        assert issuer.calls <= 2 * FIRST_CALLS + 3


async def test_a_process_that_found_its_token_knows_from_it_that_the_issuer_is_slow():
    issuer = ScriptedIssuer(DrivenClock(), otherwise=Mint(delay_s=6.0))
    async with Fleet(issuer, 1) as fleet:
        await fleet.clock.advance(60.0)
        late = await fleet.join()
        assert late.text == "token-1"
        await fleet.kill(fleet.replicas[0])
        calls = issuer.calls
        assert late.holder.reject("token-1")
        await fleet.clock.advance(7.0)
        assert (late.text, issuer.calls) == ("token-2", calls + 1)


async def test_refusals_by_one_process_wait_for_the_refresh_of_another_for_five_seconds():
    """It holds a token itself and is in no hurry; who has none asks beside it."""
    issuer = ScriptedIssuer(DrivenClock(), Mint(), Hang())
    async with Fleet(issuer, 2) as fleet:
        await fleet.clock.advance(241.0)
        waiting = next(replica for replica in fleet.replicas if not replica.asks)
        assert waiting.holder.reject("token-1")
        await fleet.clock.advance(3.9)
        assert issuer.calls == 2
        await fleet.clock.advance(1.2)
        assert fleet.texts == ["token-2"] * 2
        assert issuer.calls == 3


@pytest.mark.parametrize("first", ["hung", "stalled"])
@pytest.mark.parametrize("state", ["ended", "refused"])
async def test_a_recovery_from_one_hang_does_not_spoil_the_next(state, first):
    """The first attempt was answered after 9 s, because the issuer came back then."""
    clock = DrivenClock()
    turns = [Mint(60, delay_s=9.0), *[Hang()] * 3] if first == "stalled" else [Hang(), Hang(), Hang(), Hang()]
    issuer = ScriptedIssuer(clock, *turns, otherwise=Mint(60))
    async with Kept(clock, issuer, oauth2(timeout_s=10.0)) as it:
        await clock.advance(9.5)
        assert issuer.minted == ["token-1"]
        issuer.turns.clear()
        issuer.otherwise = Hang()
        if state == "refused":
            assert it.holder.reject("token-1")
        else:
            clock._now += 58.0  # the machine slept
        await settle()
        await clock.advance(SILENCE_S + 0.5)
        assert it.holder.fresh() is None
        issuer.otherwise = Mint(60)
        await clock.advance(4.0)
        assert it.holder.usable


async def test_a_machine_that_slept_in_a_fetch_learns_nothing_from_it():
    clock = DrivenClock()
    issuer = ScriptedIssuer(clock, Mint(3600, delay_s=1.0), Mint(30_000, delay_s=1.0), otherwise=Hang())
    async with Kept(clock, issuer, oauth2(timeout_s=10.0, max_ttl_s=86_400)) as it:
        await clock.advance(2_880.5)
        assert issuer.calls == 2
        clock._now += 7_200.0
        await clock.advance(0.5)
        assert (it.holder.usable, issuer.minted) == (True, ["token-1", "token-2"])
        assert it.holder.reject("token-2")
        await clock.advance(SILENCE_S + 0.1)
        assert issuer.calls == 4


async def test_an_issuer_that_answers_each_try_is_not_silent():
    """503 after 0.8 s each, in one flight of four tries."""
    clock = DrivenClock()
    issuer = ScriptedIssuer(clock, otherwise=answer({"error": "temporarily_unavailable"}, 503, delay_s=0.8))
    async with Kept(clock, issuer, oauth2()) as it:
        await settle()
        began_s = issuer.started_s[0]
        await clock.advance(4.8)
        assert [round(each - began_s, 1) for each in issuer.started_s] == [0.0, 1.0, 2.3, 4.1]
        assert it.holder.status().failing is False
        await clock.advance(0.2)
        assert it.holder.status().failing


async def test_the_silence_of_a_later_try_is_counted_from_its_own_beginning():
    clock = DrivenClock()
    issuer = ScriptedIssuer(clock, *[answer({}, 503, delay_s=0.8)] * 2, otherwise=Hang())
    async with Kept(clock, issuer, oauth2()) as it:
        await clock.advance(2.3 + SILENCE_S - 0.1)
        assert (issuer.calls, it.holder.status().failing) == (3, False)
        await clock.advance(0.2)
        assert (issuer.calls, it.holder.status().failing) == (4, True)
