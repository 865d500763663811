"""Time that tests can control: `Clock` and `sleep`.

`Deadline` (`http_client/connection.py`) is the time limit of an upstream's connection, by the event loop's own time.
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


class Clock(Protocol):
    """The only source of time in gatepass; tests pass one that they advance."""

    def now(self) -> float:
        """Return monotonic seconds that include suspend. Ages and expiries are measured with it."""

    def wall(self) -> float:
        """Return seconds since the epoch. Used only to convert absolute dates of other programs."""

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` after `delay_s` seconds, in the event loop."""


class SystemClock:
    """The time of the operating system."""

    # CLOCK_BOOTTIME continues during suspend, CLOCK_MONOTONIC does not: a token that expired while a laptop was
    # suspended must be seen as expired afterwards. `partial` avoids a Python frame: each request calls `now` six times.
    now = staticmethod(partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)))
    wall = staticmethod(time.time)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_s, callback)


async def sleep(clock: Clock, delay_s: float) -> None:
    await wait_at_most(asyncio.Event(), delay_s, clock)


async def wait_at_most(event: asyncio.Event, limit_s: float, clock: Clock) -> None:
    """Wait until `event` is set, and set it after `limit_s` seconds of `clock`."""
    timer = clock.call_later(limit_s, event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()
