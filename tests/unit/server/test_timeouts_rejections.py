"""The responses that a connection sends without a request cycle."""

from __future__ import annotations

import json
import logging

import pytest

from gatepass.errors import GatepassError, InvalidRequest
from gatepass.operations.error_objects import error_body
from gatepass.server.parser import large_head, many_fields
from gatepass.server.timeouts import (
    LOG_INTERVAL_S,
    RefusedRequests,
    error_response,
    evicted,
    internal_error,
    slow_body,
    slow_head,
)
from tests.unit.http_client.loop import advance


def parts(raw: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    return line, dict(field.split(b": ", 1) for field in fields), body


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequest("No."), 400, "invalid_request"),
        (slow_head(), 408, "receive_timeout"),
        (slow_body(20.0), 408, "receive_timeout"),
        (large_head(), 431, "head_too_large"),
        (many_fields(), 431, "head_too_large"),
        (internal_error(), 500, "internal_error"),
        (evicted(), 503, "overloaded"),
    ],
)
def test_a_refusal_is_a_whole_response_with_which_its_connection_ends(error: GatepassError, status: int, code: str):
    line, fields, body = parts(error_response(error))
    assert (line, body) == (b"HTTP/1.1 %d " % status, error_body(error))
    assert (fields[b"connection"], fields[b"content-length"]) == (b"close", b"%d" % len(body))
    assert (fields[b"content-type"], json.loads(body)["error"]["code"]) == (b"application/json", code)


def test_a_slow_body_sees_how_long_it_had():
    assert "after 2.5 s" in str(slow_body(2.5))


class Book:
    """Notes refusals, and what becomes of them."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "gatepass")
        self._caplog = caplog
        self.counted: list[str] = []
        self._refusals = RefusedRequests(lambda error: self.counted.append(error.code))

    def note(self, error: GatepassError, times: int = 1) -> None:
        for _ in range(times):
            self._refusals.note(error, "192.0.2.7")

    def lines(self) -> list[tuple[str, int, str, str, int]]:
        """Those since the last look."""
        records, reported = [*self._caplog.records], []
        self._caplog.clear()
        for record in records:
            assert record.getMessage() == "refused"
            fields = record.__dict__["fields"]
            reported.append((record.levelname, *(fields[name] for name in ("status", "code", "peer", "count"))))
        return reported


async def test_a_refusal_is_counted_and_logged_at_once_with_all_that_is_known_of_it(
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.INFO, "gatepass")
    book = Book(caplog)
    book.note(large_head())
    assert caplog.records[0].__dict__["fields"] == {
        "status": 431,
        "code": "head_too_large",
        "hop": "client",
        "reason": "The request's head is larger than 65536 bytes.",
        "peer": "192.0.2.7",
        "count": 1,
    }
    assert book.counted == ["head_too_large"]


async def test_a_thousand_refusals_are_all_counted_and_two_lines(caplog: pytest.LogCaptureFixture):
    book = Book(caplog)
    book.note(evicted(), times=1000)
    assert book.lines() == [("WARNING", 503, "overloaded", "192.0.2.7", 1)]
    await advance(LOG_INTERVAL_S)
    assert book.lines() == [("WARNING", 503, "overloaded", "192.0.2.7", 999)]
    assert book.counted == ["overloaded"] * 1000


async def test_repeated_refusals_are_one_line_a_second_for_each_code(caplog: pytest.LogCaptureFixture):
    book = Book(caplog)
    for _ in range(4):
        book.note(evicted(), times=5)
        book.note(slow_head())
        await advance(LOG_INTERVAL_S / 2)
    assert [(code, count) for _, _, code, _, count in book.lines()] == [
        *[("overloaded", 1), ("receive_timeout", 1)],
        *[("overloaded", 9), ("receive_timeout", 1)],
        *[("overloaded", 10), ("receive_timeout", 2)],
    ]


async def test_after_a_second_without_one_the_next_is_reported_at_once(caplog: pytest.LogCaptureFixture):
    book = Book(caplog)
    book.note(slow_head())
    await advance(LOG_INTERVAL_S)
    book.note(slow_head())
    assert book.lines() == [("INFO", 408, "receive_timeout", "192.0.2.7", 1)] * 2
