import asyncio
import gzip
import zlib
from io import BytesIO
from typing import Any

import pytest

from gatepass.errors import Fault, TransportFault
from gatepass.http_client.connection import AHEAD_BYTES
from gatepass.http_client.loop_turns import LoopTurns
from gatepass.http_client.response_body import (
    CODING_BYTES,
    MEMBER_BYTES,
    MOST_MEMBERS,
    MOST_PIECES,
    PIECE_BYTES,
    TAIL_S,
    DecodedResponse,
    UpstreamResponse,
    add_piece,
    is_coded,
    read_whole,
    taken,
)
from tests.responses import PlayedResponse, stream_pieces
from tests.unit.http_client.loop import advance, rest
from tests.unit.http_client.test_connection import BOUNDS, CHUNKED, begun
from tests.unit.http_client.wire import Wire

TEXT = b"data: {}\n\n" * 50
END = b"0\r\n\r\n"


@pytest.mark.parametrize("coding", [b"", b"identity", b" Identity ", b"UTF-8"])
def test_identity_needs_no_decoder(coding):
    assert not is_coded(coding)


async def test_decompression_bomb_is_returned_in_bounded_pieces():
    sizes = [
        len(piece) async for piece in DecodedResponse(PlayedResponse(gzip.compress(b"\0" * 10_000_000)), LoopTurns())
    ]
    assert max(sizes) <= PIECE_BYTES
    assert sum(sizes) == 10_000_000


EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
@pytest.mark.parametrize(
    ("content", "is_read"), [(b"", False), (b"a", False), (b"a" * (MEMBER_BYTES - 1), False), (EVENT, True)]
)
async def test_the_members_of_a_body_are_bounded_by_what_they_decode_to(pack: Any, content: bytes, is_read: bool):
    members = 32 * MOST_MEMBERS + 1
    played = PlayedResponse(pack(content) * (members - 1), pack(content))
    found, error = list[bytes](), None
    try:
        found += [piece async for piece in DecodedResponse(played, LoopTurns())]
    except TransportFault as fault:
        error = fault
    if is_read:
        assert (b"".join(found), error) == (content * members, None)
    else:
        assert error is not None
        assert (error.kind, len(found) < members - 1) == (Fault.INVALID, True)
        assert "thousands of nearly empty members" in str(error)


async def test_a_few_empty_members_end_no_body():
    packed = gzip.compress(b"") * (MOST_MEMBERS - 1) + gzip.compress(TEXT)
    assert [piece async for piece in DecodedResponse(PlayedResponse(packed), LoopTurns())] == [TEXT]


async def test_garbage_is_a_fault_after_what_was_decoded_before_it():
    decoded = DecodedResponse(PlayedResponse(gzip.compress(TEXT) + b"not gzip at all"), LoopTurns())
    assert await anext(decoded) == TEXT
    with pytest.raises(TransportFault, match="the compressed reply is invalid: incorrect header check") as caught:
        await anext(decoded)
    assert caught.value.kind is Fault.INVALID


def test_an_unknown_coding_is_quoted_as_it_was_written_or_not_at_all():
    """Otherwise the redactor, which runs later, would not find a secret in it."""
    with pytest.raises(TransportFault, match="encoded as MiNtEd-Token, which gatepass did not request"):
        is_coded(b" MiNtEd-Token ")
    with pytest.raises(TransportFault, match="encoded as something unknown, which gatepass did not request"):
        is_coded(b"x" * (CODING_BYTES + 1))
    with pytest.raises(TransportFault, match=r"encoded as x+, which gatepass did not request"):
        is_coded(b"x" * CODING_BYTES)


GZIPPED = ((b"content-encoding", b"gzip"),)


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        (b"gzip", gzip.compress(TEXT, mtime=0)),
        (b"x-gzip", gzip.compress(TEXT[:200], mtime=0) + gzip.compress(TEXT[200:], mtime=0)),
        (b"deflate", zlib.compress(TEXT)),
        (b"deflate", gzip.compress(TEXT, mtime=0)),
    ],
)
async def test_a_coded_response_reads_as_if_it_were_not(coding: bytes, packed: bytes):
    for cut in range(len(packed) + 1):
        played = PlayedResponse(packed[:cut], packed[cut:], headers=GZIPPED)
        assert is_coded(coding)
        response = DecodedResponse(played, LoopTurns())
        assert (response.status, response.headers) == (200, played.headers)
        assert b"".join([piece async for piece in response]) == TEXT
        await response.aclose()
        assert played.closed


async def test_truncated_gzip_response_raises_a_fault():
    response = DecodedResponse(PlayedResponse(gzip.compress(TEXT)[:-4]), LoopTurns())
    with pytest.raises(TransportFault, match="closed"):
        [piece async for piece in response]


@pytest.mark.parametrize("count", [1, MOST_PIECES, MOST_PIECES + 1, MOST_PIECES + 3])
def test_a_list_of_pieces_becomes_their_bytes(count: int) -> None:
    pieces: list[bytes | BytesIO] = []
    for number in range(count):
        add_piece(pieces, b"%d," % number)
    assert taken(pieces) == b"".join(b"%d," % number for number in range(count))
    assert pieces == []


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Taker:
    """Takes pieces until one of them is in `enough`."""

    def __init__(self, *enough: bytes) -> None:
        self.taken: list[bytes] = []
        self._enough = enough

    def __call__(self, piece: bytes) -> bool:
        self.taken.append(piece)
        return piece not in self._enough


async def test_stream_to_passes_each_piece_and_returns_true_at_the_end():
    wire, taker = Wire(), Taker()
    pouring = asyncio.ensure_future((await begun(wire, CHUNKED + chunk(b"a"))).stream_to(taker))
    await rest()
    for data in (b"b", b"c"):
        wire.feed(chunk(data))
        assert taker.taken[-1] == data  # before any task could run
    wire.feed(END)
    assert await pouring is True
    assert taker.taken == [b"a", b"b", b"c"]
    assert wire.events == ["freed"]


@pytest.mark.parametrize("at", ["before it waits", "while it waits", "with the end"])
async def test_a_paused_reader_gets_no_more_until_it_reads_again(at: str):
    wire, taker = Wire(), Taker(b"a")
    reply = await begun(wire, CHUNKED + (chunk(b"a") if at == "before it waits" else b""))
    pouring = asyncio.ensure_future(reply.stream_to(taker))
    await rest()
    if at != "before it waits":
        wire.feed(chunk(b"a") + (END if at == "with the end" else b""))
    assert await pouring is False
    if at != "with the end":
        wire.feed(chunk(b"b") + END)
    assert taker.taken == [b"a"]
    again = Taker()
    assert await reply.stream_to(again) is True
    assert again.taken == ([] if at == "with the end" else [b"b"])


@pytest.mark.parametrize("end", ["whole", "broken off"])
@pytest.mark.parametrize("enough", [(), (b"a",)])
@pytest.mark.parametrize("pieces", [(), (b"a",), (b"a", b"b"), (b"a" * 70_000, b"b" * 9)])
async def test_pieces_before_stream_to_are_passed_like_later_pieces(pieces, enough, end: str):
    """The other way asks for piece after piece."""

    async def found(poured) -> tuple[list[bytes], object, int]:
        wire, taker = Wire(), Taker(*enough)
        reply = await begun(wire, CHUNKED)
        wire.feed(b"".join(map(chunk, pieces)) + (END if end == "whole" else b""))
        if end != "whole":
            wire.end()
        try:
            return taker.taken, await poured(reply, taker), reply.size
        except TransportFault as fault:
            return taker.taken, fault.kind, reply.size

    assert await found(UpstreamResponse.stream_to) == await found(stream_pieces)


async def test_silence_is_bounded_from_the_last_piece_on():
    wire, taker = Wire(), Taker()
    pouring = asyncio.ensure_future((await begun(wire, CHUNKED)).stream_to(taker))
    for _ in range(3):
        await advance(BOUNDS.idle_s - 1)
        wire.feed(chunk(b"a"))
    await advance(BOUNDS.idle_s - 1)
    assert not pouring.done()
    await advance(1)
    with pytest.raises(TransportFault) as caught:
        await pouring
    assert caught.value.kind is Fault.TIMEOUT_IDLE


async def test_an_error_of_the_taker_is_the_pourers_and_not_the_connections():
    def broken(_: bytes) -> bool:
        raise ZeroDivisionError

    wire = Wire()
    reply = await begun(wire, CHUNKED)
    pouring = asyncio.ensure_future(reply.stream_to(broken))
    await rest()
    wire.feed(chunk(b"a"))
    wire.feed(chunk(b"b"))
    with pytest.raises(ZeroDivisionError):
        await pouring
    assert wire.connection.is_open()
    assert await anext(reply) == b"b"


async def test_cancelled_stream_to_passes_no_more_pieces():
    wire, taker = Wire(), Taker()
    reply = await begun(wire, CHUNKED)
    pouring = asyncio.ensure_future(reply.stream_to(taker))
    await rest()
    pouring.cancel()
    wire.feed(chunk(b"late"))
    with pytest.raises(asyncio.CancelledError):
        await pouring
    assert taker.taken == []
    await reply.aclose()
    await rest()
    assert wire.events == ["lost"]


async def test_a_coded_reply_pours_what_it_decodes():
    reply, taker = DecodedResponse(PlayedResponse(*map(gzip.compress, (b"a", b"b", b"c"))), LoopTurns()), Taker(b"b")
    assert (await reply.stream_to(taker), taker.taken) == (False, [b"a", b"b"])
    assert (await reply.stream_to(taker), taker.taken) == (True, [b"a", b"b", b"c"])


@pytest.mark.parametrize(
    ("beginning", "pieces"), [(b"", (b"abcd",)), (b"", (b"ab", b"cd")), (b"ab", (b"cd",)), (b"abcd", ())]
)
async def test_a_body_beyond_the_limit_is_read_no_further(beginning, pieces):
    with pytest.raises(TransportFault) as raised:
        await read_whole(PlayedResponse(*pieces, b"never read"), 3, beginning)
    assert raised.value.kind is Fault.TOO_LARGE


class FullMemory:
    """Is full until the first wait for room."""

    def __init__(self) -> None:
        self.added: list[int] = []
        self._is_full = True

    def is_full(self) -> bool:
        return self._is_full

    def add(self, size_bytes: int) -> None:
        self.added.append(size_bytes)

    async def wait_for_room(self) -> None:
        self._is_full = False


@pytest.mark.parametrize("beginning", [b"", b"01"])
async def test_a_body_that_arrived_with_its_head_is_counted_and_waits_for_room(beginning):
    memory = FullMemory()
    reply = await begun(Wire(), CHUNKED + chunk(b"abc") + END)
    assert await read_whole(reply, 5, beginning, memory) == beginning + b"abc"
    assert (sum(memory.added), memory.is_full()) == (len(beginning) + 3, False)
    assert (reply.pieces, reply.size) == ([], 0)


async def read_to_done() -> tuple[Wire, UpstreamResponse]:
    """A stream whose last event was read, by a task that reads no more."""
    wire = Wire()
    reply = await begun(wire, CHUNKED + chunk(b"data: [DONE]\n\n"))
    assert not await reply.stream_to(lambda _: False)
    return wire, reply


async def test_a_body_that_ends_in_time_frees_its_connection_without_a_task():
    wire, reply = await read_to_done()
    before = asyncio.all_tasks()
    reply.finish()
    assert (wire.events, asyncio.all_tasks()) == ([], before)
    await advance(TAIL_S / 2)
    wire.feed(b"1\r\n\n\r\n")  # a blank line after the last event
    await advance(TAIL_S / 4)
    wire.feed(END)
    assert wire.events == ["freed"]
    await advance(2 * TAIL_S)
    assert wire.events == ["freed"]


async def test_a_body_that_does_not_end_is_closed_after_a_second_even_if_more_of_it_arrives():
    wire, reply = await read_to_done()
    reply.finish()
    await advance(TAIL_S - 0.01)
    wire.feed(b"1\r\n\n\r\n")
    assert wire.events == []
    await advance(0.02)
    assert wire.events == ["lost"]


async def test_finish_drops_buffered_bytes_and_reads_the_rest():
    wire, reply = await read_to_done()
    for _ in range(AHEAD_BYTES // 0x10000 + 1):
        wire.feed(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    was_reading = wire.transport.reading
    reply.finish()
    assert (was_reading, wire.transport.reading) == (False, True)
    wire.feed(END)
    assert wire.events == ["freed"]


@pytest.mark.parametrize("exc", [None, ConnectionResetError("gone")])
async def test_a_body_that_breaks_off_is_closed_without_an_error(exc: Exception | None):
    wire, reply = await read_to_done()
    reply.finish()
    wire.end(exc)
    await rest()
    assert wire.events == ["lost"]
