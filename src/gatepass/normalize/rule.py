"""What a rule and a change are: a rule is a named change of a call, a change one thing done to a body."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from gatepass.errors import InvalidRequest
from gatepass.normalize.json_editor import JsonEditor
from gatepass.types import Call, ClientProtocol, Target


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

    def apply_to(self, editor: JsonEditor) -> bool: ...


@dataclass(frozen=True, slots=True)
class ChangeRule:
    """A Rule made of changes, in order: the body is copied once however many of them have something to do.

    The new Call's `stream` is what the upstream is asked for; the client's own Call keeps what the client asked.
    """

    name: str
    changes: tuple[Change, ...]

    def apply(self, call: Call, target: Target) -> Call:
        del target
        return apply_changes(call, self.changes)[0]


def concerns(change: Change, call: Call) -> bool:
    """Whether `change` would change `call`; nothing is written out."""
    try:
        return call.operation.protocol is not ClientProtocol.MODELS and change.apply_to(JsonEditor(call))
    except InvalidRequest:
        return False  # made of more values than gatepass looks at (jsontext.Walk)


def apply_changes(call: Call, changes: Iterable[Change]) -> tuple[Call, list[Change]]:
    """`call` after `changes`, the same object where none had anything to do; and those that had."""
    if call.operation.protocol is ClientProtocol.MODELS:
        return call, []
    editor = JsonEditor(call)
    made = [change for change in changes if change.apply_to(editor)]
    if not made:
        return call, []
    entries = dict.fromkeys(change.entry for change in made)
    return (
        replace(
            call,
            body=editor.written(),
            stream=editor.stream,
            max_inputs=editor.max_inputs,
            adapted=(*call.adapted, *entries),
        ),
        made,
    )
