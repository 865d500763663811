"""Where a refresh token is kept between its uses: each use may end it, so only the newest is of any worth."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol

from gatepass.cancel import timeout
from gatepass.clock import Clock, sleep
from gatepass.config.references import UnresolvedReference, read_file
from gatepass.tokens.failure import BUSY, FetchFailure
from gatepass.tokens.sources.file import WatchedFile
from gatepass.types import Secret

_MARKS = 10_000


class Handwriting:
    """Notices it, so that a refused credential is tried again at once.

    What gatepass writes there itself, in this process or another, is no news: each use would lead to the next.
    """

    def __init__(self, path: str, wall: Callable[[], float]) -> None:
        self._file = WatchedFile(path, wall)
        self._last: str | None = None
        self._count = 0

    def mark(self) -> Secret:
        """How often it has been found: a text that is another one after each time, and too short to be masked."""
        return Secret(lambda: str(self._found() % _MARKS))

    def _found(self) -> int:
        with suppress(FetchFailure):
            text = self._file.read().text.strip()
            is_bare = bool(text) and not text.startswith("{")
            self._count += is_bare and text != self._last
            self._last = text if is_bare else None
        return self._count


LOOK_AGAIN_S = 0.05
"""Between two looks at a lock that another process holds."""


class Keepsake(Protocol):
    """Keeps one short text for one credential, for all who use it. Every failure is a FetchFailure."""

    @property
    def lasts(self) -> bool:
        """Whether the text is still there after a restart."""
        ...

    def turn(self, within_s: float) -> AbstractAsyncContextManager[None]:
        """Keeps everybody else out from the look at the text until what replaces it is kept.

        Two uses of one refresh token look like a theft, which ends the whole family of tokens
        (RFC 9700 4.14.2). Fails where the turn does not come within `within_s` seconds.
        """
        ...

    async def get(self) -> str | None:
        """The text that was put last; None where there is none."""
        ...

    async def put(self, text: str) -> None:
        """Keeps `text` in the place of what was there; when this returns, it is kept."""
        ...


class MemoryKeepsake:
    """Keeps it in this process: lost at a restart, and unknown to other processes."""

    lasts = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = asyncio.Lock()
        self._text: str | None = None

    @asynccontextmanager
    async def turn(self, within_s: float) -> AsyncIterator[None]:
        await timeout(self._clock, within_s, self._lock.acquire(), FetchFailure(BUSY, quick=False))
        try:
            yield
        finally:
            self._lock.release()

    async def get(self) -> str | None:
        return self._text

    async def put(self, text: str) -> None:
        self._text = text


class FileKeepsake:
    """Keeps it in a file of mode 0600, for all processes of this machine that name the same file.

    A reader sees the old text or the new one, never a half, and the new one survives a crash: it is on
    the disk before it takes the old one's place. The lock is a file beside it (`NAME.lock`), for the
    file itself is another one after each change; it ends with the process that holds it.
    """

    lasts = True

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    @asynccontextmanager
    async def turn(self, within_s: float) -> AsyncIterator[None]:
        by_s = self._clock.now() + within_s
        lock = _lock_of(self._path)
        try:
            while not _locked(lock):
                if self._clock.now() >= by_s:
                    raise FetchFailure(BUSY, quick=False)
                await sleep(self._clock, LOOK_AGAIN_S)
            yield
        finally:
            os.close(lock)

    async def get(self) -> str | None:
        try:
            os.stat(self._path)
            return read_file(self._path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failure("cannot be read", error) from None
        except UnresolvedReference as error:
            raise FetchFailure(f"refresh_token_file: {error}", quick=False) from None

    async def put(self, text: str) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(None, _replace, self._path, text)
        except OSError as error:
            raise _failure("cannot be written", error) from None


def _lock_of(path: str) -> int:
    try:
        return os.open(f"{os.path.realpath(path)}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _failure("cannot be locked", error) from None


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _failure("cannot be locked", error) from None
    return True


def _replace(path: str, text: str) -> None:
    """All of `text` or nothing of it stands at `path`: a rename is atomic. What a link points to is replaced."""
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    new = os.path.join(folder, f".{name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:  # not even a process that is told to end leaves half a file
        with suppress(FileNotFoundError):
            os.unlink(new)
        raise
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(place)  # makes a rename last (fsync(2), Notes)
    finally:
        os.close(place)


def _failure(what: str, error: OSError) -> FetchFailure:
    return FetchFailure(f"refresh_token_file {what}: {error.strerror}", quick=False)
