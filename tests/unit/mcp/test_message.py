"""Tests of reading a JSON-RPC message."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.mcp.message import (
    LONGEST_ID_BYTES,
    LONGEST_NAME_CHARS,
    UNREADABLE,
    McpMessage,
    has_run,
    is_response,
    is_session_lost,
    read_message,
)


def body(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


def call(name: object, **params: Any) -> bytes:
    return body(id=1, method="tools/call", params={"name": name, **params})


ID = "x" * (LONGEST_ID_BYTES - len('""'))


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
        (body(id=3, result={}), McpMessage("response", id=b"3", result=msgspec.Raw(b"{}"))),
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
        (body(id=ID, method="ping"), McpMessage("request", "ping", "", b'"%b"' % ID.encode())),
        (body(id=f"{ID}x", method="ping"), McpMessage("unreadable", "ping")),
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


@pytest.mark.parametrize(
    ("text", "is_lost"),
    [
        ("Session not found", True),
        ("Unauthorized: Session not found", True),
        ("Bad Request: No valid session ID provided", True),
        ("No transport found for sessionId", True),
        ("Invalid or unknown Mcp-Session-Id header", True),
        ("session 3f2a-77 does not exist", True),
        ("Unknown session", True),
        ("会话不存在", True),
        ("The token of this session is expired", None),
        ("Session expired", None),
        ("会话已过期", None),
        ("invalid_token", False),
        ("invalid session token", False),
        ("No token for this session", False),
        ("tool find not found", False),
    ],
)
def test_a_lost_session_is_read_in_any_words(text, is_lost):
    """None: the session may be that of a login, which only a status other than 401 excludes."""
    found = [is_session_lost(text, may_be_login=may_be_login) for may_be_login in (True, False)]
    assert found == [bool(is_lost), is_lost is not False]


@pytest.mark.parametrize("number", [rb'"\ud800"', b'"\xff"', b"1" * 400])
def test_an_id_that_cannot_be_read_is_no_answer(number: bytes):
    asked = read_message(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"find"}}')
    reply = b'{"jsonrpc":"2.0","id":%b,"result":{}}' % number
    assert not is_response(reply, asked)
    assert not has_run(reply, asked)
