"""The requests in flight in one process: admission, limits, cancellation, and the drain at shutdown.

An `InFlightRequest` can be cancelled with a reason. Two limits apply to it: requests of each caller (`Concurrency`) and
bytes held in memory (`MemoryBudget`). While several callers are configured, a tenth of each limit is reserved, so that
no caller can block the others.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from gatepass.auth.caller import Caller
from gatepass.cancel import CancelScope, Tasks, first_of
from gatepass.clock import Clock, sleep
from gatepass.config.advice import with_variable
from gatepass.errors import ClientGone, Draining, NotAllowed, Overloaded

if TYPE_CHECKING:
    from gatepass.proxy.client_response import ClientResponse, KeepAlive

STOPPING = "gatepass is stopping. Retry the request: another instance can serve it."
CHECK_CURRENT_S = 1.0
"""How often `wait_for_current` looks. Requests that were received but not yet admitted are admitted by then."""
KEEP_ALIVE_CHECK_S = 1.0
"""How often gatepass looks which keep-alives are due next."""
ERROR_EVENT_S = 2.0
"""Time that the streams ended by a drain have to write their error event."""

RESERVED_SHARE = 0.1
"""The share of `limits.connections` and of `limits.held_bytes` that no single caller can use."""

FREE_BYTES = 64 * 1024
"""A request holding at most this much is not counted, so it never waits for clients that read large replies slowly."""


class InFlightRequests:
    """The requests in flight in this process, and whether new ones are admitted."""

    def __init__(self, limit: int, callers: int = 1, held: MemoryBudget | None = None) -> None:
        self.tasks = Tasks()
        self.held = held or MemoryBudget(512 * 1024 * 1024, callers)
        self.draining = False
        """Whether this process is stopping: /readyz fails, and each response closes its connection."""
        self.refusing = False
        """Whether requests on new connections are refused; set some time after `draining`."""
        self.concurrency = Concurrency(limit, callers)
        self.idle_streams: set[InFlightRequest] = set()
        """Streams that may wait for events for hours. They end with `end_idle_streams`."""
        self.requests: set[InFlightRequest] = set()
        self.keep_alives: set[KeepAlive] = set()
        """Those of the clients that wait for a stream."""
        self._checks_keep_alives = False
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop, kept from the first request on: to look it up costs a system call per request."""
        self.idle = asyncio.Event()
        """Set during a drain when no request is in flight."""
        self.end_now = asyncio.Event()
        """Set it to end the wait of the current drain."""

    @property
    def busy(self) -> int:
        return len(self.requests)

    def add_keep_alive(self, keep_alive: KeepAlive, clock: Clock) -> None:
        """Send it whenever it is due, until it is removed from `keep_alives`.

        It gets a timer for its last second alone: one for each request would nearly always be cancelled.
        """
        self.keep_alives.add(keep_alive)
        if not self._checks_keep_alives:
            self._checks_keep_alives = True
            clock.call_later(KEEP_ALIVE_CHECK_S, partial(self._check_keep_alives, clock))

    def _check_keep_alives(self, clock: Clock) -> None:
        now_s = clock.now()
        for keep_alive in self.keep_alives:
            if keep_alive.timer is None and keep_alive.due_s < now_s + KEEP_ALIVE_CHECK_S:
                keep_alive.timer = clock.call_later(max(0.0, keep_alive.due_s - now_s), keep_alive.send)
        self._checks_keep_alives = bool(self.keep_alives)
        if self._checks_keep_alives:
            clock.call_later(KEEP_ALIVE_CHECK_S, partial(self._check_keep_alives, clock))

    async def begin_drain(self, clock: Clock, delay_s: float) -> None:
        """Start to drain: serve for `delay_s` or until `end_now` is set, then refuse requests on new connections.

        Idle streams end at once, because their clients can open them again elsewhere.
        """
        self.draining = True
        self.end_idle_streams("gatepass is stopping")
        if delay_s:
            await first_of(sleep(clock, delay_s), self.end_now.wait())
        self.refusing = True

    def end_idle_streams(self, why: str) -> None:
        """End each idle stream without an error: its client opens it again, with a key that is valid then."""
        for request in tuple(self.idle_streams):
            request.cancel(Draining(f"{why}. Open the stream again."))

    async def drain(self, clock: Clock, bound_s: float) -> int:
        """Wait up to `bound_s`, or until `end_now`, for requests to end. Cancel the rest and return their number."""
        self.draining = self.refusing = True
        if self.requests:
            self.idle.clear()
        else:
            self.idle.set()
        if await self._idle_within(clock, bound_s, self.end_now):
            return 0
        # a request whose response is sent but not yet closed needs no error event
        rest = [request for request in self.requests if not request.response.is_sent]
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
        self.concurrency.set_callers(callers)
        self.held.set_callers(callers)

    async def _idle_within(self, clock: Clock, bound_s: float, end_now: asyncio.Event) -> bool:
        await first_of(sleep(clock, bound_s), self.idle.wait(), end_now.wait())
        return self.idle.is_set()


class InFlightRequest(CancelScope):
    """One request in flight while its block runs, cancelled by a client disconnect, a deadline or a drain.

    The limits apply from `begin` on, when its caller is known. A request whose response was sent completely is not
    cancelled any more. To enter it raises Draining if this process refuses new requests.
    """

    def __init__(self, in_flight: InFlightRequests, response: ClientResponse) -> None:
        self._in_flight = in_flight
        self.response = response
        self._caller: str | None = None
        self.memory = RequestMemory(in_flight.held)

    def begin(self, caller: Caller) -> None:
        """Count the request for `caller`, who was authenticated, until it ends or its client disconnects.

        Raises: Overloaded.
        """
        identity, cycle = caller.identity, self.response.cycle
        self._in_flight.concurrency.claim(identity)
        self._caller = self.memory.caller = identity
        cycle.set_caller(identity)  # at last: a refused request must not use a connection of the caller's share

    async def verify(self) -> None:
        """Verify the caller's token. Raises as `Authenticator.prepare`."""
        context = self.response.context
        try:
            context.known = await context.state.authenticator.prepare(
                context.client_request, context.state.clock.wall()
            )
        except NotAllowed:  # it is verified, and no row is for it: its error names the issuer
            context.access.auth = "jwt"
            raise

    def begin_idle_stream(self) -> None:
        """The request is a stream that may wait for events for hours. Raises Draining if a drain has begun."""
        if self._in_flight.draining:
            raise Draining(STOPPING, retry_after_s=1)
        self._in_flight.idle_streams.add(self)

    def cancel(self, reason: BaseException | None = None) -> None:
        """Cancel it for `reason`, by default because its client has gone, unless its response is sent."""
        if not self.response.is_sent:
            super().cancel(reason or ClientGone())

    def __enter__(self) -> Self:
        in_flight = self._in_flight
        # on an open connection, the client may have sent the request before the drain
        if in_flight.refusing and not self.response.cycle.connected_before_drain:
            raise Draining(STOPPING, retry_after_s=1)
        if in_flight.loop is None:
            in_flight.loop = asyncio.get_running_loop()
        in_flight.requests.add(self)
        self._task = asyncio.current_task(in_flight.loop)  # a new task: no earlier cancellation
        self.response.cycle.on_disconnect(self.cancel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        in_flight = self._in_flight
        if self._caller is not None:
            in_flight.concurrency.release(self._caller)
        in_flight.requests.discard(self)
        in_flight.idle_streams.discard(self)
        if in_flight.draining and not in_flight.requests:
            in_flight.idle.set()
        if self._reason is None:  # nearly always: saves the call
            self._task = None
        else:
            CancelScope.__exit__(self, kind, error, trace)  # last, because it raises the reason


def _limit_per_caller(limit: int, callers: int) -> int:
    return limit if callers <= 1 else limit - math.ceil(limit * RESERVED_SHARE)


class Concurrency:
    """The number of requests in flight of each caller, and the check whether one more is admitted.

    A caller without a request in flight is admitted beyond `limit`, as long as at most one request of each of the
    configured callers exceeds it: callers by tokens may be more. With several callers, none can use the last tenth of
    `limit`.
    """

    def __init__(self, limit: int, callers: int) -> None:
        self._limit = limit
        self.by_caller: dict[str, int] = {}
        self._total = 0
        self.set_callers(callers)

    def set_callers(self, callers: int) -> None:
        self._limit_per_caller, self._limit_of_first = _limit_per_caller(self._limit, callers), self._limit + callers

    def claim(self, caller: str) -> None:
        """Count one more request of `caller`. Raises Overloaded. The request is then not counted."""
        own = self.by_caller.get(caller, 0)
        if self._total >= (self._limit if own else self._limit_of_first):
            limit = with_variable("limits.connections")
            raise Overloaded(f"The limit of {self._limit} requests in flight is reached ({limit}).", retry_after_s=1)
        if own and own >= self._limit_per_caller:
            raise Overloaded(
                f"This caller has {own} requests in flight. The last tenth of"
                f" {with_variable('limits.connections')} is reserved for other callers.",
                retry_after_s=1,
            )
        self.by_caller[caller] = own + 1
        self._total += 1

    def release(self, caller: str) -> None:
        self._total -= 1
        own = self.by_caller[caller]
        if own > 1:
            self.by_caller[caller] = own - 1
        else:
            del self.by_caller[caller]


class MemoryBudget:
    """The bytes that requests hold: the part of `limits.held_bytes` that is not for unfinished heads.

    They are bodies, whole replies, unfinished events, and what was read of streams whose clients read slowly. A request
    that holds at most FREE_BYTES is not counted. A body that does not fit is rejected. A reply or an event that does
    not fit waits at the upstream.

    The oldest of all always fits, so none waits forever, and counts apart. Another one fits as long as the others hold
    at most `shared_bytes`, and, with several callers, those of its caller at most nine tenths of that. The oldest of
    each caller may use the rest of `limit_bytes` too: a caller is served while others hold as much as they may.

    The upper bound is `limit_bytes`, one body and one reply, and FREE_BYTES and one piece per request. Unfinished
    heads have their own part of `limits.held_bytes` (`UnfinishedHeads` in server/connection_shares.py).
    """

    def __init__(self, limit_bytes: int, callers: int = 1, first_bytes: int = 0) -> None:
        """`first_bytes` is the size of the largest request: a body and a reply."""
        self.limit_bytes = limit_bytes
        self._first_bytes = first_bytes
        self.total_bytes = 0
        self.by_caller: dict[str, int] = {}
        self.large: dict[RequestMemory, None] = {}
        """The requests that are counted, oldest first."""
        self.waits: dict[asyncio.Future[None], None] = {}  # an ordered set: the longest wait is woken first
        self.stalled: dict[RequestMemory, Callable[[], None]] = {}
        """The streams whose client does not read, with the function that ends each, longest stall first."""
        self.set_callers(callers)

    def set_callers(self, callers: int) -> None:
        self.shared_bytes = self.limit_bytes - min(self.limit_bytes // 2, callers * self._first_bytes)
        self.caller_limit_bytes = _limit_per_caller(self.shared_bytes, callers)

    def add(self, caller: str, size_bytes: int) -> None:
        """Count `size_bytes` more, or fewer if negative. Requests that wait for them then check again, in order."""
        self.total_bytes += size_bytes
        own_bytes = self.by_caller.get(caller, 0) + size_bytes
        if own_bytes:
            self.by_caller[caller] = own_bytes
        else:
            self.by_caller.pop(caller, None)
        if size_bytes < 0:
            for wait in self.waits:
                if not wait.done():
                    wait.set_result(None)

    def hold(self, size_bytes: int) -> bool:
        """Count `size_bytes` more that gatepass itself keeps, or fewer if negative. Return False if they do not fit."""
        if size_bytes > 0 and not self.fits("", size_bytes):
            return False
        self.add("", size_bytes)
        return True

    def fits(self, caller: str, size_bytes: int, *, is_first: bool = False) -> bool:
        """Return whether `size_bytes` more fit. `is_first`: they are of the oldest large request of the caller."""
        total_bytes, own_bytes = self.total_bytes + size_bytes, self.by_caller.get(caller, 0) + size_bytes
        if (oldest := next(iter(self.large), None)) is not None:
            total_bytes -= oldest.held_bytes
            own_bytes -= oldest.held_bytes * (oldest.caller == caller)
        if is_first:
            return total_bytes <= self.limit_bytes
        return total_bytes <= self.shared_bytes and own_bytes <= self.caller_limit_bytes


class RequestMemory(msgspec.Struct, eq=False):
    """The bytes that one request holds. Set `caller` before the first call of a method."""

    _budget: MemoryBudget
    caller: str = ""
    held_bytes: int = 0
    stream_bytes: int = 0

    def claim(self, size_bytes: int) -> None:
        """Count a received piece of the request body, or a copy of the body.

        Raises: Overloaded. The piece is then not counted.
        """
        held_bytes = self.held_bytes + size_bytes
        if held_bytes <= FREE_BYTES:
            self.held_bytes = held_bytes
            return
        if not self._fits(size_bytes):
            budget, caller_bytes = self._budget, self._budget.by_caller.get(self.caller, 0)
            raise Overloaded(
                f"The requests in flight hold {budget.total_bytes} bytes, {caller_bytes} of them"
                f" for this caller. This request does not fit ({with_variable('limits.held_bytes')})."
                " Retry when another one has ended.",
                retry_after_s=1,
            )
        self.add(size_bytes)

    def add(self, size_bytes: int) -> None:
        """Count a received piece of a reply. A negative size gives bytes back."""
        before_bytes = self.held_bytes
        self.held_bytes = held_bytes = before_bytes + size_bytes
        if held_bytes <= FREE_BYTES and before_bytes <= FREE_BYTES:
            return
        if held_bytes > FREE_BYTES:  # then all of its bytes are counted
            self._budget.large[self] = None
        else:
            self._budget.large.pop(self, None)
        self._budget.add(self.caller, _counted(held_bytes) - _counted(before_bytes))

    def hold_of_stream(self, size_bytes: int) -> None:
        """Set how much of a stream is held: an unfinished event, or events that its client has not read."""
        more_bytes, self.stream_bytes = size_bytes - self.stream_bytes, size_bytes
        if more_bytes:
            self.add(more_bytes)

    def begin_stall(self, size_bytes: int, end: Callable[[], None]) -> None:
        """The client does not read its stream, of which `size_bytes` are held. `end` is called if they do not fit.

        Before that, the longest stalled streams of the caller with the most end.
        """
        budget = self._budget
        budget.stalled[self] = end
        self.hold_of_stream(size_bytes)
        while budget.stalled and not self._fits(0):
            most = max(budget.stalled, key=lambda memory: budget.by_caller.get(memory.caller, 0))  # the first of equals
            end = budget.stalled[most]
            most.release()
            end()

    def end_stall(self, size_bytes: int) -> None:
        """The client has read its stream, of which `size_bytes` are held on."""
        self._budget.stalled.pop(self, None)
        self.hold_of_stream(size_bytes)

    def is_full(self) -> bool:
        return self.held_bytes > FREE_BYTES and not self._fits(0)

    def _fits(self, size_bytes: int) -> bool:
        budget, held_bytes = self._budget, self.held_bytes + size_bytes
        more_bytes = held_bytes - _counted(self.held_bytes)
        if held_bytes <= FREE_BYTES or budget.fits(self.caller, more_bytes):
            return True
        first = next((one for one in budget.large if one.caller == self.caller), self)
        is_oldest = next(iter(budget.large), self) is self
        return is_oldest or (first is self and budget.fits(self.caller, more_bytes, is_first=True))

    async def wait_for_room(self) -> None:
        budget = self._budget
        while self.is_full():
            wait = asyncio.get_running_loop().create_future()
            budget.waits[wait] = None
            try:
                await wait
            finally:
                del budget.waits[wait]

    def release(self) -> None:
        """Remove all bytes of the request after its end."""
        self._budget.stalled.pop(self, None)
        self.add(-self.held_bytes)
        self.stream_bytes = 0


def _counted(held_bytes: int) -> int:
    return held_bytes if held_bytes > FREE_BYTES else 0
