"""A response that is finished before its body: the connection is kept if the body ends soon, else it is closed."""

from __future__ import annotations

import asyncio

import pytest

from gatepass.http_client.connection import AHEAD_BYTES
from gatepass.http_client.loop_turns import LoopTurns
from gatepass.http_client.response_body import TAIL_S, DecodedResponse, UpstreamResponse, ZlibDecoder
from gatepass.types import Timeouts
from tests.unit.http_client.loop import advance, rest
from tests.unit.http_client.wire import Wire

HEAD = b"POST / HTTP/1.1\r\nhost: h\r\n\r\n"
DONE = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\ne\r\ndata: [DONE]\n\n\r\n"
END = b"0\r\n\r\n"


async def begun(wire: Wire, idle_s: float = 60.0) -> UpstreamResponse:
    """A stream whose last event was read, by a task that reads no more."""
    asking = asyncio.ensure_future(wire.connection.send_request(HEAD, b"", Timeouts(idle_s=idle_s)))
    await rest()
    wire.feed(DONE)
    reply = await asking
    assert not await reply.stream_to(lambda _: False)
    return reply


async def test_a_body_that_has_ended_needs_nothing():
    wire = Wire()
    reply = await begun(wire)
    wire.feed(END)
    reply.finish()
    await advance(2 * TAIL_S)
    assert wire.events == ["freed"]


async def test_a_body_that_ends_in_time_frees_its_connection_without_a_task():
    wire = Wire()
    reply = await begun(wire)
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
    wire = Wire()
    reply = await begun(wire)
    reply.finish()
    await advance(TAIL_S - 0.01)
    wire.feed(b"1\r\n\n\r\n")
    assert wire.events == []
    await advance(0.02)
    assert wire.events == ["lost"]


async def test_finish_drops_buffered_bytes_and_reads_the_rest():
    wire = Wire()
    reply = await begun(wire)
    for _ in range(AHEAD_BYTES // 0x10000 + 1):
        wire.feed(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    was_reading = wire.transport.reading
    reply.finish()
    assert (was_reading, wire.transport.reading) == (False, True)
    wire.feed(END)
    assert wire.events == ["freed"]


@pytest.mark.parametrize("exc", [None, ConnectionResetError("gone")])
async def test_a_body_that_breaks_off_is_closed_without_an_error(exc: Exception | None):
    wire = Wire()
    reply = await begun(wire)
    reply.finish()
    wire.end(exc)
    await rest()
    assert wire.events == ["lost"]


async def test_a_coded_response_is_finished_as_if_it_were_not():
    wire = Wire()
    reply = await begun(wire)
    DecodedResponse(reply, ZlibDecoder(0), LoopTurns()).finish()
    wire.feed(END)
    assert wire.events == ["freed"]
