"""A MemoryStore that a test can look into."""

from __future__ import annotations

from gatepass.clock import Clock
from tests.unit.store.memory import MemoryStore


class InspectedStore(MemoryStore):
    """`values`, `counters` and `leases` hold what was stored and not removed, expired entries too."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.clock = clock
        self.values: dict[str, bytes] = {}
        self.counters: dict[str, int] = {}
        self.leases: dict[str, str] = {}

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        await super().put(name, value, ttl_s)
        self.values[name] = value

    async def drop(self, name: str) -> None:
        await super().drop(name)
        self.values.pop(name, None)
        self.counters.pop(name, None)

    async def count(self, name: str, ttl_s: float) -> int:
        self.counters[name] = await super().count(name, ttl_s)
        return self.counters[name]

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        is_granted = await super().lease(name, owner, ttl_s)
        if is_granted:
            self.leases[name] = owner
        return is_granted

    async def release(self, name: str, owner: str) -> None:
        await super().release(name, owner)
        if self.leases.get(name) == owner:
            del self.leases[name]
