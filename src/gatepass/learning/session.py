"""Apply learned rules to one request at one target, and learn new rules from its rejections.

The caller drives one session through the attempts at a target::

    session = LearningSession(memory, scope, members, mode, policy)
    session.recall(now_s)                               # loads the rules that other requests learned
    while True:
        planned = session.revise(call)                  # `call` with all rules that apply
        ... send, classify the reply ...
        session.succeeded(now_s)                        # stores the rules of this request; or, after an error:
        if not session.prepare_retry(error, now_s, relevant_rules(...)):
            session.failed(error, now_s)                # does not try them again for a minute
            raise error

No request waits for another: each request of a cold burst learns for itself, until one has succeeded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from gatepass import errors
from gatepass.learning.learned_rule import Key, LearnedRule, LearningPolicy, RuleScope, evidence_of
from gatepass.learning.matchers import Relevant, contradicts, next_rules
from gatepass.learning.memory import Memory
from gatepass.learning.rejection import TEACHING, UpstreamRejection
from gatepass.normalize.betas import BETA_FIELD, betas_of
from gatepass.normalize.rules import apply_changes
from gatepass.observability.observer import RuleChange
from gatepass.types import Call

NO_ANSWER = (
    errors.UpstreamTimeout,
    errors.UpstreamConnect,
    errors.UpstreamDns,
    errors.UpstreamTls,
    errors.UpstreamClosed,
)
"""Errors after which it is unknown whether the upstream accepts the request."""

Mode = Literal["off", "on"]

_ID = re.compile(r"\w*\d\w*")
"""What differs between two errors that are the same: ids, times and counts."""


@dataclass(slots=True)
class AppliedRule:
    """A learned rule that one request uses.

    `evidence` is the message from which this request learned the rule, None if another one did.
    """

    rule: LearnedRule
    evidence: str | None = None


@dataclass(slots=True, eq=False)
class LearningSession:
    """Learning for one request at one target. It does no I/O and reads no clock.

    `members`: as in UpstreamRejection. `sent`: the last call that was sent. `events` are for the observers.
    `_applied` has the rules in the order of their receipt, `_used` those that changed the last call, and `_done` those
    that the request added or removed: it tries none of them again.
    """

    memory: Memory
    scope: RuleScope
    members: frozenset[str]
    mode: Mode = "on"
    policy: LearningPolicy = field(default_factory=LearningPolicy)
    sent: Call | None = None
    events: list[RuleChange] = field(default_factory=list)
    _applied: dict[Key, AppliedRule] = field(default_factory=dict)
    _used: list[Key] = field(default_factory=list)
    _done: set[Key] = field(default_factory=set)
    _rejections: list[tuple[errors.UpstreamError, UpstreamRejection | None]] = field(default_factory=list)

    @property
    def has_rules(self) -> bool:
        return bool(self._applied)

    @property
    def tried(self) -> tuple[str, ...]:
        """The request's own changes: the value of `x-gatepass-tried`."""
        return tuple(dict.fromkeys(rule.entry for rule, _ in self._own.values()))

    def recall(self, now_s: float) -> None:
        """Load the rules that other requests learned, without those that have expired."""
        self.memory.expire(self.scope, now_s)
        known = self.memory.of(self.scope)
        self._applied = {key: AppliedRule(rule) for key, rule in known if self.policy.allows(rule, self.members)}

    def revise(self, call: Call) -> Call:
        """Return `call` with all rules applied, or the same object if none changes it. It may run in a thread."""
        in_order = sorted(self._applied.items(), key=lambda item: item[1].rule.rank)
        changes = {key: one.rule.change() for key, one in in_order}
        self.sent, made = apply_changes(call, changes.values()) if changes else (call, [])
        self._used = [key for key, change in changes.items() if change in made]
        return self.sent

    def parse_error(self, error: errors.UpstreamError) -> UpstreamRejection | None:
        """Return `error` as the matchers read it: without the values of the last body that was sent."""
        # kept: the comparison with a large request takes tens of milliseconds, and three callers need the result
        for known, rejection in self._rejections:
            if known is error:
                return rejection
        rejection = None
        if isinstance(error, errors.UpstreamErrorReply):
            sent, headers = (b"{}", ()) if self.sent is None else (self.sent.body, self.sent.headers)
            names = betas_of(headers)
            betas = names if BETA_FIELD in self.members else ()
            values = [value.decode("latin-1") for name, value in headers if name != BETA_FIELD.encode()]
            texts = (*names, *values)
            rejection = UpstreamRejection.of(self.members, error.http_status, error.error_body, sent, betas, texts)
        self._rejections.append((error, rejection))
        return rejection

    def prepare_retry(self, error: errors.UpstreamError, now_s: float, relevant: Relevant) -> bool:
        """Learn from `error`, and return whether to plan and send the request again. `relevant` as in `next_rules`."""
        rejection = self.parse_error(error)
        if rejection is None:
            return False
        rules = self._next_rules(rejection, now_s, relevant)
        for rule in rules:
            key = self._key(rule)
            is_known = self.memory.rule(key) == rule  # another request may have stored it meanwhile
            self._done.add(key)
            self._applied.pop(key, None)  # so that the new rule is last in the order of receipt
            self._applied[key] = AppliedRule(rule, None if is_known else rejection.text)
        if rules:
            return True
        # forget the stored rules whose change the upstream rejects
        known = {key: one.rule for key, one in self._applied.items() if one.evidence is None}
        wrong = [key for key, rule in known.items() if contradicts(rejection, rule)]
        for key in wrong:
            self.memory.forget(key)
            self._record("revoked", known[key], rejection.text)
            self._done.add(key)
            del self._applied[key]
        return bool(wrong)

    def _next_rules(self, rejection: UpstreamRejection, now_s: float, relevant: Relevant) -> tuple[LearnedRule, ...]:
        if self.mode == "off" or self.sent is None:
            return ()

        def is_excluded(rule: LearnedRule) -> bool:
            """Whether `rule` may not be tried: it was, it is applied, it reverses an applied rule, or it failed."""
            key = self._key(rule)
            known = self._applied.get(key)
            return (
                key in self._done
                or (known is not None and known.rule == rule)
                or any(rule.reverses(one.rule) for one in self._applied.values())
                or self.memory.is_blocked(key, now_s)
            )

        return next_rules(rejection, relevant, self.policy, is_excluded)

    def succeeded(self, now_s: float) -> None:
        """Store the rules of this request and count a success of each rule: the upstream accepted the last body."""
        for key in self._used:
            rule, evidence = self._applied[key].rule, self._applied[key].evidence
            is_own = evidence is not None and rule.ttl_s > 0
            if is_own and self.memory.commit(key, rule, evidence or "", now_s):
                self._record("learned", rule, evidence or "")
            self.memory.used(key)

    def failed(self, error: errors.UpstreamError, now_s: float) -> bool:
        """Do not try the own rules that did not help again for a minute after `error`, which ended the tries.

        Return whether it is about the request's form. A rule did not help if the rejection that taught it came back, or
        if the reply is invalid. An error of another kind (a token, a quota, a filter, a timeout, a 5xx) refutes none.
        """
        if isinstance(error, NO_ANSWER):
            return False
        rejection = self.parse_error(error)
        if rejection is None and isinstance(error, errors.UpstreamErrorReply):
            is_unread = error.http_status in TEACHING and error.error_body is None
            if not is_unread:  # about a token, a quota or a filter, or the upstream itself failed
                return False
        for key, (rule, evidence) in self._own.items():
            if rejection is not None and not (
                _ID.sub("", rejection.text) == _ID.sub("", evidence) or contradicts(rejection, rule)
            ):
                continue  # a next request may need nothing else
            if rule.ttl_s and self.memory.rule(key) != rule:  # else another request has succeeded with it
                self.memory.refute(key, rule, error.message, now_s)
            self._record("failed", rule, evidence)
        return True

    @property
    def last_rejection(self) -> errors.UpstreamError | None:
        """The last error from which a rule could be learned."""
        return next((error for error, rejection in reversed(self._rejections) if rejection is not None), None)

    @property
    def _own(self) -> dict[Key, tuple[LearnedRule, str]]:
        return {key: (one.rule, one.evidence) for key, one in self._applied.items() if one.evidence is not None}

    def _key(self, rule: LearnedRule) -> Key:
        return (self.scope, rule.key)

    def _record(self, event: str, rule: LearnedRule, evidence: str) -> None:
        request_id, where = "" if self.sent is None else self.sent.id, self.scope
        what = (rule.entry, evidence_of(evidence))
        self.events.append(RuleChange(request_id, event, where.upstream, where.model, where.operation, *what))
