"""Callers take turns at the thread for heavy bodies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from gatepass.proxy.body_threads import INLINE_VALUES, MOST_ON_LOOP_BYTES, BodyThreads, is_heavy

WAIT_S = 10.0


@asynccontextmanager
async def held(threads: BodyThreads, caller: str) -> AsyncIterator[threading.Event]:
    """Occupy the thread with work of `caller` until the event is set."""
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go_on.wait(WAIT_S)

    task = asyncio.create_task(threads.run_heavy(caller, work))
    assert await asyncio.to_thread(begun.wait, WAIT_S)
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


async def test_a_client_that_leaves_when_its_turn_came_gives_it_to_the_next():
    threads, done = BodyThreads(), list[str]()
    first = asyncio.create_task(threads.run_heavy("one", lambda: done.append("first")))
    left, stays = (
        asyncio.create_task(threads.run_heavy(name, partial(done.append, name))) for name in ("two", "three")
    )
    first.add_done_callback(lambda _: left.cancel())
    await asyncio.wait_for(stays, WAIT_S)
    assert (done[0], done[-1]) == ("first", "three")
    assert (await asyncio.gather(left, return_exceptions=True))[0] is None or left.cancelled()


async def test_work_of_a_client_that_left_does_not_begin():
    threads, done = BodyThreads(), list[str]()
    async with held(threads, "one"):
        later = asyncio.create_task(threads.run_heavy("one", lambda: done.append("one")))
        asyncio.get_running_loop().call_soon(later.cancel)  # when it has begun to wait for its turn
        with pytest.raises(asyncio.CancelledError):
            await later
    assert done == []


async def test_an_error_of_the_work_is_that_of_its_caller():
    def fail() -> None:
        raise ValueError("not valid")

    with pytest.raises(ValueError, match="not valid"):
        await BodyThreads().run_heavy("one", fail)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'"%b"' % (b"a, [b] " * 10_000), False),
        (b"[%b]" % (b"1," * INLINE_VALUES), False),
        (b"[%b]" % (b"1,  " * 10_000), True),
        (b'["%b",%b]' % (b'\\"' * 20_000, b"1," * INLINE_VALUES), True),
        (b'"%b"' % (b"a" * MOST_ON_LOOP_BYTES), True),
    ],
    ids=["text", "small", "numbers", "text and numbers", "large"],
)
async def test_a_large_body_and_one_of_many_values_are_heavy(body: bytes, expected: bool):
    assert is_heavy(body) == expected
    thread = await BodyThreads().run("one", body, threading.current_thread)
    assert (thread is not threading.current_thread()) == expected
