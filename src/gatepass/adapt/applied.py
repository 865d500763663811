"""What one request goes by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gatepass.adapt.changes.change import revised
from gatepass.adapt.learned import Key
from gatepass.adapt.lesson import Lesson
from gatepass.adapt.rejection_parser import repeats
from gatepass.adapt.teaching.heard import Heard
from gatepass.call import Call
from gatepass.errors import GatepassError


@dataclass(slots=True)
class Applied:
    """A lesson that a request goes by.

    `proven`: a request has succeeded with it. `helped`: the upstream complained of something else with it.
    `is_own`: this request has taken it, for the error `answered`, which said `evidence`.
    """

    lesson: Lesson
    proven: bool
    evidence: str = ""
    is_own: bool = False
    helped: bool = False
    answered: GatepassError | None = None


@dataclass(slots=True)
class AppliedLessons:
    """The lessons of one request at one target, in the order in which it came to them.

    `used` are those that changed what was sent last, `done` those that it has taken or left out by itself: it
    tries none of them again.
    """

    by_key: dict[Key, Applied] = field(default_factory=dict)
    used: list[Key] = field(default_factory=list)
    done: set[Key] = field(default_factory=set)

    @property
    def own(self) -> dict[Key, Applied]:
        """Those that the request has taken by itself."""
        return {key: one for key, one in self.by_key.items() if one.is_own}

    @property
    def inherited(self) -> dict[Key, Applied]:
        """Those that others had learned, or have on trial."""
        return {key: one for key, one in self.by_key.items() if not one.is_own}

    def revise(self, call: Call) -> Call:
        """`call` with all of them made, the same object where none concerns it."""
        in_order = sorted(self.by_key, key=lambda key: self.by_key[key].lesson.rank)
        changes = {key: self.by_key[key].lesson.change() for key in in_order}
        sent, made = revised(call, changes.values()) if changes else (call, [])
        self.used = [key for key, change in changes.items() if change in made]
        return sent

    def bars(self, key: Key, lesson: Lesson) -> bool:
        """Whether `lesson` was tried already, is applied, or undoes what is."""
        known = self.by_key.get(key)
        if key in self.done or (known is not None and known.lesson == lesson):
            return True
        return any(lesson.reverses(one.lesson) for one in self.by_key.values())

    def weigh(self, heard: Heard) -> list[Key]:
        """The request's own changes of which `heard` tells for the first time that they have helped: the upstream
        complains of something else after them."""
        helped = [
            key
            for key, one in self.own.items()
            if key in self.used and not one.helped and not repeats(heard, one.lesson, one.evidence)
        ]
        for key in helped:
            self.by_key[key].helped = True
        return helped

    def take(self, key: Key, one: Applied) -> None:
        """Go by `one` from now on, in the place of another about the same thing."""
        self.done.add(key)
        self.by_key.pop(key, None)
        self.by_key[key] = one

    def leave_out(self, keys: Iterable[Key]) -> None:
        """Go without these from now on."""
        for key in keys:
            self.done.add(key)
            del self.by_key[key]
