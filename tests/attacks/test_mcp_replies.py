"""Replies of an MCP server to a key with lists: every shape is filtered or refused within the time of a turn."""

import json
from contextlib import suppress

import pytest

from gatepass.auth.api_keys import hash_key
from gatepass.errors import InvalidRequest, McpNotAllowed, UpstreamInvalid
from gatepass.mcp.access import FilteredEvents, McpAllowed
from gatepass.mcp.message import check_message
from tests.attacks.conftest import Attack
from tests.integration.gateway import gateway
from tests.integration.scripted import Scripted, Send, begin_stream, chunk, reply
from tests.integration.test_mcp import post, servers

MIB = 1 << 20
KEY = "gp-" + "k" * 43
ACCESS = {"keys": [{"name": "anna", "hash": hash_key(KEY), "mcp": {"tools": {"tools": ["find"]}}}]}
LISTS = McpAllowed(tools=("find", "a*", "b*"), prompts=(), resources=("file:///d/*",))


def listed(kind: bytes, entry: bytes, count: int) -> bytes:
    return b'{"id":1,"result":{"%b":[%b]}}' % (kind, b",".join(entry % number for number in range(count)))


def members(count: int) -> bytes:
    return b"{%b}" % b",".join(b'"%d":1' % number for number in range(count))


def repeated(first: bytes, member: bytes, count: int) -> bytes:
    return b"{%b}" % b",".join([first or member, *[member] * count])


SHAPES = {
    "a batch": lambda: b"[%b]" % b",".join([b"{}"] * 1_000_000),
    "a million members": lambda: members(1_000_000),
    "many entries": lambda: listed(b"tools", b'{"name":"c%d","a":1,"b":2}', 4_000),
    "many encoded names": lambda: listed(b"resources", b'{"uri":"file:///d/%%252e%d"}', 4_000),
    "long names": lambda: listed(b"resources", b'{"uri":"file:///d/%%d%b"}' % (b"%%25" * 2_700), 24),
    "names in layers": lambda: listed(
        b"resources", b'{"uri":"file:///d/%%d%b"}' % ("%%2541\ufdfa" * 4).encode(), 3_300
    ),
    "names of marks": lambda: listed(
        b"resources", b'{"uri":"file:///d/%%d%b"}' % ("\u0315\u0300" * 2_000).encode(), 24
    ),
    "many names of an entry": lambda: listed(b"tools", b'{"a%%d":1,%b}' % b",".join([b'"name":"a"'] * 20_000), 1),
    "escapes": lambda: b'{"result":{"a":"%b%b"}}' % (b'\\"' * 1_500_000, b"a" * (7 * MIB)),
    "results": lambda: repeated(b"", b'"result":{"resources":[],"cacheScope":"x"}', 7_000),
    "results after names and escapes": lambda: repeated(
        b'"x":"%b","result":{"tools":[%b{}]}' % (b'\\"' * 1_400_000, b'{"name":"a%25%25%25%25%25"},' * 3_980),
        b'"result":{"resources":[],"cacheScope":"x"}',
        7_000,
    ),
    "names of members that grow": lambda: (
        b'{"result":%b}' % repeated(b'"tools":[{}]', b'"%b":1' % ("\u017f" * 32).encode(), 24_000)
    ),
    "blanks": lambda: b'{"result":%b{}}' % (b" " * (12 * MIB - 30)),
    "an image": lambda: b'{"result":{"content":[{"data":"%b"}]}}' % (b"abcd" * 2_700_000),
}


@pytest.mark.attack("requests of a key with lists at an MCP server")
@pytest.mark.parametrize("name", ["\ufdfa", "\u0315\u0300", "%25EF%25B7%25BA", "\u33c6"])
def test_a_request_with_any_names_is_checked_in_a_turn(attack: Attack, name: str) -> None:
    attack.cases += 1
    for count in (8, 165):
        params = {"notifications": {"resourceSubscriptions": ["file:///d/" + (name * 8_100)[:8_100]] * count}}
        text = json.dumps({"id": 1, "method": "subscriptions/listen", "params": params}, ensure_ascii=False).encode()
        with attack.on_loop(), suppress(InvalidRequest, McpNotAllowed):
            check_message(text, (), LISTS)


def unnamed(count: int) -> bytes:
    return b"{%b}" % b",".join(b'"k%d":[]' % number for number in range(count))


REQUESTS = {
    "a URI with members": lambda: (b"resources/read", b'{"uri":%b}' % unnamed(310_000)),
    "a name with members": lambda: (b"tools/call", b'{"name":%b}' % unnamed(310_000)),
    "a type with members": lambda: (b"completion/complete", b'{"ref":{"type":%b}}' % unnamed(310_000)),
    "a version of lists": lambda: (
        b"tools/call",
        b'{"name":"a","_meta":{"io.modelcontextprotocol/protocolVersion":[%b[]]}}' % (b"[]," * 1_300_000),
    ),
    "URIs of objects": lambda: (
        b"subscriptions/listen",
        b'{"notifications":{"resourceSubscriptions":[%b{}]}}' % (b"{}," * 1_300_000),
    ),
    "empty URIs": lambda: (
        b"subscriptions/listen",
        b'{"notifications":{"resourceSubscriptions":[%b""]}}' % (b'"",' * 1_300_000),
    ),
}


@pytest.mark.attack("requests of a key with lists at an MCP server")
@pytest.mark.parametrize("shape", REQUESTS)
def test_a_request_with_any_value_is_checked_in_a_turn(attack: Attack, shape: str) -> None:
    attack.cases += 1
    body = b'{"jsonrpc":"2.0","id":1,"method":"%b","params":%b}' % REQUESTS[shape]()
    # the values of the client are not built: there are only copies of parts of the body
    with attack.memory(4 * len(body)), suppress(InvalidRequest, McpNotAllowed):
        check_message(body, (), LISTS)
    with attack.on_loop(), suppress(InvalidRequest, McpNotAllowed):
        check_message(body, (), LISTS)


@pytest.mark.attack("replies of MCP servers to a key with lists")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_message_of_any_shape_is_filtered_in_a_turn(attack: Attack, shape: str) -> None:
    attack.cases += 1
    text = SHAPES[shape]()
    # a larger reply is filtered in a thread by the same code
    stream, events = b"event: message\r\ndata: %b\r\n\r\n" % text, FilteredEvents(LISTS, 32 * MIB, "wiki")
    with suppress(UpstreamInvalid):
        for at in range(0, len(stream), MIB // 4):
            with attack.on_loop():
                events.feed(stream[at : at + MIB // 4])
            while events.waiting:
                with attack.on_loop():
                    events.feed()


@pytest.mark.attack("replies of MCP servers to a key with lists")
@pytest.mark.parametrize("shape", ["a batch", "a million members", "an image"])
async def test_a_large_reply_holds_no_loop(attack: Attack, shape: str) -> None:
    attack.cases += 1
    body = SHAPES[shape]()
    async with (
        Scripted([Send(reply(body))]) as upstream,
        gateway(**servers(upstream), access=ACCESS) as gp,
        attack.on_this_loop(),
    ):
        got = await post(gp, authorization=f"Bearer {KEY}").answer()
    attack.check((got.body == body) is (shape == "an image"), shape)


OBJECTS = {
    "a batch": b"[%b]",
    "a result": b'{"id":1,"result":[%b]}',
    "tools": b'{"id":1,"result":{"tools":[%b]}}',
    "an unknown member": b'{"id":1,"result":{"x":[%b]}}',
    "an id": b'{"id":[%b],"result":{"tools":[]}}',
}


@pytest.mark.attack("replies of MCP servers to a key with lists")
@pytest.mark.parametrize("shape", OBJECTS)
async def test_the_values_of_a_large_reply_are_not_built(attack: Attack, shape: str) -> None:
    attack.cases += 1
    body = OBJECTS[shape] % (b"{}," * (3 * MIB) + b"{}")
    async with Scripted([Send(reply(body))]) as upstream, gateway(**servers(upstream), access=ACCESS) as gp:
        with attack.memory(2 * len(body)):  # the pieces, and the reply that is joined from them
            got = await post(gp, authorization=f"Bearer {KEY}").answer()
        async with attack.on_this_loop():
            again = await post(gp, authorization=f"Bearer {KEY}").answer()
    for answer in (got, again):
        attack.check(b'"upstream_invalid"' in answer.body, (shape, answer.body[:300]))


@pytest.mark.attack("streams of MCP servers to a key with lists")
@pytest.mark.parametrize("unit", [b"\n", b"\r", b"\r\n", b":\n\n", b"data\n", b"id\n\n", b"data:{}\n\n"])
@pytest.mark.parametrize("begin", [b"", b"event: message\ndata: {}"])
async def test_short_lines_of_a_stream_hold_no_loop(attack: Attack, unit: bytes, begin: bytes) -> None:
    attack.cases += 1
    flood = begin + unit * (4 * MIB // len(unit))
    response = b'data: {"jsonrpc":"2.0","id":7,"result":{"tools":[{"name":"find"},{"name":"drop"}]}}\n\n'
    dialogue = [*begin_stream(), Send(chunk(flood + b"\n\n")), Send(chunk(response)), Send(b"0\r\n\r\n")]
    async with Scripted(dialogue) as upstream, gateway(**servers(upstream), access=ACCESS) as gp, attack.on_this_loop():
        got = await post(gp, authorization=f"Bearer {KEY}").answer()
    attack.check(b'"drop"' not in got.body, got.body[-300:])
    attack.check(b'{"name":"find"}' in got.body or b'"upstream_invalid"' in got.body, got.body[-300:])
