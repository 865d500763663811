"""One connection, every state of it, without a socket."""

import asyncio
import ssl
from typing import cast

import pytest

from gatepass.errors import Fault, TransportFault
from gatepass.http_client.connection import AHEAD_BYTES, SLICE_BYTES
from gatepass.http_client.message_head import HEAD_BYTES
from gatepass.http_client.pool import ConnectionPool
from gatepass.http_client.response_body import UpstreamResponse
from gatepass.types import ConnectionTimes, Timeouts
from tests.unit.http_client.loop import advance, rest
from tests.unit.http_client.wire import FakeTransport, Wire

HEAD = b"POST / HTTP/1.1\r\nhost: h\r\n\r\n"
BOUNDS = Timeouts(connect_s=1, first_byte_s=10, idle_s=3)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def asked(wire: Wire, body: bytes = b"", *, to_head: bool = False) -> asyncio.Task[UpstreamResponse]:
    return asyncio.ensure_future(wire.connection.send_request(HEAD, body, BOUNDS, ConnectionTimes(), to_head=to_head))


async def under_way(
    body: bytes = b"", *, to_head: bool = False, held_back: bool = False
) -> tuple[Wire, asyncio.Task[UpstreamResponse]]:
    """A request that waits for its reply. `held_back`: the server does not read."""
    wire = Wire()
    wire.transport.held_back = held_back
    asking = asked(wire, body, to_head=to_head)
    await rest()
    return wire, asking


async def begun(wire: Wire, data: bytes) -> UpstreamResponse:
    asking = asked(wire)
    await rest()
    wire.feed(data)
    return await asking


async def body_of(reply: UpstreamResponse) -> bytes:
    return b"".join([piece async for piece in reply])


async def fault_of(work: asyncio.Future[UpstreamResponse]) -> TransportFault:
    with pytest.raises(TransportFault) as caught:
        await body_of(await work)
    return caught.value


WHOLES = {
    "length": (OK, 200, b"fine", "freed"),
    "chunks": (CHUNKED + b"2;x=y\r\nfi\r\n2\r\nne\r\n0\r\nt: u\r\n\r\n", 200, b"fine", "freed"),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + OK, 200, b"fine", "freed"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", "freed"),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\n", 304, b"", "freed"),
    "empty": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b"", "freed"),
    "bare line feeds": (OK.replace(b"\r\n", b"\n"), 200, b"fine", "freed"),
    "padded sizes": (CHUNKED + b"4  \r\nfine\r\n0\r\n\r\n", 200, b"fine", "freed"),
    "closing": (OK.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n"), 200, b"fine", "lost"),
    "old": (OK.replace(b"1.1", b"1.0"), 200, b"fine", "lost"),
    "surplus": (OK + b"HTTP/1.1 200 OK\r\ncontent-le", 200, b"fine", "lost"),
    "surplus that is no HTTP": (OK + b"x", 200, b"fine", "lost"),
    "surplus reply": (OK + OK, 200, b"fine", "lost"),
}


@pytest.mark.parametrize("form", WHOLES)
async def test_a_reply_is_the_same_wherever_it_is_split(form: str):
    raw, status, body, fate = WHOLES[form]
    for cut in range(len(raw) + 1):
        wire, asking = await under_way()
        wire.feed(raw[:cut])
        await rest()
        wire.feed(raw[cut:])
        reply = await asking
        assert (reply.status, await body_of(reply)) == (status, body), cut
        await rest()
        assert wire.events[-1] == fate, cut
        assert b"link" not in reply.named
        assert b"t" not in reply.named


# how connections die


@pytest.mark.parametrize("exc", [None, ConnectionResetError("reset")])
@pytest.mark.parametrize("raw", [OK, CHUNKED + b"4\r\nfine\r\n0\r\n\r\n"])
async def test_a_reply_cut_anywhere_is_closed_and_never_whole(raw: bytes, exc: Exception | None):
    for cut in range(len(raw)):
        wire, asking = await under_way()
        wire.feed(raw[:cut])
        wire.end(exc)
        fault = await fault_of(asking)
        assert (fault.kind, fault.sent, fault.stale) == (Fault.CLOSED, True, False), cut
        # the sentence of this fault says that the reply was not complete
        assert fault.detail == ("reset" if exc else "" if cut else "without an answer")
        await rest()
        assert wire.events == ["lost"]


@pytest.mark.parametrize("exc", [None, ConnectionResetError("reset")])
@pytest.mark.parametrize(("raw", "stale"), [(b"", True), (b"H", False), (OK[:-1], False)])
async def test_stale_is_a_used_connection_that_died_without_one_byte(raw: bytes, stale: bool, exc: Exception | None):
    wire = Wire()
    await begun(wire, OK)
    asking = asked(wire)
    await rest()
    wire.feed(raw)
    wire.end(exc)
    fault = await fault_of(asking)
    assert (fault.kind, fault.sent, fault.stale) == (Fault.CLOSED, True, stale)


async def test_an_idle_connection_that_ends_is_not_open():
    wire = Wire()
    await begun(wire, OK)
    wire.connection.eof_received()
    assert not wire.connection.is_open()
    fault = await fault_of(asked(wire))
    assert (fault.kind, fault.sent, fault.stale) == (Fault.CLOSED, False, True)
    await rest()
    assert wire.events == ["freed", "lost"]


async def test_a_server_that_sends_first_is_reported():
    wire = Wire()
    wire.feed(b"SSH-2.0\r\n")
    fault = await fault_of(asked(wire))
    assert (fault.kind, fault.sent, fault.stale) == (Fault.INVALID, False, False)


async def test_a_refused_client_certificate_is_a_fault_of_tls():
    """TLS 1.3 reports it after the handshake: before the request, or while its reply is awaited."""
    early, late, used = Wire(), Wire(), Wire()
    early.end(ssl.SSLError("certificate required"))
    await rest()
    assert (await fault_of(asked(early))).kind is Fault.TLS
    asking = asked(late)
    await rest()
    late.end(ssl.SSLError("certificate required"))
    assert (await fault_of(asking)).kind is Fault.TLS
    await begun(used, OK)
    asking = asked(used)
    await rest()
    used.end(ssl.SSLError("bad record"))
    assert (await fault_of(asking)).kind is Fault.CLOSED


async def test_a_connection_killed_before_it_was_made_is_ended_when_it_is():
    wire = Wire()
    owner = cast(ConnectionPool, wire)
    connection = type(wire.connection)(asyncio.get_running_loop(), owner, memoryview(bytearray(9)), wire.turns)
    assert (connection.new, connection.is_open()) == (True, False)
    connection.abort()
    assert (connection.new, connection.is_open()) == (False, False)
    transport = FakeTransport(connection)
    connection.connection_made(transport)
    assert transport.closing
    assert not connection.is_open()


# a request that waits for the end of the turn


@pytest.mark.parametrize("is_written", [True, False])
async def test_a_request_that_is_cancelled_knows_whether_a_byte_was_written(is_written: bool):
    wire, times = Wire(), ConnectionTimes()
    wire.holding = True
    asking = asyncio.ensure_future(wire.connection.send_request(HEAD, b"body", BOUNDS, times))
    await rest()
    if is_written:
        wire.connection.flush()
    asking.cancel()
    await asyncio.wait([asking])
    wire.connection.flush()
    assert (times.was_written, wire.sent != b"") == (is_written, is_written)


async def test_a_request_that_is_cancelled_as_its_reply_arrives_was_written():
    """The next request has the connection by then, and has written nothing yet."""
    wire, times = Wire(), ConnectionTimes()
    asking = asyncio.ensure_future(wire.connection.send_request(HEAD, b"body", BOUNDS, times))
    await rest()
    wire.feed(OK)
    asking.cancel()
    wire.holding = True
    following = wire.connection.send_request(HEAD, b"body", BOUNDS, ConnectionTimes())
    following.send(None)
    await asyncio.wait([asking])
    assert (asking.cancelled(), times.was_written) == (True, True)
    following.close()


async def test_nothing_is_written_to_a_connection_that_was_killed_in_the_same_iteration():
    wire = Wire()
    wire.holding = True
    asking = asked(wire)
    await rest()
    wire.connection.abort()
    wire.connection.flush()
    assert wire.sent == b""
    assert (await fault_of(asking)).kind is Fault.CLOSED


@pytest.mark.parametrize("kept", [True, False])
async def test_bytes_before_a_deferred_request_are_not_its_reply(kept: bool):
    """A server that sends 408 after a timeout and closes: the request uses another connection."""
    wire = Wire()
    if kept:
        await body_of(await begun(wire, OK))
    wire.holding = True
    asking = asked(wire)
    await rest()
    written = wire.sent
    wire.feed(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    fault = await fault_of(asking)
    wire.connection.flush()
    assert (fault.kind, fault.stale, fault.sent, wire.sent) == (Fault.INVALID, True, False, written)


# not a reply


@pytest.mark.parametrize(
    "raw",
    [
        b"<html>",
        b"HTTP/1.1 99 Low\r\n",
        b"HTTP/1.1 099 Low\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na : b\r\ncontent-length: 0\r\n\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"4\r\nfine\r\n2\r\nhexx0\r\n\r\n",
    ],
)
async def test_ambiguous_reply_is_invalid_for_every_split(raw: bytes):
    for cut in range(len(raw)):
        wire, asking = await under_way()
        wire.feed(raw[:cut])
        wire.feed(raw[cut:])
        fault = await fault_of(asking)
        assert (fault.kind, fault.sent, fault.stale) == (Fault.INVALID, True, False), cut
        await rest()
        assert wire.events == ["lost"]


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-user: a\x01b\r\ncontent-length: 4\r\n\r\nfine",
        b"HTTP/1.1 200 OK\nx-user: a\n b\ncontent-length: 4\n\nfine",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx: \0\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nfine",
    ],
)
async def test_a_reply_that_a_recipient_may_mend_is_the_last_one_of_its_connection(raw: bytes):
    for cut in range(1, len(raw)):
        wire, asking = await under_way()
        wire.feed(raw[:cut])
        wire.feed(raw[cut:])
        reply = await asking
        assert (reply.status, await body_of(reply)) == (200, b"fine"), cut
        assert {b"content-length", b"transfer-encoding"} - dict(reply.headers).keys(), "one of them frames the body"
        assert not any(set(value) & {0, 1, 10, 13} for _, value in reply.headers)
        await rest()
        assert wire.events == ["lost"], "the next reply would be one that another recipient reads differently"


async def test_a_head_that_cannot_be_mended_names_its_header():
    for raw in (b"HTTP/1.1 200 OK\r\nx user: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: y\r\nno colon\r\n\r\n"):
        wire, asking = await under_way()
        wire.feed(raw)
        assert ("'x user'" if b"user" in raw else "'no colon'") in (await fault_of(asking)).detail


@pytest.mark.parametrize("size", [1_000, 100_000])
async def test_a_head_may_be_so_large_however_it_comes(size: int):
    for value_bytes in (HEAD_BYTES - 500, HEAD_BYTES + 1):
        raw = b"HTTP/1.1 200 OK\r\nx: " + b"y" * value_bytes + b"\r\ncontent-length: 4\r\n\r\nfine"
        wire, asking = await under_way()
        for at in range(0, len(raw), size):
            wire.feed(raw[at : at + size])
        if value_bytes > HEAD_BYTES:
            assert (await fault_of(asking)).kind is Fault.INVALID
        else:
            assert await body_of(await asking) == b"fine"


@pytest.mark.parametrize(
    "endless",
    [
        b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n",
        b"x: y\r\n",
        b"y" * 1000,
    ],
)
async def test_a_head_without_an_end_is_bounded(endless: bytes):
    wire, asking = await under_way()
    wire.feed(endless if endless.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\nx: ")
    for _ in range(HEAD_BYTES // len(endless) + 1):
        wire.feed(endless)
    assert (await fault_of(asking)).kind is Fault.INVALID


async def test_trailers_without_an_end_are_bounded_and_framing_between_pieces_is_not():
    wire = Wire()
    reply = await begun(wire, CHUNKED)
    for _ in range(1_000):
        wire.feed(b"1;" + b"x" * 200 + b"\r\n")
        wire.feed(b"a\r\n")
        assert await anext(aiter(reply)) == b"a"
    wire.feed(b"0\r\n")
    for _ in range(HEAD_BYTES // 100):
        wire.feed(b"x-trailer: " + b"y" * 100 + b"\r\n")
    with pytest.raises(TransportFault, match="invalid"):
        await anext(aiter(reply))


# writing


@pytest.mark.parametrize("split", [len(OK), len(OK) - 2])
async def test_reply_before_the_end_of_the_body_stops_the_writer(split: int):
    wire, asking = await under_way(b"x" * 1_000_000, held_back=True)
    wire.feed(OK[:split])
    reply = await asking
    wire.feed(OK[split:])
    assert await body_of(reply) == b"fine"
    await rest()
    assert len(wire.sent) < 1_000_000
    assert wire.events == ["lost"]


async def test_a_connection_that_has_more_to_send_is_not_used_again():
    """The reply arrived before the loop wrote the whole request."""
    wire, asking = await under_way(b"x" * 1000, held_back=True)
    wire.feed(OK)
    assert await body_of(await asking) == b"fine"
    await rest()
    assert wire.events == ["lost"]


# reading


async def test_reading_stops_while_much_is_here_and_goes_on_when_little_is_left():
    wire = Wire()
    reply = await begun(wire, b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    wire.feed(b"x" * AHEAD_BYTES)
    states = [wire.transport.reading]
    wire.feed(b"x")
    assert [*states, wire.transport.reading] == [True, False]
    pieces = aiter(reply)
    count = 0
    while not wire.transport.reading:
        count += len(await anext(pieces))
    assert count > AHEAD_BYTES // 2
    wire.feed(b"x" * (1_000_000 - AHEAD_BYTES - 1))
    assert wire.events == ["freed"]
    assert wire.transport.reading, "a connection that is free reads, or it would not see its end"
    count += len(await body_of(reply))
    assert count == 1_000_000


async def test_reading_is_not_stopped_on_a_connection_that_ends():
    wire = Wire()
    await begun(wire, b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    wire.transport.closing = True
    wire.feed(b"x" * (AHEAD_BYTES + 1))
    assert wire.transport.reading


# time


async def test_first_byte_s_runs_until_the_whole_head_is_here():
    wire, asking = await under_way()
    for byte in OK[: int(BOUNDS.first_byte_s) - 1]:
        wire.feed(bytes([byte]))
        await advance(1)
        assert not asking.done()
    await advance(1)
    assert (await fault_of(asking)).kind is Fault.TIMEOUT_FIRST_BYTE
    assert wire.events == ["lost"]


async def test_idle_s_runs_from_piece_to_piece_while_a_task_waits():
    wire = Wire()
    reply = await begun(wire, CHUNKED)
    for _ in range(20):
        reading = asyncio.ensure_future(anext(aiter(reply)))
        await advance(BOUNDS.idle_s - 0.1)
        assert not reading.done()
        wire.feed(b"1\r\na\r\n")
        assert await reading == b"a"
        await advance(100 * BOUNDS.idle_s)  # nobody waits
    reading = asyncio.ensure_future(anext(aiter(reply)))
    await rest()
    await advance(BOUNDS.idle_s)
    with pytest.raises(TransportFault) as caught:
        await reading
    assert caught.value.kind is Fault.TIMEOUT_IDLE


async def test_completed_request_keeps_the_next_requests_deadline():
    """The next request begins in the same turn, before the one that was answered wakes up."""
    wire = Wire()
    first = asked(wire)
    await rest()
    second = asked(wire)
    wire.feed(OK)
    await first
    await rest()
    await advance(BOUNDS.first_byte_s)
    assert (await fault_of(second)).kind is Fault.TIMEOUT_FIRST_BYTE


# leaving


async def test_a_request_that_is_cancelled_when_its_reply_is_whole_harms_no_other():
    wire, asking = await under_way()
    wire.feed(OK)
    asking.cancel()
    await rest()
    assert asking.cancelled()
    assert wire.events == ["freed"]
    assert wire.connection.is_open()


async def test_server_has_the_full_time_for_each_slice_of_a_large_body():
    wire, asking = await under_way(bytes(4 * SLICE_BYTES), held_back=True)
    for _ in range(3):
        await rest()
        await advance(BOUNDS.first_byte_s - 1)
        assert not asking.done()
        wire.transport.drain()
    await rest()
    await advance(BOUNDS.first_byte_s - 1)
    wire.feed(OK)
    assert (await asking).status == 200
