"""The ledger of `make chaos` reports each kind of planted violation, and nothing else."""

from __future__ import annotations

import base64
import json
from random import Random
from typing import Any

import pytest

from tests.integration.answers import DONE, delta
from tests.integration.scripted import event
from tests.stress.chaos import events_of, whole
from tests.stress.ledger import LATE_S, Ledger, Receipt, Seen, Violation, Want, outcome, text_of, vector_of

UID = "u1-1"
PLAIN, STREAM, VECTORS, REFUSED = (Want(UID, kind) for kind in ("plain", "stream", "vectors", "refused"))
EVENTS = [delta(content=text_of(UID)[:9]), delta(content=text_of(UID)[9:]), delta("stop"), DONE]
ERROR = {"error": {"message": "no", "code": "upstream_closed"}}
MARK = "planted-secret"


def seen(body: Any, status: int = 200, kind: str = "application/json", *, whole: bool = True) -> Seen:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Seen(status, {"content-type": kind}, data, whole, data)


def streamed(*events: bytes, whole: bool = True) -> Seen:
    return seen(b"".join(events), kind="text/event-stream; charset=utf-8", whole=whole)


VECTOR = {"data": [{"embedding": vector_of(UID)}]}
CUT = event({"choices": [{"index": 0, "delta": {"content": text_of(UID)[:3]}, "finish_reason": "stop"}]})


@pytest.mark.parametrize(
    ("want", "what", "expected"),
    [
        (PLAIN, seen(whole(UID)), "answer"),
        (STREAM, streamed(*EVENTS), "answer"),
        (STREAM, streamed(*(one.replace(b"\n", b"\r\n") for one in EVENTS)), "answer"),
        (STREAM, streamed(b": ping\n\n", *EVENTS), "answer"),
        (VECTORS, seen(VECTOR), "answer"),
        (PLAIN, seen(ERROR, 502), "error 502 upstream_closed"),
        (REFUSED, seen(ERROR, 401), "error 401 upstream_closed"),
        (STREAM, streamed(EVENTS[0], event(ERROR)), "error event"),
        (STREAM, streamed(EVENTS[0], whole=False), "broken"),
        (STREAM, streamed(EVENTS[0], EVENTS[1][:9], whole=False), "broken"),
        (PLAIN, seen(b'{"cho', whole=False), "broken"),
        (PLAIN, Seen(), "broken"),
    ],
)
def test_answers_errors_and_broken_connections_are_distinguished(want, what, expected):
    assert outcome(want, what) == expected


@pytest.mark.parametrize(
    ("want", "what"),
    [
        (PLAIN, seen(ERROR)),
        (PLAIN, seen(b"")),
        (PLAIN, seen(b"null")),
        (PLAIN, seen(b"<html>")),
        (PLAIN, seen(whole("u1-2"))),
        (PLAIN, seen({**whole(UID), "choices": []})),
        (PLAIN, streamed(*EVENTS[:1])),
        (VECTORS, seen({"data": []})),
        (VECTORS, seen({"data": [{"embedding": vector_of("u1-2")}]})),
        (STREAM, streamed()),
        (STREAM, streamed(DONE)),
        (STREAM, streamed(*EVENTS[:2])),
        (STREAM, streamed(*EVENTS[:3])),
        (STREAM, streamed(*EVENTS[:2], DONE)),
        (STREAM, streamed(CUT, DONE)),
        (STREAM, streamed(EVENTS[1], EVENTS[2], DONE)),
        (STREAM, streamed(EVENTS[1], whole=False)),
        (STREAM, streamed(EVENTS[0], event(ERROR), DONE)),
        (STREAM, streamed(event({"error": "text"}))),
        (STREAM, streamed(event("no json"))),
        (STREAM, streamed(*EVENTS, DONE)),
        (STREAM, seen(whole(UID))),
        (REFUSED, seen(whole(UID))),
        (PLAIN, seen(b"Bad Gateway", 502)),
        (PLAIN, seen({"error": {"message": "no"}}, 502)),
        (PLAIN, seen({"error": {"message": "no", "code": "internal_error"}}, 500)),
    ],
)
def test_what_looks_like_success_and_is_none_is_a_violation(want, what):
    with pytest.raises(Violation):
        outcome(want, what)


def test_answers_of_all_lengths_are_whole_in_pieces():
    for uid in ("a", "b", "cL"):
        assert outcome(Want(uid, "stream"), streamed(*events_of(uid, Random(1)), DONE)) == "answer"


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger(MARK)
    made.issued("token-1", 100.0)
    made.issued("token-2", None)
    return made


def found(ledger: Ledger) -> str:
    [one] = ledger.finish()
    return one


def test_a_ledger_of_what_is_allowed_has_no_violation(ledger):
    ledger.asked(PLAIN)
    ledger.receive(Receipt(UID, "token-1", "401", may_repeat=True), 50.0)
    ledger.receive(Receipt(UID, "token-2", "fin", is_stale=True), 50.0)
    ledger.receive(Receipt(UID, "token-2", "good"), 100.0 + LATE_S)
    ledger.saw(PLAIN, seen(whole(UID)), 1.0, 2.0)
    ledger.saw(PLAIN, Seen(), 1.0, 2.0, left=True)
    ledger.kills_s.append(3.0)
    ledger.saw(PLAIN, Seen(), 2.0, 4.0)
    assert ledger.finish() == []
    assert ledger.outcomes == {"answer": 1, "left": 1, "broken": 1}


def test_a_request_that_was_sent_twice_is_reported(ledger):
    for _ in range(2):
        ledger.receive(Receipt(UID, "token-2", "good"), 1.0)
    assert "sent twice, after the reply 'good'" in found(ledger)


def test_a_second_repeat_on_a_stale_connection_is_reported(ledger):
    for _ in range(3):
        ledger.receive(Receipt(UID, "token-2", "fin", is_stale=True), 1.0)
    assert "sent twice" in found(ledger)


def test_a_rejected_token_that_is_sent_again_is_reported(ledger):
    for _ in range(2):
        ledger.receive(Receipt(UID, "token-2", "401", may_repeat=True), 1.0)
    assert "the token that was rejected" in found(ledger)


def test_an_expired_token_is_reported_unless_the_machine_was_slow(ledger):
    ledger.receive(Receipt("u1", "token-1", "good"), 100.0 + LATE_S + 1.0)
    assert list(ledger.expired()) == ["a token was sent 4.0 s after its end"]
    ledger.delayed(95.0, 0.6)
    assert list(ledger.expired()) == []


def test_a_token_that_nobody_issued_is_reported(ledger):
    ledger.receive(Receipt(UID, "", "good"), 1.0)
    assert "nobody issued" in found(ledger)


def test_a_refused_request_that_was_sent_is_reported(ledger):
    ledger.asked(REFUSED)
    ledger.receive(Receipt(UID, "token-2", "good"), 1.0)
    assert "had to be refused" in found(ledger)


def test_a_broken_connection_without_a_kill_is_reported(ledger):
    ledger.kills_s.append(5.0)
    ledger.saw(PLAIN, Seen(), 1.0, 2.0)
    assert "no worker was killed" in found(ledger)


@pytest.mark.parametrize(
    "text",
    [
        MARK.encode(),
        *(base64.b64encode(b"y" * skip + MARK.encode() + b" and more") for skip in range(3)),
        MARK.encode().hex().encode(),
        "".join(f"%{byte:02X}" for byte in MARK.encode()).encode(),
    ],
)
def test_a_planted_secret_is_found_in_each_spelling(ledger, text):
    ledger.saw(PLAIN, seen({"error": {"message": text.decode(), "code": "x"}}, 502), 1.0, 2.0)
    assert "a planted secret" in found(ledger)
