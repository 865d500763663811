"""The responses that a connection sends without a request cycle."""

from __future__ import annotations

import json

import pytest

from gatepass.errors import GatepassError, InternalError, InvalidRequest, Overloaded
from gatepass.protocols.error_objects import error_body
from gatepass.server.parser import large_head
from gatepass.server.timeouts import error_response, slow_body


def parts(raw: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    return line, dict(field.split(b": ", 1) for field in fields), body


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequest("No."), 400, "invalid_request"),
        (slow_body(20.0), 408, "receive_timeout"),
        (large_head(), 431, "head_too_large"),
        (InternalError("No."), 500, "internal_error"),
        (Overloaded("No."), 503, "overloaded"),
    ],
)
def test_a_refusal_is_a_whole_response_with_which_its_connection_ends(error: GatepassError, status: int, code: str):
    line, fields, body = parts(error_response(error))
    assert (line, body) == (b"HTTP/1.1 %d " % status, error_body(error))
    assert (fields[b"connection"], fields[b"content-length"]) == (b"close", b"%d" % len(body))
    assert (fields[b"content-type"], json.loads(body)["error"]["code"]) == (b"application/json", code)


def test_a_slow_body_sees_how_long_it_had():
    assert "after 2.5 s" in str(slow_body(2.5))
