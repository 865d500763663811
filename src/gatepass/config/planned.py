"""Settings of the plan whose feature is not here yet: refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gatepass.config.problem import Path
from gatepass.config.tree import Pattern, matches


@dataclass(frozen=True, slots=True)
class Planned:
    """A setting that will come; `instead` says what to write until then."""

    pattern: Pattern
    what: str
    instead: str = "remove it"


PLANNED = (
    Planned(("mcp",), "the MCP relay"),
    Planned(("operations", "messages"), "the operation messages"),
    Planned(("models", "*", "operations", "messages"), "the operation messages"),
    Planned(("access", "keys", "*", "limits"), "limits of a caller"),
)


def not_built_yet(tree: Any) -> Iterator[tuple[Path, str]]:
    """Each place of `tree` that wants what is not there yet, with what to tell of it."""
    for planned in PLANNED:
        for path, _ in matches(tree, planned.pattern):
            yield path, f"not built yet: {planned.what}; {planned.instead}"
