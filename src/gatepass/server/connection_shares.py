"""Shares of client connections, and of the memory for their unfinished heads.

Without I/O: `now_s` is an argument, and the code that calls closes the connections that a call returns. A connection
is any hashable object.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

C = TypeVar("C")

IDLE_S = 1.0
"""Time for a new client to send its request. A lack of file descriptors closes no younger connection."""

AT_ONCE = 100
"""Maximum number of connections that one call closes. That takes 2 ms. The next calls close the rest."""


class ConnectionShares(Generic[C]):
    """Decides which connections close when too many are open: those that are idle longest.

    A new connection is always accepted. Callers with a key have a share of `connections`, and one more for each of
    `callers`: a connection belongs to it after the first request that was authenticated. `unauthenticated` more are for
    the others, which also use the free part of the callers' share. They close first, whether idle or not.
    """

    def __init__(self, connections: int, unauthenticated: int, callers: int) -> None:
        self._callers_limit = connections + callers
        self._unauthenticated_limit = unauthenticated
        self._unauthenticated: OrderedDict[C, float] = OrderedDict()
        """When each connection without a caller was active. The one that is idle longest is first, as in the others."""
        self._callers: set[C] = set()
        self._idle: OrderedDict[C, None] = OrderedDict()
        """Those of `_callers` without a request in progress."""

    def set_callers(self, connections: int, callers: int) -> None:
        """Adjust the share of callers after a reload."""
        self._callers_limit = connections + callers

    def __len__(self) -> int:
        return len(self._unauthenticated) + len(self._callers)

    def connect(self, connection: C, now_s: float) -> list[C]:
        """Count a new connection, and return those to close."""
        self._unauthenticated[connection] = now_s
        return self._make_room(len(self) - self._callers_limit - self._unauthenticated_limit, now_s)

    def begin(self, connection: C) -> bool:
        """Record that a request has begun. Return False, and do nothing, if `connection` belongs to no caller."""
        if connection not in self._callers:
            return False
        self._idle.pop(connection, None)
        return True

    def touch(self, connection: C, now_s: float) -> None:
        """Record that a request on `connection`, which belongs to no caller, has begun or ended."""
        if self._unauthenticated.pop(connection, None) is not None:  # it may be closed already
            self._unauthenticated[connection] = now_s

    def authenticate(self, connection: C) -> list[C]:
        """Record that the request on `connection` was accepted; return the connections to close."""
        if self._unauthenticated.pop(connection, None) is None:
            return []  # it is a caller's, or closed already
        self._callers.add(connection)
        closing = next(iter(self._idle), None)
        if len(self._callers) <= self._callers_limit or closing is None:
            return []
        self.disconnect(closing)
        return [closing]

    def end(self, connection: C) -> bool:
        """Record that a response is complete. Return False, and do nothing, if `connection` belongs to no caller."""
        if connection not in self._callers:
            return False
        self._idle[connection] = None
        return True

    def relieve(self, now_s: float) -> list[C]:
        """Return connections to close because no file descriptor is free: those that close first above the shares."""
        return self._make_room(AT_ONCE, now_s - IDLE_S)

    def disconnect(self, connection: C) -> None:
        self._unauthenticated.pop(connection, None)
        self._callers.discard(connection)
        self._idle.pop(connection, None)

    def _make_room(self, most: int, since_s: float) -> list[C]:
        """Remove up to `most` connections without a caller that were not active after `since_s`, and return them."""
        closing: list[C] = []
        while len(closing) < min(most, AT_ONCE) and self._unauthenticated:
            oldest = next(iter(self._unauthenticated))
            if self._unauthenticated[oldest] > since_s:
                break
            closing.append(oldest)
            del self._unauthenticated[oldest]
        return closing


@dataclass(slots=True)
class UnfinishedHeads:
    """The bytes of the request heads that have not arrived completely, at most `limit_bytes` together."""

    limit_bytes: int
    total_bytes: int = 0
