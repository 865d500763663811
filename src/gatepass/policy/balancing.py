"""Choose the target of a request: by order, by weight, by load or by caller, and among those that are available."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum, IntEnum
from hashlib import blake2b
from typing import NamedTuple

from gatepass.config.routes import Policy
from gatepass.policy.breaker import Breaker, BreakerSettings

AVAILABLE = "available"
MOST_LOAD = 1.25
"""The most requests in progress at a target that a caller prefers, as a multiple of its share."""
MOST_COOLDOWN_S = 60.0
"""The longest time for which a target that asked to wait is passed over: a quota of a day may be raised before."""
MOST_REFUSED = 1_000
"""Of more callers that it refused, all are forgotten, and their next requests are probes."""
PROBE_S, AFTER_PROBE_S = 10.0, 1.0
"""How long one probe of a wait keeps others away while it has no answer, and after it failed."""


class Standing(IntEnum):
    """What keeps requests away from a target, the least first. The odd ones have no place free at their upstream."""

    FREE = 0
    FULL = 1
    EJECTED = 2
    EJECTED_AND_FULL = 3
    PROBED = 4
    """It asked other callers to wait, and this one's request would be a probe."""
    PROBED_AND_FULL = 5
    WAITS = 6


class NoTarget(Enum):
    """Why a request has no next target."""

    TRIED = "tried"
    """Each one was tried that does not wait."""
    WAITS = "waits"
    """Each one asked to wait."""
    USED_UP = "used_up"
    """The upstream of one has used up its limits, and no other is left."""


class TargetHealth:
    """What a process knows of one target: its load, its breaker and its wait.

    `has_cooldown` and `breaker` are those of the route: models that share a target may differ in having them.
    """

    __slots__ = (
        *("asked_until_s", "breaker", "ejected_times", "in_flight", "limited_until_s"),
        *("_probe_at_s", "_refused", "_since_s"),
    )

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.in_flight = self.ejected_times = 0
        self.limited_until_s = 0.0
        self.asked_until_s = 0.0
        """Until when the upstream asked to wait: not before `limited_until_s`, which has a limit."""
        self._refused: set[str] = set()
        """The callers whose requests it refused during the wait: perhaps only for what they send (`service_tier`)."""
        self._since_s = 0.0
        self._probe_at_s = 0.0
        """From when on another caller's request may be a probe, -inf after one that succeeded."""

    def limit(self, now_s: float, wait_s: float, caller: str = "") -> bool:
        """Pass the target over for `wait_s`, as its upstream asked `caller`, but for MOST_COOLDOWN_S at most.

        One request of another caller at a time is a probe. Once one succeeds, the wait is only for callers that were
        refused. Return whether the target was not passed over before.
        """
        until_s, is_first = now_s + min(wait_s, MOST_COOLDOWN_S), self.limited_until_s <= now_s
        if is_first or len(self._refused) > MOST_REFUSED:
            self._refused = set()
        if caller not in self._refused:
            self._since_s, self._probe_at_s = now_s, now_s + (0.0 if is_first else AFTER_PROBE_S)
            self._refused.add(caller)
        if until_s > self.limited_until_s:
            self.limited_until_s, self.asked_until_s = until_s, now_s + wait_s
        return is_first

    def asked_s(self, now_s: float, caller: str = "") -> float:
        """Return the seconds that a client of `caller` has to wait, 0 if the target is not passed over for it."""
        if self.limited_until_s <= now_s or (caller not in self._refused and self._probe_at_s <= now_s):
            return 0.0
        return self.asked_until_s - now_s if caller in self._refused else AFTER_PROBE_S

    def _waits(self, now_s: float) -> bool:
        return self.limited_until_s > now_s and self._probe_at_s > -math.inf

    def begin_probe(self, now_s: float, caller: str) -> bool:
        """Begin an attempt of `caller`. Return whether it is the probe of a wait, as `end_probe` must know."""
        is_probe = self._waits(now_s) and caller not in self._refused
        if is_probe:
            self._probe_at_s = now_s + PROBE_S
        return is_probe

    def end_probe(self, now_s: float, began_s: float, *, succeeded: bool) -> bool:
        """End the probe that began at `began_s`. Return whether the wait is over for callers that were not refused."""
        if began_s < self._since_s or not self._waits(now_s):
            return False
        self._probe_at_s = -math.inf if succeeded else now_s + AFTER_PROBE_S
        return succeeded

    def state(self, now_s: float, breaker: BreakerSettings | None, *, has_cooldown: bool) -> tuple[str, float]:
        """Return what keeps requests away, `available` for nothing, and for how many seconds."""
        if breaker is not None and self.breaker.ejected_s is not None:
            left_s = self.breaker.until_s - now_s
            return ("ejected", left_s) if left_s > 0 and self.breaker.probe_since_s is None else ("half_open", 0.0)
        if has_cooldown and self._waits(now_s):
            return "waits", self.limited_until_s - now_s
        return AVAILABLE, 0.0

    def standing(
        self,
        now_s: float,
        breaker: BreakerSettings | None,
        caller: str = "",
        *,
        has_cooldown: bool,
        is_full: bool = False,
    ) -> Standing:
        """Return what keeps requests of `caller` away."""
        if has_cooldown and self.asked_s(now_s, caller):
            return Standing.WAITS
        if has_cooldown and caller not in self._refused and self._waits(now_s):
            return Standing(Standing.PROBED + is_full)
        return Standing(2 * (breaker is not None and self.breaker.until_s > now_s) + is_full)


def _draw(weight: float) -> float:
    """Return a random number: the smallest one of several targets has the probability of its weight."""
    return random.expovariate(weight) if weight else math.inf


class Way(NamedTuple):
    """A way to choose a target. `score`, of its weight and its requests in progress, puts a target behind others.

    `keeps_callers`: requests of one conversation, or of one caller, go to one target, whose prompt cache they fill.
    """

    score: Callable[[float, int], tuple[float, ...]]
    keeps_callers: bool


WAYS: Mapping[Policy, Way] = {
    "order": Way(lambda _weight, _load: (), keeps_callers=False),
    "weighted": Way(lambda weight, _load: (_draw(weight),), keeps_callers=True),
    "least_in_flight": Way(
        lambda weight, load: (not weight, load / (weight or 1.0), _draw(weight)), keeps_callers=True
    ),
}


def ranked(
    policy: Policy, names: Sequence[str], weights: Sequence[float], loads: Sequence[int], key: bytes | None
) -> Sequence[int]:
    """Return the places of the targets `names`, the preferred one first. `loads` are their requests in progress.

    With `key` (a conversation or a caller) one key prefers one target, whatever the order of the targets, as long as
    that has no more than MOST_LOAD of its share. A target of weight 0 is a spare: it comes last.
    """
    places = range(len(names))
    if key is None:
        scores = [*map(WAYS[policy].score, weights, loads)]
        return sorted(places, key=scores.__getitem__)
    hashes = []  # rendezvous hashing with weights
    for name, weight in zip(names, weights, strict=True):
        digest = blake2b(b"%b\0%b" % (key, name.encode()), digest_size=6).digest()
        hashes.append(weight / -math.log((int.from_bytes(digest, "big") + 1) / (2**48 + 1)))
    share = (sum(loads) + 1) * MOST_LOAD / (sum(weights) or 1.0)
    is_over = [load + 1 > math.ceil(share * weight) for load, weight in zip(loads, weights, strict=True)]
    # a spare is always above its share of 0, and has the lowest score
    return sorted(places, key=lambda at: (is_over[at], -hashes[at]))


def next_target(
    order: Sequence[int], tried: Collection[int], standings: Sequence[Standing], used_up: Collection[int]
) -> int | NoTarget:
    """Return the place of the next target of a request, or why none is left.

    `order` has the places of its targets, the preferred one first, and `standings` their standings by place. The
    upstreams of the `used_up` targets have used up their limits. A full target is better than none. gatepass never
    ejects all: if each one is ejected, one that does not wait is returned.
    """
    left = [at for at in order if at not in used_up]
    best = min((standings[at] // 2 for at in left), default=Standing.WAITS // 2)
    if best < Standing.WAITS // 2:
        left = [at for at in left if at not in tried and standings[at] // 2 == best]
        if left:
            return min(left, key=standings.__getitem__)
    if used_up:
        return NoTarget.USED_UP
    return NoTarget.TRIED if best < Standing.WAITS // 2 else NoTarget.WAITS
