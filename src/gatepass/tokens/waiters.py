"""The requests that wait for the one flight."""

from __future__ import annotations

import asyncio

from gatepass.runtime import Clock


class Waiters:
    """Each has a future of its own: one that leaves touches nobody else's, and 2,000 that leave at once
    cost no storm of callbacks, as a shield around one shared future does (Soju06/codex-lb#1897).
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, patience_s: float) -> None:
        """Return when `wake` is called, or after `patience_s`: look again in either case."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        timer = self._clock.call_later(patience_s, lambda: _wake(waiter))
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiting.discard(waiter)

    def wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            _wake(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
