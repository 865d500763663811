"""Time that tests can control: `Clock`, `sleep` and `PeriodicChecks`, one timer for many requests.

`http_client/deadline.py` has the time limit of a connection, which needs the event loop's own time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Prevent the call if it has not happened yet."""
        ...


class Clock(Protocol):
    """The only source of time in gatepass; tests pass one that they advance."""

    def now(self) -> float:
        """Return monotonic seconds that include suspend. Ages and expiries are measured with it."""
        ...

    def wall(self) -> float:
        """Return seconds since the epoch. Used only to convert absolute dates of other programs."""
        ...

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` after `delay_s` seconds, in the event loop."""
        ...


class SystemClock:
    """The time of the operating system."""

    # CLOCK_BOOTTIME continues during suspend, CLOCK_MONOTONIC does not: a token that expired while a laptop was
    # suspended must be seen as expired afterwards. `partial` avoids a Python frame: each request calls `now` six times.
    now = staticmethod(partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)))
    wall = staticmethod(time.time)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_s, callback)


async def sleep(clock: Clock, delay_s: float) -> None:
    """Wait for `delay_s` seconds of `clock`."""
    done = asyncio.Event()
    timer = clock.call_later(delay_s, done.set)
    try:
        await done.wait()
    finally:
        timer.cancel()


class Checkable(Protocol):
    """A member of PeriodicChecks."""

    def check(self) -> None:
        """Do the periodic work. Must not raise and must not block."""
        ...


class PeriodicChecks:
    """Call `check` of every member each `every_s` seconds, with one timer for all members and none without members.

    Adding and removing a member costs 0.1 µs. A timer per request would cost 1.2 µs and would almost never fire.
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
        self._clock.call_later(self._every_s, self._check_members)

    def _check_members(self) -> None:
        self._is_set = False
        if self._members:
            self._set()
            for member in tuple(self._members):  # a check may add and remove members
                member.check()
