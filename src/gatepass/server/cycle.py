"""A request/response cycle on a client's connection: the proxy's `RequestCycle` on HTTP/1.1."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
from collections.abc import Callable, Iterable
from hashlib import sha256
from http import HTTPStatus
from io import BytesIO
from itertools import count
from typing import TYPE_CHECKING

import msgspec

from gatepass.config.advice import with_variable
from gatepass.errors import BodyTooLarge, ClientGone, GatepassError, InvalidRequest, Overloaded
from gatepass.http_client.connection import JOINED_BYTES
from gatepass.http_client.response_body import add_piece, taken
from gatepass.types import Headers, Hidden, header

if TYPE_CHECKING:
    from gatepass.server.connection import ClientConnection

Fields = Iterable[tuple[bytes, bytes]]

UNSENT_BYTES = 64 * 1024
"""What waits in this process for a client: a transport then pauses writing, and a relay reading."""

REST_BYTES = 64 * 1024
"""Maximum rest of a body that is read after an early response to keep the connection. With more it closes."""

MOST_DIGITS = 18
"""Digits of a Content-Length that are read: more than every limit. The HTTP parser accepts 64 bits."""

_HEADED_BYTES = 1024
_CHUNK_HEADS = tuple(b"%x\r\n" % size for size in range(_HEADED_BYTES))
"""The heads of chunks by their size, prepared because formatting a number takes a third of the write of an event."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

BODILESS = frozenset((204, 304))
"""Statuses whose responses have no body (RFC 9112 6.3)."""
_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")

CONSONANTS = bytes.maketrans(b"0123456789abcdef", b"bcdfghjklmnpqrst")
"""Request ids have no digits: RAGFlow repeats a request if `429` or `503` is anywhere in the text of its error. They
have no vowels either, so that they spell no word."""


def ids_begin(replica: str) -> str:
    """Return the four letters with which the ids of the host `replica` begin."""
    return sha256(replica.encode()).hexdigest()[:4].encode().translate(CONSONANTS).decode()


class RequestIds:
    """Creates request ids: the letters of the host, a random part for the process, then a counter."""

    # a random id for each request needs a system call (3 µs)

    def __init__(self) -> None:
        process = secrets.token_hex(6).encode().translate(CONSONANTS)
        self._begin = ids_begin(socket.gethostname()).encode() + process
        self._numbers = count(1)

    def of(self, given: bytes | None) -> str:
        """Return `given`, the client's x-request-id, if it has only letters, digits and `._:-`, otherwise a new id."""
        if given is not None and _REQUEST_ID.match(given):
            return given.decode("ascii")
        return (self._begin + (b"%08x" % next(self._numbers)).translate(CONSONANTS)).decode()


class HttpRequestCycle(Hidden, msgspec.Struct, eq=False):
    """One request and its response. The connection feeds the body, the proxy reads it and writes the response.

    `persists`: the connection serves further requests after this response.
    """

    _connection: ClientConnection
    method: str
    path: str
    target: bytes
    version: str
    headers: Headers
    peer: str
    persists: bool = True
    is_whole: bool = False
    has_begun: bool = False
    has_ended: bool = False
    is_disconnected: bool = False
    _is_body_requested: bool = True
    _is_chunked: bool = False
    _is_bodiless: bool = False
    _is_dropping: bool = False
    _pieces: list[bytes | BytesIO] = msgspec.field(default_factory=list)
    size_bytes: int = 0
    """The bytes of the body that arrived."""
    _limit_bytes: int = 0
    _waiter: asyncio.Future[None] | None = None
    _fault: GatepassError | ClientGone | None = None
    _claim: Callable[[int], None] | None = None
    _head: bytes = b""
    _on_disconnect: Callable[[], None] | None = None

    @property
    def scheme(self) -> str:
        return self._connection.scheme

    # called by the connection

    def expect(self) -> None:
        """The client waits for 100 Continue before it sends the body."""
        self._is_body_requested = False

    def feed(self, piece: bytes) -> None:
        self.size_bytes += len(piece)  # also of dropped pieces: `start` computes the rest from it
        if self.has_ended or self._is_dropping:
            return
        if self._claim is not None:
            try:
                self._claim(len(piece))
            except Overloaded as error:  # `read_body` raises it
                self._fault = error
                self._drop()
                self._wake()
                return
        if self._pieces:
            add_piece(self._pieces, piece)
        else:
            self._pieces.append(piece)
        if self.size_bytes > self._limit_bytes and self._waiter is not None:
            self._wake()

    def _drop(self) -> None:
        """Buffer no more of the body, because the proxy does not read it."""
        self._is_dropping = True
        self._claim = None
        self._pieces.clear()

    def complete(self) -> None:
        self.is_whole = True
        if self._waiter is not None:
            self._wake()

    def fail(self, error: GatepassError) -> None:
        """The body did not arrive: `read_body` raises `error`."""
        self._fault = error
        self._wake()

    def disconnect(self) -> None:
        if self.is_disconnected:
            return
        self.is_disconnected = True
        self._fault = self._fault or ClientGone()
        self._wake()
        callback, self._on_disconnect = self._on_disconnect, None
        if callback is not None:
            callback()

    # called by the proxy (`RequestCycle` in proxy/client_response.py has the contract)

    @property
    def connected_before_drain(self) -> bool:
        return self._connection.connected_before_drain

    @property
    def gave_up(self) -> bool:
        return self._connection.gave_up

    def set_caller(self, caller: str) -> None:
        if not self.is_disconnected:
            self._connection.set_caller(caller)

    async def read_body(self, limit_bytes: int, claim: Callable[[int], None] | None = None) -> bytes:
        if not self.is_whole and announced_bytes(self.headers) > limit_bytes:
            raise too_large(limit_bytes)
        if not self._is_body_requested:  # the client waits for it (RFC 9110 10.1.1)
            self._is_body_requested = True
            self._connection.send(CONTINUE)
        self._limit_bytes, self._claim = limit_bytes, claim
        try:
            if claim is not None and self.size_bytes:
                claim(self.size_bytes)
            while not self.is_whole and self._fault is None and self.size_bytes <= limit_bytes:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            fault = self._fault
            if fault is not None and isinstance(fault, Overloaded):
                raise fault
            if self.size_bytes > limit_bytes:
                raise too_large(limit_bytes)
            if fault is not None and not self.is_whole:
                raise fault
            if len(self._pieces) == 1 and isinstance(first := self._pieces[0], bytes):
                self._pieces.clear()
                return first
            return taken(self._pieces)
        except Overloaded:
            self.persists = False
            raise
        finally:
            if self._pieces or not self.is_whole:
                self._drop()

    def start(self, status: int, headers: Fields, length_bytes: int | None = None) -> None:
        self.has_begun = True
        if not self._is_body_requested or self._connection.closes_after_response:
            self.persists = False  # without 100 Continue the client may send the body or not
        if not self.is_whole:
            rest_bytes = announced_bytes(self.headers) - self.size_bytes
            # a chunked body announces no length: its rest is below 0
            if not 0 < rest_bytes <= REST_BYTES:
                self.persists = False
        # the reason may be empty, but the space before it must be sent (RFC 9112 4)
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        # the end of the body (RFC 9112 6); HTTP/1.0 does not support chunks
        self._is_bodiless = self.method == "HEAD" or status in BODILESS
        framing = b""
        if length_bytes is not None:
            framing = f"content-length: {length_bytes}\r\n".encode()
        elif self.version == "1.0":
            self.persists = False
        elif status not in BODILESS:
            framing, self._is_chunked = b"transfer-encoding: chunked\r\n", not self._is_bodiless
        if not self.persists:
            framing += b"connection: close\r\n"
        self._head = b"".join((line, self._connection.common_fields(), framing, header_lines(headers), b"\r\n"))

    async def write(self, data: bytes, *, last: bool = False) -> None:
        if self._connection.is_write_paused:
            await self._connection.wait_writable()
        self._send(data, last)

    def try_write(self, data: bytes) -> bool:
        connection, size = self._connection, len(data)
        if connection.is_write_paused:
            return False
        if self._is_chunked and 0 < size < _HEADED_BYTES and not (self._head or self.is_disconnected):
            # the common case, an event: without a call. Nothing is deferred, because the head was sent before.
            if not (transport := connection.transport).is_closing():
                transport.write(_CHUNK_HEADS[size] + data + b"\r\n")
        else:
            self._send(data, False)
        return True

    def probe(self) -> bool:
        """Send what is no part of the response, or return False if its framing allows nothing.

        Before the head it is a 100, which clients ignore (RFC 9110 15.2), later a zero before the next chunk's size.
        """
        is_begun = self.has_begun and not self._head
        if self.version == "1.0" or (is_begun and not self._is_chunked):
            return False
        self._connection.send(b"0" if is_begun else CONTINUE)
        return True

    def unread_s(self) -> float:
        return self._connection.unread_s()

    def abort(self) -> None:
        self._connection.abort()

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        if self.is_disconnected:
            callback()
        else:
            self._on_disconnect = callback

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _send(self, data: bytes, last: bool) -> None:
        """Send `data` with its framing, after the head if that is not sent yet."""
        if self.is_disconnected:
            return
        head, self._head, size = self._head, b"", len(data)
        is_whole = last and head != b""
        tail = b""
        if self._is_chunked:
            if size:
                head, tail = b"%b%x\r\n" % (head, size), b"\r\n"
            if last:
                tail += b"0\r\n\r\n"
        elif self._is_bodiless:
            data, size = b"", 0
        if size <= JOINED_BYTES:
            send = self._connection.send_batched if is_whole else self._connection.send
            send(b"".join((head, data, tail)))
        else:
            self._connection.send_all([piece for piece in (head, data, tail) if piece])
        if last:
            self.has_ended = True
            self._on_disconnect = None
            self._pieces.clear()
            self._connection.response_complete()


def header_lines(fields: Fields) -> bytes:
    """Encode `fields`, with the last line break. Raises ValueError if one of them contains a line break."""
    lines = [*map(b": ".join, fields)]
    joined = b"".join(lines)  # see `has_line_break` in http_client/message_head.py
    if 10 in joined or 13 in joined or 0 in joined:
        raise ValueError("a header field of the response contains a line break")
    lines.append(b"")
    return b"\r\n".join(lines)


def announced_bytes(headers: Headers) -> int:
    """Return the Content-Length, 0 without one. Only the first MOST_DIGITS digits are read."""
    value = header(headers, b"content-length")
    if value is None:
        return 0
    if not value.isdigit():  # `int` also accepts signs, spaces and underscores
        raise InvalidRequest("The content-length header is not a number.")
    # RFC 9110 8.6 allows leading zeros; `int` of thousands of digits takes long, and raises above 4,300
    return int(value if len(value) <= MOST_DIGITS else value.lstrip(b"0")[:MOST_DIGITS] or b"0")


def too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than {limit_bytes} bytes ({with_variable('limits.body_bytes')}).")
