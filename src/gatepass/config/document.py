"""A configuration as it was written: its tree, and the line of each value."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from gatepass.config.problem import ConfigError, Origin, Path, Problem

LARGEST_BYTES = 1024 * 1024
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


def read_document(name: str) -> Document:
    """The file `name`, by its suffix; raises ConfigError where it cannot be read or parsed."""
    text = _text(name)
    match FilePath(name).suffix.lower():
        case ".yaml" | ".yml":
            from gatepass.config.yaml_file import parse_yaml

            document = parse_yaml(name, text)
        case ".json":
            from gatepass.config.json_file import parse_json

            document = parse_json(name, text)
        case _:
            raise _unusable(name, "expects a name that ends in .yaml, .yml or .json")
    if not isinstance(document.tree, dict):
        raise _unusable(name, "expects settings, as `name: value`")
    return document


def _text(name: str) -> str:
    try:
        with FilePath(name).open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        reason = "does not exist" if error.errno == errno.ENOENT else f"cannot be read: {error.strerror}"
        raise _unusable(name, reason) from None
    if len(data) > LARGEST_BYTES:
        raise _unusable(name, f"is larger than {LARGEST_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _unusable(name, "is not UTF-8 text") from None


def _unusable(name: str, text: str) -> ConfigError:
    return ConfigError([Problem((), text, Origin(name))])
