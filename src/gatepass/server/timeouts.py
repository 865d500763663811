"""How long a client may take for what is awaited of it.

uvicorn's own protocol has no deadline for receiving a request: a half-sent head or body is held for ever
(measured: more than 31 s; nginx has client_header_timeout and client_body_timeout).

What a connection answers by itself: to what never became a request, comes too late or was given up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum

from gatepass.clock import Deadline
from gatepass.config.model import Limits
from gatepass.errors import GatepassError, InternalError, Overloaded, ReceiveTimeout
from gatepass.observability.log import emit
from gatepass.operations.error_objects import error_body, error_headers
from gatepass.server.cycle import Fields, HttpRequestCycle, header_lines
from gatepass.server.parser import RequestParser

LOG = logging.getLogger("gatepass.access")
SERVER_ERROR = 500

DRAIN_IDLE_S = 1.0
"""Refusals come by the thousand where they come at all: one line in this time for each code, which says how many."""


class RejectedRequests:
    """Counts what was refused, and logs it: the first of a code at once, those that follow together."""

    __slots__ = ("_count", "_untold")

    def __init__(self, count: Callable[[GatepassError], None]) -> None:
        self._count = count
        self._untold: dict[str, tuple[int, GatepassError, str]] = {}

    def note(self, error: GatepassError, peer: str) -> None:
        """`error` was told to the client at `peer`, which has no request that could tell of it."""
        self._count(error)
        code = error.public_code
        if code not in self._untold:
            self._tell(1, error, peer)
        else:
            self._untold[code] = (self._untold[code][0] + 1, error, peer)

    def _tell(self, count: int, error: GatepassError, peer: str) -> None:
        fields = {"status": error.http_status, "code": error.public_code, "hop": error.hop, "reason": error.message}
        level = logging.WARNING if error.http_status >= SERVER_ERROR else logging.INFO
        emit(LOG, level, "refused", {**fields, "peer": peer, "count": count})
        self._untold[error.public_code] = (0, error, peer)
        asyncio.get_running_loop().call_later(DRAIN_IDLE_S, self._tell_rest, error.public_code)

    def _tell_rest(self, code: str) -> None:
        untold = self._untold.pop(code)
        if untold[0]:
            self._tell(*untold)


def response(error: GatepassError) -> bytes:
    """A whole response, with which its connection ends."""
    body = error_body(error)
    fields: Fields = [*error_headers(error), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    return b"HTTP/1.1 %d \r\n" % error.http_status + header_lines(fields) + b"\r\n" + body


def evicted() -> Overloaded:
    return Overloaded(
        "An idle connection was closed to make room for others (limits.connections,"
        " limits.unauthenticated_connections)."
    )


def slow_head() -> ReceiveTimeout:
    return ReceiveTimeout("The request's head did not come in time (limits.receive_s).")


def slow_upload(limits: Limits) -> ReceiveTimeout:
    return ReceiveTimeout(
        f"No more of the form came for {limits.receive_s:g} s (limits.receive_s), or it came slower than"
        f" {limits.upload_bytes_per_s} bytes a second (limits.upload_bytes_per_s)."
    )


def slow_body(receive_s: float) -> ReceiveTimeout:
    return ReceiveTimeout(f"The request body was not complete after {receive_s:g} s (limits.receive_s).")


def given_up() -> InternalError:
    return InternalError("gatepass gave this request up. Its log tells more.")


BODY_GRACE_S = 5.0
"""A slow body is answered at limits.receive_s; after this the connection ends, whatever still comes."""

LINGER_S = 1.0
"""How long more is waited for after a refusal, and taken: closing over unread bytes resets the connection, and the
client would never read why (nginx has lingering_close)."""


DRAIN_IDLE_S = 1.0
"""A connection of a draining server closes when its client has sent nothing for this long. One that is in use is closed
by an answer instead: a request that crosses a close is lost to its client."""


class AwaitedInput(StrEnum):
    HEAD = "head"
    BODY = "body"
    REST = "rest of a body that came too late"
    NEXT = "next request"
    CLOSE = "client's close after a refusal"
    TAKER = "nothing of the client: what is here of a body has to be taken first"


_HEAD, _NEXT = AwaitedInput.HEAD, AwaitedInput.NEXT
"""Awaited with each request. To name a member of an Enum takes CPython 3.11 up to 100 ns."""


class ReceiveTimeouts:
    """One deadline, for one thing at a time; for none while a whole request is served."""

    __slots__ = ("_awaited", "_deadline", "_receive_s", "_upload_bytes_per_s", "keep_alive_s")

    def __init__(self, deadline: Deadline, receive_s: float, keep_alive_s: float, upload_bytes_per_s: int) -> None:
        self._deadline = deadline
        self._receive_s = receive_s
        self._upload_bytes_per_s = upload_bytes_per_s
        self.keep_alive_s = keep_alive_s
        self._awaited: AwaitedInput | None = None

    def update(self, parser: RequestParser, serving: HttpRequestCycle | None) -> None:
        """A deadline for what is awaited next; it stays where it is while that is the same.

        A whole body has one. Of a body that is passed on each piece has its own, where the next one is wanted. All of
        them together have one too, which grows with the bytes that came.
        All in one frame: this is called for each piece that comes, and for each answer.
        """
        cycle, current = parser.cycle, self._awaited
        if parser.in_head:
            awaited, bound_s = _HEAD, self._receive_s
        elif cycle is not None:
            if current is AwaitedInput.REST or current is (
                AwaitedInput.TAKER if cycle.is_streamed else AwaitedInput.BODY
            ):
                return
            awaited, bound_s, current = AwaitedInput.BODY, self._receive_s, None
            if cycle.is_streamed:
                bound_s += min(0.0, cycle.ahead_s(self._upload_bytes_per_s))
        elif serving is None:
            awaited, bound_s = _NEXT, self.keep_alive_s
        else:
            self._awaited = None
            self._deadline.lift()
            return
        if current is not awaited:
            self._awaited = awaited
            self._deadline.set(bound_s)

    def start(self, awaited: AwaitedInput, bound_s: float) -> None:
        if self._awaited is not awaited:
            self._awaited = awaited
            self._deadline.set(bound_s)

    def clear(self) -> None:
        """Nothing is awaited: what comes next has its time from the beginning."""
        self._awaited = None
        self._deadline.lift()

    def suspend(self) -> None:
        """No piece is wanted until `rest`: the client owes nothing."""
        self._awaited = AwaitedInput.TAKER
        self._deadline.lift()

    def shorten(self, *, is_idle: bool) -> None:
        """Wait only QUIET_S for each next request, from now on; where `is_idle`, for this one too."""
        if is_idle:
            granted_s = self.keep_alive_s if self._awaited is AwaitedInput.NEXT else self._receive_s
            self._deadline.set(max(0.0, self._deadline.left_s() - granted_s + DRAIN_IDLE_S))
        self.keep_alive_s = DRAIN_IDLE_S

    def linger(self) -> None:
        """There is still more of what is taken behind a refusal."""
        self._deadline.set(LINGER_S)

    def expired(self) -> AwaitedInput | None:
        """What was awaited for too long; it is awaited no longer."""
        awaited, self._awaited = self._awaited, None
        return awaited

    def close(self) -> None:
        self._deadline.close()
