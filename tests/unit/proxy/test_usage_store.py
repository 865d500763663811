"""What processes write of their counts: nothing is lost or counted twice by a kill, a restart or a store that fails."""

import asyncio

import pytest

from gatepass.observability.usage_ledger import DAY_S, DAYS, UsageLedger
from gatepass.proxy.usage_store import LEASE_S, SLOTS, WRITE_S, UsagePart, UsageStore
from gatepass.store.base import StoreReading, StoreUnavailable
from tests.unit.clock import DrivenClock
from tests.unit.store.memory import MemoryStore


class FailingStore(MemoryStore):
    """`mood`: well, away (executes nothing), or mute (executes writes, and their replies are lost)."""

    mood = "well"

    async def get(self, names) -> StoreReading:
        if self.mood != "well":
            raise StoreUnavailable("away")
        return await super().get(names)

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        if self.mood != "away":
            await super().put(name, value, ttl_s)
        if self.mood != "well":
            raise StoreUnavailable("away")

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        if self.mood == "away":
            raise StoreUnavailable("away")
        return await super().lease(name, owner, ttl_s)


class Fleet:
    """Processes that share a store, and what all of them counted."""

    def __init__(self) -> None:
        self.clock = DrivenClock(wall=20_000 * DAY_S + 5)
        self.store = FailingStore(self.clock)
        self.counted = 0

    def process(self) -> UsageStore:
        return UsageStore(UsageLedger(lambda labels: labels, self.clock.wall), self.store, self.clock)

    def count(self, process: UsageStore, requests: int = 1, caller: str = "ana") -> None:
        process.ledger.of(int(self.clock.wall() // DAY_S)).add([(caller, "m", (requests, 0, 10 * requests, 0, 0, 0))])
        self.counted += requests

    async def stored(self) -> int:
        days = await self.process().days()
        rows = [counts for use in days.values() for _, _, counts in use.rows()]
        assert all(counts[2] == 10 * counts[0] for counts in rows)
        return sum(counts[0] for counts in rows)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


async def test_counts_are_written_behind_every_ten_seconds(fleet):
    process = fleet.process()
    running = asyncio.create_task(process.run())
    fleet.count(process)
    await fleet.clock.advance(WRITE_S - 0.1)
    assert await fleet.stored() == 0
    await fleet.clock.advance(0.2)
    assert await fleet.stored() == 1
    running.cancel()


async def test_restarts_and_kills_add_no_entries_and_lose_only_what_was_not_written(fleet):
    for _ in range(20):  # each is killed
        process = fleet.process()
        fleet.count(process, 3)
        await process.write()
        process.ledger.of(20_000).add([("ana", "m", (99, 0, 990, 0, 0, 0))])
        await fleet.clock.advance(LEASE_S + 1)
    assert await fleet.stored() == fleet.counted == 60
    assert len(fleet.store.values.entries) == 1


async def test_processes_at_the_same_time_and_over_midnight_are_added(fleet):
    first, second = fleet.process(), fleet.process()
    for _ in range(5):
        fleet.count(first)
        fleet.count(second, 2, "ben")
        await asyncio.gather(first.write(), second.write())
        fleet.clock.jump_wall(DAY_S / 4)
    assert await fleet.stored() == fleet.counted == 15
    assert len(fleet.store.values.entries) == 4
    assert sorted(await fleet.process().days()) == [20_000, 20_001]


async def test_a_stopped_process_writes_its_last_counts_and_frees_its_slot(fleet):
    for _ in range(3):
        process = fleet.process()
        fleet.count(process)
        await process.aclose()
    assert await fleet.stored() == 3
    assert len(fleet.store.values.entries) == 1


@pytest.mark.parametrize("mood", ["away", "mute"])
@pytest.mark.parametrize("away_s", [1.0, LEASE_S + 1])
async def test_a_store_that_fails_receives_each_count_once_when_it_is_back(fleet, mood, away_s):
    """`mute`: the first write succeeds, and its reply is lost."""
    process = fleet.process()
    fleet.count(process)
    await process.write()
    fleet.count(process, 2)
    fleet.store.mood = mood
    part = await process.write()
    assert (part.fault, part.days) == ("away", {20_000: [("ana", "m", [2, 0, 20, 0, 0, 0])]})
    fleet.store.mood = "away"
    fleet.count(process, 4)
    await process.write()
    await fleet.clock.advance(away_s)
    fleet.store.mood = "well"
    fleet.count(process)
    assert await process.write() == UsagePart({})
    assert await fleet.stored() == fleet.counted == 8


async def test_a_process_that_lost_its_slot_continues_in_another_one(fleet):
    process, other = fleet.process(), fleet.process()
    fleet.count(process)
    await process.write()
    await fleet.clock.advance(LEASE_S + 1)  # it was suspended
    fleet.count(other, 2)
    await other.write()
    fleet.count(process)
    fleet.count(other)
    await process.write()
    await other.write()
    assert await fleet.stored() == fleet.counted == 5


async def test_a_slot_that_had_another_owner_meanwhile_is_read_again(fleet):
    process, other = fleet.process(), fleet.process()
    fleet.count(process)
    await process.write()
    await fleet.clock.advance(LEASE_S + 1)
    fleet.count(other, 2)
    await other.aclose()
    fleet.count(process)
    await process.write()
    assert await fleet.stored() == fleet.counted == 4


async def test_an_emptied_store_receives_the_whole_day_again(fleet):
    process = fleet.process()
    fleet.count(process)
    await process.write()
    fleet.store = process._store = FailingStore(fleet.clock)
    fleet.count(process)
    await process.write()
    assert await fleet.stored() == fleet.counted == 2


async def test_an_entry_that_cannot_be_read_is_reported_and_the_counts_wait(fleet):
    process = fleet.process()
    day = int(fleet.clock.wall() // DAY_S)
    await fleet.store.put(f"usage/v1/{day}/0", b'{"rows": 1}', DAY_S)
    fleet.count(process)
    assert "cannot read" in str((await process.write()).fault)
    with pytest.raises(StoreUnavailable, match="cannot read"):
        await fleet.stored()
    await fleet.store.drop(f"usage/v1/{day}/0")
    assert (await process.write()).fault is None
    assert await fleet.stored() == 1


async def test_counts_wait_for_a_free_slot(fleet):
    process = fleet.process()
    for slot in range(SLOTS):
        await fleet.store.lease(f"usage/v1/{slot}", "other", LEASE_S)
    fleet.count(process)
    part = await process.write()
    assert (part.fault, [*part.days]) == ("64 other processes write their use", [20_000])
    await fleet.clock.advance(LEASE_S + 1)
    await process.write()
    assert await fleet.stored() == fleet.counted == 1


async def test_counts_that_wait_for_a_store_are_bounded(fleet):
    process = fleet.process()
    fleet.store.mood = "away"
    for _ in range(DAYS + 10):
        fleet.count(process)
        await process.write()
        fleet.clock.jump_wall(DAY_S)
    assert len((await process.write()).days) == DAYS


async def test_without_a_store_the_counts_stay_in_the_ledger():
    clock = DrivenClock(wall=20_000 * DAY_S)
    process = UsageStore(UsageLedger(lambda labels: labels, clock.wall), None, clock)
    process.ledger.of(20_000).add([("ana", "m", (1, 0))])
    for _ in range(2):
        assert (await process.write()).days == {20_000: [("ana", "m", [1, 0, 0, 0, 0, 0])]}
    assert (process.lasts, await process.days()) == (False, {})
    await process.aclose()
