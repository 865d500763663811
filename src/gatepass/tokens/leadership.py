"""Which of the processes that share a store asks an issuer, and which of one process's fetches does."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from gatepass.runtime import Clock
from gatepass.store.lease import LEASE_S, Lease
from gatepass.store.seam import Store
from gatepass.tokens.backoff import PROBE_S

PROLONGED_S = 3.0
"""A fetch that takes longer than this and a lease's length is not waited for: another process tries its luck."""


class Leadership:
    """Of the fetches of this process that wait for the lease the oldest takes it: a newer one is given up soon,
    and the lease with it.

    In an outage two fetches are under way at once: the second goes along with the one that leads, PROBE_S behind it,
    and does not prolong its lease, or a process that cannot reach the issuer would have it for ever.
    """

    def __init__(self, store: Store, clock: Clock, timeout_s: float) -> None:
        self._store = store
        self._clock = clock
        self._owner = secrets.token_hex(8)
        self._lease_s = min(LEASE_S, timeout_s / 2)
        self._leads = Counter[str]()
        self._led_s = -math.inf
        self._line: list[object] = []

    @property
    def owner(self) -> str:
        """This process, as the others know it."""
        return self._owner

    @property
    def is_ours(self) -> bool:
        """Whether a fetch of this process leads, or went along with one that did."""
        return self._leads.total() > 0

    @contextmanager
    def waiting(self) -> Iterator[object]:
        """One fetch's place among those of this process."""
        place = object()
        self._line.append(place)
        try:
            yield place
        finally:
            self._leave(place)

    @asynccontextmanager
    async def of(self, name: str, place: object) -> AsyncIterator[Lease | None]:
        """The lease `name` while the block runs; None where it is not this fetch's turn to ask."""
        lease = Lease(self._store, self._clock, name, self._owner, self._lease_s)
        goes_along = self._goes_along(name)
        is_ours, leads = True, False  # a request of the store that is cut short may have been heard
        try:
            is_ours = self._follows() if goes_along else await self._takes(lease, place)
            self._leads[name] += (leads := is_ours)
            if is_ours:
                self._leave(place)
            async with lease.prolonged(PROLONGED_S if is_ours and not goes_along else 0.0):
                yield lease if is_ours else None
        finally:
            self._leads[name] -= leads
            if is_ours and not self._leads[name]:
                await lease.give_back()

    def _goes_along(self, name: str) -> bool:
        """Whether a fetch of this process leads, or did until so lately that nobody else may have taken its place."""
        return self._leads[name] > 0 and self._clock.now() < self._led_s + PROLONGED_S + 2 * self._lease_s

    def _follows(self) -> bool:
        return self._clock.now() >= self._led_s + PROBE_S

    async def _takes(self, lease: Lease, place: object) -> bool:
        if self._line[0] is not place or not await lease.take():
            return False
        self._led_s = self._clock.now()
        return True

    def _leave(self, place: object) -> None:
        if place in self._line:
            self._line.remove(place)
