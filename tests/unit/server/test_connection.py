"""One connection of a client, every state of it, without a socket."""

import asyncio
import json
import logging
import socket
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gatepass.errors import ClientGone, GatepassError
from gatepass.http_client.connection import AHEAD_BYTES
from gatepass.http_client.loop_turns import SMALL_READ_BYTES, TURN_S, LoopTurns
from gatepass.server.connection import (
    BODY_GRACE_S,
    DRAIN_IDLE_S,
    DRAIN_RECHECK_S,
    HEAD_COPIES,
    LINGER_S,
    RECEIVE_S,
    STALL_S,
)
from gatepass.server.connection_shares import ConnectionShares, UnfinishedHeads
from gatepass.server.cycle import CONTINUE, REST_BYTES, HttpRequestCycle
from tests.unit.http_client.loop import advance, one_iteration, rest
from tests.unit.server.wire_client import DATE, IDLE_TIMEOUT_S, FakeTransport, Serve, WireClient, asked

LIMIT_BYTES = 1_000_000

OK = b"HTTP/1.1 200 OK\r\ndate: " + DATE + b"\r\ncontent-length: %d\r\n\r\n%b"


async def echo(cycle: HttpRequestCycle) -> None:
    body = await cycle.read_body(LIMIT_BYTES)
    cycle.start(200, [], len(body))
    await cycle.write(body, last=True)


class Held:
    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.raised: list[BaseException] = []

    async def __call__(self, cycle: HttpRequestCycle) -> None:
        try:
            body = await cycle.read_body(LIMIT_BYTES)
            await self.go.wait()
            cycle.start(200, [], len(body))
            await cycle.write(body, last=True)
        except (GatepassError, ClientGone) as error:
            self.raised.append(error)
            raise

    async def finish(self) -> None:
        self.go.set()
        await rest()

    @property
    def codes(self) -> list[str]:
        return [error.code for error in self.raised if isinstance(error, GatepassError)]


def begin_and_hold(held: Held) -> Any:
    async def serve(cycle: HttpRequestCycle) -> None:
        cycle.start(200, [], None)
        await cycle.write(b"a")
        await held.go.wait()
        await cycle.write(b"", last=True)

    return serve


async def echo_known(cycle: HttpRequestCycle) -> None:
    cycle.set_caller("a")
    await echo(cycle)


async def refuse(cycle: HttpRequestCycle) -> None:
    cycle.start(401, [], 2)
    await cycle.write(b"no", last=True)


async def exchange(wire_client: WireClient, *pieces: bytes) -> bytes:
    for piece in pieces:
        wire_client.send(piece)
        await rest()
    return wire_client.received


async def exchanged(serve: Serve, *pieces: bytes) -> WireClient:
    wire_client = WireClient(serve)
    await exchange(wire_client, *pieces)
    return wire_client


def reported(response: bytes) -> tuple[str, bool]:
    """The code of an error that the connection itself sent, and whether its head announces the close."""
    head, _, body = response.partition(b"\r\n\r\n")
    return json.loads(body)["error"]["code"], b"connection: close" in head


LARGE = asked(b"x" * SMALL_READ_BYTES)


def used_up() -> LoopTurns:
    """Turns in whose iteration another connection has used all the time."""
    times = iter((0.0, *[TURN_S] * 3))
    turns = LoopTurns(lambda: next(times, 0.0))
    assert turns.begins()
    return turns


async def test_a_large_read_waits_for_a_turn_and_a_small_one_does_not():
    turns = used_up()
    small, large = WireClient(echo, turns=turns), WireClient(echo, turns=turns)
    small.send(asked(b"1"))
    large.send(LARGE)
    assert (len(small.cycles), len(large.cycles), large.transport.reading) == (1, 0, False)
    await rest()
    assert large.received == OK % (SMALL_READ_BYTES, b"x" * SMALL_READ_BYTES)
    assert large.transport.reading


async def test_what_arrives_behind_a_read_that_waits_keeps_its_place():
    wire_client = WireClient(echo, turns=used_up())
    wire_client.send(LARGE[:-1])
    wire_client.send(b"x" + asked(b"1"))
    assert not wire_client.cycles
    await rest()
    assert wire_client.received == OK % (SMALL_READ_BYTES, b"x" * SMALL_READ_BYTES) + OK % (1, b"1")
    assert wire_client.transport.reading


async def test_a_read_that_waits_is_dropped_if_its_client_leaves():
    wire_client = WireClient(echo, turns=used_up())
    wire_client.send(LARGE)
    wire_client.transport.closing = True
    wire_client.connection.connection_lost(None)
    await rest()
    assert not wire_client.cycles


async def test_the_date_is_the_servers_newest():
    wire_client = await exchanged(echo, asked(b"1"))
    wire_client.state.default_headers = [(b"date", b"later")]
    assert (await exchange(wire_client, asked(b"2"))).endswith(b"date: later\r\ncontent-length: 1\r\n\r\n2")


async def test_requests_sent_ahead_are_answered_in_order_and_reading_stops_meanwhile():
    held = Held()
    wire_client = await exchanged(held, asked(b"1") + asked(b"2") + asked(b"3"))
    assert (len(wire_client.cycles), wire_client.transport.reading, wire_client.received) == (1, False, b"")
    await advance(2 * RECEIVE_S)  # nothing is awaited meanwhile
    await held.finish()
    assert wire_client.received == b"".join(OK % (1, body) for body in (b"1", b"2", b"3"))
    assert wire_client.transport.reading


async def test_an_idle_connection_is_closed_after_its_time():
    wire_client = await exchanged(echo_known, asked(b"1"))
    await advance(IDLE_TIMEOUT_S - 1)
    await exchange(wire_client, asked(b"2"))
    await advance(IDLE_TIMEOUT_S - 1)
    assert not wire_client.transport.closing
    await advance(2)
    transport = wire_client.transport
    assert (transport.closing, transport.aborted, wire_client.statuses) == (True, False, [200, 200])


@pytest.mark.parametrize("begun", [b"", b"POST /v1", asked(b"")[:-2]])
async def test_a_head_that_does_not_come_is_408(begun: bytes):
    wire_client = await exchanged(echo, begun)
    await advance(RECEIVE_S / 2)
    await exchange(wire_client, begun[:0])
    await advance(RECEIVE_S / 2)
    assert reported(wire_client.received) == ("receive_timeout", True)
    assert wire_client.refused == [("receive_timeout", "192.0.2.7")]
    assert (wire_client.transport.ended, wire_client.transport.closing) == (True, False)
    await advance(LINGER_S)
    assert wire_client.transport.aborted


async def test_a_body_below_the_least_rate_ends_its_request_and_then_the_connection():
    """Its pieces extend neither time."""
    held, raw = Held(), asked(b"hello, you")
    wire_client = await exchanged(held, raw[:-10])
    for byte in raw[-10:-5]:
        await exchange(wire_client, bytes([byte]))
        await advance(RECEIVE_S / 5 + 0.01)  # five bytes are worth 5 ms
    assert held.codes == ["receive_timeout"]
    for byte in raw[-5:-1]:
        await exchange(wire_client, bytes([byte]))
        await advance(BODY_GRACE_S / 4)
    assert wire_client.transport.aborted


async def test_a_refused_request_whose_body_never_ends_is_cut_off():
    raw = asked(b"hello, you")
    wire_client = await exchanged(refuse, raw[:-5])
    await advance(RECEIVE_S)
    for byte in raw[-5:-1]:
        await exchange(wire_client, bytes([byte]))
        await advance(BODY_GRACE_S / 4)
    assert wire_client.transport.aborted


BEHIND = {
    "garbage": b"\0\0\r\n\r\n",
    "half a head": b"POST /v1",
    "a broken body": asked(b"zz\r\n", "transfer-encoding: chunked", length=False),
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
async def test_refusal_of_a_second_request_waits_for_the_first_response(behind: bytes):
    held = Held()
    wire_client = await exchanged(held, asked(b"1"), behind)
    await advance(RECEIVE_S)
    assert wire_client.received == b""
    await held.finish()
    assert wire_client.received == OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") % (1, b"1")
    await advance(LINGER_S)
    assert wire_client.transport.closing
    assert len(wire_client.cycles) == 1


async def test_a_broken_body_is_rejected_at_once_and_its_handler_writes_nothing():
    held = Held()
    wire_client = WireClient(held)
    raw = asked(b"zz\r\n", "transfer-encoding: chunked", length=False)
    await exchange(wire_client, raw)
    assert reported(wire_client.received) == ("invalid_request", True)
    assert [type(error) for error in held.raised] == [ClientGone]


@pytest.mark.parametrize(
    ("raw", "persists"),
    [
        (asked(b"5\r\n", "transfer-encoding: chunked", length=False), False),
        (asked(b"0\r\nx: y", "transfer-encoding: chunked", length=False), False),
        (asked(bytes(REST_BYTES + 2))[: -REST_BYTES - 1], False),
        (asked(bytes(REST_BYTES + 1))[:-REST_BYTES], True),
    ],
    ids=["chunks", "trailers", "a large rest", "a small rest"],
)
async def test_large_rest_of_a_body_after_an_early_answer_is_not_parsed(raw: bytes, persists: bool):
    wire_client = await exchanged(refuse, raw)
    assert (wire_client.statuses, b"connection: close" in wire_client.received) == ([401], not persists)
    assert wire_client.transport.ended is not persists
    await exchange(wire_client, bytes(REST_BYTES) + asked(b"2"))
    assert wire_client.statuses == ([401, 401] if persists else [401])


async def test_a_broken_body_puts_no_refusal_into_an_answer_that_has_begun():
    held, raw = Held(), asked(b"5\r\n", "transfer-encoding: chunked", length=False)
    wire_client = await exchanged(begin_and_hold(held), raw, b"zz zz zz\r\n")
    await held.finish()
    assert wire_client.received.endswith(b"\r\n\r\n1\r\na\r\n0\r\n\r\n")
    await advance(LINGER_S)
    assert (wire_client.statuses, wire_client.transport.closing) == ([200], True)


async def test_body_after_a_slow_answer_has_its_full_time():
    """It waits unread behind another request for longer than a body may take."""
    held = Held()
    wire_client = await exchanged(held, asked(b"1") + asked(b"hello")[:-1])
    await advance(RECEIVE_S + 1)
    await advance(RECEIVE_S - 1)
    await held.finish()
    await advance(RECEIVE_S - 1)
    await exchange(wire_client, b"o")
    assert wire_client.statuses == [200, 200]


def shared(connections: int = 1, unauthenticated: int = 2) -> ConnectionShares[Any]:
    return ConnectionShares(connections, unauthenticated, callers=1)


async def test_above_its_share_a_callers_connection_that_is_idle_longest_closes():
    shares = shared()
    first, second, third = (WireClient(echo_known, shares=shares) for _ in range(3))
    for wire_client in (first, second, third):
        await exchange(wire_client, asked(b"1"))
    assert [wire_client.transport.closing for wire_client in (first, second, third)] == [True, False, False]
    assert first.refused == [("overloaded", "192.0.2.7")]


async def test_a_connection_that_closes_for_others_sends_what_it_has_for_a_second():
    shares = shared(unauthenticated=1)
    first, *_ = (WireClient(echo, shares=shares) for _ in range(3))
    first.transport.buffered_bytes = 1
    WireClient(echo, shares=shares)
    assert (first.transport.closing, first.transport.aborted) == (True, False)
    await advance(LINGER_S)
    assert first.transport.aborted


async def test_a_connection_that_ends_leaves_its_share():
    shares = shared()
    visitors = [WireClient(echo, shares=shares), WireClient(echo_known, shares=shares)]
    for wire_client in visitors:
        await exchange(wire_client, asked(b"1"))
        wire_client.transport.abort()
    await rest()
    assert len(shares) == 0


async def test_an_unfinished_head_that_does_not_fit_is_refused_until_another_one_has_left():
    heads = UnfinishedHeads(2 * HEAD_COPIES * 100)
    held, late, next_one = (WireClient(echo, heads=heads) for _ in range(3))
    half = b"GET / HTTP/1.1\r\nx: ".ljust(100, b"x")
    await exchange(held, half)
    await exchange(late, half, b"x")
    assert (held.statuses, late.statuses, late.refused) == ([], [503], [("overloaded", "192.0.2.7")])
    late.transport.abort()
    await rest()
    await exchange(next_one, half)
    assert (next_one.statuses, heads.total_bytes) == ([], heads.limit_bytes)
    await exchange(next_one, b"\r\nhost: h\r\n\r\n")
    assert (next_one.statuses, heads.total_bytes) == ([200], heads.limit_bytes // 2)


async def test_a_refused_head_leaves_no_memory_while_its_client_may_still_send():
    late = WireClient(echo, heads=UnfinishedHeads(0))
    tracemalloc.start()
    await exchange(late, b"GET / HTTP/1.1\r\nx: ".ljust(60_000, b"x"))
    left_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert (late.statuses, bool(late.transport.reading), left_bytes < 30_000) == ([503], True, True)


async def test_body_after_a_refusal_is_read_for_the_receive_timeout():
    async def refuse_early(cycle: HttpRequestCycle) -> None:
        await asyncio.sleep(0.5)  # takes no time: the test advances the driven loop
        cycle.start(413, [], 5)
        await cycle.write(b"large", last=True)

    wire_client, piece = WireClient(refuse_early), bytes(AHEAD_BYTES + 1)
    await exchange(wire_client, asked(bytes(5 * LIMIT_BYTES))[:100], piece)
    assert wire_client.statuses == []
    await advance(0.5)
    assert (wire_client.statuses, wire_client.transport.ended) == ([413], True)
    # or the client, which sends all before it reads, meets a closed connection and never learns why
    assert wire_client.transport.reading
    for _ in range(int(RECEIVE_S / LINGER_S * 2) - 1):
        await advance(LINGER_S / 2)
        await exchange(wire_client, piece)
    assert not wire_client.transport.closing
    for _ in range(4):
        await advance(LINGER_S / 2)
        await exchange(wire_client, piece)
    assert wire_client.transport.aborted


async def test_slow_bytes_after_a_refused_head_do_not_extend_the_linger():
    wire_client = await exchanged(echo, b"\0\0\r\n\r\n")
    await advance(LINGER_S / 2)
    await exchange(wire_client, b"more")
    await advance(LINGER_S / 2)
    assert wire_client.transport.aborted


async def test_a_disconnect_reaches_watchers_and_waiters():
    left: list[str] = []
    go = asyncio.Event()

    async def watching(cycle: HttpRequestCycle) -> None:
        cycle.on_disconnect(lambda: left.append("watched"))
        await cycle.read_body(LIMIT_BYTES)
        cycle.on_disconnect(lambda: left.append("once"))
        await go.wait()

    held = Held()
    watcher, waiter = WireClient(watching), WireClient(held)
    await exchange(watcher, asked(b"1"))
    await exchange(waiter, asked(b"hello")[:-1])
    for wire_client in (watcher, waiter):
        wire_client.transport.abort()
        await rest()
    assert left == ["once"]
    assert [type(error) for error in held.raised] == [ClientGone]
    watcher.cycles[0].disconnect()
    assert left == ["once"]
    go.set()
    await rest()


async def test_a_late_disconnect_callback_is_called_at_once_and_nothing_is_written():
    left: list[str] = []
    go = asyncio.Event()

    async def late(cycle: HttpRequestCycle) -> None:
        await cycle.read_body(LIMIT_BYTES)
        await go.wait()
        cycle.on_disconnect(lambda: left.append("left"))
        cycle.start(200, [], 2)
        await cycle.write(b"no", last=True)

    wire_client = await exchanged(late, asked(b"1"))
    wire_client.transport.abort()
    await rest()
    go.set()
    await rest()
    assert (left, wire_client.received) == (["left"], b"")


async def test_client_that_reads_nothing_is_awaited_and_then_disconnected():
    go = asyncio.Event()

    async def stream(cycle: HttpRequestCycle) -> None:
        cycle.start(200, [])
        await cycle.write(b"1")
        await go.wait()
        assert cycle.try_write(b"2")

    wire_client = WireClient(stream)
    wire_client.connection.pause_writing()
    await exchange(wire_client, asked(b"x"))
    assert (wire_client.received, wire_client.cycles[0].try_write(b"lost")) == (b"", False)
    await advance(STALL_S - 1)
    assert wire_client.cycles[0].unread_s() == pytest.approx(STALL_S - 1)
    wire_client.connection.resume_writing()
    assert wire_client.cycles[0].unread_s() == 0
    await advance(STALL_S - 1)
    assert wire_client.received.endswith(b"\r\n1\r\n1\r\n")
    go.set()
    await rest()
    assert b"\r\n1\r\n2\r\n" in wire_client.received


class Acknowledging:
    """A client's socket: what its kernel has sent and what was acknowledged, by the time since the test began."""

    def __init__(self, before_bytes: int, acked_bytes: Callable[[float], int], silent_s: float = 0.0) -> None:
        self._before_bytes, self._acked_bytes, self._silent_s = before_bytes, acked_bytes, silent_s
        self._began_s = asyncio.get_running_loop().time()

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        passed_s = asyncio.get_running_loop().time() - self._began_s
        acked_bytes = self._before_bytes + self._acked_bytes(passed_s)
        info = struct.pack("=44xI72xQ", round(1000 * min(passed_s, self._silent_s)), acked_bytes)
        return info[:size]

    def setsockopt(self, *_: object) -> None: ...


def steadily(rate: float, step_s: float = 1.0) -> Callable[[float], int]:
    """A client that reads so many bytes a second on average, every `step_s`."""
    return lambda passed_s: int(passed_s // step_s * step_s * rate)


@pytest.mark.parametrize(
    ("acked_bytes", "silent_s", "unread_s"),
    [
        (steadily(0), 900.0, [29.0, 31.0, 200.0]),
        (steadily(340), 0.5, [29.0, 31.0, 200.0]),
        (steadily(340, step_s=12), 11.0, [29.0, 31.0, 200.0]),
        (steadily(900), 0.5, [0.5, 0.5, 200.0]),
        (steadily(1_100), 0.5, [0.5, 0.5, 0.5]),
        (steadily(1_100, step_s=4), 3.0, [3.0, 3.0, 3.0]),
        (steadily(1_100, step_s=14), 13.0, [13.0, 13.0, 13.0]),
        (steadily(2_048, step_s=10), 5.0, [5.0, 5.0, 5.0]),
        (lambda passed_s: 200_000 * (passed_s > 1), 900.0, [29.0, 31.0, 200.0]),
        (lambda passed_s: 100_000 * (passed_s > 1) + int(340 * passed_s), 0.5, [0.5, 0.5, 200.0]),
    ],
    ids=[
        *("nothing", "340 B/s", "340 B/s in steps", "900 B/s", "1,100 B/s", "1,100 B/s in steps", "in large steps"),
        *("2 KiB/s in steps", "a burst, then nothing", "and 340 B/s"),
    ],
)
async def test_a_client_below_1_kib_a_second_since_its_pause_does_not_read(acked_bytes, silent_s, unread_s):
    async def stream(cycle: HttpRequestCycle) -> None:
        cycle.start(200, [])
        await cycle.write(b"1")

    wire_client = WireClient(stream)
    wire_client.send(asked(b"x"))
    await rest()
    (cycle,) = wire_client.cycles
    connected: Any = Acknowledging(5_000_000, acked_bytes, silent_s)
    wire_client.transport.socket, passed_s = connected, 0.0
    assert cycle.unread_s() == 0
    wire_client.connection.pause_writing()
    for at_s, expected_s in zip((29.0, 31.0, 200.0), unread_s, strict=True):
        await advance(at_s - passed_s)
        passed_s = at_s
        assert cycle.unread_s() == pytest.approx(expected_s, abs=1e-6)
    wire_client.connection.resume_writing()
    await advance(40.0)
    assert cycle.unread_s() == 0, "a model that is slow is no client that is"
    # a pause begins anew, with what was acknowledged until then
    wire_client.connection.pause_writing()
    await advance(1.0)
    assert cycle.unread_s() <= 1.0


async def test_a_wait_for_room_ends_with_the_connection():
    async def stream(cycle: HttpRequestCycle) -> None:
        cycle.start(200, [])
        await cycle.write(b"1", last=True)

    wire_client = WireClient(stream)
    wire_client.connection.pause_writing()
    await exchange(wire_client, asked(b"x"))
    wire_client.transport.abort()
    await rest()
    assert not wire_client.state.tasks


@pytest.mark.parametrize("begun", [False, True])
async def test_a_fault_of_the_handler_is_logged_and_ends_the_connection(begun: bool, caplog: pytest.LogCaptureFixture):
    async def broken(cycle: HttpRequestCycle) -> None:
        if begun:
            cycle.start(200, [])
            await cycle.write(b"1")
        raise ZeroDivisionError("a bug")

    wire_client = await exchanged(broken, asked(b"x"))
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == ["request_failed"]
    assert wire_client.statuses == ([200] if begun else [500])
    await advance(LINGER_S)
    assert wire_client.transport.closing
    assert b"a bug" not in wire_client.received
    assert not wire_client.received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("expects", [(), ("expect: 100-continue",)])
async def test_nothing_is_written_after_a_close_that_is_not_reported_yet(expects: tuple[str, ...]):
    async def cut(cycle: HttpRequestCycle) -> None:
        wire_client.transport.abort()
        await echo(cycle)

    wire_client = WireClient(cut)
    await exchange(wire_client, asked(b"1", *expects))
    assert (wire_client.received, wire_client.state.tasks, wire_client.state.connections) == (b"", set(), set())


async def test_input_after_a_close_is_ignored():
    wire_client = WireClient(echo)
    wire_client.transport.close()
    wire_client.connection.data_received(b"\0\0\r\n\r\n")
    await rest()
    assert wire_client.received == b""


async def test_a_stop_closes_what_is_idle_and_lets_the_rest_end():
    held = Held()
    idle, begun, busy, ahead = WireClient(echo), WireClient(echo), WireClient(held), WireClient(held)
    await advance(DRAIN_IDLE_S)
    new = WireClient(echo)
    await exchange(begun, asked(b"1")[:10])
    await exchange(busy, asked(b"1"))
    await exchange(ahead, asked(b"1") + asked(b"2"))
    for wire_client in (idle, begun, busy, ahead, new):
        wire_client.connection.shutdown()
    await advance(0.01)
    await advance(DRAIN_RECHECK_S)
    assert [one.transport.ended for one in (idle, begun, busy, new)] == [True, True, False, False]
    await exchange(new, asked(b"1"))
    assert (new.statuses, new.transport.ended) == ([200], True)
    await held.finish()
    assert (busy.transport.ended, busy.statuses) == (True, [200])
    assert (ahead.transport.ended, ahead.statuses) == (True, [200, 200])
    assert busy.received.count(b"connection: close") == ahead.received.count(b"connection: close") == 1


# a response that waits for the end of the iteration


@contextmanager
def with_others(wire_client: WireClient, others: int = 5) -> Iterator[None]:
    """Inside it `others` are in flight in addition to the requests of `wire_client`."""

    async def busy() -> None:
        await asyncio.Event().wait()

    tasks = [asyncio.ensure_future(busy()) for _ in range(others)]
    wire_client.state.tasks.update(tasks)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


class AtOnce:
    """Answers synchronously, and records the bytes that were written when its own call returns."""

    def __init__(self) -> None:
        self.wire_client: WireClient | None = None
        self.seen: list[int] = []

    async def __call__(self, cycle: HttpRequestCycle) -> None:
        cycle.start(200, [], 2)
        await cycle.write(b"xx", last=True)
        assert self.wire_client is not None
        self.seen.append(len(self.wire_client.statuses))


@contextmanager
def deferring(raw: bytes) -> Iterator[tuple[AtOnce, WireClient]]:
    """A client that has sent `raw`, whose response waits for others."""
    serve = AtOnce()
    wire_client = serve.wire_client = WireClient(serve)
    with with_others(wire_client):
        wire_client.send(raw)
        yield serve, wire_client


async def test_refusal_is_written_after_a_deferred_response():
    with deferring(asked(b"")) as (serve, wire_client):
        await one_iteration()
        wire_client.send(b"no HTTP\r\n\r\n")
        assert serve.seen == [0]
        assert wire_client.received.startswith(OK % (2, b"xx") + b"HTTP/1.1 400 ")


async def test_a_held_response_is_out_before_its_connection_closes():
    with deferring(asked(b"", "connection: close")) as (serve, wire_client):
        await rest()
        assert (serve.seen, wire_client.statuses, wire_client.transport.closing) == ([1], [200], True)


async def test_a_held_response_is_out_before_its_client_sees_that_this_is_the_end():
    """It is refused while its body still comes: the connection lingers behind the response."""
    with deferring(asked(b"", "content-length: 9", "connection: close") + b"half") as (_, wire_client):
        await rest()
        assert (wire_client.statuses, wire_client.transport.ended) == ([200], True)
        assert wire_client.transport.pieces_at_end == 1


async def test_a_held_response_is_out_before_the_transport_of_a_client_that_is_done_sending_closes():
    with deferring(asked(b"")) as (serve, wire_client):
        await one_iteration()
        wire_client.connection.eof_received()
        assert (serve.seen, wire_client.statuses) == ([0], [200])


@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_sends_no_more_is_probed_less_and_less_often_until_its_response(begun: bool):
    go = asyncio.Event()

    async def late(cycle: HttpRequestCycle) -> None:
        if begun:
            cycle.start(200, [])
            await cycle.write(b"a")
        await go.wait()
        if not begun:
            cycle.start(200, [])
        await cycle.write(b"b", last=True)

    wire_client, sent = await exchanged(late, asked(b"x")), list[int]()
    probe = b"0" if begun else CONTINUE
    before = wire_client.received
    assert wire_client.connection.eof_received()
    for passed_s in (0, 0.25, 0.25, 0.25, 1, 2, 4, 8, 16, 32, 64):
        await advance(passed_s)
        sent.append(wire_client.received.removeprefix(before).count(probe))
    assert sent == [1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    go.set()
    await rest()
    assert wire_client.received.endswith(b"1\r\nb\r\n0\r\n\r\n")
    assert (wire_client.statuses[-1], wire_client.transport.closing) == (200, True)


@pytest.mark.parametrize("raw", [b"", b"POST /v1", asked(b"xy")[:-1], asked(line="GET / HTTP/1.0")])
async def test_the_end_of_a_client_without_a_complete_request_ends_its_connection(raw: bytes):
    wire_client = await exchanged(respond_late, raw)
    assert not wire_client.connection.eof_received()
    assert wire_client.received == b""


async def respond_late(cycle: HttpRequestCycle) -> None:
    await asyncio.Event().wait()


async def test_nothing_is_written_to_a_client_that_left_before_its_iteration_ended():
    with deferring(asked(b"")) as (serve, wire_client):
        await one_iteration()
        wire_client.transport.abort()
        await rest()
        assert (serve.seen, wire_client.received) == ([0], b"")


# a stop


async def test_connection_made_during_a_drain_closes_after_its_answer():
    wire_client = WireClient(echo)
    wire_client.live.draining = True
    late = FakeTransport(wire_client.connection)
    wire_client.connection.connection_made(late)
    wire_client.transport = late
    await exchange(wire_client, asked(b"1"))
    assert b"connection: close" in wire_client.received
    assert wire_client.cycles[0].connected_before_drain


async def test_drain_closes_idle_connections_after_a_silent_second():
    fresh, old, silent, begun = WireClient(echo), WireClient(echo), WireClient(echo), WireClient(echo)
    await exchange(old, asked(b"1"))
    await advance(DRAIN_IDLE_S * 2)
    await exchange(fresh, asked(b"1"))
    await exchange(begun, asked(b"1")[:10])
    for wire_client in (fresh, old, silent, begun):
        wire_client.connection.close_when_idle()
    await advance(0.01)
    await advance(DRAIN_RECHECK_S)
    assert [each.transport.ended for each in (fresh, old, silent, begun)] == [False, True, True, False]
    await advance(DRAIN_IDLE_S)
    await advance(DRAIN_RECHECK_S)
    assert [each.transport.ended for each in (fresh, begun)] == [True, False]
    assert not fresh.connection.accepts_requests
    begun.send(asked(b"1")[10:])
    await rest()
    assert (begun.statuses, begun.transport.ended, silent.received) == ([200], True, b"")


@pytest.mark.parametrize("pause_s", [0.0, DRAIN_IDLE_S, DRAIN_IDLE_S * 30])
async def test_drain_serves_a_request_that_arrives_after_a_pause_of_the_machine(pause_s: float):
    wire_client = await exchanged(echo, asked(b"1"))
    wire_client.connection.close_when_idle()
    await advance(pause_s)  # nothing runs meanwhile, the client neither
    await advance(DRAIN_RECHECK_S / 2)
    await advance(pause_s)
    await advance(DRAIN_RECHECK_S / 2)
    await exchange(wire_client, asked(b"2"))
    assert (wire_client.statuses, wire_client.received.count(b"connection: close")) == ([200, 200], 1)
    assert wire_client.transport.ended


@pytest.mark.parametrize("close", ["drain", "stop", "idle", "receive"])
async def test_an_idle_connection_does_not_close_over_a_request_that_the_loop_has_not_read(close: str):
    wire_client = WireClient(echo_known)
    if close in ("drain", "idle"):
        await exchange(wire_client, asked(b"1"))
    await advance(DRAIN_IDLE_S * 2)
    arrived, client = socket.socketpair()
    with arrived, client:
        client.send(asked(b"2"))
        wire_client.transport.socket = arrived
        if close == "drain":
            wire_client.connection.close_when_idle()
        elif close == "stop":
            wire_client.connection.shutdown()
        await advance({"idle": IDLE_TIMEOUT_S, "receive": RECEIVE_S}.get(close, 0.01))
        assert (wire_client.transport.ended, wire_client.transport.closing) == (False, False)
        wire_client.send(arrived.recv(1000))
        await rest()
        assert (wire_client.statuses[-1], wire_client.received[-1:]) == (200, b"2")
        # without unread bytes it closes
        await advance(IDLE_TIMEOUT_S + RECEIVE_S)
        assert wire_client.transport.closing


async def test_an_answer_that_began_before_the_stop_leaves_a_second_for_the_next_request():
    held = Held()
    wire_client = WireClient(begin_and_hold(held))
    await exchange(wire_client, asked(b"1"))
    wire_client.connection.close_when_idle()
    await held.finish()
    assert (wire_client.transport.ended, b"connection: close" in wire_client.received) == (False, False)
    await advance(DRAIN_IDLE_S)
    await advance(DRAIN_RECHECK_S)
    assert (wire_client.transport.ended, wire_client.transport.aborted) == (True, False)


async def test_end_of_the_linger_does_not_cut_unsent_bytes():
    wire_client = WireClient(echo)
    wire_client.connection.retire()
    await exchange(wire_client, asked(b"1"))
    wire_client.transport.buffered_bytes = 9
    await advance(LINGER_S * 3)
    assert not wire_client.transport.aborted
    wire_client.transport.buffered_bytes = 0
    await advance(LINGER_S)
    assert wire_client.transport.aborted
