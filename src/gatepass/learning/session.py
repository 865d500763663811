"""Apply learned rules to one request at one target, and learn new rules from its rejections.

The caller drives one session through the attempts at a target::

    session = LearningSession(memory, scope, members, mode, policy)
    session.recall(now_s)                               # loads the rules that other requests learned
    while True:
        planned = session.revise(call)                  # `call` with all rules that apply
        ... send, classify the reply ...
        session.succeeded(now_s)                        # stores the rules of this request; or, after an error:
        if not session.prepare_retry(error, now_s, relevant_rules(...)):
            raise session.failed(error, now_s, relevant_rules(...))

No request waits for another: each request of a cold burst learns for itself, until one has succeeded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gatepass import errors
from gatepass.learning.learned_rule import Key, LearnedRule, LearningPolicy, RuleScope, evidence_of
from gatepass.learning.matchers import Relevant, contradicts, next_rules, repeated
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


@dataclass(slots=True)
class AppliedRule:
    """A learned rule that one request uses.

    `answered`: the error from which this request learned the rule, None if another one did. `evidence` is its message.
    `helped`: the upstream rejected something else after the change.
    """

    rule: LearnedRule
    answered: errors.UpstreamError | None = None
    evidence: str = ""
    helped: bool = False


@dataclass(slots=True, eq=False)
class LearningSession:
    """Learning for one request at one target. It does no I/O and reads no clock.

    `members`: as in UpstreamRejection. `sent`: the last call that was sent. `events` are for the observers.
    `changed` names the changes that helped before the error that `failed` returned. `is_exhausted`: a limit prevented
    another try. `_applied` has the rules in the order of their receipt, `_used` those that changed the last call, and
    `_done` those that the request added or removed: it tries none of them again.
    """

    memory: Memory
    scope: RuleScope
    members: frozenset[str]
    mode: Mode = "on"
    policy: LearningPolicy = field(default_factory=LearningPolicy)
    sent: Call | None = None
    events: list[RuleChange] = field(default_factory=list)
    changed: tuple[str, ...] = ()
    is_exhausted: bool = False
    _applied: dict[Key, AppliedRule] = field(default_factory=dict)
    _used: list[Key] = field(default_factory=list)
    _done: set[Key] = field(default_factory=set)
    _first_error: errors.UpstreamError | None = None
    _failed: tuple[str, ...] = ()
    _rejections: list[tuple[errors.UpstreamError, UpstreamRejection | None]] = field(default_factory=list)

    @property
    def has_rules(self) -> bool:
        return bool(self._applied)

    @property
    def tried(self) -> tuple[str, ...]:
        """The request's own changes that did not help or did not suffice, or whose effect is unknown.

        They are the value of `x-gatepass-tried`.
        """
        open_ones = (one.rule.entry for one in self._own.values() if not one.helped)
        return tuple(dict.fromkeys((*self._failed, *open_ones)))

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
        self._first_error = self._first_error or error
        for rule in rules:
            key = self._key(rule)
            is_known = self.memory.rule(key) == rule  # another request may have stored it meanwhile
            self._done.add(key)
            self._applied.pop(key, None)  # so that the new rule is last in the order of receipt
            self._applied[key] = AppliedRule(rule, None if is_known else error, rejection.text)
        if rules:
            return True
        # forget the stored rules whose change the upstream rejects
        known = {key: one.rule for key, one in self._applied.items() if one.answered is None}
        wrong = [key for key, rule in known.items() if contradicts(rejection, rule)]
        for key in wrong:
            self.memory.forget(key)
            self._record("revoked", known[key], rejection.text)
            self._done.add(key)
            del self._applied[key]
        return bool(wrong)

    def _next_rules(self, rejection: UpstreamRejection, now_s: float, relevant: Relevant) -> tuple[LearnedRule, ...]:
        """Mark the own rules that helped, because `rejection` is about something else, and return those to try next."""
        if self.mode == "off" or self.sent is None:
            return ()
        again = self._repeated(rejection)
        for key, one in self._own.items():
            if key in self._used and key not in again:
                one.helped = True

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
        is_configured = self.policy.is_configured
        for key in self._used:
            one = self._applied[key]
            is_own = one.answered is not None and one.rule.ttl_s > 0
            if is_own and self.memory.commit(key, one.rule, one.evidence, now_s, is_configured=is_configured):
                self._record("learned", one.rule, one.evidence)
            self.memory.used(key)

    def failed(self, error: errors.UpstreamError, now_s: float, relevant: Relevant) -> errors.UpstreamError:
        """Return the error to show to the client after `error`, which ended the tries. `relevant` as in `next_rules`.

        - A change helped if the upstream rejected something else after it. Then the last error is shown.
        - A change failed if the same rejection came back or the reply is invalid. The error before it is shown.
        - If a limit ended the tries, the first error is shown, because it is about the request as the client sent it.
        - An error that is not about the request's form (a token, a quota, a filter, a timeout, a 5xx) is returned
          unchanged.
        """
        rejection = self.parse_error(error)
        if rejection is not None:
            self.is_exhausted = bool(self._next_rules(rejection, now_s, relevant))
        if isinstance(error, NO_ANSWER):
            return error
        if rejection is None and isinstance(error, errors.UpstreamErrorReply):
            is_unread = error.http_status in TEACHING and error.error_body is None
            if not is_unread:  # about a token, a quota or a filter, or the upstream itself failed
                return error
        own, again = self._own, set[Key]() if rejection is None else self._repeated(rejection)
        failed = [key for key, one in own.items() if not one.helped or key in again]
        for key in failed:
            rule = own[key].rule
            if rule.ttl_s and self.memory.rule(key) != rule:  # else another request has succeeded with it
                self.memory.refute(key, rule, error.message, now_s)
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
    def _own(self) -> dict[Key, AppliedRule]:
        return {key: one for key, one in self._applied.items() if one.answered is not None}

    def _repeated(self, rejection: UpstreamRejection) -> set[Key]:
        own = {key: (one.rule, one.evidence) for key, one in self._own.items()}
        return repeated(rejection, own) if own else set()

    def _key(self, rule: LearnedRule) -> Key:
        return (self.scope, rule.key)

    def _record(self, event: str, rule: LearnedRule, evidence: str) -> None:
        request_id, where = "" if self.sent is None else self.sent.id, self.scope
        what = (rule.entry, evidence_of(evidence))
        self.events.append(RuleChange(request_id, event, where.upstream, where.model, where.operation, *what))
