"""What a rule is: a named, declared change of a call."""

from __future__ import annotations

from typing import Protocol

from gatepass.call import Call, Target


class Rule(Protocol):
    """One change that may be made to a call, under the name that `x-gatepass-adapted` shows.

    `apply` returns the same object when nothing changes; otherwise a new Call whose `adapted` has
    grown by this rule's entry. It raises a CallerError for what cannot be adapted, and touches
    nothing but what its name says: unknown members survive byte for byte.
    """

    @property
    def name(self) -> str: ...

    def apply(self, call: Call, target: Target) -> Call: ...
