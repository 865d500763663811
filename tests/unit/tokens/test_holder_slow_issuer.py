"""An issuer that is slow and well: it is not taken for one that hangs, and asked as seldom as a quick one."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.clock import DrivenClock
from tests.unit.tokens.fleet import Fleet, Upstream
from tests.unit.tokens.scripted import Mint, Stubborn


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
