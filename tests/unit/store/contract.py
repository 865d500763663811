"""The contract of every store. A test module for each store runs these tests."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from gatepass.clock import Clock
from gatepass.config.model import StoreSettings
from gatepass.store.base import Store, StoreUnavailable
from gatepass.store.guarded import GuardedStore, open_store

BRIEF_S = 0.25
LONG_S = 60.0


def opened_store(settings: StoreSettings, clock: Clock) -> GuardedStore:
    store = open_store(settings, clock)
    assert store is not None
    return store


async def unavailable(work: Awaitable[object]) -> str:
    """The reason for which the store is out of reach."""
    with pytest.raises(StoreUnavailable) as raised:
        await work
    return str(raised.value)


@dataclass(frozen=True)
class Shared:
    """One store as two processes see it, and the passing of time."""

    here: Store
    there: Store
    elapse: Callable[[float], Awaitable[None]]


class StoreContract:
    async def test_a_name_without_a_value_is_absent(self, shared: Shared):
        assert (await shared.here.get(["value/none"])).values == {}
        assert (await shared.here.get([])).values == {}

    async def test_value_of_another_process_is_read(self, shared: Shared):
        data = bytes(range(256)) * 256
        await shared.here.put("value/one", data, LONG_S)
        await shared.here.put("value/two", b"", LONG_S)
        reading = await shared.there.get(["value/one", "value/two", "value/three"])
        assert reading.values == {"value/one": data, "value/two": b""}

    async def test_the_last_put_counts(self, shared: Shared):
        await shared.here.put("value/one", b"old", LONG_S)
        await shared.there.put("value/one", b"new", LONG_S)
        assert (await shared.here.get(["value/one"])).values == {"value/one": b"new"}

    async def test_a_value_is_gone_after_its_end(self, shared: Shared):
        await shared.here.put("value/brief", b"x", BRIEF_S)
        await shared.here.put("value/long", b"x", LONG_S)
        await shared.elapse(BRIEF_S + 0.1)
        assert (await shared.there.get(["value/brief", "value/long"])).values == {"value/long": b"x"}

    async def test_stores_clock_is_the_same_for_all_and_advances(self, shared: Shared):
        first = await shared.here.get([])
        await shared.elapse(BRIEF_S)
        second = await shared.there.get([])
        assert second.at_s - first.at_s >= BRIEF_S
        assert first.started_s <= first.finished_s <= second.started_s <= second.finished_s

    async def test_dropped_values_and_counters_are_gone(self, shared: Shared):
        await shared.here.put("value/one", b"x", LONG_S)
        await shared.here.count("count/one", LONG_S)
        for name in ("value/one", "count/one", "value/none"):
            await shared.there.drop(name)
        assert (await shared.here.get(["value/one"])).values == {}
        assert await shared.here.count("count/one", LONG_S) == 1

    async def test_counter_is_shared_by_all_processes(self, shared: Shared):
        counts = [await store.count("count/one", LONG_S) for store in (shared.here, shared.there, shared.here)]
        assert counts == [1, 2, 3]
        assert await shared.here.count("count/two", LONG_S) == 1

    async def test_counter_expires_after_its_ttl(self, shared: Shared):
        began_s, second, counted_s = -LONG_S, 0, 0.0
        while counted_s - began_s >= BRIEF_S:  # by the clock of the store: the machine may have paused meanwhile
            await shared.here.drop("count/one")
            began_s = (await shared.here.get([])).at_s
            await shared.here.count("count/one", BRIEF_S)
            await shared.elapse(BRIEF_S / 2)
            second = await shared.here.count("count/one", BRIEF_S)
            counted_s = (await shared.here.get([])).at_s
        assert second == 2
        await shared.elapse(BRIEF_S / 2 + 0.05)
        assert await shared.here.count("count/one", BRIEF_S) == 1

    async def test_lease_is_held_until_it_is_released(self, shared: Shared):
        assert await shared.here.lease("lease/one", "a", LONG_S)
        assert not await shared.there.lease("lease/one", "b", LONG_S)
        await shared.here.release("lease/one", "a")
        assert await shared.there.lease("lease/one", "b", LONG_S)

    async def test_lease_of_another_owner_cannot_be_released(self, shared: Shared):
        assert await shared.here.lease("lease/one", "a", LONG_S)
        await shared.there.release("lease/one", "b")
        await shared.there.release("lease/none", "b")
        assert not await shared.there.lease("lease/one", "b", LONG_S)

    async def test_the_lease_of_a_dead_process_ends_by_itself(self, shared: Shared):
        assert await shared.here.lease("lease/one", "a", BRIEF_S)
        await shared.elapse(BRIEF_S + 0.1)
        assert await shared.there.lease("lease/one", "b", LONG_S)
        await shared.here.release("lease/one", "a")
        assert not await shared.here.lease("lease/one", "a", LONG_S)

    async def test_its_owner_prolongs_a_lease(self, shared: Shared):
        assert await shared.here.lease("lease/one", "a", BRIEF_S)
        await shared.elapse(BRIEF_S / 2)
        assert await shared.here.lease("lease/one", "a", LONG_S)
        await shared.elapse(BRIEF_S)
        assert not await shared.there.lease("lease/one", "b", LONG_S)
