"""Share one token between all processes with a common store: one process fetches it, the others read it."""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import msgspec
from msgspec.structs import replace

from gatepass.clock import Clock, sleep
from gatepass.config.advice import Advice
from gatepass.config.credential.base import Credential
from gatepass.store.base import LEASE_S, Lease, Store, StoreCache, StoreReading, StoreUnavailable
from gatepass.tokens.failure import PROBE_S, FailureKind, FetchFailure, shared_pause_s
from gatepass.tokens.lifetime import Token
from gatepass.tokens.secrets import credential_fingerprint
from gatepass.types import Secret

if TYPE_CHECKING:
    from gatepass.tokens.holder import TokenHolder, TokenSource

POLL_S = 0.05
MAX_POLL_S = 0.25
"""Between two checks of another process's fetch. The interval grows from POLL_S to MAX_POLL_S."""
YIELD_LEAD_S = 0.5
"""How long a process whose fetch failed leaves the next fetch to another process. Longer than MAX_POLL_S, and short
enough that a single process notices a recovery within 4 s."""
REFUSALS_TTL_S = 900.0
"""The issuer's refusals within this time are counted together."""
FAILURE_KEPT_S = 60.0
"""How long a failure record outlives its pause. A process with a successful fetch sees it and deletes it."""
MAX_REJECTED = 8
_NO_RESULT_IN_TIME = (
    "by its lease in the store another gatepass process fetches this token, and has no result after {:g} s (timeout_s)"
)
_COMPLETE_IN_CONFIGURATION = frozenset({"oauth2", "http_json"})


def is_shared(settings: Credential) -> bool:
    """Return whether processes share the tokens of a credential over a store.

    A token is shared only if the configuration identifies the client completely. A program differs between machines.
    """
    return settings.type in _COMPLETE_IN_CONFIGURATION


def _as_secret(_: type, value: object) -> Secret:
    if not isinstance(value, str):
        raise TypeError
    return Secret(value)


class _Record(msgspec.Struct, frozen=True):
    """A record that encodes itself. Records of another version are ignored."""

    def encoded(self) -> bytes:
        return msgspec.json.encode(self, enc_hook=Secret.reveal)

    @classmethod
    def decoded(cls, data: bytes | None) -> Self | None:
        try:
            return None if data is None else msgspec.json.decode(data, type=cls, dec_hook=_as_secret)
        except msgspec.MsgspecError:
            return None


class TokenRecord(_Record, frozen=True):
    """A token in the store. Its `requested_s` is on the store's clock; `id` distinguishes two records of one token."""

    token: Token
    id: str = msgspec.field(default_factory=lambda: secrets.token_hex(8))


class FailureRecord(_Record, frozen=True):
    """A failed fetch in the store. Until `until_s`, on the store's clock, only `owner` may fetch again.

    `began_s` is when that fetch began.
    """

    owner: str
    why: str
    kind: FailureKind
    until_s: float
    began_s: float
    advice: Advice
    case: str
    code: str

    @classmethod
    def of(cls, failure: FetchFailure, owner: str, began_s: float, at_s: float, refusals: int) -> Self:
        """Return a record of `failure`. `refusals` is the number of refusals, including this one.

        The pause after an outage's failure begins with the fetch, so a fetch that hung causes no further pause.
        """
        # At least PROBE_S from the start, so that an outage is probed once for all processes.
        until_s = max(at_s + shared_pause_s(failure, refusals), began_s + PROBE_S)
        texts = failure.advice, failure.case, failure.code
        return cls(owner, failure.why, failure.kind, until_s, began_s, *texts)

    def applies_to(self, process: str, now_s: float) -> bool:
        """Return whether `process` must report this failure without a fetch, because it would get the same answer."""
        return self.owner != process and now_s < self.until_s

    def yields_lead(self, process: str, now_s: float) -> bool:
        """Return whether the owner of this failure lets another process lead first, which may reach the issuer."""
        return self.owner == process and self.until_s <= now_s < self.until_s + YIELD_LEAD_S

    def failure(self, now_s: float) -> FetchFailure:
        """Return the failure at `now_s` (store's clock), for a process that did not fetch."""
        return FetchFailure(
            self.why,
            self.kind,
            advice=self.advice,
            case=self.case,
            code=self.code,
            retry_after_s=self.until_s - now_s,
            from_other_process=True,
        )


class SharedTokenNames(msgspec.Struct, frozen=True):
    token: str
    failure: str
    refusals: str
    lease: str

    @classmethod
    def of(cls, digest: str) -> SharedTokenNames:
        return cls(*(f"{kind}/v1/{digest}" for kind in ("token", "token-failure", "token-refusals", "token-lease")))


class SharedSource:
    """Fetches through `source` in one process at a time, and only if the store has no newer token.

    A process without the lease polls for the leader's result. If the leader dies, its lease ends LEASE_S later. The
    names in the store derive from the credential's fingerprint at the time of the fetch. So a process with a changed
    secret shares nothing with a process that has the old one. Without the store each process fetches for itself.
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
        self._returned_s = self._retried_s = -math.inf

    def secrets(self) -> tuple[Secret, ...]:
        return self._source.secrets()

    def attach(self, store_cache: StoreCache, holder: TokenHolder) -> None:
        """Pass tokens of other processes to `holder`, which fetches through this source."""
        self._store_cache, self._holder = store_cache, holder
        holder.on_rejection = self.forget_rejected
        holder.on_retry = self._retry
        holder.on_close = lambda: self._stop_watching()  # it changes with the secret

    def _retry(self) -> None:
        """Ignore the failures of other processes before now, because the issuer was repaired since."""
        self._retried_s = self._clock.now()

    def forget_rejected(self, value: str) -> None:
        """Record that the upstream rejected `value`. Copies fetched before now are ignored in the store."""
        self._rejected[value] = self._clock.now()
        self._rejected.move_to_end(value)
        # An upstream may reject every token, so their number is bounded.
        while len(self._rejected) > MAX_REJECTED:
            self._rejected.popitem(last=False)

    async def fetch(self) -> Token:
        names = self._names_now()
        if names is None:
            return await self._source.fetch()  # its error names the unreadable secret
        if names != self._names:  # the first fetch, or a changed secret
            self._stop_watching()
            self._names, self._returned_id, self._returned_s = names, None, -math.inf
            if self._store_cache is not None:
                self._stop_watching = self._store_cache.follow(names.token, self._on_store_change)
        try:
            return await self._fetch_shared(names)
        except StoreUnavailable:
            return self._remember(await self._source.fetch(), None)

    def _names_now(self) -> SharedTokenNames | None:
        try:
            return SharedTokenNames.of(credential_fingerprint(self._settings))
        except (ValueError, OSError):
            return None

    def _on_store_change(self, value: bytes, reading: StoreReading) -> None:
        found = self._newer(value, reading)
        if found is not None and self._holder is not None and self._holder.adopt_shared(found[1]):
            self._remember(found[1], found[0].id)

    async def _fetch_shared(self, names: SharedTokenNames) -> Token:
        """Return the token of the store, of another process during the wait, or of this process's own fetch."""
        until_s, wait_s = self._clock.now() + self._settings.timeout_s, POLL_S
        while (token := await self._read_or_lead(names)) is None:
            # The fetch of the leader has the same timeout.
            if self._clock.now() >= until_s:
                raise FetchFailure(
                    _NO_RESULT_IN_TIME.format(self._settings.timeout_s),
                    advice=Advice("leader_late"),
                    from_other_process=True,
                )
            await sleep(self._clock, wait_s)
            wait_s = min(wait_s * 1.5, MAX_POLL_S)
        return token

    async def _read_or_lead(self, names: SharedTokenNames) -> Token | None:
        """Return the current token; None while another process fetches it."""
        reading = await self._store.get((names.token, names.failure))
        if (token := self._found(names, reading)) is not None:
            return token
        failed = self._failure_in(names, reading)
        if failed is not None and failed.yields_lead(self._owner, reading.at_s):
            return None
        # If the leader dies, its lease ends early enough for another fetch within the timeout.
        timeout_s = self._settings.timeout_s
        lease = Lease(self._store, self._clock, names.lease, self._owner, min(LEASE_S, timeout_s / 2))
        async with lease.held(timeout_s) as leads:
            if not leads:
                return None
            reading = await self._store.get((names.token, names.failure))  # another process may have led since
            return self._found(names, reading) or await self._fetch_for_all(names, lease, reading)

    def _found(self, names: SharedTokenNames, reading: StoreReading) -> Token | None:
        """Return a newer token from the store; raise the failure of another process."""
        if (found := self._newer(reading.values.get(names.token), reading)) is not None:
            return self._remember(found[1], found[0].id)
        failed = self._failure_in(names, reading)
        if failed is not None and failed.applies_to(self._owner, reading.at_s):
            raise failed.failure(reading.at_s)
        return None

    def _failure_in(self, names: SharedTokenNames, reading: StoreReading) -> FailureRecord | None:
        """Return the last failure, None if it is older than a retry.

        The processes receive a retry within PROBE_S, and one of them fetches for all.
        """
        failed = FailureRecord.decoded(reading.values.get(names.failure))
        if failed is not None and failed.began_s < reading.to_store_s(self._retried_s) - PROBE_S:
            return None
        return failed

    async def _fetch_for_all(self, names: SharedTokenNames, lease: Lease, reading: StoreReading) -> Token:
        began_s = self._clock.now()
        if names.failure in reading.values and self._failure_in(names, reading) is None:
            await self._store.drop(names.refusals)  # the pauses begin again
        try:
            token = await self._source.fetch()
        except FetchFailure as failure:
            masked = failure if self._holder is None else self._holder.masked(failure)
            with suppress(StoreUnavailable):  # without the store each process tries for itself
                if await lease.take():  # otherwise another process leads now and may succeed
                    refusals = await self._store.count(names.refusals, REFUSALS_TTL_S) if failure.is_refused else 0
                    now_s = reading.to_store_s(self._clock.now())
                    record = FailureRecord.of(masked, self._owner, reading.to_store_s(began_s), now_s, refusals)
                    await self._store.put(names.failure, record.encoded(), record.until_s - now_s + FAILURE_KEPT_S)
            raise
        self._remember(token, None)
        with suppress(StoreUnavailable):
            await self._put_token(names, reading, token)  # each process fetches for itself then
        return token

    async def _put_token(self, names: SharedTokenNames, reading: StoreReading, token: Token) -> None:
        """Store `token`, even if the lease has ended, unless the store has one that was requested later.

        The later request may have ended this token. A token of a changed secret is not stored.
        """
        left_s = token.expires_s - self._clock.now()
        if token.lifetime_s is None or left_s <= 0 or self._names_now() != names:
            return
        record = TokenRecord(replace(token, requested_s=reading.to_store_s(token.requested_s)))
        kept = TokenRecord.decoded((await self._store.get((names.token,))).values.get(names.token))
        if kept is not None and kept.token.requested_s > record.token.requested_s:
            return
        self._remember(token, record.id)
        await self._store.put(names.token, record.encoded(), left_s)
        if names.failure in reading.values:  # an outage has ended: its records are obsolete
            await self._store.drop(names.failure)
            await self._store.drop(names.refusals)

    def _newer(self, value: bytes | None, reading: StoreReading) -> tuple[TokenRecord, Token] | None:
        """Return the store's token if it is valid, newer than the last returned one, and not rejected since."""
        record = TokenRecord.decoded(value)
        if record is None or record.id == self._returned_id:
            return None
        # On this process's clock, with an end no later than the real one.
        token = replace(record.token, requested_s=reading.to_local_s(record.token.requested_s), from_store=True)
        # The issuer may return the same text again after a rejection. Only a token requested later is newer.
        known_s = max(self._returned_s, self._rejected.get(token.text, -math.inf))
        return (record, token) if token.requested_s > known_s and self._clock.now() < token.expires_s else None

    def _remember(self, token: Token, mark: str | None) -> Token:
        self._returned_id, self._returned_s = mark, token.requested_s
        return token
