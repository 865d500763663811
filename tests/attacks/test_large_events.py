"""Large events: each is read and written in turns of its own."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.config.access import BUILT_IN_PROFILES
from gatepass.config.model import Limits
from gatepass.errors import GatepassError
from gatepass.sse import event, event_stream
from gatepass.sse.aggregate import CompletionAggregator
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import EnvelopeDefaults, StreamSource
from gatepass.sse.client_transforms import make_client_transform
from gatepass.sse.event_stream import EventStream
from gatepass.sse.repair import StreamRepair
from gatepass.sse.usage import Usage
from tests.attacks import generated
from tests.attacks.conftest import Attack
from tests.integration.gateway import HELLO, relaying
from tests.integration.scripted import Send, begin_stream, chunk
from tests.unit.sse.streams import DONE, read_error, text, with_line_ends

MIB = 1 << 20
LIMIT_BYTES = 3 * MIB
DEFAULTS = EnvelopeDefaults(lambda prefix: f"{prefix}x", 1, "m")
HEAD = '"id":"c1","object":"chat.completion.chunk","created":1,"model":"m"'
END = f'data: {{{HEAD},"choices":[{{"index":0,"delta":{{}},"finish_reason":"stop"}}]}}\n\n'.encode() + DONE

PLACES = {
    "content": '"choices":[{"index":0,"delta":{"content":%s},"finish_reason":null}]',
    "without index": '"choices":[{"delta":{"content":%s}}]',
    "a completion": '"choices":[{"index":0,"message":{"role":"assistant","content":%s},"finish_reason":"stop"}]',
    "an unknown member": '"x":[%s],"choices":[{"index":0,"delta":{"content":"a"}}]',
    "no choices": '"x":%s,"choices":[]',
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
    """Make events of 1 KiB large ones."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (event, event_stream):
            patch.setattr(module, "LARGE_EVENT_BYTES", large_bytes)
        yield


def new_stream(profile: str = "open_webui", limit_bytes: int = LIMIT_BYTES) -> EventStream:
    return EventStream(
        StreamSource("chat", limit_bytes, read_error),
        repair=StreamRepair(RepairOptions(None, BUILT_IN_PROFILES[profile]), DEFAULTS),
        client_transform=make_client_transform(BUILT_IN_PROFILES[profile]),
    )


def relayed(raw: bytes, cuts: list[int] | None = None) -> tuple[bytes, str, bool, EventStream]:
    """Return the relayed bytes, the failure, whether the stream is complete, and the stream."""
    stream, out = new_stream(), []
    for start, end in pairwise([0, *sorted(cuts or ()), len(raw)]):
        out.append(stream.feed(raw[start:end]))
        while stream.waiting:
            out.append(stream.feed())
    out.append(stream.finish())
    return b"".join(out), str(stream.failure), stream.done, stream


def aggregated(raw: bytes, step_bytes: int) -> object:
    """The whole reply, or the error."""
    body = CompletionAggregator(StreamSource("chat", LIMIT_BYTES, read_error), LIMIT_BYTES, DEFAULTS)
    for at in range(0, len(raw), step_bytes):
        body.feed(raw[at : at + step_bytes])
    try:
        return json.loads(body.finish())
    except GatepassError as error:
        return str(error)


@pytest.mark.attack("events: large, read as small ones")
@generated
@given(larges, st.lists(st.integers(0, 3000), max_size=4))
@example(Large(("\\u00e9",), "an object as arguments", 300), [])
@example(Large(("\\ud83d\\ude00",), "two", 300), [1])
@example(Large(('\\"', "a"), "without index", 900, end=b"\r\n"), [])
@example(Large(("x" * 90,), "content", 30, is_closed=False), [])
@example(Large(("a",), "no choices", 3000), [])
def test_a_large_event_is_read_and_repaired_as_a_small_one(attack: Attack, large: Large, cuts: list[int]) -> None:
    raw = large.raw
    cuts = [cut for cut in cuts if cut < len(raw)]
    expected = relayed(raw, cuts)
    with scaled():
        found = relayed(raw, cuts)
    # a large event without its blank line is not read
    is_unread = not large.is_closed and "before the answer was complete" in found[1]
    attack.check(is_unread or found[:3] == expected[:3], (large, cuts))


@pytest.mark.parametrize("place", ["content", "arguments", "two"])
def test_a_large_event_is_a_part_of_its_answer(place: str) -> None:
    """Its choices, its finish reason and its usage count, and it may be the only one."""
    units = ('{\\"a\\":\\"', *["a" * 3000], '\\"}') if place == "arguments" else ("a" * 3000,)
    raw = Large(units, place).raw.replace(text("hi"), b"").replace(text("ho"), b"")
    raw = raw.replace(b'"choices"', b'"usage":{"total_tokens":3},"choices"', 1)
    with scaled():
        out, failure, is_done, stream = relayed(raw)
    assert (failure, is_done, stream.has_answered, stream.is_empty) == ("None", True, True, False)
    assert stream.usage == Usage(total_tokens=3)
    assert b"a" * 3000 in out


BAD = ["\\x", "\\u12", "\x01", '"']


@pytest.mark.attack("events: large, invalid")
@generated
@given(larges, st.sampled_from(BAD), st.integers(0, 400))
def test_a_large_event_that_is_not_json_ends_the_stream(attack: Attack, large: Large, bad: str, at: int) -> None:
    units = [unit for unit in large.units if unit != "\\ud83d"] * large.repeats
    units.insert(at % (len(units) or 1), bad)
    raw = Large(tuple(units), large.place, 1, large.framing, large.end, large.is_closed).raw
    expected = relayed(raw)
    with scaled():
        attack.check(relayed(raw)[1:3] == expected[1:3], (large, bad, at))


@pytest.mark.attack("events: large, errors")
@pytest.mark.parametrize("name", ["", "event: error\n"])
@pytest.mark.parametrize("size_bytes", [900, MIB + MIB // 4])
def test_an_error_keeps_the_beginning_of_its_message(attack: Attack, name: str, size_bytes: int) -> None:
    error = {"error": {"message": "no tokens left " + "x" * size_bytes, "type": "y" * size_bytes}}
    raw = text("hi") + f"{name}data: {json.dumps(error)}\n\n".encode()
    with scaled() if size_bytes < MIB else nullcontext():
        _, failure, is_done, _ = relayed(raw)
        aggregate_failure = str(aggregated(raw, 64 * 1024))
    attack.check(failure.startswith("no tokens left xxx") and not is_done, failure)
    attack.check(aggregate_failure.startswith("no tokens left xxx"), failure)


@pytest.mark.attack("events: large, errors")
@pytest.mark.parametrize(
    ("place", "size_bytes"),
    [
        *(('{"message": "no tokens left", "x": "%s"', 900), ("\xff %s", 900), ('no "tokens": %s', 900)),
        ('no tokens left "%s', MIB + MIB // 4),
    ],
)
def test_an_error_event_need_not_be_json(attack: Attack, place: str, size_bytes: int) -> None:
    longer = 'some text, "{}" and "{}".'.format("x" * (size_bytes // 4), "y" * size_bytes)
    raw = text("hi") + b"event: error\ndata: " + place.replace("%s", longer).encode("latin-1") + b"\n\n"
    expected = relayed(raw)
    with scaled() if size_bytes < MIB else nullcontext():
        _, failure, is_done, _ = relayed(raw)
        aggregate_failure = str(aggregated(raw, 64 * 1024))
    for found in (failure, aggregate_failure):
        attack.check(found[:16] == expected[1][:16] and not is_done, found)


def turned(attack: Attack, raw: bytes, profile: str = "open_webui") -> tuple[str, int]:
    """The failure of a stream, and the bytes that it relays. Each turn is measured."""
    stream, out_bytes = new_stream(profile, Limits().event_bytes), 0
    for at in range(0, len(raw), 64 * 1024):
        piece = raw[at : at + 64 * 1024]
        while piece or stream.waiting:
            with attack.on_loop():
                out_bytes += len(stream.feed(piece))
            piece = b""
    with attack.on_loop():
        out_bytes += len(stream.finish())
    return str(stream.failure), out_bytes


SIZE_BYTES = Limits().event_bytes - 64 * 1024


@pytest.mark.attack("events: large, a turn")
@pytest.mark.parametrize("profile", ["dify", "ragflow"])
@pytest.mark.parametrize("unit", ["A" * 64, "\\n" + "a" * 10, "\\u00e9", "\\ud83d\\ude00", "\\ud83d a", "é漢"])
def test_no_turn_of_the_largest_event_of_one_text_takes_long(attack: Attack, profile: str, unit: str) -> None:
    count = SIZE_BYTES // len(unit.encode())
    failure, out_bytes = turned(attack, Large((unit,), "without index", count).raw, profile)
    attack.check(failure == "None" and out_bytes >= 2 * count, (unit, failure, out_bytes))


@pytest.mark.attack("events: large, a turn")
@pytest.mark.parametrize(
    ("framing", "end", "is_closed"),
    [("id", b"\n", True), ("comment", b"\r", True), ("two lines", b"\r\n", True), ("two lines", b"\n", False)],
)
def test_no_turn_of_the_largest_event_of_several_lines_takes_long(
    attack: Attack, framing: str, end: bytes, is_closed: bool
) -> None:
    raw = Large(("A" * 64,), "content", SIZE_BYTES // 64, framing, end, is_closed).raw
    failure, out_bytes = turned(attack, raw)
    attack.check((failure == "None") == is_closed == (out_bytes >= SIZE_BYTES - 64), (framing, failure, out_bytes))


MANY = [
    *("[]", "{}", "1", "12345678901", "1.5", "1e300", "null", '""', '"ab"', '{"a":1}', "[" * 60 + "]" * 60, " "),
    *('"%s"' % ("x" * 60), '"%s"' % ("\\n" * 150), '{"a":"%s"}' % ("a" * 4_200)),
]
"""Values of a list, of which a large event has more than can be read in a turn, or just not."""
INSIDE = ['"x":[%s]', '"choices":[{"delta":{"tool_calls":[{"function":{"name":"f","arguments":{"a":[%s]}}}]}}]']


@pytest.mark.attack("events: large, a turn")
@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("size_bytes", [2 * MIB, SIZE_BYTES])
@pytest.mark.parametrize("unit", MANY)
def test_no_turn_of_an_event_of_many_values_takes_long(attack: Attack, inside: str, size_bytes: int, unit: str) -> None:
    units = ",".join([unit] * (size_bytes // (len(unit) + 1)))
    raw = text("hi") + b"data: {%b}\n\n" % inside.replace("%s", units).encode() + END
    failure, _ = turned(attack, raw)
    ends = ("None", "values", "not JSON", "more than 4 MiB of arguments")
    attack.check(any(end in failure for end in ends), (unit, failure))


@pytest.mark.attack("events: large, a server")
@pytest.mark.parametrize("is_stream", [True, False])
async def test_server_serves_others_while_it_relays_large_events(attack: Attack, is_stream: bool) -> None:
    raw = [Large((unit,), "content", 3 * MIB // len(unit.encode())).raw for unit in ("A" * 64, "\\n", "é漢")]
    async with relaying(*[[*begin_stream(), Send(chunk(one)), Send(b"0\r\n\r\n")] for one in raw]) as (_, served):
        for _ in raw:
            async with attack.on_this_loop():
                answer = await served.ask({**HELLO, "stream": is_stream}).answer()
            attack.check(answer.status == 200, answer.body[:300])
            attack.check(len(answer.body) > 2 * MIB, answer.body[:300])
