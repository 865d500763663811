"""A lease that is held for as long as the work takes, and not much longer if its holder dies."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from gatepass.cancel import Tasks
from gatepass.clock import Clock, sleep
from gatepass.store.base import Store, StoreUnavailable

LEASE_S = 2.0
"""How long the others wait for a holder that has died."""
RENEWALS = 4
"""It is prolonged this often within its length: one or two renewals may fail."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease `name` for one `owner`."""

    store: Store
    clock: Clock
    name: str
    owner: str
    ttl_s: float = LEASE_S

    async def take(self) -> bool:
        """Take or keep the lease; return False if another owner holds it."""
        return await self.store.lease(self.name, self.owner, self.ttl_s)

    async def give_back(self) -> None:
        """Free it now; while the store is unavailable it ends by itself."""
        with suppress(StoreUnavailable):
            await self.store.release(self.name, self.owner)

    @asynccontextmanager
    async def held(self, most_s: float = math.inf) -> AsyncIterator[bool]:
        """Yield whether the lease was free; then hold it until the block ends, and prolong it for `most_s` at most."""
        is_ours = True  # a request of the store that is cut short may have been received
        try:
            if not (is_ours := await self.take()):
                yield False
                return
            async with self.prolonged(most_s):
                yield True
        finally:
            if is_ours:
                await self.give_back()

    @asynccontextmanager
    async def prolonged(self, most_s: float = math.inf) -> AsyncIterator[None]:
        """Keep what `take` gave while the block runs, but do not prolong it after `most_s`."""
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
