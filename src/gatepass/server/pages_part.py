"""gatepass's own pages: a Turn handed to an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message

from gatepass.server.cycle import Turn

_FRAMING = frozenset((b"connection", b"content-length", b"keep-alive", b"transfer-encoding"))
"""What the connection says itself (RFC 9110 7.6.1); an event stream's library says `connection: keep-alive`."""


async def show(app: ASGIApp, turn: Turn, limit_bytes: int) -> None:
    """Have `app` answer `turn`; raises what it raises. `receive` tells it that the client has left."""
    page = _Page(turn, limit_bytes)
    unwatch = turn.watch(page.leave)
    try:
        await app(page.scope(), page.receive, page.send)
    finally:
        unwatch()


class _Page:
    """One exchange of ASGI 3 (https://asgi.readthedocs.io/en/latest/specs/www.html)."""

    def __init__(self, turn: Turn, limit_bytes: int) -> None:
        self._turn = turn
        self._limit_bytes = limit_bytes
        self._is_read = False
        self._left = asyncio.Event()

    def scope(self) -> MutableMapping[str, Any]:
        turn = self._turn
        raw_path, _, query = turn.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": turn.version,
            "method": turn.method,
            "scheme": "http",
            "path": turn.path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": list(turn.headers),
            "client": (turn.peer, 0),
            "server": None,
        }

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> Message:
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": await self._turn.body(self._limit_bytes), "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            fields = [(name.lower(), value) for name, value in message.get("headers", ())]
            length = dict(fields).get(b"content-length")
            kept = [field for field in fields if field[0] not in _FRAMING]
            self._turn.start(message["status"], kept, None if length is None else int(length))
        else:
            await self._turn.write(message.get("body", b""), last=not message.get("more_body", False))
