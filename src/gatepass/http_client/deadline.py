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

    __slots__ = ("_due_s", "_loop", "_passed", "_timer", "at_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], None]) -> None:
        self._loop = loop
        self._passed: Callable[[], None] | None = passed
        self.at_s = self._due_s = math.inf
        """The moment of the limit. While one is set, it may be replaced by a later one without a call."""
        self._timer: asyncio.TimerHandle | None = None

    def set(self, delay_s: float) -> None:
        """Replace the limit by one that passes after `delay_s` seconds."""
        self.at_s = self._loop.time() + delay_s
        if self.at_s < self._due_s:
            self._arm()

    def left_s(self) -> float:
        """Return the seconds until the limit passes, infinity without a limit."""
        return self.at_s - self._loop.time()

    def lift(self) -> None:
        self.at_s = math.inf

    def close(self) -> None:
        self._passed, self.at_s = None, math.inf
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = self.at_s
        self._timer = self._loop.call_at(self._due_s, self._fire)

    def _fire(self) -> None:
        self._timer, self._due_s = None, math.inf
        if self.at_s > self._loop.time():
            if self.at_s < math.inf:
                self._arm()
        elif self._passed is not None:
            self.at_s = math.inf
            self._passed()
