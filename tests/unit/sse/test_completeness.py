"""A tool call whose arguments are no JSON at its end never looks complete, whatever the upstream calls it."""

import itertools
import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.errors import UpstreamClosed
from gatepass.sse.aggregate import CompletionAggregator
from gatepass.sse.asked import Asked
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import AnswerFault, EnvelopeDefaults, StreamSource
from gatepass.sse.event_stream import EventStream
from gatepass.sse.fast_path import FastPath
from gatepass.sse.progress import Progress
from gatepass.sse.repair import StreamRepair
from gatepass.sse.whole_reply import read_good, repair_reply
from tests.unit.sse.peer import chunks_of
from tests.unit.sse.replies import chat, choice
from tests.unit.sse.streams import DONE, LIMIT_BYTES, chunk, code, data, looks_finished, new_stream, state, text

TOOLS = [
    {"type": "function", "function": {"name": "write", "parameters": {"properties": {"a": {}}, "required": ["a"]}}},
    {"type": "function", "function": {"name": "stop"}},
    {"type": "function", "function": {"name": "stop_all"}},
]
ASKED: dict[str, Any] = {"max_completion_tokens": 16, "tools": TOOLS}
AT_LIMIT, BELOW = ({"prompt_tokens": 3, "completion_tokens": made, "total_tokens": 19} for made in (16, 15))
CUT_TEXTS = ['{"path": "/tmp/x", "text": "abc', '{"a":1', "{", '{"a": tru', "[1,", '{"a":1}}', "ls -la"]
COMPLETE_TEXTS = ['{"a":1}', ' {"a": "\\ud83d"}\n', '{"a":NaN}', '{"a":"two\nlines"}', "null"]
Given = tuple[str, str, str, dict[str, Any] | None]
"""The name and the arguments of a call, the upstream's finish reason, and its usage."""
CUT: list[Given] = [
    *(("write", arguments, "tool_calls", BELOW) for arguments in CUT_TEXTS),
    *(("write", '{"a', reason, usage) for reason in ("stop", "tool_use", "eos") for usage in (None, BELOW)),
    ("write", "", "tool_calls", None),
]
LIMITED: list[Given] = [
    *(("write", '{"a', reason, AT_LIMIT) for reason in ("stop", "tool_calls")),
    *(("write", '{"a', reason, usage) for reason in ("length", "max_tokens") for usage in (None, BELOW)),
    ("write", "", "stop", AT_LIMIT),
]
COMPLETE: list[Given] = [
    *(("write", arguments, "tool_calls", AT_LIMIT) for arguments in COMPLETE_TEXTS),
    *((name, arguments, "stop", None) for name in ("stop", "unknown") for arguments in ("", " ")),
]


def defaults(asked: Any = ASKED) -> EnvelopeDefaults:
    return EnvelopeDefaults(lambda prefix: f"{prefix}1", 9, "m", Asked(json.dumps(asked).encode()))


def begun(**options: Any) -> EventStream:
    return new_stream(repair=StreamRepair(RepairOptions(**options), defaults()))


def call(name: str, *pieces: str, index: int = 0) -> list[bytes]:
    opened = {"index": index, "id": f"id{index}", "type": "function", "function": {"name": name, "arguments": ""}}
    more = [{"index": index, "function": {"arguments": piece}} for piece in pieces if piece]
    return [data(chunk({"tool_calls": [one]})) for one in (opened, *more)]


def streamed(given: Given) -> list[bytes]:
    name, arguments, reason, usage = given
    half = len(arguments) // 2
    ends = [data(chunk({}, reason)), *([data(chunk(None, usage=usage))] if usage else [])]
    return [data(chunk({"role": "assistant"})), *call(name, arguments[:half], arguments[half:]), *ends]


def read(stream: EventStream, blocks: list[bytes]) -> tuple[list[str], str]:
    """The finish reasons, and the arguments of all calls."""
    out = b"".join(map(stream.feed, blocks)) + stream.finish()
    choices = [one for each in chunks_of(out) for one in each.choices]
    calls = [entry.function for one in choices for entry in one.delta.tool_calls or ()]
    texts = "".join(one.arguments or "" for one in calls if one)
    return [one.finish_reason for one in choices if one.finish_reason], texts


def whole(given: Given) -> bytes:
    name, arguments, reason, usage = given
    called = {"id": "a", "type": "function", "function": {"name": name, "arguments": arguments}}
    return json.dumps(chat(choice(called, finish=reason), usage=usage)).encode()


@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize("given", CUT)
def test_a_stream_with_a_cut_call_fails(given, include_usage):
    for end in ([DONE], []):
        stream = begun(include_usage=include_usage)
        assert read(stream, [*streamed(given), *end])[0] == []
        assert (code(stream), stream.done) == ("upstream_closed", False)


@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize("given", LIMITED)
def test_a_stream_that_the_limit_cut_ends_so(given, include_usage):
    stream = begun(include_usage=include_usage)
    reasons, _ = read(stream, [*streamed(given), DONE])
    assert (reasons, stream.failure, stream.done) == (["length"], None, True)


@pytest.mark.parametrize("given", COMPLETE)
def test_a_stream_with_a_whole_call_is_complete(given):
    stream = begun()
    reasons, arguments = read(stream, [*streamed(given), DONE])
    assert (reasons, stream.failure) == (["tool_calls"], None)
    assert arguments.strip() == (given[1].strip() or "{}")


def test_a_function_of_old_and_the_second_of_two_calls_are_checked():
    old = [data(chunk({"function_call": {"name": "f", "arguments": '{"a'}})), data(chunk({}, "function_call"))]
    two = [*call("stop", "{}"), *call("write", '{"a', index=1), data(chunk({}, "tool_calls"))]
    for blocks in (old, two):
        stream = begun()
        assert read(stream, [*blocks, DONE])[0] == []
        assert code(stream) == "upstream_closed"


def test_free_text_of_a_custom_tool_is_no_json():
    custom = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "patch", "input": '{"*** Begin'}}
    stream = begun()
    blocks = [data(chunk({"tool_calls": [custom]})), data(chunk({}, "tool_calls")), DONE]
    assert (read(stream, blocks)[0], stream.failure) == (["tool_calls"], None)


@pytest.mark.parametrize("given", CUT)
def test_a_whole_reply_with_a_cut_call_fails(given):
    assert read_good(whole(given)) is None
    with pytest.raises(AnswerFault):
        repair_reply(whole(given), defaults)


@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize("given", CUT)
def test_a_whole_reply_in_one_event_with_a_cut_call_fails(given, include_usage):
    stream = begun(include_usage=include_usage)
    assert read(stream, [b"data: %b\n\n" % whole(given), DONE])[0] == []
    assert (code(stream), stream.done) == ("upstream_closed", False)


@pytest.mark.parametrize("given", [*LIMITED, *COMPLETE])
def test_a_whole_reply_has_the_reason_that_fits_its_calls(given):
    body, _ = repair_reply(whole(given), defaults)
    found = json.loads(body)["choices"][0]
    arguments = found["message"]["tool_calls"][0]["function"]["arguments"]
    is_limited = given in LIMITED
    assert found["finish_reason"] == ("length" if is_limited else "tool_calls")
    assert arguments == (given[1] if is_limited or given[1].strip() else "{}")


@pytest.mark.parametrize(("usage", "reason"), [(AT_LIMIT, "length"), (BELOW, None)])
def test_an_aggregated_answer_without_a_reason_is_one_that_the_limit_cut(usage, reason):
    source = StreamSource("chat", LIMIT_BYTES, lambda _: None)
    one = CompletionAggregator(source, LIMIT_BYTES, defaults())
    for block in [*streamed(("write", '{"a', "", usage)), DONE]:
        one.feed(block)
    if reason is None:
        with pytest.raises(UpstreamClosed):
            one.finish()
    else:
        assert json.loads(one.finish())["choices"][0]["finish_reason"] == reason


# --- of any size ----------------------------------------------------------------------------------

CODE = 'def f(x):\n    return {"a": [1, "q"], \'b\': x}  # \\n\n' * 9 + "你好 😀"
LONG = [
    json.dumps({"path": "x", "content": unit * (2_400_000 // len(unit)), "then": [1, {"b": None}]}, ensure_ascii=False)
    for unit in ("y" * 900, CODE, "\\ud83d 你")
]


def turned(blocks: list[bytes]) -> tuple[bytes, EventStream]:
    """What the client receives of events of any size, and the stream."""
    source, out = StreamSource("chat", 32 * LIMIT_BYTES, lambda _: None), list[bytes]()
    stream = EventStream(source, repair=StreamRepair(RepairOptions(), defaults()))
    for block in blocks:
        out.append(stream.feed(block))
        while stream.waiting:
            out.append(stream.feed())
    return b"".join([*out, stream.finish()]), stream


@pytest.mark.parametrize("cut_chars", [0, 1, 600_000])
@pytest.mark.parametrize("events", [1, 3, 3_000])
@pytest.mark.parametrize("arguments", LONG, ids=range(len(LONG)))
def test_a_call_of_any_size_is_checked(arguments, events, cut_chars):
    given = arguments[: len(arguments) - cut_chars]
    step = len(given) // events + 1
    pieces = [given[at : at + step] for at in range(0, len(given), step)]
    blocks = [*call("stop", "{}", index=1), *call("write", *pieces)]
    for ends in ([data(chunk({}, "tool_calls")), DONE], [DONE]):
        out, stream = turned([*blocks, *ends])
        assert (stream.done, code(stream)) == ((cut_chars == 0), "upstream_closed" if cut_chars else None)
        assert looks_finished(out) is (cut_chars == 0)


@pytest.mark.parametrize("arguments", LONG[::2])
def test_long_arguments_of_a_whole_reply_are_checked(arguments):
    complete, cut = (whole(("write", text, "tool_calls", BELOW)) for text in (arguments, arguments[:-1]))
    assert repair_reply(complete, defaults) == (complete, ())
    more = b'"logprobs":{"content":[%b]},"finish_reason"' % b",".join([b"0"] * 600_000)  # too many values to repair
    for body in (cut, whole(CUT[0]).replace(b'"logprobs": null, ', b"").replace(b'"finish_reason"', more)):
        assert read_good(body) is None
        with pytest.raises(AnswerFault):
            repair_reply(body, defaults)


# --- what passes without being parsed -------------------------------------------------------------


class Blind(FastPath):
    def count_matching(self, run: bytes) -> int:
        return 0


VALUES = st.recursive(
    st.text(max_size=8) | st.sampled_from(["\\", '"', '","arguments":"', "\ud83d", "🚀", "\n", None, 1.5, math.nan]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "arguments", "é"]), inner),
    max_leaves=6,
)


STYLES: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
    "nulls": lambda index, texts: {"id": None, **index, "type": None, "function": {"name": None, **texts}},
    "empty ones behind": lambda index, texts: {"function": {**texts, "name": ""}, **index, "id": ""},
    "no index": lambda _, texts: {"function": texts},
    "a name": lambda index, texts: {**index, "function": {"name": "", **texts}},
}
"""How a later entry of a call may look. SGLang sends nulls."""


@st.composite
def streams_of_calls(draw: st.DrawFn) -> tuple[list[bytes], bool, bool]:
    """A stream with one or two calls, in pieces of any size, whether each of them is whole, and its bytes stay."""
    calls, is_whole = list[list[dict[str, Any]]](), True
    style = draw(st.sampled_from([None, None, *STYLES]))
    name = draw(st.sampled_from(["f", "f", "write", "stop"]))  # `stop_all` begins with the last one
    cut = draw(st.sampled_from([len(name), len(name), 1]))
    for index in range(draw(st.integers(1, 2))):
        arguments = json.dumps({"a": draw(VALUES)}, ensure_ascii=draw(st.booleans()))
        arguments = arguments.encode("utf-8", "backslashreplace").decode()  # half a pair is an escape
        kept = draw(st.sampled_from([len(arguments)] * 3 + [draw(st.integers(1, len(arguments)))]))
        is_whole = is_whole and kept == len(arguments)
        cuts = sorted({0, kept, *draw(st.lists(st.integers(0, kept), max_size=9))})
        parts = [arguments[at:to] for at, to in itertools.pairwise(cuts)]
        at = draw(st.sampled_from([index, index, 0]))  # some upstreams send 0 with each call
        head = {"index": at, "id": f"id{index}", "type": "function", "function": {"name": name[:cut], "arguments": ""}}
        texts = [{"arguments": part, **({"name": name} if style == "a name" else {})} for part in parts]
        styled = STYLES.get(style or "", lambda index, texts: {**index, "function": texts})
        later = [styled({"index": at}, text) for text in texts]
        calls.append([head, *([{"index": at, "function": {"name": name[cut:]}}] if cut < len(name) else []), *later])
    is_alone = style == "no index" or cut < len(name)  # its parts do not arrive in turns with those of another
    if len(calls) > 1 and calls[1][0]["index"] and not is_alone and draw(st.booleans()):
        calls = [[one for pair in itertools.zip_longest(*calls) for one in pair if one]]  # they arrive in turns
    more: dict[str, Any] = draw(st.sampled_from([{}, {"obfuscation": "x"}, {"usage": None}]))
    spaced = draw(st.booleans())
    deltas: list[dict[str, Any]] = [{"content": "a"}, *({"tool_calls": [one]} for one in itertools.chain(*calls))]
    blocks = [data(chunk(delta, **more), spaced=spaced) for delta in deltas]
    end = data(chunk({}, draw(st.sampled_from(["tool_calls", "stop"]))))
    return [*blocks, end, DONE], is_whole, style is None and cut == len(name)


def events_of(run: bytes) -> list[Any]:
    """The JSON of each event. A text that is written again may have other escapes."""
    texts = [block.removeprefix(b"data: ") for block in run.split(b"\n\n") if block]
    return [one if one == b"[DONE]" else json.loads(one) for one in texts]


@given(streams_of_calls(), st.integers(1, 40))
def test_a_call_of_events_that_pass_unparsed_is_checked_too(
    given_stream: tuple[list[bytes], bool, bool], together: int
):
    blocks, is_whole, is_same = given_stream
    runs = [b"".join(blocks[at : at + together]) for at in range(0, len(blocks), together)]
    quick = begun()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "fast_path", Blind)
        thorough = begun()
    for run in runs:
        sent, expected = quick.feed(run), thorough.feed(run)
        assert sent == expected if is_same else events_of(sent) == events_of(expected)
        assert state(quick) == state(thorough)
    assert (quick.done, code(quick)) == (is_whole, None if is_whole else "upstream_closed")


# --- what follows the end, or stands in its place -------------------------------------------------

FIRST, SECOND = ({"index": at, "id": f"id{at}", "function": {"name": "f", "arguments": "{}"}} for at in (0, 1))
EVERY = {
    "calls": [chunk({"tool_calls": [FIRST]}, "tool_calls"), chunk({"tool_calls": [SECOND]}, "tool_calls")],
    "calls, and an end": [
        *(chunk({"tool_calls": [one]}, "tool_calls") for one in (FIRST, SECOND)),
        chunk({}, "tool_calls"),
    ],
    "parts of one call": [
        chunk({"tool_calls": [{**FIRST, "function": {"name": "f", "arguments": '{"a'}}]}, "tool_calls"),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '":1}'}}]}, "tool_calls"),
    ],
    "a text before calls": [
        chunk({"content": "a"}),
        *(chunk({"tool_calls": [one]}, "tool_calls") for one in (FIRST, SECOND)),
    ],
    "calls before a text": [chunk({"tool_calls": [FIRST]}, "tool_calls"), chunk({"content": "b"}, "tool_calls")],
}


@pytest.mark.parametrize("chunks", EVERY.values(), ids=EVERY)
def test_a_finish_reason_in_every_chunk_is_sent_once_and_last(chunks):
    stream = begun()
    out = b"".join([*map(stream.feed, map(data, chunks)), stream.feed(DONE)])
    sent = [one.choices[0] for one in chunks_of(out)]
    assert [bool(one.finish_reason) for one in sent] == [False] * (len(sent) - 1) + [True]
    assert [one.delta.content for one in sent if one.delta.content] == [
        one["choices"][0]["delta"]["content"] for one in chunks if "content" in one["choices"][0]["delta"]
    ]
    assert (looks_finished(out), stream.failure) == (True, None)


@pytest.mark.parametrize("end", [[DONE], []])
@pytest.mark.parametrize("reason", ["stop", "tool_calls"])
@pytest.mark.parametrize(("arguments", "is_cut"), [('{"a', True), ('"}', True), ("", False), ('{"a":1}', False)])
def test_a_call_after_the_finish_reason_is_checked_too(end, reason, arguments, is_cut):
    blocks = [text("a"), data(chunk({}, reason)), *call("stop", arguments), *end]
    stream = begun()
    read(stream, blocks)
    assert (stream.done, code(stream)) == (not is_cut, "upstream_closed" if is_cut else None)
    one = CompletionAggregator(StreamSource("chat", LIMIT_BYTES, lambda _: None), LIMIT_BYTES, defaults())
    for block in blocks:
        one.feed(block)
    with pytest.raises(UpstreamClosed) if is_cut else nullcontext():
        one.finish()


def test_an_answer_of_one_chunk_keeps_its_bytes_and_no_event_overtakes_it():
    only = data(chunk({"role": "assistant", "content": "Hi"}, "stop"))
    assert begun().feed(only + DONE) == only + DONE
    words = [data(chunk({"role": "assistant", "content": "a"})), text("b"), text("c")]
    blocks = [*words, *call("f", "{}")[:1], data(chunk({"tool_calls": [SECOND]}, "stop")), text("d"), text("e"), DONE]
    stream = begun()
    sent = [one.choices[0].delta for one in chunks_of(b"".join(map(stream.feed, blocks)))]
    assert [one.content or bool(one.tool_calls) for one in sent[:7]] == ["a", "b", "c", True, True, "d", "e"]


LATE = data({"id": "x", "choices": [], "usage": AT_LIMIT})


@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize("cuts", [(), (1,), (1, 2), (2,)])
def test_usage_after_done_is_read_and_sent_before_it(cuts, include_usage):
    blocks = [data(chunk({"role": "assistant", "content": "a"})) + data(chunk({}, "stop")), DONE, LATE]
    repair = StreamRepair(RepairOptions(include_usage), defaults())
    stream = new_stream(repair=repair, wants_usage=True)
    bounds = [0, *cuts, len(blocks)]
    runs = [b"".join(blocks[begin:end]) for begin, end in itertools.pairwise(bounds)]
    out = b"".join(map(stream.feed, runs)) + stream.finish()
    assert (stream.done, stream.awaits_usage, stream.usage and stream.usage.completion_tokens) == (True, False, 16)
    assert out.endswith(DONE)
    assert out.count(DONE) == 1
    assert (b'"usage"' in out) is include_usage


@pytest.mark.parametrize("late", [b"", b": ping\n\n", data({"x": 1}), b"data: {\n\n", text("more"), DONE])
def test_without_usage_after_done_the_stream_is_complete_all_the_same(late):
    stream = new_stream(repair=StreamRepair(RepairOptions(include_usage=True), defaults()), wants_usage=True)
    out = stream.feed(text("a", finish="stop") + DONE)
    assert (stream.done, stream.awaits_usage, DONE in out) == (True, True, False)
    out += stream.feed(late) + stream.finish()
    assert (out.endswith(DONE), out.count(b"data:"), stream.failure) == (True, 2, None)


# --- shapes ---------------------------------------------------------------------------------------

CALLED = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two texts": ({"content": [{"text": "a"}, {"type": "text", "text": "b"}]}, {"content": "ab"}),
    "an image": ({"content": [{"type": "image_url", "image_url": {}}]},) * 2,
    "a type that contradicts the content": (
        {"tool_calls": [{**CALLED, "type": "tool"}]}, {"tool_calls": [{**CALLED, "type": "function"}]}
    ),
    "a custom call that is called a function": (
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "custom": {"name": "f", "input": "x"}}]},
        {"tool_calls": [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}}]},
    ),
    "a call of an unknown type": ({"tool_calls": [{"index": 0, "id": "a", "type": "mcp", "mcp": {}}]},) * 2,
    "arguments of a function of old": (
        {"function_call": {"name": "f", "arguments": {"a": 1}}},
        {"function_call": {"name": "f", "arguments": '{"a":1}'}},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "becomes"), SHAPES.values(), ids=SHAPES)
def test_a_shape_that_clients_do_not_read_is_repaired_in_each_form(given, becomes):
    reason = "stop" if "content" in given else "tool_calls"
    body, _ = repair_reply(json.dumps(chat(choice(finish=reason, **{"content": None, **given}))).encode(), defaults)
    messages = [json.loads(body)["choices"][0]["message"]]
    only = data(chunk({"role": "assistant", **given}, reason))
    delta = json.loads(begun().feed(only + DONE).split(b"\n")[0][6:])["choices"][0]["delta"]
    assert delta == {"role": "assistant", **becomes}
    one = CompletionAggregator(StreamSource("chat", LIMIT_BYTES, lambda _: None), LIMIT_BYTES, defaults())
    one.feed(only + DONE)
    messages.append(json.loads(one.finish())["choices"][0]["message"])
    for made in messages:
        for call in made.get("tool_calls", ()):
            call["index"] = 0
        assert {name: value for name, value in made.items() if value is not None} == {"role": "assistant", **becomes}
