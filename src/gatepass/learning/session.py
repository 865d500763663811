"""Apply learned rules to one request at one target, and learn new rules from its rejections.

The caller drives one session through an attempt, and closes it in every case::

    session = learner.session(scope, members, mode, policy)
    try:
        await wait_for_trial(session, call, clock)
        while True:
            session.recall(call, now_s)                     # loads the rules of other requests
            planned = session.revise(call)                  # `call` with all rules that apply
            ... send, classify the reply ...
            session.succeeded(now_s)                        # stores the rules on trial; or, after an error:
            if not session.prepare_retry(error, now_s, relevant_rules(...), may_repeat=...):
                raise session.failed(error, now_s)
    finally:
        session.close()
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from gatepass.clock import Clock, wait_at_most
from gatepass.errors import (
    UpstreamConnect,
    UpstreamDns,
    UpstreamError,
    UpstreamErrorReply,
    UpstreamTimeout,
    UpstreamTls,
)
from gatepass.learning.learned_rule import Key, LearnedRule, LearningPolicy, RuleScope, evidence_of
from gatepass.learning.matchers import Relevant, contradicts, is_same_rejection, next_rules
from gatepass.learning.memory import LIMIT, Memory, Settled, SingleTrial, TrialKey
from gatepass.learning.rejection import TEACHING, UpstreamRejection
from gatepass.normalize.betas import BETA_FIELD, betas_of
from gatepass.normalize.rules import apply_changes
from gatepass.types import Call

NO_ANSWER = (UpstreamTimeout, UpstreamConnect, UpstreamDns, UpstreamTls)
"""Errors after which it is unknown whether the upstream accepts the request."""

Mode = Literal["off", "on"]


@dataclass(slots=True)
class AppliedRule:
    """A learned rule that one request uses.

    `proven`: a request has succeeded with the rule. `helped`: the upstream rejected something else after the change.
    `is_own`: this request learned the rule, from the error `answered`, whose message is `evidence`.
    """

    rule: LearnedRule
    proven: bool
    evidence: str = ""
    is_own: bool = False
    helped: bool = False
    answered: UpstreamError | None = None


@dataclass(slots=True)
class AppliedRules:
    """The rules of one request at one target, in the order in which the request received them.

    `used` lists the rules that changed the last body that was sent. `done` holds the rules that the request added or
    removed: it tries none of them again.
    """

    by_key: dict[Key, AppliedRule] = field(default_factory=dict)
    used: list[Key] = field(default_factory=list)
    done: set[Key] = field(default_factory=set)

    @property
    def own(self) -> dict[Key, AppliedRule]:
        return {key: one for key, one in self.by_key.items() if one.is_own}

    @property
    def inherited(self) -> dict[Key, AppliedRule]:
        return {key: one for key, one in self.by_key.items() if not one.is_own}

    def revise(self, call: Call) -> Call:
        """Return `call` with all rules applied, or the same object if no rule changes it."""
        in_order = sorted(self.by_key, key=lambda key: self.by_key[key].rule.rank)
        rules = {key: self.by_key[key].rule for key in in_order}
        changes = {key: rule.change() for key, rule in rules.items() if rule.entry not in call.without}
        sent, made = apply_changes(call, changes.values()) if changes else (call, [])
        self.used = [key for key, change in changes.items() if change in made]
        return sent

    def excludes(self, key: Key, rule: LearnedRule) -> bool:
        """Whether `rule` was tried already, is applied, or reverses an applied rule."""
        known = self.by_key.get(key)
        if key in self.done or (known is not None and known.rule == rule):
            return True
        return any(rule.reverses(one.rule) for one in self.by_key.values())

    def mark_helped(self, rejection: UpstreamRejection) -> list[Key]:
        """Mark and return the request's own rules that helped: the upstream rejects something else after the change."""
        helped = [
            key
            for key, one in self.own.items()
            if key in self.used and not one.helped and not is_same_rejection(rejection, one.rule, one.evidence)
        ]
        for key in helped:
            self.by_key[key].helped = True
        return helped

    def add(self, key: Key, one: AppliedRule) -> None:
        self.done.add(key)
        self.by_key.pop(key, None)  # so that the new rule is last in the order of receipt
        self.by_key[key] = one

    def remove(self, keys: Iterable[Key]) -> None:
        """Stop applying these rules, and do not try them again."""
        for key in keys:
            self.done.add(key)
            del self.by_key[key]


@dataclass(frozen=True, slots=True)
class LearningEvent:
    """One event for the log and the metrics: `event` is learned, revoked or failed."""

    event: str
    scope: RuleScope
    adapted: str
    evidence: str = ""


@dataclass(slots=True, eq=False)
class LearningSession:
    """Learning for one request at one target. It does no I/O and reads no clock.

    `members`: as in UpstreamRejection. `events` collects what the caller logs. `tried` names the changes that did not
    help. `changed` names the changes that helped before the error that `failed` returned. `is_exhausted`: a limit
    prevented another try.
    """

    memory: Memory
    trial: SingleTrial
    scope: RuleScope
    members: frozenset[str]
    mode: Mode
    policy: LearningPolicy
    events: list[LearningEvent] = field(default_factory=list)
    changed: tuple[str, ...] = ()
    is_exhausted: bool = False
    _applied: AppliedRules = field(default_factory=AppliedRules)
    _is_planned: bool = False
    _sent: Call | None = None
    _first_error: UpstreamError | None = None
    _failed: tuple[str, ...] = ()
    _entered_s: float | None = None
    _stream: bool = False
    _rejections: list[tuple[UpstreamError, UpstreamRejection | None]] = field(default_factory=list)

    def close(self) -> None:
        self.trial.leave(self, self._trial_key)

    @property
    def has_rules(self) -> bool:
        return bool(self._applied.by_key)

    @property
    def last_sent(self) -> Call | None:
        return self._sent

    @property
    def tried(self) -> tuple[str, ...]:
        """The request's own changes that did not help or did not suffice, or whose effect is unknown.

        They are the value of `x-gatepass-tried`.
        """
        open_ones = (one.rule.entry for one in self._applied.own.values() if not one.helped)
        return tuple(dict.fromkeys((*self._failed, *open_ones)))

    def blocked_s(self, rule: LearnedRule, now_s: float) -> float:
        """Return for how many seconds `rule` is not tried again; 0 if it did not fail within the last minute."""
        return self.memory.blocked_s(self._key(rule), now_s)

    def wait_s(self, call: Call, now_s: float) -> float:
        """Return for how many seconds at most this request waits for the trial of another; 0 if it goes now."""
        if self.mode != "on" or not call.body:
            return 0.0
        self._stream = call.stream
        self._expire(now_s)
        self._entered_s = now_s if self._entered_s is None else self._entered_s  # the first call starts the wait
        return self.trial.wait_s(self, self._trial_key, self._entered_s, now_s)

    def recall(self, call: Call, now_s: float) -> None:
        """Load the rules that other requests learned or have on trial. Only the first call for a request loads them."""
        self._stream = call.stream
        if not self._is_planned and self.mode == "on" and call.body:
            self._expire(now_s)
            known = {key: AppliedRule(rule, proven=True) for key, rule in self.memory.of(self.scope)}
            for key, trial in self.trial.candidates(self.scope, now_s).items():  # a stored rule takes precedence
                candidate = AppliedRule(trial.rule, proven=False, evidence=trial.evidence, helped=trial.helped)
                known.setdefault(key, candidate)
            allows = self.policy.allows
            self._applied.by_key = {key: one for key, one in known.items() if allows(one.rule, self.members)}
        self._is_planned = True

    def revise(self, call: Call) -> Call:
        """Return `call` with all rules applied, or the same object if none changes it. It may run in a thread."""
        self._sent = self._applied.revise(call)
        return self._sent

    def sent(self, call: Call) -> None:
        """Record that `call` was sent unchanged because of `Learner.is_settled`. It replaces `recall` and `revise`."""
        self._stream, self._sent, self._is_planned = call.stream, call, True

    def parse_error(self, error: UpstreamError) -> UpstreamRejection | None:
        """Return `error` as the matchers read it: without the values of the last body that was sent."""
        # kept: the comparison with a large request takes tens of milliseconds, and three callers need the result
        for known, rejection in self._rejections:
            if known is error:
                return rejection
        rejection = None
        if isinstance(error, UpstreamErrorReply):
            sent, betas = (b"{}", ()) if self._sent is None else (self._sent.body, betas_of(self._sent.headers))
            betas = betas if BETA_FIELD in self.members else ()
            rejection = UpstreamRejection.of(self.members, error.http_status, error.error_body, sent, betas)
        self._rejections.append((error, rejection))
        return rejection

    def prepare_retry(self, error: UpstreamError, now_s: float, relevant: Relevant, *, may_repeat: bool) -> bool:
        """Learn from `error`, and return whether to plan and send the request again.

        `relevant` as in `next_rules`. `may_repeat` is False if a limit prevents another try.
        """
        if self.mode == "off" or self._sent is None:
            return False
        rejection = self.parse_error(error)
        if rejection is None:
            return False
        for key in self._applied.mark_helped(rejection):
            self.trial.helped(key, now_s)

        def is_excluded(rule: LearnedRule) -> bool:
            key = self._key(rule)
            if self._sent is not None and rule.entry in self._sent.without:
                return True
            return self._applied.excludes(key, rule) or self.memory.blocked_s(key, now_s) > 0

        rules = next_rules(rejection, relevant, self.policy, is_excluded)
        if not may_repeat:
            self.is_exhausted = bool(rules)
            return False
        self._first_error = self._first_error or error
        if not rules:
            return self._step_back(rejection)
        for rule in rules:
            key = self._key(rule)
            proven = self.memory.rule(key) == rule  # another request may have stored it meanwhile
            self._applied.add(key, AppliedRule(rule, proven, rejection.text, is_own=not proven, answered=error))
            if not proven and rule.ttl_s:
                self.trial.propose(key, rule, rejection.text, self, now_s)
        return True

    def succeeded(self, now_s: float) -> None:
        """Store the rules on trial and count a success of each rule: the upstream accepted the last body."""
        for key in self._applied.used:
            one = self._applied.by_key[key]
            if not one.proven and one.rule.ttl_s:
                is_configured = self.policy.is_configured
                if self.memory.commit(key, one.rule, one.evidence, now_s, is_configured=is_configured):
                    self._record("learned", one.rule, one.evidence)
                self.trial.settle(key)
            self.memory.used(key)
        if self.mode == "on":
            self.trial.mark_known(self, self._trial_key, now_s)

    def failed(self, error: UpstreamError, now_s: float) -> UpstreamError:
        """Return the error to show to the client after `error`, for which `prepare_retry` returned False.

        - A change helped if the upstream rejected something else after it. The rule stays on trial for the next
          request. The last error is shown, because it names the remaining fault.
        - A change failed if the same rejection came back or the reply is invalid. The error before it is shown.
        - If a limit ended the tries, the first error is shown, because it is about the request as
          the client sent it. The rules stay on trial.
        - An error that is not about the request's form (a token, a quota, a filter, a timeout) is returned unchanged,
          and the rules stay on trial.
        """
        rejection, shown = self.parse_error(error), error
        if _is_about_form(error, rejection):
            shown = self._refute_failed(rejection, error, now_s)
        # a rejection is a reply to the form too: other requests get the same one without waiting
        if self.mode == "on" and rejection is not None:
            self.trial.mark_known(self, self._trial_key, now_s)
        self.trial.leave(self, self._trial_key)
        return shown

    def _refute_failed(self, rejection: UpstreamRejection | None, error: UpstreamError, now_s: float) -> UpstreamError:
        """Refute the request's own rules that failed; return the error before the first of them, else `error`."""
        own = self._applied.own
        failed = [
            key
            for key, one in own.items()
            if not one.helped or (rejection is not None and is_same_rejection(rejection, one.rule, one.evidence))
        ]
        for key in failed:
            rule = own[key].rule
            if rule.ttl_s:
                self.memory.refute(key, rule, error.message, now_s)
            self.trial.settle(key)
            self._record("failed", rule, own[key].evidence)
        helped = list(own)[: list(own).index(failed[0])] if failed else list(own)
        self._failed = tuple(own[key].rule.entry for key in failed)
        self.changed = tuple(own[key].rule.entry for key in helped)
        self.is_exhausted = self.is_exhausted and bool(own) and not failed
        if self.is_exhausted:
            self._failed, self.changed = self.changed, ()
            return self._first_error or error
        return (own[failed[0]].answered or error) if failed else error

    @property
    def _trial_key(self) -> TrialKey:
        return (self.scope, self._stream)

    def _key(self, rule: LearnedRule) -> Key:
        return (self.scope.of(rule), rule.key)

    def _expire(self, now_s: float) -> None:
        """Forget expired rules. The model is then unknown again: one request alone receives the next rejection."""
        if self.memory.expire(self.scope, now_s):
            self.trial.forget(self.scope)

    def _step_back(self, rejection: UpstreamRejection) -> bool:
        """Remove inherited rules that may have caused `rejection`; return whether any was removed."""
        inherited = self._applied.inherited
        wrong = [key for key, one in inherited.items() if one.proven and contradicts(rejection, one.rule)]
        for key in wrong:
            self.memory.forget(key)
            self._record("revoked", inherited[key].rule, rejection.text)
        if wrong:
            self._applied.remove(wrong)
            return True
        doubtful = []
        for key, one in inherited.items():
            # A rule on trial is doubtful if no request has seen it help, or if it no longer helps.
            has_helped = one.helped or self.trial.has_helped(key)
            if not one.proven and (not has_helped or is_same_rejection(rejection, one.rule, one.evidence)):
                doubtful.append(key)
        for key in doubtful:
            one = self._applied.by_key.pop(key)
            if is_same_rejection(rejection, one.rule, one.evidence):
                self._applied.done.add(key)  # otherwise the next rejection may add it again
        return bool(doubtful)

    def _record(self, event: str, rule: LearnedRule, evidence: str) -> None:
        self.events.append(LearningEvent(event, self.scope, rule.entry, evidence_of(evidence)))


def _is_about_form(error: UpstreamError, rejection: UpstreamRejection | None) -> bool:
    """Whether `error` may be about the request's form, and not about a timeout, a token, a quota or a filter."""
    if isinstance(error, NO_ANSWER):
        return False
    if rejection is not None or not isinstance(error, UpstreamErrorReply) or not 400 <= error.http_status < 500:
        return True
    return error.http_status in TEACHING and error.error_body is None


class Learner:
    """The learned rules of one upstream in one process, and the trials of its requests."""

    def __init__(self) -> None:
        self.settled: Settled = {}
        """The models whose requests need no session until one is rejected, and until when that is known."""
        self.memory = Memory(settled=self.settled)
        self.trial = SingleTrial(settled=self.settled)

    def is_settled(self, scope: RuleScope, stream: bool, now_s: float) -> bool:
        """Whether no rule and no trial concerns `scope`. Adds it to `settled`."""
        until_s = self.trial.needs_no_trial_until_s((scope, stream))
        if until_s <= now_s or self.memory.knows(scope):
            return False
        if len(self.settled) >= LIMIT:
            self.settled.clear()
        self.settled[scope.model, scope.operation, stream] = until_s
        return True

    def forget(self, model: str, operation: str, entry: str) -> int:
        """Forget the rules `entry` of a model, which is then unknown again. Return how many there were."""
        scopes = self.memory.forget_entry(model, operation, entry)
        for scope in scopes:
            self.trial.forget(scope)
        return len(scopes)

    def session(
        self, scope: RuleScope, members: frozenset[str], mode: Mode = "on", policy: LearningPolicy | None = None
    ) -> LearningSession:
        """Return a session for one request. The caller closes it, which ends its trials."""
        return LearningSession(self.memory, self.trial, scope, members, mode, policy or LearningPolicy())


async def wait_for_trial(session: LearningSession, call: Call, clock: Clock) -> None:
    """Return when `call` may be planned: at once in most cases (see memory.py), after MOST_WAIT_S at most."""
    while (left_s := session.wait_s(call, clock.now())) > 0:
        news = asyncio.Event()
        end = session.trial.listen(session.scope, news.set)
        try:
            await wait_at_most(news, left_s, clock)
        finally:
            end()
