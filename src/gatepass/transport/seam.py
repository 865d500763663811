"""The seam between what gatepass decides and the bytes on a wire."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from typing import Protocol

from gatepass.call import Request, Response
from gatepass.errors import Fault, TransportFault


class Transport(Protocol):
    """Sends one request over one hop's network (its CA, proxy, client certificate, pool).

    `send` returns when the reply's head is here and raises TransportFault. It follows no redirect,
    repeats nothing, and a cancelled `send` leaves no connection behind.
    """

    async def send(self, request: Request) -> Response: ...

    async def aclose(self) -> None: ...


async def pour(pieces: AsyncIterable[bytes], take: Callable[[bytes], bool]) -> bool:
    """`Response.pour` for pieces that have to be awaited one by one."""
    async for piece in pieces:
        if not take(piece):
            return False
    return True


async def read_whole(response: Response, limit_bytes: int, beginning: bytes = b"") -> bytes:
    """The whole body, `beginning` is what was read of it already; raises TransportFault TOO_LARGE past the limit.

    The caller closes the response.
    """
    pieces = [beginning] if beginning else []
    left_bytes = limit_bytes - len(beginning)

    def take(piece: bytes) -> bool:
        nonlocal left_bytes
        left_bytes -= len(piece)
        pieces.append(piece)
        return left_bytes >= 0

    if left_bytes < 0 or not await response.pour(take):
        raise TransportFault(Fault.TOO_LARGE, f"the reply is larger than {limit_bytes} bytes")
    return b"".join(pieces)


async def read_beginning(response: Response, limit_bytes: int) -> bytes:
    """At most `limit_bytes` of the body: enough of an error to say what it says."""
    pieces: list[bytes] = []
    size = 0
    async for piece in response:
        pieces.append(piece)
        size += len(piece)
        if size >= limit_bytes:
            break
    return b"".join(pieces)[:limit_bytes]
