"""Replies near the limit: the loop of these tests runs gatepass alone, the client and the upstream have threads."""

import asyncio
import gzip
import http.client
import json
import re
import socket
import struct
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import pytest

from gatepass.config.access import hash_key
from tests.attacks.conftest import Attack
from tests.integration.gateway import CHAT, HELLO, gateway

MIB = 1 << 20
SIZE_BYTES = 15 * MIB
EVENT_BYTES = 3 * MIB
WAIT_S = 180.0
PIECE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Body:
    """`before`, `unit` repeated up to `size_bytes`, and `after`. Only a piece of it is in memory."""

    before: bytes
    unit: bytes
    after: bytes
    size_bytes: int = SIZE_BYTES
    content_type: str = "application/json"

    def pieces(self) -> Iterator[bytes]:
        yield self.before
        piece = self.unit * max(PIECE_BYTES // len(self.unit), 1)
        for _ in range(self.size_bytes // len(piece)):
            yield piece
        yield self.after


@contextmanager
def upstream(body: Body) -> Iterator[str]:
    """An upstream that answers one request with `body`."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(PIECE_BYTES)
            head, _, rest = request.partition(b"\r\n\r\n")
            found = re.search(rb"(?i)content-length: *([0-9]+)", head)
            left = int(found[1]) - len(rest) if found else 0
            while left > 0:
                left -= len(connection.recv(PIECE_BYTES))
            size_bytes = sum(map(len, body.pieces()))
            connection.sendall(
                f"HTTP/1.1 200 OK\r\ncontent-type: {body.content_type}\r\ncontent-length: {size_bytes}\r\n\r\n".encode()
            )
            with suppress(ConnectionError):  # gatepass closes a refused reply early
                for piece in body.pieces():
                    connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)
        thread = threading.Thread(target=serve, name="upstream")
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(WAIT_S)


@dataclass(frozen=True)
class Found:
    """A response: its status, its first and last bytes, its size."""

    status: int
    first: bytes
    last: bytes
    size_bytes: int


def fetch(port: int, path: str, request: Any, headers: Mapping[str, str] = MappingProxyType({})) -> Found:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        if request is None:
            connection.request("GET", path, headers=headers)
        else:
            connection.request("POST", path, json.dumps(request), {"content-type": "application/json"})
        response = connection.getresponse()
        first, last, size_bytes = b"", b"", 0
        while piece := response.read(PIECE_BYTES):
            first, last, size_bytes = (first + piece)[:1000], (last + piece)[-200:], size_bytes + len(piece)
        return Found(response.status, first, last, size_bytes)
    finally:
        connection.close()


async def answer_to(attack: Attack, body: Body, request: Any, path: str = CHAT, dialect: str = "openai") -> Found:
    """Return what a client of gatepass receives, and measure the loop meanwhile."""
    with upstream(body) as url:
        settings = {"base_url": url if dialect == "ragflow" else f"{url}/v1", "dialect": dialect}
        async with gateway(upstreams={"chat": settings}) as served, attack.on_this_loop():
            return await asyncio.to_thread(fetch, served.port, path, request)


async def check_refused(
    attack: Attack, body: Body, request: Any, reason: bytes, path: str = CHAT, dialect: str = "openai"
) -> None:
    """Check that the client receives a 502 with `reason` in its text."""
    found = await answer_to(attack, body, request, path, dialect)
    attack.check(found.status == 502 and reason in found.first, found)


STREAM = {**HELLO, "stream": True}
RANK = {"model": "m", "query": "a", "documents": ["a"] * 1000}
HEAD = b'"id":"a","created":1,"model":"m"'


def whole_reply(message: bytes, after: bytes = b"", unit: bytes = b"word ", size_bytes: int = SIZE_BYTES) -> Body:
    """A chat reply whose message has `message`, with the long text in the place of `%s`."""
    start = (
        b'{"object":"chat.completion",%b,"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant",'
    )
    before, _, behind = message.partition(b"%s")
    return Body(start % HEAD + before, unit, behind + b"}}]" + after + b"}", size_bytes)


def event(delta: bytes, unit: bytes = b"word ", size_bytes: int = EVENT_BYTES) -> Body:
    """A stream with one event."""
    start = b'data: {"object":"chat.completion.chunk",%b,"choices":[{"index":0,"finish_reason":null,"delta":{'
    end = b'data: {%b,"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}\n\ndata: [DONE]\n\n' % HEAD
    before, _, behind = delta.partition(b"%s")
    return Body(start % HEAD + before, unit, behind + b"}}]}\n\n" + end, size_bytes, "text/event-stream")


def call(arguments: bytes) -> bytes:
    return b'"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":%b}}]' % arguments


@pytest.mark.attack("replies: limits, arguments as an object")
async def test_arguments_that_are_an_object_become_text(attack: Attack) -> None:
    message = b'"content":"%s",' + call(b'{"a":"' + b"x" * 900_000 + b'"}')
    found = await answer_to(attack, whole_reply(message, size_bytes=3 * MIB), STREAM)
    attack.check(found.status == 200 and found.size_bytes > 3 * MIB + 600_000, found)


# whole replies made from streams of small events


def events(delta: bytes, behind: bytes = b"", first: bytes = b"", size_bytes: int = SIZE_BYTES) -> Body:
    """A stream of equal events, after the event `first`, that ends with a finish reason."""
    one = b'data: {"id":"a","choices":[{"index":0,"delta":{%b},"finish_reason":%b%b}]}\n\n'
    return Body(
        one % (first, b"null", b""),
        one % (delta, b"null", behind),
        one % (b"", b'"stop"', b"") + b"data: [DONE]\n\n",
        size_bytes,
        "text/event-stream",
    )


ITEM = (
    b'data: {"type":"response.output_item.done","item":{"type":"message","content":[{"type":"output_text",'
    b'"text":"%b"}]}}\n\n' % (b"\\n" * 500)
)
END = b'data: {"type":"response.completed","response":{"id":"r","object":"response","output":[]}}\n\n'
MANY_SMALL = {
    "escapes": events(b'"content":"%b"' % (b"\\n" * 500)),
    "wide characters": events(b'"content":"%b"' % (b"word " * 200), first='"content":"\U0001f600"'.encode()),
    "audio": events(b'"audio":{"id":"a","data":"%bYQ=="}' % (b"abcd" * 250)),
    "lists": events(b"", b',"logprobs":{"content":[%b[]]}' % (b"[]," * 4000)),
    "arguments": events(call(b'"%b"' % (b"1," * 500))),
}


@pytest.mark.attack("replies: limits, made from a stream")
@pytest.mark.parametrize("name", MANY_SMALL)
async def test_a_stream_of_small_events_that_is_too_large_for_a_whole_reply_is_refused(
    attack: Attack, name: str
) -> None:
    await check_refused(attack, MANY_SMALL[name], HELLO, b"Request it with `stream: true`")


@pytest.mark.attack("replies: limits, made from a stream")
async def test_a_stream_of_small_events_below_the_limit_becomes_a_whole_reply(attack: Attack) -> None:
    found = await answer_to(attack, replace(MANY_SMALL["audio"], size_bytes=5 * MIB), HELLO)
    attack.check(found.status == 200 and found.size_bytes > 4 * MIB, found)


@pytest.mark.attack("replies: limits, made from a stream")
async def test_a_large_event_becomes_a_whole_reply(attack: Attack) -> None:
    found = await answer_to(attack, event(b'"content":"%s"', b"\\u00e9"), HELLO)
    attack.check(found.status == 200 and found.size_bytes > EVENT_BYTES // 4, found)


@pytest.mark.attack("replies: limits, made from a stream")
async def test_the_items_of_a_response_that_are_too_large_are_refused(attack: Attack) -> None:
    body = Body(b"", ITEM, END, content_type="text/event-stream")
    await check_refused(attack, body, {"model": "m", "input": "hi"}, b"Request it with `stream: true`", "/v1/responses")


@pytest.mark.attack("replies: limits, made from a stream")
async def test_a_stream_with_too_many_different_members_is_refused(attack: Attack) -> None:
    members = b",".join(b'"x%d":"a"' % number for number in range(9_000))
    await check_refused(
        attack, events(b"", first=members, size_bytes=0), HELLO, b"more choices, tool calls and members"
    )


RESPONSE = (
    b'{"id":"r","object":"response","created_at":1,"model":"m","status":"completed","output":[{"type":"message",'
    b'"id":"m","role":"assistant","content":[{"type":"output_text","text":"'
)


@pytest.mark.attack("replies: limits, the Responses API")
async def test_a_large_response_becomes_a_stream(attack: Attack) -> None:
    request = {"model": "m", "input": "hi", "stream": True}
    found = await answer_to(attack, Body(RESPONSE, b"\\n", b'"}]}]}'), request, "/v1/responses")
    attack.check(found.status == 200 and found.size_bytes > 5 * (SIZE_BYTES - MIB), found)
    attack.check(b"response.created" in found.first and b'"sequence_number":8' in found.last, found)


# compressed replies of many tiny gzip members

GZIPPED = "\r\ncontent-encoding: gzip"


@pytest.mark.attack("replies: limits, gzip members")
@pytest.mark.parametrize(("content", "request_body"), [(b"", HELLO), (b" ", HELLO), (b"\n", STREAM)])
async def test_many_gzip_members_do_not_occupy_the_loop(attack: Attack, content: bytes, request_body: Any) -> None:
    kind = "text/event-stream" if request_body is STREAM else "application/json"
    body = Body(b"", gzip.compress(content, 1), b"", 2 * MIB, kind + GZIPPED)
    found = await answer_to(attack, body, request_body)
    attack.check(b"upstream:chat" in found.last, found)


# replies that only a lenient parser accepts, and replies that are not JSON

NOT_FINITE = b',"x":[NaN,-Infinity,"NaN"]'
LOGPROB = b'{"token":"a","logprob":NaN,"bytes":[32,97,98],"top_logprobs":[]},'
TEXT = b'"content":"%s"'
LOGPROBS = b'"content":"a"},"logprobs":{"content":[%s{"token":"a"}]'


@pytest.mark.attack("replies: limits, NaN")
@pytest.mark.parametrize(
    ("body", "is_streamed"),
    [
        (whole_reply(TEXT, NOT_FINITE, b"\\n"), True),
        (whole_reply(LOGPROBS, unit=LOGPROB, size_bytes=6 * MIB), False),
        (whole_reply(b'"content":"%s \xff"'), False),
        (replace(whole_reply(TEXT), before=b"\xef\xbb\xbf" + whole_reply(TEXT).before), True),
    ],
    ids=["escapes", "logprobs", "not UTF-8", "byte order mark"],
)
async def test_a_large_reply_that_only_python_reads_is_relayed(attack: Attack, body: Body, is_streamed: bool) -> None:
    found, made = [await answer_to(attack, body, request) for request in (HELLO, STREAM)]
    attack.check(found.status == 200 and found.size_bytes > body.size_bytes - MIB, found)
    attack.check(body.after[-20:] in found.last, found)
    attack.check(is_streamed or (made.status == 502 and b"cannot be parsed" in made.first), made)
    attack.check(not is_streamed or (made.status == 200 and made.size_bytes > body.size_bytes - MIB), made)


@pytest.mark.attack("replies: limits, not JSON")
@pytest.mark.parametrize(
    ("body", "path"),
    [
        (Body(b'{"object":"chat.completion","choices":[{"message":{"content":"', b"\\n", b"\\x"), CHAT),
        (Body(b'{"object":"chat.completion","choices":[{"message":{"content":"', b"\\n", b'"}}]'), CHAT),
        (Body(b'{"choices":[{"logprobs":[', LOGPROB.replace(b"NaN", b"1"), b"1]}}", 6 * MIB), CHAT),
        (Body(b"[", b"[],", b"1]", 6 * MIB), "/v1/embeddings"),
        (Body(b"", b"word ", b""), "/v1/embeddings"),
    ],
    ids=["escape", "cut", "bracket", "list", "text"],
)
async def test_a_large_reply_that_is_not_json_is_refused(attack: Attack, body: Body, path: str) -> None:
    await check_refused(attack, body, {**STREAM, "input": "a"}, b"upstream_invalid", path)


# replies that are read in one piece

MEMBERS = b",".join(b'"x%d":1' % number for number in range(80_000))
COMPLETE = {
    "texts": whole_reply(b'"content":"a","x":[%s1]', unit=b'"\\"",', size_bytes=MIB * 7 // 8),
    "numbers": whole_reply(call(b'{"a":[%s1]}'), unit=b"1.5,", size_bytes=MIB * 7 // 8),
    "members": whole_reply(b'"content":"a",%b,"x":"%%s"' % MEMBERS, size_bytes=0),
}
WITHOUT_TIME = {
    name: replace(body, before=body.before.replace(b'"created":1,', b"")) for name, body in COMPLETE.items()
}


@pytest.mark.attack("replies: limits, in one piece")
@pytest.mark.parametrize("name", WITHOUT_TIME)
async def test_a_reply_with_many_values_below_1_mib_is_relayed(attack: Attack, name: str) -> None:
    found = await answer_to(attack, WITHOUT_TIME[name], HELLO, path="/for/ragflow" + CHAT)
    attack.check(found.status == 200 and found.size_bytes > MIB // 2, found)


@pytest.mark.attack("replies: limits, blank")
@pytest.mark.parametrize(("unit", "path"), [(b" ", CHAT), (b"\n", "/v1/embeddings"), (b" ", "/v1/images/generations")])
async def test_a_large_blank_reply_is_empty(attack: Attack, unit: bytes, path: str) -> None:
    await check_refused(attack, Body(b"", unit, b"", 63 * MIB), {**HELLO, "input": "a"}, b"upstream_empty", path)


@pytest.mark.attack("replies: limits, in an envelope")
@pytest.mark.parametrize("request_body", [HELLO, STREAM])
async def test_a_large_reply_in_an_envelope_is_relayed(attack: Attack, request_body: Any) -> None:
    inside = whole_reply(TEXT, unit=b"\\n")
    body = Body(b'{"code":0,"data":' + inside.before, inside.unit, inside.after + b"}")
    found = await answer_to(attack, body, request_body)
    attack.check(found.status == 200 and found.size_bytes > SIZE_BYTES - MIB, found)


# vectors


def vectors(value: bytes, count: int, after: bytes = b"", unit: bytes = b"", size_bytes: int = 0) -> Body:
    """A reply with `count` vectors `value`, and `after` with `%s` replaced by `unit` up to `size_bytes`."""
    entries = b",".join(b'{"index":%d,"embedding":%b}' % (number, value) for number in range(count))
    before, _, behind = after.partition(b"%s")
    usage = b'"usage":{"prompt_tokens":1,"total_tokens":1}'
    return Body(b'{"data":[%b],%b%b' % (entries, usage, before), unit or b" ", behind + b"}", size_bytes)


FLOATS = b"[%b]" % b",".join([b"-0.0123456789012"] * 1536)
BASE64 = b'"%b"' % b64encode(struct.pack("<f", -0.0123) * 1536)
OTHERS = {
    "brackets": vectors(b"[1]", 2, b',"x":[%s1]', b"[],", 7 * MIB),
    "depth": vectors(b"[1]", 2, b',"x":%s1', b"[", 7 * MIB),
    "brackets in a text": vectors(b"[1]", 2, b',"x":"%s"', b"[1,2]", 30 * MIB),
    "escapes": vectors(b"[1]", 2, b',"x":"%s"', b"\\n", 60 * MIB),
    "blanks": vectors(b"[1]", 2, b"%s", b" ", 60 * MIB),
    "blanks between members": vectors(b"[1]", 2, b"%s", b" " * 60_000 + b',"x":1', 60 * MIB),
    "NaN": vectors(b"[1]", 2, b',"x":[%sNaN]', b"0.123456,", 30 * MIB),
}


@pytest.mark.attack("replies: limits, vectors")
@pytest.mark.parametrize("name", OTHERS)
async def test_vectors_with_large_other_values_do_not_stop_the_loop(attack: Attack, name: str) -> None:
    found = await answer_to(attack, OTHERS[name], {"model": "m", "input": ["a", "a"]}, "/v1/embeddings")
    attack.check(found.status == 502, found)


@pytest.mark.attack("replies: limits, vectors")
@pytest.mark.parametrize(
    ("value", "encoding", "path"),
    [
        (FLOATS, "float", "/for/ragflow/v1/embeddings"),
        (FLOATS, "base64", "/v1/embeddings"),
        (BASE64, "float", "/for/ragflow/v1/embeddings"),
        (BASE64, "base64", "/v1/embeddings"),
    ],
)
async def test_many_vectors_are_relayed_and_converted(attack: Attack, value: bytes, encoding: str, path: str) -> None:
    count = 1500
    request = {"model": "m", "input": ["a"] * count, "encoding_format": encoding}
    found = await answer_to(attack, vectors(value, count), request, path)
    attack.check(found.status == 200 and found.size_bytes > count * 1000, found)


@pytest.mark.attack("replies: limits, vectors")
async def test_converted_vectors_above_the_limit_of_a_reply_are_refused(attack: Attack) -> None:
    request = {"model": "m", "input": ["a"] * 2048}
    long = b'"%b"' % b64encode(struct.pack("<f", -0.0123) * 3072)
    await check_refused(attack, vectors(long, 2048), request, b"limits.reply_bytes", "/v1/embeddings")


@pytest.mark.attack("replies: limits, rankings")
@pytest.mark.parametrize(
    "body",
    [
        Body(b'{"results":[{"index":0,"relevance_score":1,"document":{"text":"', b"\\n", b'"}}]}', 60 * MIB),
        Body(b'{"results":[', b'{"index":0},', b'{"index":1}]}', 3 * MIB),
        Body(b'{"results":[{"index":0', b',"x":1', b"}]}", 3 * MIB),
    ],
    ids=["a text", "objects", "members"],
)
async def test_a_ranking_that_is_too_large_is_refused(attack: Attack, body: Body) -> None:
    await check_refused(attack, body, RANK, b"Request no documents", "/v1/rerank")


@pytest.mark.attack("replies: limits, vectors")
@pytest.mark.parametrize(
    "body",
    [
        Body(b'{"data":[', b"{},", b"{}]}", 3 * MIB),
        Body(b'{"data":[{"index":0,"embedding":[', b"0.5,", b"1]}]}", 12 * MIB),
    ],
    ids=["many", "long"],
)
async def test_many_entries_and_a_long_vector_are_refused(attack: Attack, body: Body) -> None:
    await check_refused(attack, body, {"model": "m", "input": ["a"]}, b"upstream_invalid", "/v1/embeddings")


@pytest.mark.attack("replies: limits, lists of models")
@pytest.mark.parametrize("unit", [b'{"id":"a"},', b"[],", b'{"a":1,"a":1},'])
async def test_a_list_of_models_with_many_values_is_refused(attack: Attack, unit: bytes) -> None:
    body = Body(b'{"data":[', unit, b"{}]}", 3 * MIB)
    await check_refused(attack, body, None, b"more than 100000 values", "/v1/models")


@pytest.mark.attack("replies: limits, lists of models")
@pytest.mark.parametrize(
    "body",
    [
        Body(b'{"data":[', b'{"id":"a"},', b'{"id":"b"}]}', MIB // 2),
        Body(b'{"data":[{"id":"b","a":[', b"[],", b"[]]}]}", MIB // 8),
        Body(b'{"data":[{"id":"b","a":"', b"\\n", b'"}]}', 3 * MIB),
        Body(b'{"data":[' + b",".join(b'{"id":"a%d"}' % number for number in range(5_000)), b" ", b"]}", 0),
    ],
    ids=["many models", "many lists", "a text", "different models"],
)
async def test_the_largest_lists_of_models_are_read_in_time(attack: Attack, body: Body) -> None:
    found = await answer_to(attack, body, None, "/v1/models")
    attack.check(found.status == 200, found)


def custom(unit: bytes, size_bytes: int, units: int) -> Body:
    """A call of a custom tool over chats, whose input is `unit` again and again."""
    one = b'data: {"id":"a","choices":[{"index":0,"delta":{%b},"finish_reason":%b}]}\n\n'
    before, piece, after = (
        one % (call(b'"%b"' % text), b"null") for text in (b'{\\"input\\":\\"', unit * units, b'\\"}')
    )
    end = one % (b"", b'"tool_calls"') + b"data: [DONE]\n\n"
    return Body(before, piece, after + end, size_bytes, "text/event-stream")


@pytest.mark.attack("replies: limits, input of a custom tool")
@pytest.mark.parametrize("unit", [b"\\\\n", b"words ", b"\\\\u00e9", b'\\\\\\"', "\u4e2d".encode()])
@pytest.mark.parametrize(("size_bytes", "units"), [(SIZE_BYTES, 250), (3 * MIB, 250), (SIZE_BYTES, 140_000)])
async def test_no_input_of_a_custom_tool_is_read_in_one_turn(
    attack: Attack, unit: bytes, size_bytes: int, units: int
) -> None:
    request = {"model": "m", "input": "hi", "tools": [{"type": "custom", "name": "f"}], "stream": True}
    with upstream(custom(unit, size_bytes, units)) as url:
        settings = {"base_url": f"{url}/v1", "protocols": ["chat"]}
        async with gateway(upstreams={"chat": settings}) as served, attack.on_this_loop():
            found = await asyncio.to_thread(fetch, served.port, "/v1/responses", request)
    is_read = b'"total_tokens"' in found.last and found.size_bytes > size_bytes
    attack.check(is_read if size_bytes < SIZE_BYTES else b"more than 4 MiB of arguments" in found.last, found)


NAMED = Body(b'{"data":[' + b",".join(b'{"id":"model-%d-x"}' % number for number in range(5_000)), b" ", b"]}", 0)
GLOBS = [f"m*l-*{number}*y" for number in range(30)]


@pytest.mark.attack("replies: limits, lists of models")
@pytest.mark.parametrize("path", ["/v1/models", "/ui/api/models"])
async def test_no_list_of_models_is_matched_with_many_patterns_in_one_turn(attack: Attack, path: str) -> None:
    key = "gp-limited-0123456789abcdef"
    keys = [{"name": "limited", "hash": hash_key(key), "models": [*GLOBS, "*-x"]}] if path == "/v1/models" else []
    with upstream(NAMED) as url:
        blocks: dict[str, Any] = {
            "upstreams": {"chat": {"base_url": f"{url}/v1"}},
            "models": {name: {"upstream": "chat", "capabilities": {"vision": True}} for name in (*GLOBS, "*")},
            "access": {"keys": keys},
            "server": {"ui": True, "drain_timeout_s": 0},
        }
        async with gateway(**blocks) as served, attack.on_this_loop():
            bearer = {"authorization": f"Bearer {key}"}
            found = await asyncio.to_thread(fetch, served.port, path, None, bearer if keys else {})
    attack.check(found.status == 200 and found.size_bytes > 5_000 * 30, found)


@pytest.mark.attack("replies: limits, members of an event")
async def test_an_event_with_many_members_is_refused(attack: Attack) -> None:
    await check_refused(
        attack, event(b'%b,"x":"%%s"' % MEMBERS, size_bytes=0), STREAM, b"choices, tool calls and members"
    )
