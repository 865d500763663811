"""One token for all processes that share a store: one of them fetches it, the others find it there."""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import msgspec

from gatepass.clock import Clock, sleep
from gatepass.config.credential.base import Credential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.store.base import LEASE_S, Lease, Store, StoreCache, StoreReading, StoreScope, StoreUnavailable
from gatepass.tokens.backoff import PROBE_S, shared_pause_s
from gatepass.tokens.failure import BUSY, FetchFailure
from gatepass.tokens.lifetime import LifetimeSource, Token, TokenKind
from gatepass.tokens.secrets import credential_fingerprint, refresh_token_fingerprint
from gatepass.tokens.source import TokenSource
from gatepass.types import Secret

if TYPE_CHECKING:
    from gatepass.tokens.holder import TokenHolder

POLL_S = 0.05
MAX_POLL_S = 0.25
"""Between two looks at what another process is fetching; it grows from the first to the second."""
YIELD_LEAD_S = 0.5
"""How long a process whose fetch failed leaves the next one to another: longer than POLL_LONGEST_S, and short enough
that a process alone notices a recovery within 4 s."""
REFUSALS_TTL_S = 900.0
"""The issuer's refusals within this are counted together."""
FAILURE_KEPT_S = 60.0
"""How long a failure is kept beyond its pause: a process that fetches well then sees that there is one to delete."""
MAX_REJECTED = 8
_NO_RESULT_IN_TIME = "another gatepass process asks for this token, and has none after {:g} s (timeout_s)"
_COMPLETE_IN_CONFIGURATION = frozenset({"oauth2", "http_json"})
_LOCAL_KINDS = frozenset({"static", "api_key", "env", "file"})
REFRESH_TOKEN_KEPT_S = 180 * 86_400.0
"""Longer than an unused refresh token lives at any known issuer."""
UNAVAILABLE = "the refresh token is in the store, and the store is away: two uses of one token would end them all ({})"


def is_shareable(kind: str, reach: StoreScope) -> bool:
    """Return whether tokens of `type: kind` may be shared as far as `reach`.

    Over a network only those are shared whose configuration says completely who signs in. What a program, a cloud's
    library or the machine's own identity adds differs from machine to machine.
    """
    if reach is StoreScope.PROCESS or kind in _LOCAL_KINDS:
        return False
    return reach is StoreScope.MACHINE or kind in _COMPLETE_IN_CONFIGURATION


class _Record:
    """Encodes itself; what another version wrote is ignored."""

    def encoded(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decoded(cls, data: bytes | None) -> Self | None:
        try:
            return None if data is None else msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError:
            return None


@dataclass(frozen=True, slots=True)
class TokenRecord(_Record):
    """A token in the store. `born_s` is a moment of the store; `id` distinguishes two records of the same text."""

    text: str = field(repr=False)
    requested_s: float
    lifetime_s: float
    kind: TokenKind
    lifetime_source: LifetimeSource
    missing_expiry_path: str | None
    id: str

    @classmethod
    def of(cls, token: Token, life_s: float, born_s: float) -> Self:
        return cls(
            token.text,
            born_s,
            life_s,
            token.kind,
            token.lifetime_source,
            token.missing_expiry_path,
            secrets.token_hex(8),
        )

    def token(self, reading: StoreReading) -> Token:
        """Return the token by this process's clock, its end never later than it really is."""
        born_s = reading.here_s(self.requested_s)
        return Token(
            Secret(self.text),
            born_s,
            self.lifetime_s,
            self.kind,
            self.lifetime_source,
            self.missing_expiry_path,
            from_store=True,
        )


@dataclass(frozen=True, slots=True)
class FailureRecord(_Record):
    """A fetch that failed, in the store. Until `until_s`, a moment of the store, no process but `owner` asks again."""

    owner: str
    reason: str
    definite: bool
    retry_quickly: bool
    until_s: float
    unclear: bool = False
    free_tries: int = 0

    @classmethod
    def of(cls, failure: FetchFailure, owner: str, began_s: float, at_s: float, refusals: int) -> Self:
        """`refusals`: how many refusals, or unclear errors, there were by now, this one included.

        The pause after an outage's failure counts from the start of the fetch: after a fetch that hung there is none.
        """
        until_s = max(at_s + shared_pause_s(failure, refusals), began_s + PROBE_S)
        return cls(
            owner, failure.reason, failure.definite, failure.retry_quickly, until_s, failure.unclear, failure.free_tries
        )

    def applies_to(self, process: str, now_s: float) -> bool:
        """Return whether `process` has failed too, without asking: it would get the same answer."""
        return self.owner != process and now_s < self.until_s

    def yields_lead(self, process: str, now_s: float) -> bool:
        """Return whether `process`, whose own failure this is, lets another process lead first.

        Another may reach the issuer where this one does not. A process that asks before its own pause is over has a
        reason, such as a new secret.
        """
        return self.owner == process and self.until_s <= now_s < self.until_s + YIELD_LEAD_S

    def failure(self, now_s: float) -> FetchFailure:
        """Return the same failure at the store's moment `now_s`, for a process that has not asked."""
        return FetchFailure(
            self.reason,
            definite=self.definite,
            unclear=self.unclear,
            quick=self.retry_quickly,
            retry_after_s=self.until_s - now_s,
            free_tries=self.free_tries,
            from_other_process=True,
        )


@dataclass(frozen=True, slots=True)
class SharedTokenNames:
    """Where the entries of one recipe are in the store."""

    token: str
    failure: str
    refusals: str
    lease: str

    @classmethod
    def of(cls, digest: str) -> SharedTokenNames:
        return cls(*(f"{kind}/v1/{digest}" for kind in ("token", "token-failure", "token-refusals", "token-lease")))


class SharedSource:
    """`source`, asked by one process at a time, and only while the store has nothing newer.

    A process that does not hold the lease looks for the result of the one that does; if that one dies, the lease ends
    LEASE_S later. The names in the store follow from the whole recipe at the moment of the fetch: a changed secret
    shares with no process that has the old one. Without the store each process asks for itself.
    """

    def __init__(self, source: TokenSource, settings: Credential, store: Store, clock: Clock) -> None:
        self._source = source
        self._settings = settings
        self._store = store
        self._clock = clock
        self._owner = secrets.token_hex(8)
        self._names: SharedTokenNames | None = None
        self._store_cache: StoreCache | None = None
        self._holder: TokenHolder | None = None
        self._stop_watching: Callable[[], None] = lambda: None
        self._rejected = OrderedDict[str, float]()
        self._returned_id: str | None = None
        self._returned_s = -math.inf

    def __repr__(self) -> str:
        return f"SharedSource({self._source!r})"

    def secrets(self) -> tuple[Secret, ...]:
        return self._source.secrets()

    def attach(self, store_cache: StoreCache, holder: TokenHolder) -> None:
        """Offer `holder`, which fetches through this source, what other processes fetch, soon after they did."""
        self._store_cache, self._holder = store_cache, holder
        holder.on_rejection = self.forget_rejected

    def forget_rejected(self, value: str) -> None:
        """The upstream refused `value`: what was fetched before this is not taken from the store any more."""
        self._rejected[value] = self._clock.now()
        self._rejected.move_to_end(value)
        while len(self._rejected) > MAX_REJECTED:
            self._rejected.popitem(last=False)

    async def fetch(self) -> Token:
        names = self._names_now()
        if names is None:
            return await self._source.fetch()  # it names what cannot be read
        self._follow(names)
        try:
            return await self._fetch_shared(names)
        except StoreUnavailable:
            return self._remember(await self._source.fetch(), None)

    def _names_now(self) -> SharedTokenNames | None:
        try:
            return SharedTokenNames.of(credential_fingerprint(self._settings))
        except (ValueError, OSError):
            return None

    def _follow(self, names: SharedTokenNames) -> None:
        if names == self._names:
            return
        self._stop_watching()
        self._names, self._returned_id, self._returned_s = names, None, -math.inf
        if self._store_cache is not None:
            self._stop_watching = self._store_cache.follow(names.token, self._hear)

    def _hear(self, value: bytes, reading: StoreReading) -> None:
        found = self._newer(value, reading)
        if found is not None and self._holder is not None and self._holder.adopt_shared(found[1]):
            self._remember(found[1], found[0].id)

    async def _fetch_shared(self, names: SharedTokenNames) -> Token:
        """Return what the store has, or gets while this process waits, or what this process fetches for all."""
        until_s, wait_s = self._clock.now() + self._settings.timeout_s, POLL_S
        while (token := await self._read_or_lead(names)) is None:
            if self._clock.now() >= until_s:
                raise FetchFailure(
                    _NO_RESULT_IN_TIME.format(self._settings.timeout_s), quick=False, from_other_process=True
                )
            await sleep(self._clock, wait_s)
            wait_s = min(wait_s * 1.5, MAX_POLL_S)
        return token

    async def _read_or_lead(self, names: SharedTokenNames) -> Token | None:
        """Return the token of the moment; None while another process is to fetch it."""
        reading = await self._store.get((names.token, names.failure))
        if (token := self._found(names, reading)) is not None:
            return token
        failed = FailureRecord.decoded(reading.values.get(names.failure))
        if failed is not None and failed.yields_lead(self._owner, reading.at_s):
            return None
        timeout_s = self._settings.timeout_s
        lease = Lease(self._store, self._clock, names.lease, self._owner, min(LEASE_S, timeout_s / 2))
        async with lease.held(timeout_s) as leads:
            if not leads:
                return None
            reading = await self._store.get((names.token, names.failure))  # another may have led since
            return self._found(names, reading) or await self._fetch_for_all(names, lease, reading)

    def _found(self, names: SharedTokenNames, reading: StoreReading) -> Token | None:
        """Return the token in the store, if it is newer; raise the failure of another process."""
        if (found := self._newer(reading.values.get(names.token), reading)) is not None:
            return self._remember(found[1], found[0].id)
        failed = FailureRecord.decoded(reading.values.get(names.failure))
        if failed is not None and failed.applies_to(self._owner, reading.at_s):
            raise failed.failure(reading.at_s)
        return None

    async def _fetch_for_all(self, names: SharedTokenNames, lease: Lease, reading: StoreReading) -> Token:
        began_s = self._clock.now()
        try:
            token = await self._source.fetch()
        except FetchFailure as failure:
            weighed = failure if self._holder is None else self._holder.with_free_tries(failure)
            with suppress(StoreUnavailable):
                await self._put_failure(names, lease, reading, weighed, began_s)
            raise
        self._remember(token, None)
        with suppress(StoreUnavailable):
            await self._put_token(names, reading, token)
        return token

    async def _put_token(self, names: SharedTokenNames, reading: StoreReading, token: Token) -> None:
        """Share `token`, even if the lease has ended, but not over one that was asked for later, which may have ended
        this one. If a secret has changed meanwhile, the token belongs to another recipe."""
        left_s = token.expires_s - self._clock.now()
        if token.lifetime_s is None or left_s <= 0 or self._names_now() != names:
            return
        record = TokenRecord.of(token, token.lifetime_s, reading.there_s(token.requested_s))
        kept = TokenRecord.decoded((await self._store.get((names.token,))).values.get(names.token))
        if kept is not None and kept.requested_s > record.requested_s:
            return
        self._remember(token, record.id)
        await self._store.put(names.token, record.encoded(), left_s)
        if names.failure in reading.values:
            await self._store.drop(names.failure)
            await self._store.drop(names.refusals)

    async def _put_failure(
        self, names: SharedTokenNames, lease: Lease, reading: StoreReading, failure: FetchFailure, began_s: float
    ) -> None:
        if not await lease.take():  # another process leads by now, and may succeed
            return
        counts = failure.definite or failure.unclear
        refusals = await self._store.count(names.refusals, REFUSALS_TTL_S) if counts else 0
        now_s = reading.there_s(self._clock.now())
        record = FailureRecord.of(failure, self._owner, reading.there_s(began_s), now_s, refusals)
        await self._store.put(names.failure, record.encoded(), record.until_s - now_s + FAILURE_KEPT_S)

    def _newer(self, value: bytes | None, reading: StoreReading) -> tuple[TokenRecord, Token] | None:
        """Return what the store has if it is valid, newer than what was handed out, and not rejected since."""
        record = TokenRecord.decoded(value)
        if record is None or record.id == self._returned_id:
            return None
        token = record.token(reading)
        known_s = max(self._returned_s, self._rejected.get(token.text, -math.inf))
        return (record, token) if token.requested_s > known_s and self._clock.now() < token.expires_s else None

    def _remember(self, token: Token, mark: str | None) -> Token:
        """Remember what was handed out last."""
        self._returned_id, self._returned_s = mark, token.requested_s
        return token


def shared_refresh_token_store(settings: Credential, store: Store, clock: Clock) -> SharedRefreshTokenStore | None:
    """Return where the refresh tokens of this credential are shared; None if it has none, or no store is shared."""
    if store.scope is StoreScope.PROCESS or not isinstance(settings, Oauth2Credential) or not settings.refreshes:
        return None
    return SharedRefreshTokenStore(settings, store, clock)


class SharedRefreshTokenStore:
    """A Keepsake of all processes that share `store`.

    Without the store no refresh token is used: what a process remembers may have been used by another, and an issuer
    that sees it again ends the whole family (RFC 9700 4.14.2), which only a person could repair.
    """

    def __init__(self, settings: Oauth2Credential, store: Store, clock: Clock) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock

    @property
    def is_persistent(self) -> bool:
        """The store of a supervisor's workers ends with it."""
        return self._store.scope is StoreScope.NETWORK

    @asynccontextmanager
    async def exclusive(self, within_s: float) -> AsyncIterator[None]:
        lease = Lease(self._store, self._clock, self._name("refresh-turn"), secrets.token_hex(8))
        try:
            await self._wait_for(lease, self._clock.now() + within_s)
            async with lease.prolonged():
                yield
        finally:
            await lease.give_back()

    async def get(self) -> str | None:
        name = self._name("refresh-token")
        try:
            kept = (await self._store.get((name,))).values.get(name)
        except StoreUnavailable as error:
            raise _store_unavailable(error) from None
        return None if kept is None else kept.decode()

    async def put(self, text: str) -> None:
        try:
            await self._store.put(self._name("refresh-token"), text.encode(), REFRESH_TOKEN_KEPT_S)
        except StoreUnavailable as error:
            raise _store_unavailable(error) from None

    async def _wait_for(self, lease: Lease, by_s: float) -> None:
        try:
            while not await lease.take():
                if self._clock.now() >= by_s:
                    raise FetchFailure(BUSY, quick=False)
                await sleep(self._clock, POLL_S)
        except StoreUnavailable as error:
            raise _store_unavailable(error) from None

    def _name(self, kind: str) -> str:
        return f"{kind}/v1/{refresh_token_fingerprint(self._settings)}"


def _store_unavailable(error: StoreUnavailable) -> FetchFailure:
    return FetchFailure(UNAVAILABLE.format(error), quick=False)
