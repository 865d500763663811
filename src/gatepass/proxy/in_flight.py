"""The requests in flight in one process: admission, cancellation, and the drain at shutdown.

`InFlightRequests.admit` returns an `InFlightRequest`, which counts against the limits of `caller_limits` and can be
cancelled with a reason.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self

from gatepass.cancel import CancelScope, Tasks
from gatepass.clock import Clock, sleep
from gatepass.errors import Draining
from gatepass.proxy.caller_limits import SMALL_BYTES, Concurrency, MemoryBudget, RequestMemory

CHECK_CURRENT_S = 1.0
"""How often `wait_for_current` looks. Requests that were received but not yet admitted are admitted by then."""
ERROR_EVENT_S = 2.0
"""Time that the streams ended by a drain have to write their error event."""


class InFlightResponse(Protocol):
    """The response of a request in flight."""

    @property
    def is_sent(self) -> bool:
        """Whether the client's connection has accepted all of its bytes."""
        ...

    @property
    def connected_before_drain(self) -> bool:
        """Whether the connection was open before gatepass began to refuse new ones."""
        ...

    @property
    def metrics_key(self) -> tuple[str, str, str, str]:
        """The caller, model, upstream and operation of the request, each "" until it is known."""
        ...


class InFlightRequests:
    """The requests in flight in this process, and whether new ones are admitted."""

    def __init__(self, limit: int, callers: int = 1, held_bytes: int = 512 * 1024 * 1024) -> None:
        self.tasks = Tasks()
        self.held = MemoryBudget(held_bytes, callers)
        self.draining = False
        """Whether this process is stopping: /readyz fails, and each response closes its connection."""
        self.refusing = False
        """Whether requests on new connections are refused; set some time after `draining`."""
        self._concurrency = Concurrency(limit, callers)
        self.requests: set[InFlightRequest] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop, kept from the first request on: to look it up costs a system call per request."""
        self._idle = asyncio.Event()
        """Set during a drain when no request is in flight."""
        self._end_now = asyncio.Event()

    @property
    def busy(self) -> int:
        """The number of requests in flight."""
        return len(self.requests)

    def metrics_keys(self) -> list[tuple[str, str, str, str]]:
        """Return `InFlightResponse.metrics_key` of each request in flight."""
        return [request.response.metrics_key for request in self.requests]

    def admit(self, response: InFlightResponse) -> InFlightRequest:
        """Return a context manager that registers one request while its block runs.

        The request counts against the limits from `InFlightRequest.claim` on, when its caller is known.
        Raises: Draining if this process refuses new requests.
        """
        if self.refusing and not response.connected_before_drain:
            raise Draining("gatepass is stopping. Retry the request: another instance can serve it.", retry_after_s=1)
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        return InFlightRequest(self, response, self._concurrency, loop)

    def note_end(self) -> None:
        """A request has ended during a drain."""
        if not self.requests:
            self._idle.set()

    async def delay(self, clock: Clock, delay_s: float) -> None:
        """Start to drain: serve for `delay_s` or until `end_now`, then refuse requests on new connections."""
        self.draining = True
        if delay_s:
            await self._first_of(clock, delay_s, self._end_now)
        self.refusing = True

    async def drain(self, clock: Clock, bound_s: float) -> int:
        """Wait up to `bound_s`, or until `end_now`, for requests to end. Cancel the rest and return their number."""
        self.draining = self.refusing = True
        if self.requests:
            self._idle.clear()
        else:
            self._idle.set()
        if await self._idle_within(clock, bound_s, self._end_now):
            return 0
        # a request whose response is sent but not yet closed needs no error event
        rest = [request for request in self.requests if not request.is_answered]
        for request in rest:
            request.cancel(Draining("gatepass stopped before the response was complete."))
        # an event that is never set: a second signal does not cut off the error events
        await self._idle_within(clock, ERROR_EVENT_S, asyncio.Event())
        return len(rest)

    async def wait_for_current(self, clock: Clock, bound_s: float) -> None:
        """Wait up to `bound_s` until every request that was received before this call has ended."""
        until_s = clock.now() + bound_s
        await sleep(clock, CHECK_CURRENT_S)
        current = set(self.requests)
        while current and clock.now() < until_s:
            await sleep(clock, CHECK_CURRENT_S)
            current &= self.requests

    def set_callers(self, callers: int) -> None:
        """Adjust the limits of each caller after a reload: with several callers a tenth is reserved."""
        self._concurrency.set_callers(callers)
        self.held.set_callers(callers)

    def end_now(self) -> None:
        """End the wait of the current drain."""
        self._end_now.set()

    @property
    def is_hurried(self) -> bool:
        return self._end_now.is_set()

    async def _idle_within(self, clock: Clock, bound_s: float, end_now: asyncio.Event) -> bool:
        await self._first_of(clock, bound_s, self._idle, end_now)
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
    """One request in flight, cancelled by a client disconnect, a deadline or a drain.

    A request whose response was sent completely is not cancelled any more.
    """

    def __init__(
        self,
        in_flight: InFlightRequests,
        response: InFlightResponse,
        concurrency: Concurrency,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._in_flight = in_flight
        self._loop = loop
        self.response = response
        self._concurrency = concurrency
        self._caller: str | None = None
        self.memory = RequestMemory(in_flight.held)

    def claim(self, caller: str, max_concurrent: int | None) -> None:
        """Count the request for `caller` until it ends.

        Raises: ConcurrencyLimited, Overloaded.
        """
        self._concurrency.claim(caller, max_concurrent)
        self._caller = self.memory.caller = caller

    @property
    def is_answered(self) -> bool:
        return self.response.is_sent

    def cancel(self, reason: BaseException) -> None:
        if not self.response.is_sent:
            super().cancel(reason)

    def __enter__(self) -> Self:
        CancelScope.__enter__(self)  # `super()` would create an object for each request
        self._in_flight.requests.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._caller is not None:
            self._concurrency.release(self._caller)
        if self.memory.held_bytes > SMALL_BYTES:  # most requests hold less and save the call
            self.memory.release()
        in_flight = self._in_flight
        in_flight.requests.discard(self)
        if in_flight.draining:
            in_flight.note_end()
        CancelScope.__exit__(self, kind, error, trace)
