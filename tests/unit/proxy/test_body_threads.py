"""Callers take turns at the thread for heavy bodies."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from gatepass.json_body import UNCOUNTED_BYTES, TopLevel
from gatepass.normalize.rules import BUILT_IN_RULES
from gatepass.proxy.body_threads import INLINE_VALUES, BodyThreads, Result, is_heavy, normalize_large
from gatepass.types import Target
from tests.unit.normalize.calls import a_call
from tests.waiting import BOUND_S


@asynccontextmanager
async def held(threads: BodyThreads, caller: str) -> AsyncIterator[threading.Event]:
    """Occupy the thread with work of `caller` until the event is set."""
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go_on.wait(BOUND_S)

    task = asyncio.create_task(threads.run_heavy(caller, work))
    assert await asyncio.to_thread(begun.wait, BOUND_S)
    try:
        yield go_on
    finally:
        go_on.set()
        await task


async def test_callers_take_turns():
    threads, done = BodyThreads(), list[str]()

    def begin(caller: str, name: str) -> asyncio.Task[None]:
        return asyncio.create_task(threads.run_heavy(caller, lambda: done.append(name)))

    async with held(threads, "one"):
        works = [begin("one", "a"), begin("one", "b"), begin("one", "c"), begin("two", "d"), begin("three", "e")]
    await asyncio.gather(*works)
    assert done == ["a", "d", "e", "b", "c"]


async def test_a_turn_that_comes_to_a_client_as_it_leaves_goes_on(monkeypatch):
    threads, done, works, end_turn = BodyThreads(), list[str](), list[asyncio.Task[None]](), BodyThreads._end_turn

    def end_and_leave(threads: BodyThreads) -> None:
        end_turn(threads)
        works[0].cancel()

    monkeypatch.setattr(BodyThreads, "_end_turn", end_and_leave)
    async with held(threads, "one"):
        works += [asyncio.create_task(threads.run_heavy(name, partial(done.append, name))) for name in ("two", "three")]
    await works[1]
    assert (done, works[0].cancelled()) == (["three"], True)


async def test_work_of_a_client_that_left_does_not_begin():
    threads, done = BodyThreads(), list[str]()
    async with held(threads, "one"):
        later = asyncio.create_task(threads.run_heavy("one", lambda: done.append("one")))
        asyncio.get_running_loop().call_soon(later.cancel)  # when it has begun to wait for its turn
        with pytest.raises(asyncio.CancelledError):
            await later
    assert done == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'"%b"' % (b"a, b " * 10_000), False),
        (b"[%b]" % (b"1,  " * 10_000), False),
        (b"[%b]" % (b"[]," * INLINE_VALUES), False),
        (b"[%b]" % (b'{"a":"%b"},' % (b"a" * 20) * (INLINE_VALUES + 1)), True),
        (b'"%b"' % (b"a" * UNCOUNTED_BYTES), True),
    ],
    ids=["text", "numbers", "small", "objects", "large"],
)
async def test_a_large_body_and_one_of_many_values_are_heavy(body: bytes, expected: bool):
    assert is_heavy(body) == expected
    thread = await BodyThreads().run("one", body, threading.current_thread)
    assert (thread is not threading.current_thread()) == expected


class CountedWorks(BodyThreads):
    """Counts the works in the thread."""

    works = 0

    async def run_heavy(self, caller: str, work: Callable[[], Result]) -> Result:
        self.works += 1
        return await super().run_heavy(caller, work)


@pytest.mark.parametrize(
    ("messages", "works"),
    [
        (b"[%b{}]" % (b'{"role":"user"},' * 100_000), 0),
        (b'["%b"]' % (b"a" * (16 << 20)), 0),
        (b'[{"role":"user","content":"","images":["iVBORw0KGgoA%b"]}]' % (b"AAAA" * 500_000), 1),
    ],
    ids=["values", "large", "image"],
)
async def test_only_what_is_opened_takes_a_thread(messages: bytes, works: int):
    threads = CountedWorks()
    body = b'{"model":"m","messages":%b}' % messages
    call = a_call(body, top=TopLevel(body))
    target = Target("chat", "deployed")
    changed = await normalize_large(call, target, BUILT_IN_RULES, threads)
    assert changed.body.startswith(b'{"model":"deployed","messages":')
    assert threads.works == works
