"""How many requests may be sent again although the upstream may have executed them, and after which pause."""

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


def allows_repeat(recent: RecentCounts, now_s: float) -> bool:
    """Return whether one more repeat fits. `recent` has the requests of one model, with its repeats as the marked ones.

    The requests of a model share one window, so that retries cannot multiply an outage. The repeats themselves do not
    make the budget larger.
    """
    events, repeats = recent.counts(now_s, WINDOW_S)
    return (repeats + 1) * 100 <= MOST_PERCENT * (events - repeats) or repeats < LEAST_REPEATS


def pause_s(repeats: int) -> float:
    """Return the seconds before the next try at the same target, after `repeats`: exponential, with full jitter."""
    return random.uniform(0.0, min(MOST_PAUSE_S, FIRST_PAUSE_S * 2.0**repeats))  # noqa: S311 - no secret
