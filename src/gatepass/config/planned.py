"""Settings of the plan whose feature is not here yet: refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gatepass.config.problem import Path
from gatepass.config.references import Reference
from gatepass.config.tree import Pattern, matches


def _anything(_: Any) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Planned:
    """A setting, or the values of one that it `concerns`, that will come; `instead` says what to write until then.

    A `{}` in `what` stands for the value.
    """

    pattern: Pattern
    what: str
    instead: str = "remove it"
    concerns: Callable[[Any], bool] = _anything


def _one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in values


PLANNED = (
    Planned(("mcp",), "the MCP relay"),
    Planned(("profiles",), "caller profiles"),
    Planned(("upstreams", "*", "dialect"), "the dialect {}", "use openai", _one_of("azure", "ragflow")),
    *(
        Planned(("operations", name), f"the operation {name}")
        for name in ("completions", "rerank", "responses", "messages", "audio")
    ),
    Planned(("access", "keys", "*", "profile"), "the profile of a caller"),
    Planned(("access", "keys", "*", "limits"), "limits of a caller"),
)


def not_built_yet(tree: Any) -> Iterator[tuple[Path, str]]:
    """Each place of `tree` that wants what is not there yet, with what to tell of it."""
    for planned in PLANNED:
        for path, value in matches(tree, planned.pattern):
            if planned.concerns(value):
                shown = value.template if isinstance(value, Reference) else value
                yield path, f"not built yet: {planned.what.format(shown)}; {planned.instead}"
