"""RecentCounts: how many events of the last seconds there were, and how many of them were marked."""

from __future__ import annotations

from collections import deque

PARTS = 10


class RecentCounts:
    """Counts over a sliding window of `window_s` seconds, in PARTS parts. Only the oldest part is not exact.

    `window_s` may change. `now_s` never decreases from call to call.
    """

    __slots__ = ("_parts", "all", "marked", "window_s")

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._parts: deque[tuple[float, list[int]]] = deque()
        """When the part began, and its events and marked events: the oldest first."""
        self.all = self.marked = 0

    def add(self, now_s: float, *, is_marked: bool) -> None:
        self.expire(now_s)
        if not self._parts or now_s - self._parts[-1][0] >= self.window_s / PARTS:
            self._parts.append((now_s, [0, 0]))
        counts = self._parts[-1][1]
        counts[0] += 1
        counts[1] += is_marked
        self.all += 1
        self.marked += is_marked

    def expire(self, now_s: float) -> None:
        """Forget the parts that began before the window."""
        while self._parts and now_s - self._parts[0][0] >= self.window_s:
            _, (events, marked) = self._parts.popleft()
            self.all -= events
            self.marked -= marked

    def clear(self) -> None:
        self._parts.clear()
        self.all = self.marked = 0
