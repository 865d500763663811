"""The first hop's other end on ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gatepass.call import Headers, header
from gatepass.errors import BodyTooLarge, ClientGone, InvalidRequest

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Departures = Callable[[Callable[[], None]], Callable[[], None]]
"""Registers what is called when the connection is lost; gives what takes it off again."""


class AsgiClient:
    """Reads a body within its bound, writes with back-pressure, and knows when the client has left.

    ASGI tells of a disconnect through `receive` alone, so a task has to wait there, unless the server
    has the extension `gatepass.departures` of http_guard.py, which costs no task. A client that takes
    nothing is cut off below ASGI, there as well, and has left then.
    """

    def __init__(self, receive: Receive, send: Send, headers: Headers, departures: Departures | None = None) -> None:
        self._receive = receive
        self._send = send
        self._headers = headers
        self._departures = departures

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

    def watch(self, left: Callable[[], None]) -> Callable[[], None]:
        if self._departures is not None:
            return self._departures(left)
        watching = asyncio.create_task(self._wait(left), name="client watch")
        return lambda: _end(watching)

    async def _wait(self, left: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        left()


def _end(task: asyncio.Task[None]) -> None:
    task.cancel()


def _announced_bytes(headers: Headers) -> int:
    value = header(headers, b"content-length")
    if value is None:
        return 0
    if not value.isdigit() or len(value) > 18:
        raise InvalidRequest("The content-length header is not a number.")
    return int(value)


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than {limit_bytes} bytes (limits.body_bytes).")
