"""Limits per caller: concurrent requests (`Concurrency`) and bytes held in memory (`MemoryBudget`).

While several callers are configured, a tenth of each limit is reserved, so that no caller can block the others.
"""

from __future__ import annotations

import asyncio
import math

from gatepass.errors import ConcurrencyLimited, Overloaded

RESERVED_SHARE = 0.1
"""The share of `limits.connections` and of `limits.held_bytes` that no single caller can use."""

SMALL_BYTES = 64 * 1024
"""A request holding at most this much is not counted, so it never waits for clients that read large replies slowly."""


def _limit_per_caller(limit: int, callers: int) -> int:
    return limit if callers <= 1 else limit - math.ceil(limit * RESERVED_SHARE)


class Concurrency:
    """The number of requests in flight of each caller, and the check whether one more is admitted.

    A caller without a request in flight is always admitted, so at most one request per caller exceeds `limit`. With
    several callers, none can use the last tenth of `limit`.
    """

    def __init__(self, limit: int, callers: int) -> None:
        self._limit = limit
        self._limit_per_caller = _limit_per_caller(limit, callers)
        self._by_caller: dict[str, int] = {}
        """Entries of 0 stay, because to remove them would cost time in each request of a caller without others."""
        self._total = 0

    def set_callers(self, callers: int) -> None:
        self._limit_per_caller = _limit_per_caller(self._limit, callers)

    def under_way(self, caller: str) -> int:
        return self._by_caller.get(caller, 0)

    def claim(self, caller: str, max_concurrent: int | None) -> None:
        """Count one more request of `caller`.

        Raises: ConcurrencyLimited, Overloaded. The request is then not counted.
        """
        own = self._by_caller.get(caller, 0)
        # one comparison for most requests; `_check` finds the limit that was reached
        if own and (max_concurrent is not None or own >= self._limit_per_caller or self._total >= self._limit):
            self._check(caller, own, max_concurrent)
        self._by_caller[caller] = own + 1
        self._total += 1

    def release(self, caller: str) -> None:
        """Remove one request that `claim` counted."""
        self._total -= 1
        self._by_caller[caller] -= 1

    def _check(self, caller: str, own: int, max_concurrent: int | None) -> None:
        if max_concurrent is not None and own >= max_concurrent:
            raise ConcurrencyLimited(
                f"The caller {caller!r} has reached its limit of {max_concurrent} concurrent requests"
                " (access.keys[].max_concurrent). Retry when one of them has ended.",
                retry_after_s=1,
            )
        if self._total >= self._limit:
            raise Overloaded(
                f"{self._total} requests are in flight, which is the limit (limits.connections).", retry_after_s=1
            )
        if own >= self._limit_per_caller:
            raise Overloaded(
                f"The caller {caller!r} has {own} requests in flight. The last tenth of limits.connections"
                " is reserved for other callers.",
                retry_after_s=1,
            )


class MemoryBudget:
    """The bytes that all requests hold in memory: received request bodies and buffered replies.

    - A request that holds at most SMALL_BYTES is not counted.
    - A request body that does not fit is rejected. A reply is never rejected: gatepass reads it when it fits.
    - With several callers, none can use the last tenth of `limit_bytes`.
    - One request of each caller always fits, so every caller is served and no request waits forever.

    The upper bound is `limit_bytes`, one body and one reply per caller, and SMALL_BYTES and one piece per request.
    """

    def __init__(self, limit_bytes: int, callers: int = 1) -> None:
        self.limit_bytes = limit_bytes
        self.caller_limit_bytes = _limit_per_caller(limit_bytes, callers)
        self.total_bytes = 0
        self.by_caller: dict[str, int] = {}
        self.firsts: dict[str, RequestMemory] = {}
        """The request of each caller that always fits, until it ends."""
        self.waits: dict[asyncio.Future[None], None] = {}  # an ordered set: the longest wait is woken first

    def set_callers(self, callers: int) -> None:
        self.caller_limit_bytes = _limit_per_caller(self.limit_bytes, callers)

    def add(self, caller: str, size_bytes: int) -> None:
        self.total_bytes += size_bytes
        self.by_caller[caller] = self.by_caller.get(caller, 0) + size_bytes

    def remove(self, caller: str, size_bytes: int) -> None:
        self.total_bytes -= size_bytes
        own_bytes = self.by_caller.get(caller, 0) - size_bytes
        if own_bytes:
            self.by_caller[caller] = own_bytes
        else:
            self.by_caller.pop(caller, None)

    def fits(self, caller: str, size_bytes: int) -> bool:
        own_bytes = self.by_caller.get(caller, 0)
        return self.total_bytes + size_bytes <= self.limit_bytes and own_bytes + size_bytes <= self.caller_limit_bytes

    def wake(self) -> None:
        """Let the waiting requests check again, in order, after bytes or a caller's first place became free."""
        for wait in self.waits:
            if not wait.done():
                wait.set_result(None)


class RequestMemory:
    """The bytes that one request holds. Set `caller` before the first call of a method."""

    __slots__ = ("_budget", "caller", "held_bytes")

    def __init__(self, budget: MemoryBudget, caller: str = "") -> None:
        self._budget = budget
        self.caller = caller
        self.held_bytes = 0

    def claim(self, size_bytes: int) -> None:
        """Count a received piece of the request body.

        Raises: Overloaded. The piece is then not counted.
        """
        held_bytes = self.held_bytes + size_bytes
        if held_bytes <= SMALL_BYTES:
            self.held_bytes = held_bytes
            return
        if not self._fits(size_bytes):
            budget, caller_bytes = self._budget, self._budget.by_caller.get(self.caller, 0)
            raise Overloaded(
                f"The requests in flight hold {budget.total_bytes} bytes, {caller_bytes} of them"
                " for this caller. This request does not fit (limits.held_bytes). Retry when another one has ended.",
                retry_after_s=1,
            )
        self.add(size_bytes)

    def add(self, size_bytes: int) -> None:
        """Count a received piece of a reply."""
        before_bytes = self.held_bytes
        self.held_bytes = held_bytes = before_bytes + size_bytes
        if held_bytes > SMALL_BYTES:  # above SMALL_BYTES all bytes of the request are counted
            self._budget.add(self.caller, size_bytes if before_bytes > SMALL_BYTES else held_bytes)

    @property
    def is_full(self) -> bool:
        """Whether the reply must wait for `wait_for_room` before more of it is read."""
        if self.held_bytes <= SMALL_BYTES or self._budget.firsts.get(self.caller) is self:
            return False
        return not self._fits(0)

    def _fits(self, size_bytes: int) -> bool:
        if self.held_bytes + size_bytes <= SMALL_BYTES:
            return True
        budget = self._budget
        if budget.firsts.setdefault(self.caller, self) is self:  # the first large request of each caller always fits
            return True
        return budget.fits(self.caller, size_bytes if self.held_bytes > SMALL_BYTES else self.held_bytes + size_bytes)

    async def wait_for_room(self) -> None:
        """Wait until more of the reply may be read."""
        budget = self._budget
        while self.is_full:
            wait = asyncio.get_running_loop().create_future()
            budget.waits[wait] = None
            try:
                await wait
            finally:
                del budget.waits[wait]

    def release(self) -> None:
        """Remove all bytes of the request after its end."""
        held_bytes, self.held_bytes = self.held_bytes, 0
        if held_bytes <= SMALL_BYTES:
            return
        budget = self._budget
        budget.remove(self.caller, held_bytes)
        if budget.firsts.get(self.caller) is self:
            del budget.firsts[self.caller]
        if budget.waits:
            budget.wake()
