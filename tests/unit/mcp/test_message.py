"""Tests of reading a JSON-RPC message, and of the check for keys with lists."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import CallerError, InvalidJson, InvalidRequest, McpHeaderMismatch, McpNotAllowed
from gatepass.mcp.access import McpAllowed
from gatepass.mcp.message import (
    LONGEST_ID_BYTES,
    LONGEST_NAME_CHARS,
    UNREADABLE,
    McpMessage,
    check_message,
    read_message,
    repeats_failed,
)

LISTS = McpAllowed(tools=("find", "read_*"), prompts=("greet",), resources=("file:///docs/*", "mem://a"))


def body(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


def call(name: object, **params: Any) -> bytes:
    return body(id=1, method="tools/call", params={"name": name, **params})


def subscribed(count: int, name: str) -> dict[str, Any]:
    return {"notifications": {"resourceSubscriptions": [f"file:///docs/{name}"] * count}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (call("find"), McpMessage("request", "tools/call", "find", b"1")),
        (body(id="a\u00e9", method="ping"), McpMessage("request", "ping", "", b'"a\\u00e9"')),
        (
            body(id=-7, method="resources/read", params={"uri": "file:///a", "name": "b"}),
            McpMessage("request", "resources/read", "file:///a", b"-7"),
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
    assert message.name == "x" * LONGEST_NAME_CHARS


@given(st.binary(max_size=200))
def test_never_raises(text: bytes) -> None:
    assert read_message(text).id


@pytest.mark.parametrize(
    "text",
    [
        call("find"),
        call("read_a", arguments={"name": "drop", "name2": [1]}),
        b" \n" + call("find"),
        body(id=1, method="tools/list"),
        body(id=1, method="tools/list", params=None),
        body(id=1, method="initialize", params={"protocolVersion": "2025-11-25"}),
        body(id=1, method="prompts/get", params={"name": "greet"}),
        body(id=1, method="resources/read", params={"uri": "file:///docs/a/b.md"}),
        body(id=1, method="resources/subscribe", params={"uri": "mem://a"}),
        body(id=1, method="completion/complete", params={"ref": {"type": "ref/prompt", "name": "greet"}}),
        body(id=1, method="completion/complete", params={"ref": {"type": "ref/resource", "uri": "mem://a"}}),
        body(id=1, method="subscriptions/listen", params={"notifications": {"toolsListChanged": True}}),
        body(
            id=1, method="subscriptions/listen", params={"notifications": {"resourceSubscriptions": ["file:///docs/a"]}}
        ),
        body(id=1, method="tools/call", params={"name": "find", "arguments": {"rows": [0] * 99_000}}),
        body(id="s-1", result={"role": "assistant", "content": {"type": "text", "text": "t"}}),
        body(id="s-1", error={"code": -1, "message": "declined"}),
        body(method="notifications/cancelled", params={"requestId": 1}),
    ],
)
def test_allows_what_the_lists_name(text: bytes) -> None:
    assert check_message(text, (), LISTS) == read_message(text)


@pytest.mark.parametrize(
    "text",
    [
        call("drop"),
        call("Find"),
        call("find "),
        call("\u017find"),
        b'{"jsonrpc":"2.0","id":1,"method":"tools\\u002fcall","params":{"n\\u0061me":"dr\\u006fp"}}',
        body(id=1, method="prompts/get", params={"name": "find"}),
        body(id=1, method="resources/read", params={"uri": "file:///etc/passwd"}),
        body(id=1, method="resources/read", params={"uri": "file:///docs/../etc/passwd"}),
        body(id=1, method="resources/read", params={"uri": "file:///docs/%2e%2e/etc/passwd"}),
        body(id=1, method="resources/read", params={"uri": "file:///docs/%252e%252e/etc"}),
        body(id=1, method="resources/read", params={"uri": "file:///docs/..\\etc"}),
        body(id=1, method="resources/read", params={"uri": "file:///docs/..%2fetc"}),
        body(id=1, method="resources/subscribe", params={"uri": "mem://b"}),
        body(id=1, method="completion/complete", params={"ref": {"type": "ref/prompt", "name": "other"}}),
        body(id=1, method="completion/complete", params={"ref": {"type": "ref/resource", "uri": "mem://b"}}),
        body(id=1, method="subscriptions/listen", params={"notifications": {"resourceSubscriptions": ["mem://b"]}}),
        body(id=1, method="tasks/result", params={"taskId": "1"}),
        body(id=1, method="Tools/call", params={"name": "find"}),
        body(id=1, method="tools/call\u0000", params={"name": "find"}),
        body(method="tools/call", params={"name": "find"}),
        body(id=1, method="notifications/initialized"),
    ],
)
def test_refuses_what_no_list_names(text: bytes) -> None:
    with pytest.raises(McpNotAllowed):
        check_message(text, (), LISTS)


def test_the_refusal_is_the_same_for_tools_that_exist_and_others() -> None:
    texts = []
    for name in ("drop", "none"):
        with pytest.raises(McpNotAllowed) as raised:
            check_message(call(name), (), LISTS)
        texts.append(raised.value.message.replace(name, "NAME"))
    assert (
        texts[0]
        == texts[1]
        == ("This key may not use the tool 'NAME'. Use another key, or add the tool to access.keys[].mcp.")
    )


@pytest.mark.parametrize(
    "text",
    [
        b"[" + call("find") + b"]",
        b"[]",
        b"",
        b"\xef\xbb\xbf" + call("find"),
        call("find").decode().encode("utf-16"),
        call("find") + call("drop"),
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"find","x":NaN}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"find","name":"drop"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"find","n\\u0061me":"drop"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"find","Name":"drop"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"drop"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call","params":{"name":"drop"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"find"},"PARAMS":{"name":"drop"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"find"},"param\\u017f":{"name":"drop"}}',
        b'{"id":1,"method":"resources/read","params":{"uri":"mem://a","ur\\u0131":"mem://b"}}',
        body(id=1, method="ping", result={}),
        body(id=None, method="tools/call", params={"name": "find"}),
        body(id=[1], method="ping"),
        body(id="x" * 300, method="ping"),
        body(id=1, method="tools/call"),
        body(id=1, method="tools/call", params=["find"]),
        body(id=1, method="tools/call", params={"name": "find", "arguments": {"rows": [0] * 100_001}}),
        call(["find"]),
        call(None),
        body(id=1, method="resources/read", params={"uri": "file:///docs/" + "a" * 9000}),
        body(id=1, method="completion/complete", params={"ref": {"type": "ref/tool", "name": "find"}}),
        b'{"id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"greet","name":"x"}}}',
        body(id=1, method="subscriptions/listen", params={"notifications": {"resourceSubscriptions": "mem://b"}}),
        body(
            id=1, method="subscriptions/listen", params={"notifications": {"resourceSubscriptions": ["mem://a"] * 1001}}
        ),
        body(id=1, method="subscriptions/listen", params=subscribed(9, "a" * 7_400)),
        b'{"id":1,"method":"tools/call","params":' + b"[" * 100_000,
        b'{"id":1,"method":"tools/call","params":{"name":"\\ud800"}}',
    ],
)
def test_refuses_what_servers_read_differently(text: bytes) -> None:
    with pytest.raises((InvalidJson, InvalidRequest)):
        check_message(text, (), LISTS)


def encoded(text: str) -> bytes:
    return b"=?base64?" + base64.b64encode(text.encode()) + b"?="


V2026 = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        (call("find"), ((b"mcp-method", b"tools/call"), (b"mcp-name", b"find"))),
        (call("read_\u00e9"), ((b"mcp-method", b"tools/call"), (b"mcp-name", encoded("read_\u00e9")))),
        (call("find", **V2026), ((b"mcp-protocol-version", b"2026-07-28"),)),
        (call("find"), ((b"mcp-protocol-version", b"2025-11-25"),)),
        (body(method="notifications/initialized"), ((b"mcp-method", b"notifications/initialized"),)),
    ],
)
def test_headers_may_repeat_the_body(text: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    assert check_message(text, headers, LISTS).kind != "unreadable"


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        (call("find"), ((b"mcp-method", b"tools/list"),)),
        (call("find"), ((b"mcp-name", b"drop"),)),
        (call("find"), ((b"mcp-name", encoded("drop")),)),
        (call("find"), ((b"mcp-name", b"=?base64?%%%?="),)),
        (call("find"), ((b"mcp-name", b"=?base64?ZmluZB==?="),)),
        (call("find"), ((b"mcp-name", "fínd".encode()),)),
        (call("find"), ((b"mcp-name", b"find"), (b"mcp-name", b"drop"))),
        (call("find", **V2026), ((b"mcp-protocol-version", b"2025-11-25"),)),
        (body(id=1, method="tools/list"), ((b"mcp-name", b"drop"),)),
        (body(id=1, result={}), ((b"mcp-method", b"tools/call"),)),
    ],
)
def test_headers_that_differ_from_the_body_are_refused(text: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    with pytest.raises(McpHeaderMismatch):
        check_message(text, headers, LISTS)


_NAMES = st.sampled_from(["name", "Name", "n\u0061me", "uri", "x", "arguments"])
_MEMBERS = st.lists(st.tuples(_NAMES, st.sampled_from(["find", "drop", "read_x", "DROP"])), max_size=4)


@given(_MEMBERS, st.sampled_from(["json", "first", "folded"]))
def test_no_parser_reads_a_tool_that_is_not_allowed(members: list[tuple[str, str]], parser: str) -> None:
    inner = ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in members)
    text = f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{inner}}}}}'.encode()
    try:
        check_message(text, (), LISTS)
    except CallerError:
        return
    read: dict[str, str] = {}
    for name, value in members:
        key = name.lower() if parser == "folded" else name
        read.setdefault(key, value) if parser == "first" else read.__setitem__(key, value)
    assert LISTS.allows("tools", read["name"])
    assert msgspec.json.decode(text)["params"]["name"] == read["name"]


CALL_TWICE = b'{"id":1,"method":"tools/call","params":{"name":"find"}}'


@pytest.mark.parametrize(
    ("text", "is_repeated"),
    [
        (CALL_TWICE, True),
        (call("drop"), False),
        (CALL_TWICE.replace(b"}}", b',"arguments":{"name":"drop"}}}'), True),
        (CALL_TWICE.replace(b'"find"', b'"drop","name":"find"'), False),
        (CALL_TWICE.replace(b'"find"', b'"find","Name":"drop"'), False),
        (CALL_TWICE.replace(b'"params"', b'"params":{"name":"drop"},"params"'), False),
        (CALL_TWICE.replace(b'"params"', b'"PARAMS":{"name":"drop"},"params"'), False),
        (CALL_TWICE.replace(b'"method"', b'"Method":"x","method"'), False),
        (body(id=1, method="tools/list"), False),
        (b"[]", False),
    ],
)
def test_a_call_that_names_one_tool_may_run_twice(text: bytes, is_repeated: bool) -> None:
    assert repeats_failed(read_message(text), text, ["find"]) is is_repeated


@pytest.mark.parametrize("field", [b"mcp-method", b"mcp-name"])
@pytest.mark.parametrize("value", [b"\xff", b"=?base64?!!?="])
def test_a_malformed_header_never_agrees_with_the_body(field: bytes, value: bytes) -> None:
    for text in (body(id=1, method="tools/list"), body(id=1, result={})):
        with pytest.raises(McpHeaderMismatch):
            check_message(text, ((field, value),), McpAllowed(tools=("open",)))


@pytest.mark.parametrize("method", [b"subscriptions/listen", b"ping"])
def test_a_call_does_not_pass_for_a_waiting_stream_or_a_read(method: bytes) -> None:
    text = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"%b"}' % method
    assert read_message(text) == McpMessage("unreadable")
