"""One request of a client's connection, and the response to it: the street's Client on HTTP/1.1."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from http import HTTPStatus
from types import MappingProxyType
from typing import Protocol

from gatepass.errors import BodyTooLarge, ClientGone, GatepassError, InvalidRequest, Overloaded
from gatepass.http_client.message_head import has_line_break
from gatepass.types import Headers, header

Fields = Iterable[tuple[bytes, bytes]]

JOINED_BYTES = 64 * 1024
"""A piece up to this size goes out in one with what frames it: a copy is cheaper than a system call's second buffer."""

AHEAD_BYTES = 256 * 1024
"""Reading stops while more than this of a body that is passed on is here and nobody takes it."""

COALESCED_BYTES = 4096
"""A smaller piece of a body joins the one before it: an object for each would take 40 bytes."""

REST_BYTES = 64 * 1024
"""At most so much of a body is read behind an early response, to keep the connection. With more it closes."""

MOST_DIGITS = 18
"""Of a Content-Length. With as many it is above every limit; the HTTP parser lets 64 bits pass."""

NEVER_S = math.inf

BODILESS = frozenset((204, 304))
_STATUS_LINES = MappingProxyType(
    {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
)


class CycleConnection(Protocol):
    """The connection, as much of it as a turn may know."""

    def common_fields(self) -> bytes:
        """The header lines of every response, ended."""
        ...

    def send_continue(self) -> None:
        """Tell the client that its body is wanted (RFC 9110 10.1.1)."""
        ...

    def pause_reading(self) -> None:
        """Read no more of the body for now."""
        ...

    def resume_reading(self) -> None:
        """Read on."""
        ...

    def send(self, data: bytes) -> None: ...

    def send_all(self, pieces: list[bytes]) -> None: ...

    def send_batched(self, response: bytes) -> None:
        """Send a small response, head and body: with others of this moment, where there are many."""
        ...

    @property
    def connected_before_drain(self) -> bool:
        """Whether it was open before new connections were refused."""
        ...

    @property
    def closes_after_response(self) -> bool:
        """Whether it closes behind the response that begins."""
        ...

    @property
    def is_write_paused(self) -> bool:
        """Whether the client has to take something before more is sent."""
        ...

    async def wait_writable(self) -> None:
        """Returns when it is not full, or when there is no client any more."""
        ...

    def set_caller(self, caller: str) -> None:
        """The turn is `caller`'s, and is served."""
        ...

    def response_complete(self) -> None:
        """The response of the turn is complete."""
        ...


class HttpRequestCycle:
    """The connection fills in the body and tells of a departure; the street reads the one and writes the response.

    `persists`: the connection serves on when this response is out.
    """

    __slots__ = (
        *("method", "path", "target", "version", "headers", "peer", "persists", "is_whole", "has_begun", "has_ended"),
        *("_line", "_pieces", "_size_bytes", "_limit_bytes", "_waiter", "_fault", "_head", "_left"),
        *("_is_asked_for", "_is_chunked", "_is_bodiless", "is_disconnected", "task", "is_streamed", "_taken_bytes"),
        *("_waited_s", "_waits_since_s", "_claim", "_is_dropping"),
    )

    def __init__(
        self, line: CycleConnection, method: str, path: str, target: bytes, version: str, headers: Headers, peer: str
    ) -> None:
        self.method = method
        self.path = path
        self.target = target
        self.version = version
        self.headers = headers
        self.peer = peer
        self.persists = True
        self.is_whole = self.has_begun = self.has_ended = False
        self._line = line
        self._pieces: list[bytes | bytearray] = []
        self._size_bytes = self._limit_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._fault: GatepassError | ClientGone | None = None
        self._claim: Callable[[int], None] | None = None
        self._head = b""
        self._left: Callable[[], None] | None = None
        self.task: asyncio.Task[None] | None = None
        self._is_asked_for = True
        self.is_disconnected = self._is_chunked = self._is_bodiless = self.is_streamed = self._is_dropping = False
        self._taken_bytes = 0
        self._waited_s, self._waits_since_s = 0.0, NEVER_S

    # the connection calls these

    def expect(self) -> None:
        """The client sends its body when it is told to."""
        self._is_asked_for = False

    def feed(self, piece: bytes) -> None:
        self._size_bytes += len(piece)
        if self.has_ended or self._is_dropping:
            return
        if self._claim is not None and not self._has_room(self._claim, len(piece)):
            return
        if self._pieces:
            add_piece(self._pieces, piece)
        else:
            self._pieces.append(piece)
        if self._size_bytes > self._limit_bytes:
            if self._waiter is not None:
                self._wake()
            if self.is_streamed and self._size_bytes - self._taken_bytes > AHEAD_BYTES:
                self._line.pause_reading()

    def _has_room(self, claim: Callable[[int], None], size_bytes: int) -> bool:
        """Whether a piece of so many bytes may be held. If not, `body` raises, and nothing more is held."""
        try:
            claim(size_bytes)
        except Overloaded as error:
            self._fault = error
            self._drop()
            self._wake()
            return False
        return True

    def _drop(self) -> None:
        """Nobody takes the body, or any more of it: hold none of it."""
        self._is_dropping = True
        self._claim = None
        self._pieces.clear()

    def complete(self) -> None:
        self.is_whole = True
        if self._waiter is not None:
            self._wake()

    def reopen(self) -> None:
        """It is not complete after all: there is more of its body."""
        self.is_whole = False

    def fail(self, error: GatepassError) -> None:
        """The body does not come: whoever waits for it learns why."""
        self._fault = error
        self._wake()

    def disconnect(self) -> None:
        """There is no client any more."""
        if self.is_disconnected:
            return
        self.is_disconnected = True
        self._fault = self._fault or ClientGone()
        self._wake()
        if self._left is not None:
            self._left()

    # the street calls these: call.Client

    @property
    def connected_before_drain(self) -> bool:
        return self._line.connected_before_drain

    def set_caller(self, caller: str) -> None:
        if not self.is_disconnected:
            self._line.set_caller(caller)

    async def read_body(self, limit_bytes: int, claim: Callable[[int], None] | None = None) -> bytes:
        if not self.is_whole and announced_bytes(self.headers) > limit_bytes:
            raise too_large(limit_bytes)
        if not self._is_asked_for:
            self._is_asked_for = True
            self._line.send_continue()
        self._limit_bytes, self._claim = limit_bytes, claim
        try:
            if claim is not None and self._size_bytes:
                claim(self._size_bytes)
            while not self.is_whole and self._fault is None and self._size_bytes <= limit_bytes:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            fault = self._fault
            if fault is not None and isinstance(fault, Overloaded):
                raise fault
            if self._size_bytes > limit_bytes:
                raise too_large(limit_bytes)
            if fault is not None and not self.is_whole:
                raise fault
            pieces, self._pieces = self._pieces, []
            return b"".join(pieces)  # one piece is not copied
        except Overloaded:
            self.persists = False
            raise
        finally:
            if self._pieces or not self.is_whole:
                self._drop()

    async def read_piece(self, limit_bytes: int) -> bytes:
        if not self.is_streamed:
            self._pass_on(limit_bytes)
        while not (self._pieces or self.is_whole) and self._fault is None:
            self._line.resume_reading()
            loop = asyncio.get_running_loop()
            self._waiter, self._waits_since_s = loop.create_future(), loop.time()
            await self._waiter
            self._waited_s += loop.time() - self._waits_since_s
            self._waits_since_s = NEVER_S
        if self._size_bytes > limit_bytes:
            raise too_large(limit_bytes, "limits.upload_bytes")
        pieces, self._pieces = self._pieces, []
        if not pieces and not self.is_whole and self._fault is not None:
            raise self._fault
        self._taken_bytes = self._size_bytes
        return b"".join(pieces)

    def ahead_s(self, bytes_per_s: int) -> float:
        """How far the pieces are ahead of a sender of `bytes_per_s`; negative if they are behind."""
        waits_s = max(0.0, asyncio.get_running_loop().time() - self._waits_since_s)
        return self._size_bytes / bytes_per_s - self._waited_s - waits_s

    def _pass_on(self, limit_bytes: int) -> None:
        """The body is taken as it comes: every piece of it wakes who waits."""
        if announced_bytes(self.headers) > limit_bytes:
            raise too_large(limit_bytes, "limits.upload_bytes")
        self.is_streamed, self._limit_bytes = True, 0
        if not self._is_asked_for:
            self._is_asked_for = True
            self._line.send_continue()

    def start(self, status: int, headers: Fields, length_bytes: int | None = None) -> None:
        self.has_begun = True
        if not self._is_asked_for or self._line.closes_after_response:
            self.persists = False  # whether the body that was never asked for comes all the same, nobody can know
        if not self.is_whole and (self.is_streamed or not self._rest_is_small()):
            self.persists = False  # nobody takes the rest of it
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        framing = self._framed(status, length_bytes)
        self._head = b"".join((line, self._line.common_fields(), framing, header_lines(headers), b"\r\n"))

    def _rest_is_small(self) -> bool:
        rest_bytes = announced_bytes(self.headers) - self._size_bytes
        return 0 < rest_bytes <= REST_BYTES  # a body in chunks announces nothing

    async def write(self, data: bytes, *, last: bool = False) -> None:
        if self._line.is_write_paused:
            await self._line.wait_writable()
        self._send(data, last)

    def try_write(self, data: bytes) -> bool:
        line, size = self._line, len(data)
        if line.is_write_paused:
            return False
        if self._is_chunked and 0 < size <= JOINED_BYTES and not (self._head or self.is_disconnected):
            line.send(b"%x\r\n%b\r\n" % (size, data))  # an event behind the first: `_send` takes 0.35 µs more
        else:
            self._send(data, False)
        return True

    def on_disconnect(self, left: Callable[[], None]) -> Callable[[], None]:
        self._left = left
        if self.is_disconnected:
            left()
        return self._unwatch

    def _unwatch(self) -> None:
        self._left = None

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _framed(self, status: int, length_bytes: int | None) -> bytes:
        """The header lines that say how the body ends (RFC 9112 6): HTTP/1.0 knows no chunks."""
        self._is_bodiless = self.method == "HEAD" or status in BODILESS
        lines = b""
        if length_bytes is not None:
            lines = b"content-length: %d\r\n" % length_bytes
        elif self.version == "1.0":
            self.persists = False
        elif status not in BODILESS:
            lines, self._is_chunked = b"transfer-encoding: chunked\r\n", not self._is_bodiless
        return lines if self.persists else lines + b"connection: close\r\n"

    def _send(self, data: bytes, last: bool) -> None:
        """Send the next bytes of the response: the head where it is not out yet, and `data` in its frame."""
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
            send = self._line.send_batched if is_whole else self._line.send
            send(b"".join((head, data, tail)))
        else:
            self._line.send_all([piece for piece in (head, data, tail) if piece])
        if last:
            self.has_ended = True
            self._pieces.clear()
            self._line.response_complete()


def header_lines(fields: Fields) -> bytes:
    """`fields` as lines, ended; raises ValueError where one would end its own line and be two."""
    lines = [*map(b": ".join, fields)]
    if has_line_break(lines):
        raise ValueError("a header field of the response holds a line break")
    lines.append(b"")
    return b"\r\n".join(lines)


def add_piece(pieces: list[bytes | bytearray], piece: bytes) -> None:
    """Append `piece` to `pieces`. Small pieces share a buffer, except the first: a body in one piece is not copied."""
    if not pieces or len(piece) >= COALESCED_BYTES:
        pieces.append(piece)
    elif isinstance(last := pieces[-1], bytearray):
        last += piece
    else:
        pieces.append(bytearray(piece))


def announced_bytes(headers: Headers) -> int:
    """Return what Content-Length announces, 0 without one. Of a longer number only the first MOST_DIGITS count."""
    value = header(headers, b"content-length")
    if value is None:
        return 0
    if not value.isdigit():
        raise InvalidRequest("The content-length header is not a number.")
    return int(value if len(value) <= MOST_DIGITS else value.lstrip(b"0")[:MOST_DIGITS] or b"0")


def too_large(limit_bytes: int, setting: str = "limits.body_bytes") -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than {limit_bytes} bytes ({setting}).")
