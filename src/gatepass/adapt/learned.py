"""A lesson as it was learned: what it is about, its evidence and its times, and the row that tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

from gatepass.adapt.lesson import Lesson


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
    """One learned rule with its evidence, for people. Times are seconds since the epoch.

    `state` is `learned`, or `failed` if it was tried in vain and is not tried again before `expires_at`: then
    `evidence` is what came of it.
    """

    subject: Subject
    lesson: Lesson
    state: str
    evidence: str
    learned_at: float
    expires_at: float
    uses: int = 0

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
            "lesson": asdict(self.lesson),
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """Return what `as_row` wrote in another worker of the same supervisor."""
        subject = Subject(*(row[name] for name in ("upstream", "model", "operation", "credential")))
        told = {name: row[name] for name in ("state", "evidence", "learned_at", "expires_at", "uses")}
        return cls(subject, Lesson(**row["lesson"]), **told)
