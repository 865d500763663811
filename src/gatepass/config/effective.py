"""The effective values of a configuration with their origins, for `gatepass check` and the page at /ui."""

from __future__ import annotations

import re
from typing import Any

from gatepass.config.credential.http_json import PRESETS
from gatepass.config.document import SettingPath, leaves, lookup
from gatepass.config.load import LoadedConfig

_QUERY = re.compile(r"(?<=://)([^?]*)\?.*")
DEFAULT = "default"


def effective(loaded: LoadedConfig) -> tuple[Any, dict[SettingPath, str]]:
    """Return the tree of all values, and the origin of each by its path: a line, a variable, a preset or `default`."""
    tree = loaded.config.model_dump(mode="json", by_alias=True)
    return tree, {path: origin_of(loaded, tree, path) for path, _ in leaves(tree)}


def origin_of(loaded: LoadedConfig, tree: Any, path: SettingPath) -> str:
    """Return the origin of the value at `path`, or `preset NAME` if a preset filled it in."""
    if path[-2:-1] == ("network",) and (origin := loaded.origin(path)) == DEFAULT and lookup(tree, path) is not None:
        return loaded.origin(path[-2:])  # the top-level `network` is the default of each hop
    origin = loaded.origin(path)
    if origin != DEFAULT or len(path) < 3 or path[0] != "credentials" or lookup(tree, path) is None:
        return origin
    name = lookup(tree, (*path[:2], "preset"))
    filled = lookup(PRESETS[name].settings, path[2:]) if name in PRESETS else None
    return DEFAULT if filled is None else f"preset {name}"


def without_query(value: Any) -> Any:
    """Return `value`; if it is a URL, without its query, which may contain a key."""
    return _QUERY.sub(r"\1?(hidden)", value) if isinstance(value, str) else value
