from __future__ import annotations

import asyncio

import pytest

from gatepass.tokens.holder import Waiters
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.scripted import cancelled_at_each_await


async def test_wake_ends_the_wait_of_all():
    waiters = Waiters(DrivenClock())
    tasks = [asyncio.create_task(waiters.wait(10.0)) for _ in range(5)]
    await settle()
    assert len(waiters) == 5
    waiters.wake()
    await asyncio.gather(*tasks)
    assert len(waiters) == 0


async def test_a_waiter_that_was_woken_or_left_leaves_no_timer():
    clock = DrivenClock()
    waiters = Waiters(clock)
    tasks = [asyncio.create_task(waiters.wait(10.0)) for _ in range(2)]
    await settle()
    tasks[0].cancel()
    waiters.wake()
    await asyncio.wait(tasks)
    assert not clock.has_timers


async def test_a_waiter_may_be_cancelled_at_each_await():
    clock = DrivenClock()
    waiters = Waiters(clock)

    def check() -> None:
        assert (len(waiters), clock.has_timers) == (0, False)

    with pytest.raises(AssertionError, match="never came to its end"):
        await cancelled_at_each_await(lambda: waiters.wait(10.0), check, most=10)


async def test_a_wait_ends_at_its_bound():
    clock = DrivenClock()
    waiters = Waiters(clock)
    task = asyncio.create_task(waiters.wait(10.0))
    await clock.advance(9.9)
    assert not task.done()
    await clock.advance(0.1)
    assert task.done()
    assert len(waiters) == 0


async def test_waiter_that_leaves_at_the_wake_is_not_woken():
    waiters = Waiters(DrivenClock())
    tasks = [asyncio.create_task(waiters.wait(10.0)) for _ in range(3)]
    await settle()
    tasks[1].cancel()
    waiters.wake()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), asyncio.CancelledError, type(None)]


async def test_two_thousand_waiters_that_leave_at_once_delay_no_other():
    waiters = Waiters(DrivenClock())
    leaving = [asyncio.create_task(waiters.wait(10.0)) for _ in range(2000)]
    staying = asyncio.create_task(waiters.wait(10.0))
    await settle(3)
    for task in leaving:
        task.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(waiters) == 1
    waiters.wake()
    await staying
    with pytest.raises(asyncio.CancelledError):
        await leaving[0]
