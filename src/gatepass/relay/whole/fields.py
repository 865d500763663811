"""The members of one object in a JSON text, and what is to stand in their place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from gatepass.jsontext import Edit, Member, Walk
from gatepass.relay.chunk import json_text
from gatepass.relay.event import read_json


class Fields:
    """An object, of whose members that have one name the last one counts."""

    __slots__ = ("_at", "_known", "_names", "_put", "_walk")

    def __init__(self, walk: Walk, at: int) -> None:
        self._walk = walk
        self._at = at
        self._known: dict[str, Member] = {member.name: member for member in walk.members(at)}
        self._names: dict[str, str] = {}
        self._put: dict[str, Any] = {}

    @classmethod
    def at(cls, walk: Walk, at: int) -> Self | None:
        """The object that begins at `at`; None where it is none."""
        return cls(walk, at) if walk.text.startswith(b"{", at) else None

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def value(self, name: str) -> Any:
        """The value of a member as it came, parsed; None where there is none."""
        member = self._known.get(name)
        return None if member is None else read_json(self._walk.text[member.value : member.end])

    def text(self, name: str) -> str:
        """The JSON of a member that is there, as it came."""
        member = self._known[name]
        return self._walk.text[member.value : member.end].decode("utf-8", "replace")

    def object(self, name: str) -> Fields | None:
        member = self._known.get(name)
        return None if member is None else Fields.at(self._walk, member.value)

    def objects(self, name: str) -> list[Fields]:
        """The objects in a list."""
        member = self._known.get(name)
        if member is None or not self._walk.text.startswith(b"[", member.value):
            return []
        entries = [Fields.at(self._walk, at) for at, _ in self._walk.elements(member.value)]
        return [entry for entry in entries if entry is not None]

    def put(self, name: str, value: Any) -> None:
        """Have the member `name` say `value`."""
        self._put[name] = value

    def rename(self, name: str, other: str) -> None:
        """Call the member `name`, which is there, `other`."""
        self._names[name] = other

    def edits(self) -> Iterator[Edit]:
        """What makes of the text what was asked for. Raises ValueError for what is nested too deep to be written."""
        for name, other in self._names.items():
            yield Edit(self._known[name].start, self._known[name].value, (b"%b:" % json_text(other),))
        for name in self._put.keys() & self._known.keys():
            yield Edit(self._known[name].value, self._known[name].end, (json_text(self._put[name]),))
        if new := {name: value for name, value in self._put.items() if name not in self._known}:
            start = self._at + 1
            yield Edit(start, start, (json_text(new)[1:-1], b"," if self._known else b""))
