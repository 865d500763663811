import pytest

from gatepass.store.base import Lease
from tests.unit.store.memory import MemoryStore

GONE = {"lease": "gone", "release": "gone"}


@pytest.fixture
def store(clock):
    return MemoryStore(clock)


@pytest.fixture
def mine(store, clock):
    return Lease(store, clock, "lease/one", "me", 2.0)


@pytest.fixture
def theirs(store, clock):
    return Lease(store, clock, "lease/one", "they", 2.0)


async def test_lease_is_held_while_the_work_runs(clock, mine, theirs):
    async with mine.held() as is_ours:
        assert is_ours
        await clock.advance(60.0)
        assert not await theirs.take()
    assert await theirs.take()


async def test_it_is_renewed_no_longer_than_requested(clock, mine, theirs):
    async with mine.held(3.0):
        await clock.advance(4.9)
        assert not await theirs.take()
        await clock.advance(0.1)
        assert await theirs.take()


async def test_short_store_outage_does_not_end_the_lease(clock, store, mine, theirs):
    async with mine.held():
        store.faults = GONE
        await clock.advance(1.4)
        store.faults = {}
        await clock.advance(10.0)
        assert not await theirs.take()


async def test_returning_a_lease_to_an_unavailable_store_is_not_an_error(store, clock, mine, theirs):
    async with mine.held():
        store.faults = GONE
    store.faults = {}
    assert not await theirs.take()
    await clock.advance(2.0)
    assert await theirs.take()
