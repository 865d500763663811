"""What processes share, as everybody sees it who uses it: names, bytes with an end, counters, leases."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class StoreUnavailable(Exception):
    """The store did not do what it was asked, or not in time: go on without it. The text holds no secret."""


class Reach(IntEnum):
    """How far a store goes."""

    PROCESS = 0
    MACHINE = 1
    NETWORK = 2


@dataclass(frozen=True, slots=True)
class Reading:
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
    def reach(self) -> Reach: ...

    async def get(self, names: Collection[str]) -> Reading:
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
