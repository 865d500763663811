"""The contract of a store, which holds the state that processes share, and two clients of it.

A store holds named values that expire, counters and leases. `StoreCache` reads the names that other code follows in
the background. `Lease` keeps one lease while a block of code runs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from gatepass.cancel import Tasks
from gatepass.clock import Clock, sleep
from gatepass.config.advice import Advice

Command = tuple[tuple[str, ...], tuple[str | float, ...]]
"""Names in the store, and the arguments of a script for them."""


class StoreUnavailable(Exception):
    """The store failed or did not reply in time. The caller goes on without it. GuardedStore masks the texts.

    `advice` is what the operator does, if that is known.
    """

    def __init__(self, why: str, advice: Advice = Advice()) -> None:  # noqa: B008 - it never changes
        super().__init__(why)
        self.why, self.advice = why, advice

    def __str__(self) -> str:
        return f"{self.why}. {self.advice}".removesuffix(".") if self.advice else self.why


@dataclass(frozen=True, slots=True)
class StoreReading:
    """The values that a store held at one moment. `values` has no entry for an absent name.

    `at_s` is that moment by the store's clock, which all processes that share the store see alike. By `Clock.now` of
    this process the reading happened between `started_s` and `finished_s`.
    """

    values: Mapping[str, bytes] = field(repr=False)
    at_s: float
    started_s: float
    finished_s: float

    def to_local_s(self, moment_s: float) -> float:
        """Convert `moment_s` from the store's clock to `Clock.now` of this process; the result is never too late."""
        return self.started_s - (self.at_s - moment_s)

    def to_store_s(self, now: float) -> float:
        """Convert `now` from `Clock.now` of this process to the store's clock; the result is never too late."""
        return self.at_s - (self.finished_s - now)


class Store(Protocol):
    """State shared by processes. A name (`kind/rest`) holds a value, a counter or a lease. Raises StoreUnavailable."""

    async def get(self, names: Collection[str]) -> StoreReading:
        """Return the values of `names` that exist, and the store's time."""

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        """Set the value of `name`, and let it expire after `ttl_s`."""

    async def drop(self, name: str) -> None:
        """Delete the value or the counter `name`."""

    async def count(self, name: str, ttl_s: float) -> int:
        """Add one to the counter `name` and return it. A new counter starts at 0 and expires after `ttl_s`."""

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        """Take the lease `name` for `ttl_s`, or renew it if `owner` holds it; return False if another owner does."""

    async def release(self, name: str, owner: str) -> None:
        """Free the lease `name` if `owner` holds it."""

    async def aclose(self) -> None:
        """Close all connections to the store."""


SYNC_S = 0.5
"""Maximum age of the values in a StoreCache. One small request reads all names together."""

OnChange = Callable[[bytes, StoreReading], None]
"""Receives each new value and the reading that contains it. It runs on the event loop: it must not block or raise."""


class StoreCache:
    """Follow names in the background and report their changes, so that no request has to read the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._followed: dict[str, list[OnChange]] = {}
        self._seen: dict[str, bytes] = {}
        self._has_followers = asyncio.Event()
        self._tasks = Tasks()

    def start(self, on_fault: Callable[[BaseException], object] = lambda _: None) -> None:
        """Start the task that reads the store every SYNC_S while a name is followed. Requires a running event loop.

        If a bug ends it, `on_fault` receives the exception, and the task begins again SYNC_S later.
        """
        self._tasks.keep(self._sync, "store cache", on_fault, lambda: sleep(self._clock, SYNC_S))

    async def aclose(self) -> None:
        await self._tasks.aclose()

    def follow(self, name: str, on_change: OnChange) -> Callable[[], None]:
        """Call `on_change` with the value of `name` and with each later one; return a function that ends this."""
        self._followed.setdefault(name, []).append(on_change)
        self._seen.pop(name, None)  # the next reading reports the value to the new follower too
        self._has_followers.set()

        def unfollow() -> None:
            followers = self._followed[name]
            followers.remove(on_change)
            if not followers:
                del self._followed[name]
                self._seen.pop(name, None)
            if not self._followed:
                self._has_followers.clear()

        return unfollow

    async def _sync(self) -> None:
        while True:
            await self._has_followers.wait()  # a process that shares nothing sets no timer
            await sleep(self._clock, SYNC_S)
            if self._followed:
                try:
                    reading = await self._store.get(tuple(self._followed))
                except StoreUnavailable:
                    continue  # GuardedStore logs it
                changed = {name: value for name, value in reading.values.items() if value != self._seen.get(name)}
                for name, value in changed.items():
                    for on_change in tuple(self._followed.get(name, ())):  # a follower may unfollow
                        self._seen[name] = value
                        on_change(value, reading)


LEASE_S = 2.0
"""How long the other processes wait for an owner that died."""
LEASE_RENEWALS = 4
"""A lease is renewed this often within its length, so that one or two renewals may fail."""


class Lease(msgspec.Struct, frozen=True):
    store: Store
    clock: Clock
    name: str
    owner: str
    ttl_s: float = LEASE_S

    async def take(self) -> bool:
        """Take or renew the lease; return False if another owner holds it."""
        return await self.store.lease(self.name, self.owner, self.ttl_s)

    @asynccontextmanager
    async def held(self, most_s: float = math.inf) -> AsyncIterator[bool]:
        """Yield whether the lease was free; hold it until the block ends, and renew it for `most_s` at most."""
        is_ours, tasks = True, Tasks()  # the store may have received a request that was cancelled
        until_s = self.clock.now() + most_s
        try:
            if is_ours := await self.take():
                tasks.spawn(self._renew(until_s), f"lease of {self.name}")
            try:
                yield is_ours
            finally:
                await tasks.aclose()
        finally:
            if is_ours:
                with suppress(StoreUnavailable):  # the lease then expires by itself
                    await self.store.release(self.name, self.owner)

    async def _renew(self, until_s: float) -> None:
        while self.clock.now() < until_s:
            await sleep(self.clock, self.ttl_s / LEASE_RENEWALS)
            with suppress(StoreUnavailable):
                await self.take()  # the next renewal may succeed
