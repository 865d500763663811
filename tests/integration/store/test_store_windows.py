"""Limits of several processes on a real server: the same decisions as in one process, and what happens without it."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatepass.auth.api_keys import hash_key
from gatepass.config.model import Config
from gatepass.policy.windows import CONCURRENT, PARTS, REQUESTS, TOKENS, Limit, Refused, Taken, Windows
from gatepass.proxy.admission import Admission
from gatepass.proxy.store_windows import LEASE_S, RENEW_S, RETRY_S, SCRIPT, StoreWindows
from gatepass.store.base import StoreUnavailable
from gatepass.store.guarded import Command, GuardedStore
from tests.integration.store.real_server import INSTALLED, RealServer, real_server
from tests.unit.clock import DrivenClock, settle

TIME = "redis.call('TIME')"
assert SCRIPT.count(TIME) == 1
DRIVEN = SCRIPT.replace(TIME, "{KEYS[2], KEYS[3]}")


@pytest.fixture(scope="module", params=INSTALLED)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with real_server(tmp_path_factory.mktemp("server"), request.param) as running:
        yield running


@dataclass
class Machine:
    """A server with a driven clock, for one test. `fault`: it refuses, or it "hangs" until the bound of the client.

    `ahead_s`: how far its clock is ahead.
    """

    client: Any
    clock: DrivenClock
    fault: str = ""
    ahead_s: float = 0.0
    prefix: str = field(default_factory=lambda: secrets.token_hex(8))
    round_trips: int = 0
    gave_up: asyncio.Event = field(default_factory=asyncio.Event)
    processes: list[StoreWindows] = field(default_factory=list)

    def name_of(self, name: str) -> str:
        return f"{self.prefix}:{name}"

    async def evaluate(self, script: str, commands: Sequence[Command]) -> list[bytes]:
        assert script == SCRIPT
        self.round_trips += 1
        await asyncio.sleep(0)
        if self.fault == "hangs":
            await self.gave_up.wait()
        if self.fault:
            raise StoreUnavailable(self.fault)
        seconds, rest = divmod(round((self.clock.now() + self.ahead_s) * 1e6), 1_000_000)
        found = [self.client.eval(DRIVEN, 3, name, seconds, rest, *arguments) for name, arguments in commands]
        await asyncio.sleep(0)
        return found

    def empty(self) -> None:
        for key in self.client.keys(f"{self.prefix}*"):
            self.client.delete(key)

    def process(self) -> StoreWindows:
        windows = StoreWindows(cast(GuardedStore, self), self.clock)
        windows.start()
        self.processes.append(windows)
        return windows


@asynccontextmanager
async def machine(server: RealServer) -> AsyncIterator[Machine]:
    with server.client() as client:
        client.flushall()
        made = Machine(client, DrivenClock(60_000.0, 60_000.0 + AHEAD_S))
        yield made
        for one in made.processes:
            await one._tasks.aclose()


@pytest.fixture
async def shared(server: RealServer) -> AsyncIterator[Machine]:
    async with machine(server) as made:
        yield made


AHEAD_S = 1_799_971_200.0 - 60_100.0
"""So that the day ends 100 s after the beginning of a test."""


def limits_for(windows: Windows) -> list[Limit]:
    kinds = (
        ("ana", REQUESTS, ("second", 1), 5),
        ("ana", TOKENS, ("minute", 60), 1_000),
        ("ana", CONCURRENT, ("", 0), 4),
        ("group", REQUESTS, ("minute", 60), 8),
        ("group", TOKENS, ("day", 86_400), 6_000),
    )
    made = [
        Limit(("caller", name), unit, window, most, is_calendar=window[0] == "day")
        for name, unit, window, most in kinds
    ]
    for limit in made:
        limit.ahead_s = AHEAD_S
    return [windows.attach(limit) for limit in made]


def used(limits: Sequence[Limit], now_s: float) -> list[int]:
    return [limit.used(now_s) + limit.others for limit in limits]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.sampled_from((0, 1, 250, 999, 1_000)), st.booleans()),
        st.tuples(st.just("settle"), st.integers(0, 9), st.sampled_from((None, 0, 10, 250, 1_000, 3_000))),
        st.tuples(st.just("wait"), st.one_of(st.integers(0, 4), st.integers(120, 140)), st.sampled_from((1, 60))),
    ),
    min_size=10,
    max_size=40,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_processes_of_a_server_decide_as_one_process_does(server: RealServer, steps: Any) -> None:
    async def run() -> None:
        async with machine(server) as shared:
            alone, both = Windows(), [shared.process(), shared.process()]
            own, theirs = limits_for(alone), [limits_for(one) for one in both]
            open_takes: list[tuple[Any, Any, int]] = []
            for what, amount, more in steps:
                now_s = shared.clock.now()
                if what == "take":
                    at = int(more)
                    expected, found = alone.take(own, amount, now_s), await both[at].admit(theirs[at], amount, now_s)
                    assert type(found) is type(expected)
                    if isinstance(expected, Refused) and isinstance(found, Refused):
                        assert found.wait_s == pytest.approx(expected.wait_s, abs=2e-6)
                    else:
                        open_takes.append((expected, found, at))
                        assert [limit.left for limit in theirs[at]] == [limit.left for limit in own]
                elif what == "settle" and open_takes:
                    expected, found, at = open_takes.pop(amount % len(open_takes))
                    alone.settle(expected, more, now_s)
                    both[at].settle(found, more, now_s)
                    both[at].settle(found, more, now_s)  # the second time does nothing
                    await settle()
                elif what == "wait":
                    await shared.clock.advance((amount + 0.5) * more / PARTS)
                    await settle()
                for at in (0, 1):
                    await both[at].refresh(theirs[at])
                    assert used(theirs[at], shared.clock.now()) == [one.used(shared.clock.now()) for one in own]

    asyncio.run(run())


def limit_of(windows: Windows, unit: str, most: int, owner: str = "ana") -> list[Limit]:
    window = ("", 0) if unit == CONCURRENT else ("minute", 60)
    return [windows.attach(Limit(("caller", owner), unit, window, most))]


async def take(windows: StoreWindows, limits: Sequence[Limit], tokens: int = 0) -> Taken | None:
    result = await windows.admit(limits, tokens, 0.0)
    return result if isinstance(result, Taken) else None


async def test_a_request_takes_one_round_trip_and_names_nobody(shared):
    one = shared.process()
    assert await take(one, limits_for(one), 10)
    assert shared.round_trips == 1
    stored = [shared.client.hgetall(key) for key in shared.client.scan_iter()]
    assert len(stored) == 2  # of each subject, the limits are together
    assert "ana" not in repr(stored)


async def test_a_refusal_states_what_the_other_processes_left_of_each_limit(shared):
    both = [shared.process() for _ in range(2)]
    limits = [[*limit_of(one, REQUESTS, 5, "wide"), *limit_of(one, REQUESTS, 1, "narrow")] for one in both]
    assert await take(both[1], limits[1])
    for _ in range(2):
        assert await take(both[0], limits[0][:1])
    assert not await take(both[1], limits[1])
    assert [limit.left for limit in limits[1]] == [2, 0]


async def test_a_killed_process_frees_its_slots_and_a_living_one_keeps_them(shared):
    killed, living, third = (shared.process() for _ in range(3))
    limits = [limit_of(one, CONCURRENT, 2) for one in (killed, living, third)]
    assert await take(killed, limits[0])
    kept = await take(living, limits[1])
    assert kept
    await killed._tasks.aclose()  # it renews nothing any more
    await shared.clock.advance(LEASE_S - 1.0)
    assert not await take(third, limits[2])
    await shared.clock.advance(2.0)
    assert await take(third, limits[2])
    assert not await take(third, limits[2])
    living.settle(kept, 0, 0.0)
    await settle()
    assert await take(third, limits[2])


async def test_a_request_that_is_cancelled_at_any_await_gives_back_what_it_took(shared):
    one, cancelled = shared.process(), 0
    limits = [*limit_of(one, CONCURRENT, 3), *limit_of(one, REQUESTS, 3)]
    for turns in range(12):
        asking = asyncio.create_task(take(one, limits))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        try:
            taken = await asking
        except asyncio.CancelledError:
            cancelled += 1
        else:
            assert taken
            one.settle(taken, None, shared.clock.now())
        await settle()
        await one.refresh(limits)
        assert used(limits, shared.clock.now()) == [0, 0]
    assert 3 < cancelled < 12


@pytest.mark.parametrize("fault", ["refused", "hangs"])
async def test_without_the_store_each_process_counts_alone_and_joins_when_it_is_back(shared, fault, caplog):
    caplog.set_level(logging.INFO, "gatepass.limits")
    both = [shared.process() for _ in range(2)]
    limits = [[*limit_of(one, REQUESTS, 4), *limit_of(one, CONCURRENT, 4)] for one in both]
    before = await take(both[0], limits[0])
    assert before
    shared.fault = fault
    asking = [asyncio.create_task(take(one, own)) for one, own in zip(both, limits, strict=True)]
    await settle()
    assert all(one.done() for one in asking) is (fault == "refused")
    shared.gave_up.set()
    assert all([await one for one in asking])
    sent = shared.round_trips
    alone = [[bool(await take(one, own)) for _ in range(4)] for one, own in zip(both, limits, strict=True)]
    assert alone == [[True, True, False, False], [True, True, True, False]]
    assert shared.round_trips == sent  # none waits for the server
    both[0].settle(before, None, shared.clock.now())
    shared.fault = ""
    await shared.clock.advance(RETRY_S)
    await shared.clock.advance(RETRY_S)
    assert [one.fault for one in both] == [None, None]
    for one, own in zip(both, limits, strict=True):
        assert not await take(one, own)
        await one.refresh(own)
        assert used(own, shared.clock.now()) == [7, 7]
    events = [record.message for record in caplog.records]
    assert events.count("limits_without_store") == events.count("limits_with_store") == 2


async def test_requests_in_progress_count_again_after_the_store_was_emptied(shared):
    both = [shared.process() for _ in range(2)]
    limits = [limit_of(one, CONCURRENT, 2) for one in both]
    taken = [await take(one, own) for one, own in zip(both, limits, strict=True)]
    shared.empty()
    await shared.clock.advance(RENEW_S)
    assert not any([await take(one, own) for one, own in zip(both, limits, strict=True)])
    shared.empty()
    assert await take(both[0], limits[0])  # the other one has not renewed its request yet
    assert not await take(both[0], limits[0])
    for one, own in zip(both, taken, strict=True):
        assert own
        one.settle(own, 0, 0.0)
        await one.aclose()


async def test_the_end_of_a_process_tells_what_was_used(shared):
    one, other = shared.process(), shared.process()
    limits, theirs = limit_of(one, TOKENS, 1_000), limit_of(other, TOKENS, 1_000)
    taken = await take(one, limits, 900)
    assert taken
    one.settle(taken, 200, shared.clock.now())
    await one.aclose()
    assert await take(other, theirs, 800)


async def test_odd_replies_of_the_server_count_as_no_reply(shared):
    for reply in (b"", b"1", b"1 x", b"1 0 x 1 1", b"1 0 1 x 1", b"1 0 2 3 4 5", b"\xff 0 1 1 1"):
        one = shared.process()

        async def odd(script: str, commands: Any, _bound_s: float = 0.0, reply: bytes = reply) -> list[bytes]:
            return [reply for _ in commands]

        one._store = cast(GuardedStore, type("Odd", (), {"evaluate": staticmethod(odd), "name_of": shared.name_of}))
        assert await take(one, limit_of(one, REQUESTS, 1))
        assert one.fault is not None
        await one.aclose()


async def test_a_day_goes_on_from_the_highest_use_that_a_process_knows_after_the_store_was_emptied(shared):
    both = [shared.process() for _ in range(2)]
    limits = [limits_for(one)[-1:] for one in both]
    assert await take(both[0], limits[0], 1_000)
    taken = await take(both[1], limits[1], 2_000)
    assert taken
    both[1].settle(taken, 1_500, shared.clock.now())
    await settle()
    shared.empty()
    await shared.clock.advance(1.0)
    for one, own, left in zip(both, limits, (4_900, 3_400), strict=True):
        assert await take(one, own, 100)
        assert own[0].left == left
    assert await take(both[1], limits[1], 3_400)
    await shared.clock.advance(99.0)  # the next day begins
    assert await take(both[0], limits[0], 5_999)
    refused = await both[1].admit(limits[1], 2, shared.clock.now())
    assert isinstance(refused, Refused)
    assert refused.wait_s == pytest.approx(86_400.0)


async def test_a_day_keeps_its_use_if_the_store_comes_back_empty_and_requests_ended_meanwhile(shared):
    one = shared.process()
    limits = limits_for(one)[-1:]
    assert await take(one, limits, 1_000)
    shared.fault = "refused"
    for _ in range(2):
        taken = await take(one, limits, 500)
        assert taken
        one.settle(taken, 100, shared.clock.now())
    shared.empty()
    shared.fault = ""
    await shared.clock.advance(RETRY_S)
    await shared.clock.advance(RETRY_S)
    await one.refresh(limits)
    assert used(limits, shared.clock.now()) == [1_200]


async def test_requests_that_come_while_the_store_returns_do_not_keep_it_away(shared: Machine):
    one = shared.process()
    limits = limit_of(one, REQUESTS, 1_000_000)

    async def under_load(script: str, commands: Any, _bound_s: float = 0.0) -> list[bytes]:
        if not shared.fault:
            one.take(limits, 0, shared.clock.now())
        return await shared.evaluate(script, commands)

    shared.fault = "refused"
    store = {"evaluate": staticmethod(under_load), "name_of": shared.name_of}
    one._store = cast(GuardedStore, type("Store", (), store))
    assert await take(one, limits)
    shared.fault = ""
    await shared.clock.advance(RETRY_S)
    await settle()
    assert one.fault is None
    await one._tasks.aclose()


async def test_a_reload_keeps_the_refunds_of_the_requests_in_progress(shared):
    one = shared.process()
    limits = limit_of(one, TOKENS, 1_000)
    taken = await take(one, limits, 900)
    assert taken
    one.prune(shared.clock.now())
    one.settle(taken, 200, shared.clock.now())
    await settle()
    await one.refresh(limits)
    assert used(limits, shared.clock.now()) == [200]


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 100])
async def test_a_window_and_a_day_get_back_what_a_repeat_did_not_use(shared, turns):
    """Whether the server does not know of it yet, is asked, or has replied."""
    one = shared.process()
    limits = [limits_for(one)[1], limits_for(one)[4]]
    first = await take(one, limits, 1_000)
    assert first
    one.settle(first, None, shared.clock.now())
    await settle()
    repeat = one.take(limits, 1_000, shared.clock.now(), is_forced=True)
    assert isinstance(repeat, Taken)
    for _ in range(turns):
        await asyncio.sleep(0)
    one.settle(repeat, 50, shared.clock.now())
    await settle()
    await one.refresh(limits)
    assert used(limits, shared.clock.now()) == [50, 50]
    await shared.clock.advance(62.0)
    await one.refresh(limits)
    assert used(limits, shared.clock.now()) == [0, 50]


async def test_what_was_reserved_without_the_store_is_given_back_in_it(shared):
    one = shared.process()
    limits = [limits_for(one)[1], limits_for(one)[4]]
    shared.fault = "refused"
    alone = [await take(one, limits, 300) for _ in range(3)]
    assert alone[0]
    one.settle(alone[0], 50, shared.clock.now())
    shared.fault = ""
    await shared.clock.advance(RETRY_S)
    assert one.fault is None
    await one.refresh(limits)
    assert used(limits, shared.clock.now()) == [650, 650]
    for taken, tokens in zip(alone[1:], (None, 10), strict=True):
        assert taken
        one.settle(taken, tokens, shared.clock.now())
    await settle()
    await one.refresh(limits)
    assert used(limits, shared.clock.now()) == [60, 60]


NAN = b"\0" * 6 + b"\xf8\x7f"
DAMAGED = {
    "requests.second": (b"", b"x", b"\0" * 6 + b"\xf0\x40", NAN + bytes(600)),
    "tokens.day": (b"short", NAN + bytes(4)),
    "max_concurrent": (b"abc", b"\x81\xa1a\x01", b"\xc1"),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in DAMAGED.items() for value in values])
async def test_a_damaged_record_begins_again_alone(shared, name, value, caplog):
    caplog.set_level(logging.WARNING, "gatepass.limits")
    one = shared.process()
    limits = limits_for(one)
    assert await take(one, limits, 500)
    (key,) = [key for key in shared.client.scan_iter() if name.encode() in shared.client.hgetall(key)]
    shared.client.hset(key, name, value)
    assert await take(one, limits, 500)
    assert one.fault is None
    await one.refresh(limits)
    # a day goes on from what a process knows, and requests in progress are known by their process
    expected = [1 if name == "requests.second" else 2, 1_000, 2, 2, 1_000]
    assert used(limits, shared.clock.now()) == expected
    (event,) = caplog.records
    assert event.message == "limits_record_damaged"
    assert event.fields == {"of": "caller/group" if name == "tokens.day" else "caller/ana"}


async def test_another_value_in_the_place_of_the_records_is_replaced(shared, caplog):
    one = shared.process()
    limits = limit_of(one, REQUESTS, 2)
    assert await take(one, limits)
    (key,) = shared.client.scan_iter()
    shared.client.delete(key)
    shared.client.set(key, "text")
    assert [bool(await take(one, limits)) for _ in range(3)] == [True, True, False]
    assert one.fault is None
    (event,) = [record for record in caplog.records if record.message == "limits_record_damaged"]
    assert event.fields == {"of": "caller/ana"}


async def test_a_day_whose_record_is_new_begins_with_what_a_process_knows(shared):
    one = shared.process()
    second = limits_for(one)[0]
    day = one.attach(Limit(("caller", "ana"), REQUESTS, ("day", 86_400), 5, is_calendar=True))
    day.ahead_s = AHEAD_S
    for _ in range(3):
        assert await take(one, [second, day])
    shared.empty()
    assert await take(one, [second])  # such as a message to an MCP server, which counts no tokens
    await one.refresh([day])
    assert used([day], shared.clock.now()) == [3]


async def test_a_clock_of_the_server_that_is_set_back_keeps_no_request_away(shared):
    one = shared.process()
    limits = [*limit_of(one, REQUESTS, 2), *limit_of(one, TOKENS, 100)]
    shared.ahead_s = 3_600.0
    before = [await take(one, limits, 10) for _ in range(3)]
    assert [bool(taken) for taken in before] == [True, True, False]
    shared.ahead_s = 0.0
    assert [bool(await take(one, limits, 10)) for _ in range(3)] == [True, True, False]
    assert before[0]
    one.settle(before[0], None, shared.clock.now())  # it was forgotten
    await settle()
    await one.refresh(limits)
    assert used(limits, shared.clock.now()) == [2, 20]


async def test_a_request_for_more_tokens_than_a_record_holds_leaves_the_others_counted(shared):
    one = shared.process()
    day = Limit(("caller", "ana"), TOKENS, ("day", 86_400), 1_000, is_calendar=True)
    day.ahead_s = AHEAD_S
    limits = [one.attach(day)]
    assert await take(one, limits, 500)
    taken = one.take(limits, 2**53, shared.clock.now(), is_forced=True)  # as for a repeat at an upstream
    assert isinstance(taken, Taken)
    one.settle(taken, 20, shared.clock.now())
    await settle()
    await one.refresh(limits)
    assert used(limits, shared.clock.now()) == [520]


async def test_what_others_used_of_a_day_is_over_with_the_day(shared):
    key = {"name": "ana", "hash": hash_key("gp-ana-0123456789abcdef"), "limits": {"requests": {"day": 4}}}
    config = Config.model_validate({"upstreams": {"a": {"base_url": "http://a/v1"}}, "access": {"keys": [key]}})
    both = [Admission(config, shared.process(), shared.clock) for _ in range(2)]
    for one in both:
        assert await take(cast(StoreWindows, one.windows), one.limits_of(("caller", "ana")))
    assert [[*one.budgets().values()] for one in both] == [[0.75], [0.5]]
    await shared.clock.advance(101.0)  # the next day begins
    assert [[*one.budgets().values()] for one in both] == [[1.0], [1.0]]
    for one in both:
        await one.windows.aclose()
