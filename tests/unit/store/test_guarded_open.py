import pytest

from gatepass.config.model import StoreSettings
from gatepass.store.base import StoreScope
from gatepass.store.guarded import WorkerStore, open_store
from gatepass.types import Secret
from tests.unit.clock import DrivenClock
from tests.unit.store.contract import Shared, StoreContract, opened_store

SETTINGS = StoreSettings(url="valkey://127.0.0.1", encryption_key=Secret("k" * 32))


@pytest.fixture
def inheritance(tmp_path):
    return WorkerStore(tmp_path, b"k" * 32)


class TestStoreOfWorkers(StoreContract):
    @pytest.fixture
    def shared(self, inheritance):
        clock = DrivenClock()
        here, there = (opened_store(None, inheritance, clock) for _ in range(2))
        return Shared(here, there, clock.advance)


async def test_a_folder_with_a_key_shows_nothing_without_it(tmp_path, inheritance):
    clock = DrivenClock()
    await opened_store(None, inheritance, clock).put("token/the-recipe", b"the-token", 60.0)
    written = b"".join(str(file).encode() + file.read_bytes() for file in tmp_path.iterdir())
    assert b"the-token" not in written
    assert b"the-recipe" not in written
    other = opened_store(None, WorkerStore(tmp_path, b"x" * 32), clock)
    assert (await other.get(["token/the-recipe"])).values == {}


async def test_single_process_has_no_store():
    assert open_store(None, None, DrivenClock()) is None


async def test_configured_server_is_used_by_workers_and_not_called_at_open(tmp_path, inheritance):
    store = opened_store(SETTINGS, inheritance, DrivenClock())
    assert store.scope is StoreScope.NETWORK
    await store.aclose()


def test_an_inheritance_does_not_print_its_key(inheritance):
    assert "kkk" not in repr(inheritance)


async def test_a_folder_in_memory_has_no_key_and_is_shared_in_clear(tmp_path):
    clock = DrivenClock()
    here, there = (opened_store(None, WorkerStore(tmp_path, b""), clock) for _ in range(2))
    await here.put("token/x", b"the-token", 60.0)
    assert (await there.get(["token/x"])).values == {"token/x": b"the-token"}
    assert b"the-token" in b"".join(file.read_bytes() for file in tmp_path.iterdir())
