"""A configuration as it was written: a plain tree, where each of its values stands, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

SettingPath = tuple[str | int, ...]
"""A way into the tree of a configuration: `("access", "keys", 0, "name")`."""


def dotted(path: SettingPath) -> str:
    """`access.keys[0].name`: the form in which people name a setting."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


@dataclass(frozen=True, slots=True, order=True)
class ValueOrigin:
    """Where a value came from: a line of a file, a variable of the environment, a flag."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One fault. `text` says what is wrong and what to do, and never quotes a referenced value."""

    path: SettingPath
    text: str
    origin: ValueOrigin

    def __str__(self) -> str:
        place = f"{self.origin}: {dotted(self.path)}" if self.path else str(self.origin)
        return f"{place}: {self.text}"


class ConfigError(Exception):
    """A configuration that cannot be used: every fault at once, in the order of the file."""

    def __init__(self, problems: Iterable[ConfigProblem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.origin))
        super().__init__("\n".join(str(problem) for problem in self.problems))


DEEPEST = 64
"""Levels of nesting."""
MOST_VALUES = 20_000
"""Values of one file, each use of an alias counted anew: this is what ends a billion laughs."""


@dataclass(slots=True)
class ConfigDocument:
    """A tree that its reader fills value by value. `problems` and `warnings` gather what is found on the way.

    `origins` is the only record of lines and variables: values carry none, and who reports a fault looks it up.
    """

    source: str
    tree: Any = field(default_factory=dict)
    origins: dict[SettingPath, ValueOrigin] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def origin(self, path: SettingPath) -> ValueOrigin:
        """Where the value at `path` came from; for one that is missing, where its block stands."""
        for length in range(len(path), -1, -1):
            found = self.origins.get(path[:length])
            if found is not None:
                return found
        return ValueOrigin(self.source)

    def put(self, path: SettingPath, value: Any, origin: str) -> None:
        """Set the value at `path`, which came from `origin`."""
        self.tree = with_value(self.tree, path, value)
        self.origins[path] = ValueOrigin(origin)

    def add_problem(self, path: SettingPath, text: str) -> None:
        """Note a fault of the value at `path`."""
        self.problems.append(ConfigProblem(path, text, self.origin(path)))

    def refuse_all(self, found: Iterable[tuple[SettingPath, str]], known: Collection[SettingPath]) -> None:
        """Note each fault but those at places that are `known`: what follows from a fault is noise."""
        for path, text in found:
            if path not in known:
                self.add_problem(path, text)

    def note_line(self, path: SettingPath, line: int) -> None:
        """Note the line of the value at `path`; raises ConfigError beyond the bounds."""
        if len(path) > DEEPEST:
            raise self.fault(line, f"is nested deeper than {DEEPEST} levels")
        if len(self.origins) >= MOST_VALUES:
            raise self.fault(line, f"holds more than {MOST_VALUES} values (each use of an alias counts)")
        self.origins.setdefault(path, ValueOrigin(self.source, line))

    def duplicate_key(self, path: SettingPath, line: int) -> None:
        text = f"is written twice (first in line {self.origins[path].line}): keep one"
        self.problems.append(ConfigProblem(path, text, ValueOrigin(self.source, line)))

    def fault(self, line: int, text: str) -> ConfigError:
        return ConfigError([ConfigProblem((), text, ValueOrigin(self.source, line))])


SettingPattern = tuple[str, ...]
"""A path in which `*` stands for any name or index: `("upstreams", "*", "base_url")`."""


def children(node: Any) -> Iterator[tuple[str | int, Any]]:
    """The members of a dict or list; a leaf has none."""
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, list):
        yield from enumerate(node)


def matches(tree: Any, pattern: SettingPattern, prefix: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    """Every place of `tree` that `pattern` names, with its value; none where shapes differ."""
    if not pattern:
        yield prefix, tree
        return
    for key, value in children(tree):
        if pattern[0] in ("*", key):
            yield from matches(value, pattern[1:], (*prefix, key))


def leaves(tree: Any, prefix: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    """Every value that is neither a dict nor a list, with its path."""
    if not isinstance(tree, dict | list):
        yield prefix, tree
        return
    for key, value in children(tree):
        yield from leaves(value, (*prefix, key))


def lookup(tree: Any, path: SettingPath) -> Any:
    """The value at `path`, or None where there is nothing."""
    for key in path:
        tree = dict(children(tree)).get(key)
    return tree


def with_value(tree: Any, path: SettingPath, value: Any) -> Any:
    """A copy of `tree` with `value` at `path`; blocks that are missing on the way are made."""
    if not path:
        return value
    if isinstance(tree, list):
        return [with_value(old, path[1:], value) if index == path[0] else old for index, old in enumerate(tree)]
    block = tree if isinstance(tree, dict) else {}
    return {**block, path[0]: with_value(block.get(path[0]), path[1:], value)}
