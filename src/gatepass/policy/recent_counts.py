"""RecentCounts: how many events of the last seconds there were, and how many of them were marked."""

from __future__ import annotations

from collections import deque

PARTS = 10


class RecentCounts:
    """Counts over a sliding window of `window_s` seconds, in PARTS parts: exact but for the oldest part.

    `now_s` never decreases from call to call.
    """

    __slots__ = ("_part_s", "_parts", "all", "marked")

    def __init__(self, window_s: float) -> None:
        self._part_s = window_s / PARTS
        self._parts: deque[list[int]] = deque()
        """Number of the part, events, marked events: the oldest first, at most PARTS."""
        self.all = self.marked = 0

    def add(self, now_s: float, *, is_marked: bool) -> None:
        part = self.expire(now_s)
        if not self._parts or self._parts[-1][0] != part:
            self._parts.append([part, 0, 0])
        self._parts[-1][1] += 1
        self._parts[-1][2] += is_marked
        self.all += 1
        self.marked += is_marked

    def expire(self, now_s: float) -> int:
        """Forget what is older than the window. Return the number of the current part."""
        part = int(now_s / self._part_s)
        while self._parts and self._parts[0][0] <= part - PARTS:
            _, events, marked = self._parts.popleft()
            self.all -= events
            self.marked -= marked
        return part

    def clear(self) -> None:
        self._parts.clear()
        self.all = self.marked = 0
