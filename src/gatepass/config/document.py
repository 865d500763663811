"""`ConfigDocument`: the plain tree of a configuration, the origin of each value, and the problems found so far."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

SettingPath = tuple[str | int, ...]
"""The path of a value in the tree: `("access", "keys", 0, "name")`."""
MOST_VALUES = 20_000
"""The most values of one file. 300 bytes with aliases of aliases may stand for millions of values."""


def dotted(path: SettingPath) -> str:
    """Return the path as text: `access.keys[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


@dataclass(frozen=True, slots=True, order=True)
class ValueOrigin:
    """The origin of a value: a line of a file, an environment variable, or a flag."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One problem. `text` states the fault and what to do, and never quotes a referenced value."""

    path: SettingPath
    text: str
    origin: ValueOrigin

    def __str__(self) -> str:
        place = f"{self.origin}: {dotted(self.path)}" if self.path else str(self.origin)
        return f"{place}: {self.text}"


class ConfigError(Exception):
    """An invalid configuration, with all problems in the order of the file, and the warnings found before them."""

    def __init__(self, problems: Iterable[ConfigProblem], warnings: Iterable[str] = ()) -> None:
        # The checks and pydantic find problems in another order than that of the file.
        self.problems = tuple(sorted(problems, key=lambda one: one.origin))
        self.warnings = tuple(warnings)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(slots=True)
class ConfigDocument:
    """The tree of one configuration, its problems and warnings.

    `origins` holds the line or variable of each value by its path; the values themselves hold none. `content` has the
    bytes of the file.
    """

    source: str
    tree: Any = field(default_factory=dict, repr=False)
    origins: dict[SettingPath, ValueOrigin] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    content: bytes = field(default=b"", repr=False)

    def origin(self, path: SettingPath) -> ValueOrigin:
        """Return the origin of the value at `path`; for a missing value the origin of its block."""
        for length in range(len(path), -1, -1):
            found = self.origins.get(path[:length])
            if found is not None:
                return found
        return ValueOrigin(self.source)

    def put(self, path: SettingPath, value: Any, origin: str) -> None:
        self.tree = with_value(self.tree, path, value)
        self.origins[path] = ValueOrigin(origin)

    def add_problem(self, path: SettingPath, text: str) -> None:
        self.problems.append(ConfigProblem(path, text, self.origin(path)))

    def refuse_all(self, found: Iterable[tuple[SettingPath, str]], known: Collection[SettingPath]) -> None:
        """Add each problem, except at paths that are `known` to have one: follow-up problems do not help."""
        for path, text in found:
            if path not in known:
                self.add_problem(path, text)

    def note_line(self, path: SettingPath, line: int) -> None:
        """Record the line of the value at `path`; raise ConfigError beyond MOST_VALUES."""
        if len(self.origins) >= MOST_VALUES:
            raise self.fault(line, f"holds more than {MOST_VALUES} values (each use of an alias counts)")
        # The first line of a duplicate name stays, because the problem names it.
        self.origins.setdefault(path, ValueOrigin(self.source, line))

    def fault(self, line: int, text: str) -> ConfigError:
        return ConfigError([ConfigProblem((), text, ValueOrigin(self.source, line))])


SettingPattern = tuple[str, ...]
"""A path in which `*` matches any name or index: `("upstreams", "*", "base_url")`."""


def children(node: Any) -> Iterator[tuple[str | int, Any]]:
    """Yield the members of a dict or list; nothing for a leaf."""
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, list | tuple):
        yield from enumerate(node)


def matches(tree: Any, pattern: SettingPattern, prefix: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    """Yield the path and value of each match of `pattern` in `tree`."""
    if not pattern:
        yield prefix, tree
        return
    for key, value in children(tree):
        if pattern[0] in ("*", key):
            yield from matches(value, pattern[1:], (*prefix, key))


def leaves(tree: Any, prefix: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    """Yield each value that has no members, with its path: empty blocks and lists too."""
    if not (isinstance(tree, Mapping | list | tuple) and tree):
        yield prefix, tree
        return
    for key, value in children(tree):
        yield from leaves(value, (*prefix, key))


def with_leaves(tree: Any, convert: Callable[[Any], Any]) -> Any:
    """Return a copy of `tree` with `convert` applied to each value that is neither a mapping nor a list."""
    if isinstance(tree, Mapping):
        return {key: with_leaves(value, convert) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [with_leaves(value, convert) for value in tree]
    return convert(tree)


def lookup(tree: Any, path: SettingPath) -> Any:
    for key in path:
        if isinstance(tree, Mapping):
            tree = tree.get(key)
        elif isinstance(tree, list | tuple) and isinstance(key, int) and 0 <= key < len(tree):
            tree = tree[key]
        else:
            return None
    return tree


def with_value(tree: Any, path: SettingPath, value: Any) -> Any:
    """Return a copy of `tree` with `value` at `path`; missing blocks are created."""
    if not path:
        return value
    if isinstance(tree, list):
        return [with_value(old, path[1:], value) if index == path[0] else old for index, old in enumerate(tree)]
    block = tree if isinstance(tree, dict) else {}
    return {**block, path[0]: with_value(block.get(path[0]), path[1:], value)}
