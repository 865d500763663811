"""Deadlines for what a client sends, and the responses of a connection without a complete request.

uvicorn's own protocol has no deadline for receiving a request: it keeps an incomplete head or body forever (measured:
more than 31 s). nginx has client_header_timeout and client_body_timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

from gatepass.errors import GatepassError, ReceiveTimeout
from gatepass.http_client.connection import Deadline
from gatepass.protocols.error_objects import error_body, error_headers
from gatepass.server.cycle import Fields, HttpRequestCycle, header_lines
from gatepass.server.parser import RequestParser


def error_response(error: GatepassError) -> bytes:
    """Encode a complete response that ends its connection."""
    body = error_body(error)
    fields: Fields = [*error_headers(error), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    # without a reason, but with the space before it (RFC 9112 4)
    return b"HTTP/1.1 %d \r\n" % error.http_status + header_lines(fields) + b"\r\n" + body


RECEIVE_S = 20.0
"""The time for the head of a request, with the TLS handshake before it, and for each next piece of a body. Apache's
mod_reqtimeout grants as much by default."""
LEAST_BYTES_PER_S = 1024
"""The least average rate of a body, beyond RECEIVE_S. GPRS, the slowest mobile network, has four times as much."""
STALL_S = 300.0
"""The time for which a client may read nothing of a response. A machine that sleeps for some minutes goes on with its
stream."""


def slow_body() -> ReceiveTimeout:
    return ReceiveTimeout(
        f"No more of the request body arrived for {RECEIVE_S:g} s, or it arrived slower than {LEAST_BYTES_PER_S} bytes"
        " per second."
    )


BODY_GRACE_S = 5.0
"""A body that is too late gets a response. This much later its connection is closed."""

LINGER_S = 1.0
"""How long gatepass still reads after an error response.

Closing a connection with unread bytes resets it, and the client never reads the response. nginx has lingering_close.
"""

DRAIN_IDLE_S = 1.0
"""During a drain a connection closes once its client has sent nothing for this long.

A connection in use closes with a response instead: a request that crosses the close would be lost.
"""
DRAIN_RECHECK_S = 0.2
"""How much longer the connection still reads after DRAIN_IDLE_S.

A machine that pauses for a second wakes with this deadline passed and with clients that send their next request.
"""


class AwaitedInput(StrEnum):
    """What a deadline waits for."""

    HEAD = "head"
    BODY = "body"
    REST = "rest of a body that is too late"
    NEXT = "next request"
    LAST = "request that its client has already sent, before a drain closes the connection"
    CLOSE = "close by the client after an error response"


_HEAD, _NEXT = AwaitedInput.HEAD, AwaitedInput.NEXT


class ReceiveTimeouts:
    """The deadline of a connection for the input it waits for, at first the head of a request.

    While a complete request is served, no input is awaited. A deadline that passes then has no effect.
    """

    __slots__ = ("_awaited", "_body_since_s", "_deadline", "_loop", "idle_timeout_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], None], idle_timeout_s: float) -> None:
        self._loop = loop
        self._deadline = Deadline(loop, passed)
        self._deadline.set(RECEIVE_S)
        self._body_since_s = 0.0
        """When the connection began to wait for the current body."""
        self.idle_timeout_s = idle_timeout_s
        self._awaited: AwaitedInput | None = _HEAD

    def update(self, parser: RequestParser, serving: HttpRequestCycle | None) -> None:
        """Set the deadline for the next input, unless the connection already waits for it.

        Each piece of a body has one, which ends earlier if the pieces before it were slower than LEAST_BYTES_PER_S.
        """
        # one function without calls: it runs for each piece of input and each response
        cycle, current = parser.cycle, self._awaited
        if parser.in_head:
            awaited, bound_s = _HEAD, RECEIVE_S
        elif cycle is not None:
            if current is AwaitedInput.REST:
                return
            awaited, now_s = AwaitedInput.BODY, self._loop.time()
            if current is not awaited:
                self._body_since_s = now_s
            ahead_s = cycle.size_bytes / LEAST_BYTES_PER_S - (now_s - self._body_since_s)
            if ahead_s > RECEIVE_S:  # what came fast allows no hours of single bytes
                self._body_since_s -= ahead_s - RECEIVE_S
                ahead_s = RECEIVE_S
            bound_s = max(0.0, RECEIVE_S + min(0.0, ahead_s))
            current = None  # sets the deadline again although the body was awaited before
        elif serving is None:
            awaited, bound_s = _NEXT, self.idle_timeout_s
        else:
            self._awaited = None
            return
        if current is not awaited:
            self._awaited = awaited
            self._deadline.set(bound_s)

    def start(self, awaited: AwaitedInput, bound_s: float) -> None:
        self._awaited = awaited
        self._deadline.set(bound_s)

    def clear(self) -> None:
        """Wait for nothing. The next input has its full time."""
        self._awaited = None

    def shorten(self, *, is_idle: bool) -> None:
        """Wait only DRAIN_IDLE_S for each next request; if `is_idle`, also for the one awaited now."""
        if is_idle:
            # counted from the begin of the wait: a connection that has been idle for long closes at once
            granted_s = self.idle_timeout_s if self._awaited is AwaitedInput.NEXT else RECEIVE_S
            self._deadline.set(max(0.0, self._deadline.left_s() - granted_s + DRAIN_IDLE_S))
        self.idle_timeout_s = DRAIN_IDLE_S

    def take_expired(self) -> AwaitedInput | None:
        """Return the input whose deadline passed, and stop waiting for it. None if none is awaited now."""
        awaited, self._awaited = self._awaited, None
        return awaited

    def close(self) -> None:
        self._deadline.close()
