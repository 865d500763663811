"""The clock and sleeps."""

import asyncio

from gatepass.clock import SystemClock, sleep
from tests.unit.clock import DrivenClock


async def test_sleep_returns_after_its_delay():
    clock = DrivenClock()
    task = asyncio.create_task(sleep(clock, 3.0))
    await clock.advance(2.9)
    assert not task.done()
    await clock.advance(0.1)
    assert task.done()


async def test_the_system_clock_grows_and_calls_back():
    clock = SystemClock()
    called = asyncio.Event()
    before = clock.now()
    clock.call_later(0.0, called.set)
    await asyncio.wait_for(called.wait(), 5)
    assert clock.now() >= before
    assert clock.wall() > 1_500_000_000
