"""One connection of a client: HTTP/1.1 on asyncio and httptools, under uvicorn's server.

uvicorn's own protocol would do the same for 35 µs more a request, and has no deadline for receiving one: a
half-sent head or body is held for ever (measured: more than 31 s; nginx has client_header_timeout and
client_body_timeout). It bounds neither the number of header fields nor, with httptools, their size.

asyncio calls the protocol's methods, httptools those that begin with `on_`; neither ever waits. Who waits is
the task of a Turn.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from gatepass.api.turn import Fields, Turn, header_lines
from gatepass.config.server import Limits
from gatepass.errors import GatepassError, HeadTooLarge, InternalError, InvalidRequest, Overloaded, ReceiveTimeout
from gatepass.surface.openai_error import error_body, error_headers
from gatepass.transport.deadline import Deadline

LOG = logging.getLogger("gatepass.serve")

HEADER_FIELDS = 100
HEAD_BYTES = 64 * 1024

BODY_GRACE_S = 5.0
"""A slow body is answered at limits.receive_s; after this the connection ends, whatever still comes."""

LINGER_S = 1.0
"""How long what still comes is taken after a refusal: closing over unread bytes resets the connection,
and the client would never read why (nginx has lingering_close)."""

_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)

Serve = Callable[[Turn], Awaitable[None]]


class Awaited(StrEnum):
    """What the deadline is for; None of them while a whole request is served."""

    HEAD = "head"
    BODY = "body"
    REST = "rest of a body that came too late"
    NEXT = "next request"
    CLOSE = "client's close after a refusal"


@dataclass(frozen=True, slots=True)
class Reception:
    """What all connections of a server share: who serves a request, with which bounds."""

    serve: Serve
    limits: Limits
    keep_alive_s: float


class ClientConnection(asyncio.Protocol):
    """Reads requests and has them served in order; at most one is served at a time, and few more are read ahead."""

    def __init__(
        self,
        reception: Reception,
        *,
        config: Config,  # noqa: ARG002 - uvicorn's signature
        server_state: ServerState,
        app_state: dict[str, Any],  # noqa: ARG002 - uvicorn's signature
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._serve, self._limits, self._keep_alive_s = reception.serve, reception.limits, reception.keep_alive_s
        self._state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # what comes behind is passed over
        self._transport = cast(asyncio.Transport, None)
        self._peer = ""
        self._deadline = Deadline(self._loop, self._late)
        self._awaited: Awaited | None = None
        self._serving: Turn | None = None
        self._receiving: Turn | None = None
        self._queue: deque[Turn] = deque()
        self._refusal: GatepassError | None = None
        self._is_new = self._in_head = True
        self._is_deaf = False
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._expects = self._reading_paused = False
        self._piece_bytes = self._first_bytes = self._head_bytes = 0
        self._stall: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None
        self._dated: list[tuple[bytes, bytes]] | None = None
        self._date = b""
        self.is_full = False

    # asyncio and uvicorn call these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn names its own classes
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple | list) else ""
        if len(self._state.connections) > self._limits.connections:
            self._refuse(Overloaded("Too many connections are open (limits.connections).", retry_after_s=1))
        else:
            self._bound()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._state.connections.discard(self)
        self._deadline.close()
        self.resume_writing()
        self._parser = None  # it holds this object's methods
        turns = (self._serving, self._receiving, *self._queue)
        self._receiving = None
        self._queue.clear()
        for turn in turns:
            if turn is not None:
                turn.depart()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf or self._parser is None:
            return
        self._piece_bytes = len(data)
        if self._in_head:
            self._head_bytes += len(data)
            data = _without_upgrade(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._refuse(self._refusal or InvalidRequest(f"This is not a valid HTTP/1.1 request: {error}."))
            return
        except httptools.HttpParserUpgrade:
            self._refuse(InvalidRequest("gatepass does not switch protocols."))
            return
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self._refuse(_large_head())
        else:
            self._bound()

    def pause_writing(self) -> None:
        """The client takes nothing: a bounded patience, at no cost for those that do take."""
        self.is_full = True
        self._stall = self._loop.call_later(self._limits.send_stall_s, self._transport.abort)

    def resume_writing(self) -> None:
        self.is_full = False
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def shutdown(self) -> None:
        """The server stops: what is served may end, and then this ends."""
        last = self._queue[-1] if self._queue else self._serving
        if last is None:
            self._transport.close()
        else:
            last.persists = False

    # a Turn calls these

    def common_fields(self) -> bytes:
        fields = self._state.default_headers  # uvicorn makes a new list with the date each second
        if fields is not self._dated:
            self._dated, self._date = fields, header_lines(fields)
        return self._date

    def go_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def hold(self) -> None:
        self._pause_reading()
        self._awaited = None
        self._deadline.lift()

    def flow(self) -> None:
        if self._reading_paused:
            self._resume_reading()
            self._bound()

    def send(self, pieces: list[bytes]) -> None:
        if self._transport.is_closing():
            return
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        else:
            self._transport.writelines(pieces)

    async def room(self) -> None:
        while self.is_full:
            self._room = self._loop.create_future()
            await self._room

    def answered(self) -> None:
        turn, self._serving = self._serving, None
        if self._transport.is_closing():
            return
        if turn is None or not turn.persists:
            self._end()
            return
        if self._queue:
            self._begin(self._queue.popleft())
            self._awaited = None  # time begins anew for a body that could not come before
        self._resume_reading()
        self._bound()

    # one turn after the other

    def _begin(self, turn: Turn) -> None:
        self._serving = turn
        turn.task = self._loop.create_task(self._attend(turn))
        self._state.tasks.add(turn.task)

    async def _attend(self, turn: Turn) -> None:
        """Have `turn` served; whatever becomes of that, its client is not left to wait."""
        try:
            await self._serve(turn)
        except Exception:
            LOG.exception("request_failed")
        finally:
            self._state.tasks.discard(turn.task)
            if not (turn.has_ended or turn.is_gone):
                self._break_off(turn)

    def _break_off(self, turn: Turn) -> None:
        turn.persists = False
        if turn.has_begun or self._transport.is_closing():
            self._transport.close()
        else:
            self._transport.write(_response(InternalError("gatepass gave this request up. Its log tells more.")))
            self.answered()

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and not self._queue:
            self._reading_paused = False
            self._transport.resume_reading()

    # deadlines and refusals

    def _bound(self) -> None:
        """A deadline for what is awaited next; it stays where it is while that is the same."""
        if self._in_head:
            self._await(Awaited.HEAD, self._limits.receive_s)
        elif self._receiving is not None:
            if self._receiving.is_passed_on:
                self._bound_piece()
            elif self._awaited is not Awaited.REST:
                self._await(Awaited.BODY, self._limits.receive_s)
        elif self._serving is None:
            self._await(Awaited.NEXT, self._keep_alive_s)
        else:
            self._awaited = None
            self._deadline.lift()

    def _bound_piece(self) -> None:
        """Of a body that is passed on each piece has its time, where the next one is wanted."""
        if self._awaited is not Awaited.REST and not self._reading_paused:
            self._awaited = Awaited.BODY
            self._deadline.set(self._limits.receive_s)

    def _await(self, what: Awaited, bound_s: float) -> None:
        if self._awaited is not what:
            self._awaited = what
            self._deadline.set(bound_s)

    def _late(self) -> None:
        awaited, self._awaited = self._awaited, None
        if awaited is Awaited.HEAD:
            self._refuse(ReceiveTimeout("The request's head did not come in time (limits.receive_s)."))
        elif awaited is Awaited.BODY and self._receiving is not None:
            if self._receiving is not self._serving and self._serving is not None:
                self._bound()  # it waits behind another one, unread
                return
            self._receiving.fail(_slow_body(self._limits.receive_s))
            self._await(Awaited.REST, BODY_GRACE_S)
        elif awaited is Awaited.NEXT:
            self._transport.close()
        else:
            self._transport.abort()

    def _refuse(self, error: GatepassError) -> None:
        """Answer what never became a whole request, behind what is served, and read no other."""
        self._is_deaf = True
        self._deadline.lift()
        if self._transport.is_closing():
            return
        if self._receiving in self._queue:
            self._queue.pop()
        if self._is_next_to_answer():
            if self._receiving is not None:
                self._receiving.depart()  # the street waits for the rest of its body: it has nobody to answer
            self._transport.write(_response(error))
            self._linger()
        elif self._serving is None:
            self._transport.close()
        else:
            (self._queue[-1] if self._queue else self._serving).persists = False

    def _is_next_to_answer(self) -> bool:
        """Whether what is broken has no response yet and stands behind no other's."""
        if self._receiving is not None:
            return self._receiving is self._serving and not self._serving.has_begun
        return self._serving is None and (self._is_new or self._in_head)

    def _end(self) -> None:
        """Close behind the last response, where nothing unread can reset it."""
        if self._receiving is not None:
            self._linger()
        else:
            self._transport.close()

    def _linger(self) -> None:
        self._is_deaf = True
        self._transport.write_eof()
        self._await(Awaited.CLOSE, LINGER_S)

    # httptools calls these

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes, self._first_bytes = True, 0, self._piece_bytes
        self._target, self._fields, self._expects = b"", [], False

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects = True
        self._fields.append((name, value))
        if len(self._fields) > HEADER_FIELDS:
            self._refusal = HeadTooLarge(f"The request has more than {HEADER_FIELDS} header fields.")
            raise httptools.HttpParserError("too many header fields")

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser is None:
            return
        if self._first_bytes + self._head_bytes > HEAD_BYTES:
            self._check_size()
        version = parser.get_http_version()
        turn = Turn(
            self,
            parser.get_method().decode("ascii"),
            _path_of(self._target),
            self._target,
            version,
            tuple(self._fields),
            self._peer,
        )
        turn.persists = version != "1.0" and parser.should_keep_alive()
        if self._expects:
            turn.expect()
        self._is_new = self._in_head = False
        self._receiving = turn
        if self._serving is None:
            self._begin(turn)
        else:
            self._queue.append(turn)
            self._pause_reading()

    def _check_size(self) -> None:
        """Counted only where a head can be too large at all, by the pieces in which it came."""
        if len(self._target) + sum(len(name) + len(value) for name, value in self._fields) > HEAD_BYTES:
            self._refusal = _large_head()
            raise httptools.HttpParserError("too large a head")

    def on_body(self, body: bytes) -> None:
        if self._receiving is not None:
            self._receiving.feed(body)

    def on_message_complete(self) -> None:
        turn, self._receiving = self._receiving, None
        if turn is not None:
            turn.complete()


def _path_of(target: bytes) -> str:
    """The path that `target` names, its percent-escapes decoded. Raises where it names none."""
    if target.startswith(b"/") and b"#" not in target:
        path = target.partition(b"?")[0]
    else:
        path = httptools.parse_url(target).path or b"/"
    text = path.decode("ascii")
    return unquote(text) if "%" in text else text


def _without_upgrade(data: bytes) -> bytes:
    """`data` with the field `Upgrade` under another name: RFC 9110 7.8 lets a server ignore it, the parser does not
    and would drop the body. Java's HTTP client offers h2c with every plain request."""
    end = data.find(b"\r\n\r\n")
    end = len(data) if end < 0 else end
    if _UPGRADE.search(data, 0, end) is None:
        return data
    return _UPGRADE.sub(b"\r\nignored:", data[:end]) + data[end:]


def _slow_body(receive_s: float) -> ReceiveTimeout:
    return ReceiveTimeout(f"The request body was not complete after {receive_s:g} s (limits.receive_s).")


def _large_head() -> HeadTooLarge:
    return HeadTooLarge(f"The request's head is larger than {HEAD_BYTES} bytes.")


def _response(error: GatepassError) -> bytes:
    """A whole response, with which its connection ends."""
    body = error_body(error)
    fields: Fields = [*error_headers(error), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    return b"HTTP/1.1 %d \r\n" % error.http_status + header_lines(fields) + b"\r\n" + body
