"""How many requests may be sent again although the upstream may have executed them, and after which pause."""

from __future__ import annotations

import random

REQUESTS_OF_REPEAT = 5
"""One of so many requests may be repeated."""
REPEATS_PER_S = 3
"""Repeats that each second allows, also without a request."""
MOST_REPEATS = 30
"""What may collect: the repeats that are sent at once. As much may be owed to the smaller share."""
MOST = MOST_REPEATS * REQUESTS_OF_REPEAT
FIRST_PAUSE_S = 0.25
MOST_PAUSE_S = 8.0


class RetryBudget:
    """The repeats that one model may still send. `now_s` never decreases.

    All requests of a model share it, so that retries cannot multiply an outage. A repeat does not make it larger. It
    counts against the share of the requests and against that of the time, so that the larger one alone holds.
    """

    __slots__ = ("_at_s", "_of_requests", "_of_time")

    def __init__(self) -> None:
        self._of_requests, self._of_time, self._at_s = 0, float(MOST), 0.0  # each in requests

    def add(self, *, is_repeat: bool) -> None:
        if is_repeat:
            self._of_requests = max(-MOST, self._of_requests - REQUESTS_OF_REPEAT)
            self._of_time = max(-MOST, self._of_time - REQUESTS_OF_REPEAT)
        else:
            self._of_requests = min(MOST, self._of_requests + 1)

    def allows_repeat(self, now_s: float) -> bool:
        earned = REPEATS_PER_S * REQUESTS_OF_REPEAT * (now_s - self._at_s)
        self._of_time, self._at_s = min(MOST, self._of_time + earned), now_s
        return max(self._of_requests, self._of_time) >= REQUESTS_OF_REPEAT


def pause_s(repeats: int) -> float:
    """Return the seconds before the next try at the same target, after `repeats`: exponential, with full jitter."""
    return random.uniform(0.0, min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0**repeats))  # noqa: S311 - no secret
