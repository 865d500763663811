import pytest

from tests.unit.clock import DrivenClock
from tests.unit.store.contract import Shared, StoreContract
from tests.unit.store.memory import MemoryStore


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def shared(self):
        clock = DrivenClock()
        store = MemoryStore(clock)
        return Shared(store, store, clock.advance)
