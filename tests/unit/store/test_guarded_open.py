from gatepass.config.model import StoreSettings
from gatepass.store.base import StoreScope
from gatepass.store.guarded import open_store
from gatepass.types import Secret
from tests.unit.clock import DrivenClock
from tests.unit.store.contract import opened_store

SETTINGS = StoreSettings(url="valkey://127.0.0.1", encryption_key=Secret("k" * 32))


async def test_configured_server_is_used_by_workers_and_not_called_at_open(tmp_path):
    assert open_store(None, None, DrivenClock()) is None
    store = opened_store(SETTINGS, tmp_path, DrivenClock())
    assert store.scope is StoreScope.NETWORK
    await store.aclose()


async def test_a_folder_in_memory_is_shared_in_clear(tmp_path):
    clock = DrivenClock()
    here, there = (opened_store(None, tmp_path, clock) for _ in range(2))
    await here.put("token/x", b"the-token", 60.0)
    assert (await there.get(["token/x"])).values == {"token/x": b"the-token"}
    assert b"the-token" in b"".join(file.read_bytes() for file in tmp_path.iterdir())
