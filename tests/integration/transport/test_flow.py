"""Large bodies: neither side is overrun, the held bytes are bounded, and they are freed."""

import asyncio
import fcntl
import hashlib
import sys
import termios
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from gatepass.http_client.response_body import UpstreamResponse
from tests.integration.scripted import LAST_CHUNK, Dialogue, Fin, Scripted, Send, chunk, reply, stream
from tests.integration.transport.hand import DIRECT
from tests.memory import without_collection
from tests.waiting import at_rest, until

MIB = 1024 * 1024


class SlowReader(asyncio.Protocol):
    """A server that reads on demand, and may answer before it has read all."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.gone = asyncio.Event()
        self.count = 0
        self.hash = hashlib.sha256()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.count += len(data)
        self.hash.update(data)
        if not self.began.is_set():
            self.began.set()
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()

    def unread_bytes(self) -> int:
        """Return the unread bytes in the kernel (tcp(7), SIOCINQ)."""
        answer = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
        return int.from_bytes(answer, sys.byteorder)


class Serving:
    def __init__(self, reader: SlowReader) -> None:
        self._reader = reader

    async def __aenter__(self) -> str:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: self._reader, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._reader.transport.abort()
        await self._reader.gone.wait()


async def test_a_large_body_waits_for_a_slow_reader():
    """Until the server reads, the loop holds no more of 16 MiB than a slice or two: the rest is the caller's."""
    body = bytes(range(256)) * (16 * MIB // 256)
    reader = SlowReader()
    async with Serving(reader) as url, DIRECT.open() as hand:
        tracemalloc.start()
        asking = asyncio.ensure_future(hand.ask(url, body))
        await reader.began.wait()
        await at_rest(reader.unread_bytes)
        held_bytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert not asking.done()
        assert held_bytes < 2 * MIB
        reader.transport.resume_reading()
        await until(lambda: reader.count >= len(body))
        reader.transport.write(reply(b"fine"))
        assert (await asking).body == b"fine"
    assert reader.count > len(body)


LARGE = 64 * MIB


async def test_a_slow_reader_stops_the_server_and_gets_all_of_it():
    dialogue: Dialogue = [Send(stream(end=b"")), *[Send(chunk(b"y" * MIB))] * 64, Send(LAST_CHUNK)]
    async with Scripted(dialogue, send_buffer_bytes=65_536) as upstream, DIRECT.open() as hand:
        response = await hand.send(upstream.url)
        pieces = aiter(response)
        count = len(await anext(pieces))
        assert await at_rest(lambda: upstream.sent_bytes) < 12 * MIB
        tracemalloc.start()
        async for piece in response:
            count += len(piece)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        await response.aclose()
    assert count == LARGE
    assert peak_bytes < 8 * MIB


async def held_after(once: Callable[[], Awaitable[object]], rounds: int) -> int:
    """Return the bytes that each call of `once` leaves behind without a garbage collection."""
    await once()
    with without_collection():
        tracemalloc.start()
        try:
            for _ in range(rounds):
                await once()
            await asyncio.sleep(0)  # one turn, in which the last request's callbacks run
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()


DOWN = b"d" * 4 * MIB
OUTCOMES: dict[str, Dialogue] = {
    "kept": [Send(reply(DOWN))],
    "closed": [Send(reply(DOWN, connection="close")), Fin()],
    "broken": [Send(reply(DOWN)[:-1]), Fin()],
}


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_no_body_waits_for_the_garbage_collector(outcome: str):
    up = b"u" * 2 * MIB
    async with Scripted(OUTCOMES[outcome]) as upstream, DIRECT.open() as hand:
        ask = hand.fault if outcome == "broken" else hand.ask
        held_bytes = await held_after(lambda: ask(upstream.url, up), 5)
        received_bytes = sum(len(asked.body) for asked in upstream.received[1:])
    assert received_bytes == 5 * len(up), "these the test itself holds"
    assert held_bytes - received_bytes < 1 * MIB


async def test_an_unread_reply_leaves_nothing_to_the_garbage_collector():
    """A large request and its connection knew each other, and the reply's pieces stayed with them."""
    async with Scripted([Send(reply(b"d" * MIB, connection="close")), Fin()]) as upstream, DIRECT.open() as hand:

        async def leave() -> None:
            response = cast(UpstreamResponse, await hand.send(upstream.url, b"u" * MIB))
            await until(lambda: response.size > MIB // 8)
            await response.aclose()

        held_bytes = await held_after(leave, 10)
        sent_bytes = sum(len(asked.body) for asked in upstream.received[1:])
    assert held_bytes - sent_bytes < MIB // 2
