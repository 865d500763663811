"""Bodies that are sent while they arrive, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import pytest

from gatepass.http_client.response_body import read_whole
from gatepass.types import OutboundRequest, Timeouts
from tests.integration.scripted import Scripted, Send, reply
from tests.integration.transport.hand import BOUNDS, DIRECT, LIMIT_BYTES, Hand
from tests.waiting import at_rest, until

OK = reply(b"fine")


@dataclass
class Pieces:
    """An Upload of these pieces. It waits at None, and raises an item that is an exception."""

    pieces: tuple[bytes | BaseException | None, ...]
    length_bytes: int | None = None
    taken: int = 0
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def can_restart(self) -> bool:
        return False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            if piece is None:
                await self.go_on.wait()
            elif isinstance(piece, BaseException):
                raise piece
            else:
                self.taken += 1
                yield piece


class Deaf(asyncio.Protocol):
    """Takes nothing; `hang_up` ends it."""

    def __init__(self, made: list[Deaf]) -> None:
        self._gone = asyncio.Event()
        made.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is none
        asyncio.get_running_loop().call_soon(self._transport.pause_reading)  # uvloop begins to read behind this call

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()

    async def hang_up(self) -> None:
        self._transport.abort()
        await self._gone.wait()


async def ask(hand: Hand, url: str, upload: Pieces, bounds: Timeouts = BOUNDS) -> bytes:
    async with asyncio.timeout(20):
        response = await hand.transport.send(OutboundRequest("POST", url, (), b"", bounds, upload=upload))
        try:
            return await read_whole(response, LIMIT_BYTES)
        finally:
            await response.aclose()


@pytest.mark.parametrize("length_bytes", [6, None])
async def test_upload_is_sent_with_its_framing_and_the_connection_reused(length_bytes: int | None):
    async with Scripted([Send(OK)]) as upstream, DIRECT.open() as hand:
        for _ in range(2):
            assert await ask(hand, upstream.url, Pieces((b"abc", b"d", b"ef"), length_bytes)) == b"fine"
    framing = ("transfer-encoding", "chunked") if length_bytes is None else ("content-length", "6")
    assert [request.body for request in upstream.received] == [b"abcdef"] * 2
    assert framing in upstream.received[0].headers
    assert upstream.connections == 1


async def test_upload_waits_for_an_upstream_that_reads_nothing():
    """The kernel takes some megabytes; the rest stays where it comes from."""
    upload = Pieces(tuple(bytes(2**18) for _ in range(400)), 400 * 2**18)
    made: list[Deaf] = []
    listener = await asyncio.get_running_loop().create_server(lambda: Deaf(made), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        async with DIRECT.open() as hand:
            asking = asyncio.create_task(ask(hand, f"http://127.0.0.1:{port}", upload))
            await until(lambda: upload.taken > 0)
            taken = await at_rest(lambda: upload.taken)
            asking.cancel()
            await asyncio.wait([asking])
    finally:
        listener.close()
        for one in made:
            await one.hang_up()
    assert taken < 200
