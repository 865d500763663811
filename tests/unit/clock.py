"""A clock that a test drives by hand: no test waits for real time to pass."""

import asyncio
import heapq
from collections.abc import Callable


class _Timer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.callback = lambda: None  # as asyncio's, it keeps nothing alive


async def settle(rounds: int = 50) -> None:
    """Let every task that can run do so; end early once none is left and only this task can go on."""
    loop = asyncio.get_running_loop()
    for _ in range(rounds):
        await asyncio.sleep(0)
        if _is_idle(loop):
            return


def _is_idle(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether no other task is ready, and neither a socket nor a thread can wake one.

    Without this check, nine tenths of the time of the token tests are empty turns of the loop. asyncio has no public
    way to ask; on another loop (uvloop) the answer is no.
    """
    if not isinstance(loop, asyncio.SelectorEventLoop):
        return False
    private = vars(loop)
    watches_itself_alone = len(private["_selector"].get_map()) == 1  # its wake-up socket
    return watches_itself_alone and not private["_ready"] and private["_default_executor"] is None


class DrivenClock:
    def __init__(self, now: float = 1_000.0, wall: float = 1_800_000_000.0) -> None:
        self._now, self._wall = now, wall
        self._timers: list[tuple[float, int, _Timer]] = []
        self._count = 0

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._wall

    def jump_wall(self, by_s: float) -> None:
        self._wall += by_s

    def suspend(self, by_s: float, *, delays_timers: bool = False) -> None:
        """Let time pass while nothing runs, as in a suspended machine: due timers fire at the next `advance`.

        `delays_timers`: the clock of the timers stood still, so each fires `by_s` later.
        """
        self._now += by_s
        if delays_timers:
            self._timers = [(due_s + by_s, number, timer) for due_s, number, timer in self._timers]

    @property
    def has_timers(self) -> bool:
        """Whether a timer is set that has neither fired nor been cancelled."""
        return not all(timer.cancelled for _, _, timer in self._timers)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> _Timer:
        timer = _Timer(callback)
        self._count += 1
        heapq.heappush(self._timers, (self._now + max(delay_s, 0.0), self._count, timer))
        return timer

    async def advance(self, by_s: float) -> None:
        """Move on by `by_s` seconds; each timer fires at its own moment, in order."""
        await settle()
        end, wall_offset = self._now + by_s, self._wall - self._now
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            self._wall = self._now + wall_offset
            if not timer.cancelled:
                timer.callback()
                await settle()
        self._now, self._wall = end, end + wall_offset
        await settle()
