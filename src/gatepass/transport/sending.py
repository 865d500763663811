"""The body of a request on its way out, as fast as the server takes it."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Protocol

from gatepass.call import Upload
from gatepass.transport.deadline import Deadline
from gatepass.transport.incoming import Incoming

SLICE_BYTES = 256 * 1024
"""A large body is handed to the loop in slices of this size, each when the one before is nearly out."""


class Line(Protocol):
    """The connection, as much of it as a body may know."""

    deadline: Deadline
    is_full: bool
    """Whether the server has to take something before more is written."""

    @property
    def open(self) -> bool: ...


class Sending:
    """A body that does not go out with its head: `is_out` when all of it does.

    A reply that comes meanwhile ends the sending: it is an error that wants no more of it. Each wait for the server is
    bounded by `bound_s`. Whoever makes it closes it.
    """

    __slots__ = ("_bound_s", "_handle", "_line", "_reply", "_transport", "_wait", "is_out")

    def __init__(self, line: Line, transport: asyncio.Transport, reply: Incoming, bound_s: float) -> None:
        self._line = line
        self._transport = transport
        self._reply = reply
        self._bound_s = bound_s
        self._wait: asyncio.Timeout | None = None
        self._handle = _second_handle(transport)
        self.is_out = False

    async def write(self, head: bytes, body: bytes) -> None:
        """Write a body that is here, behind its head."""
        self._transport.write(head)
        view = memoryview(body)
        for start in range(0, len(body), SLICE_BYTES):
            await self._room()
            if self._is_over():
                return
            self._transport.write(view[start : start + SLICE_BYTES])
        self._end()

    async def pass_on(self, head: bytes, body: Upload) -> None:
        """Write an upload, piece by piece as it comes: while one is waited for, its sender is bounded and not the
        server, and a reply ends the wait."""
        self._line.deadline.lift()
        is_chunked = body.length_bytes is None
        self._transport.write(head)
        try:
            async with asyncio.timeout(None) as wait:
                self._wait = wait
                async for piece in body:
                    if self._line.is_full:
                        await self._room()
                        self._line.deadline.lift()
                    if self._is_over():
                        return
                    self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
        except TimeoutError:
            if not wait.expired():
                raise
            return  # `stop` was here
        finally:
            self._wait = None
        if self._is_over():
            return
        if is_chunked:
            self._transport.write(b"0\r\n\r\n")
        self._end()

    def last_words(self, into: memoryview) -> int:
        """How many bytes of what the server said before it hung up are now in `into`; 0 when there are no more.

        A server that answers a body which it does not read, and closes, resets the connection (RFC 9112 9.6). The loop
        ends it at the next write that fails, before it has read the answer: that lies in the kernel.
        """
        try:
            return 0 if self._handle is None else os.readv(self._handle, [into])
        except OSError:  # it never said more, or the reset was first
            return 0

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def stop(self) -> None:
        """The reply is here, or there will be none: nothing more of an upload is waited for."""
        wait, self._wait = self._wait, None
        if wait is not None:
            wait.reschedule(0)

    async def _room(self) -> None:
        while self._line.is_full and not (self._reply.status or self._reply.ended):
            self._line.deadline.set(self._bound_s)
            await self._reply.changed()

    def _is_over(self) -> bool:
        """Whether nothing more is wanted; uvloop raises where asyncio ignores a write to what is closing."""
        return bool(self._reply.status) or not self._line.open

    def _end(self) -> None:
        self.is_out = True
        self._line.deadline.set(self._bound_s)


def _second_handle(transport: asyncio.Transport) -> int | None:
    """The transport's socket, to outlive it; None over TLS, where nobody else could read it."""
    connected = transport.get_extra_info("socket")
    if connected is None or transport.get_extra_info("sslcontext") is not None:
        return None
    with suppress(OSError):  # too many files are open
        return os.dup(connected.fileno())
    return None
