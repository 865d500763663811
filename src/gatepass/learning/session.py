"""Apply one caller's rules to one request at one target, and try changes that the refusals point at.

The caller drives one session through the attempts at a target::

    session = LearningSession(memory, scope, members, mode, policy)
    session.recall(now_s)                               # loads the caller's rules
    while True:
        planned = session.revise(call)                  # `call` with all rules that apply
        ... send, classify the reply ...
        session.succeeded(now_s)                        # stores the rules that helped; or, after an error:
        if not session.prepare_retry(error, now_s, steps(session.read(error), …)):
            raise session.failed(error, now_s)
    session.left(now_s)                                 # when the request ends

The upstream does not execute a request that it refuses, so a change that loses nothing may be tried. The session tries
one step at a time. It undoes the step if the same error returns, or an error about the change itself. After any other
error it keeps the step, and continues with the steps for that error. `shown_after` says whose error the client gets.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain
from typing import Literal

import msgspec
from msgspec.structs import replace

from gatepass import errors
from gatepass.dialects.hints import is_about_model
from gatepass.learning.learned_rule import Key, LearnedRule, LearningPolicy, RuleScope, evidence_of
from gatepass.learning.memory import Memory
from gatepass.learning.pointing import Refusal, is_named, is_too_long
from gatepass.learning.rows import Step, concerns, steps, that_change
from gatepass.normalize.betas import BETA_FIELD
from gatepass.normalize.members import BOUND_NAMES
from gatepass.normalize.rules import INCLUDE_USAGE, apply_changes
from gatepass.observability.observer import RuleChange
from gatepass.types import SERVER_ERROR, Call, UpstreamErrorBody

MOST_USELESS = 3
"""Limit on the tries of one request that did not help."""
GUESSED_BYTES = 1 << 20
"""A larger body is sent again only where a code, `param` or path points at something."""

Mode = Literal["off", "on"]


class LearningSession(msgspec.Struct, eq=False):
    """Learning for one request at one target. It does no I/O and reads no clock.

    `members`: as in Refusal. `sent`: the last call that was sent. `events` are for the observers. `is_free`: the last
    try only undoes an addition of gatepass itself, and does not count as useless.
    """

    memory: Memory
    scope: RuleScope
    members: frozenset[str]
    mode: Mode = "on"
    policy: LearningPolicy = LearningPolicy()
    sent: Call | None = None
    events: list[RuleChange] = []
    is_free: bool = False
    last_words: str = ""
    """The upstream's message that no change has solved, if it is not that of the client's error."""
    answered: tuple[str, ...] = ()
    """The changes in the request that the client's error answers: `failed` sets it."""
    _stored: dict[Key, LearnedRule] = {}
    """The rules that gatepass learned from other requests of the caller."""
    _kept: dict[Key, tuple[LearnedRule, str]] = {}
    """The rules that this request needed so far, with the texts of the errors that pointed at them."""
    _trying: Step = ()
    _without: Step = ()
    """The stored rules that the last try left out, because the error was about their changes."""
    _used: list[LearnedRule] = []
    _tried: list[LearnedRule] = []
    _shown: errors.UpstreamError | None = None
    """The error for the client so far: that of its own request, or a later one that `shown_after` prefers."""
    _own: tuple[errors.UpstreamError, tuple[str, ...]] | None = None
    """The error of its own request, and the changes in that request."""
    _refusal: Refusal | None = None
    """The error that the tries of `_queue` may solve: each adds a step, or leaves out stored rules."""
    _queue: list[tuple[Step, Step]] = []
    _texts: dict[LearnedRule, str] = {}
    _refuted: list[bool] = []
    """For each try of `_queue` that did not help: whether it led to the same error."""
    _useless: int = 0
    _read: dict[errors.UpstreamError, Refusal | None] = {}

    @property
    def least_tokens(self) -> int:
        """What a rule raised the limit of the answer to in the last body, 0 for nothing."""
        return max([rule.least for rule in self._used], default=0)

    @property
    def tried(self) -> tuple[str, ...]:
        """The changes that this request tried: the value of `x-gatepass-tried`."""
        return tuple(dict.fromkeys(rule.entry for rule in self._tried))

    def recall(self, now_s: float) -> None:
        """Load the rules that gatepass learned from the caller's other requests, except expired ones."""
        known = self.memory.of(self.scope, now_s)
        self._stored = {rule.key: rule for rule in known if self.policy.allows(rule, self.members)}

    def revise(self, call: Call) -> Call:
        """Return `call` with all rules applied, or the same object if none changes it. It may run in a thread."""
        rules = {key: rule for key, rule in self._stored.items() if rule not in self._without}
        rules |= {rule.key: rule for rule in (*(kept for kept, _ in self._kept.values()), *self._trying)}
        in_order = sorted(rules.values(), key=lambda rule: rule.rank)
        self.sent, made = apply_changes(call, [rule.change for rule in in_order]) if in_order else (call, [])
        self._used = [rule for rule in in_order if rule.change in made]
        return self.sent

    def read(self, error: errors.UpstreamError) -> Refusal | None:
        """Return what `error` points at in the last body that was sent. It may run in a thread."""
        # cached: the comparison with a large request takes tens of milliseconds, and several callers need the result
        if error in self._read:
            return self._read[error]
        refusal = None
        if isinstance(error, errors.UpstreamErrorReply):
            sent, headers = (b"{}", ()) if self.sent is None else (self.sent.body, self.sent.headers)
            values = [value.decode("latin-1") for name, value in headers if name != BETA_FIELD.encode()]
            changed = [path for rule in self._trying or self._used for path in rule.paths]
            refusal = Refusal.of(self.members, error.http_status, error.error_body, sent, values, changed)
            if refusal is not None and refusal.is_failure and self.sent is not None:
                if self._trying or steps(refusal, self.sent):
                    error.should_retry = False  # each repeat has the fault too
                else:
                    refusal = None
        self._read[error] = refusal
        return refusal

    def prepare_retry(self, error: errors.UpstreamError, now_s: float, steps: Sequence[Step]) -> bool:
        """Return whether to plan and send the request again after `error`. `steps` come from `rows.steps`."""
        refusal, sent = self.read(error), self.sent
        if refusal is None or self.mode == "off" or sent is None:
            return False
        first, is_known = list[tuple[Step, Step]](), self.memory.is_useless(self.scope, refusal.signature, now_s)
        if is_first := self._refusal is None:
            self._show(error)
            self._own = error, self.answered
            wrong = tuple(rule for rule in self._used if concerns(refusal, rule))
            used = tuple(rule for rule in self._used if rule in wrong or rule.action != "rerank")
            if wrong and not is_known:  # perhaps the upstream changed
                first.append(((), wrong))
            self._texts = self.memory.helped(self.scope, now_s)
            if helped := that_change(self._texts, sent):
                first.append((helped, ()))
        if is_first or self._settle(error, refusal, steps):
            self._refusal, self._queue, self._refuted = refusal, [], []
            if len(sent.body) <= GUESSED_BYTES or refusal.is_exact:
                tries = [*first, *((step, ()) for step in steps if not is_known)]
                if is_first and used != wrong and not is_known and not is_too_long(error):
                    tries.append(((), used))  # an error may not name the part that caused it
                self._queue = [one for one in tries if all(self._may_try(rule, now_s) for rule in one[0])]
        if not self._queue or self._useless >= MOST_USELESS:
            return False
        self._trying, self._without = self._queue.pop(0)
        self._tried += self._trying
        # the try only removes an addition of gatepass: a token count that the client did not request
        has_added = bool(self._trying) and INCLUDE_USAGE.changes[0].entry in sent.adapted
        self.is_free = has_added and all(rule.field.startswith("stream_options") for rule in self._trying)
        return True

    def _may_try(self, rule: LearnedRule, now_s: float) -> bool:
        is_useless = rule.action == "rerank" and self.memory.is_useless(self.scope, rule.entry, now_s)
        return rule.key not in self._kept and not is_useless and self.policy.allows(rule, self.members)

    def _settle(self, error: errors.UpstreamError, refusal: Refusal | None, steps: Sequence[Step]) -> bool:
        """Choose the error for the client, and keep or undo the step that was tried before `error`.

        Returns whether it was kept. After an error that no change of form can solve, it is neither.
        """
        own = None if self._own is None else self.read(self._own[0])
        is_own, is_same = (bool(refusal and one and refusal.is_same(one)) for one in (own, self._refusal))
        is_same, brought = is_same or is_own, {*chain(*steps)}
        if refusal is None:
            is_about = is_about_member(error, self._trying)
        elif self._without:
            is_about = not {rule.entry for rule in brought}.isdisjoint(rule.entry for rule in self._without)
        else:
            # the error's noun may belong to another part of the body; then `steps` has a step for that part
            about = [rule for rule in self._trying if concerns(refusal, rule)]
            are_alike = {rule.key for rule in brought}.issubset(rule.key for rule in self._trying)
            is_about = any(rule.paths or are_alike for rule in about)
        relation: Relation = "same" if is_same else "about" if is_about else "other"
        models = (self.scope.model, "" if self.sent is None else self.sent.model)
        shown = shown_after(self._trying, error, refusal, relation, models)
        if shown == "last":
            self._show(error)
        elif shown == "then":
            self.last_words = error.message
        elif is_own and self._own is not None:
            self._shown, self.answered = self._own
            self.last_words = ""
        is_kept = relation == "other" and refusal is not None
        if is_kept:
            self._keep()
        elif refusal is not None:
            self._refuted.append(is_same or bool(self._without))  # another error shows that stored rules are needed
            self._trying, self._without = (), ()
            self._useless += not self.is_free
        return is_kept

    def _show(self, error: errors.UpstreamError) -> None:
        self._shown, self.answered = error, tuple(rule.entry for rule in self._used)
        self.last_words = ""

    def _keep(self) -> None:
        text = "" if self._refusal is None else self._refusal.evidence
        for rule in self._trying:
            self._kept[rule.key] = (rule, self._texts.get(rule, text))
        for rule in self._without:
            self.memory.forget(self.scope, rule)
            self._record("revoked", rule, text)
            del self._stored[rule.key]
        self._trying, self._without = (), ()

    def succeeded(self, now_s: float) -> None:
        """Store the rules that this request needed, and count each use. The upstream accepted the last body."""
        memory, scope = self.memory, self.scope
        self._keep()
        if self._kept:
            memory.keep_helped(scope, {}, now_s)
        names = () if self.sent is None else BOUND_NAMES.get(self.sent.operation.protocol, ())
        for rule in self._used:
            needed, text = self._kept.get(rule.key, (None, ""))
            alike = [replace(rule, field=name) for name in names if rule.action == "clamp"]
            made = dict.fromkeys((rule, *alike)) if needed and self._may_store(rule, now_s) else ()
            new = [found for one in made if (found := memory.commit(scope, one, text, now_s)) is not None]
            for one in new:
                self._record("learned", one, text)
            memory.used(scope, new[0] if new else rule)
        limited = memory.of_values(scope, now_s)
        unknown = {one.field: one for one in limited if one.loss and not memory.was_accepted(scope, one, now_s)}
        drops = (LearnedRule("drop", path) for path in unknown)
        # the body has another value there
        for other in that_change(drops, self.sent) if unknown and self.sent is not None else ():
            memory.accepted(scope, unknown[other.field], now_s)
        self._kept, self._shown = {}, None

    def _may_store(self, rule: LearnedRule, now_s: float) -> bool:
        if rule.is_once or rule.beside or rule.action != "stream":
            return not rule.is_once
        return self.memory.may_store_missing(self.scope, now_s, is_stream=rule.field == "synth")

    def failed(self, error: errors.UpstreamError, now_s: float) -> errors.UpstreamError:
        """Return the error for the client after the last try ended with `error`. `answered` belongs to it."""
        if self._shown is None:  # nothing was tried, or it worked, and the reply broke later
            self._show(error)
            return error
        refusal = self.read(error)
        if self._trying or self._without:
            self._settle(error, refusal, ())
        if self._refuted and all(self._refuted) and self._refusal is not None:
            # each try led to the same error, so the next minute's requests do not try again
            self.memory.note_useless(self.scope, self._refusal.signature, now_s)
        for rule in dict.fromkeys(self._tried):
            if rule.key not in self._kept:
                if rule.action == "rerank":  # one shape is for all requests
                    self.memory.note_useless(self.scope, rule.entry, now_s)
                self._record("failed", rule, "" if self._refusal is None else self._refusal.evidence)
        return self._shown

    def left(self, now_s: float) -> None:
        """Keep the rules that helped this request for the caller's next one. Call it when the request ends."""
        if helped := {rule: text for rule, text in self._kept.values() if not rule.is_once}:
            self.memory.keep_helped(self.scope, helped, now_s)

    def _record(self, event: str, rule: LearnedRule, evidence: str) -> None:
        request_id, where = "" if self.sent is None else self.sent.id, self.scope
        what = (rule.entry, evidence_of(evidence, rule.field), where.owner)
        self.events.append(RuleChange(request_id, event, where.upstream, where.model, where.operation, *what))


Relation = Literal["same", "about", "other"]
"""What the last error says: the same as the first one, something about the change, or something else."""
_FORMS = frozenset(("stream", "role", "roles", "content", "arguments", "tool_ids", "split", "rerank"))
"""The actions of rules that send the same in another form, which a server may be unable to handle."""
_UNREADABLE = (errors.UpstreamInvalid, errors.UpstreamEmpty)


def shown_after(
    step: Step, error: errors.UpstreamError, refusal: Refusal | None, relation: Relation, models: Collection[str]
) -> Literal["first", "then", "last"]:
    """Return which error the client gets after `error` to a request with the tried `step`.

    `first` and `last` are the errors before and after it, `then` is the first one that quotes the last one.
    `refusal`: that of `error`, None if no change of form can solve it. `models`: the names of the model.
    """
    status, body = error.http_status, _body(error)
    if relation == "same":
        return "first"
    if is_too_long(error) or error.case == "declared_length":  # the setting or the model is wrong, not the request
        return "last"
    is_unable = isinstance(error, _UNREADABLE) or (body is not None and status in (404, SERVER_ERROR))
    if relation == "about" and (refusal is not None or is_unable):
        return "first"
    models = () if body is None or body.own else models
    if body is not None and status in (400, 404, 422) and is_about_model(body.code, body.message, models):
        return "last"
    if is_unable:
        return "then" if any(rule.action in _FORMS for rule in step) else "last"
    is_vague = status in (400, 422) and refusal is not None and refusal.points_at_nothing
    return "then" if step and is_vague else "last"


def _body(error: errors.UpstreamError) -> UpstreamErrorBody | None:
    return error.error_body if isinstance(error, errors.UpstreamErrorReply) else None


def is_about_member(error: errors.UpstreamError, step: Step) -> bool:
    """Whether an error that teaches nothing is about a member that `step` changed."""
    if isinstance(error, errors.UpstreamInvalid):  # the vectors have another length than the request asked for
        return any(rule.field == "dimensions" for rule in step)
    body = _body(error)
    return body is not None and not body.own and is_named(body.message, [path for rule in step for path in rule.paths])
