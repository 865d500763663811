import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.json_body import BOM
from gatepass.sse import event_stream as stream_module
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import EnvelopeDefaults, StreamSource
from gatepass.sse.event import LARGE_EVENT_BYTES, read_json
from gatepass.sse.event_stream import EventStream
from gatepass.sse.fast_path import FastPath
from gatepass.sse.progress import Progress
from gatepass.sse.repair import StreamRepair
from tests.unit.sse.documents import origin
from tests.unit.sse.streams import (
    DONE,
    REALISTIC,
    chunk,
    client_reads,
    code,
    data,
    new_stream,
    pieces,
    read_error,
    state,
    text,
    with_line_ends,
)


def relayed(*given_pieces):
    stream = new_stream()
    return b"".join(stream.feed(piece) for piece in given_pieces), stream


# --- bytes ----------------------------------------------------------------------------------------


def test_a_large_event_that_is_small_without_its_mark_passes_once():
    stream, got = EventStream(StreamSource("chat", 2 * LARGE_EVENT_BYTES, read_error)), b""
    events = [BOM + text("a" * (LARGE_EVENT_BYTES - len(text("")))), text("b"), text("c" * LARGE_EVENT_BYTES, x=1)]
    for event in events:
        got += stream.feed(event)
        while stream.waiting:
            got += stream.feed()
    assert got == b"".join(events).removeprefix(BOM)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_each_event_is_returned_with_its_last_byte(end):
    stream = new_stream()
    for event in (with_line_ends(event, end) for event in REALISTIC):
        *early, last = [stream.feed(piece) for piece in pieces(event, 1)]
        assert early == [b""] * len(early)
        assert last == event


def watched(monkeypatch) -> list[bytes]:
    """Return the list of texts that are parsed from now on."""
    parsed: list[bytes] = []

    def noted(text_value):
        parsed.append(text_value)
        return read_json(text_value)

    monkeypatch.setattr(stream_module, "read_json", noted)
    return parsed


def test_correct_stream_is_parsed_only_if_more_than_the_text_differs(monkeypatch):
    parsed = watched(monkeypatch)
    role, words, end = REALISTIC[0], [text(f" word {number}") for number in range(500)], data(chunk({}, finish="stop"))
    out, stream = relayed(role, *words[:100], b"".join(words[100:]), end, DONE)
    assert out == b"".join((role, *words, end, DONE))
    assert stream.events == 502
    assert [read_json(text_value)["choices"][0]["delta"] for text_value in parsed] == [
        {"role": "assistant", "content": ""},
        {"content": " word 0"},
        {},
    ]


def test_a_correct_call_is_parsed_only_where_it_begins_and_ends(monkeypatch):
    parsed = watched(monkeypatch)
    defaults = EnvelopeDefaults(lambda prefix: prefix, 7, "m")
    opened = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    pieces = ['{"path": "', *(f"größer\\\\ {number}" for number in range(500)), '\\"x"}']
    calls = [data(chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})) for piece in pieces]
    for end, done in ((calls[-1:], True), ([], False)):
        del parsed[:]
        stream = new_stream(repair=StreamRepair(RepairOptions(), defaults))
        events = [REALISTIC[0], data(chunk({"tool_calls": [opened]})), *calls[:-1], *end, data(chunk({}, "stop")), DONE]
        stream.feed(b"".join(events[:3]))
        for event in events[3:100]:
            assert stream.feed(event) is event
        stream.feed(b"".join(events[100:-2]))
        stream.feed(b"".join(events[-2:]))
        assert len(parsed) == 4
        assert (stream.done, code(stream)) == (done, None if done else "upstream_closed")


def a_tool_call(index: int, pieces: int) -> list[bytes]:
    opened = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": "f", "arguments": ""}}
    piece = data(chunk({"tool_calls": [{"index": index, "function": {"arguments": "1"}}]}))
    return [data(chunk({"tool_calls": [opened]})), *[piece] * pieces]


def test_usage_is_kept_where_a_text_follows_it_after_a_call():
    stream = new_stream(repair=StreamRepair(RepairOptions(True), origin()), wants_usage=True)
    usage = data(chunk(None, usage={"prompt_tokens": 3, "completion_tokens": 44, "total_tokens": 47}))
    ends = [data(chunk({}, "tool_calls")), usage, text("late"), DONE]
    events = [REALISTIC[0], text("a"), text("b"), *a_tool_call(0, 2), *ends]
    assert b"".join(map(stream.feed, events)) == b"".join(events)
    assert stream.usage is not None
    assert stream.usage.completion_tokens == 44
    assert (stream.done, stream.awaits_usage) == (True, False)


@pytest.mark.parametrize("at_once", [1, 2, 7, 40])
def test_texts_between_the_arguments_of_a_call_pass_unparsed_and_so_do_the_arguments(monkeypatch, at_once):
    parsed = watched(monkeypatch)
    stream = new_stream(repair=StreamRepair(RepairOptions(), origin()))
    opened, *pieces = a_tool_call(0, 100)
    mixed = [event for piece in pieces for event in (piece, text(" a"))]
    events = [REALISTIC[0], text("a"), text("b"), opened, *mixed, data(chunk({}, "tool_calls")), DONE]
    runs = [b"".join(events[at : at + at_once]) for at in range(0, len(events), at_once)]
    assert b"".join(map(stream.feed, runs)) == b"".join(events)
    assert len(parsed) == 5
    assert (stream.done, stream.events) == (True, len(events) - 1)


def test_members_without_a_choice_come_with_the_next_text():
    stream = new_stream(repair=StreamRepair(RepairOptions(), origin()))
    results = data({**chunk(None), "prompt_filter_results": [1]})
    events = [REALISTIC[0], text("a"), text("b"), results, text("c"), text("d")]
    got = [stream.feed(event) for event in events]
    assert [b"prompt_filter_results" in one for one in got] == [False] * 4 + [True, False]


@pytest.mark.parametrize("between", [6 * [0, 1], range(12)], ids=["alternating", "one event each"])
def test_texts_pass_unparsed_after_calls_whose_arguments_do_not(monkeypatch, between):
    parsed = watched(monkeypatch)
    stream = new_stream(repair=StreamRepair(RepairOptions(), origin()))
    calls = {index: a_tool_call(index, 1) for index in between}
    opened, pieces = [first for first, _ in calls.values()], [calls[index][1] for index in between]
    words = [text(f"{number}") for number in range(500)]
    events = [REALISTIC[0], text("a"), text("b"), *opened, *pieces, *words]
    assert b"".join(map(stream.feed, events)) == b"".join(events)
    assert len(parsed) <= 2 + len(opened) + len(pieces) + 1


# --- the two ways through --------------------------------------------------------------------------


class Blind(FastPath):
    def count_matching(self, run):
        return 0


def with_repair(*, repairs: bool):
    return new_stream(repair=StreamRepair(RepairOptions(True), origin()) if repairs else None)


def without_fast_path(*, repairs: bool = False):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "fast_path", Blind)
        return with_repair(repairs=repairs)


CONTENT = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ['"finish_reason":"stop"', "\\", '\\"', "\n\ndata: [DONE]\n\n", '"}],"usage":{', "error", "choices", "\ud83d"]
    ),
)
DELTA = st.one_of(
    st.builds(lambda text_value: {"content": text_value}, CONTENT),
    st.builds(lambda text_value: {"role": "assistant", "content": text_value}, CONTENT),
    st.builds(lambda text_value: {"content": None, "reasoning_content": text_value}, CONTENT),
    st.builds(lambda text_value: {"tool_calls": [{"index": 1, "function": {"arguments": text_value}}]}, CONTENT),
    st.just({}),
    st.none(),
)
EVENT = st.one_of(
    st.builds(
        lambda text_value, spaced, gap, end: b"data:" + gap + json.dumps(text_value, separators=spaced).encode() + end,
        st.one_of(
            st.builds(
                lambda delta, finish, index, more: {**chunk(delta, finish, index), **more},
                DELTA,
                st.sampled_from([None, None, None, "", "stop"]),
                st.sampled_from([0, 0, 0, 1]),
                st.sampled_from(
                    [
                        {},
                        {},
                        {},
                        {"usage": None},
                        {"usage": {"total_tokens": 5}},
                        {"error": None},
                        {"error": {"message": "boom", "type": None}},
                        {"obfuscation": "xY"},
                        {"created": 1},
                    ]
                ),
            ),
            st.sampled_from([{}, {"type": "ping"}, 5, [], {"error": "text"}, {"choices": "odd"}, {"choices": [5]}]),
        ),
        st.sampled_from([None, (",", ":")]),
        st.sampled_from([b"", b" "]),
        st.sampled_from([b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\r"]),
    ),
    st.sampled_from(REALISTIC[:-1]),
    st.sampled_from([text(" a"), text(" b"), text(" c"), text(" a") * 3]),
    st.sampled_from([*a_tool_call(0, 1), *a_tool_call(1, 1), (a_tool_call(0, 1)[1] + text(" a")) * 3]),
    st.sampled_from(
        [b": ping\n\n", b"id: 5\n" + text("x"), b"\n", b"data:\n\n", b"event: e\n\n", b"data: {\n\n", DONE]
    ),
)


@given(st.lists(EVENT, max_size=25), st.lists(st.integers(1, 900), min_size=1, max_size=9), st.booleans())
def test_recognised_and_parsed_events_give_the_same_bytes_and_the_same_state(events, sizes, repairs):
    """But for the usage, which texts that pass unparsed after it do not end."""
    quick, thorough = with_repair(repairs=repairs), without_fast_path(repairs=repairs)

    def but_usage(stream):
        return {**state(stream), "usage": None}

    whole, at = b"".join(events), 0
    for size_bytes in sizes * (len(whole) // sum(sizes) + 1):
        piece = whole[at : at + size_bytes]
        at += size_bytes
        assert quick.feed(piece) == thorough.feed(piece)
        assert but_usage(quick) == but_usage(thorough)
    assert quick.finish() == thorough.finish()
    assert but_usage(quick) == but_usage(thorough)


@given(st.lists(EVENT, max_size=25), st.lists(st.integers(1, 900), min_size=1, max_size=9))
def test_events_of_one_line_are_validated_as_all_events_are(events, sizes):
    quick, thorough = new_stream(), new_stream()
    whole, at = b"".join(events), 0
    with pytest.MonkeyPatch.context() as patch:
        for size_bytes in sizes * (len(whole) // sum(sizes) + 1):
            piece = whole[at : at + size_bytes]
            at += size_bytes
            patch.undo()
            out = quick.feed(piece)
            patch.setattr(stream_module, "single_line_data", lambda _: None)
            assert out == thorough.feed(piece)
            assert state(quick) == state(thorough)


def test_single_events_share_the_lines_of_an_iteration():
    stream = without_fast_path()
    event = text("hello")
    assert {stream.feed(event) for _ in range(stream_module.TURN_LINES // 2)} == {event}
    assert stream.feed(event) == b""
    assert stream.waiting == event
    assert stream.feed(event) == event + event  # the event loop has run


# --- changes --------------------------------------------------------------------------------------

HELLO, YOU, END = text("Hello"), text("you"), data(chunk({}, finish="stop"))


@pytest.mark.parametrize(
    ("sent", "expected", "adapted"),
    [
        ([HELLO, b"data:\n\n", b"data: \n\n", YOU], [HELLO, YOU], ("sse=empty-data",)),
        ([HELLO, b"data: : ping\n\n", b"data::\n\n", YOU], [HELLO, YOU], ("sse=empty-data",)),
        ([HELLO, b"event: ping\ndata:\n\n", YOU], [HELLO, YOU], ("sse=empty-data",)),
        ([HELLO, b": hi\ndata:\n\n", YOU], [HELLO, b": hi\n", YOU], ("sse=empty-data",)),
        ([HELLO, b"event: ping\n\n", YOU], [HELLO, YOU], ("sse=empty-data",)),
        ([HELLO, b"id: 5\n\n", b": ping\n\n", YOU], [HELLO, b": ping\n\n", YOU], ("sse=empty-data",)),
        ([HELLO, b"id: 5\ndata:\n\n", b": ping\n\n", YOU], [HELLO, b": ping\n\n", YOU], ("sse=empty-data",)),
        ([b"retry: 3000\n\n", HELLO], [HELLO], ("sse=empty-data",)),
        ([b": hi\nretry: 3000\n\n", HELLO], [b": hi\n", HELLO], ("sse=id-comments",)),
        ([b"retry: soon\n\nvendor: x\n\n\n", HELLO], [b"retry: soon\n\n\n", HELLO], ("sse=lines",)),
        ([b": ping\n\n", HELLO, b": ping\r\n\r\n", YOU], [b": ping\n\n", HELLO, b": ping\r\n\r\n", YOU], ()),
        ([b"id: 1\n" + HELLO, b"id: 2\n" + YOU], [b"id: 1\n" + HELLO, b"id: 2\n" + YOU], ()),
        ([b"id:\n" + HELLO, b": ping\n\n", YOU], [b"id:\n" + HELLO, b": ping\n\n", YOU], ()),
        (
            [b": early\n\n", b"id: 1\n" + HELLO, b": ping\n\n", b": a\n: b\r\n\r\n", YOU],
            [b": early\n\n", b"id: 1\n" + HELLO, b": ping\n", b": a\n: b\r\n", YOU],
            ("sse=id-comments",),
        ),
        (
            [b"id: 1\n" + HELLO, b"\n", b"vendor: x\n\n", YOU],
            [b"id: 1\n" + HELLO, YOU],
            ("sse=empty-data", "sse=lines"),
        ),
        (
            [b"id: 1\n" + HELLO, b": ping\n\n", b"data:\n\n", YOU],
            [b"id: 1\n" + HELLO, b": ping\n", YOU],
            ("sse=id-comments", "sse=empty-data"),
        ),
        ([b"\xef\xbb\xbf" + HELLO, YOU], [HELLO, YOU], ("sse=bom",)),
    ],
)
def test_events_that_break_clients_are_removed_and_others_kept(sent, expected, adapted):
    whole = b"".join(sent) + END + DONE
    for size_bytes in (1, 5, len(whole)):
        out, stream = relayed(*pieces(whole, size_bytes))
        assert (out, stream.adapted) == (b"".join(expected) + END + DONE, adapted)
        assert "" not in client_reads(out)
        assert stream.done


@pytest.mark.parametrize(
    "ping",
    [{}, {"type": "ping"}, {"usage": {"total_tokens": 3}}, 5, None, "beat", {"choices": None}, chunk(None, x=[1])],
)
def test_json_without_choices_is_relayed_and_not_an_answer(ping):
    out, stream = relayed(data(ping))
    assert (out, stream.has_answered, stream.failure) == (data(ping), False, None)


@pytest.mark.parametrize(
    ("done", "sent"),
    [
        (b"data: [DONE]\n\n", b"data: [DONE]\n\n"),
        (b"data:[DONE]\r\n\r\n", b"data:[DONE]\r\n\r\n"),
        (b"event: done\ndata: [DONE] \n\n", b"event: done\ndata: [DONE] \n\n"),
        (b"event: done\ndata:  [DONE] \n\n", b"data: [DONE]\n\n"),  # openai-python would parse it as JSON
    ],
)
def test_nothing_follows_done(done, sent):
    out, stream = relayed(HELLO, done + YOU, YOU, b"garbage")
    assert out == HELLO + sent
    assert stream.done
    assert (stream.finish(), stream.failure) == (b"", None)


# --- errors in the stream -------------------------------------------------------------------------

OWN_ERROR = data({"error": {"message": "tokens ran out", "type": "t", "param": None, "code": "c"}})


@pytest.mark.parametrize("error", [OWN_ERROR, b"event: error\n" + OWN_ERROR])
def test_error_of_the_upstreams_own_ends_the_stream_and_is_left_to_the_caller_to_report(error):
    out, stream = relayed(HELLO + error + YOU, YOU, DONE)
    assert out == HELLO
    assert (stream.done, stream.events) == (False, 1)
    failure = stream.failure
    assert (failure.message, failure.kind, failure.public_code, failure.http_status) == (
        "tokens ran out",
        "t",
        "c",
        502,
    )
    assert (stream.finish(), stream.failure) == (b"", failure)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (data({"code": 102, "message": "You don't own the chat"}), "You don't own the chat"),
        (data([{"error": {"message": "in a list"}}]), "in a list"),
        (data({"error": {"message": "holds tok-secret"}}), "holds •••"),
        (data(chunk({"content": ""}, "error", error={"message": "beside choices"})), "beside choices"),
        (data({**chunk({"content": ""}), "object": "error", "message": "with choices"}), "with choices"),
        (b"event: error\n" + data({"message": "by name"}), "by name"),
        (b"event: error\ndata: a plain tok-secret\n\n", "a plain •••"),
        (b"data: error: engine is out of tok-secret\n\n", "error: engine is out of •••"),
        (b"event: error\n" + data(["odd"]), "The upstream sent an error event without a message."),
    ],
)
def test_error_in_a_foreign_shape_is_left_to_the_caller_to_report(event, message):
    out, stream = relayed(HELLO + event + YOU)
    assert out == HELLO
    assert (code(stream), str(stream.failure)) == ("upstream_error", message)
    assert stream.finish() == b""


# --- events without blank lines ---------------------------------------------------------------------------

CHUNKS = REALISTIC[:-1]
NAMED = [b"event: x\n" + one for one in CHUNKS]
ADDED = "sse=joined"


def with_one_line_end(events: list[bytes], line_end: bytes = b"\n") -> bytes:
    return b"".join(event.removesuffix(b"\n").replace(b"\n", line_end) for event in events)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("events", [CHUNKS, NAMED, [b"id: 7\n" + one for one in NAMED]], ids=["data", "event", "id"])
@pytest.mark.parametrize("last", [b"data: [DONE]\n\n", b"data: [DONE]\n", b"data: [DONE]"])
def test_events_with_one_line_end_between_them_get_their_blank_lines(events, last, line_end):
    body = with_one_line_end(events, line_end) + last
    for size in (1, 7, 100, 1_000, len(body)):
        got, stream = relayed(*(body[at : at + size] for at in range(0, len(body), size)))
        got += stream.finish()
        assert (stream.done, stream.failure, stream.adapted[0]) == (True, None, ADDED)
        assert [one for one in client_reads(got) if one] == client_reads(b"".join([*events, DONE]))


def test_an_event_with_one_line_end_arrives_with_that_line_end():
    stream = new_stream()
    lines = [event.removesuffix(b"\n") for event in CHUNKS]
    assert stream.feed(lines[0]) == b""  # an event may have more lines
    assert stream.feed(lines[1]) == CHUNKS[0] + CHUNKS[1]
    assert [stream.feed(line) for line in lines[2:]] == CHUNKS[2:]


def test_a_joined_stream_that_is_cut_is_an_error_after_its_events():
    got, stream = relayed(with_one_line_end(CHUNKS[:5]) + b'data: {"cho')
    assert (got, stream.finish()) == (b"".join(CHUNKS[:5]), b"")
    assert code(stream) == "upstream_closed"


def pretty(event: bytes) -> bytes:
    return b"data: " + json.dumps(json.loads(event[6:]), indent=1).encode().replace(b"\n", b"\ndata: ") + b"\n"


@pytest.mark.parametrize(
    "body",
    [
        b"".join(map(pretty, CHUNKS)) + b"data: [DONE]\n",
        with_one_line_end(CHUNKS[:4]) + b"".join(pretty(one) + b"\n" for one in CHUNKS[4:]) + DONE,
        with_one_line_end(CHUNKS).replace(b"}\n", b"}\n: ping\n") + DONE,
        with_one_line_end(CHUNKS).replace(b"}\n", b"}\nretry: 5\n") + DONE,
        with_one_line_end(CHUNKS).replace(b"}\n", b"} \n") + b"data: [DONE]\n",
        BOM + with_one_line_end(CHUNKS) + DONE,
        with_one_line_end(CHUNKS) + b"data: done\n",
    ],
    ids=["pretty", "first without, then with", "comments", "retry", "blanks", "mark", "done"],
)
@pytest.mark.parametrize("size", [1, 50, 100_000])
def test_other_streams_without_blank_lines(body, size):
    got, stream = relayed(*(body[at : at + size] for at in range(0, len(body), size)))
    got += stream.finish()
    assert (stream.done, stream.failure, ADDED in stream.adapted) == (True, None, True)
    read = [one for one in client_reads(got) if one]
    assert read.pop() == "[DONE]"
    assert [json.loads(one) for one in read] == [json.loads(one[6:]) for one in CHUNKS]


PRETTY = b"data: " + json.dumps(chunk({"content": "a", "list": [{"b": 1}, {"c": {}}]}), indent=1).encode()


@pytest.mark.parametrize(
    "event",
    [
        PRETTY.replace(b"\n", b"\ndata: ") + b"\n\n",
        text("a").replace(b"\n\n", b"\nid: 1\n\n"),
        b"id: {a}\n" + text("a"),
        b"event: [x]\n" + text("a"),
        b": {}\n" + text("a"),
        text("a").replace(b"\n\n", b"\ndata: \n\n"),
        text("}\ndata: {").replace(b"\n\n", b"\nevent: message\n\n"),
    ],
)
@pytest.mark.parametrize("size", [1, 9, 10_000])
def test_an_event_of_several_lines_stays_one_event(event, size):
    body = event + text("b") + event
    got, stream = relayed(*(body[at : at + size] for at in range(0, len(body), size)))
    assert (got, ADDED in stream.adapted, stream.failure) == (body, False, None)


@pytest.mark.parametrize("lines", [10_001, 900, 1_100])
def test_events_without_blank_lines_pass_in_pieces_and_are_too_large_for_one(lines):
    pad = "x" * (10 if lines > 2_000 else 2_000)
    stream = stream_module.EventStream(StreamSource("chat", 64 << 20, read_error))
    joined = text(pad).replace(b"\n\n", b"\n") * lines
    stream.feed(joined + b"\n")
    stream.finish()
    assert code(stream) == "upstream_invalid"
    stream = stream_module.EventStream(StreamSource("chat", 64 << 20, read_error))
    got = b"".join(stream.feed(joined[at : at + 65_536]) for at in range(0, len(joined), 65_536))
    assert got + stream.finish() == text(pad) * lines


def test_one_value_on_several_lines_is_one_event():
    lines = json.dumps(chunk({"content": "a"}), indent=1).encode().splitlines()
    block = b"".join(b"data: %b\n" % line for line in lines) + b"\n"
    stream = new_stream()
    assert stream.feed(block) == block
    assert stream.adapted == ()
