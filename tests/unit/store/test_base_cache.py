import pytest

from gatepass.store.base import SYNC_S, StoreCache, StoreReading
from tests.unit.store.memory import MemoryStore


class Counted(MemoryStore):
    def __init__(self, clock):
        super().__init__(clock)
        self.requested: list[tuple[str, ...]] = []

    async def get(self, names):
        self.requested.append(tuple(names))
        return await super().get(names)


@pytest.fixture
def store(clock):
    return Counted(clock)


@pytest.fixture
async def cache(store, clock):
    followed_cache = StoreCache(store, clock)
    followed_cache.start()
    yield followed_cache
    await followed_cache.aclose()


async def test_a_follower_of_a_name_receives_each_new_value_once(clock, store, cache):
    reported = []
    cache.follow("value/one", lambda value, reading: reported.append((value, reading.at_s)))
    await store.put("value/one", b"first", 60.0)
    await clock.advance(3 * SYNC_S)
    await store.put("value/one", b"second", 60.0)
    await clock.advance(3 * SYNC_S)
    assert reported == [(b"first", 1000.0 + SYNC_S), (b"second", 1000.0 + 4 * SYNC_S)]


def test_a_moment_of_the_store_is_never_put_too_late_on_our_clock_nor_ours_on_its():
    reading = StoreReading({}, at_s=5000.0, started_s=100.0, finished_s=100.5)
    assert [reading.to_local_s(5000.0), reading.to_local_s(4900.0)] == [100.0, 0.0]
    assert [reading.to_store_s(100.5), reading.to_store_s(110.5)] == [5000.0, 5010.0]


async def test_a_later_follower_receives_the_current_value_and_one_that_left_nothing(clock, store, cache):
    await store.put("value/one", b"x", 60.0)
    reported = []
    cache.follow("value/one", lambda value, reading: None)
    leave = cache.follow("value/one", lambda value, reading: reported.append("first"))
    await clock.advance(SYNC_S)
    leave()
    cache.follow("value/one", lambda value, reading: reported.append("second"))
    await clock.advance(SYNC_S)
    assert reported == ["first", "second"]


async def test_all_names_cost_one_request(clock, store, cache):
    for name in ("value/one", "value/two", "value/one"):
        cache.follow(name, lambda value, reading: None)
    await clock.advance(SYNC_S)
    assert store.requested == [("value/one", "value/two")]


async def test_cache_continues_after_the_store_recovers(clock, store, cache):
    reported = []
    cache.follow("value/one", lambda value, reading: reported.append(value))
    store.faults = {"get": "gone"}
    await store.put("value/one", b"x", 60.0)
    await clock.advance(5.0)
    assert reported == []
    store.faults = {}
    await clock.advance(SYNC_S)
    assert reported == [b"x"]
