"""Store what gatepass learned about one upstream until it expires, separately for each caller.

It does no I/O and reads no clock: `now_s` is `Clock.now()`, `wall_s` the same moment in seconds since the epoch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec
from msgspec.structs import replace

from gatepass.learning.learned_rule import Key, LearnedRule, LearnedRuleRecord, RuleScope, evidence_of

MINUTE_S, HOUR_S = 60.0, 3600.0
"""Lifetime of a new rule, and of a rule that was learned again after it expired. A temporary failure of an upstream
therefore leaves nothing for long, and gatepass notices within the hour what a model has begun to accept."""
MOST_OF_CALLER, MOST_OF_ALL = 500, 5_000
"""Limits on the rules at one upstream: a client that invents names evicts rules of its own caller."""
MOST_VALUES = 8
"""Limit on the values of one member with a rule each."""
VALUES_OF_ALL = 3
"""Refused values of a member, with none accepted between, after which a rule holds for all values."""
MOST_FACTS = 1_000
"""Limit on the kinds of replies, of all callers, models and operations, of which it is known when one was served."""

Name = TypeVar("Name")
Item = TypeVar("Item")


class _Shelf(Generic[Name, Item]):
    """Items of callers by scope and name. Above a limit, the least recently used one of a caller is forgotten: of the
    caller that adds one, or, for the limit of all, of the one that has the most.
    """

    def __init__(self, most_of_caller: int, most_of_all: int) -> None:
        self._limits = most_of_caller, most_of_all
        self._of_owner: dict[str, OrderedDict[tuple[RuleScope, Name], None]] = {}
        self.by_scope: dict[RuleScope, dict[Name, Item]] = {}
        self.count = 0

    def get(self, scope: RuleScope, name: Name) -> Item | None:
        return self.by_scope.get(scope, {}).get(name)

    def put(self, scope: RuleScope, name: Name, item: Item) -> None:
        own = self._of_owner.setdefault(scope.owner, OrderedDict())
        self.count += (scope, name) not in own
        self.by_scope.setdefault(scope, {})[name] = item
        own[scope, name] = None
        own.move_to_end((scope, name))
        if len(own) > self._limits[0]:
            self.pop(*next(iter(own)))
        elif self.count > self._limits[1]:
            most = max(self._of_owner, key=lambda owner: len(self._of_owner[owner]))
            self.pop(*next(iter(self._of_owner[most])))

    def touch(self, scope: RuleScope, name: Name) -> None:
        self._of_owner[scope.owner].move_to_end((scope, name))

    def pop(self, scope: RuleScope, name: Name) -> None:
        found = self.by_scope.get(scope, {})
        if name not in found:
            return
        self.count -= 1
        own = self._of_owner[scope.owner]
        del own[scope, name]
        if not own:
            del self._of_owner[scope.owner]
        del found[name]
        if not found:
            del self.by_scope[scope]

    def items(self) -> Iterator[tuple[RuleScope, Name, Item]]:
        for own in list(self._of_owner.values()):
            yield from [(scope, name, self.by_scope[scope][name]) for scope, name in own]


class _StoredRule(msgspec.Struct):
    """A rule until `expires_s`. It is kept for another hour, so that one that is taught again is known."""

    rule: LearnedRule
    evidence: str
    learned_s: float
    expires_s: float
    uses: int = 0


class Memory:
    """What one upstream taught in one process."""

    def __init__(self, most_of_caller: int = MOST_OF_CALLER, most_of_all: int = MOST_OF_ALL) -> None:
        self._rules: _Shelf[Key, _StoredRule] = _Shelf(most_of_caller, most_of_all)
        self.by_scope = self._rules.by_scope
        """The scopes that have rules, expired or not. Empty for most upstreams."""
        self._helped: _Shelf[str, tuple[dict[LearnedRule, str], float]] = _Shelf(most_of_caller, most_of_all)
        self._useless: _Shelf[str, float] = _Shelf(most_of_caller, most_of_all)
        self._absent: _Shelf[str, tuple[str, float]] = _Shelf(most_of_caller, MOST_FACTS)
        self._accepted: _Shelf[tuple[str, str], float] = _Shelf(most_of_caller, most_of_all)
        self._served_s: _Shelf[bool, float] = _Shelf(most_of_caller, MOST_FACTS)
        """When the upstream last served a stream and a whole reply, by `is_stream`."""
        self._refused_s: _Shelf[bool, float] = _Shelf(most_of_caller, MOST_FACTS)
        """Since when it refuses one."""

    # rules

    def of(self, scope: RuleScope, now_s: float) -> list[LearnedRule]:
        """Return the rules for `scope` that have not expired, the last taught last."""
        return [one.rule for one in self._stored(scope, now_s) if one.expires_s > now_s]

    def of_values(self, scope: RuleScope, now_s: float) -> list[LearnedRule]:
        """Return the rules for `scope` that hold for some values of a member, those that have expired within the hour
        too.
        """
        return [one.rule for one in self._stored(scope, now_s) if one.rule.values]

    def _stored(self, scope: RuleScope, now_s: float) -> list[_StoredRule]:
        found = self.by_scope.get(scope, {})
        for key in [key for key, one in found.items() if one.expires_s + HOUR_S <= now_s]:
            self._rules.pop(scope, key)
        return [*found.values()]

    def commit(self, scope: RuleScope, rule: LearnedRule, evidence: str, now_s: float) -> LearnedRule | None:
        """Store a rule that helped; return what is new to the memory: the rule, perhaps for all values.

        It lives a minute, and an hour if it had been taught before and had expired.
        """
        stored = self._stored(scope, now_s)
        alike = [one for one in stored if one.rule.values and one.rule.key[:2] == rule.key[:2]]
        refused = {rule.values, *(one.rule.values for one in alike)}  # of one request together they are one
        if rule.values and len(refused) >= VALUES_OF_ALL and not self.was_accepted(scope, rule, now_s):
            rule = replace(rule, values=frozenset())
        replaced = [one for one in stored if _excludes(rule, one.rule)]
        for other in (*replaced, *(alike[: 1 - MOST_VALUES] if rule.values else ())):
            self._rules.pop(scope, other.rule.key)
        known = self._rules.get(scope, rule.key)
        if known is not None and known.rule == rule and known.expires_s > now_s:
            return None
        before = alike if known is None else (known, *alike)
        lives_s = HOUR_S if any(one.expires_s <= now_s for one in before) else MINUTE_S
        text, uses = evidence_of(evidence, rule.field), 0 if known is None else known.uses
        self._rules.put(scope, rule.key, _StoredRule(rule, text, now_s, now_s + lives_s, uses))
        return rule

    def accepted(self, scope: RuleScope, rule: LearnedRule, now_s: float) -> None:
        """Note that the upstream accepted another value than those of `rule`."""
        self._accepted.put(scope, (rule.action, rule.field), now_s)

    def was_accepted(self, scope: RuleScope, rule: LearnedRule, now_s: float) -> bool:
        since_s = self._accepted.get(scope, (rule.action, rule.field))
        return since_s is not None and since_s + HOUR_S > now_s

    def forget(self, scope: RuleScope, rule: LearnedRule) -> None:
        self._rules.pop(scope, rule.key)

    def forget_entry(self, model: str, operation: str, entry: str) -> int:
        """Forget the rules with this `LearnedRule.entry` of a model, of all callers; return how many there were."""
        found = 0
        for scope, key, one in self._rules.items():
            if (scope.model, scope.operation, one.rule.entry) == (model, operation, entry):
                self._rules.pop(scope, key)
                found += 1
        return found

    def used(self, scope: RuleScope, rule: LearnedRule) -> None:
        if (stored := self._rules.get(scope, rule.key)) is not None:
            stored.uses += 1
            self._rules.touch(scope, rule.key)

    def records(self, now_s: float, wall_s: float) -> list[LearnedRuleRecord]:
        """Return the valid rules, those of one caller together, the last used at the end."""
        found = list[LearnedRuleRecord]()
        for scope, _, one in self._rules.items():
            if one.expires_s > now_s:
                learned_at, expires_at = (round(at_s - now_s + wall_s, 3) for at_s in (one.learned_s, one.expires_s))
                found.append(LearnedRuleRecord(scope, one.rule, one.evidence, learned_at, expires_at, one.uses))
        return found

    # errors, and what helped against them

    def helped(self, scope: RuleScope, now_s: float) -> dict[LearnedRule, str]:
        """Return the rules that helped a request which failed in the end, within the last minute, with their errors."""
        rules, until_s = self._helped.get(scope, "") or ({}, 0.0)
        return rules if until_s > now_s else {}

    def keep_helped(self, scope: RuleScope, rules: dict[LearnedRule, str], now_s: float) -> None:
        if rules:
            self._helped.put(scope, "", (rules, now_s + MINUTE_S))
        else:
            self._helped.pop(scope, "")

    def is_useless(self, scope: RuleScope, signature: str, now_s: float) -> bool:
        """Whether no change helped against an error with this `Refusal.signature` within the last minute."""
        return (self._useless.get(scope, signature) or 0.0) > now_s

    def note_useless(self, scope: RuleScope, signature: str, now_s: float) -> None:
        self._useless.put(scope, signature, now_s + MINUTE_S)

    # what the upstream served

    def note_served(self, scope: RuleScope, now_s: float, *, is_stream: bool) -> None:
        """Note that the upstream served the path of `scope`, and this kind of reply."""
        last_s = self._served_s.get(scope, is_stream)
        if last_s is None or last_s + MINUTE_S <= now_s or scope in self._refused_s.by_scope:  # nearly never
            self._served_s.put(scope, is_stream, now_s)
            self._refused_s.pop(scope, is_stream)

    def note_absent(self, scope: RuleScope, evidence: str, now_s: float) -> None:
        """Keep for a minute that the upstream lacks the path of `scope`, if the path `may_store_missing`."""
        if self.may_store_missing(scope, now_s):
            self._absent.put(scope, "", (evidence_of(evidence), now_s + MINUTE_S))

    def absent(self, scope: RuleScope, now_s: float) -> str | None:
        """Return the evidence that the upstream lacked the path of `scope` within the last minute; None without."""
        evidence, until_s = self._absent.get(scope, "") or ("", 0.0)
        return evidence if until_s > now_s else None

    def may_store_missing(self, scope: RuleScope, now_s: float, *, is_stream: bool | None = None) -> bool:
        """Note that the upstream refused a kind of reply (None: the path), and return whether it may be taken for
        missing: if it was not served within the hour, or if it has been refused for a minute.
        """
        kinds = (True, False) if is_stream is None else (is_stream,)
        served_s = [last_s for kind in kinds if (last_s := self._served_s.get(scope, kind)) is not None]
        if not served_s or max(served_s) + HOUR_S <= now_s:
            return True
        is_long = True
        for kind in kinds:
            since_s = self._refused_s.get(scope, kind)
            self._refused_s.put(scope, kind, since_s := now_s if since_s is None else since_s)
            is_long = is_long and since_s + MINUTE_S <= now_s
        for kind in kinds if is_long else ():
            self._served_s.pop(scope, kind)
        return is_long


def _excludes(rule: LearnedRule, other: LearnedRule) -> bool:
    """Whether the newer `rule` replaces `other`: it undoes it, or covers its value."""
    if rule.action != other.action:
        return False
    if rule.action == "content":
        return {rule.field, other.field} == {"empty", "filled"}
    is_wider = rule.key[1] == other.key[1] and not rule.values and bool(other.values)
    return is_wider or (rule.action == "set" and rule.field == other.field and rule.to != other.to)
