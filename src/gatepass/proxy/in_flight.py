"""Live: the requests under way in one process, and how a drain ends them."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self

from gatepass.cancel import CancelScope, Tasks
from gatepass.clock import Clock, sleep
from gatepass.errors import Draining
from gatepass.proxy.caller_limits import SMALL_BYTES, Concurrency, MemoryBudget, RequestMemory

ERROR_EVENT_S = 2.0
"""How long the streams that a drain ends may take to write their error event."""


class InFlightResponse(Protocol):
    """What a request is under way for."""

    @property
    def is_sent(self) -> bool:
        """Whether the client's connection has taken all of it."""
        ...

    @property
    def connected_before_drain(self) -> bool:
        """Whether the request came on a connection that was open before new ones were refused."""
        ...


class InFlightRequests:
    """The requests under way in this process, and whether new ones may come."""

    def __init__(self, limit: int, callers: int = 1, held_bytes: int = 512 * 1024 * 1024) -> None:
        self.tasks = Tasks()
        self.held = MemoryBudget(held_bytes, callers)
        self.draining = False
        """Whether this process stops: /readyz is red, and each answer closes its connection."""
        self.refusing = False
        """Whether requests on new connections are refused; it follows `draining`."""
        self._concurrency = Concurrency(limit, callers)
        self._places: set[InFlightRequest] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        """That of all requests, known from the first one on: to ask for it costs each of them a system call."""
        self._idle = asyncio.Event()
        """Set while a drain finds nothing under way."""
        self._hurried = asyncio.Event()

    @property
    def busy(self) -> int:
        """How many requests are under way."""
        return len(self._places)

    def admit(self, reply: InFlightResponse) -> InFlightRequest:
        """A place for one request, held by a `with` block; raises Draining where there is none.

        It counts against no limit before `InFlightRequest.claim`: until then nobody knows whose request it is.
        """
        if self.refusing and not reply.connected_before_drain:
            raise Draining("gatepass is stopping. Send the request again: another instance takes it.", retry_after_s=1)
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        return InFlightRequest(self, reply, self._concurrency, loop)

    def enter(self, request: InFlightRequest) -> None:
        self._places.add(request)

    def remove(self, request: InFlightRequest) -> None:
        self._places.discard(request)
        if self.draining and not self._places:
            self._idle.set()

    async def delay(self, clock: Clock, delay_s: float) -> None:
        """Begin to drain: serve on for `delay_s` or until `hurry`, then refuse requests on new connections."""
        self.draining = True
        if delay_s:
            await self._first_of(clock, delay_s, self._hurried)
        self.refusing = True

    async def drain(self, clock: Clock, bound_s: float) -> int:
        """Let what runs end by itself for `bound_s` or until `hurry`, then end the rest; returns how many that were."""
        self.draining = self.refusing = True
        if self._places:
            self._idle.clear()
        else:
            self._idle.set()
        if await self._idle_within(clock, bound_s, self._hurried):
            return 0
        rest = [request for request in self._places if not request.is_answered]
        for request in rest:
            request.cancel(Draining("gatepass stopped before the answer was complete."))
        await self._idle_within(clock, ERROR_EVENT_S, asyncio.Event())
        return len(rest)

    def end_now(self) -> None:
        """A drain that is under way waits no longer."""
        self._hurried.set()

    @property
    def is_hurried(self) -> bool:
        return self._hurried.is_set()

    async def _idle_within(self, clock: Clock, bound_s: float, hurried: asyncio.Event) -> bool:
        await self._first_of(clock, bound_s, self._idle, hurried)
        return self._idle.is_set()

    @staticmethod
    async def _first_of(clock: Clock, bound_s: float, *events: asyncio.Event) -> None:
        """Return when one of `events` is set, or after `bound_s`."""
        waits = [asyncio.create_task(wait) for wait in (sleep(clock, bound_s), *(event.wait() for event in events))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


class InFlightRequest(CancelScope):
    """One of the requests under way, on its leash. Nothing ends it any more when its reply is out: neither the client
    that leaves with it, nor a deadline, nor a drain.

    Its base is named and not asked of `super()`, which makes an object each time."""

    def __init__(
        self,
        in_flight: InFlightRequests,
        reply: InFlightResponse,
        concurrency: Concurrency,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._live = in_flight
        self._loop = loop
        self._reply = reply
        self._concurrency = concurrency
        self._caller: str | None = None
        self.memory = RequestMemory(in_flight.held)

    def claim(self, caller: str, max_concurrent: int | None) -> None:
        """Count the request for `caller` until it ends. Raises ConcurrencyLimited and Overloaded."""
        self._concurrency.claim(caller, max_concurrent)
        self._caller = self.memory.caller = caller

    @property
    def is_answered(self) -> bool:
        return self._reply.is_sent

    def cancel(self, reason: BaseException) -> None:
        if not self._reply.is_sent:
            super().cancel(reason)

    def __enter__(self) -> Self:
        CancelScope.__enter__(self)
        self._live.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._caller is not None:
            self._concurrency.release(self._caller)
        if self.memory.held_bytes > SMALL_BYTES:
            self.memory.release()
        self._live.remove(self)
        CancelScope.__exit__(self, kind, error, trace)
