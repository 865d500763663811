"""Heavy bodies are read in a thread."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial

import pytest

from gatepass.json_body import UNCOUNTED_BYTES, TopLevel
from gatepass.normalize.rules import BUILT_IN_RULES
from gatepass.proxy.body_threads import INLINE_VALUES, BodyThreads, Result, is_heavy, normalize_large
from gatepass.types import Target
from tests.unit.normalize.calls import a_call
from tests.waiting import until


async def test_work_of_a_client_that_left_does_not_begin():
    threads, done, go_on = BodyThreads(), list[str](), threading.Event()
    first = asyncio.create_task(threads.run_heavy("a", go_on.wait))
    later = asyncio.create_task(threads.run_heavy("a", lambda: done.append("one")))
    await until(lambda: threads.turns.waiting)
    later.cancel()
    await asyncio.wait([later])
    go_on.set()
    await first
    await threads.run_heavy("a", int)
    assert (later.cancelled(), done) == (True, [])


@pytest.mark.parametrize("leaves", [False, True])
async def test_callers_take_turns_at_the_thread(leaves: bool):
    threads, done, go_on = BodyThreads(), list[str](), threading.Event()
    first = asyncio.create_task(threads.run_heavy("a", go_on.wait))
    await until(lambda: threads.turns.is_full)
    names = ["a"] * 24 + ["b", "c", "b"]
    rest = [asyncio.create_task(threads.run_heavy(name, partial(done.append, name))) for name in names]
    await until(lambda: len(threads.turns.waiting) == len(names))
    if leaves:  # its work goes on in the thread, behind which one of the next caller may wait
        first.cancel()
        await asyncio.wait([first])
    go_on.set()
    await asyncio.gather(*rest)
    assert done == ["a", "b", "c", "a", "b", *"a" * 22]


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
    thread = await BodyThreads().run("a", body, threading.current_thread)
    assert (thread is not threading.current_thread()) == expected


class CountedWorks(BodyThreads):
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
