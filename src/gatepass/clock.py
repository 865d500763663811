"""Time as a value that tests can drive: a clock, its timers, and timers shared by many waits.

A time limit that moves at every step.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """All time that gatepass knows. Tests drive one by hand."""

    def now(self) -> float:
        """Seconds that only grow, suspend included: ages and expiries are measured on it."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch: only to translate an absolute date that somebody else wrote."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer: ...


class SystemClock:
    """The machine's time.

    CLOCK_BOOTTIME goes on in suspend where CLOCK_MONOTONIC stands still: a token that died
    while a laptop slept must be seen as dead on wake. No Python frame is around `now`: a request asks six times.
    """

    now = staticmethod(partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)))
    wall = staticmethod(time.time)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_s, callback)


async def sleep(clock: Clock, delay_s: float) -> None:
    """Wait `delay_s` seconds of `clock`."""
    done = asyncio.Event()
    timer = clock.call_later(delay_s, done.set)
    try:
        await done.wait()
    finally:
        timer.cancel()


class Checkable(Protocol):
    def check(self) -> None:
        """What is to be done from time to time; it does not raise and does not wait."""
        ...


class PeriodicChecks:
    """Looks at each of its members every `every_s`, from one timer however many they are, and from none without any.

    To join and to leave costs 0.1 µs; a timer for each request, which nearly none waits long enough to see, 1.2.
    """

    __slots__ = ("_clock", "_every_s", "_is_set", "_members")

    def __init__(self, clock: Clock, every_s: float) -> None:
        self._clock = clock
        self._every_s = every_s
        self._members: set[Checkable] = set()
        self._is_set = False

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: Checkable) -> None:
        self._members.add(member)
        if not self._is_set:
            self._set()

    def remove(self, member: Checkable) -> None:
        self._members.discard(member)

    def _set(self) -> None:
        self._is_set = True
        self._clock.call_later(self._every_s, self._go)

    def _go(self) -> None:
        self._is_set = False
        if self._members:
            self._set()
            for member in tuple(self._members):
                member.check()


class Deadline:
    """Calls `passed` when the limit that was set last has passed and was not lifted.

    One timer serves all limits: it stays where it is when a limit moves away, and looks when it fires
    whether there still is one. So moving a limit is a comparison; a timer of its own for each piece of
    a stream would cost more than relaying the piece.
    """

    __slots__ = ("_at_s", "_due_s", "_loop", "_passed", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], None]) -> None:
        self._loop = loop
        self._passed: Callable[[], None] | None = passed
        self._at_s = self._due_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, delay_s: float) -> None:
        self._at_s = self._loop.time() + delay_s
        if self._at_s < self._due_s:
            self._arm()

    def left_s(self) -> float:
        """Seconds until the limit passes; infinite without one."""
        return self._at_s - self._loop.time()

    def lift(self) -> None:
        self._at_s = math.inf

    def close(self) -> None:
        self._passed, self._at_s = None, math.inf
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = self._at_s
        self._timer = self._loop.call_at(self._due_s, self._look)

    def _look(self) -> None:
        self._timer, self._due_s = None, math.inf
        if self._at_s > self._loop.time():
            if self._at_s < math.inf:
                self._arm()
        elif self._passed is not None:
            self._at_s = math.inf
            self._passed()
