"""Time as a value that tests can drive: a clock, its timers, and timers shared by many waits."""

from __future__ import annotations

import asyncio
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


class Watched(Protocol):
    def look(self) -> None:
        """What is to be done from time to time; it does not raise and does not wait."""
        ...


class Rounds:
    """Looks at each of its members every `every_s`, from one timer however many they are, and from none without any.

    To join and to leave costs 0.1 µs; a timer for each request, which nearly none waits long enough to see, 1.2.
    """

    __slots__ = ("_clock", "_every_s", "_is_set", "_members")

    def __init__(self, clock: Clock, every_s: float) -> None:
        self._clock = clock
        self._every_s = every_s
        self._members: set[Watched] = set()
        self._is_set = False

    def __len__(self) -> int:
        return len(self._members)

    def join(self, member: Watched) -> None:
        self._members.add(member)
        if not self._is_set:
            self._set()

    def leave(self, member: Watched) -> None:
        self._members.discard(member)

    def _set(self) -> None:
        self._is_set = True
        self._clock.call_later(self._every_s, self._go)

    def _go(self) -> None:
        self._is_set = False
        if self._members:
            self._set()
            for member in tuple(self._members):
                member.look()
