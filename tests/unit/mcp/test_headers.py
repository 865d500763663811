"""Tests of the header fields that an MCP server receives."""

import pytest

from gatepass.errors import InvalidRequest
from gatepass.mcp.message import request_headers

IDENTITY = (b"accept-encoding", b"identity")
ACCEPT = (b"accept", b"application/json, text/event-stream")
JSON = (b"content-type", b"application/json")


def test_fields_of_mcp_are_forwarded() -> None:
    sent = (
        (b"user-agent", b"sdk"),
        (b"traceparent", b"00-1-2-00"),
        ACCEPT,
        JSON,
        (b"last-event-id", b"7"),
        (b"mcp-session-id", b"s"),
        (b"mcp-param-region", b"eu"),
        (b"x-team", b"t"),
    )
    assert request_headers(sent) == (
        *((b"user-agent", b"sdk"), (b"traceparent", b"00-1-2-00")),
        *(ACCEPT, (b"last-event-id", b"7"), (b"mcp-session-id", b"s"), (b"mcp-param-region", b"eu"), JSON),
        IDENTITY,
    )


def test_fields_that_a_client_left_out_are_added() -> None:
    assert request_headers(()) == (ACCEPT, JSON, IDENTITY)
    assert request_headers((), method="GET") == ((b"accept", b"text/event-stream"), IDENTITY)


def test_credentials_and_fields_of_the_connection_are_not_forwarded() -> None:
    sent = (
        *((b"authorization", b"Bearer k"), (b"x-api-key", b"k"), (b"api-key", b"k"), (b"cookie", b"c")),
        *((b"origin", b"http://a"), (b"host", b"a"), (b"forwarded", b"for=a"), (b"x-forwarded-for", b"a")),
        *((b"connection", b"Mcp-Session-Id, close"), (b"mcp-session-id", b"s"), (b"mcp_name", b"n")),
        *((b"mcp-na_me", b"n"), (b"content-length", b"7"), (b"accept-encoding", b"gzip")),
    )
    assert request_headers(sent) == (ACCEPT, JSON, IDENTITY)


@pytest.mark.parametrize("name", [b"mcp-session-id", b"last-event-id", b"mcp-protocol-version"])
def test_a_field_that_two_readers_could_read_differently_is_refused(name: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"{name.decode()} appears twice"):
        request_headers((ACCEPT, ACCEPT, (name, b"1"), (name, b"2")))


def test_the_body_is_json_whatever_the_client_says_because_some_servers_decode_it_by_its_charset() -> None:
    sent = (ACCEPT, (b"content-type", b"application/json; charset=utf-7"), (b"content-type", b"text/plain"))
    assert request_headers(sent) == (ACCEPT, JSON, IDENTITY)
