"""Choose the target of a request: by order, by weight, by load or by affinity, and among those that are available."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from hashlib import blake2b

from gatepass.policy.breaker import Breaker

AVAILABLE = "available"
MOST_LOAD = 1.25
"""The most requests in progress at a target that affinity prefers, as a multiple of its share."""


class TargetHealth:
    """What a process knows of one target: its load, its breaker, its wait, and whether an operator drains it."""

    __slots__ = ("asked_until_s", "breaker", "drained", "in_flight", "limited_until_s")

    def __init__(self) -> None:
        self.breaker: Breaker | None = None
        """None without `models.NAME.breaker`."""
        self.drained = False
        self.in_flight = 0
        self.limited_until_s = 0.0
        """Until when the target is passed over."""
        self.asked_until_s = 0.0
        """Until when the upstream asked to wait: not before `limited_until_s`, which has a limit."""

    def limit(self, now_s: float, wait_s: float, most_s: float) -> None:
        """Pass the target over for `wait_s`, as its upstream asked, but for `most_s` at most."""
        until_s = now_s + min(wait_s, most_s)
        if until_s > self.limited_until_s:
            self.limited_until_s, self.asked_until_s = until_s, now_s + wait_s

    def wait_s(self, now_s: float) -> float:
        return max(0.0, self.limited_until_s - now_s)

    def asked_s(self, now_s: float) -> float:
        """Return the seconds that a client has to wait, 0 if the target is not passed over."""
        return self.asked_until_s - now_s if self.limited_until_s > now_s else 0.0

    def state(self, now_s: float, *, waits: bool, ejects: bool) -> tuple[str, float]:
        """Return what keeps requests away, `available` for nothing, and for how many seconds. See `admits`."""
        if self.drained:
            return "drained", 0.0
        if ejects and self.breaker is not None and self.breaker.ejected_s is not None:
            left_s = max(0.0, self.breaker.until_s - now_s)
            return "ejected" if left_s else "half_open", left_s
        wait_s = self.wait_s(now_s) if waits else 0.0
        return "waits" if wait_s else AVAILABLE, wait_s

    def admits(self, now_s: float, *, waits: bool, ejects: bool) -> bool:
        """Return whether neither the operator, a wait nor the breaker keeps the requests of a route away.

        `waits` and `ejects`: whether the route has a cool-down and a breaker. Another model may share the target.
        """
        if self.drained or (waits and self.limited_until_s > now_s):
            return False
        return not ejects or self.breaker is None or self.breaker.admits(now_s)


def ranked(
    policy: str, names: Sequence[str], weights: Sequence[float], loads: Sequence[int], key: bytes | None
) -> Sequence[int]:
    """Return the places of the targets `names`, the preferred one first. `loads` are their requests in progress.

    With `key` (affinity) one key prefers one target, whatever the order of the targets, as long as that has no more
    than MOST_LOAD of its share. A target of weight 0 is a spare: it comes last.
    """
    places = range(len(names))
    if key is not None:
        scores = [_score(key, name, weight) for name, weight in zip(names, weights, strict=True)]
        share = (sum(loads) + 1) * MOST_LOAD / (sum(weights) or 1.0)
        is_over = [load + 1 > math.ceil(share * weight) for load, weight in zip(loads, weights, strict=True)]
        # a spare is always above its share of 0, and has the lowest score
        return sorted(places, key=lambda at: (is_over[at], -scores[at]))
    if policy == "order":
        return places
    # the target with the smallest of these draws has the probability of its weight
    draws = [random.expovariate(weight) if weight else math.inf for weight in weights]
    if policy == "weighted":
        return sorted(places, key=draws.__getitem__)
    return sorted(places, key=lambda at: (not weights[at], loads[at] / (weights[at] or 1.0), draws[at]))


def _score(key: bytes, name: str, weight: float) -> float:
    """Return how much `key` prefers a target: rendezvous hashing with weights."""
    digest = blake2b(b"%b\0%b" % (key, name.encode()), digest_size=6).digest()
    return weight / -math.log((int.from_bytes(digest, "big") + 1) / (2**48 + 1))


def choose(
    order: Sequence[int],
    seen: Collection[int],
    healths: Sequence[TargetHealth],
    full: Collection[int],
    now_s: float,
    *,
    waits: bool,
    ejects: bool,
) -> int | None:
    """Return the first of `order` that is available and not among `seen`, None if there is none.

    One of the `full` targets is better than none. gatepass never ejects all: if each one of `order` is ejected, one
    that neither waits nor is drained is returned. `waits` and `ejects`: see `TargetHealth.admits`.
    """
    for at in order:  # nearly always the first
        if at not in seen and at not in full and healths[at].admits(now_s, waits=waits, ejects=ejects):
            return at
    admitted = [at for at in order if healths[at].admits(now_s, waits=waits, ejects=ejects)]
    if not admitted:
        admitted = [at for at in order if healths[at].admits(now_s, waits=waits, ejects=False)]
    left = [at for at in admitted if at not in seen]
    return next((at for at in left if at not in full), left[0] if left else None)
