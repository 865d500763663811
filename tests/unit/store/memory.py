"""A Store in memory, for tests: it keeps the contract of those that processes share."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, TypeVar

from gatepass.clock import Clock
from gatepass.store.base import StoreReading, StoreScope

V = TypeVar("V")


class ExpiringValues(Generic[V]):
    """Values by name, each with an end. Every new value removes the expired ones."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[V, float]] = {}

    @property
    def entries(self) -> dict[str, V]:
        """The values by name, expired ones too."""
        return {name: value for name, (value, _) in self._kept.items()}

    def get(self, name: str, now: float) -> V | None:
        value, until_s = self._kept.get(name, (None, now))
        return value if now < until_s else None

    def put(self, name: str, value: V, until_s: float, now: float) -> None:
        self._kept = {name: entry for name, entry in self._kept.items() if now < entry[1]}
        self._kept[name] = (value, until_s)

    def change(self, name: str, value: V) -> V:
        """Set a value that exists, and keep its end."""
        self._kept[name] = (value, self._kept[name][1])
        return value

    def drop(self, name: str) -> None:
        self._kept.pop(name, None)


class MemoryStore:
    """A Store in the memory of this process."""

    scope = StoreScope.MACHINE

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.values = ExpiringValues[bytes]()
        self.counters = ExpiringValues[int]()
        self.leases = ExpiringValues[str]()

    async def get(self, names: Collection[str]) -> StoreReading:
        now = self._clock.now()
        found = {name: value for name in names if (value := self.values.get(name, now)) is not None}
        return StoreReading(found, now, now, now)

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        now = self._clock.now()
        self.values.put(name, value, now + ttl_s, now)

    async def drop(self, name: str) -> None:
        self.values.drop(name)
        self.counters.drop(name)

    async def count(self, name: str, ttl_s: float) -> int:
        now = self._clock.now()
        before = self.counters.get(name, now)
        if before is None:
            self.counters.put(name, 1, now + ttl_s, now)
            return 1
        return self.counters.change(name, before + 1)

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        now = self._clock.now()
        if self.leases.get(name, now) not in (None, owner):
            return False
        self.leases.put(name, owner, now + ttl_s, now)
        return True

    async def release(self, name: str, owner: str) -> None:
        if self.leases.get(name, self._clock.now()) == owner:
            self.leases.drop(name)

    async def aclose(self) -> None:
        """Do nothing: memory needs no closing."""
