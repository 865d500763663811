"""The ledger of `make chaos` reports each kind of planted violation, and nothing else."""

import asyncio
import base64
import contextlib
import json
import math
import socket
import time
from typing import Any

import pytest

from tests.integration.answers import DONE, delta
from tests.integration.scripted import event
from tests.stress.chaos_clients import Clients
from tests.stress.chaos_servers import completion
from tests.stress.ledger import LATE_S, Expectation, Ledger, Receipt, Response, Violation, outcome, text_of, vector_of
from tests.stress.rolls import Balancer

UID = "u1-1"
PLAIN, STREAM, VECTORS, REFUSED = (Expectation(UID, kind) for kind in ("plain", "stream", "vectors", "refused"))
EVENTS = [delta(content=text_of(UID)[:9]), delta(content=text_of(UID)[9:]), delta("stop"), DONE]
ERROR = {"error": {"message": "no", "code": "upstream_closed"}}
MARK = "planted-secret"


def response(body: Any, status: int = 200, kind: str = "application/json", *, is_complete: bool = True) -> Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, {"content-type": kind}, data, is_complete, data)


def streamed(*events: bytes, is_complete: bool = True) -> Response:
    return response(b"".join(events), kind="text/event-stream; charset=utf-8", is_complete=is_complete)


VECTOR = {"data": [{"embedding": vector_of(UID)}]}
CUT = event({"choices": [{"index": 0, "delta": {"content": text_of(UID)[:3]}, "finish_reason": "stop"}]})


@pytest.mark.parametrize(
    ("expectation", "what", "expected"),
    [
        (PLAIN, response(completion(UID)), "answer"),
        (STREAM, streamed(*EVENTS), "answer"),
        (VECTORS, response(VECTOR), "answer"),
        (PLAIN, response(ERROR, 502), "error 502 upstream_closed"),
        (REFUSED, response(ERROR, 401), "error 401 upstream_closed"),
        (STREAM, streamed(EVENTS[0], event(ERROR)), "error event"),
        (STREAM, streamed(EVENTS[0], is_complete=False), "broken"),
        (PLAIN, response(b'{"cho', is_complete=False), "broken"),
    ],
)
def test_answers_errors_and_broken_connections_are_distinguished(expectation, what, expected):
    assert outcome(expectation, what) == expected


@pytest.mark.parametrize(
    ("expectation", "what"),
    [
        (PLAIN, response(ERROR)),
        (PLAIN, response(b"")),
        (PLAIN, response(completion("u1-2"))),
        (VECTORS, response({"data": []})),
        (VECTORS, response({"data": [{"embedding": vector_of("u1-2")}]})),
        (STREAM, streamed(*EVENTS[:3])),
        (STREAM, streamed(*EVENTS[:2], DONE)),
        (STREAM, streamed(CUT, DONE)),
        (STREAM, streamed(EVENTS[1], is_complete=False)),
        (STREAM, streamed(EVENTS[0], event(ERROR), DONE)),
        (STREAM, streamed(*EVENTS, DONE)),
        (STREAM, response(completion(UID))),
        (REFUSED, response(completion(UID))),
        (PLAIN, response(b"Bad Gateway", 502)),
        (PLAIN, response({"error": {"message": "no", "code": "internal_error"}}, 500)),
    ],
)
def test_false_success_is_a_violation(expectation, what):
    with pytest.raises(Violation):
        outcome(expectation, what)


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger(MARK)
    made.add_token("token-1", 100.0)
    made.add_token("token-2", None)
    return made


def found(ledger: Ledger) -> str:
    [one] = ledger.finish()
    return one


def test_a_ledger_of_what_is_allowed_has_no_violation(ledger):
    ledger.expect(PLAIN)
    ledger.receive(Receipt(UID, "token-1", "401", may_repeat=True), 50.0)
    ledger.receive(Receipt(UID, "token-2", "fin", is_stale=True), 50.0)
    ledger.receive(Receipt(UID, "token-2", "good"), 100.0 + LATE_S)
    ledger.record(PLAIN, response(completion(UID)), 1.0, 2.0)
    ledger.record(PLAIN, Response(), 1.0, 2.0, is_disconnected=True)
    ledger.kills_s.append((3.0, 3.2))
    for began_s, ended_s in ((2.0, 4.0), (3.1, 3.15)):  # the port of a killed process accepts until it is gone
        ledger.record(PLAIN, Response(), began_s, ended_s)
    ledger.add_token("token-1", 20.0)  # issued again, with its rest in whole seconds
    ledger.receive(Receipt("u2", "token-1", "good"), 30.0 + LATE_S)
    assert ledger.finish() == []
    assert ledger.outcomes == {"answer": 1, "left": 1, "broken": 2}


def test_a_connection_that_breaks_after_a_killed_process_is_gone_is_reported(ledger):
    ledger.kills_s.append((3.0, 3.2))
    ledger.record(PLAIN, Response(), 3.3, 3.4)
    assert "no replica was killed" in found(ledger)


def test_a_request_that_was_sent_twice_is_reported(ledger):
    for _ in range(2):
        ledger.receive(Receipt(UID, "token-2", "good"), 1.0)
    assert "sent twice, after the reply 'good'" in found(ledger)


def test_a_rejected_token_that_is_sent_again_is_reported(ledger):
    for _ in range(2):
        ledger.receive(Receipt(UID, "token-2", "401", may_repeat=True), 1.0)
    assert "the token that was rejected" in found(ledger)


def test_an_expired_token_is_reported_unless_the_machine_was_slow(ledger):
    ledger.receive(Receipt("u1", "token-1", "good"), 100.0 + LATE_S + 1.0)
    assert list(ledger.expired()) == ["a token was sent 4.0 s after its end: token-1"]
    ledger.add_delay(95.0, 0.6)
    assert list(ledger.expired()) == []


def test_a_refused_request_that_was_sent_is_reported(ledger):
    ledger.expect(REFUSED)
    ledger.receive(Receipt(UID, "token-2", "good"), 1.0)
    assert "must be rejected" in found(ledger)


@pytest.mark.parametrize("plan", ["read", "keep_alive"])
async def test_a_connection_whose_replica_was_killed_before_its_first_request_is_no_violation(ledger, plan):
    async def be_killed(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ledger.kills_s.append((time.monotonic(), math.inf))
        writer.transport.abort()

    async with await asyncio.start_server(be_killed, "127.0.0.1", 0) as server:
        await Clients(server.sockets[0].getsockname()[1], "key", ledger, 1).one("a", plan)
    assert (ledger.outcomes, list(ledger.finish())) == ({"broken": 1}, [])


@pytest.mark.parametrize(
    "text",
    [
        MARK.encode(),
        *(base64.b64encode(b"y" * skip + MARK.encode() + b" and more") for skip in range(3)),
        "".join(f"%{byte:02X}" for byte in MARK.encode()).encode(),
    ],
)
def test_a_planted_secret_is_found_in_each_spelling(ledger, text):
    ledger.record(PLAIN, response({"error": {"message": text.decode(), "code": "x"}}, 502), 1.0, 2.0)
    assert "a planted secret" in found(ledger)


async def test_the_balancer_serves_each_connection_while_one_replica_lives():
    """Those that one kill broke come again at once, and the balancer does not know of the kill yet."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1))
        writer.close()

    async def ask(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer):
            writer.write(b"x")
            return await reader.read()

    ends: dict[int, str] = {}
    balancer = Balancer(ends)
    with socket.socket() as killed:
        killed.bind(("127.0.0.1", 0))
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as living:
            balancer.ready = {one.getsockname()[1]: True for one in (killed, living.sockets[0])}
            async with await asyncio.start_server(balancer.serve, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                assert await asyncio.gather(*(ask(port) for _ in range(24))) == [b"x"] * 24
    assert set(ends.values()) == {"closed"}
