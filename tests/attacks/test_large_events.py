"""Large events: they are read in slices, and relayed as small ones are."""

from __future__ import annotations

import gc
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.config.access import BUILT_IN_PROFILES
from gatepass.errors import GatepassError, UpstreamErrorReply
from gatepass.json_scan import quoted
from gatepass.protocols.responses import ResponseAggregator
from gatepass.sse import event, large_event, repair
from gatepass.sse.aggregate import BodyAggregator, CompletionAggregator
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import ENVELOPE, EnvelopeDefaults, StreamSource
from gatepass.sse.client_transforms import ShortLines, make_client_transform
from gatepass.sse.dialect_transforms import RagflowStream
from gatepass.sse.event import is_json, parse_event, read_json, split_events
from gatepass.sse.event_stream import EventStream
from gatepass.sse.large_event import LongTexts
from gatepass.sse.repair import StreamRepair
from tests.attacks import generated
from tests.attacks.conftest import Attack
from tests.integration.gateway import HELLO, gateway
from tests.integration.scripted import Scripted, Send, begin_stream, chunk
from tests.unit.sse.streams import DONE, finished, read_error, text, with_line_ends

MIB = 1 << 20
LIMIT_BYTES = 32 * MIB
DEFAULTS = EnvelopeDefaults(lambda prefix: f"{prefix}x", 1, "m")
HEAD = '"id":"c1","object":"chat.completion.chunk","created":1,"model":"m"'
END = f'data: {{{HEAD},"choices":[{{"index":0,"delta":{{}},"finish_reason":"stop"}}]}}\n\n'.encode() + DONE

PLACES = {
    "content": '"choices":[{"index":0,"delta":{"content":%s},"finish_reason":null}]',
    "without index": '"choices":[{"delta":{"content":%s}}]',
    "a completion": '"choices":[{"index":0,"message":{"role":"assistant","content":%s},"finish_reason":"stop"}]',
    "an unknown member": '"x":[%s],"choices":[{"index":0,"delta":{"content":"a"}}]',
    "no choices": '"x":%s,"choices":[]',
    "a name": '"x":{%s:1},"choices":[{"delta":{"content":"a"}}]',
    "two": '"y":%s,"choices":[{"index":0,"delta":{"content":%s}}]',
    "arguments": '"choices":[{"index":0,"delta":{"tool_calls":[{"function":{"name":"f","arguments":%s}}]}}]',
    "an object as arguments": (
        '"choices":[{"index":0,"delta":{"tool_calls":[{"function":{"name":"f","arguments":{"a":[%s]}}}]}}]'
    ),
}


@dataclass(frozen=True)
class Large:
    """A stream with one event whose value at `place` is the JSON string of `units`."""

    units: tuple[str, ...]
    place: str = "content"
    repeats: int = 1
    framing: str = ""
    end: bytes = b"\n"
    is_closed: bool = True

    @property
    def raw(self) -> bytes:
        value = '"%s"' % ("".join(self.units) * self.repeats)
        inside = "{" + HEAD + "," + PLACES[self.place].replace("%s", value) + "}"
        if self.framing == "two lines":
            inside = inside.replace(',"object"', '\ndata: ,"object"')
        before = {"id": "id: 1\n", "comment": ': it is "open\n'}.get(self.framing, "")
        last = END if self.is_closed else b""
        whole = (
            text("hi") + f"{before}data: {inside}".encode() + (b"\n\n" + text("ho") if self.is_closed else b"") + last
        )
        return with_line_ends(whole, self.end)


UNITS = [
    "a",
    "é",
    "漢字",
    "😀",
    "\\n",
    '\\"',
    "\\\\",
    "\\u00e9",
    "\\ud83d\\ude00",
    "\\ud83d",
    "\\t0a:1;",
    " ",
    "x" * 90,
]
larges = st.builds(
    Large,
    st.lists(st.sampled_from(UNITS), min_size=1, max_size=12).map(tuple),
    st.sampled_from(sorted(PLACES)),
    st.integers(1, 400),
    st.sampled_from(["", "id", "comment", "two lines"]),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.booleans(),
)


@contextmanager
def scaled(large_bytes: int = 1024) -> Iterator[None]:
    """Make events of 1 KiB large ones, so that small cases have many marks."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (event, large_event):
            patch.setattr(module, "LARGE_EVENT_BYTES", large_bytes)
        for name, size in {"LONG_BYTES": 64, "KEPT_BYTES": 40, "FIRST_KEPT_BYTES": 200, "PIECE_BYTES": 30}.items():
            patch.setattr(large_event, name, size)
        patch.setattr(large_event, "WINDOW_BYTES", 64)
        yield


def new_stream(profile: str, *, is_ragflow: bool = False) -> EventStream:
    return EventStream(
        StreamSource("chat", LIMIT_BYTES, read_error),
        repair=StreamRepair(RepairOptions(None, "move"), DEFAULTS),
        dialect_transform=RagflowStream(DEFAULTS) if is_ragflow else None,
        client_transform=make_client_transform(BUILT_IN_PROFILES[profile]),
    )


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("is_whole", [False, True], ids=["stream", "whole reply"])
def test_a_stream_that_ends_while_an_event_is_shortened_leaves_no_reference_cycle(is_whole, steps):
    raw = f"data: {{{HEAD},{PLACES['content'] % json.dumps('x' * (4 * MIB))}}}\n\n".encode()
    source = StreamSource("chat", LIMIT_BYTES, read_error)
    gc.collect()
    gc.disable()
    try:
        one = (
            BodyAggregator("chat", CompletionAggregator(source, DEFAULTS), LIMIT_BYTES)
            if is_whole
            else new_stream("open_webui")
        )
        for number in range(1 + steps):
            one.feed(b"" if number else raw)
        assert one.waiting
        del one
        # not `gc.collect() == 0`: that does not count a cycle that ends when its generator is closed
        assert not any(isinstance(kept, LongTexts) for kept in gc.get_objects())
    finally:
        gc.enable()


def relayed(raw: bytes, profile: str = "open_webui", cuts: list[int] | None = None) -> tuple[bytes, str, bool, int]:
    """Return the relayed bytes, the failure, whether the stream is complete, and its number of events."""
    stream, out = new_stream(profile, is_ragflow=profile == "continue"), []
    for start, end in pairwise([0, *sorted(cuts or ()), len(raw)]):
        out.append(stream.feed(raw[start:end]))
        while stream.waiting:
            out.append(stream.feed())
    stream.shorten_tail()
    out.append(stream.finish())
    return b"".join(out), str(stream.failure), stream.done, stream.events


def meaning(value: object) -> object:
    """Return JSON with the values of all `arguments`: a repaired event may write a text with other escapes."""
    if isinstance(value, bytes):
        events = [parse_event(one).data or b"" for one in split_events(value)]
        return [meaning(read_json(data)) if is_json(data) else data for data in events]
    if isinstance(value, dict):
        arguments = value.get("arguments")
        if isinstance(arguments, str) and arguments.startswith("{"):
            value = {**value, "arguments": json.loads(arguments)}
        return {name: meaning(one) for name, one in value.items()}
    return [meaning(one) for one in value] if isinstance(value, list) else value


def is_alike(large: Large, profile: str, cuts: list[int]) -> bool:
    raw = large.raw
    cuts = [cut for cut in cuts if cut < len(raw)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repair, "MAX_MOVED_BYTES", 200)  # scaled too
        expected, reply = relayed(raw, profile, cuts), aggregated(raw, 1000)
        with scaled():
            found, shortened_reply = relayed(raw, profile, cuts), aggregated(raw, 1000)
    if found[0] != expected[0] and meaning(found[0]) != meaning(expected[0]):
        return False
    return found[1:] == expected[1:] and meaning(shortened_reply) == meaning(reply)


def aggregated(raw: bytes, step_bytes: int) -> object:
    """The whole reply, or the error."""
    aggregator = CompletionAggregator(StreamSource("chat", LIMIT_BYTES, read_error), DEFAULTS)
    body = BodyAggregator("chat", aggregator, LIMIT_BYTES)
    for at in range(0, len(raw), step_bytes):
        body.feed(raw[at : at + step_bytes])
        while body.waiting:
            body.feed()
    body.shorten_tail()
    while body.waiting:
        body.feed()
    try:
        return json.loads(finished(body))
    except GatepassError as error:
        return str(error)


@pytest.mark.attack("events: large, relayed alike")
@generated
@given(larges, st.sampled_from(["open_webui", "dify", "cline", "continue"]), st.lists(st.integers(0, 3000), max_size=4))
@example(Large(("\\u00e9",), "an object as arguments", 300), "open_webui", [])
@example(Large(("\\ud83d\\ude00",), "two", 300), "dify", [1])
@example(Large(('\\"', "a"), "without index", 900, end=b"\r\n"), "cline", [])
@example(Large(("x" * 90,), "content", 30, is_closed=False), "open_webui", [])
@example(Large(("a",), "no choices", 3000), "open_webui", [])
def test_large_event_is_relayed_like_a_small_one(attack: Attack, large: Large, profile: str, cuts: list[int]) -> None:
    attack.cases += 1
    attack.check(is_alike(large, profile, cuts), (large, profile, cuts))


def test_marks_that_are_not_replaced_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_event.LongTexts, "restore", lambda _, run: run)
    assert not is_alike(Large(("\\ud83d\\ude00",), "content", 300), "open_webui", [])


def test_marks_whose_texts_are_quoted_once_too_often_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_event, "quoted", lambda text: quoted(quoted(text)[1:-1].decode()))
    assert not is_alike(Large(("\\ud83d\\ude00",), "an object as arguments", 300), "open_webui", [])


def test_marks_of_an_upstream_are_text() -> None:
    with scaled():
        out = relayed(Large((";\\t" + "0" * 32 + ":0;",), "content", 300).raw)[0]
    assert out.count(b"0" * 32) == 300


@pytest.mark.attack("events: large, texts like marks")
@pytest.mark.parametrize("before", range(160, 200))
def test_a_text_like_the_beginning_of_a_mark_hides_no_mark(attack: Attack, before: int) -> None:
    attack.cases += 1
    like_a_mark = ";\\t" + "0" * 32 + ":0"
    raw = Large(("b" * before, like_a_mark, "c" * 1500)).raw
    with scaled():
        stream = EventStream(StreamSource("chat", LIMIT_BYTES, read_error), client_transform=ShortLines(400))
        out = stream.feed(raw)
        while stream.waiting:
            out += stream.feed()
    chunks = [read_json(parse_event(one).data or b"") for one in split_events(out)[:-1]]
    answer = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks)
    attack.check(answer == "hi" + "b" * before + json.loads(f'"{like_a_mark}"') + "c" * 1500 + "ho", (before, answer))


@pytest.mark.attack("events: large, an envelope")
@pytest.mark.parametrize("name", ENVELOPE)
@pytest.mark.parametrize("form", ["%s", "[%s]", '{"a":%s}', '{"a":[[%s]]}'])
def test_a_large_value_of_the_envelope_is_not_repeated(attack: Attack, name: str, form: str) -> None:
    attack.cases += 1
    members = {**json.loads("{" + HEAD + "}"), "choices": [{"index": 0, "delta": {"content": "a"}}]}
    without = f"data: {json.dumps({one: value for one, value in members.items() if one != name})}\n\n".encode()
    value = json.loads(form.replace("%s", '"' + "x" * 4000 + '"'))
    events = [f"data: {json.dumps({**members, name: value})}\n\n".encode(), text("y" * 3000), without, DONE]
    with scaled():
        out, failure, is_done, _ = relayed(b"".join(events), cuts=[sum(map(len, events[:end])) for end in (1, 2, 3)])
    attack.check(failure == "None" and is_done and out.count(b"x" * 4000) == 1, (name, form, failure))


ARGUMENT_UNITS = ["a", "漢", "\n", '"', "\\a", "{", "]", '\\"', "x" * 90, {"a": "{"}, ["\\"], 1]


@st.composite
def tool_calls(draw: st.DrawFn) -> bytes:
    """A stream that ends with `[DONE]` alone. Its tool call has whole arguments, or they are cut."""
    units = draw(st.lists(st.sampled_from(ARGUMENT_UNITS), min_size=1, max_size=9)) * draw(st.integers(1, 200))
    value = "".join(map(str, units)) if draw(st.booleans()) else units
    arguments = json.dumps({"a": value, "b": [1, "x" * 300]}, ensure_ascii=draw(st.booleans()))
    if draw(st.booleans()):
        arguments = arguments[: draw(st.integers(0, len(arguments) - 1))]
    at = draw(st.integers(0, len(arguments)))
    return tool_call(arguments[:at], arguments[at:], draw(st.sampled_from(["tool_calls", "function_call"])))


def tool_call(first: str, second: str, name: str = "tool_calls") -> bytes:
    """A stream that ends with `[DONE]` alone, with the arguments in two events."""
    functions = [{"name": "f", "arguments": first}, {"arguments": second}]
    deltas = [{name: one if name == "function_call" else [{"index": 0, "function": one}]} for one in functions]
    chunks = [{"id": "c1", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    return b"".join([*(b"data: %b\n\n" % json.dumps(one).encode() for one in chunks), DONE])


def json_data(raw: bytes) -> list[object]:
    """The JSON values of the events."""
    return [read_json(data) for one in split_events(raw) if is_json(data := parse_event(one).data or b"")]


@pytest.mark.attack("events: large, cut arguments")
@generated
@given(tool_calls())
@example(tool_call('{"a":"' + "x" * 900 + "\\", '"' + "x" * 900 + '"}'))
def test_large_arguments_are_whole_or_cut_as_small_ones(attack: Attack, raw: bytes) -> None:
    attack.cases += 1
    expected, reply = relayed(raw), aggregated(raw, 1000)
    with scaled():
        found, shortened_reply = relayed(raw), aggregated(raw, 1000)
    is_checked = found[1:] == expected[1:] and json_data(found[0]) == json_data(expected[0])
    # gatepass does not check arguments of a shortened event: the stream needs a finish reason then
    attack.check(is_checked or CUT in found[1], (found, expected))
    attack.check(shortened_reply == reply or CUT in str(shortened_reply), (shortened_reply, reply))
    attack.check(CUT in found[1] or CUT not in expected[1], (found, expected))


CUT = "before the answer was complete"


BAD = ["\\x", "\\u12", "\x01", '"']


@pytest.mark.attack("events: large, invalid")
@generated
@given(larges, st.sampled_from(BAD), st.integers(0, 400))
def test_a_large_event_that_is_not_json_ends_the_stream(attack: Attack, large: Large, bad: str, at: int) -> None:
    attack.cases += 1
    units = list(large.units) * large.repeats
    units.insert(at % len(units), bad)
    raw = Large(tuple(units), large.place, 1, large.framing, large.end, large.is_closed).raw
    expected = relayed(raw)
    with scaled():
        attack.check(relayed(raw)[1:3] == expected[1:3], (large, bad, at))


@pytest.mark.attack("events: large, errors")
@pytest.mark.parametrize("name", ["", "event: error\n"])
@pytest.mark.parametrize("size_bytes", [900, 3 * MIB])
def test_an_error_keeps_the_beginning_of_its_message(attack: Attack, name: str, size_bytes: int) -> None:
    attack.cases += 1
    error = {"error": {"message": "no tokens left " + "x" * size_bytes, "type": "y" * size_bytes}}
    raw = text("hi") + f"{name}data: {json.dumps(error)}\n\n".encode()
    with scaled() if size_bytes < MIB else nullcontext():
        _, failure, is_done, _ = relayed(raw)
        aggregate_failure = str(aggregated(raw, 64 * 1024))
    attack.check(failure.startswith("no tokens left xxx") and "\t" not in failure and not is_done, failure)
    attack.check(aggregate_failure.startswith("no tokens left xxx") and "\t" not in aggregate_failure, failure)


@pytest.mark.attack("events: large, errors")
@pytest.mark.parametrize("size_bytes", [900, 3 * MIB])
@pytest.mark.parametrize(
    "place", ['no tokens left "%s', '{"message": "no tokens left", "x": "%s"', "\xff %s", 'no "tokens": %s']
)
def test_an_error_event_need_not_be_json(attack: Attack, place: str, size_bytes: int) -> None:
    attack.cases += 1
    longer = 'some text, "{}" and "{}".'.format("x" * (size_bytes // 4), "y" * size_bytes)
    raw = text("hi") + b"event: error\ndata: " + place.replace("%s", longer).encode("latin-1") + b"\n\n"
    expected = relayed(raw)
    with scaled() if size_bytes < MIB else nullcontext():
        _, failure, is_done, _ = relayed(raw)
        aggregate_failure = str(aggregated(raw, 64 * 1024))
    for found in (failure, aggregate_failure):
        attack.check(found[:16] == expected[1][:16] and "\t" not in found and not is_done, found)


LONG_TEXTS = st.lists(
    st.tuples(st.sampled_from(["", "a: ", "漢", '\\"']), st.integers(1, 900)), min_size=1, max_size=5
).map(lambda pairs: [start + "x" * size for start, size in pairs])
ERRORS = {
    "of a chat": b'{"error":{"message":%b,"type":%b,"code":%b}}',
    "without error": b'event: error\ndata: {"message":%b,"code":%b,"type":%b}',
    "plain text": b"event: error\ndata: The text %b after %b is not %b",
    "of an event": b'{"type":"error","message":%b,"code":%b,"param":%b}',
    "of a response": b'{"type":"response.failed","response":{"error":{"message":%b,"code":%b},"output":[%b]}}',
    "of choices": b'{"choices":[{"index":0,"error":{"message":%b,"type":%b},"delta":{"content":%b}}]}',
    "an exception": b'{"choices":[{"index":0,"delta":{"content":%b}}],"x":[%b,%b]}',
}


def errors_of(raw: bytes) -> list[str]:
    """Return the error message that each reader of a stream reports."""
    stream = new_stream("continue", is_ragflow=True)
    out = stream.feed(raw)
    while stream.waiting:
        out += stream.feed()
    found = [relayed(raw)[1], str(stream.failure), str(aggregated(raw, 64 * 1024))]
    response = ResponseAggregator(StreamSource("chat", LIMIT_BYTES, read_error))
    body = BodyAggregator("chat", response, LIMIT_BYTES)
    body.feed(raw)
    while body.waiting:
        body.feed()
    failures = [error for error in (stream.failure, response.failure) if isinstance(error, UpstreamErrorReply)]
    return [*found, *(f"{error} {error.upstream_code} {error.param} {error.raw} {error.kind}" for error in failures)]


@pytest.mark.attack("events: large, errors")
@generated
@given(st.sampled_from(sorted(ERRORS)), LONG_TEXTS)
@example("of a response", ["no tokens left " + "x" * 900])
@example("of an event", ["no tokens left " + "x" * 900])
@example("plain text", ["x" * 800, "y" * 900])
def test_no_error_contains_a_mark(attack: Attack, kind: str, texts: list[str]) -> None:
    attack.cases += 1
    values = [json.dumps(texts[at % len(texts)]).encode() for at in range(3)]
    if kind == "an exception":
        values[0] = json.dumps("**ERROR**: " + texts[0]).encode()
    event_text = ERRORS[kind] % tuple(values)
    raw = event_text if event_text.startswith(b"event:") else b"data: " + event_text
    with scaled():
        found = errors_of(raw + b"\n\n")
    attack.check(not any(_MARK_IN_ERROR.search(error) for error in found), (kind, found))


_MARK_IN_ERROR = re.compile("[0-9a-f]{8}")
"""Part of the name of a mark: messages replace its tab, and may be cut."""


def turned(raw: bytes, profile: str) -> tuple[float, str, int]:
    """The longest turn of a stream, its failure, and the bytes that it relays."""
    stream, longest_s, out_bytes = new_stream(profile, is_ragflow=profile == "continue"), 0.0, 0
    for at in range(0, len(raw), 64 * 1024):
        piece = raw[at : at + 64 * 1024]
        while piece or stream.waiting:
            began_s = time.thread_time()
            out_bytes += len(stream.feed(piece))
            longest_s = max(longest_s, time.thread_time() - began_s)
            piece = b""
    return longest_s, str(stream.failure), out_bytes


SIZE_BYTES = 12 * MIB


@pytest.mark.attack("events: large, a turn")
@pytest.mark.parametrize("profile", ["open_webui", "ragflow", "dify", "cline", "continue"])
@pytest.mark.parametrize("unit", ["A" * 64, "\\n", "\\u00e9", "\\ud83d\\ude00", '\\"', "é漢", "\\ud83d", ","])
def test_no_iteration_of_a_large_event_takes_long(attack: Attack, profile: str, unit: str) -> None:
    attack.cases += 1
    raw = Large((unit,), "without index", SIZE_BYTES // len(unit.encode())).raw
    took_s, failure, out_bytes = turned(raw, profile)
    attack.loop_s = max(attack.loop_s, took_s)
    attack.check(failure == "None" and out_bytes >= len(raw) - 64 * 1024, (unit, failure, out_bytes))


@pytest.mark.attack("events: large, a turn")
@pytest.mark.parametrize("unit", ["a", "\\n", '\\"', "\\u00e9"])
@pytest.mark.parametrize("size_bytes", [4_000, 9_000, 30_000, 100_000])
def test_no_iteration_of_an_event_with_many_texts_takes_long(attack: Attack, unit: str, size_bytes: int) -> None:
    attack.cases += 1
    one = '"%s"' % (unit * (size_bytes // len(unit)))
    texts = ",".join([one] * (SIZE_BYTES // len(one)))
    raw = text("hi") + b'data: {"choices":[{"delta":{"content":"a"}}],"x":[%b]}\n\n' % texts.encode() + END
    attack.loop_s = max(attack.loop_s, turned(raw, "dify")[0])


STRUCTURES = ["[]", "{}", "1", "1e300", '""', '"ab"', '{"a":1}', "[" * 60 + "]" * 60, '"%s"' % ("x" * 60), " "]


@pytest.mark.attack("events: large, a turn")
@pytest.mark.parametrize("unit", STRUCTURES)
@pytest.mark.parametrize("size_bytes", [2 * MIB - 4096, SIZE_BYTES])
def test_a_large_event_of_small_values_is_bounded(attack: Attack, unit: str, size_bytes: int) -> None:
    attack.cases += 1
    units = ",".join([unit] * (size_bytes // (len(unit) + 1)))
    raw = text("hi") + b'data: {"choices":[{"delta":{"content":"a"}}],"x":[%b]}\n\n' % units.encode() + END
    took_s, failure, _ = turned(raw, "dify")
    attack.loop_s = max(attack.loop_s, took_s)
    attack.check("values" in failure or "not JSON" in failure or size_bytes < SIZE_BYTES, (unit, failure))


def test_a_large_event_that_is_read_at_once_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Large(("\\n",), "without index", SIZE_BYTES // 2).raw
    sliced_s = turned(raw, "dify")[0]
    monkeypatch.setattr(event, "LARGE_EVENT_BYTES", 1 << 40)
    assert turned(raw, "dify")[0] > 4 * sliced_s


@pytest.mark.attack("events: large, a server")
@pytest.mark.parametrize("is_stream", [True, False])
async def test_server_serves_others_while_it_relays_large_events(attack: Attack, is_stream: bool) -> None:
    raw = [Large((unit,), "content", 8 * MIB // len(unit.encode())).raw for unit in ("A" * 64, "\\n", "é漢")]
    async with (
        Scripted(*[[*begin_stream(), Send(chunk(one)), Send(b"0\r\n\r\n")] for one in raw]) as upstream,
        gateway(upstream=upstream.url) as served,
    ):
        for one in raw:
            attack.cases += 1
            async with attack.on_this_loop():
                answer = await served.ask({**HELLO, "stream": is_stream}).answer()
            attack.check(answer.status == 200, answer.body[:300])
            attack.check(answer.body == one if is_stream else len(answer.body) > 8 * MIB, answer.body[:300])
