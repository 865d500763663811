"""A configuration as it was written: a plain tree of dicts, lists and leaves, and the line of each value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gatepass.config.problem import ConfigError, Origin, Path, Problem

DEEPEST = 64
"""Levels of nesting."""
MOST_VALUES = 20_000
"""Values of one file, each use of an alias counted anew: this is what ends a billion laughs."""


@dataclass(frozen=True, slots=True)
class Document:
    """`problems` are those of the writing itself (duplicate keys), found on the way."""

    source: str
    tree: Any
    origins: Mapping[Path, Origin]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    def origin(self, path: Path) -> Origin:
        """Where the value at `path` came from; for one that is missing, where its block stands."""
        for length in range(len(path), -1, -1):
            found = self.origins.get(path[:length])
            if found is not None:
                return found
        return Origin(self.source)


class Builder:
    """Gathers a Document value by value; refuses what is too deep, too much or said twice."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._origins: dict[Path, Origin] = {}
        self._problems: list[Problem] = []
        self._count = 0

    def seen(self, path: Path, line: int) -> None:
        """Note the line of the value at `path`; raises ConfigError beyond the bounds."""
        self._count += 1
        if len(path) > DEEPEST:
            raise self.fault(line, f"is nested deeper than {DEEPEST} levels")
        if self._count > MOST_VALUES:
            raise self.fault(line, f"holds more than {MOST_VALUES} values (each use of an alias counts)")
        self._origins.setdefault(path, Origin(self._source, line))

    def twice(self, path: Path, line: int) -> None:
        first = self._origins[path].line
        self._problems.append(
            Problem(path, f"is written twice (first in line {first}): keep one", Origin(self._source, line))
        )

    def fault(self, line: int, text: str) -> ConfigError:
        return ConfigError([Problem((), text, Origin(self._source, line))])

    def document(self, tree: Any) -> Document:
        return Document(self._source, tree, self._origins, tuple(self._problems))


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
