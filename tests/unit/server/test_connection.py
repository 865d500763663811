"""One connection of a client, every state of it, without a socket."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gatepass.errors import ClientGone, GatepassError
from gatepass.server.connection import ClientConnection
from gatepass.server.connection_shares import ConnectionShares
from gatepass.server.cycle import AHEAD_BYTES, REST_BYTES, HttpRequestCycle
from gatepass.server.parser import HEAD_BYTES, HEADER_FIELDS
from gatepass.server.timeouts import BODY_GRACE_S, DRAIN_IDLE_S, LINGER_S
from tests.unit.http_client.loop import advance, driven, one_turn, rest
from tests.unit.server.visitor import DATE, KEEP_ALIVE_S, FakeTransport, Visitor, asked

LIMIT_BYTES = 1_000_000
RECEIVE_S = 20.0
"""As limits.receive_s is by default."""

OK = b"HTTP/1.1 200 OK\r\ndate: " + DATE + b"\r\ncontent-length: %d\r\n\r\n%b"


async def echo(turn: HttpRequestCycle) -> None:
    body = await turn.read_body(LIMIT_BYTES)
    turn.start(200, [], len(body))
    await turn.write(body, last=True)


class Held:
    """Answers each request when the test says so."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.raised: list[BaseException] = []

    async def __call__(self, turn: HttpRequestCycle) -> None:
        try:
            body = await turn.read_body(LIMIT_BYTES)
            await self.go.wait()
            turn.start(200, [], len(body))
            await turn.write(body, last=True)
        except (GatepassError, ClientGone) as error:
            self.raised.append(error)
            raise


async def echo_known(turn: HttpRequestCycle) -> None:
    turn.set_caller("a")
    await echo(turn)


async def refuse(turn: HttpRequestCycle) -> None:
    turn.start(401, [], 2)
    await turn.write(b"no", last=True)


async def visited(visitor: Visitor, *pieces: bytes) -> bytes:
    for piece in pieces:
        visitor.say(piece)
        await rest()
    return visitor.heard


def told(response: bytes) -> tuple[str, bool]:
    """The code of an error that the connection itself answered, and whether it says that it closes."""
    head, _, body = response.partition(b"\r\n\r\n")
    return json.loads(body)["error"]["code"], b"connection: close" in head


async def test_a_request_in_pieces_is_served_with_the_address_of_its_client():
    visitor = Visitor(echo)
    assert await visited(visitor, *(bytes([byte]) for byte in asked(b"hello"))) == OK % (5, b"hello")
    assert [(turn.path, turn.peer) for turn in visitor.turns] == [("/v1/x", "192.0.2.7")]


async def test_a_connection_serves_one_request_after_the_other_without_a_timer_for_each():
    visitor = Visitor(echo)
    await visited(visitor, asked(b"1"))
    before = driven().timers
    for number in range(3):
        await visited(visitor, asked(b"%d" % number))
    assert visitor.statuses == [200] * 4
    assert driven().timers == before
    assert not visitor.state.tasks


async def test_the_date_is_the_servers_newest():
    visitor = Visitor(echo)
    await visited(visitor, asked(b"1"))
    visitor.state.default_headers = [(b"date", b"later")]
    assert (await visited(visitor, asked(b"2"))).endswith(b"date: later\r\ncontent-length: 1\r\n\r\n2")


async def test_requests_sent_ahead_are_answered_in_order_and_reading_stops_meanwhile():
    held = Held()
    visitor = Visitor(held)
    await visited(visitor, asked(b"1") + asked(b"2") + asked(b"3"))
    assert (len(visitor.turns), visitor.transport.reading, visitor.heard) == (1, False, b"")
    held.go.set()
    await rest()
    assert visitor.heard == b"".join(OK % (1, body) for body in (b"1", b"2", b"3"))
    assert visitor.transport.reading


async def test_an_idle_connection_is_closed_after_its_time():
    visitor = Visitor(echo_known)
    await visited(visitor, asked(b"1"))
    await advance(KEEP_ALIVE_S - 1)
    await visited(visitor, asked(b"2"))
    await advance(KEEP_ALIVE_S - 1)
    assert not visitor.transport.closing
    await advance(2)
    assert (visitor.transport.closing, visitor.transport.aborted, visitor.statuses) == (True, False, [200, 200])


@pytest.mark.parametrize("begun", [b"", b"POST /v1", asked(b"")[:-2]])
async def test_a_head_that_does_not_come_is_408(begun: bytes):
    visitor = Visitor(echo)
    await visited(visitor, begun)
    await advance(RECEIVE_S / 2)
    await visited(visitor, begun[:0])
    await advance(RECEIVE_S / 2)
    assert told(visitor.heard) == ("receive_timeout", True)
    assert (visitor.transport.ended, visitor.transport.closing) == (True, False)
    await advance(LINGER_S)
    assert visitor.transport.aborted


async def test_a_dribbled_head_does_not_buy_time():
    visitor = Visitor(echo)
    for byte in b"GET / HTTP/1.1\r\nx: y"[:19]:
        visitor.say(bytes([byte]))
        await advance(RECEIVE_S / 19)
    assert told(visitor.heard) == ("receive_timeout", True)


async def test_a_body_that_does_not_come_is_told_to_the_street_and_then_cut_off():
    held = Held()
    visitor = Visitor(held)
    await visited(visitor, asked(b"hello")[:-1])
    await advance(RECEIVE_S)
    assert [error.code for error in held.raised if isinstance(error, GatepassError)] == ["receive_timeout"]
    await advance(BODY_GRACE_S)
    assert visitor.transport.aborted


async def test_the_body_of_a_refused_request_is_passed_over_and_the_next_one_served():
    visitor = Visitor(refuse)
    raw = asked(b"hello")
    await visited(visitor, raw[:-2])
    assert visitor.statuses == [401]
    await visited(visitor, raw[-2:] + asked(b"2"))
    assert visitor.statuses == [401, 401]
    await advance(KEEP_ALIVE_S + 1)
    assert visitor.transport.closing


async def test_a_refused_request_whose_body_never_ends_is_cut_off():
    visitor = Visitor(refuse)
    await visited(visitor, asked(b"hello")[:-2])
    await advance(RECEIVE_S)
    await advance(BODY_GRACE_S)
    assert visitor.transport.aborted


async def test_a_refused_request_that_closes_waits_for_unread_bytes():
    visitor = Visitor(refuse)
    await visited(visitor, asked(b"hello", "connection: close")[:-2])
    assert b"connection: close" in visitor.heard
    assert (visitor.transport.ended, visitor.transport.closing) == (True, False)
    await visited(visitor, b"lo" + asked(b"2"))
    assert visitor.statuses == [401]
    await advance(LINGER_S)
    assert visitor.transport.aborted


BROKEN = {
    "garbage": (b"\0\0\0\r\n\r\n", "invalid_request"),
    "a target that is none": (asked(line="GET http:// HTTP/1.1"), "invalid_request"),
    "many fields": (asked(b"", *(f"x-{number}: y" for number in range(HEADER_FIELDS))), "head_too_large"),
    "an endless field": (b"GET / HTTP/1.1\r\nx: " + b"y" * (HEAD_BYTES + 1), "head_too_large"),
}


@pytest.mark.parametrize("form", BROKEN)
async def test_what_never_becomes_a_request_is_refused_and_nothing_more_is_read(form: str):
    raw, code = BROKEN[form]
    visitor = Visitor(echo)
    await visited(visitor, raw, asked(b"1"))
    assert told(visitor.heard) == (code, True)
    assert visitor.turns == []


BEHIND = {
    "garbage": b"\0\0\r\n\r\n",
    "half a head": b"POST /v1",
    "two frames": asked(b"hello", "transfer-encoding: chunked"),
    "a broken body": asked(b"zz\r\n", "transfer-encoding: chunked", length=False),
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
async def test_what_is_broken_behind_a_request_waits_for_its_response(behind: bytes):
    held = Held()
    visitor = Visitor(held)
    await visited(visitor, asked(b"1"), behind)
    await advance(RECEIVE_S)
    assert visitor.heard == b""
    held.go.set()
    await rest()
    assert visitor.heard == OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") % (1, b"1")
    await advance(LINGER_S)
    assert visitor.transport.closing
    assert len(visitor.turns) == 1


async def test_a_broken_body_is_told_at_once_and_its_street_has_nobody_to_answer():
    held = Held()
    visitor = Visitor(held)
    raw = asked(b"zz\r\n", "transfer-encoding: chunked", length=False)
    await visited(visitor, raw)
    assert told(visitor.heard) == ("invalid_request", True)
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
async def test_behind_an_early_answer_a_large_rest_of_the_body_is_not_parsed(raw: bytes, persists: bool):
    visitor = Visitor(refuse)
    await visited(visitor, raw)
    assert (visitor.statuses, b"connection: close" in visitor.heard) == ([401], not persists)
    assert visitor.transport.ended is not persists
    await visited(visitor, bytes(REST_BYTES) + asked(b"2"))
    assert visitor.statuses == ([401, 401] if persists else [401])


async def test_a_broken_body_behind_its_early_answer_closes():
    visitor = Visitor(refuse)
    await visited(visitor, asked(b"5\r\n", "transfer-encoding: chunked", length=False), b"zz zz zz\r\n")
    assert (visitor.statuses, visitor.transport.ended) == ([401], True)
    await advance(LINGER_S)
    assert visitor.transport.aborted


async def test_a_broken_body_puts_no_refusal_into_an_answer_that_has_begun():
    go = asyncio.Event()

    async def early(turn: HttpRequestCycle) -> None:
        turn.start(200, [])
        await turn.write(b"1")
        await go.wait()
        await turn.write(b"2", last=True)

    visitor = Visitor(early)
    await visited(visitor, asked(b"5\r\n", "transfer-encoding: chunked", length=False), b"zz zz zz\r\n")
    go.set()
    await rest()
    assert visitor.heard.endswith(b"\r\n\r\n1\r\n1\r\n1\r\n2\r\n0\r\n\r\n")
    await advance(LINGER_S)
    assert (visitor.statuses, visitor.transport.closing) == ([200], True)


async def test_a_body_behind_a_slow_answer_gets_its_own_time():
    """It stands unread behind another request for longer than a body may take."""
    held = Held()
    visitor = Visitor(held)
    await visited(visitor, asked(b"1") + asked(b"hello")[:-1])
    await advance(RECEIVE_S + 1)
    await advance(RECEIVE_S - 1)
    held.go.set()
    await rest()
    await advance(RECEIVE_S - 1)
    await visited(visitor, b"o")
    assert visitor.statuses == [200, 200]


def shared(connections: int = 1, unauthenticated: int = 2) -> ConnectionShares[Any]:
    return ConnectionShares(connections, unauthenticated, callers=1)


async def served_for_a_caller(turn: HttpRequestCycle) -> None:
    turn.set_caller("app")
    await echo(turn)


async def test_above_the_shares_the_oldest_silent_connection_closes_and_the_new_one_is_heard():
    shares = shared()
    first, *others = (Visitor(echo, shares=shares) for _ in range(5))
    assert (first.transport.closing, first.refused) == (True, [("overloaded", "192.0.2.7")])
    assert [visitor.transport.closing for visitor in others] == [False] * 4
    await visited(others[-1], asked(b"1"))
    assert others[-1].statuses == [200]


async def test_a_connection_with_a_served_request_counts_for_its_caller_and_is_not_closed_for_silent_ones():
    shares = shared()
    app = Visitor(served_for_a_caller, shares=shares)
    await visited(app, asked(b"1"))
    silent = [Visitor(echo, shares=shares) for _ in range(6)]
    assert (app.transport.closing, [visitor.transport.closing for visitor in silent].count(True)) == (False, 3)
    await visited(app, asked(b"2"))
    assert app.statuses == [200, 200]


async def test_above_its_share_a_callers_oldest_idle_connection_closes():
    shares = shared()
    visitors = [Visitor(served_for_a_caller, shares=shares) for _ in range(3)]
    for visitor in visitors:
        await visited(visitor, asked(b"1"))
    assert [visitor.transport.closing for visitor in visitors] == [True, False, False]


async def test_an_answer_that_its_client_takes_slowly_is_not_cut_off_for_others_while_one_of_them_is_idle():
    shares = shared()
    slow, idle, new = (Visitor(served_for_a_caller, shares=shares) for _ in range(3))
    slow.transport.is_slow = True
    for visitor in (slow, idle, new):
        await visited(visitor, asked(b"1"))
    assert [visitor.transport.closing for visitor in (slow, idle, new)] == [False, True, False]
    slow.connection.resume_writing()
    last = Visitor(served_for_a_caller, shares=shares)
    await visited(last, asked(b"1"))
    assert [visitor.transport.closing for visitor in (slow, new, last)] == [False, True, False]
    assert slow.statuses == [200]


async def test_a_connection_that_closes_for_others_sends_what_it_has_for_a_second():
    shares = shared(unauthenticated=1)
    first, *_ = (Visitor(echo, shares=shares) for _ in range(3))
    first.transport.unsent_bytes = 1
    Visitor(echo, shares=shares)
    assert (first.transport.closing, first.transport.aborted) == (True, False)
    await advance(LINGER_S)
    assert first.transport.aborted


async def test_a_connection_that_ends_leaves_its_share():
    shares = shared()
    visitors = [Visitor(echo, shares=shares), Visitor(served_for_a_caller, shares=shares)]
    for visitor in visitors:
        await visited(visitor, asked(b"1"))
        visitor.transport.abort()
    await rest()
    assert len(shares) == 0


@pytest.mark.parametrize("form", BROKEN)
async def test_what_is_refused_is_told_to_the_reception_with_its_address(form: str):
    raw, code = BROKEN[form]
    visitor = Visitor(echo)
    await visited(visitor, raw, asked(b"1"))
    assert visitor.refused == [(code, "192.0.2.7")]


async def test_a_head_that_is_late_is_told_to_the_reception_and_a_request_is_not():
    late, fine = Visitor(echo), Visitor(echo)
    await visited(fine, asked(b"1"))
    await advance(RECEIVE_S)
    assert (late.refused, fine.refused) == ([("receive_timeout", "192.0.2.7")], [])


async def refuse_when_told(turn: HttpRequestCycle) -> None:
    """As an upstream that takes nothing and then refuses: the first piece is taken, and reading stops."""
    await turn.read_piece(10 * LIMIT_BYTES)
    await asyncio.sleep(0.5)
    turn.start(413, [], 5)
    await turn.write(b"large", last=True)


async def refused_in_mid_body() -> tuple[Visitor, bytes]:
    """Who was refused while nobody took of its body, and what it has sent of a piece since."""
    visitor = Visitor(refuse_when_told)
    piece = bytes(AHEAD_BYTES + 1)
    await visited(visitor, asked(bytes(5 * LIMIT_BYTES))[:100], piece)
    assert (visitor.transport.reading, visitor.statuses) == (False, [])
    await advance(0.5)
    assert (visitor.statuses, visitor.transport.ended) == ([413], True)
    return visitor, piece


async def test_a_refusal_while_nobody_read_takes_the_rest_of_the_body():
    """Or the client, which sends all before it reads, meets a closed door and never learns why."""
    visitor, _ = await refused_in_mid_body()
    assert visitor.transport.reading


async def test_a_body_that_goes_on_behind_its_refusal_is_taken_for_as_long_as_one_may_take():
    visitor, piece = await refused_in_mid_body()
    for _ in range(int(RECEIVE_S / LINGER_S * 2) - 1):
        await advance(LINGER_S / 2)
        await visited(visitor, piece)
    assert not visitor.transport.closing
    for _ in range(4):
        await advance(LINGER_S / 2)
        await visited(visitor, piece)
    assert visitor.transport.aborted


async def test_a_body_that_stops_behind_its_refusal_is_waited_for_no_longer():
    visitor, piece = await refused_in_mid_body()
    await visited(visitor, piece)
    await advance(LINGER_S)
    assert visitor.transport.aborted


async def test_what_dribbles_behind_a_refused_head_buys_no_time():
    visitor = Visitor(echo)
    await visited(visitor, b"\0\0\r\n\r\n")
    await advance(LINGER_S / 2)
    await visited(visitor, b"more")
    await advance(LINGER_S / 2)
    assert visitor.transport.aborted


async def test_offers_to_upgrade_are_ignored_in_the_requests_that_wait_too():
    held = Held()
    visitor = Visitor(held)
    offer = ("connection: upgrade", "upgrade: h2c")
    await visited(visitor, asked(b"1", *offer) + asked(b"2", *offer)[:-1], b"2")
    held.go.set()
    await rest()
    assert visitor.heard == OK % (1, b"1") + OK % (1, b"2")


async def test_a_departure_reaches_whoever_watches_and_whoever_waits():
    left: list[str] = []
    go = asyncio.Event()

    async def watching(turn: HttpRequestCycle) -> None:
        await turn.read_body(LIMIT_BYTES)
        turn.on_disconnect(lambda: left.append("watched"))
        turn.on_disconnect(lambda: left.append("again"))()
        turn.on_disconnect(lambda: left.append("once"))
        await go.wait()

    held = Held()
    watcher, waiter = Visitor(watching), Visitor(held)
    await visited(watcher, asked(b"1"))
    await visited(waiter, asked(b"hello")[:-1])
    for visitor in (watcher, waiter):
        visitor.transport.abort()
        await rest()
    assert left == ["once"]
    assert [type(error) for error in held.raised] == [ClientGone]
    watcher.turns[0].disconnect()
    assert left == ["once"]
    go.set()
    await rest()


async def test_who_watches_too_late_is_told_at_once_and_writes_to_nobody():
    left: list[str] = []
    go = asyncio.Event()

    async def late(turn: HttpRequestCycle) -> None:
        await turn.read_body(LIMIT_BYTES)
        await go.wait()
        turn.on_disconnect(lambda: left.append("left"))
        turn.start(200, [], 2)
        await turn.write(b"no", last=True)

    visitor = Visitor(late)
    await visited(visitor, asked(b"1"))
    visitor.transport.abort()
    await rest()
    go.set()
    await rest()
    assert (left, visitor.heard) == (["left"], b"")


async def test_a_client_that_takes_nothing_is_waited_for_and_at_last_cut_off():
    go = asyncio.Event()

    async def stream(turn: HttpRequestCycle) -> None:
        turn.start(200, [])
        await turn.write(b"1")
        await go.wait()
        assert turn.try_write(b"2")

    visitor = Visitor(stream, send_stall_s=3)
    visitor.connection.pause_writing()
    await visited(visitor, asked(b"x"))
    assert (visitor.heard, visitor.turns[0].try_write(b"lost")) == (b"", False)
    await advance(2)
    visitor.connection.resume_writing()
    await advance(2)
    assert visitor.heard.endswith(b"\r\n1\r\n1\r\n")
    go.set()
    await rest()
    assert b"\r\n1\r\n2\r\n" in visitor.heard


async def test_a_client_that_takes_nothing_for_long_is_cut_off():
    visitor = Visitor(Held(), send_stall_s=3)
    await visited(visitor, asked(b"x"))
    visitor.connection.pause_writing()
    await advance(2)
    assert not visitor.transport.closing
    await advance(1)
    assert visitor.transport.aborted


async def test_a_wait_for_room_ends_with_the_connection():
    async def stream(turn: HttpRequestCycle) -> None:
        turn.start(200, [])
        await turn.write(b"1", last=True)

    visitor = Visitor(stream)
    visitor.connection.pause_writing()
    await visited(visitor, asked(b"x"))
    visitor.transport.abort()
    await rest()
    assert not visitor.state.tasks


@pytest.mark.parametrize("begun", [False, True])
async def test_a_fault_of_the_street_is_logged_and_ends_the_connection(begun: bool, caplog: pytest.LogCaptureFixture):
    async def broken(turn: HttpRequestCycle) -> None:
        if begun:
            turn.start(200, [])
            await turn.write(b"1")
        raise ZeroDivisionError("a bug")

    visitor = Visitor(broken)
    await visited(visitor, asked(b"x"))
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == ["request_failed"]
    assert visitor.statuses == ([200] if begun else [500])
    await advance(LINGER_S)
    assert visitor.transport.closing
    assert b"a bug" not in visitor.heard
    assert not visitor.heard.endswith(b"0\r\n\r\n")


async def test_a_street_that_is_cancelled_leaves_no_client_waiting():
    visitor = Visitor(Held())
    await visited(visitor, asked(b"x"))
    (task,) = visitor.state.tasks
    task.cancel()
    await rest()
    assert (visitor.statuses, visitor.transport.closing) == ([500], True)


@pytest.mark.parametrize("expects", [(), ("expect: 100-continue",)])
async def test_nothing_is_written_behind_a_close_of_which_nobody_was_told_yet(expects: tuple[str, ...]):
    async def cut(turn: HttpRequestCycle) -> None:
        visitor.transport.abort()
        await echo(turn)

    visitor = Visitor(cut)
    await visited(visitor, asked(b"1", *expects))
    assert (visitor.heard, visitor.state.tasks, visitor.state.connections) == (b"", set(), set())


async def test_nothing_is_refused_behind_a_close():
    visitor = Visitor(echo)
    visitor.transport.close()
    visitor.connection.data_received(b"\0\0\r\n\r\n")
    await rest()
    assert visitor.heard == b""


async def test_a_stop_closes_what_is_idle_and_lets_the_rest_end():
    held = Held()
    idle, busy, ahead = Visitor(echo), Visitor(held), Visitor(held)
    await visited(busy, asked(b"1"))
    await visited(ahead, asked(b"1") + asked(b"2"))
    for visitor in (idle, busy, ahead):
        visitor.connection.shutdown()
    assert (idle.transport.ended, busy.transport.ended) == (True, False)
    held.go.set()
    await rest()
    assert (busy.transport.ended, busy.statuses) == (True, [200])
    assert (ahead.transport.ended, ahead.statuses) == (True, [200, 200])
    assert busy.heard.count(b"connection: close") == ahead.heard.count(b"connection: close") == 1


class Passing:
    """Takes a body as it comes, one piece each time the test says so."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.raised: list[BaseException] = []
        self.wanted = asyncio.Semaphore(0)

    async def __call__(self, turn: HttpRequestCycle) -> None:
        try:
            while True:
                await self.wanted.acquire()
                piece = await turn.read_piece(LIMIT_BYTES)
                self.pieces.append(piece)
                if not piece:
                    break
            turn.start(200, [], 2)
            await turn.write(b"ok", last=True)
        except (GatepassError, ClientGone) as error:
            self.raised.append(error)
            turn.start(413, [], 0)
            await turn.write(b"", last=True)

    async def want(self, count: int = 1) -> None:
        for _ in range(count):
            self.wanted.release()
        await rest()


async def test_a_body_that_is_passed_on_comes_in_pieces_and_the_next_request_is_served():
    passing = Passing()
    visitor = Visitor(passing)
    raw = asked(b"hello, you")
    await passing.want(9)
    await visited(visitor, raw[:-5], raw[-5:-2], raw[-2:])
    assert (passing.pieces, visitor.statuses) == ([b"hello", b", y", b"ou", b""], [200])
    await visited(visitor, asked(b"again"))
    assert (passing.pieces[4:], visitor.statuses) == ([b"again", b""], [200, 200])


async def test_a_body_that_nobody_takes_is_read_no_further_and_runs_into_no_deadline():
    passing = Passing()
    visitor = Visitor(passing)
    raw = asked(bytes(LIMIT_BYTES))
    await passing.want()
    await visited(visitor, raw[:100], raw[100 : AHEAD_BYTES + 200])
    assert not visitor.transport.reading
    await advance(10 * RECEIVE_S)
    assert not visitor.transport.closing
    await passing.want(2)
    assert bool(visitor.transport.reading) is True
    await passing.want(9)
    await visited(visitor, raw[AHEAD_BYTES + 200 :])
    assert (sum(map(len, passing.pieces)), visitor.statuses) == (LIMIT_BYTES, [200])


async def test_each_piece_of_a_body_that_is_passed_on_has_its_time():
    passing = Passing()
    visitor = Visitor(passing)
    raw = asked(bytes(LIMIT_BYTES))
    piece = bytes(int(RECEIVE_S) * 1024)
    await passing.want(99)
    await visited(visitor, raw[:-LIMIT_BYTES])
    for _ in range(8):
        await visited(visitor, piece)
        await advance(RECEIVE_S - 1)
    assert passing.raised == []
    await advance(2)
    assert [error.code for error in passing.raised if isinstance(error, GatepassError)] == ["receive_timeout"]
    assert visitor.statuses == [413]
    await advance(LINGER_S)
    assert visitor.transport.closing


async def test_a_body_that_is_passed_on_has_a_least_rate_in_total():
    passing = Passing()
    visitor = Visitor(passing)
    raw = asked(bytes(LIMIT_BYTES))
    await passing.want(99)
    await visited(visitor, raw[:-LIMIT_BYTES])
    for _ in range(2):
        await visited(visitor, b"x")
        await advance(RECEIVE_S / 2 - 0.1)
    assert passing.raised == []
    await visited(visitor, b"x")
    await advance(0.3)
    assert "upload_bytes_per_s" in str(passing.raised)
    await advance(LINGER_S)
    assert visitor.transport.closing


async def test_a_client_that_never_authenticates_renews_no_connection():
    """By /healthz, or with answers of 401."""
    visitor = Visitor(refuse)
    for _ in range(3):
        await visited(visitor, asked(b""))
        await advance(KEEP_ALIVE_S / 3 - 1)
    assert not visitor.transport.closing
    await advance(4)
    assert (bool(visitor.transport.closing), visitor.statuses) == (True, [401, 401, 401])
    late = Visitor(refuse)
    await visited(late, asked(b"")[:-2])
    await advance(RECEIVE_S - 1)
    late.connection._until_s -= KEEP_ALIVE_S
    await visited(late, b"\r\n")
    assert (late.statuses, b"connection: close" in late.heard) == ([401], True)


async def test_a_body_that_is_passed_on_is_bounded_and_its_rest_is_nobodys():
    passing = Passing()
    visitor = Visitor(passing)
    await passing.want(9)
    await visited(visitor, b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
    await visited(visitor, b"f4241\r\n" + bytes(LIMIT_BYTES + 1) + b"\r\n")
    assert [error.code for error in passing.raised if isinstance(error, GatepassError)] == ["body_too_large"]
    assert visitor.transport.ended
    announced = Visitor(passing)
    await visited(announced, asked(bytes(LIMIT_BYTES + 1))[:200])
    assert announced.statuses == [413]


async def test_a_client_that_leaves_while_its_body_is_passed_on_is_told_to_the_street():
    passing = Passing()
    visitor = Visitor(passing)
    await passing.want(9)
    await visited(visitor, asked(b"hello")[:-1])
    visitor.connection.connection_lost(None)
    await rest()
    assert isinstance(passing.raised[0], ClientGone)


async def test_a_client_that_expects_is_told_to_go_on_when_its_body_is_passed_on():
    passing = Passing()
    visitor = Visitor(passing)
    raw = asked(b"hello", "expect: 100-continue")
    await visited(visitor, raw[:-5])
    assert visitor.heard == b""
    await passing.want(2)
    assert visitor.heard == b"HTTP/1.1 100 Continue\r\n\r\n"
    await visited(visitor, raw[-5:])
    assert passing.pieces == [b"hello", b""]


class Traced(ClientConnection):
    """One that can be watched while it goes."""

    __slots__ = ("__weakref__",)


@pytest.mark.parametrize("raw", [b"", asked(b"1"), asked(b"hello")[:3], b"\0\0\r\n\r\n"])
async def test_a_connection_that_is_over_leaves_nothing_to_the_collector(raw: bytes):
    gc.collect()
    gc.disable()
    try:
        visitor = Visitor(echo, made=Traced)
        await visited(visitor, raw)
        gone = weakref.ref(visitor.connection)
        visitor.transport.abort()
        await rest()
        del visitor.connection, visitor.transport.protocol, visitor.turns  # the test holds it no more
        assert gone() is None
    finally:
        gc.enable()


# a response that waits for the end of the turn


@contextmanager
def crowded(visitor: Visitor, others: int = 5) -> Iterator[None]:
    """Inside it `others` are under way beside what `visitor` asks."""

    async def busy() -> None:
        await asyncio.Event().wait()

    tasks = [asyncio.ensure_future(busy()) for _ in range(others)]
    visitor.state.tasks.update(tasks)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


class AtOnce:
    """Answers in the step that serves, and notes what is written when its own call returns."""

    def __init__(self) -> None:
        self.visitor: Visitor | None = None
        self.seen: list[int] = []
        self.size = 2

    async def __call__(self, turn: HttpRequestCycle) -> None:
        turn.start(200, [], self.size)
        await turn.write(b"x" * self.size, last=True)
        assert self.visitor is not None
        self.seen.append(len(self.visitor.statuses))


@pytest.mark.parametrize(
    ("others", "size", "written"),
    [(0, 2, 1), (1, 2, 1), (5, 2, 0), (5, 64 * 1024 + 1, 1)],
    ids=["alone", "two", "many", "large"],
)
async def test_a_small_response_waits_for_the_others_of_its_turn(others: int, size: int, written: int):
    serve = AtOnce()
    serve.size = size
    visitor = serve.visitor = Visitor(serve)
    with crowded(visitor, others):
        visitor.say(asked(b""))
        await rest()
        assert (serve.seen, visitor.statuses) == ([written], [200])


async def test_what_follows_a_held_response_stands_behind_it():
    serve = AtOnce()
    visitor = serve.visitor = Visitor(serve)
    with crowded(visitor):
        visitor.say(asked(b""))
        await one_turn()
        visitor.say(b"no HTTP\r\n\r\n")
        assert serve.seen == [0]
        assert visitor.heard.startswith(OK % (2, b"xx") + b"HTTP/1.1 400 ")


async def test_a_held_response_is_out_before_its_connection_closes():
    serve = AtOnce()
    visitor = serve.visitor = Visitor(serve)
    with crowded(visitor):
        visitor.say(asked(b"", "connection: close"))
        await rest()
        assert (serve.seen, visitor.statuses, visitor.transport.closing) == ([1], [200], True)


async def test_a_held_response_is_out_before_its_client_is_told_that_this_is_the_end():
    """It is refused while its body still comes: the connection lingers behind the response."""
    serve = AtOnce()
    visitor = serve.visitor = Visitor(serve)
    with crowded(visitor):
        visitor.say(asked(b"", "content-length: 9", "connection: close") + b"half")
        await rest()
        assert (visitor.statuses, visitor.transport.ended) == ([200], True)
        assert visitor.transport.pieces_at_end == 1


async def test_a_held_response_is_out_before_the_transport_of_a_client_that_is_done_sending_closes():
    serve = AtOnce()
    visitor = serve.visitor = Visitor(serve)
    with crowded(visitor):
        visitor.say(asked(b""))
        await one_turn()
        visitor.connection.eof_received()
        assert (serve.seen, visitor.statuses) == ([0], [200])


async def test_nothing_is_written_to_a_client_that_left_before_its_turn_ended():
    serve = AtOnce()
    visitor = serve.visitor = Visitor(serve)
    with crowded(visitor):
        visitor.say(asked(b""))
        await one_turn()
        visitor.transport.abort()
        await rest()
        assert (serve.seen, visitor.heard) == ([0], b"")


# a stop


async def test_while_draining_an_answer_says_that_it_is_the_last_and_the_client_sees_a_clean_end():
    visitor = Visitor(echo)
    visitor.connection.retire()
    await visited(visitor, asked(b"1"))
    assert b"connection: close" in visitor.heard
    assert (visitor.statuses, visitor.transport.ended, visitor.transport.aborted) == ([200], True, False)


async def test_while_draining_only_the_last_of_several_requests_is_the_last_answer():
    visitor = Visitor(echo)
    visitor.connection.retire()
    await visited(visitor, asked(b"1") + asked(b"2"))
    assert (visitor.statuses, visitor.heard.count(b"connection: close")) == ([200, 200], 1)


async def test_a_connection_made_while_draining_closes_behind_its_answer():
    visitor = Visitor(echo)
    visitor.live.draining = True
    late = FakeTransport(visitor.connection)
    visitor.connection.connection_made(late)
    visitor.transport = late
    await visited(visitor, asked(b"1"))
    assert b"connection: close" in visitor.heard
    assert visitor.turns[0].connected_before_drain


async def test_a_connection_in_use_is_served_once_more_before_it_closes():
    visitor = Visitor(echo)
    await visited(visitor, asked(b"1"))
    await advance(DRAIN_IDLE_S / 2)
    visitor.connection.leave()
    await advance(DRAIN_IDLE_S / 4)
    await visited(visitor, asked(b"2"))
    assert (visitor.statuses, visitor.heard.count(b"connection: close")) == ([200, 200], 1)
    assert visitor.transport.ended


async def test_an_idle_connection_closes_after_a_quiet_second_and_at_once_where_that_is_over():
    fresh, old, silent, begun = Visitor(echo), Visitor(echo), Visitor(echo), Visitor(echo)
    await visited(old, asked(b"1"))
    await advance(DRAIN_IDLE_S * 2)
    await visited(fresh, asked(b"1"))
    await visited(begun, asked(b"1")[:10])
    for visitor in (fresh, old, silent, begun):
        visitor.connection.leave()
    await advance(0.01)
    assert [each.transport.ended for each in (fresh, old, silent, begun)] == [False, True, True, False]
    await advance(DRAIN_IDLE_S)
    assert [each.transport.ended for each in (fresh, begun)] == [True, False]
    assert not fresh.connection.may_ask
    begun.say(asked(b"1")[10:])
    await rest()
    assert (begun.statuses, begun.transport.ended, silent.heard) == ([200], True, b"")


async def test_an_answer_that_began_before_the_stop_leaves_a_second_for_the_next_request():
    held = Held()
    visitor = Visitor(begin_and_hold(held))
    await visited(visitor, asked(b"1"))
    visitor.connection.leave()
    held.go.set()
    await rest()
    assert (visitor.transport.ended, b"connection: close" in visitor.heard) == (False, False)
    await advance(DRAIN_IDLE_S)
    assert (visitor.transport.ended, visitor.transport.aborted) == (True, False)


def begin_and_hold(held: Held) -> Any:
    async def serve(turn: HttpRequestCycle) -> None:
        turn.start(200, [], None)
        await turn.write(b"a")
        await held.go.wait()
        await turn.write(b"", last=True)

    return serve


async def test_what_a_client_still_takes_is_not_cut_by_the_end_of_the_linger():
    visitor = Visitor(echo)
    visitor.connection.retire()
    await visited(visitor, asked(b"1"))
    visitor.transport.unsent_bytes = 9
    await advance(LINGER_S * 3)
    assert not visitor.transport.aborted
    visitor.transport.unsent_bytes = 0
    await advance(LINGER_S)
    assert visitor.transport.aborted
