"""Each caller has its own thread for heavy bodies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gatepass.proxy.body_threads import INLINE_VALUES, MOST_ON_LOOP_BYTES, BodyThreads, is_heavy

WAIT_S = 10.0


@asynccontextmanager
async def held(threads: BodyThreads, caller: str) -> AsyncIterator[threading.Event]:
    """Occupy the thread of `caller` until the event is set."""
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


async def test_a_caller_waits_for_its_own_work_and_for_no_other_caller():
    threads, done = BodyThreads(), list[str]()
    async with held(threads, "one") as go_on:
        later = asyncio.create_task(threads.run_heavy("one", lambda: done.append("one")))
        await threads.run_heavy("two", lambda: done.append("two"))
        assert done == ["two"]
        go_on.set()
        await later
    assert done == ["two", "one"]


async def test_work_of_a_client_that_left_does_not_begin():
    threads, done = BodyThreads(), list[str]()
    async with held(threads, "one"):
        later = asyncio.create_task(threads.run_heavy("one", lambda: done.append("one")))
        await asyncio.sleep(0)
        later.cancel()
        with pytest.raises(asyncio.CancelledError):
            await later
    assert done == []


async def test_a_thread_ends_with_the_last_work_of_its_caller():
    threads = BodyThreads()
    used = await asyncio.gather(*(threads.run_heavy(f"{number % 3}", threading.current_thread) for number in range(9)))
    for thread in set(used):
        await asyncio.to_thread(thread.join, WAIT_S)
        assert not thread.is_alive()


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
