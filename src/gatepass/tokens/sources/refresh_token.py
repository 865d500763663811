"""Use and store the refresh token of one credential.

Each use may end a refresh token and return the next one, so the next one is stored before anything else.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from gatepass.cancel import timeout
from gatepass.clock import Clock, sleep
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.references import UnresolvedReference, read_file, replace_file
from gatepass.tokens.failure import BUSY, FetchFailure
from gatepass.tokens.issuer_error import (
    NotJson,
    TimedTokenResponse,
    TokenResponse,
    is_error_reply,
    parse_json_text,
    token_error_body,
)
from gatepass.tokens.secrets import account_fingerprint, refresh_token_fingerprint, revealed
from gatepass.tokens.token_reply import candidate_objects, members_named

Fields = Mapping[str, str]
INVALID_GRANT_CODES = frozenset({"invalid_grant", "bad_refresh_token", "unauthorized_client", "unsupported_grant_type"})
"""Codes after which a refresh token is useless. GitHub returns bad_refresh_token with status 200."""
LOCK_POLL_S = 0.05
LOCK_MODE = 0o600
T = TypeVar("T")
NAMES = ("refresh_token", "refreshToken")
CANCEL_GRACE_S = 2.0
"""How long a cancelled use may still take. Its reply contains the only valid refresh token from then on."""
NOT_PERSISTED = "it is kept in memory only: without refresh_token_file a restart uses the configured one again"
LOG = logging.getLogger("gatepass.tokens")
SendGrant = Callable[[Fields], Awaitable[TimedTokenResponse]]


class RefreshTokenStore(Protocol):
    """Stores one short text for one credential, for all its users. Every error is a FetchFailure."""

    @property
    def is_persistent(self) -> bool:
        """Whether the text survives a restart."""
        ...

    def exclusive(self, within_s: float) -> AbstractAsyncContextManager[None]:
        """Hold an exclusive lock from the read of the text until its successor is stored.

        Two uses of one refresh token look like a theft, and the issuer revokes the whole family of tokens (RFC 9700
        4.14.2). Fails if the lock is not free within `within_s` seconds.
        """
        ...

    async def get(self) -> str | None:
        """Return the stored text, or None."""
        ...

    async def put(self, text: str) -> None:
        """Replace the stored text by `text`. It is durable when this returns."""
        ...


class MemoryRefreshTokenStore:
    """Stores the text until a restart, for this process only."""

    is_persistent = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = asyncio.Lock()
        self._text: str | None = None

    @asynccontextmanager
    async def exclusive(self, within_s: float) -> AsyncIterator[None]:
        await timeout(self._clock, within_s, self._lock.acquire(), FetchFailure(BUSY))
        try:
            yield
        finally:
            self._lock.release()

    async def get(self) -> str | None:
        return self._text

    async def put(self, text: str) -> None:
        self._text = text


class FileRefreshTokenStore:
    """Stores the text in a file of mode 0600, for all processes of this machine that name the same file.

    A reader sees the old text or the new one, never a part. The new text survives a crash. The lock is a separate file
    (`NAME.lock`), because each change replaces the file itself. The lock ends with its process.
    """

    is_persistent = True

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    @asynccontextmanager
    async def exclusive(self, within_s: float) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            with _as_failure("cannot be locked"):
                # The real path, so that two links to one file share one lock.
                path = os.path.realpath(self._path)  # noqa: ASYNC240 - it only follows links
                taking = stack.enter_async_context(file_lock(f"{path}.lock", self._clock, LOCK_POLL_S))
                await timeout(self._clock, within_s, taking, FetchFailure(BUSY))
            yield

    async def get(self) -> str | None:
        with _as_failure("cannot be read"):
            try:
                os.stat(self._path)  # `read_file` reports an absent file as an unreadable one
                return read_file(self._path)
            except FileNotFoundError:
                return None
            except UnresolvedReference as error:
                raise FetchFailure(f"refresh_token_file: {error}") from None

    async def put(self, text: str) -> None:
        with _as_failure("cannot be written"):
            # fsync may take seconds on a busy disk.
            await asyncio.to_thread(replace_file, self._path, text)


@contextmanager
def _as_failure(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FetchFailure(f"refresh_token_file {what}: {error.strerror}") from None


def code_of(reply: TokenResponse) -> str | None:
    """Return the `error` of a refusal; None for a reply with a token or without a code."""
    document = reply.document
    if reply.is_success and not is_error_reply(document):
        return None
    found = token_error_body(document)
    return found.code if found is not None else None


def refresh_token_in(reply: TokenResponse) -> str | None:
    objects = candidate_objects(reply.document) if reply.is_success else ()
    return next((token for token, _ in members_named(NAMES, objects) if isinstance(token, str) and token), None)


@dataclass(frozen=True, slots=True)
class StoredRefreshToken:
    """The content of a RefreshTokenStore: a token and its owner.

    `fingerprint` is that of `refresh_token_fingerprint`. None means a bare token that a person put there. `account` is
    the fingerprint without the first token.
    """

    token: str = field(repr=False)
    fingerprint: str | None = None
    account: str | None = None

    def encoded(self) -> str:
        return json.dumps({"refresh_token": self.token, "fingerprint": self.fingerprint, "account": self.account})


def is_bare(text: str) -> bool:
    """Return whether `text` is a token that a person put there. gatepass writes JSON."""
    return text != "" and not text.startswith("{")


def parse_stored(text: str | None) -> StoredRefreshToken | None:
    """Return the stored refresh token in `text`; None if it contains none."""
    if text is None or not (text := text.strip()):
        return None
    if is_bare(text):
        return StoredRefreshToken(text)
    try:
        document = parse_json_text(text)
    except NotJson:
        raise FetchFailure("refresh_token_file holds neither a refresh token nor JSON") from None
    token, marks = document.get("refresh_token"), (document.get("fingerprint"), document.get("account"))
    owner = (mark if isinstance(mark, str) else None for mark in marks)
    return StoredRefreshToken(token, *owner) if isinstance(token, str) and token else None


def new_login_advice(settings: Oauth2Credential) -> str:
    """Return what the operator must do after the refresh token ended. The file has precedence over `refresh_token`."""
    place = "refresh_token" if settings.refresh_token_file is None else "refresh_token_file, as the file's only text"
    return f"sign in again, and put the new refresh token into {place}"


class RefreshTokenRotation:
    """Uses the newest refresh token. `is_last`: no other grant can log in if the token has ended."""

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
        """Return the reply to a use of the refresh token; None if there is none to try.

        A refused token is tried once more if another process has stored a newer one meanwhile. If `is_last`, the reply
        may be a refusal, because its text helps the operator.
        """
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._store.exclusive(by_s - self._clock.now()))
                token = await self._newest()
            except FetchFailure as failure:
                if self.is_last or self._clock.now() >= by_s:
                    raise
                self._warn("refresh_token_not_read", failure.reason)
                return None
            return None if token is None else await self._use_newest(token, exchange)

    async def _use_newest(self, token: str, exchange: SendGrant) -> TimedTokenResponse | None:
        reply = None
        # Ends after the newest token was rejected too.
        while token != self._rejected:
            reply = await finish_despite_cancel(self._use(token, exchange), self._clock)
            if code_of(reply) not in INVALID_GRANT_CODES:
                self._rejected = None
                return reply
            # Another process may have used this one meanwhile and stored its successor.
            self._rejected, token = token, await self._newest() or token
        if not self.is_last:
            return None
        self._rejected = None
        return reply

    async def store_from(self, reply: TokenResponse) -> None:
        """Store the refresh token in the reply to another grant."""
        if (token := refresh_token_in(reply)) is not None:
            await finish_despite_cancel(self._put(token), self._clock)

    async def _newest(self) -> str | None:
        own = refresh_token_fingerprint(self._settings)
        if self._unstored is not None and self._unstored.fingerprint == own:
            return self._unstored.token
        kept = parse_stored(await self._store.get())
        first = self._settings.refresh_token
        # The chain continues if its first token was removed from the configuration.
        is_continued = self.is_last and first is None
        if kept is not None and (
            kept.fingerprint in (own, None) or (is_continued and kept.account == account_fingerprint(self._settings))
        ):
            self._has_warned = True
            return kept.token
        return None if first is None else revealed(first, "refresh_token")

    async def _use(self, token: str, exchange: SendGrant) -> TimedTokenResponse:
        reply = await exchange({"grant_type": "refresh_token", "refresh_token": token})
        newest = refresh_token_in(reply) or token
        if newest != token or self._unstored is not None:
            await self._put(newest)
        return reply

    async def _put(self, token: str) -> None:
        """Store the token. If that fails, still use it, because it is the only valid one."""
        # Stored before the access token is used: the issuer has ended the old refresh token already.
        kept = StoredRefreshToken(token, refresh_token_fingerprint(self._settings), account_fingerprint(self._settings))
        self._unstored = kept  # used instead of the stored one until a put succeeds
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
        LOG.warning(event, extra={"fields": {"credential": self._name, "reason": reason}})


async def finish_despite_cancel(work: Coroutine[Any, Any, T], clock: Clock) -> T:
    """Await `work`. A cancellation ends it only after CANCEL_GRACE_S."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # The issuer may already have replaced the token, so its reply is still awaited for a moment.
        timer = clock.call_later(CANCEL_GRACE_S, task.cancel)
        try:
            await asyncio.wait({task})
        finally:
            timer.cancel()
            task.cancel()
        raise


@asynccontextmanager
async def file_lock(path: str, clock: Clock, interval_s: float) -> AsyncIterator[None]:
    """Create the file `path`, and hold an exclusive lock on it. Try to take it every `interval_s`."""
    # O_CLOEXEC: a child process with the descriptor would keep the lock (flock(2))
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, LOCK_MODE)
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
