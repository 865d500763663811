from __future__ import annotations

import asyncio

import pytest

from gatepass.call import Secret
from gatepass.runtime import sleep
from gatepass.tokens import FetchFailure, Token
from gatepass.tokens.counted import Counted, counted
from tests.unit.clock import DrivenClock, settle


class Slow:
    """Takes two seconds; `fails` says for what."""

    def __init__(self, clock: DrivenClock) -> None:
        self.clock = clock
        self.fails = False

    def secrets(self) -> tuple[Secret, ...]:
        return (Secret("s3cr3t"),)

    async def fetch(self) -> Token:
        born_s = self.clock.now()
        await sleep(self.clock, 2.0)
        if self.fails:
            raise FetchFailure("no")
        return Token(Secret("abc"), born_s, 300.0)


async def test_each_fetch_is_counted_when_it_ends_however_it_ends():
    clock = DrivenClock(now=0.0)
    slow = Slow(clock)
    source = Counted(slow, clock)
    minted, given_up = asyncio.create_task(source.fetch()), asyncio.create_task(source.fetch())
    await settle()
    assert source.fetches == 0
    given_up.cancel()
    await settle()
    assert source.fetches == 1
    await clock.advance(2.0)
    assert (source.fetches, minted.result().took_s) == (2, 2.0)
    slow.fails = True
    failed = asyncio.create_task(source.fetch())
    await clock.advance(2.0)
    with pytest.raises(FetchFailure):
        await failed
    assert source.fetches == 3


def test_what_counts_already_is_not_counted_twice():
    clock = DrivenClock()
    once = counted(Slow(clock), clock)
    assert counted(once, clock) is once
    assert [secret.reveal() for secret in once.secrets()] == ["s3cr3t"]
