"""`${NAME}`, `${file:/path}` and `$$` in the strings of a configuration.

They are resolved after parsing, in string values only, so that no value can become structure.

The GATEPASS_ variables: their names, what each belongs to, and how a value is had from them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Self

from gatepass.config.document import SettingPath

_PIECE = re.compile(r"\$(?:\$|\{(?P<name>[^}]*)\})")
LARGEST_BYTES = 64 * 1024
"""Of one mounted secret."""
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_UPPER_NAME = re.compile(r"[A-Z][A-Z0-9_]*\Z")


class UnresolvedReference(ValueError):
    """A reference that cannot be resolved; the text says which and why."""


@dataclass(frozen=True, slots=True)
class ReferenceSource:
    """One `${…}`: an environment variable, or a file that is read again when it changes."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Reference(str):
    """A string of the configuration that came from somewhere else.

    As a `str` it is the value at the time of loading. `read()` resolves its files again, which is
    how a rotated secret arrives without a restart. It hides its value when it is printed.
    """

    template: str
    places: tuple[ReferenceSource, ...]
    read: Callable[[], str]

    def __new__(cls, template: str, places: tuple[ReferenceSource, ...], read: Callable[[], str]) -> Self:
        self = super().__new__(cls, read())
        self.template, self.places, self.read = template, places, read
        return self

    @classmethod
    def to_variable(cls, name: str, value: str) -> Self:
        """The environment's variable `name`, whose value is taken as it stands."""
        return cls(f"${{{name}}}", (ReferenceSource("environment", name),), lambda: value)

    @classmethod
    def to_file(cls, path: str, pick: Callable[[str], str] = str) -> Self:
        """What `pick` takes out of the text of the file at `path`, each time anew."""
        return cls(f"${{file:{path}}}", (ReferenceSource("file", path),), lambda: pick(read_file(path)))

    @property
    def changes(self) -> bool:
        """Whether `read()` may give something else while this process runs: a variable stays as it was."""
        return any(place.kind == "file" for place in self.places)

    def __repr__(self) -> str:
        return f"Reference({self.template})"


def resolve(text: str, environment: Mapping[str, str]) -> str:
    """`text` itself where it holds no `$`, else what it stands for (a Reference where it names a place).

    Raises UnresolvedReference for an unset variable, an unreadable file, a malformed or open `${`.
    """
    if "$" not in text:
        return text
    names = [piece["name"] for piece in _PIECE.finditer(text) if piece["name"] is not None]
    places = [_place(name, environment) for name in names]
    leftover = _PIECE.sub("", text)
    if "${" in leftover:
        raise UnresolvedReference("opens ${ and does not close it: write $$ for a plain dollar")
    if not places:
        return _PIECE.sub("$", text)

    def value(piece: re.Match[str]) -> str:
        name: str | None = piece["name"]
        if name is None:
            return "$"
        return read_file(name.removeprefix("file:")) if name.startswith("file:") else environment[name]

    return Reference(text, tuple(places), lambda: _PIECE.sub(value, text))


def without_braces(text: str, environment: Mapping[str, str]) -> str | None:
    """NAME where the whole of `text` is `$NAME`, which is no reference and was most likely meant as one.

    Capitals only, unless a variable is called so: `$ecret` is a password, and a hint would print it.
    """
    name = text.removeprefix("$")
    if name == text or not _ENV_NAME.match(name):
        return None
    return name if _UPPER_NAME.match(name) or name in environment else None


def _place(name: str, environment: Mapping[str, str]) -> ReferenceSource:
    if name.startswith("file:"):
        return ReferenceSource("file", name.removeprefix("file:"))
    if not _ENV_NAME.match(name):
        raise UnresolvedReference("${…} holds neither the NAME of an environment variable nor file:/path")
    if name not in environment:
        raise UnresolvedReference(f"the environment variable {name} is not set: set it, or write $$ for a plain dollar")
    return ReferenceSource("environment", name)


def read_file(path: str) -> str:
    """The text of a mounted secret, without the newline that editors leave at its end."""
    try:
        with FilePath(path).open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UnresolvedReference(f"the file {path} is not UTF-8 text") from None
    except OSError as error:
        raise UnresolvedReference(f"the file {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UnresolvedReference(f"the file {path} cannot be read: a NUL in its name") from None
    if len(data) > LARGEST_BYTES:
        raise UnresolvedReference(f"the file {path} is larger than {LARGEST_BYTES} bytes: that is no secret")
    return text.rstrip("\r\n")


PREFIX = "GATEPASS_"

SHARED = (
    "UPSTREAM_URL",
    "EMBEDDINGS_URL",
    "TOKEN_TYPE",
    "KEYS",
    "KEY_HASHES",
    "PROFILE",
    "CA_FILE",
    "PROXY",
    "HOST",
    "PORT",
)
OF_TYPE: Mapping[str, Mapping[str, SettingPath]] = {
    "oauth2": {
        "TOKEN_URL": ("token_url",),
        "ISSUER": ("issuer",),
        "CLIENT_ID": ("client_id",),
        "CLIENT_SECRET": ("client_secret",),
        "SCOPE": ("scope",),
    },
    "http_json": {
        "TOKEN_URL": ("url",),
        "TOKEN_JSON": ("json",),
        "TOKEN_PATH": ("reply", "token"),
        "EXPIRES_PATH": ("reply", "expires_in"),
        "EXPIRES_UNIT": ("reply", "unit"),
    },
    "static": {"TOKEN": ("token",)},
}
"""The variables of each type of credential, and where they go in its block."""
REQUIRED = frozenset(("TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET", "TOKEN"))
SECRETS = ("CLIENT_SECRET", "TOKEN", "TOKEN_JSON", "KEYS")
"""Each also as …_FILE."""
TELLING = {"TOKEN": "static", "TOKEN_JSON": "http_json", "CLIENT_ID": "oauth2"}
"""Variables that only one type has: they tell which it is."""

OF_TOKENS = tuple(dict.fromkeys(name for names in OF_TYPE.values() for name in names))
NAMES = frozenset((*SHARED, *OF_TOKENS, *(f"{name}_FILE" for name in SECRETS)))
"""Every variable of a configuration without a file, without its prefix; GATEPASS_CONFIG stands beside them."""
ASKING = "KEY"
"""What `gatepass learned` shows a running gatepass: a shell may hold it for all commands."""

_SERVICE_LINK = re.compile(r"SERVICE_(HOST|PORT).*|PORT_[0-9]+_(TCP|UDP|SCTP).*|NAME|ENV_.*")
_MOMENT = re.compile(r"(^exp|expires?(at|on|time|date)|expir(ation|y)(at|on|time|date)?|until)$")


def own_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The GATEPASS_ variables that are set and not empty, without their prefix.

    A service called `gatepass` makes Kubernetes (and Docker's old links) put GATEPASS_PORT=tcp://… and
    its kin into every container beside it: they say nothing to us, and must stop nobody's start.
    """
    found = {name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX)}
    return {
        name: value
        for name, value in found.items()
        if value and not _SERVICE_LINK.fullmatch(name) and not (name == "PORT" and "://" in value)
    }


def is_moment(path: str) -> bool:
    """Whether the last name of a dotted path tells a moment (`data.expireAt`) rather than a life (`expires_in`).

    Moments: `exp`, and names that end in expires_on, expires_at, expiration, expire_time, expiry, until
    and the like, whatever their case and underscores: the absolute ones among the names that issuers use.
    """
    last = path.rpartition(".")[2]
    return bool(_MOMENT.search(re.sub(r"[_-]", "", last).lower()))


@dataclass(frozen=True, slots=True)
class VariableValue:
    """A value and the variable that gave it. A secret's value is a Reference; `fault` says why it has none."""

    name: str
    value: str
    file: str | None = None
    fault: str | None = None


def variable_value(values: Mapping[str, str], name: str) -> VariableValue | None:
    """The value of the variable `name`, or of the file that `…_FILE` names in its place."""
    if name in SECRETS and (file := values.get(f"{name}_FILE")):
        try:
            return VariableValue(f"{name}_FILE", Reference.to_file(file), file)
        except UnresolvedReference as error:
            return VariableValue(f"{name}_FILE", "", file, str(error))
    value = values.get(name)
    if value is None:
        return None
    return VariableValue(name, Reference.to_variable(f"{PREFIX}{name}", value) if name in SECRETS else value)
