"""What /learned tells: what the upstreams' rejections have taught, with the evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gatepass.auth.model_access import may_use
from gatepass.config.access import AccessKey
from gatepass.config.model import Config
from gatepass.errors import ModelNotFound
from gatepass.learning.export import as_config
from gatepass.learning.learned_rule import Learned
from gatepass.proxy.app_state import Gate
from gatepass.proxy.routing import RouteTable

Row = dict[str, Any]

_SUBJECT = ("upstream", "model", "operation", "credential", "adapted", "state")
"""What tells two rows apart."""


def lessons_of(gate: Gate) -> list[Row]:
    """The rows of one process, plain JSON (`Learned.as_row`); moments are seconds since the epoch."""
    return [one.as_row() for one in gate.learner.memory.learned(gate.clock.now(), gate.clock.wall())]


def merged(pages: Iterable[Sequence[Row]]) -> list[Row]:
    """The rows of several processes as one list: uses added up, from the first learning to the last end."""
    found: dict[tuple[str, ...], Row] = {}
    for row in (row for page in pages for row in page):
        key = tuple(row[name] for name in _SUBJECT)
        found[key] = _together(found[key], row) if key in found else row
    return [found[key] for key in sorted(found)]


def visible(rows: Iterable[Row], caller: AccessKey, routes: RouteTable, config: Config) -> list[Row]:
    """The rows of models that `caller` may use, by any name that leads there."""
    if caller.models is None:
        return list(rows)
    names = [*caller.models, *config.models]
    return [row for row in rows if any(_leads_to(row, name, caller, routes) for name in (row["model"], *names))]


def _leads_to(row: Row, name: str, caller: AccessKey, routes: RouteTable) -> bool:
    """A glob stands for the names that it matches: each of them goes where the glob itself does."""
    if not may_use(caller, name):
        return False
    try:
        targets = routes.resolve(row["operation"], name)
    except ModelNotFound:
        return False
    return (row["upstream"], row["model"]) in {(target.upstream, target.model or name) for target in targets}


def _together(one: Row, other: Row) -> Row:
    later = max(one, other, key=lambda row: float(row["expires_at"]))
    learned_at = min(one["learned_at"], other["learned_at"])
    return {**later, "learned_at": learned_at, "uses": one["uses"] + other["uses"]}


def shown(rows: Iterable[Row], wall_s: float) -> list[Row]:
    """Return `rows` with ages instead of moments, for people and programs."""
    return [
        {
            **{name: row[name] for name in _SUBJECT},
            "evidence": row["evidence"],
            "age_s": max(0, round(wall_s - row["learned_at"])),
            "expires_in_s": max(0, round(row["expires_at"] - wall_s)),
            "uses": row["uses"],
        }
        for row in rows
    ]


def pinned(rows: Iterable[Row], config: Config, caller: AccessKey) -> str:
    """Return YAML that makes the learned rules permanent, for the names that `caller` may use."""
    learned = (Learned.of_row(row) for row in rows if row["state"] == "learned")
    return as_config(learned, config, lambda name: may_use(caller, name))
