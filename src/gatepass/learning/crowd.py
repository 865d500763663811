"""Who goes first: of many requests to a model that nobody knows yet one is sent ahead, the others follow it.

Two hundred requests at once to a model that refuses `stream` would be refused two hundred times. So the
first of them is the scout, and the rest wait for its first word, and then for the trial of what it learned:
for WAIT_S from the moment in which it went, and again for each lesson that it takes. A model that has answered
is known, and makes nobody wait. Pure: who waits asks `wait_s` again whenever `listen` calls.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

from gatepass.learning.learned_rule import HOUR_S, Key, Lesson, Subject
from gatepass.learning.memory import LIMIT

WAIT_S = 2.0
"""A refusal of form comes within a second; what takes longer is most likely the answer, of a model that has nothing to
teach, and whoever waited for that would lose its whole time. So to an upstream that takes longer to refuse a burst goes
unadapted, once: refused calls are not billed, and the lesson is known then."""
MOST_WAIT_S = 4 * WAIT_S
"""In all, for a scout and the three lessons that it may take. No sign of life goes out meanwhile; with the hold of a
stream's head behind it (`heartbeat.STREAM_HOLD_S`) this is 23 s, and the strictest proxies give up after 30."""
KNOWN_S = HOUR_S
CANDIDATE_S = 60.0

Way = tuple[Subject, bool]
"""A subject, and whether a stream is asked for: models refuse one and take the other."""


@dataclass(slots=True)
class Candidate:
    """A lesson on trial since `since_s`: `holders` are the requests that try it, `until_s` bounds its life without any.

    `helped`: with it the upstream complained of something else, and no request has succeeded yet.
    """

    lesson: Lesson
    evidence: str
    since_s: float
    until_s: float
    holders: set[Hashable] = field(default_factory=set)
    helped: bool = False


class Scout(NamedTuple):
    """The request that is ahead, and when it went."""

    who: Hashable
    since_s: float


class Crowd:
    """The requests of one process that are under way to models with something to learn."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._known: OrderedDict[Way, float] = OrderedDict()
        self._scouts: dict[Way, Scout] = {}
        self._trials: OrderedDict[Key, Candidate] = OrderedDict()
        self._listeners: dict[Subject, set[Callable[[], object]]] = {}

    def wait_s(self, who: Hashable, way: Way, entered_s: float, now_s: float) -> float:
        """How long `who`, here since `entered_s`, waits for others at most; 0: it goes, as the scout where one is
        needed."""
        tried_s = [one.since_s for one in self._of(way[0], now_s).values() if one.holders - {who}]
        if tried_s and (left_s := min(max(tried_s) + WAIT_S, entered_s + MOST_WAIT_S) - now_s) > 0:
            return left_s
        if self._known.get(way, 0.0) > now_s:
            return 0.0
        scout = self._scouts.setdefault(way, Scout(who, now_s))
        return 0.0 if scout.who == who else max(0.0, min(scout.since_s, entered_s) + WAIT_S - now_s)

    def is_calm(self, way: Way, now_s: float) -> bool:
        """Whether nobody waits there and nothing is on trial, now and for long: the model has been heard of lately."""
        return not self._trials and self._known.get(way, 0.0) > now_s + KNOWN_S / 2

    def candidates(self, subject: Subject, now_s: float) -> list[tuple[Key, Candidate]]:
        """The lessons on trial for `subject`."""
        return list(self._of(subject, now_s).items())

    def propose(self, key: Key, lesson: Lesson, evidence: str, who: Hashable, now_s: float) -> None:
        """`who` tries `lesson`; where it is on trial already, as one more."""
        trial = self._trials.get(key)
        if trial is None or trial.lesson != lesson:
            trial = self._trials[key] = Candidate(lesson, evidence, now_s, now_s + CANDIDATE_S)
        trial.holders.add(who)
        while len(self._trials) > self._limit:
            self._trials.popitem(last=False)
        self.tell(key[0])

    def helped(self, key: Key, now_s: float) -> None:
        """With the lesson on trial the upstream has got further: others go by it, and need not fear it."""
        if (trial := self._trials.get(key)) is not None:
            trial.helped, trial.until_s = True, now_s + CANDIDATE_S
            self._trials.move_to_end(key)

    def has_helped(self, key: Key) -> bool:
        trial = self._trials.get(key)
        return trial is not None and trial.helped

    def settle(self, key: Key) -> None:
        """The trial is over, either way."""
        if self._trials.pop(key, None) is not None:
            self.tell(key[0])

    def spoke(self, who: Hashable, way: Way, now_s: float) -> None:
        """The model has said something about the form of a request: nobody has to wait for a scout any more."""
        self._known[way] = now_s + KNOWN_S
        self._known.move_to_end(way)
        while len(self._known) > self._limit:
            self._known.popitem(last=False)
        self.leave(who, way)

    def forget(self, subject: Subject) -> None:
        """Treat the model as unknown again: a rule of it has expired."""
        for way in [way for way in self._known if way[0].plain == subject.plain]:
            del self._known[way]

    def leave(self, who: Hashable, way: Way) -> None:
        """`who` is done or gone: its place as a scout is free, and it tries nothing any more."""
        subject, scout = way[0], self._scouts.get(way)
        left = scout is not None and scout.who == who
        if left:
            del self._scouts[way]
        for key, trial in self._trials.items():
            if who in trial.holders and _is_about(key, subject):
                trial.holders.discard(who)
                left = True
        if left:
            self.tell(subject)

    def listen(self, subject: Subject, callback: Callable[[], object]) -> Callable[[], None]:
        """Calls `callback` whenever `wait_s` may have another answer; gives what ends that."""
        listeners = self._listeners.setdefault(subject.plain, set())
        listeners.add(callback)

        def end() -> None:
            listeners.discard(callback)
            if not listeners and self._listeners.get(subject.plain) is listeners:
                del self._listeners[subject.plain]

        return end

    def tell(self, subject: Subject) -> None:
        for callback in list(self._listeners.get(subject.plain, ())):
            callback()

    def _of(self, subject: Subject, now_s: float) -> dict[Key, Candidate]:
        """The trials for `subject`, those aside that nobody holds and whose time is over."""
        if not self._trials:
            return {}
        over = [key for key, trial in self._trials.items() if not trial.holders and trial.until_s <= now_s]
        for key in over:
            del self._trials[key]
        return {key: trial for key, trial in self._trials.items() if _is_about(key, subject)}


def _is_about(key: Key, subject: Subject) -> bool:
    return key[0] in (subject, subject.plain)
