"""The lessons of one process."""

from __future__ import annotations

from gatepass.adapt.crowd import Crowd
from gatepass.adapt.learned import Subject
from gatepass.adapt.learning import Learning, Mode
from gatepass.adapt.memory import Memory
from gatepass.adapt.teaching.allowance import Allowance
from gatepass.call import Surface


class Learner:
    """What one process remembers, and the requests that go by it and add to it."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.crowd = Crowd()

    def is_settled(self, subject: Subject, stream: bool, now_s: float) -> bool:
        """Whether a request to `subject` has nothing to go by and nobody to wait for: it goes as it is, and a
        Learning is of no use before it is refused."""
        return self.crowd.is_calm((subject, stream), now_s) and not self.memory.knows(subject)

    def at(self, subject: Subject, surface: Surface, mode: Mode = "on", allowance: Allowance | None = None) -> Learning:
        """What a request to `subject` learns; to be used as a context, which frees its places in every case."""
        return Learning(self.memory, self.crowd, subject, surface, mode, allowance or Allowance())
