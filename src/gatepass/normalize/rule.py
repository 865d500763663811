"""Define rules and changes: a rule is a named change of a call, a change edits its body."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, Self

from msgspec.structs import replace

from gatepass.errors import InvalidRequest
from gatepass.normalize.json_editor import JsonEditor
from gatepass.types import Call, ClientProtocol, Target


class Rule(Protocol):
    """One named change of a call. Unknown members keep their bytes."""

    @property
    def name(self) -> str:
        """The rule's name in the output of `gatepass route`."""
        ...

    def apply(self, call: Call, target: Target) -> Call:
        """Return `call` itself if nothing changes, else a new Call with this rule's entry added to `adapted`.

        Raises a CallerError if the call cannot be adapted.
        """
        ...


class Change(Protocol):
    """One edit of a body."""

    @property
    def entry(self) -> str:
        """The text in `x-gatepass-adapted`: short, ASCII, without a value from the client."""
        ...

    def apply_to(self, editor: JsonEditor) -> bool:
        """Edit the body and return True, or return False and leave it unchanged."""
        ...


@dataclass(frozen=True, slots=True)
class ChangeRule:
    """A rule of several changes, in order. The body is copied once, whatever their number.

    The new Call's `stream` is what the upstream receives. The client's own Call keeps what the client requests.
    """

    name: str
    changes: tuple[Change, ...]

    @classmethod
    def of(cls, name: str, changes: Iterable[Change]) -> tuple[Self, ...]:
        """Return the rule, or an empty tuple without changes, which would copy the body in vain."""
        found = tuple(changes)
        return (cls(name, found),) if found else ()

    def apply(self, call: Call, target: Target) -> Call:
        del target
        return apply_changes(call, self.changes)[0]


def concerns(change: Change, call: Call) -> bool:
    """Whether `change` would change `call`, without writing the new body."""
    try:
        return call.operation.protocol is not ClientProtocol.MODELS and change.apply_to(JsonEditor(call))
    except InvalidRequest:
        return False  # the body has more values than gatepass reads (json_scan.JsonScanner)


def apply_changes(call: Call, changes: Iterable[Change]) -> tuple[Call, list[Change]]:
    """Return `call` after `changes`, the same object if none applied, and the changes that applied."""
    if call.operation.protocol is ClientProtocol.MODELS:
        return call, []
    editor = JsonEditor(call)
    made = [change for change in changes if change.apply_to(editor)]
    if not made:
        return call, []
    # Several changes may have the same entry, such as two roles that move into the user message.
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
