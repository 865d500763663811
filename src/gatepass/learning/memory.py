"""What one process has learned, until it expires; and which rules failed within the last minute.

No I/O and no clock: `now_s` is `Clock.now()`, `wall_s` is the same moment in seconds since the epoch, for people.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from gatepass.learning.learned_rule import Key, Learned, Lesson, Subject, evidence_of

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
    lesson: Lesson
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
        self._subjects: dict[Subject, dict[Key, _Kept]] = {}
        self._refuted: OrderedDict[Key, _Kept] = OrderedDict()

    def of(self, subject: Subject) -> list[tuple[Key, Lesson]]:
        """Return the rules that hold for `subject`, with their keys; `expire` first."""
        return [(key, kept.lesson) for key, kept in self._about(subject)]

    def knows(self, subject: Subject) -> bool:
        """Whether there is a rule for `subject`, expired or not."""
        subjects = self._subjects
        return bool(subjects) and (subject in subjects or subject.plain in subjects)

    def lesson(self, key: Key) -> Lesson | None:
        kept = self._kept.get(key)
        return None if kept is None else kept.lesson

    def expire(self, subject: Subject, now_s: float) -> bool:
        """Forget the rules of `subject` that have expired; whether there were any."""
        over = [key for key, kept in self._about(subject) if kept.expires_s <= now_s]
        for key in over:
            self.forget(key)
        return bool(over)

    def commit(self, key: Key, lesson: Lesson, evidence: str, now_s: float, *, is_configured: bool = False) -> bool:
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

    def refute(self, key: Key, lesson: Lesson, evidence: str, now_s: float) -> None:
        """The rule was tried, and `evidence` is what came of it: it is not tried again for REFUTED_S."""
        self._refuted[key] = _Kept(lesson, evidence_of(evidence), now_s, now_s + REFUTED_S)
        self._refuted.move_to_end(key)
        while len(self._refuted) > self._limit_of_others:
            self._refuted.popitem(last=False)

    def refuted(self, key: Key, now_s: float) -> Learned | None:
        """Return how the rule failed within REFUTED_S, with times of `now_s`; None if it did not."""
        found = self._refuted.get(key)
        if found is not None and found.expires_s <= now_s:
            del self._refuted[key]
            return None
        return None if found is None else _learned(key, found, "failed", 0.0)

    def learned(self, now_s: float, wall_s: float) -> list[Learned]:
        """Return the rules that hold, the last used at the end, then those that failed within REFUTED_S."""
        to_wall_s = wall_s - now_s
        kept = [_learned(key, one, "learned", to_wall_s) for key, one in self._kept.items() if one.expires_s > now_s]
        vain = [_learned(key, one, "failed", to_wall_s) for key, one in self._refuted.items() if one.expires_s > now_s]
        return [*kept, *vain]

    def _about(self, subject: Subject) -> list[tuple[Key, _Kept]]:
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

    def _standing(self, subject: Subject) -> int:
        """How well the model is known: 2 if it is configured, 1 if it has answered again with a rule, else 0."""
        kept = self._subjects[subject].values()
        return max(2 if one.is_configured else 1 if one.uses >= USES_OF_KNOWN else 0 for one in kept)


def _learned(key: Key, kept: _Kept, state: str, to_wall_s: float) -> Learned:
    return Learned(
        subject=key[0],
        lesson=kept.lesson,
        state=state,
        evidence=kept.evidence,
        learned_at=round(kept.learned_s + to_wall_s, 3),
        expires_at=round(kept.expires_s + to_wall_s, 3),
        uses=kept.uses,
    )
