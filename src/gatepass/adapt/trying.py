"""What a request goes by, and what the answer to it says of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gatepass.adapt.lesson import Lesson
from gatepass.adapt.memory import Key
from gatepass.adapt.teaching.heard import TEACHING, Heard
from gatepass.adapt.teaching.teacher import repeats
from gatepass.call import Complaint
from gatepass.errors import GatepassError, UpstreamConnect, UpstreamDns, UpstreamTimeout, UpstreamTls

UNHEARD = (UpstreamTimeout, UpstreamConnect, UpstreamDns, UpstreamTls)
"""The upstream has said nothing at all of what it was sent."""


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
class LeftOut:
    """What others have on trial and a request tries to do without; `error` came with it."""

    lessons: dict[Key, Applied] = field(default_factory=dict)
    error: GatepassError | None = None

    def add(self, lessons: Mapping[Key, Applied], error: GatepassError) -> None:
        if lessons:
            self.lessons |= lessons
            self.error = self.error or error

    def needed(self, heard: Heard) -> list[Key]:
        """Those without which the upstream complains (`heard`) of just what they mend: they had helped."""
        return [key for key, one in self.lessons.items() if repeats(heard, one.lesson, one.evidence)]


def is_elsewhere(status: int | None, complaint: Complaint | None, heard: Heard | None, error: GatepassError) -> bool:
    """Whether an answer says nothing of the form of the request: a timeout, a token, a quota, a filter."""
    if isinstance(error, UNHEARD):
        return True
    if heard is not None or status is None or not 400 <= status < 500:
        return False
    return status not in TEACHING or complaint is not None


def lost(own: Mapping[Key, Applied], heard: Heard | None) -> list[Key]:
    """The lessons of a request that failed it, by the last complaint, or by None for an answer that is broken."""
    return [
        key
        for key, one in own.items()
        if not one.helped or (heard is not None and repeats(heard, one.lesson, one.evidence))
    ]
