"""A time limit that moves at every step of a connection."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Deadline:
    """Call `passed` when the time limit that was set last has passed and was not lifted.

    A later limit does not move the timer: when it fires, it is set again for the rest. So `set` is usually one
    comparison.
    """

    __slots__ = ("_at_s", "_due_s", "_loop", "_passed", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], None]) -> None:
        self._loop = loop
        self._passed: Callable[[], None] | None = passed
        self._at_s = self._due_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, delay_s: float) -> None:
        """Replace the limit by one that passes after `delay_s` seconds."""
        self._at_s = self._loop.time() + delay_s
        if self._at_s < self._due_s:
            self._arm()

    def left_s(self) -> float:
        """Return the seconds until the limit passes, infinity without a limit."""
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
        self._timer = self._loop.call_at(self._due_s, self._fire)

    def _fire(self) -> None:
        self._timer, self._due_s = None, math.inf
        if self._at_s > self._loop.time():
            if self._at_s < math.inf:
                self._arm()
        elif self._passed is not None:
            self._at_s = math.inf
            self._passed()
