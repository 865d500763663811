from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest

from gatepass.tokens import Token
from gatepass.tokens.runs import Run, Runs
from tests.unit.clock import settle


def run() -> Run:
    async def work() -> Token:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    return asyncio.create_task(work())


async def ended(*tasks: Run) -> list[bool]:
    await settle(3)
    states = [task.cancelled() for task in tasks]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return states


async def test_a_third_takes_the_place_of_the_newest():
    runs, tasks = Runs(), [run() for _ in range(3)]
    for moment, task in enumerate(tasks):
        runs.add(task, float(moment), awaited=moment == 0)
    assert (len(runs), runs.awaited, runs.begun_s) == (2, True, 0.0)
    assert [runs.remove(task) for task in tasks] == [True, False, True]
    assert (len(runs), runs.awaited) == (0, False)
    assert await ended(*tasks) == [False, True, False]


async def test_what_is_given_up_is_cancelled_and_what_is_let_go_goes_on():
    given_up, let_go, tasks = Runs(), Runs(), [run(), run()]
    given_up.add(tasks[0], 1.0, awaited=True)
    let_go.add(tasks[1], 1.0, awaited=True)
    given_up.give_up()
    let_go.let_go()
    assert (len(given_up), len(let_go), given_up.awaited, let_go.awaited) == (0, 0, False, False)
    assert await ended(*tasks) == [True, False]


ENDS: dict[str, Callable[[Runs, Run], object]] = {
    "ended": lambda runs, awaited: runs.remove(awaited),
    "given up": lambda runs, _: runs.give_up(),
    "let go": lambda runs, _: runs.let_go(),
    "given up for a newer one": lambda runs, _: runs.add(run(), 1.0, awaited=False),
}


@pytest.mark.parametrize("end", ENDS)
async def test_what_has_ended_is_kept_no_longer(end):
    """A task keeps the token that it brought."""
    runs, before, awaited = Runs(), run(), run()
    runs.add(before, 0.0, awaited=False)
    runs.add(awaited, 0.0, awaited=True)
    kept = weakref.ref(awaited)
    ENDS[end](runs, awaited)
    assert not runs.awaited
    runs.give_up()
    await ended(before, awaited)
    del awaited
    gc.collect()
    assert kept() is None


async def test_nobody_waits_for_one_that_began_in_trouble():
    runs, task = Runs(), run()
    runs.add(task, 1.0, awaited=False)
    assert not runs.awaited
    await ended(task)
