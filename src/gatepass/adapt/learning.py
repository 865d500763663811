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

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from gatepass.adapt.changes.change import concerns, revised
from gatepass.adapt.crowd import Crowd, Way
from gatepass.adapt.lesson import Lesson
from gatepass.adapt.memory import EVIDENCE_CHARS, REFUTED_S, Key, Memory, Subject
from gatepass.adapt.teaching.allowance import Allowance
from gatepass.adapt.teaching.heard import NEVER_CODES, Heard
from gatepass.adapt.teaching.teacher import contradicts, taught
from gatepass.call import Call, Complaint, Surface
from gatepass.errors import GatepassError

MOST_STEPS = 3
"""Repeats of one request at one target, whatever they are for (o3-mini needs three)."""

Mode = Literal["off", "observe", "on"]

UNRELATED = frozenset((401, 403, 404, 408, 409, 425, 429))
"""An answer of one of these to a changed request is not about the change."""


@dataclass(frozen=True, slots=True)
class News:
    """What a log tells of: `event` is learned, observed, renewed, healed or failed."""

    event: str
    subject: Subject
    adapted: str
    evidence: str = ""


@dataclass(slots=True)
class _Applied:
    """A lesson that this request goes by. `proven`: it has helped before, here or in another request."""

    lesson: Lesson
    proven: bool
    evidence: str = ""
    is_own: bool = False


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

    `news` grows by what the log should tell; `tried` names what was tried in vain.
    """

    learner: Learner
    subject: Subject
    surface: Surface
    mode: Mode
    allowance: Allowance
    news: list[News] = field(default_factory=list)
    _applied: dict[Key, _Applied] | None = None
    _used: list[Key] = field(default_factory=list)
    _done: set[Key] = field(default_factory=set)
    _sent: Call | None = None
    _probe: Key | None = None
    _probed: _Applied | None = None
    _probe_failed: bool = False
    _steps: int = 0
    _first: GatepassError | None = None
    _entered_s: float | None = None
    _stream: bool = False

    @property
    def tried(self) -> tuple[str, ...]:
        """The changes of this request that nobody has proven, for `x-gatepass-tried`."""
        return tuple(one.lesson.entry for one in self._own().values())

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
        if heard is None or self.mode == "off" or self._sent is None or self._steps >= MOST_STEPS:
            return False
        lessons = taught(heard, self._sent, self.allowance, lambda lesson: self._is_barred(lesson, now_s))
        if self.mode == "observe":
            self._observe(lessons, heard, now_s)
            return False
        self._steps += 1
        if not lessons:
            return self._step_back(heard)
        unproven = sum(not self._take(lesson, heard, now_s) for lesson in lessons)
        if unproven:
            self._first = self._first or error
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
        """The error that the client is to see after `error`, for which `teach` had nothing: where something was
        tried in vain, the first one.

        `status` is None where there was no answer. An answer that is about something else (a token, a quota,
        a filter) is passed on as it is, and what was tried stays on trial.
        """
        own, shown = self._own(), error
        if own and not _is_unrelated(status, complaint):
            shown = self._first or error
            for key, one in own.items():
                self._refute(key, one, now_s)
        if self._probe is not None:
            self.learner.memory.release(self._probe, self, now_s + REFUTED_S)
        if self.mode == "on" and Heard.of(self.surface, status, complaint) is not None:
            self._crowd.spoke(self, self._way, now_s)
        self._crowd.leave(self, self._way)
        return shown

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
    def _going_by(self) -> dict[Key, _Applied]:
        return self._applied if self._applied is not None else {}

    def _in_order(self) -> list[Key]:
        return sorted(self._going_by, key=lambda key: self._going_by[key].lesson.rank)

    def _own(self) -> dict[Key, _Applied]:
        return {key: one for key, one in self._going_by.items() if one.is_own}

    def _key(self, lesson: Lesson) -> Key:
        return (self.subject.of(lesson), lesson.key)

    def _recalled(self, call: Call, now_s: float) -> dict[Key, _Applied]:
        """What holds and what is on trial; of what is past its time, one lesson is left out to see."""
        memory = self.learner.memory
        applied = {key: _Applied(lesson, proven=True) for key, lesson in memory.of(self.subject)}
        for key, trial in self._crowd.candidates(self.subject, now_s):
            applied.setdefault(key, _Applied(trial.lesson, proven=False, evidence=trial.evidence))
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

    def _take(self, lesson: Lesson, heard: Heard, now_s: float) -> bool:
        """Go by `lesson` from now on; whether it has helped before."""
        key = self._key(lesson)
        self._done.add(key)
        self._probe_failed = self._probe_failed or key == self._probe
        proven = self.learner.memory.lesson(key) == lesson
        self._going_by[key] = _Applied(lesson, proven, heard.text, is_own=not proven)
        if not proven and lesson.ttl_s:
            self._crowd.propose(key, lesson, heard.text, self, now_s)
        return proven

    def _step_back(self, heard: Heard) -> bool:
        """Whether one more try with a lesson less, or with the one that was left out to see, is worth it."""
        inherited = {key: one for key, one in self._going_by.items() if not one.is_own}
        wrong = [key for key, one in inherited.items() if one.proven and contradicts(heard, one.lesson)]
        for key in wrong:
            self.learner.memory.forget(key)
            self._tell("healed", inherited[key].lesson, heard.text)
        if not wrong and self._probe is not None and self._probed is not None and not self._probe_failed:
            self._going_by[self._probe], self._probe_failed = self._probed, True
            return True
        wrong = wrong or [key for key, one in inherited.items() if not one.proven]
        for key in wrong:
            self._done.add(key)
            del self._going_by[key]
        return bool(wrong)

    def _observe(self, lessons: tuple[Lesson, ...], heard: Heard, now_s: float) -> None:
        for lesson in lessons:
            if lesson.ttl_s and self.learner.memory.observe(self._key(lesson), lesson, heard.text, now_s):
                self._tell("observed", lesson, heard.text)

    def _confirm(self, key: Key, one: _Applied, now_s: float) -> None:
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

    def _refute(self, key: Key, one: _Applied, now_s: float) -> None:
        if one.lesson.ttl_s:
            self.learner.memory.refute(key, now_s)
        self._crowd.settle(key)
        self._tell("failed", one.lesson, one.evidence)

    def _tell(self, event: str, lesson: Lesson, evidence: str) -> None:
        self.news.append(News(event, self.subject, lesson.entry, evidence[:EVIDENCE_CHARS]))


def _is_unrelated(status: int | None, complaint: Complaint | None) -> bool:
    said = {(complaint.code or "").lower(), (complaint.kind or "").lower()} if complaint is not None else set()
    return status in UNRELATED or not NEVER_CODES.isdisjoint(said)
