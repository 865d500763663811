"""A Store in memory, for tests: it keeps the contract of those that processes share."""

from collections.abc import Collection, Sequence
from typing import Generic, TypeVar

from gatepass.clock import Clock
from gatepass.store.base import StoreReading, StoreUnavailable

V = TypeVar("V")


class ExpiringValues(Generic[V]):
    """Values by name, each with an end. Every new value removes the expired ones."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[str, tuple[V, float]] = {}

    @property
    def entries(self) -> dict[str, V]:
        return {name: value for name, (value, _) in self._kept.items()}

    def get(self, name: str) -> V | None:
        value, until_s = self._kept.get(name, (None, 0.0))
        return value if self._clock.now() < until_s else None

    def put(self, name: str, value: V, ttl_s: float) -> None:
        now = self._clock.now()
        self._kept = {name: entry for name, entry in self._kept.items() if now < entry[1]}
        self._kept[name] = (value, now + ttl_s)

    def change(self, name: str, value: V) -> None:
        """Set a value that exists, and keep its end."""
        self._kept[name] = (value, self._kept[name][1])

    def drop(self, name: str) -> None:
        self._kept.pop(name, None)


class MemoryStore:
    """A Store in the memory of this process. `faults` has why an operation fails, by its name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.values = ExpiringValues[bytes](clock)
        self.counters = ExpiringValues[int](clock)
        self.leases = ExpiringValues[str](clock)
        self.faults: dict[str, str] = {}

    def _check(self, operation: str) -> None:
        if operation in self.faults:
            raise StoreUnavailable(self.faults[operation])

    async def get(self, names: Collection[str]) -> StoreReading:
        self._check("get")
        now = self._clock.now()
        found = {name: value for name in names if (value := self.values.get(name)) is not None}
        return StoreReading(found, now, now, now)

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        self._check("put")
        self.values.put(name, value, ttl_s)

    async def drop(self, name: str) -> None:
        self._check("drop")
        self.values.drop(name)
        self.counters.drop(name)

    async def count(self, name: str, ttl_s: float) -> int:
        self._check("count")
        before = self.counters.get(name)
        if before is None:
            self.counters.put(name, 1, ttl_s)
        else:
            self.counters.change(name, before + 1)
        return (before or 0) + 1

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        self._check("lease")
        if self.leases.get(name) not in (None, owner):
            return False
        self.leases.put(name, owner, ttl_s)
        return True

    async def release(self, name: str, owner: str) -> None:
        self._check("release")
        if self.leases.get(name) == owner:
            self.leases.drop(name)

    async def evaluate(self, script: str, commands: Sequence[object]) -> list[bytes]:
        """Return a reply for each command. It runs no scripts."""
        self._check("limits")
        return [b""] * len(commands)

    async def aclose(self) -> None:
        """Do nothing: memory needs no closing."""
