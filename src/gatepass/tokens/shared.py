"""One token for all processes that share a store: whoever is first mints it, the others find it there."""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from gatepass.call import Secret
from gatepass.config.credential.base import Credential
from gatepass.runtime import Clock, sleep
from gatepass.store.lease import Lease
from gatepass.store.seam import Reach, Reading, Store, StoreUnavailable
from gatepass.store.snapshot import Snapshot
from gatepass.tokens.counted import counted
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.leadership import Leadership, Place
from gatepass.tokens.life import Token
from gatepass.tokens.recipe import recipe
from gatepass.tokens.record import FailureRecord, TokenRecord
from gatepass.tokens.source import TokenSource

POLL_S = 0.05
POLL_LONGEST_S = 0.25
"""Between two looks at what another process is fetching; it grows from the first to the second."""
REFUSALS_TTL_S = 900.0
"""An issuer's refusals are counted together within this."""
FAILURE_KEPT_S = 60.0
"""How long a failure is kept beyond its hold: who fetches well then sees that there is something to forget."""
REJECTED_KEPT = 8
_UNANSWERED = "another gatepass process asks for this token, and has none after {:g} s (timeout_s)"
_WHOLE_IN_CONFIGURATION = frozenset({"oauth2", "http_json"})
_ASKS_NOBODY = frozenset({"static", "api_key", "env", "file"})

Offer = Callable[[Token], bool]
"""Takes a token that came from elsewhere, or does not want it."""


def is_shareable(kind: str, reach: Reach) -> bool:
    """Whether tokens of `type: kind` may go as far as `reach`.

    Over a network only those go whose recipe says all of who signs in. What a program, a cloud's
    library or the machine's own identity adds differs from machine to machine.
    """
    if reach is Reach.PROCESS or kind in _ASKS_NOBODY:
        return False
    return reach is Reach.MACHINE or kind in _WHOLE_IN_CONFIGURATION


@dataclass(frozen=True, slots=True)
class Names:
    """Where one recipe's affairs lie in the store."""

    token: str
    failure: str
    refusals: str
    lease: str

    @classmethod
    def of(cls, digest: str) -> Names:
        return cls(*(f"{kind}/v1/{digest}" for kind in ("token", "token-failure", "token-refusals", "token-lease")))


@dataclass(frozen=True, slots=True)
class Affairs:
    """One recipe's names, and who asks for it."""

    names: Names
    leadership: Leadership


class SharedSource:
    """`source`, asked by one process at a time, and only where the store has nothing newer.

    Names in the store follow from the whole recipe as it stands at the fetch: a changed secret shares
    with nobody who has the old one. Without the store each process asks for itself; none waits for it
    longer than the store's own bound.
    """

    def __init__(self, source: TokenSource, settings: Credential, store: Store, clock: Clock) -> None:
        self._source = counted(source, clock)
        self._settings = settings
        self._store = store
        self._clock = clock
        self._owner = secrets.token_hex(8)
        self._affairs: Affairs | None = None
        self._snapshot: Snapshot | None = None
        self._offer: Offer = lambda _: False
        self._leave: Callable[[], None] = lambda: None
        self._rejected = OrderedDict[str, float]()
        self._held: str | None = None
        self._born_s = -math.inf

    def __repr__(self) -> str:
        return f"SharedSource({self._source!r})"

    @property
    def fetches(self) -> int:
        """How often this process has asked the issuer: what another one minted is no fetch of ours."""
        return self._source.fetches

    def secrets(self) -> tuple[Secret, ...]:
        return self._source.secrets()

    def join(self, snapshot: Snapshot, offer: Offer) -> None:
        """Have `offer` called with each token that another process minted, soon after it did."""
        self._snapshot, self._offer = snapshot, offer

    def rejected(self, value: str) -> None:
        """The upstream refused `value`: what was minted before this is not taken from the store any more."""
        self._rejected[value] = self._clock.now()
        self._rejected.move_to_end(value)
        while len(self._rejected) > REJECTED_KEPT:
            self._rejected.popitem(last=False)

    async def fetch(self) -> Token:
        names = self._names_now()
        if names is None:
            return await self._source.fetch()  # what cannot be read it tells in its own words
        affairs = self._followed(names)
        try:
            return await self._together(affairs)
        except StoreUnavailable:
            return self._note(await self._source.fetch(), None)

    def _names_now(self) -> Names | None:
        try:
            return Names.of(recipe(self._settings))
        except (ValueError, OSError):
            return None

    def _followed(self, names: Names) -> Affairs:
        if self._affairs is None or names != self._affairs.names:
            self._leave()
            leadership = Leadership(self._store, self._clock, names.lease, self._owner, self._settings.timeout_s)
            self._affairs, self._held, self._born_s = Affairs(names, leadership), None, -math.inf
            if self._snapshot is not None:
                self._leave = self._snapshot.follow(names.token, self._hear)
        return self._affairs

    def _hear(self, value: bytes, reading: Reading) -> None:
        found = self._newer(value, reading)
        if found is not None and self._offer(found[1]):
            self._note(found[1], found[0].id)

    async def _together(self, affairs: Affairs) -> Token:
        """What the store has, or gets while we wait, or what we mint for all."""
        until_s, wait_s = self._clock.now() + self._settings.timeout_s, POLL_S
        with affairs.leadership.waiting() as place:
            while (token := await self._look(affairs, place)) is None:
                if self._clock.now() >= until_s:
                    raise FetchFailure(_UNANSWERED.format(self._settings.timeout_s), quick=False, heard=True)
                await sleep(self._clock, wait_s)
                wait_s = min(wait_s * 1.5, POLL_LONGEST_S)
        return token

    async def _look(self, affairs: Affairs, place: Place) -> Token | None:
        """What there is by now; None where somebody else asks for it."""
        names = affairs.names
        async with affairs.leadership.turn(place) as lease:
            reading = await self._store.get((names.token, names.failure))
            if (found := self._newer(reading.values.get(names.token), reading)) is not None:
                return self._note(found[1], found[0].id)
            failed = FailureRecord.decoded(reading.values.get(names.failure))
            if failed is not None and failed.speaks_for(self._owner, reading.at_s):
                raise failed.failure(reading.at_s)
            return None if lease is None else await self._mint(names, lease, reading)

    async def _mint(self, names: Names, lease: Lease, reading: Reading) -> Token:
        try:
            token = await self._source.fetch()
        except FetchFailure as failure:
            with suppress(StoreUnavailable):
                await self._tell_failure(names, lease, reading, failure)
            raise
        self._note(token, None)
        with suppress(StoreUnavailable):
            await self._tell_token(names, reading, token)
        return token

    async def _tell_token(self, names: Names, reading: Reading, token: Token) -> None:
        """Whether or not it is still our turn, but not over what was asked for later, which may have ended this one;
        where a secret has changed meanwhile, the token is another recipe's."""
        left_s = token.expires_s - self._clock.now()
        if token.life_s is None or left_s <= 0 or self._names_now() != names:
            return
        record = TokenRecord.of(token, token.life_s, reading.there_s(token.born_s))
        kept = TokenRecord.decoded((await self._store.get((names.token,))).values.get(names.token))
        if kept is not None and kept.born_s > record.born_s:
            return
        self._note(token, record.id)
        await self._store.put(names.token, record.encoded(), left_s)
        if names.failure in reading.values:
            await self._store.drop(names.failure)
            await self._store.drop(names.refusals)

    async def _tell_failure(self, names: Names, lease: Lease, reading: Reading, failure: FetchFailure) -> None:
        counts = failure.definite or failure.unclear
        is_mere_probe = lease.name != names.lease and not counts and failure.retry_after_s is None
        if is_mere_probe or not await lease.take():  # of an outage the leader tells, and goes on asking
            return
        refusals = await self._store.count(names.refusals, REFUSALS_TTL_S) if counts else 0
        record = FailureRecord.of(failure, self._owner, reading.there_s(self._clock.now()), refusals)
        await self._store.put(names.failure, record.encoded(), record.until_s - record.at_s + FAILURE_KEPT_S)

    def _newer(self, value: bytes | None, reading: Reading) -> tuple[TokenRecord, Token] | None:
        """What the store has, where it lives, is newer than what we handed out, and was not rejected since."""
        record = TokenRecord.decoded(value)
        if record is None or record.id == self._held:
            return None
        token = record.token(reading)
        known_s = max(self._born_s, self._rejected.get(token.text, -math.inf))
        return (record, token) if token.born_s > known_s and self._clock.now() < token.expires_s else None

    def _note(self, token: Token, mark: str | None) -> Token:
        """Remember what was handed out last."""
        self._held, self._born_s = mark, token.born_s
        return token
