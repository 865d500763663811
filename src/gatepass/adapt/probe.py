"""Whether a lesson past its time is still needed: one request goes without it, to see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from gatepass.adapt.applied import Applied
from gatepass.adapt.changes.change import concerns
from gatepass.adapt.learned import Key
from gatepass.adapt.lesson import Lesson
from gatepass.adapt.memory import Memory
from gatepass.call import Call


@dataclass(slots=True, eq=False)
class Probe:
    """The lesson `applied` that a request alone goes without. `has_failed`: it was refused for that."""

    memory: Memory
    key: Key
    applied: Applied
    has_failed: bool = False

    @classmethod
    def claimed(cls, memory: Memory, lessons: Mapping[Key, Applied], call: Call, now_s: float) -> Self | None:
        """A probe of one of `lessons` that is past its time and would change `call`; None where none is."""
        for key, one in lessons.items():
            if memory.is_due(key, now_s) and concerns(one.lesson.change(), call):
                probe = cls(memory, key, one)
                memory.claim(key, probe)
                return probe
        return None

    def conclude(self, now_s: float) -> tuple[str, Lesson] | None:
        """The request went through, with the lesson after all or without it: what is told of that, and of which
        lesson. None where the lesson was forgotten meanwhile."""
        lesson = self.memory.lesson(self.key)
        if lesson is None:
            return None
        if self.has_failed:
            self.memory.renew(self.key, now_s)
            return "renewed", lesson
        self.memory.forget(self.key)
        return "healed", lesson

    def release(self, again_s: float | None = None) -> None:
        """It told nothing, if it has not told yet: the next one is at `again_s`, or at once."""
        self.memory.release(self.key, self, again_s)
