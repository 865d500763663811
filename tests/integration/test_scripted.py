"""What the tests that use the scripted upstream would not notice of it."""

import asyncio
import gc
import socket

import pytest

from tests.integration.scripted import Fin, Hold, Pause, Rst, Scripted, Send, Wait, cut

ASK = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: h\r\nX-Two: a:b\r\nContent-Length: 7\r\n\r\n" + b'{"a":1}'


async def connect(upstream: Scripted) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(upstream.url.rpartition(":")[2]))


async def ask(upstream: Scripted) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await connect(upstream)
    writer.write(ASK)
    return reader, writer


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
async def test_a_request_may_come_in_pieces_and_in_chunks(size: int):
    sent = (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\na\r\n0123456789\r\n0\r\nT: t\r\n\r\n" * 2
    )
    async with Scripted([Send(b"!")]) as upstream:
        reader, writer = await connect(upstream)
        for start in range(0, len(sent), size):
            writer.write(sent[start : start + size])
            await asyncio.sleep(0)
        assert await reader.readexactly(2) == b"!!"
        assert [request.body for request in upstream.received] == [b"abc0123456789"] * 2
        writer.close()


@pytest.mark.parametrize("after", [0, 1, 5])
async def test_a_connection_ends_well_or_breaks_after_any_byte(after: int):
    async with Scripted(cut(b"12345", after, Fin()), cut(b"12345", after, Rst())) as upstream:
        reader, writer = await ask(upstream)
        assert await reader.read() == b"12345"[:after]
        writer.close()
        await upstream.left()
        assert upstream.sent_bytes == after
        reader, writer = await ask(upstream)
        assert await reader.readexactly(after) == b"12345"[:after]
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


@pytest.mark.parametrize("waiting", [Hold(), Pause(60), Wait(asyncio.Event())], ids=["hold", "pause", "wait"])
async def test_disconnect_ends_a_dialogue_at_once(waiting: Hold | Pause | Wait):
    async with Scripted([waiting, Send(b"never")]) as upstream:
        _, writer = await ask(upstream)
        await upstream.requested()
        writer.close()
        await upstream.left()
        assert upstream.sent_bytes == 0


async def test_scripted_server_reports_input_that_is_not_a_request():
    upstream = await Scripted([Fin()]).__aenter__()
    _, writer = await connect(upstream)
    writer.write(b"nonsense\r\n\r\n")
    await upstream.left()
    writer.close()
    with pytest.raises(ValueError, match="not enough values"):
        await upstream.__aexit__(None)


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_that_comes_at_the_end_is_closed(turns: int):
    """Else its socket is a ResourceWarning in whichever test runs when it is collected."""
    async with Scripted([Hold()]) as upstream:
        client = socket.create_connection(("127.0.0.1", int(upstream.url.rpartition(":")[2])))
        for _turn in range(turns):
            await asyncio.sleep(0)
    client.close()
    gc.collect()
