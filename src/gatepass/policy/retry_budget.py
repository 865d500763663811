"""How many requests may be sent again although the upstream may have executed them, and after which pause."""

from __future__ import annotations

import random

REQUESTS_OF_REPEAT = 5
"""One of so many requests may be repeated."""
REPEATS_PER_S = 3
"""Repeats that each second allows, also without a request."""
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
        self._left, self._at_s = float(MOST_REPEATS * REQUESTS_OF_REPEAT), 0.0  # in requests

    def add(self, *, is_repeat: bool) -> None:
        self._left += -REQUESTS_OF_REPEAT if is_repeat else 1

    def allows_repeat(self, now_s: float) -> bool:
        """Return whether one more repeat fits."""
        earned = REPEATS_PER_S * REQUESTS_OF_REPEAT * (now_s - self._at_s)
        self._left, self._at_s = min(MOST_REPEATS * REQUESTS_OF_REPEAT, self._left + earned), now_s
        return self._left >= REQUESTS_OF_REPEAT


def pause_s(repeats: int) -> float:
    """Return the seconds before the next try at the same target, after `repeats`: exponential, with full jitter."""
    return random.uniform(0.0, min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0**repeats))  # noqa: S311 - no secret
