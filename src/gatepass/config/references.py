"""`${NAME}`, `${file:/path}` and `$$` in the strings of a configuration.

They are resolved after parsing, in string values only, so that no value can become structure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PIECE = re.compile(r"\$(?:\$|\{(?P<name>[^}]*)\})")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class UnresolvedReference(ValueError):
    """A reference that cannot be resolved; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Place:
    """One `${…}`: an environment variable, or a file that is read again when it changes."""

    kind: str
    name: str


class Reference(str):
    """A string of the configuration that came from somewhere else.

    As a `str` it is the value at the time of loading. `read()` resolves its files again, which is
    how a rotated secret arrives without a restart. It hides its value when it is printed.
    """

    template: str
    places: tuple[Place, ...]
    read: Callable[[], str]

    def __new__(cls, template: str, places: tuple[Place, ...], read: Callable[[], str]) -> Self:
        self = super().__new__(cls, read())
        self.template, self.places, self.read = template, places, read
        return self

    def __repr__(self) -> str:
        return f"Reference({self.template})"


def resolve(text: str, environment: Mapping[str, str]) -> str:
    """`text` itself where it holds no `$`, else what it stands for (a Reference where it names a place).

    Raises UnresolvedReference for an unset variable, an unreadable file, a malformed or open `${`.
    """
    if "$" not in text:
        return text
    names = [piece["name"] for piece in _PIECE.finditer(text) if piece["name"] is not None]
    places = [_place(name, text, environment) for name in names]
    leftover = _PIECE.sub("", text)
    if "${" in leftover:
        raise UnresolvedReference(f"{text!r} opens ${{ and does not close it; $$ is a plain dollar")
    if not places:
        return _PIECE.sub("$", text)

    def read() -> str:
        return _PIECE.sub(lambda piece: _value(piece["name"], environment), text)

    return Reference(text, tuple(places), read)


def _place(name: str, text: str, environment: Mapping[str, str]) -> Place:
    if name.startswith("file:"):
        return Place("file", name.removeprefix("file:"))
    if not _ENV_NAME.match(name):
        raise UnresolvedReference(f"{text!r}: ${{{name}}} is neither ${{NAME}} nor ${{file:/path}}")
    if name not in environment:
        raise UnresolvedReference(f"the environment variable {name} is not set")
    return Place("environment", name)


def _value(name: str | None, environment: Mapping[str, str]) -> str:
    if name is None:
        return "$"
    if name.startswith("file:"):
        return read_file(name.removeprefix("file:"))
    return environment[name]


def read_file(path: str) -> str:
    """The text of a mounted secret, without the newline that editors leave at its end."""
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise UnresolvedReference(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise UnresolvedReference(f"{path} cannot be read: {error.strerror}") from None
