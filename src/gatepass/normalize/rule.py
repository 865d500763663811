"""What a rule and a change are: a rule is a named change of a call, a change one thing done to a body."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from gatepass.errors import InvalidRequest
from gatepass.normalize.json_editor import Draft
from gatepass.types import Call, Surface, Target


class Rule(Protocol):
    """One change that may be made to a call, under the name that `x-gatepass-adapted` shows.

    `apply` returns the same object when nothing changes; otherwise a new Call whose `adapted` has
    grown by this rule's entry. It raises a CallerError for what cannot be adapted, and touches
    nothing but what its name says: unknown members survive byte for byte.
    """

    @property
    def name(self) -> str: ...

    def apply(self, call: Call, target: Target) -> Call: ...


class Change(Protocol):
    """One thing to do to a body. `entry` is what `x-gatepass-adapted` shows of it: short, ASCII, without any value
    of the client's.

    `revise` says whether it changed anything; where it did not, the draft is as it was.
    """

    @property
    def entry(self) -> str: ...

    def revise(self, draft: Draft) -> bool: ...


@dataclass(frozen=True, slots=True)
class Revision:
    """A Rule made of changes, in order: the body is copied once however many of them have something to do.

    The new Call's `stream` is what the upstream is asked for; the client's own Call keeps what the client asked.
    """

    name: str
    changes: tuple[Change, ...]

    def apply(self, call: Call, target: Target) -> Call:
        del target
        return revised(call, self.changes)[0]


def concerns(change: Change, call: Call) -> bool:
    """Whether `change` would change `call`; nothing is written out."""
    try:
        return call.operation.surface is not Surface.MODELS and change.revise(Draft(call))
    except InvalidRequest:
        return False  # made of more values than gatepass looks at (jsontext.Walk)


def revised(call: Call, changes: Iterable[Change]) -> tuple[Call, list[Change]]:
    """`call` after `changes`, the same object where none had anything to do; and those that had."""
    if call.operation.surface is Surface.MODELS:
        return call, []
    draft = Draft(call)
    made = [change for change in changes if change.revise(draft)]
    if not made:
        return call, []
    entries = dict.fromkeys(change.entry for change in made)
    return (
        replace(
            call,
            body=draft.written(),
            stream=draft.stream,
            max_inputs=draft.max_inputs,
            adapted=(*call.adapted, *entries),
        ),
        made,
    )
