"""References (`${NAME}`, `${file:/path}`, `$$`) in a configuration, and the names of the GATEPASS_ variables.

References are resolved after parsing and only in strings, so that a value cannot change the structure of the file.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from gatepass.config.document import SettingPath

_PIECE = re.compile(r"\$(?:\$|\{(?P<name>[^}]*)\})")
LARGEST_BYTES = 64 * 1024
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_UPPER_NAME = re.compile(r"[A-Z][A-Z0-9_]*\Z")


class UnresolvedReference(ValueError):
    """A reference that cannot be resolved. The text names the reference and the reason."""


@dataclass(frozen=True, slots=True)
class ReferenceSource:
    """The source of one `${…}`: `kind` is `environment` or `file`, `name` is the variable or the path."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Reference(str):
    """A string of the configuration with at least one reference. Its repr hides the value.

    The `str` is the value at load. `read()` resolves the files again, because secrets rotate.
    """

    template: str
    sources: tuple[ReferenceSource, ...]
    read: Callable[[], str]

    def __new__(cls, template: str, sources: tuple[ReferenceSource, ...], read: Callable[[], str]) -> Self:
        # Read at once, so that an unreadable file is reported at the start.
        self = super().__new__(cls, read())
        self.template, self.sources, self.read = template, sources, read
        return self

    @classmethod
    def to_variable(cls, name: str, value: str) -> Self:
        """Return a reference to a variable; references inside `value` are not resolved."""
        return cls(f"${{{name}}}", (ReferenceSource("environment", name),), lambda: value)

    @classmethod
    def to_file(cls, path: str, pick: Callable[[str], str] = str) -> Self:
        """Return a reference to the file at `path`. `pick` takes the value from its text at each read."""
        return cls(f"${{file:{path}}}", (ReferenceSource("file", path),), lambda: pick(read_file(path)))

    @property
    def changes(self) -> bool:
        """Whether `read()` may return another value later. Only files change while the process runs."""
        return any(source.kind == "file" for source in self.sources)

    def __repr__(self) -> str:
        return f"Reference({self.template})"


def resolve(text: str, environment: Mapping[str, str]) -> str:
    """Return `text` with its references resolved: a Reference if it has any, else a `str`.

    Raises UnresolvedReference for an unset variable, an unreadable file, and a malformed or unclosed `${`.
    """
    if "$" not in text:
        return text
    names = [piece["name"] for piece in _PIECE.finditer(text) if piece["name"] is not None]
    sources: list[ReferenceSource] = []
    for name in names:
        if not (is_file := name.startswith("file:")) and not _ENV_NAME.match(name):
            raise UnresolvedReference("${…} holds neither the NAME of an environment variable nor file:/path")
        if not is_file and name not in environment:
            hint = "set it, or write $$ for a plain dollar"
            raise UnresolvedReference(f"the environment variable {name} is not set: {hint}")
        sources.append(ReferenceSource("file" if is_file else "environment", name.removeprefix("file:")))
    if "${" in _PIECE.sub("", text):
        raise UnresolvedReference("opens ${ and does not close it: write $$ for a plain dollar")
    if not sources:
        return _PIECE.sub("$", text)

    def value(piece: re.Match[str]) -> str:
        name: str | None = piece["name"]
        if name is None:
            return "$"
        return read_file(name.removeprefix("file:")) if name.startswith("file:") else environment[name]

    return Reference(text, tuple(sources), lambda: _PIECE.sub(value, text))


def without_braces(text: str, environment: Mapping[str, str]) -> str | None:
    """Return NAME if `text` is `$NAME`, most likely a reference without its braces. Else return None."""
    name = text.removeprefix("$")
    if name == text or not _ENV_NAME.match(name):
        return None
    # `$ecret` is a password, and the warning prints the name
    return name if _UPPER_NAME.match(name) or name in environment else None


def open_regular(path: str) -> BinaryIO:
    """Open a regular file. Raises OSError, also for a pipe, and ValueError for a NUL in `path`.

    A pipe without a writer would block the event loop: gatepass reads such files again while it serves.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115 - returned
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return file


def replace_file(path: str | Path, text: str, *, mode: int = 0o600) -> None:
    """Replace or create the file, so that a reader sees the old text or the new one, also after a crash.

    The target of a symbolic link is replaced. The file gets `mode` without the bits of the umask. Raises OSError; the
    old file is then unchanged, and no other file remains.
    """
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    new = os.path.join(folder, f".{name}.{secrets.token_hex(8)}")
    try:
        # O_EXCL opens no link that another user put there (open(2))
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(text.encode())
            file.flush()
            # Without it, a crash after the rename could leave an empty file (fsync(2)).
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:  # a process that is terminated leaves no partial file either
        with suppress(FileNotFoundError):  # the open may have failed
            os.unlink(new)
        raise
    folder_descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder_descriptor)  # makes the rename durable (fsync(2), Notes)
    finally:
        os.close(folder_descriptor)


def read_file(path: str) -> str:
    """Return the text of a file with a secret, without the newlines that editors add at the end."""
    try:
        with open_regular(path) as file:
            # one byte more, to notice a larger file
            data = file.read(LARGEST_BYTES + 1)
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UnresolvedReference(f"the file {path} is not UTF-8 text") from None
    except OSError as error:
        raise UnresolvedReference(f"the file {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UnresolvedReference(f"the file {path} cannot be read: a NUL in its name") from None
    if len(data) > LARGEST_BYTES:
        raise UnresolvedReference(f"the file {path} is larger than {LARGEST_BYTES} bytes: that is not a secret")
    return text.rstrip("\r\n")


PREFIX = "GATEPASS_"

VARIABLES_BY_TYPE: Mapping[str, Mapping[str, SettingPath]] = {
    "oauth2": {name.upper(): (name,) for name in ("token_url", "client_id", "client_secret", "client_auth", "scope")},
    "http_json": {
        "TOKEN_URL": ("url",),
        "TOKEN_JSON": ("json",),
        "TOKEN_PATH": ("reply", "token"),
        "EXPIRES_PATH": ("reply", "expiry"),
        "EXPIRES_UNIT": ("reply", "unit"),
    },
    "static": {"TOKEN": ("token",)},
}
SECRET_VARIABLES = ("CLIENT_SECRET", "TOKEN", "TOKEN_JSON", "KEYS")
"""Variables that also exist as …_FILE."""
_SERVICE_LINK = r"SERVICE_(HOST|PORT).*|PORT_[0-9]+_(TCP|UDP|SCTP).*|NAME|ENV_.*"


def own_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the GATEPASS_ variables that are set and not empty, without their prefix.

    Kubernetes and Docker set variables such as GATEPASS_PORT=tcp://… next to a service named `gatepass`. These are
    ignored, because they must not prevent a start.
    """
    found = {name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX)}
    return {
        name: value
        for name, value in found.items()
        if value and not re.fullmatch(_SERVICE_LINK, name) and not (name == "PORT" and "://" in value)
    }
