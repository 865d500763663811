"""Tests of what a key may use of an MCP server, and of filtered replies and streams."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.config.access import AccessKey, McpLists
from gatepass.errors import UpstreamInvalid
from gatepass.mcp.access import (
    ALL,
    MOST_BYTES,
    MOST_EVENT_BYTES,
    MOST_VALUES,
    TURN_BYTES,
    TURN_LINES,
    FilteredEvents,
    McpAllowed,
    allowed_of,
    filter_reply,
    refusal_of,
)

LISTS = McpAllowed(tools=("find", "read_*"), prompts=(), resources=("file:///docs/*",))


def key(**settings: Any) -> AccessKey:
    return AccessKey.model_construct(name="a", **settings)


@pytest.mark.parametrize(
    ("caller", "allowed"),
    [
        (key(), ALL),
        (key(models=["m"]), None),
        (key(operations=["chat"]), None),
        (key(role="viewer"), None),
        (key(role="viewer", mcp={"wiki": McpLists()}), None),
        (key(role="admin"), ALL),
        (key(models=["m"], mcp={"wiki": McpLists()}), ALL),
        (key(mcp={}), None),
        (key(mcp={"wiki": McpLists()}), ALL),
        (key(mcp={"wiki": McpLists(tools=["find"])}), McpAllowed(("find",), (), ())),
        (key(mcp={"other": McpLists()}), None),
    ],
)
def test_servers_of_a_key(caller: AccessKey, allowed: McpAllowed | None) -> None:
    assert allowed_of(caller, "wiki") == allowed


@pytest.mark.parametrize(
    ("caller", "reason"),
    [
        (key(models=["m"]), "it has `models` and no `mcp`"),
        (key(models=["m"], operations=["chat"]), "it has `models` and `operations` and no `mcp`"),
        (key(role="viewer", mcp={"wiki": McpLists()}), "its role is viewer"),
        (key(mcp={"other": McpLists()}), "its `mcp` does not list it"),
    ],
)
def test_a_refusal_states_its_reason(caller: AccessKey, reason: str) -> None:
    assert refusal_of(caller) == f"because {reason}"


def reply(**result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "result": result}


TOOLS = [{"name": "find", "inputSchema": {"type": "object"}}, {"name": "drop"}, {"name": "read_a"}]
SHOWN = [TOOLS[0], TOOLS[2]]


@pytest.mark.parametrize(
    ("given_reply", "shown"),
    [
        (reply(tools=TOOLS, nextCursor="2"), reply(tools=SHOWN, nextCursor="2")),
        (reply(prompts=[{"name": "find"}]), reply(prompts=[])),
        (
            reply(resources=[{"uri": "file:///docs/a"}, {"uri": "file:///docs/../b"}]),
            reply(resources=[{"uri": "file:///docs/a"}]),
        ),
        (
            reply(resourceTemplates=[{"uriTemplate": "file:///docs/{p}"}, {"uriTemplate": "file:///{p}"}]),
            reply(resourceTemplates=[{"uriTemplate": "file:///docs/{p}"}]),
        ),
        (reply(Tools=TOOLS), reply(Tools=SHOWN)),
        (reply(tools={"drop": {}}), reply(tools=[])),
        (reply(tools=[7, {"title": "x"}, {"name": None}, {"name": "find", "Name": "drop"}]), reply(tools=[])),
        (reply(tools=[dict.fromkeys(["name", "Name", "nAme", "naMe", "namE"], "find")]), reply(tools=[])),
        (
            reply(tools=SHOWN, resultType="complete", ttlMs=5, cacheScope="public"),
            reply(tools=SHOWN, resultType="complete", ttlMs=5, cacheScope="private"),
        ),
        (reply(tools=TOOLS, resultType="complete"), reply(tools=SHOWN, resultType="complete", cacheScope="private")),
    ],
)
def test_lists_show_what_is_allowed(given_reply: Any, shown: Any) -> None:
    assert json.loads(filter_reply(json.dumps(given_reply).encode(), LISTS, "wiki")) == shown


@pytest.mark.parametrize(
    "text",
    [
        b'{"jsonrpc": "2.0", "id":1, "result" : {"tools":[ {"name":"find"} ]}}',
        b'{"id":1,"result":{"content":[{"type":"text","text":"tools"}],"structuredContent":{"tools":["drop"]}}}',
        b'{"id":1,"error":{"code":-1,"message":"m","data":{"tools":[1]}}}',
        b'{"method":"notifications/progress","params":{"progress":1e0}}',
        b'{"id":1,"result":null}',
    ],
)
def test_other_replies_stay_the_same_bytes(text: bytes) -> None:
    assert filter_reply(text, LISTS, "wiki") is text


def test_kinds_without_a_limit_stay_the_same_bytes() -> None:
    text = json.dumps(reply(prompts=[{"name": "x"}], cacheScope="public")).encode()
    assert filter_reply(text, McpAllowed(tools=("find",)), "wiki") is text


def test_bytes_of_an_allowed_entry_are_kept() -> None:
    text = b'{"id":1,"result":{"tools":[{"name":"drop"},{ "name":"find", "n":1.50e1,"t":"\\u00e9" }]}}'
    kept = b'{"id":1,"result":{"tools":[{ "name":"find", "n":1.50e1,"t":"\\u00e9" }]}}'
    assert filter_reply(text, LISTS, "wiki") == kept


MANY = json.dumps({"id": 1, "result": {"tools": [{"name": "find"}] * 11_000}}).encode()


@pytest.mark.parametrize(
    "text",
    [b"", b"<html>", b'{"id":1,"result":{"x":NaN}}', b"[" * 100_000, b"[1]", b'[{"id":1,"result":{}}]', b"\xff", MANY],
)
def test_what_is_not_json_is_an_error_of_the_server(text: bytes) -> None:
    with pytest.raises(UpstreamInvalid) as raised:
        filter_reply(text, LISTS, "wiki")
    assert raised.value.hop == "upstream:wiki"


@pytest.mark.parametrize(
    "text",
    [
        b"[%b]" % b",".join([b"{}"] * (MOST_VALUES // 2)),
        b"{%b}" % b",".join([b'"a":1'] * (MOST_VALUES + 2)),
        b'{"result":{%b}}' % b",".join([b'"a":1'] * (MOST_VALUES + 2)),
        b'{"result":{"content":"%b"}}' % (b"x" * MOST_BYTES),
        json.dumps(reply(resources=[{"uri": "file:///docs/%s" % ("x" * 8000)}] * 100)).encode(),
        b'{"result":{"tools":[%b{}]},%b}'
        % (b'{"name":"read_%25%25%25"},' * 2500, b",".join([b'"result":{"prompts":[]}'] * 4000)),
    ],
    ids=["batch", "members", "members of the result", "bytes", "names", "names and results"],
)
def test_a_message_beyond_its_bounds_is_an_error_of_the_server(text: bytes) -> None:
    with pytest.raises(UpstreamInvalid):
        filter_reply(text, LISTS, "wiki")
    with pytest.raises(UpstreamInvalid):
        passed(FilteredEvents(LISTS, 2 * MOST_BYTES, "wiki"), b"data: %b\n\n" % text)


def test_a_large_image_stays_the_same_bytes() -> None:
    text = json.dumps(reply(content=[{"type": "image", "data": "abcd" * 2_700_000}])).encode()
    assert filter_reply(text, LISTS, "wiki") is text
    text = json.dumps(reply(content=[{"type": "image", "data": "abcd" * 1_000_000}])).encode()
    for end in (b"\n", b"\r\n"):
        run = b"event: message%bdata: %b%b%b" % (end, text, end, end)
        assert passed(FilteredEvents(LISTS, MOST_BYTES, "wiki"), run) == run


@pytest.mark.parametrize("size", [1000, 1_000_000, 9_000_000])
def test_an_event_above_the_limit_of_a_turn_is_refused(size: int) -> None:
    run = b"data: %b\n\n" % json.dumps(reply(content=["a" * MOST_EVENT_BYTES])).encode()
    with pytest.raises(UpstreamInvalid, match="larger than 4 MiB, or"):
        passed(FilteredEvents(LISTS, MOST_BYTES, "wiki"), *(run[at : at + size] for at in range(0, len(run), size)))


@pytest.mark.parametrize(
    "text",
    [
        b'{"id":1,"result":{"tools":[{"name":"drop","name":"find"}]}}',
        b'{"id":1,"result":{"tools":[{"name":"drop"}],"tools":[]}}',
        b'{"id":1,"result":{"tools":[{"name":"drop"}]},"result":{}}',
        b'{"id":1,"result":{"tools":[{"name":"find","\\u006eame":"drop"}]}}',
    ],
)
def test_a_member_that_appears_twice_hides_nothing(text: bytes) -> None:
    assert b"drop" not in filter_reply(text, LISTS, "wiki")


def test_a_cache_reads_no_other_scope_than_private() -> None:
    text = b'{"result":{"tools":[],"cacheScope":"public","cacheScope":"private"}}'
    assert filter_reply(text, LISTS, "wiki") == b'{"result":{"tools":[],"cacheScope":"private"}}'


def passed(events: FilteredEvents, *pieces: bytes) -> bytes:
    """Return what `events` passes, in as many turns as it needs."""
    runs = list[bytes]()
    for piece in pieces:
        runs.append(events.feed(piece))
        while events.waiting:
            runs.append(events.feed())
    return b"".join(runs)


def test_line_feeds_and_comments_pass_at_once() -> None:
    events, run = FilteredEvents(LISTS, 100_000, "wiki"), b"\n" * 4_000_000 + b": c\n\n" * 1000
    assert events.feed(run) == run


@pytest.mark.parametrize("event", [b"data:\n\n", b"data: {}\n\n", b'data: {"a":"%b"}\n\n' % (b"x" * 10_000)])
def test_events_pass_in_turns(event: bytes) -> None:
    events, run = FilteredEvents(LISTS, 100_000, "wiki"), event * 1000
    first = events.feed(run) or events.feed()  # a large run is only joined in its first turn
    assert 0 < len(first) <= TURN_BYTES
    assert first.count(b"\n") <= TURN_LINES
    assert events.unfinished_bytes == len(events.waiting) == len(run) - len(first)
    assert first + passed(events, b"") == run


FULL, LESS = json.dumps(reply(tools=TOOLS)).encode(), b'{"jsonrpc":"2.0","id":1,"result":{"tools":%b}}'
FILTERED = LESS % (b"[%b,%b]" % (json.dumps(SHOWN[0]).encode(), json.dumps(SHOWN[1]).encode()))
OTHER = b'event: message\r\nid: 7\r\ndata: {"jsonrpc": "2.0", "method":"notifications/message"}\r\n\r\n'
STREAMS = [
    (b"event: message\nid: 5\ndata: " + FULL + b"\n\n", b"event: message\nid: 5\ndata: " + FILTERED + b"\n\n"),
    (b"data:" + FULL + b"\r\nid: 6\r\n: c\r\n\r\n", b"data: " + FILTERED + b"\r\nid: 6\r\n: c\r\n\r\n"),
    (OTHER, OTHER),
    (b": keep-alive\n\n", b": keep-alive\n\n"),
    (b"id: 1\ndata: \nretry: 3\n\n", b"id: 1\ndata: \nretry: 3\n\n"),
    (b"event: endpoint\ndata: /messages?x=1\n\n", b"event: endpoint\ndata: /messages?x=1\n\n"),
    (
        b'data: {"id":1,\rdata: "result":{"tools":[{"name":"drop"},\rdata:{"name":\rdata:"find"}]}}\r\r',
        b'data: {"id":1,"result":{"tools":[{"name":\rdata: "find"}]}}\r\r',
    ),
    (b"\n\n", b"\n\n"),
]


@given(st.lists(st.sampled_from(STREAMS), max_size=4), st.lists(st.integers(0, 900), max_size=6))
def test_streams_are_filtered_wherever_they_are_cut(chosen: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    # a stream of one style of line ends, because a CR at its end waits for an LF
    text = b"".join(sent for sent, _ in chosen) + b": end\n\n"
    events = FilteredEvents(LISTS, 100_000, "wiki")
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = passed(events, *(text[start:end] for start, end in pairwise(edges)))
    assert shown == b"".join(kept for _, kept in chosen) + b": end\n\n"


def test_an_event_is_passed_with_its_last_byte() -> None:
    events = FilteredEvents(LISTS, 100_000, "wiki")
    assert events.feed(OTHER[:-1]) == b""
    assert events.feed(OTHER[-1:]) == OTHER


def test_a_large_event_is_filtered() -> None:
    tools = [*TOOLS, {"name": "read_large", "description": "d" * 2_000_000}]
    shown = reply(tools=[*SHOWN, tools[-1]])
    run = passed(
        FilteredEvents(LISTS, 4_000_000, "wiki"), b"data: " + json.dumps(reply(tools=tools)).encode() + b"\n\n"
    )
    assert json.loads(run.removeprefix(b"data: ")) == shown


@pytest.mark.parametrize(
    "text", [b"data: " + b"x" * 1001, b"data: " + b"x" * 1001 + b"\n\n", b"data: <html>\n\n", b"data: 1\n" * 100_000]
)
def test_unusable_events_end_the_stream(text: bytes) -> None:
    events = FilteredEvents(LISTS, 1000, "wiki")
    with pytest.raises(UpstreamInvalid):
        events.feed(text)


@pytest.mark.parametrize(
    "step",
    [
        ".\t./",
        "\t../",
        ".\n./",
        ".%09./",
        "..;/",
        "..%3b/",
        "..\x00",
        "%c0%ae%c0%ae/",
        "\uff0e\uff0e/",
        "%EF%BC%8E./",
        "..\uff0f",
    ],
)
def test_a_uri_that_a_server_may_read_as_another_one_matches_no_glob(step: str) -> None:
    uri = f"file:///docs/{step}secret.txt"
    assert not McpAllowed(resources=("file:///docs/*",)).allows("resources", uri)
    assert McpAllowed(resources=(uri,)).allows("resources", uri)


@pytest.mark.parametrize(
    "name",
    [
        "read_/../drop",
        "read_\x00drop",
        "read_\x1b[2J",
        "read_\u202eporp",
        "read_%00",
        "read_" + "x" * 8200,
        "read_" + "\ufdfa" * 9,
    ],
)
def test_a_name_that_is_not_what_it_looks_like_matches_no_glob(name: str) -> None:
    assert not McpAllowed(tools=("read_*",), prompts=("read_*",)).allows("tools", name)
    assert not McpAllowed(tools=("read_*",), prompts=("read_*",)).allows("prompts", name)
    assert McpAllowed(tools=(name,)).allows("tools", name)


@pytest.mark.parametrize("name", ["a b.txt", "my%20file", "v1..2", "...", "caf\u00e9", "\ufdfa", "\u6587\u4ef6" * 200])
def test_a_uri_with_dots_and_blanks_in_a_name_matches_a_glob(name: str) -> None:
    assert McpAllowed(resources=("file:///docs/*",)).allows("resources", f"file:///docs/{name}")


HIDDEN = 'data: {"result":{"tools":[{"name":"evil"}]}}'


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize(
    "text",
    [
        ": x@" + HIDDEN,
        "id: x@" + HIDDEN,
        "event: x@" + HIDDEN,
        "data: {}\n: x@@" + HIDDEN + "@@",
        'data: {"id":1,"error":{"message":"@@' + HIDDEN.replace('"', "'") + '@@"}}',
        "event: endpoint\ndata: /x@@" + HIDDEN,
    ],
)
def test_no_line_of_an_event_hides_a_message(text: str, end: str) -> None:
    run = text.replace("@", end).encode() + b"\n\n"
    shown = passed(FilteredEvents(LISTS, 100_000, "wiki"), run).decode()
    assert not any(line.startswith("data: {") and "evil" in line for line in shown.splitlines()[1:])
    assert shown.endswith("\n\n") or shown == "\n"


@pytest.mark.parametrize("line", [" " + HIDDEN, "\ufeff" + HIDDEN, "\x00" + HIDDEN, "x:" + HIDDEN, "id: \u6587"])
def test_a_line_that_some_clients_may_read_as_data_is_left_out(line: str) -> None:
    run = b"event: message\n%b\nid: 7\ndata: {}\n: c\n\n" % line.encode()
    assert passed(FilteredEvents(LISTS, 100_000, "wiki"), run) == b"event: message\nid: 7\ndata: {}\n: c\n\n"
    assert passed(FilteredEvents(LISTS, 100_000, "wiki"), b":\n%b\n: data\n\n" % line.encode()) == b":\n: data\n\n"


def test_a_text_with_other_line_ends_keeps_its_value() -> None:
    text = {"id": 1, "result": {"content": [{"text": "a\u2028b\u2029c\x85d\u6587"}]}}
    run = b"data: %b\n\n" % json.dumps(text, ensure_ascii=False).encode()
    shown = passed(FilteredEvents(LISTS, 100_000, "wiki"), run)
    assert json.loads(shown.removeprefix(b"data: ")) == text
    assert len(shown.decode().splitlines()) == 2


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_byte_order_mark_hides_no_event(size: int) -> None:
    data = json.dumps(reply(tools=[{"name": "find"}, {"name": "secret"}])).encode()
    run, events = b"\xef\xbb\xbfdata: " + data + b"\n\n", FilteredEvents(LISTS, 100_000, "wiki")
    passed = b"".join(events.feed(run[at : at + size]) for at in range(0, len(run), size))
    assert b"secret" not in passed
    assert passed.startswith(b"data: ")
