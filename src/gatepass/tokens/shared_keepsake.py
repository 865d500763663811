"""Refresh tokens in the store: whichever process uses one, the next finds its successor."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gatepass.config.credential.base import Credential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.runtime import Clock, sleep
from gatepass.store.lease import Lease
from gatepass.store.seam import Reach, Store, StoreUnavailable
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.oauth2.account import recipe_of
from gatepass.tokens.oauth2.keepsake import BUSY

KEPT_S = 180 * 86_400.0
"""Longer than an unused refresh token lives anywhere that we know of."""
LOOK_AGAIN_S = 0.05
AWAY = "the refresh token is in the store, and the store is away: two uses of one token would end them all ({})"


def keepsake_for(settings: Credential, store: Store, clock: Clock) -> StoreKeepsake | None:
    """Where the refresh tokens of this credential are shared; None where there are none, or nobody to share with."""
    if store.reach is Reach.PROCESS or not isinstance(settings, Oauth2Credential) or not settings.refreshes:
        return None
    return StoreKeepsake(settings, store, clock)


class StoreKeepsake:
    """A Keepsake of all processes that share `store`. Without it no refresh token is used: what a process
    remembers may have been used by another, and an issuer that sees it again ends the whole family
    (RFC 9700 4.14.2), which only a person could mend."""

    def __init__(self, settings: Oauth2Credential, store: Store, clock: Clock) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock

    @property
    def lasts(self) -> bool:
        """The store of a supervisor's workers ends with it."""
        return self._store.reach is Reach.NETWORK

    @asynccontextmanager
    async def turn(self, within_s: float) -> AsyncIterator[None]:
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
            raise _away(error) from None
        return None if kept is None else kept.decode()

    async def put(self, text: str) -> None:
        try:
            await self._store.put(self._name("refresh-token"), text.encode(), KEPT_S)
        except StoreUnavailable as error:
            raise _away(error) from None

    async def _wait_for(self, lease: Lease, by_s: float) -> None:
        try:
            while not await lease.take():
                if self._clock.now() >= by_s:
                    raise FetchFailure(BUSY, quick=False)
                await sleep(self._clock, LOOK_AGAIN_S)
        except StoreUnavailable as error:
            raise _away(error) from None

    def _name(self, kind: str) -> str:
        return f"{kind}/v1/{recipe_of(self._settings)}"


def _away(error: StoreUnavailable) -> FetchFailure:
    return FetchFailure(AWAY.format(error), quick=False)
