import pytest

from gatepass.store.base import StoreScope
from gatepass.store.memory import MemoryStore
from tests.memory import traced_memory
from tests.unit.clock import DrivenClock
from tests.unit.store.contract import Shared, StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def shared(self):
        clock = DrivenClock()
        store = MemoryStore(clock)
        return Shared(store, store, clock.advance)


async def test_it_goes_no_farther_than_its_process_and_has_nothing_to_close():
    store = MemoryStore(DrivenClock())
    assert store.scope is StoreScope.PROCESS
    await store.aclose()


async def test_what_is_past_its_end_does_not_stay_in_memory():
    clock = DrivenClock()
    store = MemoryStore(clock)
    with traced_memory() as memory:
        for number in range(100):
            await store.put(f"value/{number}", bytes(1000), 1.0)
            await clock.advance(0.5)
    assert memory.kept_bytes < 5 * 1000
