"""Limits of one caller: concurrent requests, and bytes held in memory for it."""

from __future__ import annotations

import asyncio
import math

from gatepass.errors import ConcurrencyLimited, Overloaded

KEPT_FROM_ONE = 0.1
"""The part of `limits.connections`, and of `limits.held_bytes`, that one caller cannot take while there are several."""

SEVERAL = 2

SMALL_BYTES = 64 * 1024
"""As much as a request may hold however much others hold: a small one never waits for slow readers of large replies."""


def _limit_per_caller(limit: int, callers: int) -> int:
    return limit if callers < SEVERAL else limit - math.ceil(limit * KEPT_FROM_ONE)


class Concurrency:
    """How many requests each caller has under way, and whether it may have one more.

    A caller without any is always admitted, so at most one for each caller goes beyond `limit`. While there are
    several callers, none holds the last tenth of `limit`.
    """

    def __init__(self, limit: int, callers: int) -> None:
        self._limit = limit
        self._limit_per_caller = _limit_per_caller(limit, callers)
        self._by_caller: dict[str, int] = {}
        """A caller of the configuration stays when it has none: to remove it would cost each request that is alone."""
        self._total = 0

    def under_way(self, caller: str) -> int:
        return self._by_caller.get(caller, 0)

    def claim(self, caller: str, max_concurrent: int | None) -> None:
        """Count one more request of `caller`. Raises ConcurrencyLimited and Overloaded, and counts nothing then."""
        own = self._by_caller.get(caller, 0)
        if own and (max_concurrent is not None or own >= self._limit_per_caller or self._total >= self._limit):
            self._check(caller, own, max_concurrent)
        self._by_caller[caller] = own + 1
        self._total += 1

    def release(self, caller: str) -> None:
        """A request that `claim` counted has ended."""
        self._total -= 1
        self._by_caller[caller] -= 1

    def _check(self, caller: str, own: int, max_concurrent: int | None) -> None:
        if max_concurrent is not None and own >= max_concurrent:
            raise ConcurrencyLimited(
                f"The caller {caller!r} has reached its limit of requests under way: {max_concurrent}"
                " (access.keys[].max_concurrent). Send the request again when one has ended.",
                retry_after_s=1,
            )
        if self._total >= self._limit:
            raise Overloaded(
                f"{self._total} requests are under way, which is the limit (limits.connections).", retry_after_s=1
            )
        if own >= self._limit_per_caller:
            raise Overloaded(
                f"The caller {caller!r} has {own} requests under way. The last tenth of limits.connections"
                " is kept for other callers.",
                retry_after_s=1,
            )


class MemoryBudget:
    """What all requests hold in memory: their bodies, as far as they have arrived, and the replies that are held whole.

    A request that holds no more than SMALL_BYTES is not counted.
    A piece of a body that does not fit is refused. A reply is never refused: reading it waits until it fits. While
    there are several callers, none fills the last tenth of `limit_bytes`. One request of each caller always fits, so a
    caller that holds nothing large is served, and no request waits for ever. So the bound is the limit, one body and
    one reply for each caller, and for each request SMALL_BYTES and a piece.
    """

    def __init__(self, limit_bytes: int, callers: int = 1) -> None:
        self.limit_bytes = limit_bytes
        self.caller_limit_bytes = _limit_per_caller(limit_bytes, callers)
        self.total_bytes = 0
        self.by_caller: dict[str, int] = {}
        self.firsts: dict[str, RequestMemory] = {}
        """That of each caller's request that always fits, until it ends."""
        self.waits: dict[asyncio.Future[None], None] = {}

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
        """Some bytes are free, or a caller has no first request: who waits looks again, the first one first."""
        for wait in self.waits:
            if not wait.done():
                wait.set_result(None)


class RequestMemory:
    """What one request holds. It counts for `caller`, which is set before anything is counted."""

    __slots__ = ("_all", "caller", "held_bytes")

    def __init__(self, held: MemoryBudget, caller: str = "") -> None:
        self._all = held
        self.caller = caller
        self.held_bytes = 0

    def claim(self, size_bytes: int) -> None:
        """Count a piece of the request's body that is here. Raises Overloaded, and counts nothing then."""
        held_bytes = self.held_bytes + size_bytes
        if held_bytes <= SMALL_BYTES:
            self.held_bytes = held_bytes
            return
        if not self._fits(size_bytes):
            held = self._all
            raise Overloaded(
                f"The requests under way hold {held.total_bytes} bytes, {held.by_caller.get(self.caller, 0)} of them"
                " for this caller, and this one does not fit (limits.held_bytes). Send it again when one has ended.",
                retry_after_s=1,
            )
        self.add(size_bytes)

    def add(self, size_bytes: int) -> None:
        """Count a piece of a reply that is here."""
        before_bytes = self.held_bytes
        self.held_bytes = held_bytes = before_bytes + size_bytes
        if held_bytes > SMALL_BYTES:  # a request that is no longer small counts whole
            self._all.add(self.caller, size_bytes if before_bytes > SMALL_BYTES else held_bytes)

    @property
    def is_full(self) -> bool:
        """Whether a reply has to wait for `room` before more of it is read."""
        if self.held_bytes <= SMALL_BYTES or self._all.firsts.get(self.caller) is self:
            return False
        return not self._fits(0)

    def _fits(self, size_bytes: int) -> bool:
        if self.held_bytes + size_bytes <= SMALL_BYTES:
            return True
        held = self._all
        if held.firsts.setdefault(self.caller, self) is self:
            return True
        return held.fits(self.caller, size_bytes if self.held_bytes > SMALL_BYTES else self.held_bytes + size_bytes)

    async def wait_for_room(self) -> None:
        """Wait until more of a reply may be read."""
        held = self._all
        while self.is_full:
            wait = asyncio.get_running_loop().create_future()
            held.waits[wait] = None
            try:
                await wait
            finally:
                del held.waits[wait]

    def release(self) -> None:
        """The request has ended."""
        held_bytes, self.held_bytes = self.held_bytes, 0
        if held_bytes <= SMALL_BYTES:
            return
        held = self._all
        held.remove(self.caller, held_bytes)
        if held.firsts.get(self.caller) is self:
            del held.firsts[self.caller]
        if held.waits:
            held.wake()
