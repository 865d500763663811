import asyncio
import logging

import pytest

from gatepass.config.model import StoreSettings
from gatepass.store.base import StoreScope, StoreUnavailable
from gatepass.store.choice import REST_S, GuardedStore, WorkerStore, open_store
from gatepass.store.memory import MemoryStore
from gatepass.types import Secret
from tests.unit.clock import DrivenClock, settle
from tests.unit.store.contract import Shared, StoreContract

SETTINGS = StoreSettings(url="valkey://127.0.0.1", encryption_key=Secret("k" * 32))


@pytest.fixture
def inheritance(tmp_path):
    return WorkerStore(tmp_path, b"k" * 32)


class TestStoreOfWorkers(StoreContract):
    @pytest.fixture
    def shared(self, inheritance):
        clock = DrivenClock()
        here, there = (open_store(None, inheritance, clock) for _ in range(2))
        return Shared(here, there, clock.advance)


async def test_a_folder_with_a_key_shows_nothing_without_it(tmp_path, inheritance):
    clock = DrivenClock()
    await open_store(None, inheritance, clock).put("token/the-recipe", b"the-token", 60.0)
    written = b"".join(str(file).encode() + file.read_bytes() for file in tmp_path.iterdir())
    assert b"the-token" not in written
    assert b"the-recipe" not in written
    other = open_store(None, WorkerStore(tmp_path, b"x" * 32), clock)
    assert (await other.get(["token/the-recipe"])).values == {}


async def test_one_process_alone_has_memory():
    assert isinstance(open_store(None, None, DrivenClock()), MemoryStore)


async def test_a_configured_server_is_for_workers_too_and_is_not_asked_yet(tmp_path, inheritance):
    store = open_store(SETTINGS, inheritance, DrivenClock())
    assert store.scope is StoreScope.NETWORK
    await store.aclose()


def test_an_inheritance_does_not_print_its_key(inheritance):
    assert "kkk" not in repr(inheritance)


async def test_a_folder_in_memory_has_no_key_and_is_shared_in_clear(tmp_path):
    clock = DrivenClock()
    here, there = (open_store(None, WorkerStore(tmp_path, b""), clock) for _ in range(2))
    await here.put("token/x", b"the-token", 60.0)
    assert (await there.get(["token/x"])).values == {"token/x": b"the-token"}
    assert b"the-token" in b"".join(file.read_bytes() for file in tmp_path.iterdir())


BOUND_S = 0.25


class TestGuardedStore(StoreContract):
    @pytest.fixture
    def shared(self):
        clock = DrivenClock()
        store = MemoryStore(clock)
        return Shared(GuardedStore(store, clock, BOUND_S), GuardedStore(store, clock, BOUND_S), clock.advance)


class Ailing(MemoryStore):
    """Does what `ails` says: None works, an exception is raised, "hang" never answers."""

    def __init__(self, clock):
        super().__init__(clock)
        self.ails: Exception | str | None = None
        self.asked = 0

    async def get(self, names):
        self.asked += 1
        if isinstance(self.ails, Exception):
            raise self.ails
        if self.ails == "hang":
            await asyncio.Event().wait()
        return await super().get(names)

    async def aclose(self):
        await self.get([])


@pytest.fixture
def clock():
    return DrivenClock()


@pytest.fixture
def ailing(clock):
    return Ailing(clock)


@pytest.fixture
def guarded(ailing, clock):
    return GuardedStore(ailing, clock, BOUND_S)


async def unavailable(work) -> str:
    with pytest.raises(StoreUnavailable) as raised:
        await work
    return str(raised.value)


async def test_nobody_waits_longer_than_the_bound(clock, ailing, guarded):
    ailing.ails = "hang"
    asking = asyncio.create_task(guarded.get(["value/one"]))
    await clock.advance(BOUND_S - 0.01)
    assert not asking.done()
    await clock.advance(0.01)
    assert await unavailable(asking) == "no answer within 0.25 s"


async def test_after_a_failure_it_is_not_asked_for_a_while_and_then_again(clock, ailing, guarded):
    ailing.ails = StoreUnavailable("gone")
    assert await unavailable(guarded.get([])) == "gone"
    await clock.advance(REST_S - 0.01)
    for work in (
        guarded.get([]),
        guarded.put("value/one", b"x", 1.0),
        guarded.drop("value/one"),
        guarded.count("count/one", 1.0),
        guarded.lease("lease/one", "a", 1.0),
        guarded.release("lease/one", "a"),
    ):
        assert await unavailable(work) == "gone"
    assert ailing.asked == 1
    await clock.advance(0.01)
    assert await unavailable(guarded.get([])) == "gone"
    assert ailing.asked == 2
    ailing.ails = None
    await clock.advance(REST_S)
    assert (await guarded.get([])).values == {}


async def test_the_log_tells_once_that_it_is_gone_and_once_that_it_is_back(clock, ailing, guarded, caplog):
    caplog.set_level(logging.INFO)
    ailing.ails = StoreUnavailable("gone")
    for _ in range(3):
        await unavailable(guarded.get([]))
        await clock.advance(REST_S)
    ailing.ails = None
    for _ in range(3):
        await guarded.get([])
    assert [(record.message, record.fields) for record in caplog.records] == [
        ("store_unavailable", {"reason": "gone"}),
        ("store_available", {}),
    ]


async def test_a_loop_that_stood_still_is_not_taken_for_a_store_that_is_away(clock, ailing, guarded):
    answers = asyncio.Event()

    async def slow_get(names):
        await answers.wait()
        return await MemoryStore.get(ailing, names)

    ailing.get = slow_get
    asking = asyncio.create_task(guarded.get([]))
    await settle()
    clock._now += 5.0  # everything stood still, and the first timer finds the reply unread
    await clock.advance(0.0)
    answers.set()
    await settle()
    assert (await asking).values == {}


async def test_a_cancelled_request_of_the_store_is_no_failure_of_it(clock, ailing, guarded):
    ailing.ails = "hang"
    asking = asyncio.create_task(guarded.get([]))
    await settle()
    asking.cancel()
    await asyncio.wait({asking})
    assert asking.cancelled()
    ailing.ails = None
    assert (await guarded.get([])).values == {}


async def test_closing_is_bounded_too_and_works_while_it_rests(clock, ailing, guarded):
    ailing.ails = StoreUnavailable("gone")
    await unavailable(guarded.get([]))
    ailing.ails = "hang"
    closing = asyncio.create_task(guarded.aclose())
    await clock.advance(BOUND_S)
    assert await unavailable(closing) == "no answer within 0.25 s"
    assert ailing.asked == 2


async def test_no_timer_is_left_behind(clock, guarded):
    await guarded.get([])
    assert all(timer.cancelled for *_, timer in clock._timers)
