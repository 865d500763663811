from __future__ import annotations

import math

import pytest

from gatepass.cancel import Tasks
from gatepass.tokens.holder import MAX_SLEEP_S, RefreshTask
from tests.unit.clock import DrivenClock, settle


class Calls:
    """Records the calls of `run_due`; a call may raise."""

    def __init__(self, *pauses: float | BaseException) -> None:
        self.clock = DrivenClock(now=0.0)
        self.pauses = list(pauses)
        self.called_s: list[float] = []
        self.errors: list[BaseException] = []
        self.refresh_task = RefreshTask("corp", self.clock, self.run_due, self.errors.append)

    def run_due(self) -> float:
        self.called_s.append(self.clock.now())
        sleep = self.pauses.pop(0) if self.pauses else math.inf
        if isinstance(sleep, BaseException):
            raise sleep
        return sleep


@pytest.mark.parametrize(
    ("pauses", "called_s"), [((), [0, 5, 10]), ((1.0, 3.0, 4.0), [0, 1, 4, 8]), ((0.0,), [0, 0, 5, 10])]
)
async def test_refresh_task_runs_when_due_and_every_five_seconds(pauses, called_s):
    calls, tasks = Calls(*pauses), Tasks()
    calls.refresh_task.start(tasks)
    await calls.clock.advance(2 * MAX_SLEEP_S)
    assert calls.called_s == called_s
    await tasks.aclose()


async def test_woken_it_runs_at_once():
    calls, tasks = Calls(), Tasks()
    calls.refresh_task.start(tasks)
    await calls.clock.advance(1.0)
    calls.refresh_task.wake()
    await settle()
    assert calls.called_s == [0, 1]
    await tasks.aclose()


async def test_after_a_bug_it_continues_and_logs_it():
    bug = KeyError("x")
    calls, tasks = Calls(bug), Tasks()
    calls.refresh_task.start(tasks)
    await calls.clock.advance(MAX_SLEEP_S)
    assert (calls.called_s, calls.errors) == ([0, MAX_SLEEP_S], [bug])
    await tasks.aclose()


async def test_stopped_refresh_task_does_not_restart():
    calls, tasks = Calls(KeyError("x")), Tasks()
    calls.refresh_task.start(tasks)
    calls.refresh_task.stop()
    await calls.clock.advance(2 * MAX_SLEEP_S)
    assert (calls.called_s, calls.errors) == ([0], [])
    await tasks.aclose()
