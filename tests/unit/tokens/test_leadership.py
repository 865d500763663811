from __future__ import annotations

from contextlib import AsyncExitStack

from gatepass.store.memory import MemoryStore
from gatepass.tokens.backoff import PROBE_S
from gatepass.tokens.leadership import PROLONGED_S, Leadership
from tests.unit.clock import DrivenClock

NAME = "token-lease/v1/x"


class Process:
    def __init__(self, store: MemoryStore, clock: DrivenClock) -> None:
        self.leadership = Leadership(store, clock, 10.0)

    async def asks(self, stack: AsyncExitStack, place: object) -> bool:
        """Whether a fetch may ask now; it goes on asking until `stack` is closed."""
        return await stack.enter_async_context(self.leadership.of(NAME, place)) is not None


async def test_one_process_asks_and_of_its_fetches_the_second_a_while_later():
    clock = DrivenClock()
    store = MemoryStore(clock)
    one, other = Process(store, clock), Process(store, clock)
    async with AsyncExitStack() as stack:
        first, second, third = (stack.enter_context(each.leadership.waiting()) for each in (one, one, other))
        assert await one.asks(stack, first)
        assert [process.leadership.is_ours for process in (one, other)] == [True, False]
        assert not await one.asks(stack, second)
        assert not await other.asks(stack, third)
        await clock.advance(PROBE_S)
        assert await one.asks(stack, second)
        assert not await other.asks(stack, third)
    async with AsyncExitStack() as stack:
        assert await other.asks(stack, stack.enter_context(other.leadership.waiting()))


async def test_a_fetch_that_hangs_leads_for_a_while_and_then_it_is_anothers_turn():
    clock = DrivenClock()
    store = MemoryStore(clock)
    one, other = Process(store, clock), Process(store, clock)
    async with AsyncExitStack() as stack:
        first, third = (stack.enter_context(each.leadership.waiting()) for each in (one, other))
        assert await one.asks(stack, first)
        await clock.advance(PROLONGED_S)
        assert not await other.asks(stack, third)
        await clock.advance(2.6)
        assert await other.asks(stack, third)
        await clock.advance(1.5)
        second = stack.enter_context(one.leadership.waiting())
        assert not await one.asks(stack, second), "the lead of its first is over"


async def test_the_oldest_that_waits_is_the_one_that_leads():
    """A newer one is given up soon, and an issuer that takes its time would never be heard."""
    clock = DrivenClock()
    one = Process(MemoryStore(clock), clock)
    async with AsyncExitStack() as stack:
        first, second = (stack.enter_context(one.leadership.waiting()) for _ in range(2))
        assert not await one.asks(stack, second)
        assert await one.asks(stack, first)


async def test_a_second_that_hangs_too_does_not_stand_before_those_that_come_after_it():
    clock = DrivenClock()
    one = Process(MemoryStore(clock), clock)
    async with AsyncExitStack() as stack:
        first, second = (stack.enter_context(one.leadership.waiting()) for _ in range(2))
        assert await one.asks(stack, first)
        await clock.advance(PROBE_S)
        assert await one.asks(stack, second)
        await clock.advance(PROLONGED_S + 4.0)
        assert await one.asks(stack, stack.enter_context(one.leadership.waiting()))


async def test_of_a_fetch_that_ended_nobody_waits_for_the_place():
    clock = DrivenClock()
    one = Process(MemoryStore(clock), clock)
    async with AsyncExitStack() as stack:
        with one.leadership.waiting():
            second = stack.enter_context(one.leadership.waiting())
            assert not await one.asks(stack, second)
        assert await one.asks(stack, second)
