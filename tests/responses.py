"""A response of an upstream without a connection."""

import asyncio
from collections.abc import AsyncIterable, Callable
from typing import Self

from gatepass.types import Headers


async def stream_pieces(pieces: AsyncIterable[bytes], write: Callable[[bytes], bool]) -> bool:
    """Implement `Response.stream_to` for an async iterable of pieces."""
    async for piece in pieces:
        if not write(piece):
            return False
    return True


class PlayedResponse:
    """A Response of `pieces`. If `hangs`, its body does not end after them, and `read` is set when they were read."""

    def __init__(self, *pieces: bytes, status: int = 200, headers: Headers = (), hangs: bool = False) -> None:
        self.status = status
        self.headers = headers
        self.ended = False
        self.closed = False
        self.read = asyncio.Event()
        self._pieces = iter(pieces)
        self._hangs = hangs

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        self.read.set()
        if self._hangs:
            await asyncio.Event().wait()
        self.ended = True
        raise StopAsyncIteration

    def take_whole(self, limit_bytes: int) -> bytes | None:
        return None

    async def stream_to(self, write: Callable[[bytes], bool]) -> bool:
        return await stream_pieces(self, write)

    async def aclose(self) -> None:
        self.closed = True

    def finish(self) -> None:
        """Close at once, as the response of a body that cannot end in time."""
        self.closed = True
