"""What one request learns at one target, and what it does with what others have learned.

The way of a request, at the edge::

    with learner.at(subject, surface, mode, allowance) as learning:
        await my_turn(learning, call, clock)                # adapt/turn.py
        while True:
            adapted = learning.plan(call, now_s)            # with every lesson that holds
            ... send, judge ...
            learning.succeeded(now_s)                       # commits; or, after an error:
            if not learning.teach(status, complaint, error, now_s):
                raise learning.failed(status, complaint, error, now_s)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from gatepass.adapt.changes.change import concerns, revised
from gatepass.adapt.crowd import Crowd, Way
from gatepass.adapt.evidence import evidence_of
from gatepass.adapt.lesson import Lesson
from gatepass.adapt.memory import REFUTED_S, Key, Learned, Memory, Subject
from gatepass.adapt.teaching.allowance import Allowance
from gatepass.adapt.teaching.heard import Heard
from gatepass.adapt.teaching.teacher import contradicts, repeats, taught
from gatepass.adapt.trying import Applied, LeftOut, is_elsewhere, lost
from gatepass.call import Call, Complaint, Surface
from gatepass.errors import GatepassError

MOST_STEPS = 3
"""Repeats of one request at one target, whatever they are for (o3-mini needs three)."""

Mode = Literal["off", "observe", "on"]


@dataclass(frozen=True, slots=True)
class News:
    """What a log tells of: `event` is learned, observed, renewed, healed or failed."""

    event: str
    subject: Subject
    adapted: str
    evidence: str = ""


class Learner:
    """The lessons of one process, and the requests that go by them."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.crowd = Crowd()

    def is_settled(self, subject: Subject, *, stream: bool, now_s: float) -> bool:
        """Whether a request to `subject` has nothing to go by and nobody to wait for: it goes as it is, and a
        Learning is of no use before it is refused."""
        return self.crowd.is_calm((subject, stream), now_s) and not self.memory.knows(subject)

    def at(self, subject: Subject, surface: Surface, mode: Mode = "on", allowance: Allowance | None = None) -> Learning:
        """What a request to `subject` learns; to be used as a context, which frees its places in every case."""
        return Learning(self, subject, surface, mode, allowance or Allowance())


@dataclass(slots=True, eq=False)
class Learning:
    """One request at one target. Pure: no I/O, no clock.

    `news` grows by what the log should tell; `tried` names what was tried in vain, `changed` what had helped
    before the error that `failed` showed.
    """

    learner: Learner
    subject: Subject
    surface: Surface
    mode: Mode
    allowance: Allowance
    news: list[News] = field(default_factory=list)
    changed: tuple[str, ...] = ()
    _applied: dict[Key, Applied] | None = None
    _used: list[Key] = field(default_factory=list)
    _done: set[Key] = field(default_factory=set)
    _sent: Call | None = None
    _probe: Key | None = None
    _probed: Applied | None = None
    _probe_failed: bool = False
    _steps: int = 0
    _vain: tuple[str, ...] = ()
    _left_out: LeftOut = field(default_factory=LeftOut)
    _entered_s: float | None = None
    _stream: bool = False

    @property
    def tried(self) -> tuple[str, ...]:
        """The changes of this request that have helped nothing, or of which nobody knows, for `x-gatepass-tried`."""
        open_ones = (one.lesson.entry for one in self._own().values() if not one.helped)
        return tuple(dict.fromkeys((*self._vain, *open_ones)))

    def refuted(self, lesson: Lesson, now_s: float) -> Learned | None:
        """`lesson` as it failed within the last minute; None where it did not."""
        return self.learner.memory.refuted(self._key(lesson), now_s)

    def wait_s(self, call: Call, now_s: float) -> float:
        """How long this request waits for others before it is planned, at most; 0: it goes now."""
        if self.mode != "on" or not call.body:
            return 0.0
        self._stream = call.stream
        self._entered_s = now_s if self._entered_s is None else self._entered_s
        return self._crowd.wait_s(self, self._way, self._entered_s, now_s)

    def listen(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Calls `callback` whenever `wait_s` may have another answer; gives what ends that."""
        return self._crowd.listen(self.subject, callback)

    def plan(self, call: Call, now_s: float) -> Call:
        """`call` with the lessons that hold, the same object where none concerns it. Again after each `teach`."""
        self._stream = call.stream
        if self._applied is None:
            self._applied = self._recalled(call, now_s) if self.mode == "on" and call.body else {}
        changes = {key: self._applied[key].lesson.change() for key in self._in_order()}
        self._sent, made = revised(call, changes.values()) if changes else (call, [])
        self._used = [key for key, change in changes.items() if change in made]
        return self._sent

    def sent(self, call: Call) -> None:
        """`call` went out as it is, for it `is_settled`: what `plan` would have noted."""
        self._stream, self._sent, self._applied = call.stream, call, {}

    def teach(self, status: int | None, complaint: Complaint | None, error: GatepassError, now_s: float) -> bool:
        """Whether the request is worth another try, planned anew, after `error`: a refusal with `status` that
        says `complaint`."""
        heard = Heard.of(self.surface, status, complaint)
        if heard is None or self.mode == "off" or self._sent is None:
            return False
        self._weigh(heard, now_s)
        if self._steps >= MOST_STEPS:
            return False
        lessons = taught(heard, self._sent, self.allowance, lambda lesson: self._is_barred(lesson, now_s))
        if self.mode == "observe":
            self._observe(lessons, heard, now_s)
            return False
        self._steps += 1
        if not lessons:
            return self._step_back(heard, error)
        for lesson in lessons:
            self._take(lesson, heard, error, now_s)
        return True

    def succeeded(self, now_s: float) -> None:
        """The upstream has taken the request as it was sent last: what was on trial is learned."""
        for key in self._used:
            self._confirm(key, self._going_by[key], now_s)
        if self._probe is not None:
            self._conclude(self._probe, now_s)
        if self.mode == "on":
            self._crowd.spoke(self, self._way, now_s)

    def failed(
        self, status: int | None, complaint: Complaint | None, error: GatepassError, now_s: float
    ) -> GatepassError:
        """The error that the client is to see after `error`, for which `teach` had nothing.

        A change has helped where the upstream complains of something else after it: it stays on trial, for the
        next request to go by, and the last error is shown, since it names what is left. A change has failed where
        the same complaint came back or the answer is broken: the error before it is shown. `status` is None where
        there was no answer. What is not about the request's form (a token, a quota, a filter, a timeout) is
        passed on as it is, and what was tried stays on trial.
        """
        heard, own, shown = Heard.of(self.surface, status, complaint), self._own(), error
        if not is_elsewhere(status, complaint, heard, error):
            shown = self._outcome(heard, own, error, now_s)
        if self._probe is not None:
            self.learner.memory.release(self._probe, self, now_s + REFUTED_S)
        if self.mode == "on" and heard is not None:
            self._crowd.spoke(self, self._way, now_s)
        self._crowd.leave(self, self._way)
        return shown

    def _outcome(
        self, heard: Heard | None, own: dict[Key, Applied], error: GatepassError, now_s: float
    ) -> GatepassError:
        """The error to show of those that came, after everything that was tried is judged."""
        vain = lost(own, heard)
        for key in vain:
            self._refute(key, own[key], error, now_s)
        self._vain = self._entries(own, vain)
        if vain:
            self.changed = self._entries(own, list(own)[: list(own).index(vain[0])])
            return own[vain[0]].answered or error
        self.changed = self._entries(own, list(own))
        return self._with_the_left_out(heard, error, now_s) if heard is not None and not own else error

    def _with_the_left_out(self, heard: Heard, error: GatepassError, now_s: float) -> GatepassError:
        """Where it turns out that what was left out had helped, the error that came with it: it tells what is left."""
        left_out = self._left_out
        needed = left_out.needed(heard)
        for key in needed:
            self._crowd.helped(key, now_s)
        self.changed = self._entries(left_out.lessons, needed)
        return left_out.error or error if needed else error

    @staticmethod
    def _entries(lessons: Mapping[Key, Applied], keys: Iterable[Key]) -> tuple[str, ...]:
        return tuple(lessons[key].lesson.entry for key in keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._crowd.leave(self, self._way)
        if self._probe is not None:
            self.learner.memory.release(self._probe, self)

    @property
    def _crowd(self) -> Crowd:
        return self.learner.crowd

    @property
    def _way(self) -> Way:
        return (self.subject, self._stream)

    @property
    def _going_by(self) -> dict[Key, Applied]:
        return self._applied if self._applied is not None else {}

    def _in_order(self) -> list[Key]:
        return sorted(self._going_by, key=lambda key: self._going_by[key].lesson.rank)

    def _own(self) -> dict[Key, Applied]:
        return {key: one for key, one in self._going_by.items() if one.is_own}

    def _key(self, lesson: Lesson) -> Key:
        return (self.subject.of(lesson), lesson.key)

    def _recalled(self, call: Call, now_s: float) -> dict[Key, Applied]:
        """What holds and what is on trial; of what is past its time, one lesson is left out to see."""
        memory = self.learner.memory
        applied = {key: Applied(lesson, proven=True) for key, lesson in memory.of(self.subject)}
        for key, trial in self._crowd.candidates(self.subject, now_s):
            applied.setdefault(key, Applied(trial.lesson, proven=False, evidence=trial.evidence, helped=trial.helped))
        allowed = {key: one for key, one in applied.items() if self.allowance.allows(one.lesson, self.surface)}
        for key, one in allowed.items():
            if memory.is_due(key, now_s) and concerns(one.lesson.change(), call):
                memory.claim(key, self)
                self._probe, self._probed = key, allowed.pop(key)
                break
        return allowed

    def _is_barred(self, lesson: Lesson, now_s: float) -> bool:
        """Whether it was tried here or failed lately, is applied already, or undoes what is applied."""
        key = self._key(lesson)
        known = self._going_by.get(key)
        if key in self._done or (known is not None and known.lesson == lesson):
            return True
        undone = any(lesson.reverses(one.lesson) for one in self._going_by.values())
        return undone or self.learner.memory.is_refuted(key, now_s)

    def _weigh(self, heard: Heard, now_s: float) -> None:
        """A change after which the upstream complains of something else has helped."""
        for key, one in self._own().items():
            if key in self._used and not one.helped and not repeats(heard, one.lesson, one.evidence):
                one.helped = True
                self._crowd.helped(key, now_s)

    def _take(self, lesson: Lesson, heard: Heard, error: GatepassError, now_s: float) -> None:
        """Go by `lesson` from now on."""
        key = self._key(lesson)
        self._done.add(key)
        self._probe_failed = self._probe_failed or key == self._probe
        proven = self.learner.memory.lesson(key) == lesson
        self._going_by.pop(key, None)
        self._going_by[key] = Applied(lesson, proven, heard.text, is_own=not proven, answered=error)
        if not proven and lesson.ttl_s:
            self._crowd.propose(key, lesson, heard.text, self, now_s)

    def _step_back(self, heard: Heard, error: GatepassError) -> bool:
        """Whether one more try with a lesson less, or with the one that was left out to see, is worth it."""
        inherited = {key: one for key, one in self._going_by.items() if not one.is_own}
        wrong = [key for key, one in inherited.items() if one.proven and contradicts(heard, one.lesson)]
        for key in wrong:
            self.learner.memory.forget(key)
            self._tell("healed", inherited[key].lesson, heard.text)
        if not wrong and self._probe is not None and self._probed is not None and not self._probe_failed:
            self._going_by[self._probe], self._probe_failed = self._probed, True
            return True
        if not wrong:
            wrong = [key for key, one in inherited.items() if self._is_doubtful(key, one, heard)]
            self._left_out.add({key: inherited[key] for key in wrong}, error)
        for key in wrong:
            self._done.add(key)
            del self._going_by[key]
        return bool(wrong)

    def _is_doubtful(self, key: Key, one: Applied, heard: Heard) -> bool:
        """Whether what others have on trial may be at fault: nobody has seen it help, or it does not any more."""
        if one.proven:
            return False
        has_helped = one.helped or self._crowd.has_helped(key)
        return not has_helped or repeats(heard, one.lesson, one.evidence)

    def _observe(self, lessons: tuple[Lesson, ...], heard: Heard, now_s: float) -> None:
        for lesson in lessons:
            if lesson.ttl_s and self.learner.memory.observe(self._key(lesson), lesson, heard.text, now_s):
                self._tell("observed", lesson, heard.text)

    def _confirm(self, key: Key, one: Applied, now_s: float) -> None:
        """The lesson has helped."""
        if not one.proven and one.lesson.ttl_s:
            if self.learner.memory.commit(key, one.lesson, one.evidence, now_s):
                self._tell("learned", one.lesson, one.evidence)
            self._crowd.settle(key)
        self.learner.memory.used(key)

    def _conclude(self, probe: Key, now_s: float) -> None:
        """The probe has spoken: with the lesson the request went through, or without it."""
        memory, lesson = self.learner.memory, self.learner.memory.lesson(probe)
        if lesson is None:
            return
        if self._probe_failed:
            memory.renew(probe, now_s)
        else:
            memory.forget(probe)
        self._tell("renewed" if self._probe_failed else "healed", lesson, "")

    def _refute(self, key: Key, one: Applied, error: GatepassError, now_s: float) -> None:
        if one.lesson.ttl_s:
            self.learner.memory.refute(key, one.lesson, error.message, now_s)
        self._crowd.settle(key)
        self._tell("failed", one.lesson, one.evidence)

    def _tell(self, event: str, lesson: Lesson, evidence: str) -> None:
        self.news.append(News(event, self.subject, lesson.entry, evidence_of(evidence)))
