"""Who gets the next place at a full upstream: in order within a caller, deficit round robin between callers.

See Shreedhar and Varghese, "Efficient Fair Queueing Using Deficit Round Robin" (1995). Each request costs 1, and the
quantum of a caller is its weight, so that each turn serves at least one request. Every operation takes constant time,
except that of a ticket for which there is no room.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Ticket = TypeVar("Ticket")


class FairQueue(Generic[Ticket]):
    """The requests that hold one of the `limit` places of an upstream, and those that wait for one.

    A ticket is any hashable object that stands for one request. It holds, it waits, or the queue does not know it.
    Nothing waits while a place is free. Nothing of a caller stays after its last waiting ticket.
    """

    def __init__(self, limit: int | None = None, most_waiting: int = 0) -> None:
        """`limit` None: there is always a place."""
        self.limit = limit
        self.most_waiting = most_waiting
        self.holding: set[Ticket] = set()
        self.waiting: dict[Ticket, _Line[Ticket]] = {}
        self._lines: OrderedDict[str, _Line[Ticket]] = OrderedDict()
        """By caller. The first line has its turn."""

    @property
    def is_full(self) -> bool:
        return self.limit is not None and len(self.holding) >= self.limit

    def enter(self, ticket: Ticket, caller: str, weight: int) -> Ticket | None:
        """Let `ticket` hold a free place, or wait for one. A ticket that does either already stays as it is.

        Return the ticket that the queue now has no room for: `ticket`, or the last one of the caller whose tickets need
        the most turns, if the new ticket needs fewer. None for nearly all.
        """
        if ticket in self.holding or ticket in self.waiting:
            return None
        if not self.is_full:
            self.holding.add(ticket)
            return None
        line, refused = self._lines.get(caller) or _Line(caller, weight), None
        if len(self.waiting) >= self.most_waiting:
            longest = max(self._lines.values(), key=_Line.turns, default=line)
            if line.turns(1) >= longest.turns():
                return ticket
            self._remove(refused := next(reversed(longest.tickets)))
        self._lines[caller] = self.waiting[ticket] = line
        line.tickets[ticket] = None
        return refused

    def leave(self, ticket: Ticket) -> Ticket | None:
        """Remove `ticket`, which may be unknown. Return the ticket that holds its place now, if any."""
        if ticket in self.waiting:
            self._remove(ticket)
        self.holding.discard(ticket)
        return self.grant()

    def grant(self) -> Ticket | None:
        """Give a free place to the ticket whose turn it is. Return that ticket, None if none waits or all is full."""
        if not self.waiting or self.is_full:
            return None
        line = next(iter(self._lines.values()))
        line.deficit = (line.deficit or line.weight) - 1
        ticket = next(iter(line.tickets))
        self._remove(ticket)
        if line.tickets and not line.deficit:
            self._lines.move_to_end(line.caller)
        self.holding.add(ticket)
        return ticket

    def _remove(self, ticket: Ticket) -> None:
        line = self.waiting.pop(ticket)
        del line.tickets[ticket]
        if not line.tickets:
            del self._lines[line.caller]


class _Line(Generic[Ticket]):
    """The waiting tickets of one caller, the first one first."""

    __slots__ = ("caller", "deficit", "tickets", "weight")

    def __init__(self, caller: str, weight: int) -> None:
        self.caller = caller
        self.weight = weight
        self.tickets: OrderedDict[Ticket, None] = OrderedDict()
        self.deficit = 0
        """How many more tickets it may be served in its turn, 0 between turns."""

    def turns(self, more: int = 0) -> int:
        """Return how many turns it needs, with `more` tickets."""
        return -(-(len(self.tickets) + more) // self.weight)
