"""Two processes without a store, whose issuer ends the last token with each new one."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import pytest

from gatepass.clock import sleep
from gatepass.tokens.holder import MAX_RENEWAL_WAIT_S, RENEWALS, WINDOW_S
from tests.unit.clock import DrivenClock
from tests.unit.tokens.fleet import Upstream
from tests.unit.tokens.scripted import Mint, RunningHolder, ScriptedIssuer

TESTED_S = 180.0
LONGEST_FETCH_S = 0.3


class Process:
    """A gatepass process, its own way to the common issuer, and its clients."""

    def __init__(self, clock: DrivenClock, chance: random.Random, minted: list[str], rate: float) -> None:
        replies = (Mint(3600, delay_s=chance.uniform(0.0, LONGEST_FETCH_S)) for _ in range(1000))
        self.issuer = ScriptedIssuer(clock, *replies)
        self.issuer.minted = minted
        self.running = RunningHolder(clock, self.issuer)
        self.upstream = Upstream(self.issuer)
        self.waits_s: list[float] = []
        self._clock, self._chance, self._rate = clock, chance, rate

    async def _ask(self) -> None:
        began_s = self._clock.now()
        await self.upstream.serve(self.running)
        self.waits_s.append(self._clock.now() - began_s)

    async def ask_until(self, end_s: float) -> None:
        async with asyncio.TaskGroup() as asking:
            while self._clock.now() < end_s:
                asking.create_task(self._ask())
                await sleep(self._clock, self._chance.uniform(0.5, 1.5) / self._rate)


@pytest.mark.parametrize(("rate", "seed"), [(1.0, 0), (5.0, 1), (20.0, 2)])
async def test_two_processes_that_end_each_others_token_fail_no_request(rate, seed):
    clock, chance, minted = DrivenClock(), random.Random(seed), list[str]()
    processes = [Process(clock, chance, minted, rate) for _ in range(2)]
    one, two = (process.running for process in processes)
    end_s, asking = clock.now() + TESTED_S, []
    async with one:
        await clock.advance(LONGEST_FETCH_S)
        asking.append(asyncio.create_task(processes[0].ask_until(end_s)))
        await clock.advance(chance.uniform(0.0, 2.0))
        async with two:
            await clock.advance(LONGEST_FETCH_S)
            asking.append(asyncio.create_task(processes[1].ask_until(end_s)))
            await clock.advance(TESTED_S + 5.0)  # the last requests wait too
            await asyncio.gather(*asking)
    for process in processes:
        _, *renewed_s = process.issuer.started_s
        assert process.upstream.lost == 0
        assert max(process.waits_s) < MAX_RENEWAL_WAIT_S + LONGEST_FETCH_S + 1e-6
        assert all(later - earlier > 1.0 - 1e-6 for earlier, later in pairwise(renewed_s))
        windows = zip(renewed_s, renewed_s[RENEWALS:], strict=False)
        assert all(later - earlier > WINDOW_S - 1e-6 for earlier, later in windows)
