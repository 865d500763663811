"""A token that another program keeps fresh in a file, and the file, read again when it has changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from gatepass.clock import Clock
from gatepass.config.credential.kinds import FileCredential
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer_error import REPLY_BYTES
from gatepass.tokens.lifetime import Token
from gatepass.tokens.token_reply import (
    ReadTimes,
    TokenReplyFormat,
    looks_like_json,
    parse_token_document,
    parse_token_text,
)
from gatepass.types import Secret

SETTLED_S = 2.0
"""A file that is younger when it is read may change once more without another mark: file systems keep time
in steps of up to 2 s (FAT). It is read again the next time."""


@dataclass(frozen=True, slots=True)
class FileContent:
    """What stood in the file, and when it was written (its mtime, epoch seconds)."""

    text: str = field(repr=False)
    written_s: float


FileVersion = tuple[int, int, int, int, int]
"""By what a change is seen: device, inode, size, mtime and ctime in nanoseconds. A symbolic link that is
turned to another file, as Kubernetes does with projected volumes, changes the first two."""


class WatchedFile:
    """`wall` gives epoch seconds. A look at an unchanged file costs one stat call."""

    def __init__(self, path: str, wall: Callable[[], float]) -> None:
        self._path = path
        self._wall = wall
        self._mark: FileVersion | None = None
        self._last: FileContent | None = None
        self._changes = 0

    def __repr__(self) -> str:
        return f"WatchedFile({self._path})"

    def read(self) -> FileContent:
        """The file as it is now; raises FetchFailure, which names it, where it cannot be read."""
        try:
            if self._last is not None and self._mark == _version_of(os.stat(self._path)):
                return self._last
            return self._opened()
        except OSError as error:
            self._mark = None
            raise FetchFailure(f"the file {self._path} cannot be read: {error.strerror}", quick=False) from None

    def changes(self) -> int:
        """How often it has been seen to hold something new. While it is away, it holds what it held."""
        with suppress(FetchFailure):
            self.read()
        return self._changes

    def _opened(self) -> FileContent:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would take what it holds from others, or wait
                raise FetchFailure(f"{self._path} is no regular file", definite=True)
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(REPLY_BYTES + 1)
        finally:
            os.close(descriptor)
        if len(data) > REPLY_BYTES:
            raise FetchFailure(f"the file {self._path} is larger than {REPLY_BYTES} bytes: that is no token")
        written = FileContent(data.decode("utf-8-sig", "replace"), status.st_mtime_ns / 1e9)
        if self._last is None or self._last.text != written.text:
            self._changes += 1
        self._last = written
        self._mark = _version_of(status) if self._wall() - written.written_s > SETTLED_S else None
        return written


def _version_of(status: os.stat_result) -> FileVersion:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


_MAX_COUNT = 10_000


class FileSource:
    def __init__(self, name: str, settings: FileCredential, clock: Clock) -> None:
        self._name = name
        self._file = WatchedFile(settings.path, clock.wall)
        self._clock = clock
        self._terms = TokenReplyFormat(
            f"the file {settings.path}",
            settings.default_ttl_s,
            settings.max_ttl_s,
            settings.reply,
            plain_text=True,
            credential=name,
        )
        self._mark = Secret(lambda: str(self._file.changes() % _MAX_COUNT))

    def __repr__(self) -> str:
        return f"FileSource({self._name})"

    def secrets(self) -> tuple[Secret, ...]:
        """A count of the file's changes: it tells of a new token, stays while the file is away for a moment, and is too
        short to be masked. The tokens are learned as they are given out.
        """
        return (self._mark,)

    async def fetch(self) -> Token:
        """The token as it stands there now; raises FetchFailure where there is none, or it has expired."""
        requested_s, written = self._clock.now(), self._file.read()
        at_s = ReadTimes(self._clock.wall(), written.written_s)
        if looks_like_json(written.text) or self._terms.paths.token is not None:
            return parse_token_document(written.text, self._terms, at_s, str).token(requested_s)
        return parse_token_text(written.text, self._terms.issuer, at_s).token(requested_s)
