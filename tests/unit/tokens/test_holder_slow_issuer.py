"""An issuer that is slow and well: it is not taken for one that hangs, and asked as seldom as a quick one."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.clock import DrivenClock
from tests.unit.tokens.fleet import Fleet, Upstream
from tests.unit.tokens.scripted import Mint, ScriptedIssuer, Stubborn


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("delay_s", [4.0, 8.0])
async def test_each_lifetime_causes_one_call(delay_s, processes):
    issuer = ScriptedIssuer(DrivenClock(), otherwise=Mint(delay_s=delay_s))
    async with Fleet(issuer, processes, jitter=0.5) as fleet:
        await fleet.clock.advance(60.0)
        assert fleet.texts == ["token-1"] * processes
        assert issuer.calls == 1
        await fleet.clock.advance(540.0)
        assert issuer.calls == 3
        assert len(set(fleet.texts)) == 1
        assert [replica.holder.status().failures for replica in fleet.replicas] == [0] * processes


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


async def test_a_process_that_found_its_token_asks_a_slow_issuer_once():
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
