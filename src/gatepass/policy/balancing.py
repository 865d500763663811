"""Choose the target of a request: by order, by weight, by load or by affinity, and among those that are available."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from hashlib import blake2b

from gatepass.policy.breaker import Breaker

MOST_LOAD = 1.25
"""The most requests in progress at a target that affinity prefers, as a multiple of its share."""


class TargetHealth:
    """What a process knows of one target: its load, its breaker, its wait, and whether an operator drains it."""

    __slots__ = ("breaker", "drained", "in_flight", "limited_until_s")

    def __init__(self) -> None:
        self.breaker: Breaker | None = None
        """None without `models.NAME.breaker`."""
        self.drained = False
        self.in_flight = 0
        self.limited_until_s = 0.0
        """Until when the upstream asked to wait."""

    def wait_s(self, now_s: float) -> float:
        return max(0.0, self.limited_until_s - now_s)

    def admits(self, now_s: float) -> bool:
        """Return whether neither the operator, a wait nor the breaker keeps requests away."""
        if self.drained or self.limited_until_s > now_s:
            return False
        return self.breaker is None or self.breaker.admits(now_s)


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
        return sorted(places, key=lambda at: (not weights[at], is_over[at], -scores[at]))
    if policy == "weighted":
        # the largest `u ** (1 / weight)` is that of a target with the probability of its weight
        draws = [random.random() ** (1 / weight) if weight else -1.0 for weight in weights]  # noqa: S311 - no secret
        return sorted(places, key=draws.__getitem__, reverse=True)
    if policy == "least_in_flight":
        draws = [random.random() for _ in places]  # noqa: S311 - equal loads must not all go to the first
        return sorted(places, key=lambda at: (not weights[at], loads[at] / (weights[at] or 1.0), draws[at]))
    return places


def _score(key: bytes, name: str, weight: float) -> float:
    """Return how much `key` prefers a target: rendezvous hashing with weights."""
    digest = blake2b(b"%b\0%b" % (key, name.encode()), digest_size=8).digest()
    return weight / -math.log((int.from_bytes(digest, "big") + 1) / (2**64 + 1))


def choose(
    order: Sequence[int], seen: Collection[int], healths: Sequence[TargetHealth], full: Collection[int], now_s: float
) -> int | None:
    """Return the first of `order` that is available and not among `seen`, None if there is none.

    One of the `full` targets is better than none. gatepass never ejects all: if each one of `order` is ejected, the
    first of them that neither waits nor is drained is returned.
    """
    for at in order:  # nearly always the first
        if at not in seen and at not in full and healths[at].admits(now_s):
            return at
    admitted = [at for at in order if healths[at].admits(now_s)]
    for at in admitted or order:
        if at not in seen and not healths[at].drained and not healths[at].wait_s(now_s):
            return at
    return None
