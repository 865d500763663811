"""Live: the requests under way in one process, and how a drain ends them."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self

from gatepass.errors import Draining, Overloaded
from gatepass.runtime import Clock, Leash, Tasks, sleep

LAST_WORDS_S = 2.0
"""How long the streams that a drain ends may take to write their error event."""


class Reply(Protocol):
    """What a request is under way for."""

    @property
    def is_out(self) -> bool:
        """Whether the client's connection has taken all of it."""
        ...


class Live:
    """The requests under way in this process, and whether new ones may come."""

    def __init__(self, limit: int) -> None:
        self.tasks = Tasks()
        self.draining = False
        self._limit = limit
        self._places: set[Place] = set()
        """That of all requests, known from the first one on."""
        self._idle = asyncio.Event()
        """Set while a drain finds nothing under way."""
        self._hurried = asyncio.Event()

    @property
    def busy(self) -> int:
        """How many requests are under way."""
        return len(self._places)

    def admit(self, reply: Reply) -> Place:
        """A place for one request, held by a `with` block; raises Draining or Overloaded where there is none."""
        if self.draining:
            raise Draining("gatepass is stopping. Send the request again: another instance takes it.", retry_after_s=1)
        if len(self._places) >= self._limit:
            raise Overloaded(
                f"{self._limit} requests are under way, which is the limit (limits.connections).", retry_after_s=1
            )
        return Place(self, reply)

    def enter(self, place: Place) -> None:
        self._places.add(place)

    def leave(self, place: Place) -> None:
        self._places.discard(place)
        if self.draining and not self._places:
            self._idle.set()

    async def drain(self, clock: Clock, bound_s: float) -> int:
        """Let what runs end by itself for `bound_s` or until `hurry`, then end the rest; returns how many that were."""
        self.draining = True
        if not self._places:
            self._idle.set()
        if await self._idle_within(clock, bound_s, self._hurried):
            return 0
        rest = [place for place in self._places if not place.is_answered]
        for place in rest:
            place.pull(Draining("gatepass stopped before the answer was complete."))
        await self._idle_within(clock, LAST_WORDS_S, asyncio.Event())
        return len(rest)

    def hurry(self) -> None:
        """A drain that is under way waits no longer."""
        self._hurried.set()

    async def _idle_within(self, clock: Clock, bound_s: float, hurried: asyncio.Event) -> bool:
        waits = [asyncio.create_task(wait) for wait in (self._idle.wait(), sleep(clock, bound_s), hurried.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._idle.is_set()


class Place(Leash):
    """One of the requests under way, on its leash. Nothing ends it any more when its reply is out: neither the client
    that leaves with it, nor a deadline, nor a drain."""

    def __init__(self, live: Live, reply: Reply) -> None:
        self._live = live
        self._reply = reply

    @property
    def is_answered(self) -> bool:
        return self._reply.is_out

    def pull(self, reason: BaseException) -> None:
        if not self._reply.is_out:
            super().pull(reason)

    def __enter__(self) -> Self:
        super().__enter__()
        self._live.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.leave(self)
        super().__exit__(kind, error, trace)
