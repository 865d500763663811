from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Self

import pytest

from gatepass.store.memory import MemoryStore
from gatepass.tokens.backoff import PROBE_S
from gatepass.tokens.leadership import BESIDE_S, HELD_UP_S, Leadership, Place
from tests.unit.clock import DrivenClock, settle

NAME = "token-lease/v1/x"
TIMEOUT_S = 10.0
LEASE_S = 2.0


class Counting(MemoryStore):
    """Counts who asks for a lease. A request is heard when `way` is open, its answer when `way_back` is."""

    def __init__(self, clock: DrivenClock) -> None:
        super().__init__(clock)
        self.asked = 0
        self.way, self.way_back = asyncio.Event(), asyncio.Event()
        self.way.set()
        self.way_back.set()

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        self.asked += 1
        await self.way.wait()
        is_held = await super().lease(name, owner, ttl_s)
        await self.way_back.wait()
        return is_held


class Street:
    """Processes that share a store; what they ask goes on until the end."""

    def __init__(self) -> None:
        self.clock = DrivenClock()
        self.store = Counting(self.clock)
        self.stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()
        await settle()
        assert self.store._leases._kept == {}

    def process(self, owner: str, name: str = NAME) -> Leadership:
        return Leadership(self.store, self.clock, name, owner, TIMEOUT_S)

    def waits(self, process: Leadership) -> Place:
        return self.stack.enter_context(process.waiting())

    async def asks(self, process: Leadership, place: Place) -> bool:
        """Whether a fetch may ask now."""
        return await self.stack.enter_async_context(process.turn(place)) is not None


async def test_one_process_asks_and_of_its_fetches_the_second_a_while_later():
    async with Street() as street:
        one, other = street.process("one"), street.process("other")
        first, second, third = (street.waits(each) for each in (one, one, other))
        assert await street.asks(one, first)
        assert not await street.asks(one, second)
        assert not await street.asks(other, third)
        await street.clock.advance(PROBE_S)
        assert await street.asks(one, second)
        assert not await street.asks(other, third)
        await street.stack.aclose()
        assert await street.asks(other, street.waits(other))


async def test_a_fetch_leads_for_as_long_as_it_takes():
    """Another one would be asked beside an issuer that is slow and well, and its token might end the first's."""
    async with Street() as street:
        one, other = street.process("one"), street.process("other")
        assert await street.asks(one, street.waits(one))
        third = street.waits(other)
        for _ in range(int(TIMEOUT_S)):
            await street.clock.advance(1.0)
            assert not await street.asks(other, third)


async def test_a_fetch_that_knows_no_end_leads_no_longer_than_one_may_take():
    async with Street() as street:
        one, other = street.process("one"), street.process("other")
        assert await street.asks(one, street.waits(one))
        await street.clock.advance(TIMEOUT_S + LEASE_S + LEASE_S / 4)
        assert await street.asks(other, street.waits(other))


async def test_a_process_in_need_asks_beside_the_leader_one_at_a_time():
    async with Street() as street:
        one, other, more = (street.process(owner) for owner in ("one", "other", "more"))
        assert await street.asks(one, street.waits(one))
        (third, _), (fourth, _) = [(street.waits(each), street.waits(each)) for each in (other, more)]
        await street.clock.advance(HELD_UP_S - 0.1)
        assert not await street.asks(other, third)
        await street.clock.advance(0.1)
        assert await street.asks(other, third)
        assert not await street.asks(more, fourth)
        await street.clock.advance(BESIDE_S)
        assert not await street.asks(more, fourth)
        await street.clock.advance(LEASE_S + LEASE_S / 4)
        assert await street.asks(more, fourth)


async def test_who_waits_with_a_single_fetch_is_in_no_need():
    """Its holder has a token, or knows the issuer for slow: else it had made a second one."""
    async with Street() as street:
        one, other = street.process("one"), street.process("other")
        assert await street.asks(one, street.waits(one))
        third = street.waits(other)
        await street.clock.advance(2 * HELD_UP_S)
        assert not await street.asks(other, third)


async def test_who_stood_still_and_lost_the_lead_does_not_go_along_with_itself():
    async with Street() as street:
        one, other = street.process("one"), street.process("other")
        assert await street.asks(one, street.waits(one))
        street.clock._now += 6.8  # the machine slept
        assert await street.asks(other, street.waits(other))
        assert not await street.asks(one, street.waits(one))


async def test_when_the_leader_is_over_its_process_goes_to_the_end_of_the_queue():
    """What went along may go on; the lead is free, or a process that cannot reach the issuer had it for ever."""
    async with Street() as street:
        one, other = street.process("one"), street.process("other")
        async with AsyncExitStack() as leading:
            first, second = leading.enter_context(one.waiting()), street.waits(one)
            assert await leading.enter_async_context(one.turn(first)) is not None
            await street.clock.advance(PROBE_S)
            assert await street.asks(one, second)
        assert await street.asks(other, street.waits(other))
        assert not await street.asks(one, street.waits(one))


async def test_what_tells_of_its_failure_after_the_leader_leaves_the_lead_free():
    """Whether it may tell it learns by taking the lead, which is free by then; nobody else would give that back."""
    async with Street() as street:
        one, other = street.process("one"), street.process("other")
        async with AsyncExitStack() as along:
            async with AsyncExitStack() as leading:
                first, second = leading.enter_context(one.waiting()), along.enter_context(one.waiting())
                await leading.enter_async_context(one.turn(first))
                await street.clock.advance(PROBE_S)
                lease = await along.enter_async_context(one.turn(second))
            assert lease is not None
            assert await lease.take()
        assert await street.asks(other, street.waits(other))


async def test_what_goes_along_and_ends_leaves_the_lead_with_who_leads():
    async with Street() as street:
        one, other = street.process("one"), street.process("other")
        assert await street.asks(one, street.waits(one))
        await street.clock.advance(PROBE_S)
        with one.waiting() as second:
            async with one.turn(second) as lease:
                assert lease is not None
        assert not await street.asks(other, street.waits(other))


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["answered", "cancelled"])
async def test_what_went_along_when_the_leader_went_leaves_the_lead_free(is_cancelled):
    """Its request comes to the store behind the leader's, which gave the lead back."""
    async with Street() as street:
        one, other = street.process("one"), street.process("other")

        async def goes_along() -> None:
            with one.waiting() as place:
                async with one.turn(place):
                    pass

        async with AsyncExitStack() as leading:
            await leading.enter_async_context(one.turn(leading.enter_context(one.waiting())))
            await street.clock.advance(PROBE_S)
            street.store.way.clear()
            street.store.way_back.clear()
            along = asyncio.create_task(goes_along())
            await settle()
        street.store.way.set()
        await settle()
        assert set(street.store._leases._kept) == {NAME}
        if is_cancelled:
            along.cancel()
        street.store.way_back.set()
        await asyncio.wait([along])
        assert along.cancelled() is is_cancelled
        assert await street.asks(other, street.waits(other))


async def test_the_oldest_that_waits_is_the_one_that_leads():
    """A newer one is given up soon, and an issuer that takes its time would never be heard."""
    async with Street() as street:
        one = street.process("one")
        first, second = street.waits(one), street.waits(one)
        assert not await street.asks(one, second)
        assert await street.asks(one, first)


async def test_of_a_fetch_that_ended_nobody_waits_for_the_place():
    async with Street() as street:
        one = street.process("one")
        with one.waiting():
            second = street.waits(one)
            assert not await street.asks(one, second)
        assert await street.asks(one, second)


async def test_a_look_costs_the_store_one_request_at_most():
    async with Street() as street:
        one, other = street.process("one"), street.process("other")
        assert await street.asks(one, street.waits(one))
        behind, elsewhere = street.waits(one), street.waits(other)
        street.store.asked = 0
        for process, place in ((one, behind), (other, elsewhere)):
            async with process.turn(place) as lease:
                assert lease is None
                await settle()
        assert street.store.asked == 1


async def test_a_new_recipe_has_a_line_of_its_own():
    """A fetch with the secret that has changed does not stand behind one with the old secret."""
    async with Street() as street:
        old, new = street.process("one"), street.process("one", "token-lease/v1/y")
        assert await street.asks(old, street.waits(old))
        assert await street.asks(new, street.waits(new))
