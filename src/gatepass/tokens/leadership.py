"""Which of the processes that share a store asks an issuer, and which of one process's fetches does."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

from gatepass.runtime import Clock
from gatepass.store.lease import LEASE_S, Lease
from gatepass.store.seam import Store
from gatepass.tokens.backoff import PROBE_S

HELD_UP_S = 5.0
"""So long a process that is in need waits for another's fetch before it asks beside it."""
BESIDE_S = 3.0
"""Who asks beside the leader prolongs that no longer than this: then it is the next one's turn."""


@dataclass(frozen=True, eq=False, slots=True)
class Place:
    """One fetch's place among those of this process that want the same token."""

    since_s: float


class Leadership:
    """One recipe's affairs in one process, `owner` by name: one fetch of all processes leads, for as long as it takes
    (`timeout_s` at most) and its process lives.

    A second one of the leading process goes along with it, PROBE_S behind it: that process is in need, or it would not
    try again (see `silent_s`). A process in need that does not lead asks beside, one at a time, after HELD_UP_S: the
    leader may have lost its way to the issuer. Of the fetches of one process that wait the oldest has the first turn: a
    newer one is given up soon, and its turn with it.
    """

    def __init__(self, store: Store, clock: Clock, name: str, owner: str, timeout_s: float) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        lease_s = min(LEASE_S, timeout_s / 2)
        self._lead = Lease(store, clock, name, owner, lease_s)
        self._beside = Lease(store, clock, f"{name}/beside", owner, lease_s)
        self._line: list[Place] = []
        self._leader: Place | None = None
        self._led_s = -math.inf

    @contextmanager
    def waiting(self) -> Iterator[Place]:
        """One fetch's place in the line, which it leaves at the end, or when it asks."""
        place = Place(self._clock.now())
        self._line.append(place)
        try:
            yield place
        finally:
            self._leave(place)

    @asynccontextmanager
    async def turn(self, place: Place) -> AsyncIterator[Lease | None]:
        """What this fetch asks under while the block runs; None where it is not its turn."""
        async with AsyncExitStack() as stack:
            yield await self._taken(place, stack)

    async def _taken(self, place: Place, stack: AsyncExitStack) -> Lease | None:
        if self._leader is not None:
            may_go = self._clock.now() >= self._led_s + PROBE_S
            return self._lead if may_go and await stack.enter_async_context(self._going_along(place)) else None
        if self._line[0] is not place:
            return None
        if await stack.enter_async_context(self._leading(place)):
            return self._lead
        if self._is_held_up(place) and await stack.enter_async_context(self._held(self._beside, place, BESIDE_S)):
            return self._beside
        return None

    @asynccontextmanager
    async def _going_along(self, place: Place) -> AsyncIterator[bool]:
        """It asks the store too: the leader may have stood still for so long that it leads no more.

        Where the leader is over before this one ends, what was taken meanwhile (here, or to tell of a failure)
        is given back: nobody else would.
        """
        try:
            if is_ours := await self._lead.take():
                self._leave(place)
            yield is_ours
        finally:
            if self._leader is None:
                await self._lead.give_back()

    @asynccontextmanager
    async def _leading(self, place: Place) -> AsyncIterator[bool]:
        async with self._held(self._lead, place, self._timeout_s) as is_ours:
            if is_ours:
                self._leader, self._led_s = place, self._clock.now()
            try:
                yield is_ours
            finally:
                if self._leader is place:
                    self._leader = None

    def _is_held_up(self, place: Place) -> bool:
        """Whether this process is in need, which the fetch behind this one shows, and has been patient."""
        return len(self._line) > 1 and self._clock.now() >= place.since_s + HELD_UP_S

    @asynccontextmanager
    async def _held(self, lease: Lease, place: Place, most_s: float) -> AsyncIterator[bool]:
        """Whether `lease` was free; then it is ours until the block ends, and prolonged for `most_s` at most."""
        is_ours = True  # a request of the store that is cut short may have been heard
        try:
            if not (is_ours := await lease.take()):
                yield False
                return
            self._leave(place)
            async with lease.prolonged(most_s):
                yield True
        finally:
            if is_ours:
                await lease.give_back()

    def _leave(self, place: Place) -> None:
        if place in self._line:
            self._line.remove(place)
