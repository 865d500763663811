"""`gatepass capture`: keep the whole bodies of chosen requests in memory for a bounded time.

The bodies are the client's request, the request to the upstream, and each reply before gatepass changes it. They are
masked when they are shown, because a token that is renewed later must be masked too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated

import msgspec

from gatepass.clock import Clock, Timer
from gatepass.config.advice import with_variable
from gatepass.documents import Body, CaptureState
from gatepass.errors import GatepassError, Overloaded
from gatepass.json_body import decoded
from gatepass.observability.log import emit
from gatepass.observability.observer import AccessRecord, AttemptRecord, Observer, Observers, RequestRecord
from gatepass.observability.redaction import Redactor
from gatepass.types import Hidden

LOG = logging.getLogger("gatepass.capture")

REQUEST_BYTES = 1024
"""The size that is counted for a captured request in addition to its bodies."""
CUT = "\n[cut by gatepass]"
HELD_BYTES, MOST_BYTES, BODY_BYTES = 16 * 1024 * 1024, 2 * 1024 * 1024, 512 * 1024
"""What is kept of all requests, of one request, and of one body: it is masked at once, for half a second."""
LOST_CHARS = 128 * 1024
"""What a cut body loses at its end, where a secret may be halved. A secret has 64 KiB at most, 88 KiB in base64."""


class CaptureSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The requests to capture, and the time, as `POST /capture` accepts them.

    None: every model, every caller.
    """

    model: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    caller: str | None = None
    for_s: Annotated[float, msgspec.Meta(gt=0, le=24 * 3600)] = 600.0

    def matches(self, model: str, caller: str) -> bool:
        return self.model in (None, model) and self.caller in (None, caller)


class CapturedBody(Hidden, msgspec.Struct, eq=False):
    """A body, or its beginning."""

    data: bytes | bytearray = b""
    is_cut: bool = False

    async def shown(self, redactor: Redactor) -> str:
        """Return the text, masked in a thread. A cut one is without its last LOST_CHARS."""
        text = await asyncio.to_thread(redactor.mask, decoded(bytes(self.data)))
        return text[:-LOST_CHARS] + CUT if self.is_cut else text


class _Exchange(Hidden, msgspec.Struct, eq=False):
    """One request to an upstream. `sent` is None if its body is the client's."""

    sent: CapturedBody | None
    reply: CapturedBody


class CapturedRequest(Hidden, msgspec.Struct, eq=False):
    """One captured request. `request` is None if gatepass does not hold its body, as of a form."""

    request: CapturedBody | None = None
    ended: RequestRecord | None = None
    """Its records, which the inspector may evict earlier. None until the request has ended."""
    exchanges: dict[AttemptRecord, _Exchange] = msgspec.field(default_factory=dict)
    held_bytes: int = 0

    async def bodies(self, redactor: Redactor) -> list[Body]:
        """Return the bodies, with secrets masked: `request`, then each `sent` and each `reply`."""
        exchanges = [*self.exchanges.values()]
        found = [] if self.request is None else [("request", self.request)]
        found += [("sent", one.sent) for one in exchanges if one.sent is not None]
        found += [("reply", one.reply) for one in exchanges]
        return [Body(name, await body.shown(redactor), len(body.data), body.is_cut) for name, body in found]


class Capture(Observer):
    """Captures requests from `start` until its time has passed, or until `stop`. Then nothing of them is kept.

    HELD_BYTES of the budget are held until its end. The oldest requests make room for new ones.
    """

    def __init__(self, clock: Clock, hold: Callable[[int], bool], observers: Observers) -> None:
        """`hold` reserves bytes of the memory budget (`MemoryBudget.hold`)."""
        self._clock = clock
        self._hold = hold
        self._observers = observers
        self._timer: Timer | None = None
        self._ends_s = 0.0
        self.settings: CaptureSettings | None = None
        """None while nothing is captured."""
        self.held_bytes = 0
        self._captured = 0
        self._requests: dict[AccessRecord, CapturedRequest] = {}
        """By the request, oldest first. Not by its id, because clients may use one id for several."""
        self._bodies: dict[AccessRecord, bytes] = {}
        """The bodies of requests in progress. The requests themselves hold and count them."""

    def start(self, settings: CaptureSettings) -> None:
        """Capture from now on. A capture that runs ends, with what it holds. Raises Overloaded."""
        self._end("replaced")
        if not self._hold(HELD_BYTES):
            limit = with_variable("limits.held_bytes")
            raise Overloaded(f"A capture takes 16 MiB of {limit}, and requests in progress take them.")
        self.settings, self._ends_s = settings, self._clock.now() + settings.for_s
        self._timer = self._clock.call_later(settings.for_s, partial(self._end, "expired"))
        self._observers.switch(self, on=True)
        fields = {"model": settings.model, "caller": settings.caller, "for_s": settings.for_s}
        emit(LOG, logging.INFO, "capture_started", fields)

    def stop(self) -> None:
        self._end("stopped")

    def of(self, access: AccessRecord) -> CapturedRequest | None:
        """Return the captured request of `access`, None if it was not captured."""
        return self._requests.get(access)

    def ended(self) -> Iterator[RequestRecord]:
        """Yield the captured requests that have ended, the newest first."""
        yield from (one.ended for one in reversed(self._requests.values()) if one.ended is not None)

    def state(self) -> CaptureState:
        settings, left_s = self.settings, self._ends_s - self._clock.now()
        if settings is None:
            return CaptureState(running=False, held_bytes=self.held_bytes, captured=len(self._requests))
        return CaptureState(
            running=True,
            until=round(self._clock.wall() + left_s, 3),
            left_s=round(left_s, 3),
            model=settings.model,
            caller=settings.caller,
            held_bytes=self.held_bytes,
            captured=len(self._requests),
        )

    # what an observer learns

    def request_body(self, access: AccessRecord, data: bytes) -> None:
        if self.settings is not None and self.settings.caller in (None, access.caller):
            self._bodies[access] = data

    def request_sent(self, attempt: AttemptRecord, body: bytes) -> None:
        access = attempt.access
        if access is None or self.settings is None or not self.settings.matches(attempt.model, access.caller):
            return
        captured = self._requests.get(access) or self._begin(access)
        is_own = not body or body == self._bodies.get(access)
        sent = None if is_own else self._keep(captured, body)
        captured.exchanges[attempt] = _Exchange(sent, CapturedBody(bytearray()))

    def reply_body(self, attempt: AttemptRecord, data: bytes) -> None:
        captured = None if attempt.access is None else self._requests.get(attempt.access)
        exchange = None if captured is None else captured.exchanges.get(attempt)
        if captured is None or exchange is None or exchange.reply.is_cut:
            return
        room_bytes = self._room(captured, min(len(data), BODY_BYTES - len(exchange.reply.data)))
        exchange.reply.data += data[:room_bytes]
        exchange.reply.is_cut = room_bytes < len(data)

    def request_ended(self, request: RequestRecord, error: GatepassError | None) -> None:  # noqa: ARG002 - not kept
        access, settings = request.access, self.settings
        if settings is None:
            return
        captured = self._requests.get(access)
        if captured is None and access in self._bodies and settings.matches(access.model, access.caller):
            captured = self._begin(access)  # it was refused before it was sent
        if captured is not None:
            captured.ended = request
        self._bodies.pop(access, None)

    def _begin(self, access: AccessRecord) -> CapturedRequest:
        captured = self._requests[access] = CapturedRequest()
        self._captured += 1
        self._room(captured, REQUEST_BYTES)
        if (body := self._bodies.get(access)) is not None:
            captured.request = self._keep(captured, body)
        return captured

    def _keep(self, captured: CapturedRequest, data: bytes) -> CapturedBody:
        room_bytes = self._room(captured, min(len(data), BODY_BYTES))
        return CapturedBody(data[:room_bytes], room_bytes < len(data))

    def _room(self, captured: CapturedRequest, size_bytes: int) -> int:
        """Count up to `size_bytes` more for `captured`, and return how many. Older requests make room for them."""
        room_bytes = min(size_bytes, MOST_BYTES - captured.held_bytes)
        captured.held_bytes += room_bytes
        self.held_bytes += room_bytes
        while self.held_bytes > HELD_BYTES:
            self._remove(next(iter(self._requests)))
        return room_bytes

    def _remove(self, access: AccessRecord) -> None:
        self.held_bytes -= self._requests.pop(access).held_bytes

    # its end

    def _end(self, reason: str) -> None:
        settings, timer = self.settings, self._timer
        if settings is None:
            return
        if timer is not None:
            timer.cancel()
        self._observers.switch(self, on=False)
        self._hold(-HELD_BYTES)
        self.settings = self._timer = None
        for access in list(self._requests):
            self._remove(access)
        self._bodies.clear()
        fields = {"model": settings.model, "caller": settings.caller, "ended_by": reason, "captured": self._captured}
        emit(LOG, logging.INFO, "capture_ended", fields)
        self._captured = 0
