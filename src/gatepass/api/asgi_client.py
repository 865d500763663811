"""The first hop's other end on ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gatepass.call import Headers, header
from gatepass.errors import BodyTooLarge, ClientGone, InvalidRequest

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiClient:
    """Reads a body within its bound, writes with back-pressure, and knows when the client has left.

    uvicorn tells of a disconnect through `receive` alone, so somebody has to wait there. A client
    that takes nothing is cut off below ASGI (http_guard.py), and is gone then.
    """

    def __init__(self, receive: Receive, send: Send, headers: Headers) -> None:
        self._receive = receive
        self._send = send
        self._headers = headers

    async def body(self, limit_bytes: int) -> bytes:
        if _announced_bytes(self._headers) > limit_bytes:
            raise _too_large(limit_bytes)
        pieces: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(piece)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def gone(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return


def _announced_bytes(headers: Headers) -> int:
    value = header(headers, b"content-length")
    if value is None:
        return 0
    if not value.isdigit() or len(value) > 18:
        raise InvalidRequest("The content-length header is not a number.")
    return int(value)


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than {limit_bytes} bytes (limits.body_bytes).")
