"""Choose the target of a request: by order, by weight, by load or by caller, and among those that are available."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import Literal

from gatepass.policy.breaker import Breaker, BreakerSettings

Policy = Literal["order", "least_in_flight", "weighted"]
"""`models.NAME.policy`."""
AVAILABLE = "available"
MOST_LOAD = 1.25
"""The most requests in progress at a target that a caller prefers, as a multiple of its share."""
MOST_COOLDOWN_S = 60.0
"""The longest time for which a target that asked to wait is passed over: a quota of a day may be raised before."""


MOST_MODELS = 1_000
"""The models that are known of one target of a pattern. The one that was not used for longest leaves."""


class TargetHealth:
    """What a process knows of one target: its load, its breaker and its wait.

    `has_cooldown` and `breaker` are those of the route: models that share a target may differ in having them. At a
    target of a pattern each model has a breaker and a wait of its own: a caller that may use one stops no other.
    """

    __slots__ = ("asked_until_s", "breaker", "ejected_times", "in_flight", "limited_until_s", "models")

    def __init__(self) -> None:
        self.models: dict[str, TargetHealth] = {}
        """Those of a pattern, the one used last at the end."""
        self.breaker = Breaker()
        self.in_flight = self.ejected_times = 0
        self.limited_until_s = 0.0
        self.asked_until_s = 0.0
        """Until when the upstream asked to wait: not before `limited_until_s`, which has a limit."""

    def of_model(self, model: str) -> TargetHealth:
        """Return the health of a model that the client names, at the target of a pattern."""
        found = self.models.pop(model) if model in self.models else TargetHealth()
        self.models[model] = found
        if len(self.models) > MOST_MODELS:
            del self.models[next(iter(self.models))]
        return found

    def limit(self, now_s: float, wait_s: float) -> bool:
        """Pass the target over for `wait_s`, as its upstream asked, but for MOST_COOLDOWN_S at most.

        Return whether it was not passed over before.
        """
        until_s, is_first = now_s + min(wait_s, MOST_COOLDOWN_S), self.limited_until_s <= now_s
        if until_s > self.limited_until_s:
            self.limited_until_s, self.asked_until_s = until_s, now_s + wait_s
        return is_first

    def asked_s(self, now_s: float) -> float:
        """Return the seconds that a client has to wait, 0 if the target is not passed over."""
        return self.asked_until_s - now_s if self.limited_until_s > now_s else 0.0

    def state(self, now_s: float, breaker: BreakerSettings | None, *, has_cooldown: bool) -> tuple[str, float]:
        """Return what keeps requests away, `available` for nothing, and for how many seconds."""
        if breaker is not None and self.breaker.ejected_s is not None:
            left_s = self.breaker.until_s - now_s
            return ("ejected", left_s) if left_s > 0 and self.breaker.probe_since_s is None else ("half_open", 0.0)
        if has_cooldown and self.limited_until_s > now_s:
            return "waits", self.limited_until_s - now_s
        return AVAILABLE, 0.0

    def admits(self, now_s: float, breaker: BreakerSettings | None, *, has_cooldown: bool) -> bool:
        """Return whether neither a wait nor the breaker keeps requests away."""
        if has_cooldown and self.limited_until_s > now_s:
            return False
        return breaker is None or self.breaker.until_s <= now_s


def ranked(
    policy: Policy, names: Sequence[str], weights: Sequence[float], loads: Sequence[int], key: bytes | None
) -> Sequence[int]:
    """Return the places of the targets `names`, the preferred one first. `loads` are their requests in progress.

    With `key` (the caller) one key prefers one target, whatever the order of the targets, as long as that has no more
    than MOST_LOAD of its share. A target of weight 0 is a spare: it comes last.
    """
    places = range(len(names))
    if key is not None:
        scores = []  # rendezvous hashing with weights
        for name, weight in zip(names, weights, strict=True):
            digest = blake2b(b"%b\0%b" % (key, name.encode()), digest_size=6).digest()
            scores.append(weight / -math.log((int.from_bytes(digest, "big") + 1) / (2**48 + 1)))
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


def choose(
    order: Sequence[int],
    seen: Collection[int],
    healths: Sequence[TargetHealth],
    full: Collection[int],
    now_s: float,
    breaker: BreakerSettings | None,
    *,
    has_cooldown: bool,
) -> int | None:
    """Return the first of `order` that is available and not among `seen`, None if there is none.

    One of the `full` targets is better than none. gatepass never ejects all: if each one of `order` is ejected, one
    that does not wait is returned. The last arguments: see `TargetHealth`.
    """
    while True:
        are_away, found = True, None
        for at in order:  # nearly always the first
            if healths[at].admits(now_s, breaker, has_cooldown=has_cooldown):
                are_away = False
                if at not in seen:
                    if at not in full:
                        return at
                    found = at if found is None else found
        if not are_away or breaker is None:
            return found
        breaker = None
