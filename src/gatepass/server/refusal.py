"""What a connection answers by itself: to what never became a request, comes too late or was given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gatepass.config.model import Limits
from gatepass.errors import GatepassError, InternalError, Overloaded, ReceiveTimeout
from gatepass.observability.log import emit
from gatepass.operations.error_objects import error_body, error_headers
from gatepass.server.cycle import Fields, header_lines

LOG = logging.getLogger("gatepass.access")
SERVER_ERROR = 500

QUIET_S = 1.0
"""Refusals come by the thousand where they come at all: one line in this time for each code, which says how many."""


class Refusals:
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
        asyncio.get_running_loop().call_later(QUIET_S, self._tell_rest, error.public_code)

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
