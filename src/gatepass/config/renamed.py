"""Settings that have a new name: the old one is accepted for one minor release, with a warning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gatepass.config.document import Document
from gatepass.config.problem import Path, Problem, dotted
from gatepass.config.tree import Pattern, lookup, matches, replaced, without


@dataclass(frozen=True, slots=True)
class Renamed:
    """`old` and `new` hold the same number of `*`, in the same order. `until`: the release that drops `old`."""

    old: Pattern
    new: Pattern
    until: str


RENAMED: tuple[Renamed, ...] = ()
"""None so far."""


def with_new_names(document: Document, table: Sequence[Renamed] = RENAMED) -> Document:
    """`document` as it would be with today's names; a warning for each old one, a problem where both stand."""
    for entry in table:
        for path, value in list(matches(document.tree, entry.old)):
            document = _moved(document, path, value, _bound(entry, path), entry.until)
    return document


def _moved(document: Document, old: Path, value: object, new: Path, until: str) -> Document:
    origin = document.origin(old)
    bare = without(document.tree, old)
    if lookup(document.tree, new) is not None:
        problem = Problem(old, f"is the old name of {dotted(new)}, which is there too: keep that one", origin)
        return replace(document, tree=bare, problems=(*document.problems, problem))
    warning = f"{origin}: {dotted(old)} is now called {dotted(new)}; the old name is accepted until {until}"
    origins = {
        (*new, *path[len(old) :]) if path[: len(old)] == old else path: at for path, at in document.origins.items()
    }
    return replace(
        document,
        tree=replaced(bare, new, value),
        origins=origins,
        warnings=(*document.warnings, warning),
    )


def _bound(entry: Renamed, path: Path) -> Path:
    """The new path, its `*` filled with what they stood for in the old one."""
    names = iter(part for sign, part in zip(entry.old, path, strict=True) if sign == "*")
    return tuple(next(names) if sign == "*" else sign for sign in entry.new)
