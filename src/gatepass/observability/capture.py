"""`gatepass capture`: keep the whole bodies of chosen requests in memory for a bounded time.

The bodies are the client's request, the request to the upstream, and each reply before gatepass changes it. They are
masked when they are shown, because a token that is renewed later must be masked too.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Annotated

import msgspec

from gatepass.clock import Clock, Timer
from gatepass.documents import Body, BodyPiece, CaptureState
from gatepass.errors import GatepassError
from gatepass.observability.log import emit
from gatepass.observability.observer import AccessRecord, AttemptRecord, Observer, Observers, RequestRecord
from gatepass.observability.redaction import AROUND_CHARS, Redactor, decoded, is_wide
from gatepass.types import Hidden

LOG = logging.getLogger("gatepass.capture")

REQUEST_BYTES = 1024
"""The size that is counted for a captured request in addition to its bodies."""
CUT = "\n[cut by gatepass]"
PIECE_BYTES, SHOWN_BYTES = 256 * 1024, 1024 * 1024
"""The most that is read for a piece of a body, and what a story shows of all bodies together."""


class CaptureSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The requests to capture, the time, and the limit, as `POST /capture` accepts them.

    None: every model, every caller.
    """

    model: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    caller: str | None = None
    for_s: Annotated[float, msgspec.Meta(gt=0, le=24 * 3600)] = 600.0
    limit_bytes: Annotated[int, msgspec.Meta(ge=64 * 1024, le=1024**3)] = msgspec.field(
        default=16 * 1024 * 1024, name="bytes"
    )

    def matches(self, model: str, caller: str) -> bool:
        return self.model in (None, model) and self.caller in (None, caller)


class CapturedBody(Hidden, msgspec.Struct, eq=False):
    """A body, or its beginning."""

    data: bytes | bytearray = b""
    is_cut: bool = False

    async def piece(self, redactor: Redactor, at: int = 0) -> tuple[str, int | None]:
        """Return the text from the byte `at` on, masked: up to PIECE_BYTES. And where the next piece begins, if any.

        A piece ends AROUND_CHARS before the end of the read part of the body, where no secret is halved. Only such a
        place is a valid `at`: from another one nothing is returned. A body in UTF-16 or UTF-32 is one piece.
        """
        read = bytes(self.data[at : at + PIECE_BYTES])
        text, is_last = decoded(read), at + PIECE_BYTES >= len(self.data) or is_wide(read)
        before = decoded(bytes(self.data[max(0, at - AROUND_CHARS) : at]))
        if at and redactor.cut(before + text[:AROUND_CHARS], len(before)) != len(before):
            return "", None
        is_cut = self.is_cut if is_last else True  # the read part may end in a secret
        end = redactor.cut(text, max(0, len(text) - AROUND_CHARS)) or 0 if is_cut else len(text)
        # requests are served meanwhile: there is one search for each spelling, and none takes long
        shown = await asyncio.to_thread(redactor.mask, text[:end])
        if is_last or not end:
            return shown + CUT * is_cut, None
        # the bytes of `end` characters: the most that have no more
        count = bisect_right(range(len(read) + 1), end, key=lambda count: len(decoded(read[:count]))) - 1
        return shown, at + count


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
    key: str = msgspec.field(default_factory=lambda: secrets.token_hex(8))
    """Names it among all captured requests. Its id may be that of several."""

    def named(self) -> list[tuple[str, CapturedBody]]:
        """Return the bodies: `request`, then each `sent` and each `reply`."""
        exchanges = [*self.exchanges.values()]
        found = [] if self.request is None else [("request", self.request)]
        found += [("sent", one.sent) for one in exchanges if one.sent is not None]
        return found + [("reply", one.reply) for one in exchanges]

    async def bodies(self, redactor: Redactor, left_bytes: int) -> list[Body]:
        """Return the beginning of each body, with secrets masked: up to PIECE_BYTES, and of no more than `left_bytes`.

        `next` is the name of the next piece for `Capture.piece`. A MiB takes 0.1 s, during which others are served.
        """
        found: list[Body] = []
        for number, (name, body) in enumerate(self.named()):
            text, end = await body.piece(redactor) if left_bytes > 0 else ("", 0)
            left_bytes -= min(PIECE_BYTES, len(body.data))
            following = None if end is None else f"{self.key}/{number}/{end}"
            found.append(Body(name, text, following, len(body.data), body.is_cut))
        return found


class Capture(Observer):
    """Captures requests from `start` until its time has passed, or until `stop`. Then nothing of them is kept.

    What it holds is bounded by the settings and by the budget of held bytes. The oldest requests make room for new
    ones. A body that finds no older ones is cut.
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
        """Capture from now on. A capture that runs ends, with what it holds."""
        self._end("replaced")
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

    async def piece(self, name: str, redactor: Redactor) -> BodyPiece | None:
        """Return the piece `name` of a body: its `text`, and the name of the `next` one. None if it is not held."""
        with suppress(ValueError):
            key, number, at = name.split("/")
            for one in self._requests.values():
                if one.key == key and 0 <= int(number) < len(bodies := one.named()) and int(at) >= 0:
                    text, end = await bodies[int(number)][1].piece(redactor, int(at))
                    return BodyPiece(text, None if end is None else f"{key}/{number}/{end}")
        return None

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
            limit_bytes=settings.limit_bytes,
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
        room_bytes = self._room(captured, len(data))
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
        room_bytes = self._room(captured, len(data))
        return CapturedBody(data[:room_bytes], room_bytes < len(data))

    def _room(self, captured: CapturedRequest, size_bytes: int) -> int:
        """Count up to `size_bytes` more for `captured`, and return how many. Older requests make room for them."""
        limit_bytes = self.settings.limit_bytes if self.settings else 0
        while True:
            room_bytes = min(size_bytes, limit_bytes - self.held_bytes)
            is_oldest = next(iter(self._requests.values()), captured) is captured
            if (room_bytes == size_bytes or is_oldest) and self._hold(room_bytes):
                self.held_bytes += room_bytes
                captured.held_bytes += room_bytes
                return room_bytes
            if is_oldest:
                return 0
            self._remove(next(iter(self._requests)))

    def _remove(self, access: AccessRecord) -> None:
        held_bytes = self._requests.pop(access).held_bytes
        self.held_bytes -= held_bytes
        self._hold(-held_bytes)

    # its end

    def _end(self, reason: str) -> None:
        settings, timer = self.settings, self._timer
        if settings is None:
            return
        if timer is not None:
            timer.cancel()
        self._observers.switch(self, on=False)
        self.settings = self._timer = None
        for access in list(self._requests):
            self._remove(access)
        self._bodies.clear()
        fields = {"model": settings.model, "caller": settings.caller, "ended_by": reason, "captured": self._captured}
        emit(LOG, logging.INFO, "capture_ended", fields)
        self._captured = 0
