"""Cancel scopes, timeouts and owned tasks."""

import asyncio

import pytest

from gatepass.cancel import CancelScope, timeout
from tests.unit.clock import DrivenClock, settle


class Reason(Exception):
    pass


async def wait_in(scope):
    with scope:
        await asyncio.Event().wait()


async def test_a_cancellation_from_outside_stays_a_cancellation():
    scope = CancelScope()
    task = asyncio.create_task(wait_in(scope))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cleanup_inside_the_block_can_await_after_the_cancellation():
    scope = CancelScope()
    closed = []

    async def work():
        with scope:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                closed.append(True)

    task = asyncio.create_task(work())
    await settle()
    scope.cancel(Reason())
    with pytest.raises(Reason):
        await task
    assert closed == [True]


async def test_timeout_raises_its_reason_on_time_and_not_before():
    clock = DrivenClock()
    task = asyncio.create_task(timeout(clock, 5.0, asyncio.Event().wait(), Reason()))
    await clock.advance(4.9)
    assert not task.done()
    await clock.advance(0.1)
    with pytest.raises(Reason):
        await task
