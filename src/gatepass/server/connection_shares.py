"""Shares of client connections, and of the memory for their unfinished heads.

Without I/O: the code that calls closes the connections that a call returns. A connection is any hashable object.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

C = TypeVar("C")

AT_ONCE = 100
"""Maximum number of connections that one call closes. That takes 2 ms. The next calls close the rest."""

RELIEVED = 10
"""How many close at once if no file descriptor is free."""


class ConnectionShares(Generic[C]):
    """Decides which connections close when too many are open: those that are idle longest.

    A new connection is always accepted. Callers with a key have a share of `connections`, and one more for each of
    `callers`: a connection belongs to it after the first request that was authenticated. `unauthenticated` more are for
    the others, which also use the free part of the callers' share. They close first, whether idle or not.
    """

    def __init__(self, connections: int, unauthenticated: int, callers: int) -> None:
        self._callers_limit = connections + callers
        self._unauthenticated_limit = unauthenticated
        self._unauthenticated: OrderedDict[C, None] = OrderedDict()
        """Those without a caller. The one that is idle longest is first, as in the others."""
        self._callers: set[C] = set()
        self._idle: OrderedDict[C, None] = OrderedDict()
        """Those of `_callers` without a request in progress."""

    def set_callers(self, connections: int, callers: int) -> None:
        """Adjust the share of callers after a reload."""
        self._callers_limit = connections + callers

    def __len__(self) -> int:
        return len(self._unauthenticated) + len(self._callers)

    def connect(self, connection: C) -> list[C]:
        """Count a new connection, and return those to close."""
        self._unauthenticated[connection] = None
        more = len(self) - self._callers_limit - self._unauthenticated_limit
        return self.make_room(more) if more > 0 else []

    def begin(self, connection: C) -> None:
        """Record that a request has begun."""
        self._idle.pop(connection, None)
        if connection in self._unauthenticated:  # it may be closed already
            self._unauthenticated.move_to_end(connection)

    def authenticate(self, connection: C) -> list[C]:
        """Record that the request on `connection` was accepted; return the connections to close."""
        if connection not in self._unauthenticated:
            return []  # it is a caller's, or closed already
        del self._unauthenticated[connection]
        self._callers.add(connection)
        closing = next(iter(self._idle), None)
        if len(self._callers) <= self._callers_limit or closing is None:
            return []
        self.disconnect(closing)
        return [closing]

    def end(self, connection: C) -> None:
        """Record that a response is complete."""
        if connection in self._callers:
            self._idle[connection] = None
        elif connection in self._unauthenticated:
            self._unauthenticated.move_to_end(connection)

    def disconnect(self, connection: C) -> None:
        self._unauthenticated.pop(connection, None)
        self._callers.discard(connection)
        self._idle.pop(connection, None)

    def make_room(self, most: int) -> list[C]:
        """Remove up to `most` connections without a caller, and return them."""
        closing = [*islice(self._unauthenticated, max(0, min(most, AT_ONCE)))]
        for connection in closing:
            del self._unauthenticated[connection]
        return closing


@dataclass(slots=True)
class UnfinishedHeads:
    """The bytes of the request heads that have not arrived completely, at most `limit_bytes` together."""

    limit_bytes: int
    total_bytes: int = 0
