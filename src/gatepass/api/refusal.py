"""What a connection answers by itself: to what never became a request, comes too late or was given up."""

from __future__ import annotations

from gatepass.api.turn import Fields, header_lines
from gatepass.errors import GatepassError, InternalError, Overloaded, ReceiveTimeout
from gatepass.surface.openai_error import error_body, error_headers


def response(error: GatepassError) -> bytes:
    """A whole response, with which its connection ends."""
    body = error_body(error)
    fields: Fields = [*error_headers(error), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    return b"HTTP/1.1 %d \r\n" % error.http_status + header_lines(fields) + b"\r\n" + body


def many_connections() -> Overloaded:
    return Overloaded("Too many connections are open (limits.connections).", retry_after_s=1)


def slow_head() -> ReceiveTimeout:
    return ReceiveTimeout("The request's head did not come in time (limits.receive_s).")


def slow_body(receive_s: float) -> ReceiveTimeout:
    return ReceiveTimeout(f"The request body was not complete after {receive_s:g} s (limits.receive_s).")


def given_up() -> InternalError:
    return InternalError("gatepass gave this request up. Its log tells more.")
