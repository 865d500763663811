"""What is wrong with a configuration, where it stands, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
