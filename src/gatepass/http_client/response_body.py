"""A reply on its way in: its pieces as they come, all of them as one, its content coding undone; all of it bounded.

Upstreams are asked for `identity`; some send gzip all the same, and a stream of events must not wait
in a decompressor's buffer.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from typing import Protocol, Self

from gatepass.clock import Deadline
from gatepass.errors import Fault, TransportFault
from gatepass.types import Headers, Response

JOINED_BYTES = 64 * 1024
"""So much of small pieces is handed on as one; with no more than this left the connection reads on."""

SMALL_BYTES = 4 * 1024
"""Larger pieces, on the average, are not worth the copy where there are many."""

PIECE_BYTES = 256 * 1024
"""The largest piece handed on at once: a compressed bomb grows no further than what is read."""

TURN_BYTES = 4 * 1024 * 1024
"""So much is decompressed before the event loop runs. It takes 10 ms."""

LARGE_BYTES = 4 * 1024 * 1024
"""A larger reply is joined beside the event loop: 64 MiB take 50 ms."""

CODING_BYTES = 40
"""A longer content-encoding is not quoted."""

GZIP_WINDOW = 16 + zlib.MAX_WBITS


class ResponseConnection(Protocol):
    """The connection, as much of it as a reply may know."""

    deadline: Deadline

    def abort(self) -> None: ...
    def resume(self) -> None: ...


class UpstreamResponse:
    """A Response. The connection fills `status`, `headers`, `pieces` (`size` bytes of them) and ends it.

    It lets go of its connection when its last byte is here, read or not; until then whoever holds it
    closes it, which kills the connection.
    """

    __slots__ = (
        *("status", "headers", "named", "pieces", "size", "ended"),
        *("_source", "_loop", "_idle_s", "_fault", "_waiter", "_take"),
    )

    def __init__(self, source: ResponseConnection, loop: asyncio.AbstractEventLoop, idle_s: float) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.named: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.size = 0
        self.ended = False
        self._source: ResponseConnection | None = source
        self._loop = loop
        self._idle_s = idle_s
        self._fault: TransportFault | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], bool] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """What came since the last call. Raises TransportFault, after all that came before it."""
        while not self.pieces:
            if self.ended:
                self.check()
                raise StopAsyncIteration
            await self._more()
        return self._taken()

    async def stream_to(self, write: Callable[[bytes], bool]) -> bool:
        """See `Response`. A piece goes to `write` where it is read: an event needs no turn of the loop for
        itself and no step of a task, which was a third of its cost."""
        self._take = write
        try:
            while self._poured():
                if self.ended:
                    self.check()
                    return True
                await self._more()
        finally:
            self._take = None
        return False

    async def aclose(self) -> None:
        if self._source is not None:
            self.discard()

    def discard(self) -> None:
        """Kill the connection, where this reply still holds it."""
        if self._source is not None:
            self._source.abort()

    def check(self) -> None:
        """Raises what this reply broke off by."""
        if self._fault is not None:
            fault = self._fault
            raise TransportFault(fault.fault, fault.detail, sent=fault.sent, stale=fault.stale)

    def changed(self) -> asyncio.Future[None]:
        """Done when there is more of the reply, or room for more of the request."""
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def wake(self) -> None:
        """Hand on what is here without the task that pours, where one does and wants more; else wake who waits."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._take is not None:
            try:
                wants_more = self._poured()
            except Exception as error:  # noqa: BLE001 - it belongs to whoever pours, not to the connection that reads
                waiter.set_exception(error)
                return
            if wants_more and self._source is not None:
                self._source.deadline.set(self._idle_s)
                return
        self._waiter = None
        waiter.set_result(None)

    def end(self, fault: TransportFault | None = None) -> None:
        """There will be no more: the body is whole, or broke off by `fault`."""
        self._source = None
        self._fault = fault
        self.ended = True
        self.wake()

    def _poured(self) -> bool:
        """Hand on what is here; whether more is wanted."""
        pieces, write = self.pieces, self._take
        if len(pieces) == 1 and write is not None and self.size <= JOINED_BYTES:  # an event, of which there are many
            self.size = 0
            if not write(pieces.pop()):
                self._take = None
        while self.pieces and self._take is not None:
            if not self._take(self._taken()):
                self._take = None
        return self._take is not None

    async def _more(self) -> None:
        if self._source is not None:
            self._source.deadline.set(self._idle_s)
        try:
            await self.changed()
        finally:
            if self._source is not None:
                self._source.deadline.lift()

    def _taken(self) -> bytes:
        size = self.size
        if len(self.pieces) == 1 or size > max(JOINED_BYTES, len(self.pieces) * SMALL_BYTES):
            taken = self.pieces.pop(0)
        else:
            taken = b"".join(self.pieces)
            self.pieces.clear()
        self.size -= len(taken)
        if self.size <= JOINED_BYTES < size and self._source is not None:  # with no more than that it was never paused
            self._source.resume()
        return taken


async def pour(pieces: AsyncIterable[bytes], write: Callable[[bytes], bool]) -> bool:
    """`Response.pour` for pieces that have to be awaited one by one."""
    size_bytes = 0
    async for piece in pieces:
        if not write(piece):
            return False
        size_bytes += len(piece)
        if size_bytes > TURN_BYTES:  # a compressed body may be large though little was read
            size_bytes = 0
            await asyncio.sleep(0)
    return True


class BodyMemory(Protocol):
    """Counts what is held of a reply, and says when no more of it may be read for now."""

    @property
    def is_full(self) -> bool: ...
    def add(self, size_bytes: int) -> None: ...
    async def wait_for_room(self) -> None: ...


async def read_whole(
    response: Response, limit_bytes: int, beginning: bytes = b"", memory: BodyMemory | None = None
) -> bytes:
    """The whole body, `beginning` is what was read of it already; raises TransportFault TOO_LARGE past the limit.

    The caller closes the response. Nothing more is read while `memory` is full: then the upstream has to wait.
    """
    pieces = [beginning] if beginning else []
    left_bytes = limit_bytes - len(beginning)
    if memory is not None and beginning:
        memory.add(len(beginning))

    def write(piece: bytes) -> bool:
        nonlocal left_bytes
        left_bytes -= len(piece)
        pieces.append(piece)
        if memory is None:
            return left_bytes >= 0
        memory.add(len(piece))
        return left_bytes >= 0 and not memory.is_full

    while left_bytes >= 0:
        if await response.stream_to(write):
            if limit_bytes - left_bytes <= LARGE_BYTES:
                return b"".join(pieces)
            return await asyncio.to_thread(b"".join, pieces)  # it lets go of the interpreter's lock
        if left_bytes >= 0 and memory is not None:
            await memory.wait_for_room()
    raise TransportFault(Fault.TOO_LARGE, f"the reply is larger than {limit_bytes} bytes")


class ZlibDecoder:
    """gzip (RFC 1952, members may follow each other) and deflate (RFC 1950)."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._inflate = zlib.decompressobj(window)

    def decode(self, piece: bytes) -> Iterator[bytes]:
        """All that can be decoded so far, in bounded pieces; raises TransportFault INVALID."""
        rest = piece
        while rest:
            if self._inflate.eof:
                self._inflate = zlib.decompressobj(self._window)
            try:
                out = self._inflate.decompress(rest, PIECE_BYTES)
            except zlib.error as error:
                raise TransportFault(Fault.INVALID, f"the compressed reply is broken: {error}") from None
            rest = self._inflate.unconsumed_tail or self._inflate.unused_data
            if out:
                yield out

    def finish(self) -> None:
        """Raises TransportFault CLOSED where the coding did not end."""
        if not self._inflate.eof:
            raise TransportFault(Fault.CLOSED, "the compressed reply broke off")


def decoder_of(coding: bytes | None) -> ZlibDecoder | None:
    """The decoder of a content-encoding; None for identity. Raises TransportFault for one we do not know."""
    stated = (coding or b"").strip()
    name = stated.lower()
    if name in (b"", b"identity"):
        return None
    if name in (b"gzip", b"x-gzip"):
        return ZlibDecoder(GZIP_WINDOW)
    if name == b"deflate":
        return ZlibDecoder(zlib.MAX_WBITS)
    # as it was written, and never a part: a secret in other letters, or the beginning of one, is not masked
    shown = stated.decode("ascii", "replace") if len(stated) <= CODING_BYTES else "something unknown"
    raise TransportFault(Fault.INVALID, f"the reply is encoded as {shown}, unasked")


class Decoded:
    """A Response whose content coding is undone; its header fields are as they came."""

    def __init__(self, response: Response, decoder: ZlibDecoder) -> None:
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._decoder = decoder
        self._pieces = aiter(response)
        self._ready: Iterator[bytes] = iter(())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while (ready := next(self._ready, None)) is None:
            try:
                piece = await anext(self._pieces)
            except StopAsyncIteration:
                self._decoder.finish()
                raise
            self._ready = self._decoder.decode(piece)
        return ready

    @property
    def ended(self) -> bool:
        return self._response.ended

    async def stream_to(self, write: Callable[[bytes], bool]) -> bool:
        return await pour(self, write)

    def aclose(self) -> Awaitable[None]:
        return self._response.aclose()


def decoded(response: Response, coding: bytes | None) -> Response:
    """`response` itself where `coding`, its content-encoding, is none; raises as `decoder_of` does."""
    decoder = decoder_of(coding) if coding is not None else None
    return response if decoder is None else Decoded(response, decoder)
