"""The store of the workers of one supervisor: a folder that only their user may enter.

Each name has one file. A writer replaces the whole file, so readers need no lock. Writers share one lock.
"""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from gatepass.clock import Clock, sleep
from gatepass.store.base import StoreReading, StoreScope, StoreUnavailable

FILE_MODE = 0o600
LOCK_RETRY_S = 0.005
"""Interval between two tries to take the lock. A writer holds it for microseconds, unless its process is stopped."""
_VALUE, _COUNTER, _LEASE = "value-", "counter-", "lease-"


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """The content of one file: a line with `until_s`, then the content."""

    until_s: float
    content: bytes = field(repr=False)

    @classmethod
    def of(cls, data: bytes) -> FolderEntry:
        """Parse a file. A malformed file becomes an entry that has expired."""
        until, _, content = data.partition(b"\n")
        try:
            return cls(float(until), content)
        except ValueError:
            return cls(-math.inf, b"")

    def __bytes__(self) -> bytes:
        return f"{self.until_s!r}\n".encode() + self.content


class FolderStore:
    """A Store in `folder` with mode 0700. All processes of a machine have the same `clock.now()`."""

    scope = StoreScope.MACHINE

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock

    async def get(self, names: Collection[str]) -> StoreReading:
        now = self._clock.now()
        with _as_unavailable():
            found = {name: entry.content for name in names if (entry := self._read(_VALUE, name, now)) is not None}
        return StoreReading(found, now, now, now)

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        async with self._locked() as now:
            for kind in (_VALUE, _COUNTER, _LEASE):  # remove expired names too, such as those of a replaced secret
                for path in self._folder.glob(f"{kind}*"):
                    if now >= FolderEntry.of(path.read_bytes()).until_s:
                        path.unlink()
            self._write(_VALUE, name, FolderEntry(now + ttl_s, value))

    async def drop(self, name: str) -> None:
        async with self._locked():
            for kind in (_VALUE, _COUNTER):
                self._path(kind, name).unlink(missing_ok=True)

    async def count(self, name: str, ttl_s: float) -> int:
        async with self._locked() as now:
            before = self._read(_COUNTER, name, now) or FolderEntry(now + ttl_s, b"0")
            count = int(before.content) + 1
            self._write(_COUNTER, name, FolderEntry(before.until_s, str(count).encode()))
            return count

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        async with self._locked() as now:
            held = self._read(_LEASE, name, now)
            if held is not None and held.content != owner.encode():
                return False
            self._write(_LEASE, name, FolderEntry(now + ttl_s, owner.encode()))
            return True

    async def release(self, name: str, owner: str) -> None:
        async with self._locked() as now:
            held = self._read(_LEASE, name, now)
            if held is not None and held.content == owner.encode():
                self._path(_LEASE, name).unlink()

    async def aclose(self) -> None:
        """Do nothing: no file stays open, and the supervisor removes the folder."""

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[float]:
        """Hold the lock of the writers, and yield the time at which it was taken."""
        with _as_unavailable():
            async with file_lock(self._folder / "lock", self._clock, LOCK_RETRY_S):
                yield self._clock.now()

    def _path(self, kind: str, name: str) -> Path:
        return self._folder / (kind + quote(name, safe=""))  # a name contains slashes

    def _read(self, kind: str, name: str, now: float) -> FolderEntry | None:
        try:
            entry = FolderEntry.of(self._path(kind, name).read_bytes())
        except FileNotFoundError:
            return None
        return entry if now < entry.until_s else None

    def _write(self, kind: str, name: str, entry: FolderEntry) -> None:
        new = self._folder / "new"  # a part that a dead writer left is overwritten
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "wb") as file:
            file.write(bytes(entry))
        new.replace(self._path(kind, name))


@asynccontextmanager
async def file_lock(path: Path | str, clock: Clock, interval_s: float) -> AsyncIterator[None]:
    """Create the file `path`, and hold an exclusive lock on it. Try to take it every `interval_s`."""
    # O_CLOEXEC: a child process with the descriptor would keep the lock (flock(2))
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        while True:
            with suppress(BlockingIOError):
                # the kernel releases a flock when the process dies
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            # without a thread that waits in the kernel: it could not be cancelled
            await sleep(clock, interval_s)
        yield
    finally:
        os.close(lock)


@contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"the folder that the workers share: {error.strerror}") from error
