"""What processes share, as everybody sees it who uses it: names, bytes with an end, counters, leases.

What the store said last of the names that somebody follows.

A lease that is held for as long as the work takes, and not much longer if its holder dies.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from gatepass.cancel import Tasks
from gatepass.clock import Clock, sleep


class StoreUnavailable(Exception):
    """The store did not do what it was asked, or not in time: go on without it. The text holds no secret."""


class StoreScope(IntEnum):
    """How far a store goes."""

    PROCESS = 0
    MACHINE = 1
    NETWORK = 2


@dataclass(frozen=True, slots=True)
class StoreReading:
    """What a store held at one moment. `values` has no member for what is not there.

    Moments are told by the store's own clock, which all who share it see alike, whatever their own
    clocks say. `at_s` is the moment of the reading; by `Clock.now` of this process it lies between
    `asked_s` and `answered_s`.
    """

    values: Mapping[str, bytes]
    at_s: float
    asked_s: float
    answered_s: float

    def here_s(self, moment_s: float) -> float:
        """When `moment_s` of the store was by `Clock.now` of this process: never later than it really was."""
        return self.asked_s - (self.at_s - moment_s)

    def there_s(self, now: float) -> float:
        """The store's moment when `Clock.now` of this process was `now`: never later than it really was."""
        return self.at_s - (self.answered_s - now)


class Store(Protocol):
    """Everything raises StoreUnavailable. A name, `kind/rest`, stands for a value, a counter or a lease."""

    @property
    def scope(self) -> StoreScope: ...

    async def get(self, names: Collection[str]) -> StoreReading:
        """What is there of `names`, and the store's moment."""
        ...

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        """Keep `value` under `name` for `ttl_s`, instead of what was there."""
        ...

    async def drop(self, name: str) -> None:
        """Forget the value or the counter `name`."""
        ...

    async def count(self, name: str, ttl_s: float) -> int:
        """Add one to the counter `name`, which begins with 0 and is forgotten `ttl_s` after that; its value then."""
        ...

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        """Take the lease `name`, or prolong it where `owner` holds it: for `ttl_s` nobody else can.

        False where somebody else holds it. Who dies holds it until its end.
        """
        ...

    async def release(self, name: str, owner: str) -> None:
        """Give the lease `name` back; nothing happens where `owner` does not hold it."""
        ...

    async def aclose(self) -> None: ...


SYNC_S = 0.5
"""How old the news of another process may be. One small request for all names together."""

OnChange = Callable[[bytes, StoreReading], None]
"""Told of each new value, with the reading that brought it; on the event loop, so it neither waits nor raises."""


class StoreCache:
    """Follows names in the background, so that who wants to know asks no store: it is told."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._followed: dict[str, list[OnChange]] = {}
        self._seen: dict[str, bytes] = {}
        self._tasks = Tasks()

    def start(self) -> None:
        """Begin to read, every SYNC_S; wants a running loop."""
        self._tasks.spawn(self._sync(), "snapshot of the store")

    async def aclose(self) -> None:
        await self._tasks.aclose()

    def follow(self, name: str, on_change: OnChange) -> Callable[[], None]:
        """Have `on_change` told of what is there under `name` and of what comes; the result ends that."""
        self._followed.setdefault(name, []).append(on_change)
        self._seen.pop(name, None)
        return lambda: self._leave(name, on_change)

    def _leave(self, name: str, on_change: OnChange) -> None:
        followers = self._followed[name]
        followers.remove(on_change)
        if not followers:
            del self._followed[name]
            self._seen.pop(name, None)

    async def _sync(self) -> None:
        while True:
            await sleep(self._clock, SYNC_S)
            if self._followed:
                try:
                    reading = await self._store.get(tuple(self._followed))
                except StoreUnavailable:
                    continue
                news = {name: value for name, value in reading.values.items() if value != self._seen.get(name)}
                for name, value in news.items():
                    for on_change in tuple(self._followed.get(name, ())):
                        self._seen[name] = value
                        on_change(value, reading)


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
