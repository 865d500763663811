"""An upload through one connection: which side waits, and for how long."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gatepass.errors import Fault, ReceiveTimeout, TransportFault
from gatepass.http_client.connection import SLICE_BYTES
from gatepass.http_client.response_body import UpstreamResponse
from gatepass.types import ConnectionTimes
from tests.unit.http_client.loop import advance, rest
from tests.unit.http_client.test_connection import BOUNDS, HEAD, OK
from tests.unit.http_client.wire import HIGH_WATER_BYTES, Wire

NO = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"
LARGE = bytes(HIGH_WATER_BYTES + 1)
"""More than the server's kernel takes at once."""


class Sender:
    """An Upload whose pieces arrive at the test's command."""

    def __init__(self, length_bytes: int | None) -> None:
        self.length_bytes = length_bytes
        self.taken = 0
        self._pieces: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    def send(self, piece: bytes | Exception) -> None:
        """b"" is the end."""
        self._pieces.put_nowait(piece)

    def can_restart(self) -> bool:
        return False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self._pieces.get():
            if isinstance(piece, Exception):
                raise piece
            self.taken += 1
            yield piece


async def begun(
    *pieces: bytes, length_bytes: int | None = 9_000_000, held_back: bool = False
) -> tuple[Sender, Wire, asyncio.Task[UpstreamResponse]]:
    sender, wire = Sender(length_bytes), Wire()
    wire.transport.held_back = held_back
    for piece in pieces:
        sender.send(piece)
    asking = asyncio.create_task(wire.connection.send_request(HEAD, sender, BOUNDS, ConnectionTimes()))
    await rest()
    return sender, wire, asking


async def at_once(asking: asyncio.Task[UpstreamResponse]) -> UpstreamResponse:
    """Return the reply of `asking`, which must need neither another piece nor time."""
    await rest()
    assert asking.done()
    return asking.result()


async def fault_of(asking: asyncio.Task[UpstreamResponse]) -> Fault:
    with pytest.raises(TransportFault) as caught:
        await asking
    return caught.value.kind


@pytest.mark.parametrize("length_bytes", [9, None])
async def test_upload_is_sent_as_it_arrives_and_its_connection_reused(length_bytes):
    sender, wire, asking = await begun(length_bytes=length_bytes)
    for piece, framed in ((b"abcde", b"5\r\nabcde\r\n"), (b"fghi", b"4\r\nfghi\r\n")):
        before = len(wire.sent)
        sender.send(piece)
        await rest()
        assert wire.sent[before:] == (framed if length_bytes is None else piece)
    sender.send(b"")
    await rest()
    assert wire.sent.endswith(b"0\r\n\r\n" if length_bytes is None else b"fghi")
    wire.feed(OK)
    assert ((await asking).status, wire.events) == (200, ["freed"])


@pytest.mark.parametrize("cut", [len(NO), len(NO) - 2, NO.index(b"\r\n\r\n") + 2])
async def test_a_reply_does_not_wait_for_the_next_piece_of_the_upload(cut: int):
    """The server rejects at once, and the client is slow: the client's own bound must not hide the rejection."""
    sender, wire, asking = await begun(b"abc")
    wire.feed(NO[:cut])
    await rest()
    assert asking.done() is (cut > NO.index(b"\r\n\r\n") + 2)
    wire.feed(NO[cut:])
    reply = await at_once(asking)
    assert (reply.status, await anext(reply)) == (403, b"no")
    await rest()
    assert (wire.events, sender.taken) == (["lost"], 1), "what is half sent is not used again"


async def test_a_reply_in_the_iteration_of_the_last_piece_is_the_reply():
    for first_the_reply in (True, False):
        sender, wire, asking = await begun(length_bytes=None)
        if first_the_reply:
            wire.feed(NO)
            sender.send(b"")
        else:
            sender.send(b"")
            wire.feed(NO)
        assert (await at_once(asking)).status == 403
        await rest()
        assert wire.events == ["lost"]


@pytest.mark.parametrize("exc", [None, ConnectionResetError("reset")])
async def test_a_server_that_is_gone_does_not_wait_for_the_next_piece_either(exc: Exception | None):
    _, wire, asking = await begun(b"abc")
    wire.end(exc)
    await rest()
    assert asking.done()
    assert await fault_of(asking) is Fault.CLOSED


@pytest.mark.parametrize("piece", [b"abc", b""])
async def test_a_connection_whose_end_is_under_way_is_written_nothing_more(piece: bytes):
    sender, wire, asking = await begun(length_bytes=None)
    sender.send(piece)
    wire.transport.closing = True
    await rest()
    assert wire.sent == HEAD
    wire.connection.connection_lost(BrokenPipeError("broken pipe"))
    assert await fault_of(asking) is Fault.CLOSED


async def test_a_cancel_in_the_iteration_of_the_reply_is_a_cancel():
    for first_the_reply in (True, False):
        _, wire, asking = await begun()
        if first_the_reply:
            wire.feed(NO[:-1])
        asking.cancel()
        if not first_the_reply:
            wire.feed(NO[:-1])
        with pytest.raises(asyncio.CancelledError):
            await asking
        await rest()
        assert wire.events == ["lost"]


@pytest.mark.parametrize("error", [ReceiveTimeout("slow"), TimeoutError("its own")])
async def test_error_of_the_upload_is_raised_unchanged(error: Exception):
    sender, wire, asking = await begun()
    sender.send(error)
    with pytest.raises(type(error), match=str(error)):
        await asking
    await rest()
    assert wire.events == ["lost"]


async def test_the_servers_time_does_not_run_while_the_client_sends():
    """A minute of sound over a thin line, and then all of first_byte_s for the reply."""
    sender, wire, asking = await begun()
    for _ in range(3):
        await advance(2 * BOUNDS.first_byte_s)
        sender.send(b"abc")
        await rest()
    sender.send(b"")
    await rest()
    await advance(BOUNDS.first_byte_s - 1)
    assert not asking.done()
    wire.feed(OK)
    assert (await asking).status == 200


async def test_server_has_the_full_time_for_each_piece_of_an_upload():
    sender, wire, asking = await begun(held_back=True)
    sender.send(LARGE)
    for _ in range(3):
        sender.send(LARGE)
        await rest()
        await advance(BOUNDS.first_byte_s - 1)
        assert not asking.done()
        wire.transport.drain()
        await rest()
    await advance(2 * BOUNDS.first_byte_s)
    sender.send(LARGE)
    await rest()
    assert not asking.done()
    await advance(BOUNDS.first_byte_s)
    assert await fault_of(asking) is Fault.TIMEOUT_FIRST_BYTE


async def test_server_has_the_full_time_for_each_slice_of_a_large_body():
    wire = Wire()
    wire.transport.held_back = True
    asking = asyncio.create_task(wire.connection.send_request(HEAD, bytes(4 * SLICE_BYTES), BOUNDS, ConnectionTimes()))
    for _ in range(3):
        await rest()
        await advance(BOUNDS.first_byte_s - 1)
        assert not asking.done()
        wire.transport.drain()
    await rest()
    await advance(BOUNDS.first_byte_s - 1)
    wire.feed(OK)
    assert (await asking).status == 200
