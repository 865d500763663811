"""Share the event loop between streams: bound the time for bytes of upstreams in one iteration of the loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial

TURN_S = 0.002
"""Time for large reads in one iteration. A request on a new connection takes about six iterations."""

SMALL_READ_BYTES = 4 * 1024
"""A smaller read needs no turn: events of a model that writes pass without a wait, however busy other streams are."""

_NEVER_S = -1.0


class LoopTurns:
    """Decides which work on bytes of upstreams happens in this iteration of the loop. The rest waits in its order.

    uvloop reads up to 32 times from one socket in one iteration: 4 MiB from each of 200 streams occupied it for
    seconds, and no new connection was served.
    """

    __slots__ = ("_ends_s", "_now", "_waiting")

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now  # the loop's own time does not pass within an iteration
        self._ends_s: float | None = None
        self._waiting: deque[Callable[[], None]] = deque()

    def begins(self) -> bool:
        """Return whether the caller may work now. If not, it calls `defer`."""
        if self._waiting:
            return False
        if self._ends_s is None:
            self._ends_s = self._now() + TURN_S
            self._run_later()
            return True
        return self._now() < self._ends_s

    def defer(self, work: Callable[[], None]) -> None:
        """Call `work` in a later iteration. It must not raise."""
        self._waiting.append(work)
        if self._ends_s is None:
            self._ends_s = _NEVER_S
            self._run_later()

    async def wait(self) -> None:
        """Return when the calling task may work for a few milliseconds. It has the next iteration alone."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.defer(partial(self._give, waiter))
        await waiter

    def _give(self, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():  # cancelled
            waiter.set_result(None)
            self._ends_s = _NEVER_S

    def _run_later(self) -> None:
        asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        if not self._waiting:
            self._ends_s = None
            return
        self._ends_s = self._now() + TURN_S
        try:
            while self._waiting and self._now() < self._ends_s:
                self._waiting.popleft()()
        finally:
            self._run_later()
