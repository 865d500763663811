"""The refresh token of one credential: each use may end it and give a new one, which is kept before anything else.

Where a refresh token is kept between its uses: each use may end it, so only the newest is of any worth.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from gatepass.cancel import timeout
from gatepass.clock import Clock, sleep
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.references import UnresolvedReference, read_file
from gatepass.tokens.failure import BUSY, FetchFailure
from gatepass.tokens.issuer_error import NotJson, TokenResponse, parse_json_object
from gatepass.tokens.secrets import account_fingerprint, refresh_token_fingerprint, revealed
from gatepass.tokens.sources.client_auth import INVALID_GRANT_CODES, Fields, code_of, new_login_advice
from gatepass.tokens.sources.file import WatchedFile
from gatepass.tokens.token_endpoint import TimedTokenResponse
from gatepass.tokens.token_reply import ENVELOPES
from gatepass.types import Secret

_MAX_COUNT = 10_000


class RefreshTokenFileWatch:
    """Notices it, so that a refused credential is tried again at once.

    What gatepass writes there itself, in this process or another, is no news: each use would lead to the next.
    """

    def __init__(self, path: str, wall: Callable[[], float]) -> None:
        self._file = WatchedFile(path, wall)
        self._last: str | None = None
        self._count = 0

    def mark(self) -> Secret:
        """How often it has been found: a text that is another one after each time, and too short to be masked."""
        return Secret(lambda: str(self._found() % _MAX_COUNT))

    def _found(self) -> int:
        with suppress(FetchFailure):
            text = self._file.read().text.strip()
            is_bare = bool(text) and not text.startswith("{")
            self._count += is_bare and text != self._last
            self._last = text if is_bare else None
        return self._count


LOCK_POLL_S = 0.05
"""Between two looks at a lock that another process holds."""


class RefreshTokenStore(Protocol):
    """Keeps one short text for one credential, for all who use it. Every failure is a FetchFailure."""

    @property
    def is_persistent(self) -> bool:
        """Whether the text is still there after a restart."""
        ...

    def exclusive(self, within_s: float) -> AbstractAsyncContextManager[None]:
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


class MemoryRefreshTokenStore:
    """Keeps it in this process: lost at a restart, and unknown to other processes."""

    is_persistent = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = asyncio.Lock()
        self._text: str | None = None

    @asynccontextmanager
    async def exclusive(self, within_s: float) -> AsyncIterator[None]:
        await timeout(self._clock, within_s, self._lock.acquire(), FetchFailure(BUSY, quick=False))
        try:
            yield
        finally:
            self._lock.release()

    async def get(self) -> str | None:
        return self._text

    async def put(self, text: str) -> None:
        self._text = text


class FileRefreshTokenStore:
    """Keeps it in a file of mode 0600, for all processes of this machine that name the same file.

    A reader sees the old text or the new one, never a half, and the new one survives a crash: it is on
    the disk before it takes the old one's place. The lock is a file beside it (`NAME.lock`), for the
    file itself is another one after each change; it ends with the process that holds it.
    """

    is_persistent = True

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    @asynccontextmanager
    async def exclusive(self, within_s: float) -> AsyncIterator[None]:
        by_s = self._clock.now() + within_s
        lock = _lock_of(self._path)
        try:
            while not _try_lock(lock):
                if self._clock.now() >= by_s:
                    raise FetchFailure(BUSY, quick=False)
                await sleep(self._clock, LOCK_POLL_S)
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


def _try_lock(lock: int) -> bool:
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


T = TypeVar("T")

NAMES = ("refresh_token", "refreshToken")
CANCEL_GRACE_S = 2.0
"""How long a cancelled use may still take: its reply holds the only refresh token that lives from then on."""
NOT_PERSISTED = "it ends with this gatepass: set refresh_token_file, or a restart begins with the first one again"
FOREIGN = "what was kept is the refresh token of another client or issuer, and there is none to begin with"
logger = logging.getLogger("gatepass.tokens")

SendGrant = Callable[[Fields], Awaitable[TimedTokenResponse]]
"""Sends the form of a grant to the token endpoint, with the proof of the client and the wishes."""


def refresh_token_in(reply: TokenResponse) -> str | None:
    """The refresh token that a good reply gives, None where it gives none."""
    try:
        document = parse_json_object(reply.text) if 200 <= reply.status < 300 else None
    except NotJson:
        return None
    root = document if isinstance(document, dict) else {}
    boxes = [root, *(box for name in ENVELOPES if isinstance(box := root.get(name), dict))]
    found = (box[name] for box in boxes for name in NAMES if isinstance(box.get(name), str) and box[name])
    return next(found, None)


@dataclass(frozen=True, slots=True)
class StoredRefreshToken:
    """What a Keepsake holds: a token, and whose it is. `recipe` None is a bare token that a person put there.

    `account` is the recipe without the token that the chain began with.
    """

    token: str = field(repr=False)
    recipe: str | None = None
    account: str | None = None

    def encoded(self) -> str:
        return json.dumps({"refresh_token": self.token, "recipe": self.recipe, "account": self.account})


def parse_stored(text: str | None) -> StoredRefreshToken | None:
    """What `text` says; None where it says nothing."""
    if text is None or not (text := text.strip()):
        return None
    if not text.startswith("{"):
        return StoredRefreshToken(text)
    try:
        document = parse_json_object(text)
    except NotJson:
        raise FetchFailure("refresh_token_file holds neither a refresh token nor JSON", quick=False) from None
    token, marks = document.get("refresh_token"), (document.get("recipe"), document.get("account"))
    whose = (mark if isinstance(mark, str) else None for mark in marks)
    return StoredRefreshToken(token, *whose) if isinstance(token, str) and token else None


class RefreshTokenRotation:
    """Uses the newest refresh token there is. `is_last` says that nothing else signs in where it is dead."""

    def __init__(
        self, name: str, settings: Oauth2Credential, refresh_token_store: RefreshTokenStore, clock: Clock
    ) -> None:
        self._name = name
        self._settings = settings
        self._store = refresh_token_store
        self._clock = clock
        self._unstored: StoredRefreshToken | None = None
        self._rejected: str | None = None
        self._has_warned = False
        self.is_last = settings.grant_type == "refresh_token"

    async def refresh(self, exchange: SendGrant, by_s: float) -> TimedTokenResponse | None:
        """The reply to a use of the refresh token; None where there is none that is worth a try.

        A refused one is tried once more where another process has put a newer one in its place meanwhile.
        The reply may still refuse where `is_last`: then its words are what people need. Else where nobody can
        say which token is the newest, none is used.
        """
        async with AsyncExitStack() as turn:
            try:
                await turn.enter_async_context(self._store.exclusive(by_s - self._clock.now()))
                token = await self._newest()
            except FetchFailure as failure:
                if self.is_last or self._clock.now() >= by_s:
                    raise
                self._warn("refresh_token_not_read", failure.reason)
                return None
            return None if token is None else await self._use_newest(token, exchange)

    async def _use_newest(self, token: str, exchange: SendGrant) -> TimedTokenResponse | None:
        timed_response = None
        while token != self._rejected:
            timed_response = await finish_despite_cancel(self._use(token, exchange), self._clock)
            if code_of(timed_response.response) not in INVALID_GRANT_CODES:
                self._rejected = None
                return timed_response
            self._rejected, token = token, await self._newest() or token
        if not self.is_last:
            return None
        self._rejected = None
        return timed_response

    async def store_from(self, timed_response: TimedTokenResponse) -> None:
        """Keep the refresh token that the reply to another grant gives."""
        if (token := refresh_token_in(timed_response.response)) is not None:
            await finish_despite_cancel(self._put(token), self._clock)

    async def _newest(self) -> str | None:
        own = refresh_token_fingerprint(self._settings)
        if self._unstored is not None and self._unstored.recipe == own:
            return self._unstored.token
        kept = parse_stored(await self._store.get())
        first = self._settings.refresh_token
        # the chain goes on where its first token has left the configuration
        goes_on = self.is_last and first is None
        if kept is not None and (
            kept.recipe in (own, None) or (goes_on and kept.account == account_fingerprint(self._settings))
        ):
            self._has_warned = True
            return kept.token
        if first is None and kept is not None and self.is_last:
            raise FetchFailure(f"{FOREIGN}: {new_login_advice(self._settings)}", definite=True)
        return None if first is None else revealed(first, "refresh_token")

    async def _use(self, token: str, exchange: SendGrant) -> TimedTokenResponse:
        timed_response = await exchange({"grant_type": "refresh_token", "refresh_token": token})
        newest = refresh_token_in(timed_response.response) or token
        if newest != token or self._unstored is not None:
            await self._put(newest)
        return timed_response

    async def _put(self, token: str) -> None:
        """Where it cannot be kept it is still used: to drop the only token that lives would help nobody."""
        kept = StoredRefreshToken(token, refresh_token_fingerprint(self._settings), account_fingerprint(self._settings))
        self._unstored = kept
        try:
            await self._store.put(kept.encoded())
        except FetchFailure as failure:
            self._warn("refresh_token_not_stored", failure.reason)
            return
        self._unstored = None
        if self.is_last and not self._store.is_persistent and not self._has_warned:
            self._has_warned = True
            self._warn("refresh_token_not_stored", NOT_PERSISTED)

    def _warn(self, event: str, reason: str) -> None:
        logger.warning(event, extra={"fields": {"credential": self._name, "reason": reason}})


async def finish_despite_cancel(work: Coroutine[Any, Any, T], clock: Clock) -> T:
    """Await `work`, which a cancellation ends only after LAST_WORDS_S."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        timer = clock.call_later(CANCEL_GRACE_S, task.cancel)
        try:
            await asyncio.wait({task})
        finally:
            timer.cancel()
            task.cancel()
        raise
