"""Tests of what a key may use of an MCP server: the server, and the tools that it may call."""

import base64
import json
from fnmatch import fnmatchcase
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.auth.caller import Caller
from gatepass.auth.model_access import may_use_server
from gatepass.errors import CallerError, InvalidRequest, McpNotAllowed
from gatepass.mcp.access import LONGEST_TOOL_CHARS, callable_tools, check_call, refusal_of

TOOLS = ["find", "read_*"]
KEY = Caller("anna", "anna", "0f3c1d9e")


def key(**settings: Any) -> Caller:
    return Caller("a", "a", **settings)


@pytest.mark.parametrize(
    ("caller", "is_open"),
    [
        (key(), True),
        (key(models=["m"]), False),
        (key(operations=["chat"]), False),
        (key(operations=[]), False),
        (key(role="viewer"), False),
        (key(role="viewer", mcp={"wiki": None}), False),
        (key(role="admin"), True),
        (key(models=["m"], mcp={"wiki": None}), True),
        (key(operations=[], mcp={"wiki": ["find"]}), True),
        (key(mcp={}), False),
        (key(mcp={"wiki": None}), True),
        (key(mcp={"other": None}), False),
    ],
)
def test_servers_of_a_key(caller: Caller, is_open: bool) -> None:
    assert may_use_server(caller, "wiki") is is_open


@pytest.mark.parametrize(
    ("caller", "tools"), [(key(), None), (key(mcp={"wiki": None}), None), (key(mcp={"wiki": ["find"]}), ["find"])]
)
def test_tools_of_a_key(caller: Caller, tools: list[str] | None) -> None:
    assert callable_tools(caller, "wiki") == tools


@pytest.mark.parametrize(
    ("caller", "reason"),
    [
        (key(models=["m"]), "it has `models` and no `mcp`"),
        (key(models=["m"], operations=["chat"]), "it has `models` and `operations` and no `mcp`"),
        (key(role="viewer", mcp={"wiki": None}), "its role is viewer"),
        (key(mcp={"other": None}), "its `mcp` does not list it"),
    ],
)
def test_a_refusal_states_its_reason(caller: Caller, reason: str) -> None:
    assert refusal_of(caller) == f"because {reason}"


def body(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


def call(name: object, **params: Any) -> bytes:
    return body(id=1, method="tools/call", params={"name": name, **params})


@pytest.mark.parametrize(
    "text",
    [
        call("find"),
        call("read_a", arguments={"name": "drop", "Name": [1]}),
        b" \n" + call("find"),
        b'{"id":1,"m\\u0065thod":"tools\\/call","params":{"n\\u0061me":"f\\u0069nd"}}',
        body(id=1, method="tools/list"),
        body(id=1, method="tools/list", params=None),
        body(id=1, method="prompts/get", params={"name": "drop"}),
        body(id=1, method="resources/read", params={"uri": "file:///etc"}),
        body(id="s-1", result={"role": "assistant"}),
        body(method="notifications/cancelled", params={"requestId": 1}),
    ],
)
def test_only_calls_are_checked(text: bytes) -> None:
    check_call(text, (), TOOLS, KEY)


@pytest.mark.parametrize(
    "text",
    [
        call("drop"),
        call("Find"),
        call("find "),
        call(""),
        call("\u017find"),
        call("read_" + "a" * LONGEST_TOOL_CHARS),
        b'{"jsonrpc":"2.0","id":1,"method":"tools\\u002fcall","params":{"n\\u0061me":"dr\\u006fp"}}',
        body(method="tools/call", params={"name": "drop"}),
    ],
)
def test_a_call_of_another_tool_is_refused(text: bytes) -> None:
    with pytest.raises(McpNotAllowed):
        check_call(text, (), TOOLS, KEY)
    with pytest.raises(McpNotAllowed):
        check_call(call("find"), (), [], KEY)


def test_the_refusal_is_the_same_for_tools_that_exist_and_others() -> None:
    with pytest.raises(McpNotAllowed) as raised:
        check_call(call("drop"), (), TOOLS, KEY)
    assert raised.value.message == (
        "This key may not call the tool 'drop'. Use another key, or add the tool to access.keys[].mcp."
    )
    with pytest.raises(McpNotAllowed) as raised:
        check_call(call("drop"), (), TOOLS, Caller("jwt:0f", "people", is_of_row=True))
    assert raised.value.message == (
        "This caller may not call the tool 'drop'. Add the tool to access.jwt[].callers[].mcp of the row 'people'."
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
        b'{"id":1,"method":"tools/call","params":{"name":"find","x":NaN}}',
        b'{"id":1,"method":"tools/call","params":{"name":"find","name":"drop"}}',
        b'{"id":1,"method":"tools/call","params":{"name":"find","name":"find"}}',
        b'{"id":1,"method":"tools/call","params":{"name":"find","n\\u0061me":"drop"}}',
        b'{"id":1,"method":"tools/call","params":{"name":"find","Name":"drop"}}',
        b'{"id":1,"method":"tools/call","params":{"Name":"find"}}',
        b'{"id":1,"method":"ping","method":"tools/call","params":{"name":"drop"}}',
        b'{"id":1,"method":"ping","Method":"tools/call","params":{"name":"drop"}}',
        b'{"id":1,"METHOD":"tools/call","params":{"name":"drop"},"result":{}}',
        b'{"id":1,"method":"tools/call","params":{"name":"find"},"PARAMS":{"name":"drop"}}',
        b'{"id":1,"method":"tools/call","params":{"name":"find"},"param\\u017f":{"name":"drop"}}',
        b'{"id":1,"method":"tools/call\xff","params":{"name":"drop"}}',
        b'{"id":1,"method":"tools/call\\ud800","params":{"name":"drop"}}',
        b'{"id":1,"method":"tools/call","params":{"name":"find\xff"}}',
        b'{"id":1,"method":["tools/call"],"params":{"name":"drop"}}',
        body(id=1, method="tools/call"),
        body(id=1, method="tools/call", params=["find"]),
        call(["find"]),
        call(None),
        b'{"id":1,"method":"tools/call","params":' + b"[" * 100_000,
    ],
)
def test_what_servers_read_differently_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest):
        check_call(text, (), TOOLS, KEY)


@pytest.mark.parametrize(
    "method",
    [
        *("Tools/Call", "TOOLS/CALL", "tools/call ", " tools/call", "tools//call", "/tools/call/", "tools.call"),
        *("toolsCall", "tool\u017f/call", "tools/call\0", "tools\u200b/call", " " * 1_000_000 + "tools/call"),
    ],
)
def test_another_spelling_of_a_call_is_refused(method: str) -> None:
    with pytest.raises(InvalidRequest, match="another spelling of 'tools/call'"):
        check_call(body(id=1, method=method, params={"name": "drop"}), (), TOOLS, KEY)


@pytest.mark.parametrize("method", ["tools/list", "tools/calls", "x/tools/call", "\u00e9" * 1_000_000, " " * 1_000_000])
def test_other_methods_pass(method: str) -> None:
    check_call(body(id=1, method=method), (), TOOLS, KEY)


def encoded(text: str) -> bytes:
    return b"=?base64?" + base64.b64encode(text.encode()) + b"?="


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        (call("find"), ((b"mcp-method", b"tools/call"), (b"mcp-name", b"find"))),
        (call("read_\u00e9"), ((b"mcp-method", b"tools/call"), (b"mcp-name", encoded("read_\u00e9")))),
        (body(id=1, method="prompts/get"), ((b"mcp-method", b"prompts/get"), (b"mcp-name", b"x"))),
        (body(method="notifications/initialized"), ((b"mcp-method", b"notifications/initialized"),)),
    ],
)
def test_headers_may_repeat_the_body(text: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    check_call(text, headers, TOOLS, KEY)


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        (call("find"), ((b"mcp-method", b"tools/list"),)),
        (call("find"), ((b"mcp-name", b"drop"),)),
        (call("find"), ((b"mcp-name", encoded("drop")),)),
        (call("find"), ((b"mcp-name", b"=?base64?%%%?="),)),
        (call("find"), ((b"mcp-name", b"find"), (b"mcp-name", b"drop"))),
        (body(id=1, method="tools/list"), ((b"mcp-method", b"tools/call"), (b"mcp-name", b"drop"))),
        (body(id=1, result={}), ((b"mcp-method", b"tools/call"),)),
    ],
)
def test_headers_that_differ_from_the_body_are_refused(text: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    with pytest.raises(InvalidRequest, match="differs from the body"):
        check_call(text, headers, TOOLS, KEY)


_NAMES = st.sampled_from(["name", "Name", "n\u0061me", "uri", "x", "arguments"])
_MEMBERS = st.lists(st.tuples(_NAMES, st.sampled_from(["find", "drop", "read_x", "DROP"])), max_size=4)


@given(_MEMBERS, st.sampled_from(["json", "first", "folded"]))
def test_no_parser_reads_a_tool_that_is_not_allowed(members: list[tuple[str, str]], parser: str) -> None:
    inner = ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in members)
    text = f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{inner}}}}}'.encode()
    try:
        check_call(text, (), TOOLS, KEY)
    except CallerError:
        return
    read: dict[str, str] = {}
    for name, value in members:
        folded = name.lower() if parser == "folded" else name
        read.setdefault(folded, value) if parser == "first" else read.__setitem__(folded, value)
    assert any(fnmatchcase(read["name"], glob) for glob in TOOLS)
    assert msgspec.json.decode(text)["params"]["name"] == read["name"]
