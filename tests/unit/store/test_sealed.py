import pytest

from gatepass.store.memory import MemoryStore
from gatepass.store.seal import Seal
from gatepass.store.sealed import SealedStore
from gatepass.store.seam import Reach
from tests.unit.clock import DrivenClock
from tests.unit.store.contract import Shared, StoreContract

KEY = b"k" * 32


class TestSealedStore(StoreContract):
    @pytest.fixture
    def shared(self):
        clock = DrivenClock()
        store = MemoryStore(clock)
        return Shared(SealedStore(store, Seal(KEY)), SealedStore(store, Seal(KEY)), clock.advance)


def dump(store: MemoryStore) -> bytes:
    return repr([store._values._kept, store._counters._kept, store._leases._kept]).encode()


async def test_a_dump_of_the_store_gives_no_value_and_no_name():
    store = MemoryStore(DrivenClock())
    sealed = SealedStore(store, Seal(KEY))
    await sealed.put("token/the-recipe", b"the-token", 60.0)
    await sealed.count("count/the-recipe", 60.0)
    await sealed.lease("lease/the-recipe", "me", 60.0)
    assert b"token:" in dump(store)
    assert b"the-token" not in dump(store)
    assert b"the-recipe" not in dump(store)


async def test_what_another_key_closed_is_not_there():
    store = MemoryStore(DrivenClock())
    mine, theirs = SealedStore(store, Seal(KEY)), SealedStore(store, Seal(b"another"))
    await theirs.put("token/x", b"theirs", 60.0)
    assert (await mine.get(["token/x"])).values == {}
    await store.put(Seal(KEY).name("token/x"), b"what somebody wrote by hand", 60.0)
    assert (await mine.get(["token/x"])).values == {}


async def test_it_reaches_as_far_as_the_store_below_and_closes_it():
    class Far(MemoryStore):
        reach = Reach.NETWORK
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    far = Far(DrivenClock())
    sealed = SealedStore(far, Seal(KEY))
    assert sealed.reach is Reach.NETWORK
    await sealed.aclose()
    assert far.closed
