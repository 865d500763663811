"""The configuration as it counts, for people: every value with where it came from, secrets hidden."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gatepass.config.credential.http_json import PRESETS
from gatepass.config.document import Path, children, lookup
from gatepass.config.load import Loaded

_PLAIN = re.compile(r"[A-Za-z/(][A-Za-z0-9 _./:@()+,=-]*(?<! )\Z")
_NOT_TEXT = frozenset(("null", "true", "false", "yes", "no", "on", "off"))
_QUERY = re.compile(r"(?<=://)([^?]*)\?.*")
INDENT = "  "


DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Shown:
    """The configuration as text, and how many values were left out because nobody set them."""

    text: str
    left_out: int


def effective(loaded: Loaded, *, every: bool = False) -> Shown:
    """YAML with a comment behind each value that was set: its line, its variable, its preset. A `type` comes first.

    With `every` those that nobody set are there too, marked `default`.
    """
    tree = loaded.config.model_dump(mode="json", by_alias=True)
    origins = {path: origin_of(loaded, tree, path) for path in _places(tree, ())}
    shown = {path for path, origin in origins.items() if every or origin != DEFAULT}
    blocks = {path[:end] for path in shown for end in range(len(path) + 1)}
    lines = _block(tree, (), {path: origins.get(path, "") for path in shown | blocks})
    return Shown("\n".join(lines), len(origins) - len(shown))


def origin_of(loaded: Loaded, tree: Any, path: Path) -> str:
    """Where the value at `path` comes from, what a preset filled in included."""
    origin = loaded.origin(path)
    if origin != DEFAULT or len(path) < 3 or path[0] != "credentials" or lookup(tree, path) is None:
        return origin
    name = lookup(tree, (*path[:2], "preset"))
    filled = lookup(PRESETS[name].settings, path[2:]) if name in PRESETS else None
    return DEFAULT if filled is None else f"preset {name}"


def _places(node: Any, path: Path) -> Iterator[Path]:
    """Every value that is shown on a line: leaves, and blocks that hold nothing."""
    if not (isinstance(node, dict | list) and node):
        yield path
        return
    for key, value in children(node):
        yield from _places(value, (*path, key))


def _block(node: Any, path: Path, origins: Mapping[Path, str]) -> Iterator[str]:
    """The members of `node` that have an origin; a block's is the empty text."""
    for key, value in sorted(children(node), key=lambda member: member[0] != "type"):
        if (place := (*path, key)) in origins:
            mark = INDENT * len(path) + ("-" if isinstance(node, list) else f"{_scalar(key)}:")
            if isinstance(value, dict | list) and value:
                yield mark
                yield from _block(value, place, origins)
            else:
                yield f"{mark} {_scalar(value)}  # {origins[place]}"


def _scalar(value: Any) -> str:
    """One value in YAML, on one line; the query of a URL is nobody's to read."""
    if not isinstance(value, str):
        return json.dumps(value)
    text = _QUERY.sub(r"\1?(hidden)", value)
    is_plain = _PLAIN.match(text) and text.lower() not in _NOT_TEXT and ": " not in text
    return text if is_plain else json.dumps(text, ensure_ascii=False)
