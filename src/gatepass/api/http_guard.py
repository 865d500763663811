"""uvicorn's HTTP protocol with the bounds that it lacks.

uvicorn has no deadline for receiving a request: a half-sent head or body is held for ever (measured:
more than 31 s; nginx has client_header_timeout and client_body_timeout). It bounds neither the number
of header fields nor, with httptools, their size.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from typing import ClassVar

import httptools
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gatepass.config.server import Limits
from gatepass.errors import GatepassError, HeadTooLarge, InvalidRequest, Overloaded, ReceiveTimeout
from gatepass.surface.openai_error import error_body, error_headers

DEPARTURES = "gatepass.departures"
"""The ASGI extension by which a request learns that its client has left: a function (see asgi_client.py)."""

HEADER_FIELDS = 100
HEAD_BYTES = 64 * 1024

BODY_GRACE_S = 5.0
"""The application answers a slow body at limits.receive_s; after this the connection ends whatever it does."""

LINGER_S = 1.0
"""How long what still comes is taken after a refusal: closing over unread bytes resets the connection,
and the client would never read why (nginx has lingering_close)."""


_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class Guard(HttpToolsProtocol):
    """One connection of the first hop, with its bounds. `guarded` sets `limits`."""

    limits: ClassVar[Limits]
    _head_bytes = 0
    """Of the unfinished head: pieces since the one in which it began."""
    _field_bytes = 0
    """Of the head: its target and its whole fields."""
    _is_new = _in_head = True
    _in_body = False
    _timer: asyncio.TimerHandle | None = None
    _awaited: str | None = None
    """What `_timer` is for: the rest of a head, of a body, or nothing."""
    _stall: asyncio.TimerHandle | None = None
    _refusal: GatepassError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrowed as in uvicorn
        super().connection_made(transport)
        self._departures: list[Callable[[], None]] = []
        if len(self.connections) > self.limits.connections:
            self._refuse(Overloaded("Too many connections are open (limits.connections).", retry_after_s=1))
            return
        self._bound_receipt()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._unstall()
        super().connection_lost(exc)
        for left in tuple(self._departures):
            left()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        if self._in_head:
            self._head_bytes += len(data)
            data = _without_upgrade(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self._refuse(_large_head())
        elif self._refusal is None:
            self._bound_receipt()

    def _bound_receipt(self) -> None:
        """A deadline for what is still to come of a head or a body; none where a request came in one piece."""
        awaited = "head" if self._in_head else "body" if self._in_body else None
        if awaited == self._awaited:
            return
        self._disarm()
        self._awaited = awaited
        if awaited == "head":
            self._timer = self.loop.call_later(self.limits.receive_s, self._refuse_slow_head)
        elif awaited == "body":
            self._timer = self.loop.call_later(self.limits.receive_s + BODY_GRACE_S, self.transport.abort)

    def _refuse_slow_head(self) -> None:
        self._refuse(ReceiveTimeout("The request's head did not come in time (limits.receive_s)."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._in_head, self._head_bytes, self._field_bytes = True, 0, 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value))
        if len(self.headers) > HEADER_FIELDS:
            self._refusal = HeadTooLarge(f"The request has more than {HEADER_FIELDS} header fields.")
            raise httptools.HttpParserError("too many header fields")

    def _count(self, size_bytes: int) -> None:
        self._field_bytes += size_bytes
        if self._field_bytes > HEAD_BYTES:
            self._refusal = _large_head()
            raise httptools.HttpParserError("too large a head")

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._is_new, self._in_head, self._in_body = False, False, True
        if self.scope["http_version"] == "1.0":
            self.cycle.__class__ = _CloseDelimited
        self.scope["extensions"] = {DEPARTURES: self._on_departure}  # type: ignore[dict-item]  # ours, not of the spec

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()
        if self.cycle.response_complete:
            self._bound_idleness()

    def _bound_idleness(self) -> None:
        """The answer was out before the body was in, and with that body uvicorn's own timer ended."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _on_departure(self, left: Callable[[], None]) -> Callable[[], None]:
        self._departures.append(left)
        self.flow.resume_reading()  # a body above uvicorn's high-water mark has paused it, and then nobody sees a FIN
        return lambda: self._departures.remove(left)

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

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._awaited = None

    def _refuse(self, error: GatepassError) -> None:
        """Answer without the application, for the request never became one, and read no other."""
        self._refusal = error
        self._disarm()
        if self.transport.is_closing():
            return
        if self._is_next_to_answer():
            self._say_last(_response(error))
        elif self.cycle.response_complete:
            self.transport.close()
        else:
            self.cycle.keep_alive = False  # closes behind the response that is under way, unharmed

    def _is_next_to_answer(self) -> bool:
        """Whether the broken request has no response yet and stands behind no other's."""
        if self._is_new:
            return True
        if self._in_body:
            return not (self.cycle.response_started or self.pipeline)
        return self.cycle.response_complete

    def _say_last(self, response: bytes) -> None:
        if self._in_body:
            self.cycle.disconnected = True  # the application waits for the rest of a body: it has nobody to answer
            self.cycle.message_event.set()
        self.transport.write(response)
        self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self.transport.abort)


class _CloseDelimited(RequestResponseCycle):
    """A response to HTTP/1.0, which knows no chunks (RFC 9112 6.1): uvicorn would send them all the same."""

    _open_ended = False

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            self._open_ended = all(name != b"content-length" for name, _ in message.get("headers", ()))
        if self._open_ended:  # the length that uvicorn counts down to: out of reach until the last piece
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            self.chunked_encoding = False
            self.expected_content_length = len(message.get("body", b"")) if last else sys.maxsize  # type: ignore[arg-type]  # bytes
        await super().send(message)


def _without_upgrade(data: bytes) -> bytes:
    """`data` with the field `Upgrade` under another name: RFC 9110 7.8 lets a server ignore it, the parser does not
    and would drop the body. Java's HTTP client offers h2c with every plain request."""
    end = data.find(b"\r\n\r\n")
    end = len(data) if end < 0 else end
    if _UPGRADE.search(data, 0, end) is None:
        return data
    return _UPGRADE.sub(b"\r\nignored:", data[:end]) + data[end:]


def guarded(limits: Limits) -> type[Guard]:
    """The protocol class for uvicorn's `http=`, with these limits."""
    return type("Guard", (Guard,), {"limits": limits})


def _large_head() -> HeadTooLarge:
    return HeadTooLarge(f"The request's head is larger than {HEAD_BYTES} bytes.")


def _response(error: GatepassError) -> bytes:
    body = error_body(error)
    headers = [*error_headers(error), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return b"HTTP/1.1 %d \r\n" % error.http_status + lines + b"\r\n" + body
