"""How many requests may be sent again although the upstream may have executed them, and after which pause."""

from __future__ import annotations

import random

PER_REQUEST = 0.2
"""Repeats that a request allows."""
PER_SECOND = 3
"""Repeats that a second allows, also without a request."""
MOST_REPEATS = 30
"""What may collect: the repeats that are sent at once."""
FIRST_PAUSE_S = 0.25
MOST_PAUSE_S = 8.0


class RetryBudget:
    """The repeats that one model may still send. `now_s` never decreases.

    All requests of a model share it, so that retries cannot multiply an outage. A repeat does not make it larger.
    """

    __slots__ = ("_at_s", "_left")

    def __init__(self) -> None:
        self._left, self._at_s = float(MOST_REPEATS), 0.0

    def add(self, *, is_repeat: bool) -> None:
        self._left = self._left - 1 if is_repeat else min(MOST_REPEATS, self._left + PER_REQUEST)

    def allows_repeat(self, now_s: float) -> bool:
        """Return whether one more repeat fits."""
        self._left = min(MOST_REPEATS, self._left + PER_SECOND * (now_s - self._at_s))
        self._at_s = now_s
        return self._left >= 1


def pause_s(repeats: int) -> float:
    """Return the seconds before the next try at the same target, after `repeats`: exponential, with full jitter."""
    return random.uniform(0.0, min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0**repeats))  # noqa: S311 - no secret
