"""Compare two configurations: `changed_settings` for a reload, `lost_blocks` for a file that may be half written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from gatepass.config.document import ConfigDocument
from gatepass.config.model import Config
from gatepass.config.references import Reference
from gatepass.types import Secret

NEED_RESTART = ("server", "limits", "store", "log")
"""Blocks that a reload keeps as they were at the start."""


def is_same(one: Any, other: Any) -> bool:
    """Return whether two values of a configuration mean the same.

    A value from a file is compared by its reference, because gatepass reads such a file again by itself.
    """
    match one, other:
        case Secret(), Secret():
            return one.reference == other.reference and (one.changes or one.reveal() == other.reveal())
        case Reference(), Reference():
            return one.template == other.template and (one.changes or str(one) == str(other))
        case BaseModel(), BaseModel():
            names = type(one).model_fields
            return type(one) is type(other) and all(is_same(getattr(one, n), getattr(other, n)) for n in names)
        case Mapping(), Mapping():
            # the order decides the order of /v1/models
            return list(one) == list(other) and all(map(is_same, one.values(), other.values()))
        case list() | tuple(), list() | tuple():
            return len(one) == len(other) and all(map(is_same, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)  # `True == 1` in Python


def changed_settings(one: Config, other: Config) -> list[str]:
    """Return the names of the settings that differ: `credentials.NAME`, `access.keys`, `server.port`."""
    return [
        name for block in Config.model_fields for name in _changed(block, getattr(one, block), getattr(other, block))
    ]


def _changed(block: str, one: Any, other: Any) -> Iterator[str]:
    if is_same(one, other):
        return
    before, after = _members(one), _members(other)
    names = [
        name
        for name in dict.fromkeys((*before, *after))
        if name not in before or name not in after or not is_same(before[name], after[name])
    ]
    # only the order differs, or the block is absent in one of them
    yield from [f"{block}.{name}" for name in names] or [block]


def _members(block: Any) -> Mapping[str, Any]:
    if isinstance(block, BaseModel):
        return {name: getattr(block, name) for name in type(block).model_fields}
    return block or {}


def lost_blocks(before: ConfigDocument, after: ConfigDocument) -> list[str]:
    """Return the blocks at the top of a file that it no longer has, as after half of a write.

    A flag or variable may set a value of a block that the file does not have, so the origins decide.
    """
    return [str(path[0]) for path in before.origins if len(path) == 1 and path not in after.origins]
