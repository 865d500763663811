"""RecentCounts: how many events of the last seconds there were, and how many of them were marked."""

from __future__ import annotations

from collections import deque

PARTS = 10


class RecentCounts:
    """Counts over a sliding window of `window_s` seconds, in PARTS parts. Only the oldest part is not exact.

    `window_s` may differ from call to call. `now_s` never decreases.
    """

    __slots__ = ("_events", "_marked", "_parts", "_until_s")

    def __init__(self) -> None:
        self._events = self._marked = 0
        self._parts: deque[tuple[float, int, int]] = deque()
        """When the part began, and the events and marked events before it: the oldest first."""
        self._until_s = 0.0
        """Until when events belong to the last part."""

    def add(self, now_s: float, window_s: float, *, is_marked: bool) -> None:
        if now_s >= self._until_s:
            self.counts(now_s, window_s)
            self._parts.append((now_s, self._events, self._marked))
            self._until_s = now_s + window_s / PARTS
        self._events += 1
        self._marked += is_marked

    def counts(self, now_s: float, window_s: float) -> tuple[int, int]:
        """Return the number of events, and that of the marked ones."""
        while self._parts and now_s - self._parts[0][0] >= window_s:
            self._parts.popleft()
        if not self._parts:
            self._until_s = 0.0
            return 0, 0
        _, events, marked = self._parts[0]
        return self._events - events, self._marked - marked

    def clear(self) -> None:
        self._parts.clear()
        self._until_s = 0.0
