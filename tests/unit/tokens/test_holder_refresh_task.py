from __future__ import annotations

import math

import pytest

from gatepass.cancel import Tasks
from gatepass.tokens.holder import MAX_SLEEP_S, RefreshTask
from tests.unit.clock import DrivenClock, settle


class Tended:
    """What a keeper tends; a look may raise."""

    def __init__(self, *naps: float | BaseException) -> None:
        self.clock = DrivenClock(now=0.0)
        self.naps = list(naps)
        self.looks_s: list[float] = []
        self.errors: list[BaseException] = []
        self.keeper = RefreshTask("corp", self.clock, self.tend, self.errors.append)

    def tend(self) -> float:
        self.looks_s.append(self.clock.now())
        sleep = self.naps.pop(0) if self.naps else math.inf
        if isinstance(sleep, BaseException):
            raise sleep
        return sleep


@pytest.mark.parametrize(
    ("naps", "looks_s"), [((), [0, 5, 10]), ((1.0, 3.0, 4.0), [0, 1, 4, 8]), ((0.0,), [0, 0, 5, 10])]
)
async def test_it_runs_when_it_is_due_and_every_five_seconds(naps, looks_s):
    tended, tasks = Tended(*naps), Tasks()
    tended.keeper.start(tasks)
    await tended.clock.advance(2 * MAX_SLEEP_S)
    assert tended.looks_s == looks_s
    await tasks.aclose()


async def test_roused_it_looks_at_once():
    tended, tasks = Tended(), Tasks()
    tended.keeper.start(tasks)
    await tended.clock.advance(1.0)
    tended.keeper.wake()
    await settle()
    assert tended.looks_s == [0, 1]
    await tasks.aclose()


async def test_after_a_bug_it_continues_and_logs_it():
    bug = KeyError("x")
    tended, tasks = Tended(bug), Tasks()
    tended.keeper.start(tasks)
    await tended.clock.advance(MAX_SLEEP_S)
    assert (tended.looks_s, tended.errors) == ([0, MAX_SLEEP_S], [bug])
    await tasks.aclose()


async def test_once_stopped_it_does_not_begin_again():
    tended, tasks = Tended(KeyError("x")), Tasks()
    tended.keeper.start(tasks)
    tended.keeper.stop()
    await tended.clock.advance(2 * MAX_SLEEP_S)
    assert (tended.looks_s, tended.errors) == ([0], [])
    await tasks.aclose()
