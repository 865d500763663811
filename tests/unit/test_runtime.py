import asyncio

import pytest

from gatepass.cancel import CancelScope, Tasks, timeout
from gatepass.clock import PeriodicChecks, SystemClock, sleep
from tests.unit.clock import DrivenClock, settle


class Left(Exception):
    pass


async def held(leash):
    with leash:
        await asyncio.Event().wait()


async def test_a_pulled_leash_ends_the_block_with_its_reason():
    leash = CancelScope()
    reason = Left()
    task = asyncio.create_task(held(leash))
    await settle()
    leash.cancel(reason)
    with pytest.raises(Left) as caught:
        await task
    assert caught.value is reason
    assert task.cancelling() == 0


async def test_the_first_reason_wins():
    leash = CancelScope()
    task = asyncio.create_task(held(leash))
    await settle()
    first = Left("first")
    leash.cancel(first)
    leash.cancel(Left("second"))
    with pytest.raises(Left, match="first"):
        await task


async def test_a_cancellation_from_outside_stays_a_cancellation():
    leash = CancelScope()
    task = asyncio.create_task(held(leash))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_leash_pulled_after_its_block_ends_nobody():
    leash = CancelScope()
    with leash:
        pass
    leash.cancel(Left())
    await settle()
    assert leash.reason is None


async def test_cleanup_inside_the_block_can_await_after_the_pull():
    leash = CancelScope()
    closed = []

    async def work():
        with leash:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                closed.append(True)

    task = asyncio.create_task(work())
    await settle()
    leash.cancel(Left())
    with pytest.raises(Left):
        await task
    assert closed == [True]


def test_a_leash_outside_a_task_is_refused():
    with pytest.raises(RuntimeError):
        CancelScope().__enter__()


async def test_timeout_raises_its_reason_at_its_moment_and_not_before():
    clock = DrivenClock()
    task = asyncio.create_task(timeout(clock, 5.0, asyncio.Event().wait(), Left()))
    await clock.advance(4.9)
    assert not task.done()
    await clock.advance(0.1)
    with pytest.raises(Left):
        await task


async def test_timeout_gives_the_result_and_leaves_no_timer_behind():
    clock = DrivenClock()

    async def answer():
        return 42

    assert await timeout(clock, 5.0, answer(), Left()) == 42
    await clock.advance(10.0)


async def test_sleep_returns_when_the_clock_says_so():
    clock = DrivenClock()
    task = asyncio.create_task(sleep(clock, 3.0))
    await clock.advance(2.9)
    assert not task.done()
    await clock.advance(0.1)
    assert task.done()


async def test_tasks_end_with_their_owner():
    tasks = Tasks()
    ended = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    tasks.spawn(work(), "work")
    await settle()
    await tasks.aclose()
    assert ended == [True]


async def test_the_system_clock_grows_and_calls_back():
    clock = SystemClock()
    called = asyncio.Event()
    before = clock.now()
    clock.call_later(0.0, called.set)
    await asyncio.wait_for(called.wait(), 5)
    assert clock.now() >= before
    assert clock.wall() > 1_500_000_000


class Member:
    def __init__(self):
        self.looks = 0

    def check(self):
        self.looks += 1


class Timers(DrivenClock):
    """Counts what is set."""

    count = 0

    def call_later(self, delay_s, callback):
        self.count += 1
        return super().call_later(delay_s, callback)


async def test_a_thousand_members_are_looked_at_in_every_round_from_one_timer():
    clock, members = Timers(), [Member() for _ in range(1000)]
    rounds = PeriodicChecks(clock, 2)
    for member in members:
        rounds.add(member)
        rounds.add(member)
    assert (clock.count, len(rounds)) == (1, 1000)
    await clock.advance(7)
    assert {member.looks for member in members} == {3}
    assert clock.count == 4


async def test_who_has_left_is_not_looked_at_and_without_members_no_round_is_made():
    clock, stays, leaves = Timers(), Member(), Member()
    rounds = PeriodicChecks(clock, 2)
    rounds.add(stays)
    rounds.add(leaves)
    rounds.remove(leaves)
    rounds.remove(leaves)
    await clock.advance(2)
    rounds.remove(stays)
    await clock.advance(100)
    assert (stays.looks, leaves.looks, clock.count, len(rounds)) == (1, 0, 2, 0)
    rounds.add(stays)
    await clock.advance(2)
    assert (stays.looks, clock.count) == (2, 4)


async def test_members_may_come_and_go_while_they_are_looked_at():
    clock, late = DrivenClock(), Member()
    rounds = PeriodicChecks(clock, 2)

    class Leaving(Member):
        def check(self):
            super().check()
            rounds.remove(self)
            rounds.add(late)

    first, second = Leaving(), Leaving()
    rounds.add(first)
    rounds.add(second)
    await clock.advance(2)
    assert (first.looks, second.looks, late.looks) == (1, 1, 0)
    await clock.advance(2)
    assert (first.looks, second.looks, late.looks) == (1, 1, 1)
