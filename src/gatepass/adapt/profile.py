"""A client's profile, as far as its requests are concerned: which changes are made to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

from gatepass.adapt.changes.change import Change, Revision
from gatepass.adapt.draft import Draft, ObjectDraft
from gatepass.adapt.members import Drop, Place
from gatepass.adapt.typed_ids import UntypedModel
from gatepass.config.profiles import Dialect, Profile, resolved

NAME = "profile"
KNOWN = frozenset(("type", "function"))
NULL = frozenset((b"null",))


@dataclass(frozen=True, slots=True)
class PlainTools:
    """Entries of `tools` that hold a `function` keep that and their `type`. Entry `tools=plain`.

    Entries of another form stay: those of the Responses API have their name and parameters beside the type.
    """

    entry: str = "tools=plain"

    def revise(self, draft: Draft) -> bool:
        tools = draft.top.array("tools")
        found = [] if tools is None else [tool for tool in tools.objects() if tool.kind("function") == "{"]
        return sum(_stripped(tool) for tool in found) > 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A profile ready for requests: the Rules that it makes for each dialect, made once."""

    name: str
    settings: Profile
    rules: Mapping[Dialect, tuple[Revision, ...]]


def prepared(own: Mapping[str, Profile]) -> Mapping[str, Prepared]:
    """All profiles by name, the built-in ones and an operator's `own`."""
    return MappingProxyType(
        {
            name: Prepared(name, profile, {dialect: rules_of(profile, dialect) for dialect in get_args(Dialect)})
            for name, profile in resolved(own).items()
        }
    )


def rules_of(profile: Profile, dialect: Dialect) -> tuple[Revision, ...]:
    """The Rules for a client of `profile` on the way to an upstream of `dialect`; none where nothing is to be done."""
    changes = tuple(changes_of(profile, dialect))
    return (Revision(NAME, changes),) if changes else ()


def changes_of(profile: Profile, dialect: Dialect) -> Iterator[Change]:
    """Names first, then members, then what tools hold."""
    if profile.typed_ids:
        yield UntypedModel()
    yield from (Drop(Place.parse(place)) for place in (*profile.drop, *profile.drop_for.get(dialect, ())))
    yield from (Drop(Place.parse(place), NULL) for place in profile.drop_null)
    if profile.plain_tools:
        yield PlainTools()


def _stripped(tool: ObjectDraft) -> bool:
    strays = [name for name in tool.names if name not in KNOWN]
    return sum(tool.drop(name) for name in strays) > 0
