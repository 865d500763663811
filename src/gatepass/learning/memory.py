"""Store the learned rules of one upstream, and run one trial at a time for an unknown model.

Without a single trial, two hundred simultaneous requests to a model that rejects `stream` would be rejected two
hundred times. The first request becomes the leader. The others wait up to WAIT_S for its reply, and again for each
rule that it tries. No request waits for a model that has replied.

Neither class does I/O or reads a clock: `now_s` is `Clock.now()`, `wall_s` the same moment in seconds since the epoch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from gatepass.learning.learned_rule import HOUR_S, Key, LearnedRule, LearnedRuleRecord, RuleScope, evidence_of

LIMIT = 1_000
"""Limit on trials, on failed rules and on models that have replied, each."""
LIMIT_OF_UPSTREAM = 500
"""Learned rules of one upstream: a client that invents model names cannot evict rules of other upstreams."""
LIMIT_OF_SCOPE = 20
"""Learned rules of one model: a client that invents parameter names cannot evict rules of other models."""
USES_OF_KNOWN = 2
"""A rule's model is known after this many successes. One is not enough, because a client may invent a model name."""
REFUTED_S = 60.0
"""How long a rule that failed is not tried again, so that not every request costs two calls."""


Settled = dict[tuple[str, str, bool], float]
"""By a model, an operation and whether the client requests a stream: until when no rule and no trial concerns them."""


@dataclass(slots=True)
class _StoredRule:
    rule: LearnedRule
    evidence: str
    learned_s: float
    expires_s: float
    uses: int = 0
    is_configured: bool = False


class Memory:
    """The learned rules of one upstream in one process, at most LIMIT_OF_UPSTREAM.

    Above a limit, the least recently used rule of the least known model is forgotten. A configured model is known best,
    then a model with a rule that succeeded USES_OF_KNOWN times.
    """

    def __init__(
        self, limit: int = LIMIT_OF_UPSTREAM, limit_of_others: int = LIMIT, settled: Settled | None = None
    ) -> None:
        """A new rule clears `settled`."""
        self._settled = {} if settled is None else settled
        self._limit = limit
        self._limit_of_others = limit_of_others
        self._stored: OrderedDict[Key, _StoredRule] = OrderedDict()
        self._by_scope: dict[RuleScope, dict[Key, _StoredRule]] = {}
        self._refuted: OrderedDict[Key, _StoredRule] = OrderedDict()

    def of(self, scope: RuleScope) -> list[tuple[Key, LearnedRule]]:
        """Return the rules for `scope`, with their keys. Call `expire` first."""
        return [(key, stored.rule) for key, stored in self._about(scope)]

    def knows(self, scope: RuleScope) -> bool:
        """Whether there is a rule for `scope`, expired or not."""
        by_scope = self._by_scope
        return bool(by_scope) and (scope in by_scope or scope.plain in by_scope)

    def rule(self, key: Key) -> LearnedRule | None:
        stored = self._stored.get(key)
        return None if stored is None else stored.rule

    def expire(self, scope: RuleScope, now_s: float) -> bool:
        """Forget the expired rules of `scope`; return whether there were any."""
        expired = [key for key, stored in self._about(scope) if stored.expires_s <= now_s]
        for key in expired:
            self.forget(key)
        return bool(expired)

    def commit(self, key: Key, rule: LearnedRule, evidence: str, now_s: float, *, is_configured: bool = False) -> bool:
        """Store a rule that helped; return whether it is stored and new.

        A full memory does not store it if all other rules are of better known models. `is_configured`: the
        configuration names the rule's model.
        """
        self._settled.clear()
        known = self._stored.get(key)
        for other, one in list(self._by_scope.get(key[0], {}).items()):  # a copy: `forget` changes it
            if rule.reverses(one.rule):  # the newer rejection is right
                self.forget(other)
        uses = known.uses if known is not None else 0
        stored = _StoredRule(rule, evidence_of(evidence), now_s, now_s + rule.ttl_s, uses, is_configured)
        self._stored[key] = stored
        self._stored.move_to_end(key)
        self._by_scope.setdefault(key[0], {})[key] = stored
        self._evict(key)
        return key in self._stored and (known is None or known.rule != rule)

    def forget(self, key: Key) -> None:
        if self._stored.pop(key, None) is not None:
            of_scope = self._by_scope[key[0]]
            del of_scope[key]
            if not of_scope:
                del self._by_scope[key[0]]

    def forget_entry(self, model: str, operation: str, entry: str) -> list[RuleScope]:
        """Forget the rules and the failures with this `LearnedRule.entry`, and return their scopes."""

        def is_meant(key: Key, one: _StoredRule) -> bool:
            return (key[0].model, key[0].operation, one.rule.entry) == (model, operation, entry)

        stored = [key for key, one in self._stored.items() if is_meant(key, one)]
        refuted = [key for key, one in self._refuted.items() if is_meant(key, one)]
        for key in stored:
            self.forget(key)
        for key in refuted:
            del self._refuted[key]
        return [key[0] for key in (*stored, *refuted)]

    def used(self, key: Key) -> None:
        if (stored := self._stored.get(key)) is not None:
            stored.uses += 1
            self._stored.move_to_end(key)

    def refute(self, key: Key, rule: LearnedRule, evidence: str, now_s: float) -> None:
        """Do not try the rule again for REFUTED_S, because it failed with the error `evidence`."""
        self._refuted[key] = _StoredRule(rule, evidence_of(evidence), now_s, now_s + REFUTED_S)
        self._refuted.move_to_end(key)
        while len(self._refuted) > self._limit_of_others:
            self._refuted.popitem(last=False)

    def blocked_s(self, key: Key, now_s: float) -> float:
        """Return for how many seconds a rule that failed is not tried again; 0 if it did not fail within REFUTED_S."""
        found = self._refuted.get(key)
        if found is not None and found.expires_s <= now_s:
            del self._refuted[key]
            return 0.0
        return 0.0 if found is None else found.expires_s - now_s

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

    def _about(self, scope: RuleScope) -> list[tuple[Key, _StoredRule]]:
        plain = scope.plain
        scopes = (plain, scope) if scope != plain else (plain,)
        return [entry for one in scopes for entry in self._by_scope.get(one, {}).items()]

    def _evict(self, new: Key) -> None:
        """Forget the least used rule of a full scope, but not `new`; then one of a full upstream, perhaps `new`."""
        others = {key: stored.uses for key, stored in self._by_scope[new[0]].items() if key != new}
        if len(others) >= LIMIT_OF_SCOPE:
            self.forget(min(others, key=others.__getitem__))
        of_upstream = [key for key in self._stored if key[0].upstream == new[0].upstream]
        if len(of_upstream) > self._limit:
            self.forget(min(of_upstream, key=lambda key: self._standing(key[0])))

    def _standing(self, scope: RuleScope) -> int:
        """Return how well the model is known: 2 if it is configured, 1 if a rule succeeded again, else 0."""
        rules = self._by_scope[scope].values()
        return max(2 if one.is_configured else 1 if one.uses >= USES_OF_KNOWN else 0 for one in rules)


WAIT_S = 2.0
"""How long a request waits for the leader. A rejection of a request's form arrives within a second.

A later reply is most likely an answer, and waiting for it would delay every other request by its whole duration.
"""
MOST_WAIT_S = 4 * WAIT_S
"""Total wait for a leader and the rules that it tries. Later requests use those that it has tried until then.

No keep-alive is sent during the wait. Together with the wait for the head of a stream (`STREAM_HOLD_S` in
proxy/client_response.py) it is 23 s. The strictest proxies close a connection after 30 s.
"""
KNOWN_S = HOUR_S
"""A model remains known for this time after a reply."""
CANDIDATE_S = 60.0
"""How long a rule stays on trial without a request that tries it."""

TrialKey = tuple[RuleScope, bool]
"""A scope, and whether the client requests a stream: models reject the one and accept the other."""


@dataclass(slots=True)
class CandidateRule:
    """A rule on trial since `since_s`: `holders` are the requests that try it.

    Without holders it expires at `until_s`. `helped`: the upstream rejected something else after the change, and no
    request has succeeded yet.
    """

    rule: LearnedRule
    evidence: str
    since_s: float
    until_s: float
    holders: set[Hashable] = field(default_factory=set)
    helped: bool = False


class SingleTrial:
    """The leaders of unknown models and the rules on trial at one upstream, and the requests that wait for them."""

    def __init__(self, limit: int = LIMIT, settled: Settled | None = None) -> None:
        """A new trial clears `settled`."""
        self._settled = {} if settled is None else settled
        self._limit = limit
        self._known: OrderedDict[TrialKey, float] = OrderedDict()
        self._leaders: dict[TrialKey, tuple[Hashable, float]] = {}  # the session that tries a model first, since when
        self._trials: OrderedDict[Key, CandidateRule] = OrderedDict()
        self._listeners: dict[RuleScope, set[Callable[[], object]]] = {}

    def wait_s(self, session: Hashable, trial_key: TrialKey, entered_s: float, now_s: float) -> float:
        """Return for how many seconds `session`, which arrived at `entered_s`, waits; 0 if it goes now.

        The first session of an unknown model becomes its leader.
        """
        tried_s = [one.since_s for one in self.candidates(trial_key[0], now_s).values() if one.holders - {session}]
        if tried_s and (left_s := min(max(tried_s) + WAIT_S, entered_s + MOST_WAIT_S) - now_s) > 0:
            return left_s
        if self._known.get(trial_key, 0.0) > now_s:
            return 0.0
        leader, since_s = self._leaders.setdefault(trial_key, (session, now_s))
        # The wait is limited from the request's arrival too, so that it does not begin again with the next leader.
        return 0.0 if leader == session else max(0.0, min(since_s, entered_s) + WAIT_S - now_s)

    def needs_no_trial_until_s(self, trial_key: TrialKey) -> float:
        """Return until when requests need no session, 0 if they need one: a rule is on trial, or the model is unknown.

        After half KNOWN_S a model has a session again, so that its next reply renews the time.
        """
        return 0.0 if self._trials else max(0.0, self._known.get(trial_key, 0.0) - KNOWN_S / 2)

    def propose(self, key: Key, rule: LearnedRule, evidence: str, session: Hashable, now_s: float) -> None:
        """Put `rule` on trial by `session`, or add `session` to its trial."""
        self._settled.clear()
        trial = self._trials.get(key)
        if trial is None or trial.rule != rule:
            trial = self._trials[key] = CandidateRule(rule, evidence, now_s, now_s + CANDIDATE_S)
        trial.holders.add(session)
        while len(self._trials) > self._limit:
            self._trials.popitem(last=False)
        self.notify(key[0])

    def helped(self, key: Key, now_s: float) -> None:
        """Record that the upstream rejected something else after the change, so that other requests use the rule."""
        if (trial := self._trials.get(key)) is not None:
            trial.helped, trial.until_s = True, now_s + CANDIDATE_S
            self._trials.move_to_end(key)

    def has_helped(self, key: Key) -> bool:
        trial = self._trials.get(key)
        return trial is not None and trial.helped

    def settle(self, key: Key) -> None:
        """End the trial, with any result."""
        if self._trials.pop(key, None) is not None:
            self.notify(key[0])

    def mark_known(self, session: Hashable, trial_key: TrialKey, now_s: float) -> None:
        """Record that the model replied to a request's form: no request waits for a leader any more."""
        self._known[trial_key] = now_s + KNOWN_S
        self._known.move_to_end(trial_key)
        while len(self._known) > self._limit:
            self._known.popitem(last=False)
        self.leave(session, trial_key)

    def forget(self, scope: RuleScope) -> None:
        """Treat the model as unknown again, because one of its rules expired."""
        self._settled.clear()
        for trial_key in [trial_key for trial_key in self._known if trial_key[0].plain == scope.plain]:
            del self._known[trial_key]

    def leave(self, session: Hashable, trial_key: TrialKey) -> None:
        """Remove `session` as a leader and from its trials, because its request ended."""
        scope, (leader, _) = trial_key[0], self._leaders.get(trial_key, (None, 0.0))
        left = leader == session
        if left:
            del self._leaders[trial_key]
        for key, trial in self._trials.items():
            if session in trial.holders and _is_about(key, scope):
                trial.holders.discard(session)
                left = True
        if left:
            self.notify(scope)

    def listen(self, scope: RuleScope, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` whenever `wait_s` may have changed; return the function that ends this."""
        listeners = self._listeners.setdefault(scope.plain, set())
        listeners.add(callback)

        def end() -> None:
            listeners.discard(callback)
            # a new set may have replaced an emptied one, and it belongs to other requests
            if not listeners and self._listeners.get(scope.plain) is listeners:
                del self._listeners[scope.plain]

        return end

    def notify(self, scope: RuleScope) -> None:
        for callback in list(self._listeners.get(scope.plain, ())):  # a copy: a callback may end its listening
            callback()

    def candidates(self, scope: RuleScope, now_s: float) -> dict[Key, CandidateRule]:
        """Return the rules on trial for `scope`, after removing expired ones without holders."""
        if not self._trials:
            return {}
        expired = [key for key, trial in self._trials.items() if not trial.holders and trial.until_s <= now_s]
        for key in expired:
            del self._trials[key]
        return {key: trial for key, trial in self._trials.items() if _is_about(key, scope)}


def _is_about(key: Key, scope: RuleScope) -> bool:
    return key[0] in (scope, scope.plain)
