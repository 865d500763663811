"""What the last error that a request met says of all that it had tried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from gatepass.adapt.applied import Applied
from gatepass.adapt.learned import Key
from gatepass.adapt.teaching.heard import TEACHING, Heard
from gatepass.adapt.teaching.teacher import repeats
from gatepass.call import Complaint
from gatepass.errors import GatepassError, UpstreamConnect, UpstreamDns, UpstreamTimeout, UpstreamTls

UNHEARD = (UpstreamTimeout, UpstreamConnect, UpstreamDns, UpstreamTls)
"""The upstream has said nothing at all of what it was sent."""


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """`error` is the one to show, to a request that had been changed by the entries `changed`.

    `vain` are the request's own changes that failed it, `needed` those of others that it should not have left out.
    """

    error: GatepassError
    changed: tuple[str, ...]
    vain: Mapping[Key, Applied] = field(default_factory=dict)
    needed: tuple[Key, ...] = ()

    @classmethod
    def of(cls, own: Mapping[Key, Applied], left_out: LeftOut, heard: Heard | None, error: GatepassError) -> Self:
        """What `error` says, which was `heard` as a complaint of the request's form, or is a broken answer.

        Shown is the error before the first change that failed. Where it turns out that what was left out had
        helped, it is the error that came with that: it tells what is left.
        """
        vain = lost(own, heard)
        if vain:
            before = list(own)[: list(own).index(vain[0])]
            shown = own[vain[0]].answered or error
            return cls(shown, entries(own, before), vain={key: own[key] for key in vain})
        needed = left_out.needed(heard) if heard is not None and not own else []
        if needed:
            return cls(left_out.error or error, entries(left_out.lessons, needed), needed=tuple(needed))
        return cls(error, entries(own, own))


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


def entries(lessons: Mapping[Key, Applied], keys: Iterable[Key]) -> tuple[str, ...]:
    """How `x-gatepass-adapted` names the lessons of `keys`."""
    return tuple(lessons[key].lesson.entry for key in keys)
