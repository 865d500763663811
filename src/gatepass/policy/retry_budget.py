"""RetryBudget: how many requests may be sent again although the upstream may have executed them."""

from __future__ import annotations

import random

from gatepass.policy.recent_counts import RecentCounts

WINDOW_S = 10.0
MOST_PERCENT = 20
"""Repeats of the last WINDOW_S, in percent of its requests."""
LEAST_REPEATS = 30
"""Repeats that are allowed in WINDOW_S in any case: 3 a second."""
FIRST_PAUSE_S = 0.25
MOST_PAUSE_S = 8.0


class RetryBudget:
    """The repeats of one model in one process. They share one window, so that retries cannot multiply an outage."""

    __slots__ = ("_recent",)

    def __init__(self) -> None:
        self._recent = RecentCounts(WINDOW_S)

    def add_request(self, now_s: float) -> None:
        self._recent.add(now_s, is_marked=False)

    def allows(self, now_s: float) -> bool:
        """Return whether one more repeat fits. The repeats themselves do not make the budget larger."""
        self._recent.expire(now_s)
        repeats = self._recent.marked
        requests = self._recent.all - repeats
        return (repeats + 1) * 100 <= MOST_PERCENT * requests or repeats < LEAST_REPEATS

    def add_repeat(self, now_s: float) -> None:
        self._recent.add(now_s, is_marked=True)


def pause_s(repeats: int) -> float:
    """Return the seconds before the next try at the same target, after `repeats`: exponential, with full jitter."""
    return random.uniform(0.0, min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0**repeats))  # noqa: S311 - no secret
