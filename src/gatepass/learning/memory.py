"""What one process has learned, until it expires; and which rules failed within the last minute.

No I/O and no clock: `now_s` is `Clock.now()`, `wall_s` is the same moment in seconds since the epoch, for people.

Who goes first: of many requests to a model that nobody knows yet one is sent ahead, the others follow it.

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

from gatepass.learning.learned_rule import HOUR_S, Key, LearnedRule, LearnedRuleRecord, RuleScope, evidence_of

LIMIT = 1_000
"""Of what is not yet learned: trials, failures, models that were heard of."""
LIMIT_OF_UPSTREAM = 500
"""Learned rules of one upstream: a client that invents model names cannot evict rules of other upstreams."""
LIMIT_OF_SUBJECT = 20
"""Learned rules of one model: a client that invents parameter names cannot evict rules of other models."""
USES_OF_KNOWN = 2
"""Successes with a rule, the first of which taught it: a model that is invented once is not known."""
REFUTED_S = 60.0
"""How long a rule that failed is not tried again: no request costs double in the meantime."""


@dataclass(slots=True)
class _Kept:
    lesson: LearnedRule
    evidence: str
    learned_s: float
    expires_s: float
    uses: int = 0
    is_configured: bool = False


class Memory:
    """The learned rules of one process, LIMIT_OF_UPSTREAM at most of each upstream.

    The least recently used rule goes first: of unknown models, then of models that have answered again, then of
    configured ones. A rule that has expired is forgotten, and the next rejection teaches it again.
    """

    def __init__(self, limit: int = LIMIT_OF_UPSTREAM, limit_of_others: int = LIMIT) -> None:
        self._limit = limit
        self._limit_of_others = limit_of_others
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._subjects: dict[RuleScope, dict[Key, _Kept]] = {}
        self._refuted: OrderedDict[Key, _Kept] = OrderedDict()

    def of(self, subject: RuleScope) -> list[tuple[Key, LearnedRule]]:
        """Return the rules that hold for `subject`, with their keys; `expire` first."""
        return [(key, kept.lesson) for key, kept in self._about(subject)]

    def knows(self, subject: RuleScope) -> bool:
        """Whether there is a rule for `subject`, expired or not."""
        subjects = self._subjects
        return bool(subjects) and (subject in subjects or subject.plain in subjects)

    def rule(self, key: Key) -> LearnedRule | None:
        kept = self._kept.get(key)
        return None if kept is None else kept.lesson

    def expire(self, subject: RuleScope, now_s: float) -> bool:
        """Forget the rules of `subject` that have expired; whether there were any."""
        over = [key for key, kept in self._about(subject) if kept.expires_s <= now_s]
        for key in over:
            self.forget(key)
        return bool(over)

    def commit(
        self, key: Key, lesson: LearnedRule, evidence: str, now_s: float, *, is_configured: bool = False
    ) -> bool:
        """Remember a rule that has helped, unless all others are of better known models; whether it is news.

        `is_configured`: the configuration names its model.
        """
        known = self._kept.get(key)
        for other, one in list(self._subjects.get(key[0], {}).items()):
            if lesson.reverses(one.lesson):
                self.forget(other)
        uses = known.uses if known is not None else 0
        kept = _Kept(lesson, evidence_of(evidence), now_s, now_s + lesson.ttl_s, uses, is_configured)
        self._kept[key] = kept
        self._kept.move_to_end(key)
        self._subjects.setdefault(key[0], {})[key] = kept
        self._make_room(key)
        return key in self._kept and (known is None or known.lesson != lesson)

    def forget(self, key: Key) -> None:
        if self._kept.pop(key, None) is not None:
            of_subject = self._subjects[key[0]]
            del of_subject[key]
            if not of_subject:
                del self._subjects[key[0]]

    def used(self, key: Key) -> None:
        if (kept := self._kept.get(key)) is not None:
            kept.uses += 1
            self._kept.move_to_end(key)

    def refute(self, key: Key, lesson: LearnedRule, evidence: str, now_s: float) -> None:
        """The rule was tried, and `evidence` is what came of it: it is not tried again for REFUTED_S."""
        self._refuted[key] = _Kept(lesson, evidence_of(evidence), now_s, now_s + REFUTED_S)
        self._refuted.move_to_end(key)
        while len(self._refuted) > self._limit_of_others:
            self._refuted.popitem(last=False)

    def refuted(self, key: Key, now_s: float) -> LearnedRuleRecord | None:
        """Return how the rule failed within REFUTED_S, with times of `now_s`; None if it did not."""
        found = self._refuted.get(key)
        if found is not None and found.expires_s <= now_s:
            del self._refuted[key]
            return None
        return None if found is None else _learned(key, found, "failed", 0.0)

    def learned(self, now_s: float, wall_s: float) -> list[LearnedRuleRecord]:
        """Return the rules that hold, the last used at the end, then those that failed within REFUTED_S."""
        to_wall_s = wall_s - now_s
        kept = [_learned(key, one, "learned", to_wall_s) for key, one in self._kept.items() if one.expires_s > now_s]
        vain = [_learned(key, one, "failed", to_wall_s) for key, one in self._refuted.items() if one.expires_s > now_s]
        return [*kept, *vain]

    def _about(self, subject: RuleScope) -> list[tuple[Key, _Kept]]:
        plain = subject.plain
        subjects = (plain, subject) if subject != plain else (plain,)
        return [entry for one in subjects for entry in self._subjects.get(one, {}).items()]

    def _make_room(self, new: Key) -> None:
        """Forget the least used rule of the same subject, but `new`, where there are too many; then as the class says,
        `new` included."""
        others = {key: kept.uses for key, kept in self._subjects[new[0]].items() if key != new}
        if len(others) >= LIMIT_OF_SUBJECT:
            self.forget(min(others, key=others.__getitem__))
        of_upstream = [key for key in self._kept if key[0].upstream == new[0].upstream]
        if len(of_upstream) > self._limit:
            self.forget(min(of_upstream, key=lambda key: self._standing(key[0])))

    def _standing(self, subject: RuleScope) -> int:
        """How well the model is known: 2 if it is configured, 1 if it has answered again with a rule, else 0."""
        kept = self._subjects[subject].values()
        return max(2 if one.is_configured else 1 if one.uses >= USES_OF_KNOWN else 0 for one in kept)


def _learned(key: Key, kept: _Kept, state: str, to_wall_s: float) -> LearnedRuleRecord:
    return LearnedRuleRecord(
        scope=key[0],
        rule=kept.lesson,
        state=state,
        evidence=kept.evidence,
        learned_at=round(kept.learned_s + to_wall_s, 3),
        expires_at=round(kept.expires_s + to_wall_s, 3),
        uses=kept.uses,
    )


WAIT_S = 2.0
"""A refusal of form comes within a second; what takes longer is most likely the answer, of a model that has nothing to
teach, and whoever waited for that would lose its whole time. So to an upstream that takes longer to refuse a burst goes
unadapted, once: refused calls are not billed, and the lesson is known then."""
MOST_WAIT_S = 4 * WAIT_S
"""In all, for a scout and the three lessons that it may take. No sign of life goes out meanwhile; with the hold of a
stream's head behind it (`heartbeat.STREAM_HOLD_S`) this is 23 s, and the strictest proxies give up after 30."""
KNOWN_S = HOUR_S
CANDIDATE_S = 60.0

TrialKey = tuple[RuleScope, bool]
"""A subject, and whether a stream is asked for: models refuse one and take the other."""


@dataclass(slots=True)
class CandidateRule:
    """A lesson on trial since `since_s`: `holders` are the requests that try it, `until_s` bounds its life without any.

    `helped`: with it the upstream complained of something else, and no request has succeeded yet.
    """

    rule: LearnedRule
    evidence: str
    since_s: float
    until_s: float
    holders: set[Hashable] = field(default_factory=set)
    helped: bool = False


class TrialLeader(NamedTuple):
    """The request that is ahead, and when it went."""

    who: Hashable
    since_s: float


class SingleTrial:
    """The requests of one process that are under way to models with something to learn."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._known: OrderedDict[TrialKey, float] = OrderedDict()
        self._scouts: dict[TrialKey, TrialLeader] = {}
        self._trials: OrderedDict[Key, CandidateRule] = OrderedDict()
        self._listeners: dict[RuleScope, set[Callable[[], object]]] = {}

    def wait_s(self, who: Hashable, trial_key: TrialKey, entered_s: float, now_s: float) -> float:
        """How long `who`, here since `entered_s`, waits for others at most; 0: it goes, as the scout where one is
        needed."""
        tried_s = [one.since_s for one in self._of(trial_key[0], now_s).values() if one.holders - {who}]
        if tried_s and (left_s := min(max(tried_s) + WAIT_S, entered_s + MOST_WAIT_S) - now_s) > 0:
            return left_s
        if self._known.get(trial_key, 0.0) > now_s:
            return 0.0
        scout = self._scouts.setdefault(trial_key, TrialLeader(who, now_s))
        return 0.0 if scout.who == who else max(0.0, min(scout.since_s, entered_s) + WAIT_S - now_s)

    def is_calm(self, trial_key: TrialKey, now_s: float) -> bool:
        """Whether nobody waits there and nothing is on trial, now and for long: the model has been heard of lately."""
        return not self._trials and self._known.get(trial_key, 0.0) > now_s + KNOWN_S / 2

    def candidates(self, subject: RuleScope, now_s: float) -> list[tuple[Key, CandidateRule]]:
        """The lessons on trial for `subject`."""
        return list(self._of(subject, now_s).items())

    def propose(self, key: Key, lesson: LearnedRule, evidence: str, who: Hashable, now_s: float) -> None:
        """`who` tries `lesson`; where it is on trial already, as one more."""
        trial = self._trials.get(key)
        if trial is None or trial.rule != lesson:
            trial = self._trials[key] = CandidateRule(lesson, evidence, now_s, now_s + CANDIDATE_S)
        trial.holders.add(who)
        while len(self._trials) > self._limit:
            self._trials.popitem(last=False)
        self.notify(key[0])

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
            self.notify(key[0])

    def mark_known(self, who: Hashable, trial_key: TrialKey, now_s: float) -> None:
        """The model has said something about the form of a request: nobody has to wait for a scout any more."""
        self._known[trial_key] = now_s + KNOWN_S
        self._known.move_to_end(trial_key)
        while len(self._known) > self._limit:
            self._known.popitem(last=False)
        self.leave(who, trial_key)

    def forget(self, subject: RuleScope) -> None:
        """Treat the model as unknown again: a rule of it has expired."""
        for trial_key in [trial_key for trial_key in self._known if trial_key[0].plain == subject.plain]:
            del self._known[trial_key]

    def leave(self, who: Hashable, trial_key: TrialKey) -> None:
        """`who` is done or gone: its place as a scout is free, and it tries nothing any more."""
        subject, scout = trial_key[0], self._scouts.get(trial_key)
        left = scout is not None and scout.who == who
        if left:
            del self._scouts[trial_key]
        for key, trial in self._trials.items():
            if who in trial.holders and _is_about(key, subject):
                trial.holders.discard(who)
                left = True
        if left:
            self.notify(subject)

    def listen(self, subject: RuleScope, callback: Callable[[], object]) -> Callable[[], None]:
        """Calls `callback` whenever `wait_s` may have another answer; gives what ends that."""
        listeners = self._listeners.setdefault(subject.plain, set())
        listeners.add(callback)

        def end() -> None:
            listeners.discard(callback)
            if not listeners and self._listeners.get(subject.plain) is listeners:
                del self._listeners[subject.plain]

        return end

    def notify(self, subject: RuleScope) -> None:
        for callback in list(self._listeners.get(subject.plain, ())):
            callback()

    def _of(self, subject: RuleScope, now_s: float) -> dict[Key, CandidateRule]:
        """The trials for `subject`, those aside that nobody holds and whose time is over."""
        if not self._trials:
            return {}
        over = [key for key, trial in self._trials.items() if not trial.holders and trial.until_s <= now_s]
        for key in over:
            del self._trials[key]
        return {key: trial for key, trial in self._trials.items() if _is_about(key, subject)}


def _is_about(key: Key, subject: RuleScope) -> bool:
    return key[0] in (subject, subject.plain)
