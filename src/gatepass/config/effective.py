"""The configuration as it counts, for people: every value with where it came from, secrets hidden."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from gatepass.config.load import Loaded
from gatepass.config.problem import Path
from gatepass.config.tree import children

_PLAIN = re.compile(r"[A-Za-z/(][A-Za-z0-9 _./:@()+,=-]*(?<! )\Z")
_NOT_TEXT = frozenset(("null", "true", "false", "yes", "no", "on", "off"))
_QUERY = re.compile(r"(?<=://)([^?]*)\?.*")
INDENT = "  "


def effective(loaded: Loaded) -> str:
    """YAML with a comment behind each value: its line, its variable, or `default`. A `type` comes first."""
    tree = loaded.config.model_dump(mode="json", by_alias=True)
    return "\n".join(_block(loaded, tree, ()))


def _block(loaded: Loaded, node: Any, path: Path) -> Iterator[str]:
    for key, value in sorted(children(node), key=lambda member: member[0] != "type"):
        place = (*path, key)
        mark = "-" if isinstance(node, list) else f"{_scalar(key)}:"
        yield from _member(loaded, mark, value, place)


def _member(loaded: Loaded, mark: str, value: Any, place: Path) -> Iterator[str]:
    indent = INDENT * (len(place) - 1)
    if isinstance(value, dict | list) and value:
        yield f"{indent}{mark}"
        yield from _block(loaded, value, place)
    else:
        yield f"{indent}{mark} {_scalar(value)}  # {loaded.origin(place)}"


def _scalar(value: Any) -> str:
    """One value in YAML, on one line; the query of a URL is nobody's to read."""
    if not isinstance(value, str):
        return json.dumps(value)
    text = _QUERY.sub(r"\1?(hidden)", value)
    is_plain = _PLAIN.match(text) and text.lower() not in _NOT_TEXT and ": " not in text
    return text if is_plain else json.dumps(text, ensure_ascii=False)
