"""uvicorn's HTTP protocol with the bounds that it lacks.

uvicorn has no deadline for receiving a request: a half-sent head or body is held for ever (measured:
more than 31 s; nginx has client_header_timeout and client_body_timeout). It bounds neither the number
of header fields nor, with httptools, their size.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gatepass.config.model import Limits
from gatepass.errors import GatepassError, HeadTooLarge, InvalidRequest, Overloaded, ReceiveTimeout
from gatepass.surface.openai_error import error_body, error_headers

HEADER_FIELDS = 100
HEAD_BYTES = 64 * 1024

BODY_GRACE_S = 5.0
"""The application answers a slow body at limits.receive_s; after this the connection ends whatever it does."""


class Guard(HttpToolsProtocol):
    """One connection of the first hop, with its bounds. `guarded` sets `limits`."""

    limits: ClassVar[Limits]
    _head_bytes = 0
    _in_head = True
    _timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _refusal: GatepassError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(Overloaded("Too many connections are open (limits.connections).", retry_after_s=1))
            return
        self._arm(self.limits.receive_s, ReceiveTimeout("No request came in time (limits.receive_s)."))

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._unstall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._head_bytes += len(data) if self._in_head else 0
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self._refuse(HeadTooLarge(f"The request's head is larger than {HEAD_BYTES} bytes."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._arm(self.limits.receive_s, ReceiveTimeout("The request's head did not end in time (limits.receive_s)."))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > HEADER_FIELDS:
            self._refusal = HeadTooLarge(f"The request has more than {HEADER_FIELDS} header fields.")
            raise httptools.HttpParserError("too many header fields")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._disarm()
        self._timer = self.loop.call_later(self.limits.receive_s + BODY_GRACE_S, self.transport.abort)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._disarm()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client takes nothing: a bounded patience, at no cost for those that do take."""
        super().pause_writing()
        self._stall = self.loop.call_later(self.limits.send_stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._unstall()
        super().resume_writing()

    def _unstall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or InvalidRequest(f"This is not a valid HTTP/1.1 request. {msg}"))

    def _arm(self, delay_s: float, error: GatepassError) -> None:
        self._disarm()
        self._timer = self.loop.call_later(delay_s, self._refuse, error)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: GatepassError) -> None:
        """Answer without the application: the request never became one."""
        self._refusal = error
        self._disarm()
        if not self.transport.is_closing():
            self.transport.write(_response(error))
            self.transport.close()


def guarded(limits: Limits) -> type[Guard]:
    """The protocol class for uvicorn's `http=`, with these limits."""
    return type("Guard", (Guard,), {"limits": limits})


def _response(error: GatepassError) -> bytes:
    body = error_body(error)
    headers = [*error_headers(error), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return b"HTTP/1.1 %d \r\n" % error.http_status + lines + b"\r\n" + body
