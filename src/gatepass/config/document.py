"""A configuration as it was written: a plain tree, where each of its values stands, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str | int, ...]
"""A way into the tree of a configuration: `("access", "keys", 0, "name")`."""


def dotted(path: Path) -> str:
    """`access.keys[0].name`: the form in which people name a setting."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Where a value came from: a line of a file, a variable of the environment, a flag."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault. `text` says what is wrong and what to do, and never quotes a referenced value."""

    path: Path
    text: str
    origin: Origin

    def __str__(self) -> str:
        place = f"{self.origin}: {dotted(self.path)}" if self.path else str(self.origin)
        return f"{place}: {self.text}"


class ConfigError(Exception):
    """A configuration that cannot be used: every fault at once, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.origin))
        super().__init__("\n".join(str(problem) for problem in self.problems))


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
