"""A lease that is held for as long as the work takes, and not much longer where its holder dies."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from gatepass.runtime import Clock, Tasks, sleep
from gatepass.store.seam import Store, StoreUnavailable

LEASE_S = 2.0
"""How long the others wait for a holder that has died."""
RENEWALS = 4
"""So often it is prolonged within its length: one or two may fail."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease `name` for one `owner`."""

    store: Store
    clock: Clock
    name: str
    owner: str
    ttl_s: float = LEASE_S

    async def take(self) -> bool:
        """Whether it is held now, anew or still; False where somebody else holds it."""
        return await self.store.lease(self.name, self.owner, self.ttl_s)

    async def give_back(self) -> None:
        """Free it now; where the store is away it ends by itself."""
        with suppress(StoreUnavailable):
            await self.store.release(self.name, self.owner)

    @asynccontextmanager
    async def prolonged(self, most_s: float = math.inf) -> AsyncIterator[None]:
        """Keeps what `take` gave while the block runs, but prolongs it no more after `most_s`."""
        tasks = Tasks()
        tasks.spawn(self._prolong(self.clock.now() + most_s), f"lease of {self.name}")
        try:
            yield
        finally:
            await tasks.aclose()

    async def _prolong(self, until_s: float) -> None:
        while self.clock.now() < until_s:
            await sleep(self.clock, self.ttl_s / RENEWALS)
            with suppress(StoreUnavailable):
                await self.take()
