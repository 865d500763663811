"""However and wherever a request is cancelled, the pool is as whole as before."""

import asyncio

import pytest

from gatepass.types import Timeouts
from tests.integration.scripted import (
    LAST_CHUNK,
    Dialogue,
    Fin,
    Scripted,
    Send,
    Wait,
    begin_stream,
    chunk,
    reply,
    stream,
)
from tests.integration.transport.hand import DIRECT, Hand, Way
from tests.integration.transport.test_tls import client_context, server_context

OK = reply(b"fine")
SHORT = Timeouts(connect_s=2, first_byte_s=2, idle_s=2)


async def cancelled_after(work: asyncio.Task[object], iterations: int) -> bool:
    """Cancel `work` when the loop has turned `iterations` times; True where it was done before."""
    for _ in range(iterations):
        await asyncio.sleep(0)
    early = work.done()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return early


async def proved_whole(hand: Hand, upstream: Scripted) -> None:
    """The only connection there may be can be had, and serves."""
    assert (await hand.ask(upstream.url, b"proof", bounds=SHORT)).body == b"fine"
    await upstream.until(lambda: upstream.open <= 1)


@pytest.mark.parametrize("first", ["fresh", "reused"])
@pytest.mark.parametrize("body_bytes", [2, 1_000_000])
async def test_cancelled_after_any_iteration_of_the_loop(first: str, body_bytes: int):
    """Connect, write, head, body: the request is cancelled a turn later each time, until it is done before."""
    parts: Dialogue = [Send(stream(b"one", end=b"")), Send(chunk(b"two")), Send(LAST_CHUNK)]
    async with (
        Scripted(answer=lambda asked: [Send(OK)] if asked.body == b"proof" else parts) as upstream,
        DIRECT.open(1) as hand,
    ):
        iterations = done = 0
        while done < 3:
            if first == "reused":
                await proved_whole(hand, upstream)
            done += await cancelled_after(asyncio.ensure_future(hand.ask(upstream.url, b"x" * body_bytes)), iterations)
            await proved_whole(hand, upstream)
            iterations += 1
        assert iterations > 5


async def test_cancelled_in_any_iteration_of_a_handshake(way: Way):
    closing: Dialogue = [Send(reply(b"fine", connection="close")), Fin()]
    async with Scripted(closing, tls=server_context()) as upstream, way.open(1, client_context()) as hand:
        iterations = done = 0
        while done < 2:
            done += await cancelled_after(asyncio.ensure_future(hand.ask(upstream.url)), iterations)
            assert (await hand.ask(upstream.url, bounds=SHORT)).body == b"fine"
            iterations += 1
        assert iterations > 5


async def test_a_cancelled_read_loses_nothing():
    """A reader with a shorter timeout may continue to read."""
    go_on = asyncio.Event()
    dialogue = [*begin_stream(), Send(chunk(b"one")), Wait(go_on), Send(chunk(b"two") + LAST_CHUNK)]
    async with Scripted(dialogue) as upstream, DIRECT.open() as hand:
        response = await hand.send(upstream.url)
        pieces = aiter(response)
        assert await anext(pieces) == b"one"
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(pieces), 0.01)
        go_on.set()
        assert [piece async for piece in response] == [b"two"]
        assert (await hand.ask(upstream.url)).body == b"onetwo"
    assert upstream.connections == 1
