"""When to ask again after a failure: values in, values out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gatepass.tokens.failure import FetchFailure

QUICK_WAITS_S = (0.2, 0.5, 1.0)
"""Before the second, third and fourth try of one flight."""
QUICK_JITTER_SHARE = 0.25
PROBE_S = 2.0
PROBE_JITTER_S = 1.0
"""Between two tries of an outage: a recovery is noticed within 4 s."""
SILENCE_S = 3.0
"""A fetch without an answer for so long is taken for an outage, where nobody has a token to wait with."""
SLOWNESS = 2.0
"""So many times as long as it took the last time: an issuer that is slow when all is well is not asked twice."""
REFUSAL_S = 30.0
REFUSAL_LONGEST_S = 300.0
DOUBT_LONGEST_S = 60.0
"""As REFUSAL_LONGEST_S, where nobody knows whether it was a refusal: an outage is noticed to be over within this."""
RETRY_AFTER_LONGEST_S = 3600.0
"""An issuer's wish beyond this is taken for a mistake."""


@dataclass(frozen=True, slots=True)
class Setback:
    """What the failures since the last token mean for the next try.

    `definite`: the last one holds us back, as a no or as an unclear error that had its free tries.
    `refusals` counts those that do, `doubts` the unclear ones.
    """

    reason: str
    definite: bool
    refusals: int
    next_try_s: float
    doubts: int = 0
    longest_s: float = REFUSAL_LONGEST_S


def silent_s(begun_s: float, usual_s: float, without_s: float) -> float:
    """When a second fetch is to begin beside one that began at `begun_s` and has no answer yet.

    `usual_s` is how long the last one took. From `without_s` on somebody has no valid token: before, whoever hangs
    has its time.
    """
    return max(begun_s + max(SILENCE_S, SLOWNESS * usual_s), without_s)


def silence(now: float) -> Setback:
    """The state when a fetch has had no answer for too long: the next one may begin `now`."""
    return Setback("no answer", False, 0, now)


def quick_wait_s(tries: int, failure: FetchFailure, jitter: float) -> float | None:
    """Seconds until the next quick try of a flight that made `tries`; None where there is none."""
    if failure.definite or not failure.quick or tries > len(QUICK_WAITS_S):
        return None
    wished_s = failure.retry_after_s or 0.0
    if wished_s > QUICK_WAITS_S[-1]:
        return None
    return max(wished_s, QUICK_WAITS_S[tries - 1] * (1 + QUICK_JITTER_SHARE * jitter))


def setback(before: Setback | None, failure: FetchFailure, now: float, jitter: float) -> Setback:
    """The state after one more failure."""
    doubts = (before.doubts if before else 0) + failure.unclear
    holds = failure.definite or (failure.unclear and doubts > failure.free_tries)
    refusals = (before.refusals if before else 0) + holds
    longest_s = DOUBT_LONGEST_S if failure.unclear else REFUSAL_LONGEST_S
    if holds:
        next_s = now + hold_s(refusals, longest_s)
    elif before and not before.definite:
        next_s = before.next_try_s
    else:
        next_s = now + _probe_s(jitter)
    wished_s = min(failure.retry_after_s or 0.0, RETRY_AFTER_LONGEST_S)
    return Setback(failure.reason, holds, refusals, max(next_s, now + wished_s), doubts, longest_s)


def probing(state: Setback, now: float, jitter: float) -> Setback:
    """The state when a try starts at `now`: the one after it is planned, should this one hang."""
    wait_s = hold_s(state.refusals, state.longest_s) if state.definite else _probe_s(jitter)
    return replace(state, next_try_s=now + wait_s)


def at_once(state: Setback, now: float) -> Setback:
    """The state when what was refused has changed: a new secret deserves a try of its own."""
    return replace(state, refusals=0, doubts=0, next_try_s=now)


def hold_s(refusals: int, longest_s: float = REFUSAL_LONGEST_S) -> float:
    """Seconds to leave the issuer alone after the last of so many refusals in a row."""
    doublings = min(max(refusals - 1, 0), 10)
    return min(REFUSAL_S * 2.0**doublings, longest_s)


def _probe_s(jitter: float) -> float:
    return PROBE_S + PROBE_JITTER_S * jitter
