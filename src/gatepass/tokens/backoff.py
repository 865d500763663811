"""When to ask again after a failure: values in, values out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gatepass.tokens.failure import FetchFailure

QUICK_WAITS_S = (0.2, 0.5, 1.0)
"""Before the second, third and fourth try of one fetch."""
QUICK_JITTER_SHARE = 0.25
PROBE_S = 2.0
PROBE_JITTER_S = 1.0
"""Between the starts of two tries in an outage: a recovery is noticed within 4 s."""
REFUSAL_S = 30.0
REFUSAL_LONGEST_S = 300.0
DOUBT_LONGEST_S = 60.0
"""As REFUSAL_LONGEST_S, for an error that may be a refusal or an outage: its end is noticed within this."""
RETRY_AFTER_LONGEST_S = 3600.0
"""A longer `Retry-After` is taken for a mistake."""


@dataclass(frozen=True, slots=True)
class Setback:
    """What the failures since the last token mean for the next try.

    `definite`: the last one holds further tries back, as a refusal or as an unclear error that had its free tries.
    `refusals` counts those that do, `doubts` the unclear ones.
    """

    reason: str
    definite: bool
    refusals: int
    next_try_s: float
    doubts: int = 0


def quick_wait_s(tries: int, failure: FetchFailure, jitter: float) -> float | None:
    """Return the seconds until the next quick try of a fetch that made `tries`; None where there is none.

    A failure that another process met costs the issuer nothing, so its `retry_after_s` delays no quick try.
    """
    if failure.definite or not failure.quick or tries > len(QUICK_WAITS_S):
        return None
    wished_s = 0.0 if failure.heard else failure.retry_after_s or 0.0
    if wished_s > QUICK_WAITS_S[-1]:
        return None
    return max(wished_s, QUICK_WAITS_S[tries - 1] * (1 + QUICK_JITTER_SHARE * jitter))


def setback(before: Setback | None, failure: FetchFailure, began_s: float, now: float, jitter: float) -> Setback:
    """Return the state after one more failure, of a try that began at `began_s`.

    A try that hung until its timeout is followed by the next at once. A failure that another process met ends with
    that process's own pause.
    """
    doubts = (before.doubts if before else 0) + failure.unclear
    holds = failure.definite or (failure.unclear and doubts > failure.free_tries)
    refusals = (before.refusals if before else 0) + holds
    wished_s = min(failure.retry_after_s or 0.0, RETRY_AFTER_LONGEST_S)
    if holds and not failure.heard:
        wished_s = max(wished_s, hold_s(refusals, DOUBT_LONGEST_S if failure.unclear else REFUSAL_LONGEST_S))
    probe_s = now if failure.heard else began_s + PROBE_S + PROBE_JITTER_S * jitter
    return Setback(failure.reason, holds, refusals, max(probe_s, now + wished_s), doubts)


def at_once(state: Setback, now: float) -> Setback:
    """Return the state when what was refused has changed: a new secret deserves a try of its own."""
    return replace(state, refusals=0, doubts=0, next_try_s=now)


def hold_s(refusals: int, longest_s: float = REFUSAL_LONGEST_S) -> float:
    """Return how long to leave the issuer alone after the last of so many refusals in a row."""
    doublings = min(max(refusals - 1, 0), 10)
    return min(REFUSAL_S * 2.0**doublings, longest_s)
