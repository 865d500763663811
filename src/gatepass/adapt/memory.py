"""What is remembered of lessons: those that hold, those that were only seen, those that failed just now.

No I/O and no clock: `now_s` is `Clock.now()`; `wall_s` is the same moment by a clock that other readers of the
rows have too: seconds since the epoch for people, the store's own clock for other processes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from gatepass.adapt.evidence import evidence_of
from gatepass.adapt.learned import Key, Learned, Subject
from gatepass.adapt.lesson import Lesson

LIMIT = 1_000
LIMIT_OF_SUBJECT = 20
"""Of lessons about one model: more are made up by somebody, and take nobody else's place."""
REFUTED_S = 60.0
"""How long a lesson that failed is not tried again: no request costs double in the meantime."""


@dataclass(slots=True)
class _Kept:
    lesson: Lesson
    evidence: str
    learned_s: float
    due_s: float
    uses: int = 0
    prober: object | None = None


class Memory:
    """The lessons of one process. What was used last stays longest, and there are LIMIT of them at most.

    A lesson past its time still holds, but `claim` gives it to one request at a time to go without it.
    `changes` grows whenever a lesson is learned, renewed, taken over or forgotten.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.changes = 0
        self._limit = limit
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._subjects: dict[Subject, dict[Key, _Kept]] = {}
        self._seen: OrderedDict[Key, _Kept] = OrderedDict()
        self._refuted: OrderedDict[Key, _Kept] = OrderedDict()

    def of(self, subject: Subject) -> list[tuple[Key, Lesson]]:
        """The lessons that hold for `subject`, with their keys."""
        plain = subject.plain
        subjects = (plain, subject) if subject != plain else (plain,)
        return [(key, kept.lesson) for one in subjects for key, kept in self._subjects.get(one, {}).items()]

    def knows(self, subject: Subject) -> bool:
        """Whether any lesson holds for `subject`."""
        subjects = self._subjects
        return bool(subjects) and (subject in subjects or subject.plain in subjects)

    def lesson(self, key: Key) -> Lesson | None:
        kept = self._kept.get(key)
        return None if kept is None else kept.lesson

    def commit(self, key: Key, lesson: Lesson, evidence: str, now_s: float) -> bool:
        """Remember a lesson that has helped; whether it is news."""
        known = self._kept.get(key)
        is_news = known is None or known.lesson != lesson
        uses = known.uses if known is not None else 0
        self._keep(key, _Kept(lesson, evidence_of(evidence), now_s, now_s + lesson.ttl_s, uses))
        self._seen.pop(key, None)
        return is_news

    def renew(self, key: Key, now_s: float) -> None:
        """A probe has shown that the lesson is still needed."""
        if (kept := self._kept.get(key)) is not None:
            kept.due_s, kept.prober = now_s + kept.lesson.ttl_s, None
            self.changes += 1

    def forget(self, key: Key) -> None:
        if self._kept.pop(key, None) is not None:
            self.changes += 1
            of_subject = self._subjects[key[0]]
            del of_subject[key]
            if not of_subject:
                del self._subjects[key[0]]

    def used(self, key: Key) -> None:
        if (kept := self._kept.get(key)) is not None:
            kept.uses += 1
            self._kept.move_to_end(key)

    def is_due(self, key: Key, now_s: float) -> bool:
        """Whether the lesson is past its time and nobody tries to go without it."""
        kept = self._kept.get(key)
        return kept is not None and kept.due_s <= now_s and kept.prober is None

    def claim(self, key: Key, prober: object) -> None:
        """Let `prober` alone go without the lesson, until it renews, forgets or releases it."""
        self._kept[key].prober = prober

    def release(self, key: Key, prober: object, again_s: float | None = None) -> None:
        """The probe told nothing: the next one is at `again_s`, or at once."""
        kept = self._kept.get(key)
        if kept is not None and kept.prober is prober:
            kept.prober, kept.due_s = None, again_s if again_s is not None else kept.due_s

    def observe(self, key: Key, lesson: Lesson, evidence: str, now_s: float) -> bool:
        """Remember what would have been learned; whether it is news."""
        known = self._seen.get(key)
        is_news = known is None or known.due_s <= now_s
        uses = 1 if known is None else known.uses + 1
        self._seen[key] = _Kept(lesson, evidence_of(evidence), now_s, now_s + lesson.ttl_s, uses)
        _bound(self._seen, self._limit)
        return is_news

    def refute(self, key: Key, lesson: Lesson, evidence: str, now_s: float) -> None:
        """The lesson was tried, and `evidence` is what came of it: it is not tried again for REFUTED_S."""
        self._refuted[key] = _Kept(lesson, evidence_of(evidence), now_s, now_s + REFUTED_S)
        self._refuted.move_to_end(key)
        _bound(self._refuted, self._limit)

    def is_refuted(self, key: Key, now_s: float) -> bool:
        return self._refuted_at(key, now_s) is not None

    def refuted(self, key: Key, now_s: float) -> Learned | None:
        """How the lesson failed lately, with times of `now_s`."""
        found = self._refuted_at(key, now_s)
        return None if found is None else _learned(key, found, "failed", 0.0)

    def _refuted_at(self, key: Key, now_s: float) -> _Kept | None:
        found = self._refuted.get(key)
        if found is not None and found.due_s <= now_s:
            del self._refuted[key]
            return None
        return found

    def learned(self, now_s: float, wall_s: float) -> list[Learned]:
        """Everything that is known, what was used last at the end; `observed` and `failed` only while that lasts."""
        kept = [_learned(key, one, "learned", wall_s - now_s) for key, one in self._kept.items()]
        seen = [_learned(key, one, "observed", wall_s - now_s) for key, one in self._seen.items() if one.due_s > now_s]
        vain = [_learned(key, one, "failed", wall_s - now_s) for key, one in self._refuted.items() if one.due_s > now_s]
        return [*kept, *seen, *vain]

    def adopt(self, one: Learned, now_s: float, wall_s: float) -> None:
        """Take over what another process has learned, where it holds, and longer than what is known here."""
        due_s = min(one.expires_at - wall_s, one.lesson.ttl_s) + now_s
        known = self._kept.get(one.key)
        if due_s > now_s and (known is None or known.due_s < due_s):
            uses = max(one.uses, known.uses if known is not None else 0)
            self._keep(one.key, _Kept(one.lesson, one.evidence, one.learned_at - wall_s + now_s, due_s, uses))

    def _keep(self, key: Key, kept: _Kept) -> None:
        self.changes += 1
        for other, one in list(self._subjects.get(key[0], {}).items()):
            if kept.lesson.reverses(one.lesson):
                self.forget(other)
        self._kept[key] = kept
        self._kept.move_to_end(key)
        self._subjects.setdefault(key[0], {})[key] = kept
        self._make_room(key)
        while len(self._kept) > self._limit:
            self.forget(next(iter(self._kept)))

    def _make_room(self, new: Key) -> None:
        """Beside `new` the lesson about the same subject goes that was of the least use."""
        others = {key: kept.uses for key, kept in self._subjects[new[0]].items() if key != new}
        if len(others) >= LIMIT_OF_SUBJECT:
            self.forget(min(others, key=others.__getitem__))


def _bound(held: OrderedDict[Key, Any], limit: int) -> None:
    while len(held) > limit:
        held.popitem(last=False)


def _learned(key: Key, kept: _Kept, state: str, to_wall_s: float) -> Learned:
    return Learned(
        subject=key[0],
        lesson=kept.lesson,
        state=state,
        evidence=kept.evidence,
        learned_at=round(kept.learned_s + to_wall_s, 3),
        expires_at=round(kept.due_s + to_wall_s, 3),
        uses=kept.uses,
    )
