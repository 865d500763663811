"""Several processes with one store: what one has learned, the others go by."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gatepass.adapt.learned import Key, Subject
from gatepass.adapt.ledger import GRACE_S
from gatepass.adapt.lesson import HOUR_S, Lesson
from gatepass.adapt.memory import Memory
from gatepass.adapt.sharing import LOOK_S, WHOLE_S, Names, SharedLessons, shared_names
from gatepass.config.model import Config
from gatepass.config.upstream import Upstream
from gatepass.store.guard import GuardedStore
from gatepass.store.memory import MemoryStore
from gatepass.store.seam import Reach
from gatepass.store.snapshot import SYNC_S, Snapshot
from tests.unit.clock import DrivenClock, settle
from tests.unit.tokens.fleet import BOUND_S, OwnClock, Wire

NAMES = {
    name: Names.of(name, Upstream.model_validate({"base_url": f"https://{name}.example/v1"}))
    for name in ("chat", "azure")
}
CHAT, AZURE = Subject("chat", "o3-mini", "chat"), Subject("azure", "gpt-5", "chat")
SYNTH, DROP = Lesson("stream", "synth"), Lesson("drop", "seed")
SOON_S = 2 * LOOK_S + SYNC_S
"""Written by one, heard of and read by another."""


class Process:
    """One process: its memory, and its way to the store."""

    def __init__(self, store: MemoryStore, clock: DrivenClock, ahead_s: float) -> None:
        self.clock = OwnClock(clock, ahead_s)
        self.wire = Wire(store, self.clock)
        guarded = GuardedStore(self.wire, self.clock, BOUND_S)
        self.snapshot = Snapshot(guarded, self.clock)
        self.memory = Memory()
        self.shared = SharedLessons(self.memory, NAMES, guarded, self.snapshot, self.clock)

    def learns(self, lesson: Lesson = SYNTH, subject: Subject = CHAT) -> Key:
        key = (subject, lesson.key)
        self.memory.commit(key, lesson, f"no {lesson.field}", self.clock.now())
        return key

    def knows(self, subject: Subject = CHAT) -> list[Lesson]:
        return [lesson for _, lesson in self.memory.of(subject)]

    def left_s(self, key: Key) -> float:
        (one,) = (one for one in self.memory.learned(self.clock.now(), 0.0) if one.key == key)
        return one.expires_at

    async def aclose(self) -> None:
        await self.shared.aclose()
        await self.snapshot.aclose()


class Machine:
    """Processes in one loop; their clocks differ by `ahead_s`. Use as `async with`."""

    def __init__(self, *ahead_s: float) -> None:
        self.clock = DrivenClock()
        self.store = MemoryStore(OwnClock(self.clock, 1_700_000_000.0))
        self.processes = [self.made(ahead) for ahead in ahead_s or (0.0, 0.0)]

    def made(self, ahead_s: float = 0.0) -> Process:
        return Process(self.store, self.clock, ahead_s)

    async def __aenter__(self) -> list[Process]:
        for process in self.processes:
            process.snapshot.start()
            process.shared.start()
        await settle()
        return self.processes

    async def __aexit__(self, *_: object) -> None:
        for process in self.processes:
            await process.aclose()
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    async def join(self) -> Process:
        process = self.made()
        self.processes.append(process)
        process.snapshot.start()
        process.shared.start()
        await settle()
        return process

    async def leave(self, process: Process) -> None:
        self.processes.remove(process)
        await process.aclose()

    async def suspend(self, by_s: float) -> None:
        """All machines sleep, and go on with what has become due."""
        self.clock._now += by_s
        self.clock._wall += by_s
        await self.clock.advance(0.0)

    async def empty(self) -> None:
        for names in NAMES.values():
            await self.store.drop(names.ledger)
            await self.store.drop(names.mark)


async def test_what_one_process_learned_the_others_go_by_within_two_seconds(caplog):
    caplog.set_level(logging.DEBUG, "gatepass.lessons")
    machine = Machine(0.0, 0.0, 0.0)
    async with machine as (one, other, third):
        one.memory.used(one.learns())
        third.learns(DROP, AZURE)
        await machine.clock.advance(SOON_S)
        assert [process.knows() for process in (one, other, third)] == [[SYNTH]] * 3
        assert [process.knows(AZURE) for process in (one, other, third)] == [[DROP]] * 3
        (told,) = (one for one in other.memory.learned(0.0, 0.0) if one.subject == CHAT)
        assert (told.evidence, told.uses) == ("no synth", 0)
    assert {record.message for record in caplog.records} == {"lessons_found"}


async def test_a_process_that_starts_later_knows_it_at_once():
    machine = Machine(0.0)
    async with machine as (one,):
        one.learns()
        await machine.clock.advance(SOON_S)
        await machine.leave(one)
        assert (await machine.join()).knows() == [SYNTH]


async def test_what_was_learned_in_the_last_moment_is_written_before_the_end():
    machine = Machine(0.0)
    async with machine as (one,):
        await machine.clock.advance(SOON_S)
        one.learns()
        await machine.leave(one)
        assert (await machine.join()).knows() == [SYNTH]


async def test_clocks_that_differ_change_no_end():
    machine = Machine(0.0, 86_400.0, -500.0)
    async with machine as (one, other, third):
        key = one.learns()
        await machine.clock.advance(SOON_S)
        await machine.suspend(600 - SOON_S)
        lefts = [process.left_s(key) for process in (one, other, third)]
        assert lefts == pytest.approx([HOUR_S - 600] * 3, abs=0.01)


async def test_what_a_probe_showed_to_be_over_is_over_for_all():
    machine = Machine()
    async with machine as (one, other):
        key = one.learns()
        other.learns(DROP)
        await machine.clock.advance(SOON_S)
        other.memory.forget(key)
        await machine.clock.advance(SOON_S)
        assert [process.knows() for process in (one, other)] == [[DROP]] * 2
        assert (await machine.join()).knows() == [DROP]
        one.memory.forget((CHAT, DROP.key))
        await machine.clock.advance(SOON_S)
        assert [process.knows() for process in machine.processes] == [[]] * 3


async def test_what_was_renewed_is_renewed_for_all():
    machine = Machine()
    async with machine as (one, other):
        key = one.learns()
        await machine.clock.advance(SOON_S)
        await machine.suspend(HOUR_S)
        assert other.memory.is_due(key, other.clock.now())
        one.memory.renew(key, one.clock.now())
        await machine.clock.advance(SOON_S)
        assert not other.memory.is_due(key, other.clock.now())
        assert other.left_s(key) == pytest.approx(HOUR_S - SOON_S, abs=0.01)


async def test_a_lesson_past_its_time_holds_where_it_was_learned():
    machine = Machine()
    async with machine as (one, other):
        one.learns()
        await machine.clock.advance(SOON_S)
        await machine.suspend(HOUR_S + GRACE_S)
        await machine.clock.advance(SOON_S)
        assert [process.knows() for process in (one, other)] == [[SYNTH]] * 2
        assert (await machine.join()).knows() == []


async def test_idle_processes_ask_for_marks_alone():
    machine = Machine()
    async with machine as (one, other):
        one.learns()
        await machine.clock.advance(SOON_S + LOOK_S)
        for process in (one, other):
            process.wire.requests.clear()
        await machine.clock.advance(WHOLE_S - 5)
        assert {request for process in (one, other) for request in process.wire.requests} == {("get", "lessons-mark")}
        assert len(one.wire.requests) == (WHOLE_S - 5) / SYNC_S


async def test_a_burst_of_lessons_is_written_together():
    machine = Machine()
    async with machine as (one, other):
        await machine.clock.advance(LOOK_S / 2)
        for number in range(20):
            one.learns(Lesson("drop", f"metadata.x{number}"))
        one.wire.requests.clear()
        await machine.clock.advance(SOON_S)
        assert len(other.knows()) == 20
        assert one.wire.requests.count(("put", "lessons")) == 1


async def test_who_has_written_does_not_read_its_own_news():
    machine = Machine()
    async with machine as (one, other):
        one.learns()
        await machine.clock.advance(2 * SOON_S)
        before = one.wire.requests.count(("put", "lessons"))
        one.wire.requests.clear()
        other.wire.requests.clear()
        one.learns(DROP)
        await machine.clock.advance(2 * SOON_S)
        reads = [wire.requests.count(("get", "lessons-mark")) for wire in (one.wire, other.wire)]
        assert (before, one.wire.requests.count(("put", "lessons")), other.knows()) == (1, 1, [SYNTH, DROP])
        followed = 2 * SOON_S / SYNC_S
        assert reads == [followed + 2, followed + 2], (
            "one read before the write and one in it; one of the news, one after"
        )


async def test_two_that_learn_at_once_lose_nothing():
    machine = Machine()
    async with machine as (one, other):
        one.learns()
        other.learns(DROP)
        one.wire.delay_s = other.wire.delay_s = 0.1
        await machine.clock.advance(4 * SOON_S)
        assert [set(process.knows()) for process in (one, other)] == [{SYNTH, DROP}] * 2


@pytest.mark.parametrize("state", ["down", "hung"])
async def test_while_the_store_is_away_nothing_is_lost_but_the_sharing(state):
    machine = Machine()
    async with machine as (one, other):
        one.wire.state = state
        one.learns()
        await machine.clock.advance(30)
        assert (one.knows(), other.knows()) == ([SYNTH], [])
        other.learns(DROP)
        one.wire.state = "up"
        await machine.clock.advance(2 * SOON_S)
        assert [set(process.knows()) for process in (one, other)] == [{SYNTH, DROP}] * 2


@pytest.mark.parametrize("state", ["down", "hung"])
async def test_a_store_that_is_away_delays_no_end_for_long(state):
    machine = Machine(0.0)
    async with machine as (one,):
        await machine.clock.advance(SOON_S)
        one.learns()
        one.wire.state = state
        leaving = asyncio.create_task(machine.leave(one))
        await machine.clock.advance(2 * BOUND_S)
        assert leaving.done()
        await leaving


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_store_that_comes_back_empty_is_filled_again_and_nothing_is_forgotten(goes_on):
    machine = Machine()
    async with machine as (one, other):
        one.learns()
        other.learns(DROP)
        await machine.clock.advance(SOON_S)
        await machine.empty()
        if goes_on:
            one.learns(DROP, AZURE)
        await machine.clock.advance(WHOLE_S + SOON_S)
        assert [set(process.knows()) for process in (one, other)] == [{SYNTH, DROP}] * 2
        assert set((await machine.join()).knows()) == {SYNTH, DROP}


async def test_rubbish_in_the_store_is_written_over():
    machine = Machine()
    await machine.store.put(NAMES["chat"].ledger, b"\xff", 600.0)
    async with machine as (one, other):
        one.learns()
        await machine.clock.advance(SOON_S)
        assert other.knows() == [SYNTH]


async def test_whose_lease_is_held_writes_later():
    machine = Machine()
    async with machine as (one, other):
        await machine.store.lease(NAMES["chat"].lease, "somebody who died", 2.0)
        one.learns()
        await machine.clock.advance(1.5)
        assert other.knows() == []
        await machine.clock.advance(SOON_S)
        assert other.knows() == [SYNTH]


@pytest.mark.parametrize("at", range(1, 8))
async def test_an_end_at_any_request_leaves_a_store_that_others_can_use(at):
    """Cancelled at each await of a write: the lease is given back, and what is there is whole."""
    machine = Machine()
    async with machine as (one, other):
        await machine.clock.advance(SOON_S)
        one.learns()
        one.wire.requests.clear()
        reached = asyncio.Event()

        def hang(number: int) -> None:
            if number == at:
                one.wire.state = "hung"
                reached.set()

        one.wire.at_request = hang
        await machine.clock.advance(LOOK_S + SYNC_S)
        assert reached.is_set()
        one.wire.at_request = lambda _: None
        leaving = asyncio.create_task(machine.leave(one))
        await machine.clock.advance(0.01)
        one.wire.state = "up"
        await machine.clock.advance(1.0)
        await leaving
        other.learns(DROP)
        await machine.clock.advance(3 * SOON_S)
        assert DROP in (await machine.join()).knows()
        assert set(other.knows()) >= {DROP}


async def test_a_lesson_about_an_upstream_that_shares_nothing_stays_here():
    machine = Machine()
    async with machine as (one, other):
        one.learns(SYNTH, Subject("alone", "m", "chat"))
        await machine.clock.advance(SOON_S)
        assert other.memory.learned(0.0, 0.0) == []


def configured(**upstreams: object) -> Config:
    models = {"*": {"upstream": next(iter(upstreams))}}
    return Config.model_validate({"upstreams": upstreams, "models": models})


def test_only_processes_that_mean_the_same_server_share():
    settings = {"base_url": "https://h/v1"}
    here = shared_names(configured(chat=settings), Reach.NETWORK)["chat"]
    assert shared_names(configured(chat={**settings, "timeouts": {"idle_s": 5}}), Reach.MACHINE)["chat"] == here
    others = [configured(other=settings), configured(chat={**settings, "base_url": "https://h/v2"})]
    assert not any(here in shared_names(config, Reach.NETWORK).values() for config in others)
    assert len({here.ledger, here.mark, here.lease}) == 3


def test_what_is_not_gone_by_and_what_no_other_process_sees_is_not_shared():
    settings = {"base_url": "https://h/v1"}
    config = configured(a=settings, b={**settings, "learn": "observe"}, c={**settings, "learn": "off"})
    assert list(shared_names(config, Reach.MACHINE)) == ["a"]
    assert shared_names(config, Reach.PROCESS) == {}
