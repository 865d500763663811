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

from gatepass.policy.limits import CONCURRENT, NOTHING, PART_S, REQUESTS, TOKENS, Amounts, Counts, Limit, Refused, Taken
from gatepass.proxy.shared_counts import RENEW_S, RETRY_S, SharedCounts
from gatepass.store.base import Command, StoreUnavailable
from gatepass.store.guarded import GuardedStore
from gatepass.store.limits import LEASE_S, SCRIPT
from tests.integration.store.real_server import INSTALLED, RealServer, real_server
from tests.unit.clock import DrivenClock, settle

TIME = "redis.call('TIME')"
assert SCRIPT.count(TIME) == 1
DRIVEN = SCRIPT.replace(TIME, "{ARGV[#ARGV - 1], ARGV[#ARGV]}")


@pytest.fixture(scope="module", params=INSTALLED)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with real_server(tmp_path_factory.mktemp("server"), request.param) as running:
        yield running


@dataclass
class Machine:
    """A server with a driven clock, for one test. `fault`: it refuses, or it "hangs" until the bound of the client."""

    client: Any
    clock: DrivenClock
    fault: str = ""
    prefix: str = field(default_factory=lambda: secrets.token_hex(8))
    round_trips: int = 0
    gave_up: asyncio.Event = field(default_factory=asyncio.Event)
    processes: list[SharedCounts] = field(default_factory=list)

    def name_of(self, name: str) -> str:
        return f"{self.prefix}:{hash(name)}"

    async def evaluate(self, script: str, commands: Sequence[Command]) -> list[bytes]:
        assert script == SCRIPT
        self.round_trips += 1
        await asyncio.sleep(0)
        if self.fault == "hangs":
            await self.gave_up.wait()
        if self.fault:
            raise StoreUnavailable(self.fault)
        seconds, rest = divmod(round(self.clock.now() * 1e6), 1_000_000)
        found = [
            self.client.eval(DRIVEN, len(names), *names, *arguments, seconds, rest) for names, arguments in commands
        ]
        await asyncio.sleep(0)
        return found

    def empty(self) -> None:
        for key in self.client.keys(f"{self.prefix}*"):
            self.client.delete(key)

    def process(self) -> SharedCounts:
        counts = SharedCounts(cast(GuardedStore, self), self.clock)
        counts.start()
        self.processes.append(counts)
        return counts

    def keys(self) -> list[bytes]:
        return list(self.client.scan_iter(f"{self.prefix}*"))


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


def amounts(tokens: int = 0, concurrent: int = 1) -> Amounts:
    return {REQUESTS: 1, TOKENS: tokens, CONCURRENT: concurrent}


def limits_for(counts: Counts) -> list[Limit]:
    kinds = (
        ("ana", REQUESTS, "minute", 5),
        ("ana", TOKENS, "minute", 1_000),
        ("ana", CONCURRENT, "", 4),
        ("group", REQUESTS, "minute", 8),
        ("group", TOKENS, "day", 6_000),
    )
    made = [Limit(("caller", name), unit, span, most) for name, unit, span, most in kinds]
    for limit in made:
        limit.ahead_s = AHEAD_S
    return [counts.attach(limit) for limit in made]


def used(limits: Sequence[Limit], now_s: float) -> list[int]:
    return [limit.all_used(now_s) for limit in limits]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.sampled_from((0, 1, 250, 999, 1_000)), st.booleans()),
        st.tuples(st.just("settle"), st.integers(0, 9), st.sampled_from((None, 0, 10, 250, 1_000, 3_000))),
        st.tuples(st.just("wait"), st.one_of(st.integers(0, 3), st.integers(11, 14)), st.just(0)),
    ),
    min_size=10,
    max_size=40,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_processes_of_a_server_decide_as_one_process_does(server: RealServer, steps: Any) -> None:
    async def run() -> None:
        async with machine(server) as shared:
            alone, both = Counts(), [shared.process(), shared.process()]
            own, theirs = limits_for(alone), [limits_for(one) for one in both]
            open_takes: list[tuple[Any, Any, int]] = []
            for what, amount, more in steps:
                now_s = shared.clock.now()
                if what == "take":
                    at = int(more)
                    expected = alone.take(own, amounts(amount), now_s)
                    found = await both[at].admit(theirs[at], amounts(amount), now_s)
                    assert type(found) is type(expected)
                    if isinstance(expected, Refused) and isinstance(found, Refused):
                        assert found.wait_s == pytest.approx(expected.wait_s, abs=2e-3)
                    else:
                        open_takes.append((expected, found, at))
                elif what == "settle" and open_takes:
                    expected, found, at = open_takes.pop(amount % len(open_takes))
                    then = NOTHING if more is None else amounts(more, concurrent=0)
                    alone.settle(expected, then, now_s)
                    for _ in range(2):  # the second time does nothing
                        both[at].settle(found, then, now_s)
                    await settle()
                elif what == "wait":
                    await shared.clock.advance((amount + 0.5) * PART_S)
                    for _ in range(int(amount * PART_S / RENEW_S)):
                        await settle()
                for at in (0, 1):
                    await both[at].refresh(theirs[at])
                    assert used(theirs[at], shared.clock.now()) == used(own, shared.clock.now())

    asyncio.run(run())


def limit_of(counts: Counts, unit: str, most: int, owner: str = "ana", span: str = "minute") -> list[Limit]:
    limit = Limit(("caller", owner), unit, "" if unit == CONCURRENT else span, most)
    limit.ahead_s = AHEAD_S
    return [counts.attach(limit)]


async def take(counts: SharedCounts, limits: Sequence[Limit], tokens: int = 0) -> Taken | None:
    result = await counts.admit(limits, amounts(tokens), 0.0)
    return result if isinstance(result, Taken) else None


async def test_a_request_takes_one_round_trip_for_all_of_its_limits_and_names_nobody(shared):
    one = shared.process()
    assert await take(one, limits_for(one), 10)
    assert shared.round_trips == 1
    assert "ana" not in repr(shared.keys())
    lives = sorted(shared.client.ttl(key) for key in shared.keys())  # noqa: SIM118 - of the server
    assert 0 < lives[0] <= LEASE_S < lives[-2] <= 65 < lives[-1] <= 3_700, "a lease, three minutes and a day"


REFUSING = {"requests": (REQUESTS, "minute"), "concurrent": (CONCURRENT, ""), "a day": (REQUESTS, "day")}


@pytest.mark.parametrize("by", REFUSING)
async def test_a_request_that_is_refused_or_given_back_leaves_no_key(shared, by):
    one = shared.process()
    unit, span = REFUSING[by]
    narrow = limit_of(one, unit, 1, "narrow", span)
    wide = [
        *limit_of(one, TOKENS, 900, "wide", "day"),
        *limit_of(one, REQUESTS, 9, "wide"),
        *limit_of(one, CONCURRENT, 9),
    ]
    taken = await take(one, narrow)
    assert taken
    before = shared.keys()
    assert not await take(one, [*wide, *narrow], 100)
    assert shared.keys() == before
    one.settle(taken, NOTHING, shared.clock.now())
    await settle()
    assert shared.keys() == []


async def test_a_refusal_states_what_the_other_processes_left_of_each_limit(shared):
    both = [shared.process() for _ in range(2)]
    limits = [[*limit_of(one, REQUESTS, 5, "wide"), *limit_of(one, REQUESTS, 1, "narrow")] for one in both]
    assert await take(both[1], limits[1])
    for _ in range(2):
        assert await take(both[0], limits[0][:1])
    refused = await both[1].admit(limits[1], amounts(), 0.0)
    assert isinstance(refused, Refused)
    assert refused.limit is limits[1][1]
    assert used(limits[1], shared.clock.now()) == [3, 1]


async def test_a_killed_process_frees_its_slots_and_a_living_one_keeps_them(shared):
    killed, living, third = (shared.process() for _ in range(3))
    limits = [limit_of(one, CONCURRENT, 2) for one in (killed, living, third)]
    assert await take(killed, limits[0])
    kept = await take(living, limits[1])
    assert kept
    await killed._tasks.aclose()  # it renews nothing any more
    for _ in range(2):
        await shared.clock.advance(RENEW_S)
    assert not await take(third, limits[2])
    await shared.clock.advance(LEASE_S - 2 * RENEW_S)
    assert await take(third, limits[2])
    assert not await take(third, limits[2])
    living.settle(kept, NOTHING, 0.0)
    await settle()
    assert await take(third, limits[2])


async def test_a_paused_process_takes_its_leases_again_when_it_goes_on(shared):
    paused, other = shared.process(), shared.process()
    limits = [limit_of(one, CONCURRENT, 1) for one in (paused, other)]
    assert await take(paused, limits[0])
    shared.clock.suspend(LEASE_S + 1.0)  # no timer fires meanwhile
    assert await take(other, limits[1])
    await shared.clock.advance(RENEW_S)
    await other.refresh(limits[1])
    assert used(limits[1], shared.clock.now()) == [2]


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
            one.settle(taken, NOTHING, shared.clock.now())
        await settle()
        await one.refresh(limits)
        assert (used(limits, shared.clock.now()), shared.keys()) == ([0, 0], [])
    assert 3 < cancelled < 12


@pytest.mark.parametrize("turns", range(0, 9, 2))
@pytest.mark.parametrize("fault", ["refused", "hangs"])
async def test_no_process_admits_more_than_the_limit_whenever_the_store_fails(shared, fault, turns):
    """What a process did not hear of may count twice, and is never forgotten."""
    both = [shared.process() for _ in range(2)]
    limits = [limit_of(one, REQUESTS, 6) for one in both]
    for one, own in zip(both, limits, strict=True):
        assert await take(one, own)
    asking = [asyncio.create_task(take(one, own)) for one, own in zip(both, limits, strict=True)]
    for _ in range(turns):
        await asyncio.sleep(0)
    shared.fault = fault
    await settle()
    shared.gave_up.set()
    assert all([await one for one in asking])
    shared.fault = ""
    for _ in range(2):
        await shared.clock.advance(RETRY_S)
    assert [one.fault for one in both] == [None, None]
    admitted = 4
    for _ in range(3):
        admitted += sum([bool(await take(one, own)) for one, own in zip(both, limits, strict=True)])
    assert 4 <= admitted <= 6
    await both[0].refresh(limits[0])
    assert used(limits[0], shared.clock.now())[0] >= admitted


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
    both[0].settle(before, NOTHING, shared.clock.now())
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


async def test_what_is_given_back_while_the_store_fails_is_not_sent_twice(shared):
    """The server may have it. Twice, it would lower what others used."""
    one = shared.process()
    limits = limit_of(one, TOKENS, 1_000)
    taken = await take(one, limits, 900)
    assert taken
    shared.fault = "refused"
    one.settle(taken, amounts(200), shared.clock.now())
    await settle()
    shared.fault = ""
    for _ in range(2):
        await shared.clock.advance(RETRY_S)
    await one.refresh(limits)
    assert used(limits, shared.clock.now()) == [900]


async def test_requests_in_progress_count_again_after_the_store_was_emptied(shared):
    both = [shared.process() for _ in range(2)]
    limits = [limit_of(one, CONCURRENT, 2) for one in both]
    taken = [await take(one, own) for one, own in zip(both, limits, strict=True)]
    shared.empty()
    await shared.clock.advance(RENEW_S)
    assert not any([await take(one, own) for one, own in zip(both, limits, strict=True)])
    for one, own in zip(both, taken, strict=True):
        assert own
        one.settle(own, NOTHING, 0.0)
        await one.aclose()
    assert shared.keys() == []


async def test_a_day_goes_on_from_what_a_process_knows_after_the_store_was_emptied(shared):
    both = [shared.process() for _ in range(2)]
    limits = [limits_for(one)[-1:] for one in both]
    assert await take(both[0], limits[0], 1_000)
    taken = await take(both[1], limits[1], 2_000)
    assert taken
    both[1].settle(taken, amounts(1_500), shared.clock.now())
    await settle()
    shared.empty()
    await shared.clock.advance(1.0)
    assert await take(both[1], limits[1], 100)
    assert used(limits[1], shared.clock.now()) == [2_600]
    assert await take(both[0], limits[0], 3_400)
    await shared.clock.advance(99.0)  # the next day begins
    assert await take(both[0], limits[0], 5_999)
    refused = await both[1].admit(limits[1], amounts(2), shared.clock.now())
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
        one.settle(taken, amounts(100), shared.clock.now())
    shared.empty()
    shared.fault = ""
    await shared.clock.advance(RETRY_S)
    await shared.clock.advance(RETRY_S)
    await one.refresh(limits)
    assert used(limits, shared.clock.now()) == [1_200]


async def test_requests_that_come_while_the_store_returns_do_not_keep_it_away(shared: Machine):
    one = shared.process()
    limits = limit_of(one, REQUESTS, 1_000_000)

    async def under_load(script: str, commands: Any) -> list[bytes]:
        if not shared.fault:
            one.take(limits, amounts(), shared.clock.now())
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


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 100])
async def test_a_minute_and_a_day_get_back_what_a_repeat_did_not_use(shared, turns):
    """Whether the server does not know of it yet, is asked, or has replied."""
    one = shared.process()
    limits = [limits_for(one)[1], limits_for(one)[4]]
    first = await take(one, limits, 1_000)
    assert first
    one.settle(first, NOTHING, shared.clock.now())
    await settle()
    repeat = one.take(limits, amounts(1_000), shared.clock.now(), is_forced=True)
    assert isinstance(repeat, Taken)
    for _ in range(turns):
        await asyncio.sleep(0)
    one.settle(repeat, amounts(50), shared.clock.now())
    await settle()
    await one.refresh(limits)
    assert used(limits, shared.clock.now()) == [50, 50]
    await shared.clock.advance(66.0)
    await one.refresh(limits)
    assert used(limits, shared.clock.now()) == [0, 50]
