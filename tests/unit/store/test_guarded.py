import asyncio
import gc
import logging
import re
import weakref

import pytest

from gatepass.observability.redaction import Redactor
from gatepass.store.base import StoreUnavailable
from gatepass.store.encrypted import StoreKey
from gatepass.store.guarded import (
    BOUND_S,
    CHECK_S,
    KEY_KEPT_S,
    REASON_CHARS,
    REST_S,
    SETTLE_S,
    TAKE_OVER_S,
    GuardedStore,
    StoreState,
)
from tests.unit.clock import DrivenClock, settle
from tests.unit.store.contract import unavailable
from tests.unit.store.memory import MemoryStore

SHORT = b"k" * 32


class Ailing(MemoryStore):
    """Fails as `ails` states: None works, an exception is raised, "hang" never answers."""

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
def ailing(clock):
    return Ailing(clock)


@pytest.fixture
def guarded(ailing, clock):
    return GuardedStore(ailing, clock, {}, StoreKey(SHORT))


ASKED = {
    "get": lambda store: store.get(["token/one"]),
    "put": lambda store: store.put("token/one", b"x", 5.0),
    "drop": lambda store: store.drop("token/one"),
    "count": lambda store: store.count("count/one", 5.0),
    "lease": lambda store: store.lease("lease/one", "me", 5.0),
    "release": lambda store: store.release("lease/one", "me"),
    "limits": lambda store: store.evaluate("script", [((), ())]),
}


@pytest.mark.parametrize("operation", ASKED)
async def test_a_store_that_refuses_one_kind_of_request_is_down_until_it_permits_it(
    guarded, ailing, clock, caplog, operation
):
    caplog.set_level(logging.INFO)
    ailing.faults = {operation: "no permission"}
    assert await unavailable(ASKED[operation](guarded)) == "no permission"
    for _ in range(5):
        assert guarded.health.shown(clock.now()).state == StoreState.DOWN
        assert await unavailable(ASKED["get"](guarded)) == "no permission"
        await clock.advance(REST_S)
        assert await unavailable(ASKED[operation](guarded)) == "no permission"
    assert caplog.records[0].message == "store_unavailable"
    ailing.faults = {}
    await clock.advance(REST_S)
    await ASKED[operation](guarded)
    assert (guarded.health.state, guarded.health.reason) == (StoreState.UP, None)


async def test_while_one_request_tries_a_store_that_hangs_the_others_do_not_wait(guarded, ailing, clock):
    ailing.ails = StoreUnavailable("gone")
    await unavailable(guarded.get([]))
    ailing.ails = "hang"
    await clock.advance(REST_S)
    trying = asyncio.create_task(guarded.get([]))
    await settle()
    for _ in range(3):
        assert await unavailable(guarded.count("count/one", 5.0)) == "gone"
    await clock.advance(BOUND_S)
    assert await unavailable(trying) == "no answer within 0.25 s"


async def test_an_error_after_the_bound_is_freed_without_a_garbage_collector(guarded, ailing, clock):
    ailing.ails = "hang"

    async def fail():
        try:
            await guarded.get([])
        except StoreUnavailable as error:
            return weakref.ref(error.__context__)  # the error of the bound itself

    gc.disable()
    try:
        trying = asyncio.create_task(fail())
        await clock.advance(BOUND_S)
        assert (await trying)() is None
    finally:
        gc.enable()


async def test_all_first_requests_wait_for_one_check_also_if_its_request_is_cancelled(fleet):
    fleet.process(b"a" * 32)
    await settle()
    wrong = GuardedStore(fleet.store, fleet.clock, {}, StoreKey(b"b" * 32))
    fleet.store.ails, asked = "hang", fleet.store.asked
    asking = [asyncio.create_task(wrong.get(["token/one"])) for _ in range(3)]
    await settle()
    assert fleet.store.asked == asked + 1
    fleet.store.ails = None
    asking[0].cancel()
    for other in asking[1:]:
        assert "another key" in await unavailable(other)
    assert fleet.store.asked == asked + 2


async def test_store_receives_no_request_for_a_while_after_a_failure(clock, ailing, guarded):
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
    assert not clock.has_timers
    operations = guarded.health.operations
    assert [operations["get", one] for one in ("ok", "failed", "skipped")] == [2, 2, 1]


@pytest.mark.parametrize("before", [0, REASON_CHARS - 12, REASON_CHARS])
async def test_no_reason_has_a_secret_or_a_part_of_one(ailing, guarded, before):
    secret, redactor = "the password of the store", Redactor()
    redactor.learn(secret)
    guarded.mask = redactor.mask
    ailing.ails = StoreUnavailable("x" * before + secret)
    reasons = [await unavailable(guarded.get([])) for _ in range(2)] + [str(guarded.health.shown(0.0).reason)]
    assert len(set(reasons)) == 1
    assert "the" not in reasons[0]
    assert len(reasons[0]) <= REASON_CHARS


async def test_blocked_event_loop_is_not_a_failure_of_the_store(clock, ailing, guarded):
    answers = asyncio.Event()

    async def slow_get(names):
        await answers.wait()
        return await MemoryStore.get(ailing, names)

    ailing.get = slow_get
    asking = asyncio.create_task(guarded.get([]))
    await settle()
    clock.suspend(5.0)  # the first timer finds the reply unread
    await clock.advance(0.0)
    answers.set()
    await settle()
    assert (await asking).values == {}


async def test_closing_is_bounded_too_and_works_while_it_rests(clock, ailing, guarded):
    ailing.ails = StoreUnavailable("gone")
    await unavailable(guarded.get([]))
    ailing.ails = "hang"
    closing = asyncio.create_task(guarded.aclose())
    await clock.advance(BOUND_S)
    assert await unavailable(closing) == "no answer within 0.25 s"
    assert ailing.asked == 2


class Fleet:
    """Processes with separate keys that share one store."""

    def __init__(self):
        self.clock = DrivenClock()
        self.store = Ailing(self.clock)
        self.started: list[GuardedStore] = []

    def process(self, key: bytes) -> GuardedStore:
        guarded = GuardedStore(self.store, self.clock, {"through": "a store"}, StoreKey(key))
        self.started.append(guarded)
        guarded.start()
        return guarded

    async def aclose(self) -> None:
        self.store.ails = None
        for guarded in self.started:
            await guarded.aclose()


@pytest.fixture
async def fleet():
    fleet = Fleet()
    yield fleet
    await fleet.aclose()


def reported(caplog, event):
    return [record.fields for record in caplog.records if record.message == event]


async def test_a_process_with_another_key_reports_it_within_one_check(fleet, caplog):
    right, wrong = fleet.process(b"a" * 32), fleet.process(b"b" * 32)
    await settle()
    assert (right.health.state, wrong.health.state) == (StoreState.UP, StoreState.UNREADABLE)
    kept = fleet.store.values.entries["encryption-key:current"].decode()  # all that a store shows of a key
    assert re.fullmatch("[0-9a-f]{16}", kept)
    assert kept not in (b"a" * 32).hex()
    await fleet.clock.advance(60.0)
    (line,) = reported(caplog, "store_unreadable")
    assert line["through"] == "a store"
    assert "Set the same store.encryption_key in all of them" in line["reason"]
    assert line["reason"] == wrong.health.reason
    assert right.health.state is StoreState.UP
    assert wrong.health.shown(fleet.clock.now()).for_s == pytest.approx(60.0)


async def test_a_key_of_processes_that_have_ended_is_replaced(fleet):
    old = fleet.process(b"a" * 32)
    await settle()
    new = fleet.process(b"b" * 32)
    await settle()
    assert new.health.state is StoreState.UNREADABLE
    await old.aclose()
    await fleet.clock.advance(KEY_KEPT_S + TAKE_OVER_S + CHECK_S)
    assert (new.health.state, new.health.reason) == (StoreState.UP, None)


async def test_a_full_store_stays_down_although_it_can_be_read(fleet, caplog):
    process = fleet.process(SHORT)
    await settle()
    fleet.store.faults = {"put": "full"}
    await fleet.clock.advance(CHECK_S)
    for _ in range(20):
        await fleet.clock.advance(REST_S / 2)
        assert await unavailable(process.get(["token/one"])) == "full"
        assert (process.health.state, process.health.reason) == (StoreState.DOWN, "full")
    assert len(reported(caplog, "store_unavailable")) == 1
    fleet.store.faults = {}
    await fleet.clock.advance(REST_S)
    assert process.health.state is StoreState.UP


async def test_unstable_store_is_logged_every_ten_seconds_at_most(clock, ailing, guarded, caplog):
    caplog.set_level(logging.INFO)
    for _ in range(30):
        ailing.ails = StoreUnavailable("gone")
        await unavailable(guarded.get([]))
        await clock.advance(REST_S)
        ailing.ails = None
        await guarded.get([])
        await clock.advance(REST_S)
    assert [(record.message, record.fields) for record in caplog.records][:2] == [
        ("store_unavailable", {"reason": "gone"}),
        ("store_available", {}),
    ]
    for event in ("store_unavailable", "store_available"):
        assert len(reported(caplog, event)) <= 60 * REST_S / SETTLE_S + 1
    await clock.advance(SETTLE_S)
    await guarded.get([])
    assert caplog.records[-1].message == "store_available"


async def test_a_check_needs_no_requests_of_others_and_ends_with_the_store(fleet, caplog):
    process = fleet.process(SHORT)
    await settle()
    fleet.store.ails = StoreUnavailable("gone")
    await fleet.clock.advance(CHECK_S)
    assert reported(caplog, "store_unavailable") == [{"through": "a store", "reason": "gone"}]
    await fleet.clock.advance(60.0)
    assert len(reported(caplog, "store_unavailable")) == 1
    fleet.store.ails = None
    await process.aclose()
    asked = fleet.store.asked
    await fleet.clock.advance(10 * CHECK_S)
    assert fleet.store.asked == asked


async def test_a_process_with_another_key_uses_nothing_of_the_store_from_its_first_request_on(fleet):
    right = fleet.process(b"a" * 32)
    await settle()
    wrong = GuardedStore(fleet.store, fleet.clock, {}, StoreKey(b"b" * 32))
    assert "another key" in await unavailable(wrong.lease("refresh-turn/one", "me", 60.0))
    assert "another key" in await unavailable(wrong.get(["refresh-token/one"]))
    assert await right.lease("refresh-turn/one", "them", 60.0)
    assert wrong.health.operations["lease", "skipped"] == 1


async def test_a_process_with_another_key_does_not_take_over_a_store_that_was_emptied(fleet):
    right, wrong = fleet.process(b"a" * 32), fleet.process(b"b" * 32)
    await settle()
    for _ in range(20):
        await fleet.clock.advance(CHECK_S / 2)
        for name in [*fleet.store.values.entries]:
            await fleet.store.drop(name)
        wrong.start()  # its next check is the first one after that
        await fleet.clock.advance(CHECK_S)
        assert (right.health.state, wrong.health.state) == (StoreState.UP, StoreState.UNREADABLE)


async def test_a_background_task_that_a_bug_ends_is_shown_and_begins_again(clock, caplog):
    store = Ailing(clock)
    guarded = GuardedStore(store, clock, {}, StoreKey(SHORT))
    guarded.start()
    unfollow = guarded.cache.follow("value/one", lambda *_: None)
    await clock.advance(1.0)
    store.ails = RuntimeError("a bug")
    await clock.advance(CHECK_S)
    shown = guarded.health.shown(clock.now())
    assert (shown.state, shown.reason) == (StoreState.DOWN, "a bug in gatepass: the log has its trace")
    assert "store_task_failed" in caplog.messages
    store.ails, asked = None, store.asked
    await clock.advance(2 * CHECK_S)
    assert guarded.health.state is StoreState.UP
    assert store.asked > asked + 2
    unfollow()
    await guarded.aclose()
