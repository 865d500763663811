"""Tests of reading a JSON-RPC message."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.mcp.message import LONGEST_ID_BYTES, LONGEST_NAME_CHARS, UNREADABLE, McpMessage, read_message


def body(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


def call(name: object, **params: Any) -> bytes:
    return body(id=1, method="tools/call", params={"name": name, **params})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (call("find"), McpMessage("request", "tools/call", "find", b"1")),
        (body(id="a\u00e9", method="ping"), McpMessage("request", "ping", "", b'"a\\u00e9"')),
        (
            body(id=-7, method="resources/read", params={"uri": "file:///a", "name": "b"}),
            McpMessage("request", "resources/read", "", b"-7"),
        ),
        (body(method="notifications/initialized"), McpMessage("notification", "notifications/initialized")),
        (body(id=3, result={}), McpMessage("response", id=b"3")),
        (body(id=3, error={"code": 1, "message": "m"}), McpMessage("response", id=b"3")),
        (body(id=1, method="tools/call", params=[1]), McpMessage("request", "tools/call", "", b"1")),
        (call(7), McpMessage("request", "tools/call", "", b"1")),
        (b"[" + call("find") + b"]", UNREADABLE),
        (b"", UNREADABLE),
        (b"7", UNREADABLE),
        (b"\xff", UNREADABLE),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/list","a\xff":1}', UNREADABLE),
        (b"[" * 100_000, UNREADABLE),
        (b'{"method":' + b"[" * 100_000, UNREADABLE),
        (body(id=1, method=7), UNREADABLE),
        (body(id=1), UNREADABLE),
        (body(result={}), UNREADABLE),
        (call("find") + b"x", UNREADABLE),
        (body(id={"a": 1}, method="ping"), McpMessage("request", "ping")),
        (body(id="x" * LONGEST_ID_BYTES, method="ping"), McpMessage("unreadable", "ping")),
    ],
)
def test_reads_every_body(text: bytes, message: McpMessage) -> None:
    assert read_message(text) == message


def test_long_names_are_cut() -> None:
    message = read_message(call("x" * 10_000))
    assert message.tool == "x" * LONGEST_NAME_CHARS


@given(st.binary(max_size=200))
def test_never_raises(text: bytes) -> None:
    assert read_message(text).id


@pytest.mark.parametrize("method", [b"subscriptions/listen", b"ping"])
def test_a_call_does_not_pass_for_a_waiting_stream_or_a_read(method: bytes) -> None:
    text = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"%b"}' % method
    assert read_message(text) == McpMessage("unreadable")
