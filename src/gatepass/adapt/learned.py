"""A lesson as it was learned: what it is about, its evidence and its times, and the row that tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from gatepass.adapt.evidence import evidence_of
from gatepass.adapt.lesson import Lesson

LARGEST = 1e15
"""Of what a row may count or date."""


class Subject(NamedTuple):
    """What a lesson is about. `credential` names the one in use, for the lessons that depend on it.

    A tuple, for every request is looked up by it: a dataclass takes four times as long to make and to hash.
    """

    upstream: str
    model: str
    operation: str
    credential: str = ""

    def of(self, lesson: Lesson) -> Subject:
        """The subject without what does not matter to `lesson`."""
        return self if lesson.by_credential else self.plain

    @property
    def plain(self) -> Subject:
        """The subject without its credential."""
        return self._replace(credential="") if self.credential else self


Key = tuple[Subject, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Learned:
    """One lesson with its evidence, for people and for the Store. Times are seconds of a clock that they have too.

    `state` is `learned`, `observed` where it was only seen and is not applied, or `failed` where it was tried in vain
    and is not tried again before `expires_at`: `evidence` is what came of it.
    """

    subject: Subject
    lesson: Lesson
    state: str
    evidence: str
    learned_at: float
    expires_at: float
    uses: int = 0

    @property
    def key(self) -> Key:
        return (self.subject, self.lesson.key)

    def as_row(self) -> dict[str, Any]:
        """Plain JSON; the evidence is the upstream's own sentence, secrets masked, cut."""
        return {
            "upstream": self.subject.upstream,
            "model": self.subject.model,
            "operation": self.subject.operation,
            "credential": self.subject.credential,
            "adapted": self.lesson.entry,
            "state": self.state,
            "evidence": self.evidence,
            "learned_at": self.learned_at,
            "expires_at": self.expires_at,
            "uses": self.uses,
            "lesson": self.lesson.as_row(),
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """What `as_row` wrote; raises ValueError for anything else."""
        names = ("upstream", "model", "operation", "credential", "evidence")
        texts = [row.get(name) for name in names]
        if not all(isinstance(text, str) and _is_whole(text) for text in texts):
            raise ValueError("is no row of a lesson")
        upstream, model, operation, credential, evidence = map(str, texts)
        learned_at, expires_at, uses = (_number(row.get(name)) for name in ("learned_at", "expires_at", "uses"))
        lesson = row.get("lesson")
        if not isinstance(lesson, dict) or row.get("state") != "learned":
            raise ValueError("is no row of a lesson that holds")
        subject = Subject(upstream, model, operation, credential)
        return cls(subject, Lesson.of_row(lesson), "learned", evidence_of(evidence), learned_at, expires_at, int(uses))


def _is_whole(text: str) -> bool:
    """Half a surrogate pair has no place on any page."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _number(value: Any) -> float:
    """Python's JSON reads NaN and numbers of any size, and no moment is one of them."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not -LARGEST < value < LARGEST:
        raise ValueError("is no row of a lesson: no such moment")
    return float(value)
