"""Where something stands in a body, in the form in which people and configurations write it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from gatepass.adapt.draft import Draft, ObjectDraft
from gatepass.config.rules import NO_PLACE, PLACE


@dataclass(frozen=True, slots=True)
class Place:
    """`temperature`, `stream_options.include_usage`, `messages[].tool_calls[].index`: `[]` is each object of a list."""

    steps: tuple[tuple[str, bool], ...]
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, with what is expected, for what is no such place."""
        if not cls.is_one(text):
            raise ValueError(NO_PLACE)
        *steps, name = text.split(".")
        return cls(tuple((step.removesuffix("[]"), step.endswith("[]")) for step in steps), name)

    @staticmethod
    def is_one(text: str) -> bool:
        """Whether `parse` takes it."""
        return PLACE.match(text) is not None

    def __str__(self) -> str:
        return ".".join([*(f"{name}[]" if each else name for name, each in self.steps), self.name])

    def owners(self, draft: Draft, *, make: bool = False) -> Iterator[ObjectDraft]:
        """The objects in which the last name stands or would stand; `make` adds plain ones that are missing."""
        return _descend(draft.top, self.steps, make=make)


def _descend(owner: ObjectDraft, steps: tuple[tuple[str, bool], ...], *, make: bool) -> Iterator[ObjectDraft]:
    if not steps:
        yield owner
        return
    (name, each), rest = steps[0], steps[1:]
    if make and not each and name not in owner:
        owner.set(name, b"{}")
    inner = owner.object(name)
    array = owner.array(name) if each else None
    found = array.objects() if array is not None else [inner] if inner is not None and not each else []
    for one in found:
        yield from _descend(one, rest, make=make)
