"""How many requests may be sent again although the upstream may have executed them, and after which pause."""

from __future__ import annotations

import random
from collections import deque

WINDOW_S = 10.0
MOST_PERCENT = 20
"""Repeats of the last WINDOW_S, in percent of its requests."""
LEAST_REPEATS = 30
"""Repeats that are allowed in WINDOW_S in any case: 3 a second."""
FIRST_PAUSE_S = 0.25
MOST_PAUSE_S = 8.0
PARTS = 10
"""The parts of WINDOW_S. Only the oldest one is not exact."""


class RetryBudget:
    """The requests of one model in the last WINDOW_S, and how many of them were repeats. `now_s` never decreases.

    The requests of a model share one window, so that retries cannot multiply an outage. The repeats themselves do not
    make the budget larger.
    """

    __slots__ = ("_parts", "_repeats", "_requests", "_until_s")

    def __init__(self) -> None:
        self._requests = self._repeats = 0
        self._parts: deque[tuple[float, int, int]] = deque()
        """When the part began, and the requests and repeats before it: the oldest first."""
        self._until_s = 0.0
        """Until when requests belong to the last part."""

    def add(self, now_s: float, *, is_repeat: bool) -> None:
        if now_s >= self._until_s:
            self._forget(now_s)
            self._parts.append((now_s, self._requests, self._repeats))
            self._until_s = now_s + WINDOW_S / PARTS
        self._requests += not is_repeat
        self._repeats += is_repeat

    def allows_repeat(self, now_s: float) -> bool:
        """Return whether one more repeat fits."""
        self._forget(now_s)
        _, requests, repeats = self._parts[0] if self._parts else (0.0, self._requests, self._repeats)
        requests, repeats = self._requests - requests, self._repeats - repeats
        return (repeats + 1) * 100 <= MOST_PERCENT * requests or repeats < LEAST_REPEATS

    def _forget(self, now_s: float) -> None:
        while self._parts and now_s - self._parts[0][0] >= WINDOW_S:
            self._parts.popleft()


def pause_s(repeats: int) -> float:
    """Return the seconds before the next try at the same target, after `repeats`: exponential, with full jitter."""
    return random.uniform(0.0, min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0**repeats))  # noqa: S311 - no secret
