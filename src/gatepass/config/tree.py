"""Plain trees of dicts, lists and leaves: what a file is before it becomes a Config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gatepass.config.problem import Path

Pattern = tuple[str, ...]
"""A path in which `*` stands for any name or index: `("upstreams", "*", "base_url")`."""


def children(node: Any) -> Iterator[tuple[str | int, Any]]:
    """The members of a dict or list; a leaf has none."""
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, list):
        yield from enumerate(node)


def matches(tree: Any, pattern: Pattern, prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every place of `tree` that `pattern` names, with its value; none where shapes differ."""
    if not pattern:
        yield prefix, tree
        return
    for key, value in children(tree):
        if pattern[0] in ("*", key):
            yield from matches(value, pattern[1:], (*prefix, key))


def leaves(tree: Any, prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value that is neither a dict nor a list, with its path."""
    if not isinstance(tree, dict | list):
        yield prefix, tree
        return
    for key, value in children(tree):
        yield from leaves(value, (*prefix, key))


def lookup(tree: Any, path: Path) -> Any:
    """The value at `path`, or None where there is nothing."""
    for key in path:
        tree = dict(children(tree)).get(key)
    return tree


def replaced(tree: Any, path: Path, value: Any) -> Any:
    """A copy of `tree` with `value` at `path`; blocks that are missing on the way are made."""
    if not path:
        return value
    if isinstance(tree, list):
        return [replaced(old, path[1:], value) if index == path[0] else old for index, old in enumerate(tree)]
    block = tree if isinstance(tree, dict) else {}
    return {**block, path[0]: replaced(block.get(path[0]), path[1:], value)}
