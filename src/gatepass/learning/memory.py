"""Store the learned rules of one upstream until they expire.

It does no I/O and reads no clock: `now_s` is `Clock.now()`, `wall_s` the same moment in seconds since the epoch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from gatepass.learning.learned_rule import Key, LearnedRule, LearnedRuleRecord, RuleScope, evidence_of

LIMIT = 500
"""Learned rules of one upstream, and failed ones: a client that invents names cannot evict rules of other upstreams."""
REFUTED_S = 60.0
"""How long a rule that failed is not tried again, so that not every request costs two calls."""


@dataclass(slots=True)
class _StoredRule:
    rule: LearnedRule
    evidence: str
    learned_s: float
    expires_s: float
    uses: int = 0


class Memory:
    """The learned rules of one upstream in one process. Above `limit`, the least recently used one is forgotten."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._stored: OrderedDict[Key, _StoredRule] = OrderedDict()
        self.by_scope: dict[RuleScope, dict[Key, _StoredRule]] = {}
        """The scopes that have rules, expired or not. Empty for most upstreams."""
        self._refuted: OrderedDict[Key, _StoredRule] = OrderedDict()

    def of(self, scope: RuleScope) -> list[tuple[Key, LearnedRule]]:
        """Return the rules for `scope`, with their keys. Call `expire` first."""
        return [(key, stored.rule) for key, stored in self.by_scope.get(scope, {}).items()]

    def knows(self, scope: RuleScope) -> bool:
        """Whether there is a rule for `scope`, expired or not."""
        return scope in self.by_scope

    def rule(self, key: Key) -> LearnedRule | None:
        stored = self._stored.get(key)
        return None if stored is None else stored.rule

    def expire(self, scope: RuleScope, now_s: float) -> None:
        for key in [key for key, one in self.by_scope.get(scope, {}).items() if one.expires_s <= now_s]:
            self.forget(key)

    def commit(self, key: Key, rule: LearnedRule, evidence: str, now_s: float) -> bool:
        """Store a rule that helped; return whether it is new."""
        known = self._stored.get(key)
        self._refuted.pop(key, None)  # another request may have failed with it for another reason
        for other, one in list(self.by_scope.get(key[0], {}).items()):  # a copy: `forget` changes it
            if rule.reverses(one.rule):  # the newer rejection is right
                self.forget(other)
        stored = _StoredRule(rule, evidence_of(evidence), now_s, now_s + rule.ttl_s)
        stored.uses = 0 if known is None else known.uses
        self._stored[key] = stored
        self._stored.move_to_end(key)
        self.by_scope.setdefault(key[0], {})[key] = stored
        if len(self._stored) > self._limit:
            self.forget(next(iter(self._stored)))
        return known is None or known.rule != rule

    def forget(self, key: Key) -> None:
        if self._stored.pop(key, None) is not None:
            of_scope = self.by_scope[key[0]]
            del of_scope[key]
            if not of_scope:
                del self.by_scope[key[0]]

    def forget_entry(self, model: str, operation: str, entry: str) -> int:
        """Forget the rules and the failures with this `LearnedRule.entry` of a model; return how many there were."""

        def meant(rules: Mapping[Key, _StoredRule]) -> list[Key]:
            return [
                key
                for key, one in rules.items()
                if (key[0].model, key[0].operation, one.rule.entry) == (model, operation, entry)
            ]

        # a list of each: a rule and a failure with one key may have different values
        stored, refuted = meant(self._stored), meant(self._refuted)
        for key in stored:
            self.forget(key)
        for key in refuted:
            del self._refuted[key]
        return len(stored) + len(refuted)

    def used(self, key: Key) -> None:
        if (stored := self._stored.get(key)) is not None:
            stored.uses += 1
            self._stored.move_to_end(key)

    def refute(self, key: Key, rule: LearnedRule, evidence: str, now_s: float) -> None:
        """Do not try the rule again for REFUTED_S, because it failed with the error `evidence`."""
        self._refuted[key] = _StoredRule(rule, evidence_of(evidence), now_s, now_s + REFUTED_S)
        self._refuted.move_to_end(key)
        while len(self._refuted) > self._limit:
            self._refuted.popitem(last=False)

    def is_blocked(self, key: Key, now_s: float) -> bool:
        """Whether the rule failed within REFUTED_S, so that it is not tried again yet."""
        found = self._refuted.get(key)
        return found is not None and now_s < found.expires_s

    def records(self, now_s: float, wall_s: float) -> list[LearnedRuleRecord]:
        """Return the valid rules, the last used at the end, then the rules that failed within REFUTED_S."""
        to_wall_s = wall_s - now_s
        return [
            LearnedRuleRecord(
                scope=key[0],
                rule=one.rule,
                state=state,
                evidence=one.evidence,
                learned_at=round(one.learned_s + to_wall_s, 3),
                expires_at=round(one.expires_s + to_wall_s, 3),
                uses=one.uses,
            )
            for state, rules in (("learned", self._stored), ("failed", self._refuted))
            for key, one in rules.items()
            if one.expires_s > now_s
        ]
