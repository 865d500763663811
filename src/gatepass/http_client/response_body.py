"""The body of an upstream's reply: read in pieces or as a whole, decompressed, always within limits.

gatepass requests `identity`, but some upstreams send gzip anyway. Decompression must not delay an event of a stream.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from io import BytesIO
from math import inf
from typing import TYPE_CHECKING, Protocol, Self

from gatepass.errors import Fault, TransportFault
from gatepass.http_client.loop_turns import LoopTurns
from gatepass.types import Headers, Response

if TYPE_CHECKING:
    from gatepass.http_client.connection import Connection

JOINED_BYTES = 64 * 1024
"""Small pieces are joined up to this size. A paused connection reads on when no more than this is buffered."""

SMALL_PIECE_BYTES = 4 * 1024
"""Pieces that are larger than this on average are not joined: the copy costs more than it saves."""

PIECE_BYTES = 256 * 1024
"""Maximum size of a decompressed piece, so that a decompression bomb never expands further than it is read."""

TAIL_S = 1.0
"""Time that an upstream has to end a body of which nothing more is read."""

MOST_PIECES = 64
"""Pieces of a whole body that are kept apart: 16 MiB as gatepass reads them, less if a peer sends them small."""

CODING_BYTES = 40

GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
"""zlib finds out by itself which of both a body is."""

MOST_MEMBERS, MEMBER_BYTES = 1_000, 32
"""The members of a compressed body: so many, and one for each MEMBER_BYTES that it decodes to. Each takes 10 µs, and an
empty one has 20 bytes. Servers that compress each event for itself send larger ones."""


class UpstreamResponse:
    """The Response on an HTTP/1.1 connection. The connection sets `status`, `headers` and `pieces`, and calls `end`.

    `size` is the number of bytes in `pieces`. The reply releases its connection when the last byte has arrived. If it
    is closed before that, the connection is aborted.
    """

    __slots__ = (
        *("status", "headers", "named", "pieces", "size", "ended"),
        *("_connection", "_loop", "_idle_s", "_fault", "_waiter", "_write"),
    )

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop, idle_s: float) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.named: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.size = 0
        self.ended = False
        self._connection: Connection | None = connection
        self._loop = loop
        self._idle_s = idle_s
        self._fault: TransportFault | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._write: Callable[[bytes], bool] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return what arrived since the last call. Raises TransportFault after everything before the fault."""
        while not self.pieces:
            if self.ended:
                self.check()
                raise StopAsyncIteration
            await self.changed(self._idle_s)
        return self._take_pieces()

    async def stream_to(self, write: Callable[[bytes], bool]) -> bool:
        # `write` is called while the socket is read: a wake-up of the task was a third of the cost of an event
        self._write = write
        try:
            while self._hand_over(write) if self.pieces else self._write is not None:
                if self.ended:
                    self.check()
                    return True
                await self.changed(self._idle_s)
        finally:
            self._write = None
        return False

    def take_whole(self, limit_bytes: int) -> bytes | None:
        if not self.ended or self._fault is not None or len(self.pieces) != 1 or self.size > limit_bytes:
            return None
        self.size = 0
        return self.pieces.pop()

    async def aclose(self) -> None:
        if self._connection is not None:
            self.discard()

    def finish(self) -> None:
        if self._connection is not None:
            self.pieces.clear()
            self.size = 0
            self._connection.resume()
            self._connection.deadline.set(TAIL_S)

    def discard(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    @property
    def was_written(self) -> bool:
        """Whether a byte of the request of this reply, which has ended, was written."""
        return self._fault is None or self._fault.sent

    def check(self) -> None:
        """Raise the fault that ended this reply, if any."""
        if self._fault is not None:
            fault = self._fault
            stale, limit_s, answered = fault.stale, fault.limit_s, fault.answered
            raise TransportFault(
                fault.kind, fault.detail, sent=fault.sent, stale=stale, limit_s=limit_s, answered=answered
            )

    def changed(self, bound_s: float | None = None) -> asyncio.Future[None]:
        """Return a future that is done when more of the reply arrived, or more of the request can be written.

        `bound_s` replaces the deadline of the connection.
        """
        if bound_s is not None and self._connection is not None:
            self._connection.deadline.set(bound_s)
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def wake(self) -> None:
        """Pass what arrived to the callback of `stream_to`. Without one, or if it needs no more, wake the task."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if (write := self._write) is not None:
            try:
                if len(self.pieces) == 1 and self.size <= JOINED_BYTES:  # the common case, an event: without a call
                    self.size = 0
                    if not write(self.pieces.pop()):
                        self._write = None
                else:
                    self._hand_over(write)
            except Exception as error:  # noqa: BLE001 - raised in the task that called `stream_to`
                waiter.set_exception(error)
                return
            if self._write is not None and self._connection is not None:
                self._connection.deadline.at_s = self._loop.time() + self._idle_s
                return
        if self.status and self._connection is not None:
            self._connection.deadline.at_s = inf
        self._waiter = None
        waiter.set_result(None)

    def end(self, fault: TransportFault | None = None) -> None:
        """The body is complete, or `fault` ended it."""
        self._connection = None
        self._fault = fault
        self.ended = True
        self.wake()

    def _hand_over(self, write: Callable[[bytes], bool]) -> bool:
        """Pass all pieces to the callback `write`; return whether it needs more. If not, `_write` is cleared."""
        while self.pieces and self._write is not None:
            if not write(self._take_pieces()):
                self._write = None
        return self._write is not None

    def _take_pieces(self) -> bytes:
        size = self.size
        if len(self.pieces) == 1 or size > max(JOINED_BYTES, len(self.pieces) * SMALL_PIECE_BYTES):
            taken = self.pieces.pop(0)
        else:
            taken = b"".join(self.pieces)
            self.pieces.clear()
        self.size -= len(taken)
        if self.size <= JOINED_BYTES < size and self._connection is not None:  # reading pauses only above JOINED_BYTES
            self._connection.resume()
        return taken


class BodyMemory(Protocol):
    """Counts the buffered bytes of a reply, and pauses reading at a limit: `RequestMemory` of `proxy`."""

    def is_full(self) -> bool:
        """Return whether reading must pause."""

    def add(self, size_bytes: int) -> None:
        """Count `size_bytes` more as buffered."""

    async def wait_for_room(self) -> None:
        """Return when reading may continue."""


async def read_whole(
    response: Response, limit_bytes: int, beginning: bytes = b"", memory: BodyMemory | None = None
) -> bytes:
    """Read the whole body and return it after `beginning`, the part that was read before.

    The caller closes the response. While `memory` is full nothing is read, so the upstream waits.
    Raises TransportFault TOO_LARGE if the body is larger than `limit_bytes`.
    """
    pieces: list[bytes | BytesIO] = [beginning] if beginning else []
    left_bytes = limit_bytes - len(beginning)
    if memory is not None and beginning:
        memory.add(len(beginning))

    def write(piece: bytes) -> bool:
        nonlocal left_bytes
        left_bytes -= len(piece)
        add_piece(pieces, piece)
        if memory is None:
            return left_bytes >= 0
        memory.add(len(piece))
        return left_bytes >= 0 and not memory.is_full()

    while left_bytes >= 0:
        if await response.stream_to(write):
            return taken(pieces)
        if left_bytes >= 0 and memory is not None:
            await memory.wait_for_room()
    raise TransportFault(Fault.TOO_LARGE, f"the reply is larger than {limit_bytes} bytes")


def add_piece(pieces: list[bytes | BytesIO], piece: bytes) -> None:
    """Append `piece` to `pieces` for `taken`.

    A list of few pieces is joined at once at the end: a buffer that grows with each of them took 20 % more CPU for a
    body of 4 MiB. More than MOST_PIECES become one buffer, which grows by an eighth at a time and is taken without a
    copy.
    """
    first = pieces[0] if pieces else None
    if isinstance(first, BytesIO):
        first.write(piece)
    elif len(pieces) < MOST_PIECES:
        pieces.append(piece)
    else:
        buffer = BytesIO()
        buffer.writelines(pieces)  # type: ignore[arg-type]  # no buffer is among several pieces
        buffer.write(piece)
        pieces[:] = [buffer]


def taken(pieces: list[bytes | BytesIO]) -> bytes:
    """Return all bytes of a list that `add_piece` filled, and clear it."""
    if len(pieces) == 1:
        run = pieces.pop()
        return run.getvalue() if isinstance(run, BytesIO) else run
    whole = b"".join(pieces)  # type: ignore[arg-type]  # no buffer is among several pieces
    pieces.clear()
    return whole


def is_coded(coding: bytes) -> bool:
    """Return whether a content-encoding is gzip or deflate. Raises TransportFault if it is not supported."""
    stated = coding.strip()
    name = stated.lower()
    if name in (b"", b"identity", b"utf-8"):  # a server that means the charset
        return False
    if name in (b"gzip", b"x-gzip", b"deflate"):
        return True
    # quoted unchanged or not at all: the log masks no secret that is cut or has its case changed
    shown = stated.decode("ascii", "replace") if len(stated) <= CODING_BYTES else "something unknown"
    raise TransportFault(Fault.INVALID, f"the reply is encoded as {shown}, which gatepass did not request")


class DecodedResponse:
    """A Response with unchanged header fields and its body decoded: gzip (RFC 1952, perhaps several members) or deflate
    (RFC 1950)."""

    def __init__(self, response: Response, turns: LoopTurns) -> None:
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._turns = turns
        self._pieces = aiter(response)
        self._inflate: zlib._Decompress | None = None
        """While a part of its data has arrived."""
        self._rest = b""
        self._members_left = MOST_MEMBERS * MEMBER_BYTES
        """In bytes, because each that is decoded allows for a part of a member."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        decoded = b""
        while not decoded:
            if self._rest:
                await self._turns.wait()  # a few bytes read may decode to many, without an await in between
            else:
                try:
                    self._rest = await anext(self._pieces)
                except StopAsyncIteration:
                    if self._inflate is not None:
                        raise TransportFault(Fault.CLOSED, "the compressed reply is incomplete") from None
                    raise
                if not self._rest:
                    continue
            inflate = self._inflate = self._inflate or zlib.decompressobj(GZIP_OR_ZLIB)
            try:
                decoded = inflate.decompress(self._rest, PIECE_BYTES)
            except zlib.error as error:
                reason = str(error).rpartition(": ")[2]  # without "Error -3 while decompressing data"
                raise TransportFault(Fault.INVALID, f"the compressed reply is invalid: {reason}") from None
            self._rest = inflate.unconsumed_tail or inflate.unused_data
            self._members_left += len(decoded)
            if inflate.eof:
                self._inflate = None
                self._members_left -= MEMBER_BYTES
                if self._members_left < 0:
                    raise TransportFault(Fault.INVALID, "the compressed reply has thousands of nearly empty members")
        return decoded

    @property
    def ended(self) -> bool:
        return self._response.ended

    async def stream_to(self, write: Callable[[bytes], bool]) -> bool:
        async for piece in self:
            if not write(piece):
                return False
        return True

    def take_whole(self, limit_bytes: int) -> bytes | None:
        del limit_bytes  # a reply that must be decoded is read in pieces
        return None

    def aclose(self) -> Awaitable[None]:
        return self._response.aclose()

    def finish(self) -> None:
        self._response.finish()
