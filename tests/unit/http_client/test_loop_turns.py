"""Turns of reads and of tasks, with a time that the test advances."""

import asyncio
from contextlib import suppress
from functools import partial
from itertools import pairwise

import pytest

from gatepass.http_client.loop_turns import SMALL_READ_BYTES, TURN_S, LoopTurns
from gatepass.http_client.message_head import HEAD_BYTES
from gatepass.http_client.response_body import UpstreamResponse
from tests.unit.http_client.loop import one_iteration, rest
from tests.unit.http_client.test_connection import CHUNKED, begun
from tests.unit.http_client.wire import Wire

UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
LARGE = b"x" * (SMALL_READ_BYTES + 1)
CHUNK = b"%x\r\n%b\r\n" % (len(LARGE), LARGE)


class Time:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_turns_end_with_their_time_and_begin_again_in_the_next_iteration():
    time = Time()
    turns = LoopTurns(time)
    assert turns.begins()
    time.now_s += TURN_S / 2
    assert turns.begins()
    time.now_s += TURN_S
    assert not turns.begins()
    await rest()
    assert turns.begins()


async def test_deferred_work_is_done_in_its_order_as_far_as_the_time_of_each_iteration_lasts():
    time, done = Time(), list[int]()
    turns = LoopTurns(time)

    def work(number: int) -> None:
        done.append(number)
        time.now_s += TURN_S * 0.6

    for number in range(5):
        turns.defer(partial(work, number))
    assert not turns.begins()  # those that wait come first
    seen = []
    for _ in range(4):
        await one_iteration()
        seen.append(len(done))
    assert done == [0, 1, 2, 3, 4]
    assert seen == [2, 4, 5, 5]
    assert turns.begins()


async def test_each_waiting_task_has_an_iteration_alone():
    turns, ran = LoopTurns(Time()), list[int]()

    async def slice_of(number: int) -> None:
        await turns.wait()
        ran.append(number)

    tasks = [asyncio.ensure_future(slice_of(number)) for number in range(3)]
    await one_iteration()
    tasks[1].cancel()
    seen = []
    for _ in range(5):
        await one_iteration()
        seen.append(len(ran))
    assert ran == [0, 2]
    assert all(after - before <= 1 for before, after in pairwise(seen))
    with suppress(asyncio.CancelledError):
        await tasks[1]
    await rest()
    assert turns.begins()


async def busy() -> tuple[Wire, UpstreamResponse]:
    """A stream whose first piece has used up the time of the iteration."""
    wire = Wire()
    reply = await begun(wire, CHUNKED + b"1\r\na\r\n")
    wire.feed(CHUNK)
    wire.now_s += TURN_S
    return wire, reply


async def test_a_large_read_without_a_turn_waits_with_reading_paused():
    wire, reply = await busy()
    before = reply.size
    wire.feed(CHUNK)
    assert (reply.size, wire.transport.reading) == (before, False)
    wire.connection.resume()  # as a reply does that has handed over its pieces
    assert not wire.transport.reading
    await rest()
    assert (reply.size, wire.transport.reading) == (before + len(LARGE), True)


async def test_what_waits_is_parsed_before_the_end_of_its_connection():
    wire, reply = await busy()
    wire.feed(CHUNK + b"0\r\n\r\n")
    wire.transport.end(ConnectionResetError())
    assert b"".join([piece async for piece in reply]) == b"a" + LARGE + LARGE
    await rest()
    assert wire.events[-1] == "lost"


@pytest.mark.parametrize("head", [UNTIL_CLOSE, CHUNKED])
async def test_what_waits_is_parsed_before_the_end_of_the_input(head):
    # over TLS the end of the input may follow a read in the same iteration, although reading is paused
    wire = Wire()
    is_chunked = head is CHUNKED
    reply = await begun(wire, head + (b"1\r\na\r\n" if is_chunked else b"a"))
    wire.feed(CHUNK if is_chunked else LARGE)
    wire.now_s += TURN_S
    wire.feed(CHUNK + b"0\r\n\r\n" if is_chunked else LARGE)
    wire.connection.eof_received()
    assert b"".join([piece async for piece in reply]) == b"a" + LARGE + LARGE


async def test_a_head_that_waits_has_the_same_limit():
    wire = Wire()
    assert wire.turns.begins()
    wire.now_s += TURN_S
    reply = await begun(wire, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-a: %b\r\n\r\n" % (b"a" * (HEAD_BYTES // 2)))
    assert reply.status == 200
