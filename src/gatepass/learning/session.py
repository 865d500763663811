"""What one request learns at one target, and what it does with what others have learned.

The way of a request, at the edge::

    with learner.at(subject, surface, mode, allowance) as learning:
        await my_turn(learning, call, clock)
        while True:
            adapted = learning.plan(call, now_s)            # with every lesson that holds
            ... send, judge ...
            learning.succeeded(now_s)                       # commits; or, after an error:
            if not learning.teach(error, now_s):
                raise learning.failed(error, now_s)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from gatepass.clock import Clock
from gatepass.errors import (
    UpstreamConnect,
    UpstreamDns,
    UpstreamError,
    UpstreamErrorReply,
    UpstreamTimeout,
    UpstreamTls,
)
from gatepass.learning.learned_rule import Key, LearnedRule, LearnedRuleRecord, LearningPolicy, RuleScope, evidence_of
from gatepass.learning.matchers import Concerned, contradicts, is_same_rejection, next_rules
from gatepass.learning.memory import Memory, SingleTrial, TrialKey
from gatepass.learning.rejection import TEACHING, UpstreamRejection
from gatepass.normalize.rule import apply_changes
from gatepass.types import Call, ClientProtocol


@dataclass(slots=True)
class AppliedRule:
    """A lesson that a request goes by.

    `proven`: a request has succeeded with it. `helped`: the upstream complained of something else with it.
    `is_own`: this request has taken it, for the error `answered`, which said `evidence`.
    """

    rule: LearnedRule
    proven: bool
    evidence: str = ""
    is_own: bool = False
    helped: bool = False
    answered: UpstreamError | None = None


@dataclass(slots=True)
class AppliedRules:
    """The lessons of one request at one target, in the order in which it came to them.

    `used` are those that changed what was sent last, `done` those that it has taken or left out by itself: it
    tries none of them again.
    """

    by_key: dict[Key, AppliedRule] = field(default_factory=dict)
    used: list[Key] = field(default_factory=list)
    done: set[Key] = field(default_factory=set)

    @property
    def own(self) -> dict[Key, AppliedRule]:
        """Those that the request has taken by itself."""
        return {key: one for key, one in self.by_key.items() if one.is_own}

    @property
    def inherited(self) -> dict[Key, AppliedRule]:
        """Those that others had learned, or have on trial."""
        return {key: one for key, one in self.by_key.items() if not one.is_own}

    def revise(self, call: Call) -> Call:
        """`call` with all of them made, the same object where none concerns it."""
        in_order = sorted(self.by_key, key=lambda key: self.by_key[key].rule.rank)
        changes = {key: self.by_key[key].rule.change() for key in in_order}
        sent, made = apply_changes(call, changes.values()) if changes else (call, [])
        self.used = [key for key, change in changes.items() if change in made]
        return sent

    def bars(self, key: Key, lesson: LearnedRule) -> bool:
        """Whether `lesson` was tried already, is applied, or undoes what is."""
        known = self.by_key.get(key)
        if key in self.done or (known is not None and known.rule == lesson):
            return True
        return any(lesson.reverses(one.rule) for one in self.by_key.values())

    def weigh(self, rejection: UpstreamRejection) -> list[Key]:
        """The request's own changes of which `rejection` tells for the first time that they have helped: the upstream
        complains of something else after them."""
        helped = [
            key
            for key, one in self.own.items()
            if key in self.used and not one.helped and not is_same_rejection(rejection, one.rule, one.evidence)
        ]
        for key in helped:
            self.by_key[key].helped = True
        return helped

    def take(self, key: Key, one: AppliedRule) -> None:
        """Go by `one` from now on, in the place of another about the same thing."""
        self.done.add(key)
        self.by_key.pop(key, None)
        self.by_key[key] = one

    def leave_out(self, keys: Iterable[Key]) -> None:
        """Go without these from now on."""
        for key in keys:
            self.done.add(key)
            del self.by_key[key]


MOST_STEPS = 3
"""Repeats of one request at one target, whatever they are for (o3-mini needs three)."""

UNHEARD = (UpstreamTimeout, UpstreamConnect, UpstreamDns, UpstreamTls)
"""The upstream has said nothing at all of what it was sent."""

Mode = Literal["off", "on"]


@dataclass(frozen=True, slots=True)
class LearningEvent:
    """What a log tells of: `event` is learned, healed or failed."""

    event: str
    scope: RuleScope
    adapted: str
    evidence: str = ""


@dataclass(slots=True, eq=False)
class LearningSession:
    """One request at one target. Pure: no I/O, no clock.

    `news` grows by what the log should tell; `tried` names what was tried in vain, `changed` what had helped
    before the error that `failed` showed.
    """

    memory: Memory
    trial: SingleTrial
    scope: RuleScope
    protocol: ClientProtocol
    mode: Mode
    policy: LearningPolicy
    events: list[LearningEvent] = field(default_factory=list)
    changed: tuple[str, ...] = ()
    _applied: AppliedRules = field(default_factory=AppliedRules)
    _is_planned: bool = False
    _sent: Call | None = None
    _steps: int = 0
    _vain: tuple[str, ...] = ()
    _entered_s: float | None = None
    _stream: bool = False
    _heard: list[tuple[UpstreamError, UpstreamRejection | None]] = field(default_factory=list)

    @property
    def has_lessons(self) -> bool:
        """Whether any lesson holds for the request."""
        return bool(self._applied.by_key)

    @property
    def last(self) -> Call | None:
        """The request as it was planned last."""
        return self._sent

    @property
    def tried(self) -> tuple[str, ...]:
        """The changes of this request that have helped nothing, or of which nobody knows, for `x-gatepass-tried`."""
        open_ones = (one.rule.entry for one in self._applied.own.values() if not one.helped)
        return tuple(dict.fromkeys((*self._vain, *open_ones)))

    def refuted(self, lesson: LearnedRule, now_s: float) -> LearnedRuleRecord | None:
        """`lesson` as it failed within the last minute; None where it did not."""
        return self.memory.refuted(self._key(lesson), now_s)

    def wait_s(self, call: Call, now_s: float) -> float:
        """How long this request waits for others before it is planned, at most; 0: it goes now."""
        if self.mode != "on" or not call.body:
            return 0.0
        self._stream = call.stream
        self._expire(now_s)
        self._entered_s = now_s if self._entered_s is None else self._entered_s
        return self.trial.wait_s(self, self._way, self._entered_s, now_s)

    def listen(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Calls `callback` whenever `wait_s` may have another answer; gives what ends that."""
        return self.trial.listen(self.scope, callback)

    def plan(self, call: Call, now_s: float) -> Call:
        """`call` with the lessons that hold, the same object where none concerns it. Again after each `teach`."""
        self.recall(call, now_s)
        return self.revise(call)

    def recall(self, call: Call, now_s: float) -> None:
        """The first half of `plan`: ask what others have learned."""
        self._stream = call.stream
        if not self._is_planned and self.mode == "on" and call.body:
            self._recall(now_s)
        self._is_planned = True

    def revise(self, call: Call) -> Call:
        """The second half of `plan`. It touches nothing that other requests see, and may run in a thread."""
        self._sent = self._applied.revise(call)
        return self._sent

    def sent(self, call: Call) -> None:
        """`call` went out as it is, for it `is_settled`: what `plan` would have noted."""
        self._stream, self._sent, self._is_planned = call.stream, call, True

    def parse_error(self, error: UpstreamError) -> UpstreamRejection | None:
        """Return `error` as the matchers read it: without the values of the request as it was sent last."""
        for known, rejection in self._heard:
            if known is error:
                return rejection
        rejection = UpstreamRejection.from_error(self.protocol, error, b"{}" if self._sent is None else self._sent.body)
        self._heard.append((error, rejection))
        return rejection

    def learn_from(self, error: UpstreamError, now_s: float, concerned: Concerned | None = None) -> bool:
        """Whether the request is worth another try, planned anew, after `error`. `concerned` as in `next_rules`."""
        rejection = self.parse_error(error)
        if rejection is None or self.mode == "off" or self._sent is None:
            return False
        for key in self._applied.weigh(rejection):
            self.trial.helped(key, now_s)
        if self._steps >= MOST_STEPS:
            return False
        lessons = next_rules(rejection, self._sent, self.policy, lambda one: self._is_barred(one, now_s), concerned)
        self._steps += 1
        if not lessons:
            return self._step_back(rejection)
        for lesson in lessons:
            self._take(lesson, rejection, error, now_s)
        return True

    def succeeded(self, now_s: float) -> None:
        """The upstream has taken the request as it was sent last: what was on trial is learned."""
        for key in self._applied.used:
            self._confirm(key, self._applied.by_key[key], now_s)
        if self.mode == "on":
            self.trial.mark_known(self, self._way, now_s)

    def failed(self, error: UpstreamError, now_s: float) -> UpstreamError:
        """The error that the client is to see after `error`, for which `teach` had nothing.

        A change has helped where the upstream complains of something else after it: it stays on trial, for the
        next request to go by, and the last error is shown, since it names what is left. A change has failed where
        the same complaint came back or the answer is broken: the error before it is shown. What is not about the
        request's form (a token, a quota, a filter, a timeout) is passed on as it is, and what was tried stays on trial.
        """
        rejection, shown = self.parse_error(error), error
        if not _is_elsewhere(error, rejection):
            shown = self._judged(rejection, error, now_s)
        if self.mode == "on" and rejection is not None:
            self.trial.mark_known(self, self._way, now_s)
        self.trial.leave(self, self._way)
        return shown

    def _judged(self, rejection: UpstreamRejection | None, error: UpstreamError, now_s: float) -> UpstreamError:
        """Return the error from before the first of the request's own changes that failed, else the last, `error`;
        refute what failed. `rejection` is None where `error` is a broken answer."""
        own = self._applied.own
        vain = [
            key
            for key, one in own.items()
            if not one.helped or (rejection is not None and is_same_rejection(rejection, one.rule, one.evidence))
        ]
        for key in vain:
            self._refute(key, own[key], error, now_s)
        helped = list(own)[: list(own).index(vain[0])] if vain else list(own)
        self._vain = tuple(own[key].rule.entry for key in vain)
        self.changed = tuple(own[key].rule.entry for key in helped)
        return (own[vain[0]].answered or error) if vain else error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.trial.leave(self, self._way)

    @property
    def _way(self) -> TrialKey:
        return (self.scope, self._stream)

    def _key(self, lesson: LearnedRule) -> Key:
        return (self.scope.of(lesson), lesson.key)

    def _expire(self, now_s: float) -> None:
        """Forget what has expired: then the model is unknown, and one request alone meets the next rejection."""
        if self.memory.expire(self.scope, now_s):
            self.trial.forget(self.scope)

    def _recall(self, now_s: float) -> None:
        """Go by what holds and what is on trial."""
        self._expire(now_s)
        known = {key: AppliedRule(lesson, proven=True) for key, lesson in self.memory.of(self.scope)}
        for key, trial in self.trial.candidates(self.scope, now_s):
            known.setdefault(key, AppliedRule(trial.rule, proven=False, evidence=trial.evidence, helped=trial.helped))
        allows = self.policy.allows
        self._applied.by_key = {key: one for key, one in known.items() if allows(one.rule, self.protocol)}

    def _is_barred(self, lesson: LearnedRule, now_s: float) -> bool:
        """Whether it was tried here or failed lately, is applied already, or undoes what is applied."""
        key = self._key(lesson)
        return self._applied.bars(key, lesson) or self.memory.refuted(key, now_s) is not None

    def _take(self, lesson: LearnedRule, rejection: UpstreamRejection, error: UpstreamError, now_s: float) -> None:
        """Go by `lesson` from now on."""
        key = self._key(lesson)
        proven = self.memory.rule(key) == lesson
        self._applied.take(key, AppliedRule(lesson, proven, rejection.text, is_own=not proven, answered=error))
        if not proven and lesson.ttl_s:
            self.trial.propose(key, lesson, rejection.text, self, now_s)

    def _step_back(self, rejection: UpstreamRejection) -> bool:
        """Whether one more try without what others have learned, or have on trial, is worth it."""
        inherited = self._applied.inherited
        wrong = [key for key, one in inherited.items() if one.proven and contradicts(rejection, one.rule)]
        for key in wrong:
            self.memory.forget(key)
            self._tell("revoked", inherited[key].rule, rejection.text)
        if wrong:
            self._applied.leave_out(wrong)
            return True
        doubtful = [key for key, one in inherited.items() if self._is_doubtful(key, one, rejection)]
        for key in doubtful:
            one = self._applied.by_key.pop(key)
            if is_same_rejection(rejection, one.rule, one.evidence):
                self._applied.done.add(key)  # else the next rejection may teach it again
        return bool(doubtful)

    def _is_doubtful(self, key: Key, one: AppliedRule, rejection: UpstreamRejection) -> bool:
        """Whether what others have on trial may be at fault: nobody has seen it help, or it does not any more."""
        if one.proven:
            return False
        has_helped = one.helped or self.trial.has_helped(key)
        return not has_helped or is_same_rejection(rejection, one.rule, one.evidence)

    def _confirm(self, key: Key, one: AppliedRule, now_s: float) -> None:
        """The lesson has helped."""
        if not one.proven and one.rule.ttl_s:
            is_configured = self.policy.is_configured
            if self.memory.commit(key, one.rule, one.evidence, now_s, is_configured=is_configured):
                self._tell("learned", one.rule, one.evidence)
            self.trial.settle(key)
        self.memory.used(key)

    def _refute(self, key: Key, one: AppliedRule, error: UpstreamError, now_s: float) -> None:
        if one.rule.ttl_s:
            self.memory.refute(key, one.rule, error.message, now_s)
        self.trial.settle(key)
        self._tell("failed", one.rule, one.evidence)

    def _tell(self, event: str, lesson: LearnedRule, evidence: str) -> None:
        self.events.append(LearningEvent(event, self.scope, lesson.entry, evidence_of(evidence)))


def _is_elsewhere(error: UpstreamError, rejection: UpstreamRejection | None) -> bool:
    """Whether an answer says nothing of the form of the request: a timeout, a token, a quota, a filter."""
    if isinstance(error, UNHEARD):
        return True
    if rejection is not None or not isinstance(error, UpstreamErrorReply) or not 400 <= error.http_status < 500:
        return False
    return error.http_status not in TEACHING or error.error_body is not None


class Learner:
    """What one process remembers, and the requests that go by it and add to it."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.trial = SingleTrial()

    def is_settled(self, subject: RuleScope, stream: bool, now_s: float) -> bool:
        """Whether a request to `subject` has nothing to go by and nobody to wait for: it goes as it is, and a
        Learning is of no use before it is refused."""
        return self.trial.is_calm((subject, stream), now_s) and not self.memory.knows(subject)

    def session(
        self, subject: RuleScope, surface: ClientProtocol, mode: Mode = "on", allowance: LearningPolicy | None = None
    ) -> LearningSession:
        """What a request to `subject` learns; to be used as a context, which frees its places in every case."""
        return LearningSession(self.memory, self.trial, subject, surface, mode, allowance or LearningPolicy())


async def wait_for_trial(learning: LearningSession, call: Call, clock: Clock) -> None:
    """Returns when `call` may be planned: at once, nearly always (see crowd.py). Waits MOST_WAIT_S at most."""
    while (left_s := learning.wait_s(call, clock.now())) > 0:
        news = asyncio.Event()
        end = learning.listen(news.set)
        timer = clock.call_later(left_s, news.set)
        try:
            await news.wait()
        finally:
            timer.cancel()
            end()
