from __future__ import annotations

import asyncio

from gatepass.http_client.connection import Deadline
from tests.unit.http_client.loop import advance, driven


class Alarm:
    def __init__(self) -> None:
        self.rung = 0

    def __call__(self) -> None:
        self.rung += 1


def deadline(alarm: Alarm) -> Deadline:
    return Deadline(asyncio.get_running_loop(), alarm)


async def test_last_deadline_applies_if_later_or_earlier():
    for moves, at_s in (((5, 9), 9), ((9, 5), 5), ((5, 9, 7), 7), ((9, 2, 4), 4)):
        alarm = Alarm()
        limit = deadline(alarm)
        for move in moves:
            limit.set(move)
        await advance(at_s - 0.1)
        assert alarm.rung == 0
        await advance(0.2)
        assert alarm.rung == 1


async def test_a_deadline_that_moves_on_needs_no_new_timer():
    """The point of it: a piece each 10 ms costs no timer each."""
    alarm = Alarm()
    limit = deadline(alarm)
    before = driven().timers
    for _ in range(1000):
        limit.set(5)
        await advance(0.01)
        limit.lift()
    assert driven().timers - before <= 3
    limit.set(5)
    await advance(5)
    assert alarm.rung == 1


async def test_a_closed_deadline_never_passes():
    for early in (True, False):
        alarm = Alarm()
        limit = deadline(alarm)
        if early:
            limit.set(5)
        limit.close()
        await advance(100)
        assert alarm.rung == 0
