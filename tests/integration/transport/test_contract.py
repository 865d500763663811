"""The contract of a Transport, on real sockets, played byte by byte."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Sequence

import pytest

from gatepass.errors import Fault, TransportFault
from gatepass.types import Headers, Timeouts
from tests.integration.scripted import (
    LAST_CHUNK,
    Dialogue,
    Fin,
    Hold,
    Move,
    Pause,
    Received,
    Rst,
    Scripted,
    Send,
    Wait,
    begin_stream,
    chunk,
    cut,
    head,
    reply,
    stream,
)
from tests.integration.transport.hand import DIRECT
from tests.unit.clock import settle

OK = reply(b"fine")
ENDS: dict[str, Fin | Rst] = {"FIN": Fin(), "RST": Rst()}
PIECES = [None, 1, 7]
"""Every split of every form is played in tests/unit/transport; here the kernel and the loops have their say."""


# requests


async def test_request_is_sent_unchanged_with_its_framing():
    async with Scripted([Send(OK)]) as upstream, DIRECT.open() as hand:
        await hand.ask(f"{upstream.url}/v1/x?y=%20z", b"abc", headers=((b"x-one", b"1"), (b"x-two", b"")))
        await hand.ask(upstream.url, b"", method="GET")
        await hand.ask(upstream.url, b"")
    host = ("host", upstream.url.removeprefix("http://"))
    assert upstream.received == [
        Received(1, "POST", "/v1/x?y=%20z", (host, ("x-one", "1"), ("x-two", ""), ("content-length", "3")), b"abc"),
        Received(1, "GET", "/", (host,), b""),
        Received(1, "POST", "/", (host, ("content-length", "0")), b""),
    ]


BAD_FIELDS: list[Headers] = [
    ((b"x", b"a\r\nhost: other"),),
    ((b"x", b"a\nb"),),
    ((b"x", b"a\rb"),),
    ((b"x", b"a\0b"),),
    ((b"x\r\ny", b"a"),),
    ((b"content-length", b"7"),),
    ((b"transfer-encoding", b"chunked"),),
]


@pytest.mark.parametrize("headers", BAD_FIELDS, ids=str)
async def test_a_request_that_could_be_two_is_never_sent(headers: Headers):
    async with Scripted([Send(OK)]) as upstream, DIRECT.open() as hand:
        fault = await hand.fault(upstream.url, headers=headers)
        assert (fault.kind, fault.sent) == (Fault.INVALID, False)
        assert (await hand.ask(upstream.url)).body == b"fine"
    assert len(upstream.received) == 1


@pytest.mark.parametrize("url", ["ftp://h/", "http://", "http://h/a b", "http://h/\r\nx", "/v1"])
async def test_invalid_url_is_a_fault_and_nothing_is_sent(url: str):
    async with DIRECT.open() as hand:
        fault = await hand.fault(url)
    assert (fault.kind, fault.sent) == (Fault.INVALID, False)


# replies


@pytest.mark.parametrize("piece_bytes", PIECES)
async def test_a_body_with_a_length_comes_whole_in_pieces_of_any_size(piece_bytes: int | None):
    async with Scripted([Send(reply(b"0123456789" * 20, x_a="b"), piece_bytes)]) as upstream, DIRECT.open() as hand:
        for _ in range(2):
            answer = await hand.ask(upstream.url)
            assert (answer.status, answer.body) == (200, b"0123456789" * 20)
            assert (b"x-a", b"b") in answer.headers
    assert upstream.connections == 1


@pytest.mark.parametrize("piece_bytes", PIECES)
async def test_a_chunked_body_comes_without_its_framing_and_trailers(piece_bytes: int | None):
    raw = head(transfer_encoding="chunked") + b"3;x=y\r\nabc\r\nA \r\n0123456789\r\n0\r\nX-Trailer: t\r\n\r\n"
    async with Scripted([Send(raw, piece_bytes)]) as upstream, DIRECT.open() as hand:
        for _ in range(2):
            answer = await hand.ask(upstream.url)
            assert (answer.headers, answer.body) == (((b"transfer-encoding", b"chunked"),), b"abc0123456789")
    assert upstream.connections == 1


@pytest.mark.parametrize("piece_bytes", PIECES)
async def test_a_body_without_a_length_ends_with_its_connection(piece_bytes: int | None):
    async with Scripted([Send(head() + b"until the end", piece_bytes), Fin()]) as upstream, DIRECT.open() as hand:
        for _ in range(2):
            assert (await hand.ask(upstream.url)).body == b"until the end"
    assert upstream.connections == 2


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        ("HEAD", head(content_length="5")),
        ("HEAD", head(transfer_encoding="chunked")),
        ("HEAD", head()),
        ("POST", head(204)),
        ("POST", head(304, content_length="5")),
        ("POST", head(200, content_length="0")),
    ],
)
async def test_a_reply_without_a_body_ends_with_its_head(method: str, raw: bytes):
    async with Scripted([Send(raw)], [Send(OK)]) as upstream, DIRECT.open() as hand:
        assert (await hand.ask(upstream.url, b"", method=method)).body == b""
        assert (await hand.ask(upstream.url)).body == b"fine"


@pytest.mark.parametrize("piece_bytes", PIECES)
async def test_interim_replies_are_skipped(piece_bytes: int | None):
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with Scripted([Send(interim + OK, piece_bytes)]) as upstream, DIRECT.open() as hand:
        for _ in range(2):
            answer = await hand.ask(upstream.url)
            assert (answer.status, answer.body) == (200, b"fine")
            assert b"link" not in dict(answer.headers)
    assert upstream.connections == 1


async def test_pieces_are_returned_as_they_arrive():
    """The upstream waits with each piece until the one before was read: a transport that held one back would hang."""
    steps = [asyncio.Event() for _ in range(5)]
    moves: list[Move] = [move for step in steps for move in (Wait(step), Send(chunk(b"piece")))]
    async with Scripted([*begin_stream(), *moves, Send(LAST_CHUNK)]) as upstream, DIRECT.open() as hand:
        response = await hand.send(upstream.url)
        pieces = aiter(response)
        for step in steps:
            step.set()
            assert await asyncio.wait_for(anext(pieces), 5) == b"piece"
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)
        await response.aclose()


async def test_pieces_that_have_arrived_are_joined():
    async with Scripted([Send(stream(*[b"piece"] * 1000))]) as upstream, DIRECT.open() as hand:
        response = await hand.send(upstream.url)
        pieces = [piece async for piece in response]
    assert b"".join(pieces) == b"piece" * 1000
    assert len(pieces) < 100


@pytest.mark.parametrize("piece_bytes", PIECES)
async def test_a_compressed_body_is_unpacked(piece_bytes: int | None):
    packed = gzip.compress(b"data: {}\n\n" * 100)
    async with (
        Scripted([Send(reply(packed, content_encoding="gzip"), piece_bytes)]) as upstream,
        DIRECT.open() as hand,
    ):
        assert (await hand.ask(upstream.url)).body == b"data: {}\n\n" * 100


async def test_an_unknown_coding_is_refused_and_its_connection_dropped():
    async with Scripted([Send(reply(b"?", content_encoding="zstd"))], [Send(OK)]) as upstream, DIRECT.open(1) as hand:
        assert (await hand.fault(upstream.url)).kind is Fault.INVALID
        assert (await hand.ask(upstream.url)).body == b"fine"


# replies that are none

INVALID = {
    "no HTTP": b"<html>no</html>\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "length and chunks": head(content_length="3", transfer_encoding="chunked") + chunk(b"abc") + LAST_CHUNK,
    "chunks and length": head(transfer_encoding="chunked", content_length="3") + b"abc",
    "two lengths": head()[:-2] + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc",
    "two lengths in one": head(content_length="3, 4") + b"abc",
    "a negative length": head(content_length="-3") + b"abc",
    "a signed length": head(content_length="+3") + b"abc",
    "a coding that is not chunked": head(transfer_encoding="gzip") + b"abc",
    "another coding below chunked": head(transfer_encoding="gzip, chunked") + chunk(b"abc") + LAST_CHUNK,
    "a coding like chunked": head(transfer_encoding="xchunked") + chunk(b"abc") + LAST_CHUNK,
    "a field without a colon": b"HTTP/1.1 200 OK\r\nabc\r\ncontent-length: 0\r\n\r\n",
    "a field with a blank before its colon": b"HTTP/1.1 200 OK\r\na : b\r\ncontent-length: 0\r\n\r\n",
    "a NUL in a field": b"HTTP/1.1 200 OK\r\na: b\0c\r\ncontent-length: 0\r\n\r\n",
    "a chunk without a size": head(transfer_encoding="chunked") + b"zz\r\nabc\r\n",
    "a chunk with a negative size": head(transfer_encoding="chunked") + b"-3\r\nabc\r\n",
    "a chunk longer than it says": head(transfer_encoding="chunked") + b"3\r\nabcdef\r\n0\r\n\r\n",
    "a head of 200 KB": head(x_large="a" * 200_000, content_length="0"),
    "101 fields": head(content_length="0")[:-2] + b"a: b\r\n" * 100 + b"\r\n",
}


@pytest.mark.parametrize("name", INVALID)
async def test_ambiguous_reply_is_invalid(name: str):
    raw = INVALID[name]
    for piece_bytes in (None, 7 if len(raw) < 10_000 else 10_000):
        async with Scripted([Send(raw, piece_bytes), Hold()], [Send(OK)]) as upstream, DIRECT.open(1) as hand:
            fault = await hand.fault(upstream.url)
            assert (fault.kind, fault.sent, fault.stale) == (Fault.INVALID, True, False)
            assert (await hand.ask(upstream.url)).body == b"fine"


@pytest.mark.parametrize(
    "endless",
    [
        b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n" * 5_000,
        head(transfer_encoding="chunked") + b"0\r\n" + b"x-trailer: y\r\n" * 10_000,
        head(transfer_encoding="chunked") + b"0\r\nx-trailer: " + b"y" * 200_000,
        head(transfer_encoding="chunked") + b"5;x=" + b"y" * 200_000,
        head()[:-2] + b"x: " + b"y" * 200_000,
        b"HTTP/1.1 200 " + b"y" * 200_000,
    ],
    ids=["interim replies", "trailers", "a trailer", "a chunk's extension", "a field", "a reason"],
)
async def test_bytes_outside_the_body_are_bounded(endless: bytes):
    """Sent in pieces, so that it could go on for ever: the transport hangs up by itself."""
    async with Scripted([Send(endless, 8_000), Hold()]) as upstream, DIRECT.open() as hand:
        assert (await hand.fault(upstream.url)).kind is Fault.INVALID
        await upstream.left()


async def test_a_folded_field_is_refused():
    raw = b"HTTP/1.1 200 OK\r\na: b\r\n c\r\ncontent-length: 0\r\n\r\n"
    async with Scripted([Send(raw)]) as upstream, DIRECT.open() as hand:
        assert (await hand.fault(upstream.url)).kind is Fault.INVALID


async def test_old_servers_line_ends_are_taken():
    raw = b"HTTP/1.1 200 OK\nX-A:  b \ncontent-length: 2\n\nok"
    async with Scripted([Send(raw)]) as upstream, DIRECT.open() as hand:
        answer = await hand.ask(upstream.url)
    assert (answer.headers, answer.body) == (((b"x-a", b"b"), (b"content-length", b"2")), b"ok")


# connections that die

WHOLES = {"a length": reply(b"0123456789"), "chunks": stream(b"01234", b"56789")}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("form", WHOLES)
async def test_a_reply_cut_after_any_byte_never_looks_whole(form: str, end: str):
    whole = WHOLES[form]
    cuts = iter(range(len(whole)))
    async with Scripted(answer=lambda _: cut(whole, next(cuts), ENDS[end])) as upstream, DIRECT.open() as hand:
        for _ in whole:
            fault = await hand.fault(upstream.url)
            assert (fault.kind, fault.sent, fault.stale) == (Fault.CLOSED, True, False)
    assert upstream.connections == len(whole)


async def test_a_body_without_a_length_that_is_reset_is_not_whole():
    async with Scripted([Send(head() + b"unti"), Rst()]) as upstream, DIRECT.open() as hand:
        assert (await hand.fault(upstream.url)).kind is Fault.CLOSED


@pytest.mark.parametrize("end", ENDS)
async def test_pieces_before_a_fault_are_returned_before_the_fault(end: str):
    go_on = asyncio.Event()
    dialogue = [*begin_stream(), Send(chunk(b"first")), Wait(go_on), ENDS[end]]
    async with Scripted(dialogue) as upstream, DIRECT.open() as hand:
        response = await hand.send(upstream.url)
        pieces = aiter(response)
        assert await anext(pieces) == b"first"
        go_on.set()
        with pytest.raises(TransportFault, match="closed"):
            await anext(pieces)
        await response.aclose()


UNANSWERED: list[tuple[Dialogue, bool]] = [
    ([Fin()], True),
    ([Rst()], True),
    ([Send(b"H"), Fin()], False),
    ([Send(b"H"), Rst()], False),
    ([Send(b"HTTP/1.1 200"), Fin()], False),
    ([Send(b"HTTP/1.1 200"), Rst()], False),
    ([Send(b"HTTP/1.1 100 Continue\r\n\r\n"), Fin()], False),
    ([Send(head(content_length="4")), Fin()], False),
]


@pytest.mark.parametrize(("death", "stale"), UNANSWERED)
async def test_a_reused_connection_without_one_byte_of_answer_is_stale(death: Dialogue, stale: bool):
    async with Scripted([Send(OK)], death) as upstream, DIRECT.open() as hand:
        await hand.ask(upstream.url)
        fault = await hand.fault(upstream.url)
        assert (fault.kind, fault.sent, fault.stale) == (Fault.CLOSED, True, stale)
    assert (upstream.connections, len(upstream.received)) == (1, 2)


@pytest.mark.parametrize("end", ENDS)
async def test_a_reused_connection_that_dies_under_a_large_body_is_stale(end: str):
    async with Scripted([Send(OK)], [ENDS[end]]) as upstream, DIRECT.open() as hand:
        await hand.ask(upstream.url)
        fault = await hand.fault(upstream.url, b"x" * 3_000_000)
        assert (fault.kind, fault.sent, fault.stale) == (Fault.CLOSED, True, True)


@pytest.mark.parametrize("end", ENDS)
async def test_a_fresh_connection_is_never_stale(end: str):
    async with Scripted([ENDS[end]]) as upstream, DIRECT.open() as hand:
        fault = await hand.fault(upstream.url)
        assert (fault.kind, fault.sent, fault.stale) == (Fault.CLOSED, True, False)


@pytest.mark.parametrize("end", ENDS)
async def test_a_connection_that_closed_while_idle_is_not_used(end: str):
    async with Scripted([Send(OK), ENDS[end]]) as upstream, DIRECT.open() as hand:
        for _ in range(3):
            assert (await hand.ask(upstream.url)).body == b"fine"
            await upstream.left()
            await settle()  # the end is in the kernel; the loop has to have a look
    assert (upstream.connections, len(upstream.received)) == (3, 3)


SURPLUS: dict[str, Sequence[Move]] = {
    "at once, another head": [Send(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")],
    "at once, half a head": [Send(OK + b"HTTP/1.1 200 OK\r\ncontent-le")],
    "at once, no HTTP": [Send(OK + b"evil")],
    "later": [Send(OK), Pause(0.03), Send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 4\r\n\r\nevil")],
    "behind chunks": [Send(stream(b"fine") + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")],
    "behind a 204": [Send(head(204, content_length="4") + b"evil")],
}


@pytest.mark.parametrize("when", SURPLUS)
async def test_bytes_after_a_reply_answer_no_request(when: str):
    """A connection with bytes left over is dropped: they would be the next caller's reply."""
    async with Scripted(SURPLUS[when], [Send(OK)]) as upstream, DIRECT.open() as hand:
        assert (await hand.ask(upstream.url)).body in (b"fine", b"")
        await upstream.left()
        assert (await hand.ask(upstream.url)).body == b"fine"
    assert upstream.connections == 2


@pytest.mark.parametrize("delay_s", [0, 0.05])
async def test_server_that_sends_first_is_a_fault(delay_s: float):
    greeting: Dialogue = [Pause(delay_s), Send(b"220 mail.example ESMTP\r\n"), Hold()]
    async with Scripted(greeting, sends_first=True) as upstream, DIRECT.open() as hand:
        assert (await hand.fault(upstream.url)).kind is Fault.INVALID


@pytest.mark.parametrize("closing", ["close", "Close, x"])
async def test_a_reply_that_closes_is_the_last_of_its_connection(closing: str):
    async with Scripted([Send(reply(b"fine", connection=closing))]) as upstream, DIRECT.open() as hand:
        for _ in range(2):
            assert (await hand.ask(upstream.url)).body == b"fine"
    assert upstream.connections == 2


async def test_old_http_keeps_no_connection():
    async with Scripted([Send(OK.replace(b"HTTP/1.1", b"HTTP/1.0"))]) as upstream, DIRECT.open() as hand:
        for _ in range(2):
            assert (await hand.ask(upstream.url)).body == b"fine"
    assert upstream.connections == 2


async def test_partly_read_reply_closes_its_connection():
    async with Scripted([*begin_stream(), Send(chunk(b"first")), Hold()]) as upstream, DIRECT.open() as hand:
        response = await hand.send(upstream.url)
        assert await anext(aiter(response)) == b"first"
        await response.aclose()
        await upstream.left()


async def test_an_unread_reply_closes_its_connection():
    async with Scripted([*begin_stream(), Hold()]) as upstream, DIRECT.open() as hand:
        await (await hand.send(upstream.url)).aclose()
        await upstream.left()


# what does not come in time


async def test_a_server_that_sends_nothing_is_waited_for_until_first_byte_s():
    async with Scripted([Hold()]) as upstream, DIRECT.open() as hand:
        began_s = time.monotonic()
        fault = await hand.fault(upstream.url, bounds=Timeouts(5, 0.1, 5))
        assert (fault.kind, fault.sent, fault.stale) == (Fault.TIMEOUT_FIRST_BYTE, True, False)
        assert 0.09 < time.monotonic() - began_s < 2
        await upstream.left()


async def test_slow_head_is_bounded_as_a_whole():
    """Each byte comes in time, the whole head does not."""
    async with Scripted([Send(reply(b"fine", x_long="y" * 400), 1, 0.01)]) as upstream, DIRECT.open() as hand:
        began_s = time.monotonic()
        fault = await hand.fault(upstream.url, bounds=Timeouts(0.1, 0.2, 5))
        assert fault.kind is Fault.TIMEOUT_FIRST_BYTE
        assert time.monotonic() - began_s < 2


async def test_a_body_that_falls_silent_is_waited_for_until_idle_s():
    async with Scripted([*begin_stream(), Send(chunk(b"first")), Hold()]) as upstream, DIRECT.open() as hand:
        response = await hand.send(upstream.url, bounds=Timeouts(5, 5, 1.0))
        pieces = aiter(response)
        assert await anext(pieces) == b"first"
        with pytest.raises(TransportFault) as caught:
            await anext(pieces)
        assert caught.value.kind is Fault.TIMEOUT_IDLE
        await response.aclose()
        await upstream.left()


async def test_a_long_reply_outlives_every_bound_while_it_comes():
    dialogue = [*begin_stream(), *(Send(chunk(b"x"), pause_s=0.2) for _ in range(7)), Send(LAST_CHUNK)]
    async with Scripted(dialogue) as upstream, DIRECT.open() as hand:
        assert (await hand.ask(upstream.url, bounds=Timeouts(1.0, 1.0, 1.0))).body == b"x" * 7


async def test_a_slow_reader_is_not_a_silent_server():
    dialogue = [*begin_stream(), *(Send(chunk(b"x"), pause_s=0.02) for _ in range(3)), Send(LAST_CHUNK)]
    async with Scripted(dialogue) as upstream, DIRECT.open() as hand:
        response = await hand.send(upstream.url, bounds=Timeouts(5, 5, 1.0))
        body = b""
        async for piece in response:
            body += piece
            await asyncio.sleep(1.2)  # longer than idle_s, in real time
        await response.aclose()
    assert body == b"x" * 3


async def test_timeouts_apply_to_their_own_request_only():
    """The first request's limits are long, the second's short, on the same connection."""
    async with Scripted([Send(OK)], [Hold()]) as upstream, DIRECT.open() as hand:
        await hand.ask(upstream.url, bounds=Timeouts(5, 60, 60))
        assert (await hand.fault(upstream.url, bounds=Timeouts(5, 0.1, 5))).kind is Fault.TIMEOUT_FIRST_BYTE
    async with Scripted([Send(OK)], [Pause(0.3), Send(OK)]) as upstream, DIRECT.open() as hand:
        await hand.ask(upstream.url, bounds=Timeouts(5, 0.2, 0.2))
        assert (await hand.ask(upstream.url)).body == b"fine"


# connections


async def test_a_refused_connection_is_a_connect_fault():
    async with Scripted([Hold()]) as upstream:
        url = upstream.url
    async with DIRECT.open() as hand:
        fault = await hand.fault(url)
    assert (fault.kind, fault.sent) == (Fault.CONNECT, False)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 70 + ".invalid"])
async def test_unresolvable_host_is_a_dns_fault(host: str):
    async with DIRECT.open() as hand:
        fault = await hand.fault(f"http://{host}/")
    assert (fault.kind, fault.sent) == (Fault.DNS, False)


async def test_connections_are_bounded_and_a_wait_for_one_too():
    async with Scripted([*begin_stream(), Hold()]) as upstream, DIRECT.open(2) as hand:
        held = [await hand.send(upstream.url) for _ in range(2)]
        began_s = time.monotonic()
        fault = await hand.fault(upstream.url, bounds=Timeouts(0.1, 5, 5))
        assert (fault.kind, fault.sent) == (Fault.TIMEOUT_POOL, False)
        assert time.monotonic() - began_s < 2
        assert upstream.connections == 2
        for response in held:
            await response.aclose()


async def test_waiting_requests_are_served_in_the_order_of_arrival():
    async with Scripted(answer=lambda asked: [Send(reply(asked.body))]) as upstream, DIRECT.open(1) as hand:
        numbers = [b"%d" % number for number in range(40)]
        answers = await asyncio.gather(*(hand.ask(upstream.url, number) for number in numbers))
        assert [answer.body for answer in answers] == numbers
    assert [asked.body for asked in upstream.received] == numbers
    assert upstream.connections == 1


async def test_a_waiting_request_gets_the_slot_of_a_connection_that_ended():
    async with Scripted([Send(reply(b"fine", connection="close")), Fin()]) as upstream, DIRECT.open(1) as hand:
        answers = await asyncio.gather(*(hand.ask(upstream.url) for _ in range(20)))
    assert [answer.body for answer in answers] == [b"fine"] * 20
    assert upstream.connections == 20


async def test_a_waiting_request_gets_the_slot_of_a_connection_that_broke():
    async with Scripted([Rst()]) as upstream, DIRECT.open(1) as hand:
        faults = await asyncio.gather(*(hand.fault(upstream.url) for _ in range(20)))
    assert [(fault.kind, fault.stale) for fault in faults] == [(Fault.CLOSED, False)] * 20


async def test_a_server_that_is_down_fails_all_waiting_requests_at_once():
    async with Scripted([Hold()]) as upstream:
        url = upstream.url
    async with DIRECT.open(2) as hand:
        faults = await asyncio.gather(*(hand.fault(url) for _ in range(50)))
    assert {fault.kind for fault in faults} == {Fault.CONNECT}


async def test_closing_ends_replies_under_way():
    async with Scripted([*begin_stream(), Hold()]) as upstream, DIRECT.open(1) as hand:
        response = await hand.send(upstream.url)
        waiting = asyncio.create_task(hand.fault(upstream.url))
        await asyncio.sleep(0)
        await hand.transport.aclose()
        with pytest.raises(TransportFault, match="closed"):
            await anext(aiter(response))
        assert (await waiting).kind is Fault.CLOSED
        assert (await hand.fault(upstream.url)).sent is False
        await upstream.left()


async def test_a_closed_transport_does_not_make_a_broken_body_whole():
    """A body without a length ends with its connection, unless it was gatepass that ended it."""
    async with Scripted([Send(head() + b"unti"), Hold()]) as upstream, DIRECT.open() as hand:
        response = await hand.send(upstream.url)
        pieces = aiter(response)
        assert await anext(pieces) == b"unti"
        await hand.transport.aclose()
        with pytest.raises(TransportFault):
            await anext(pieces)


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_a_reply_shows_whether_its_body_has_ended(coding: str):
    body, go_on = gzip.compress(b"one") if coding == "gzip" else b"one", asyncio.Event()
    begun = head(200, transfer_encoding="chunked", content_encoding=coding)
    async with Scripted([Send(begun + chunk(body)), Wait(go_on), Send(LAST_CHUNK)]) as upstream, DIRECT.open() as hand:
        response = await hand.send(upstream.url)
        found = [(await response.stream_to(lambda _: False), response.ended)]
        go_on.set()
        found.append((await response.stream_to(lambda _: True), response.ended))
        await response.aclose()
    assert found == [(False, False), (True, True)]
