"""Hostile event streams: blank lines, comments, tiny events, events of many lines."""

from dataclasses import dataclass

import pytest

from gatepass.http_client.pool import BUFFER_BYTES
from gatepass.sse.aggregate import CompletionAggregator
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import MAX_ENTRIES, EnvelopeDefaults, StreamSource
from gatepass.sse.client_transforms import PlainEvents
from gatepass.sse.event import MOST_LINES
from gatepass.sse.event_stream import EventStream
from gatepass.sse.repair import StreamRepair
from gatepass.sse.tool_calls import MOST_HELD_BYTES, is_complete_json
from tests.attacks.conftest import Attack
from tests.integration.answers import EVENTS
from tests.integration.gateway import HELLO, relaying
from tests.integration.scripted import Send, begin_stream, chunk
from tests.unit.sse.streams import DONE, data, read_error, text
from tests.unit.sse.streams import chunk as chunk_of

KIB = 1024
EVENT_LIMIT_BYTES = 32 * KIB
"""`limits.event_bytes` of these streams, small so that they reach it."""
FLOODS = [
    b"\n",
    b"\r",
    b"\r\n",
    b":\n\n",
    b":\r\r",
    b"data:\n\n",
    b"data: :\n\n",
    b"id:\n\n",
    b"event: x\n\n",
    b"retry\n\n",
]


@dataclass(frozen=True)
class Flood:
    """A stream of one text, followed by many repetitions of `unit`."""

    unit: bytes
    size_bytes: int
    step_bytes: int = BUFFER_BYTES
    has_ids: bool = False

    @property
    def raw(self) -> bytes:
        first = b"id: 1\n" + text("hi") if self.has_ids else text("hi")
        return first + self.unit * (self.size_bytes // len(self.unit))


def new_stream() -> EventStream:
    repair = StreamRepair(RepairOptions(None), EnvelopeDefaults(lambda prefix: f"{prefix}x", 1, "m"))
    source = StreamSource("chat", EVENT_LIMIT_BYTES, read_error)
    return EventStream(source, repair=repair, client_transform=PlainEvents())


def turned(attack: Attack, raw: bytes, step_bytes: int) -> tuple[int, EventStream]:
    """Relay `raw` in pieces, and return how much was relayed. Each turn of the event loop is measured."""
    stream, relayed_bytes = new_stream(), 0
    for at in range(0, len(raw), step_bytes):
        piece = raw[at : at + step_bytes]
        while (piece or stream.waiting) and stream.failure is None:
            with attack.on_loop():
                relayed_bytes += len(stream.feed(piece))
            piece = b""
    return relayed_bytes, stream


@pytest.mark.attack("streams: what is no event")
@pytest.mark.parametrize(
    "flood",
    [
        *(Flood(unit, 2 * EVENT_LIMIT_BYTES, step) for unit in FLOODS for step in (97, BUFFER_BYTES)),
        *(Flood(unit, EVENT_LIMIT_BYTES // 2, 4_096, has_ids=True) for unit in FLOODS),
        *(Flood(unit, 64 * KIB, has_ids=True) for unit in (b"\n", b":\n", b"adt:\rei\n\n")),
        *(Flood(unit, 512 * KIB) for unit in (b":\n", b":\n" * 40_000 + b"\n")),
    ],
    ids=lambda flood: f"{flood.unit[:9]!r} {flood.size_bytes}",
)
def test_bytes_that_form_no_event_are_not_kept(attack: Attack, flood: Flood) -> None:
    relayed_bytes, stream = turned(attack, flood.raw, flood.step_bytes)
    attack.check(relayed_bytes <= len(flood.raw) and stream.unfinished_bytes <= EVENT_LIMIT_BYTES, flood)


@pytest.mark.attack("streams: an event of many lines")
@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("line", [b":\n", b"data:\n", b"x\r", b"data: 1\r\n"])
@pytest.mark.parametrize("lines", [1, MOST_LINES, 2 * MOST_LINES + 1, 100_000, 1_000_000])
def test_an_event_has_a_limit_of_lines(attack: Attack, line: bytes, lines: int, is_whole: bool) -> None:
    raw = line * lines + (b"\n" if is_whole else b"")
    _, stream = turned(attack, text("hi") + raw, BUFFER_BYTES)
    attack.check(stream.failure is not None or lines <= 2 * MOST_LINES, (line, lines))


WIDE = [
    (b'{"choices":[', b"{}", b"]}"),
    (b'{"choices":[', b'{"delta":{"content":"a"}}', b"]}"),
    (b'{"choices":[{"index":0,"delta":{"tool_calls":[', b"{}", b"]}}]}"),
    (b'{"choices":[{"index":0,"delta":{"tool_calls":[', b'{"function":{"name":"a"}}', b"]}}]}"),
    (b'{"choices":[{"finish_reason":"stop","message":{"tool_calls":[', b'{"function":{"name":"a"}}', b"]}}]}"),
]


def wide(opening: bytes, unit: bytes, closing: bytes, count: int) -> bytes:
    return b"data: %b%b%b\n\n" % (opening, b",".join([unit] * min(count, 240 * KIB // len(unit))), closing)


def is_refused(attack: Attack, raw: bytes) -> bool:
    """Return whether an event fails in a stream, and also when the stream becomes one reply."""
    origin = EnvelopeDefaults(lambda prefix: f"{prefix}x", 1, "m")
    stream = EventStream(StreamSource("chat", 256 * KIB, read_error), repair=StreamRepair(RepairOptions(None), origin))
    aggregator = CompletionAggregator(StreamSource("chat", 256 * KIB, read_error), 256 * KIB, origin)
    for one in (stream, aggregator):
        with attack.on_loop():
            one.feed(raw)
    return stream.failure is not None and aggregator.failure is not None


@pytest.mark.attack("streams: wide events")
@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("count", [1, MAX_ENTRIES, MAX_ENTRIES + 1, 3_000, 80_000])
def test_an_event_has_a_limit_of_choices_and_calls(
    attack: Attack, kind: tuple[bytes, bytes, bytes], count: int
) -> None:
    attack.check(is_refused(attack, wide(*kind, count)) or count <= MAX_ENTRIES, (kind, count))


CALL_STATE_BYTES = 1_024
"""Memory that a repair keeps for one call: its id, its name and its position."""


@pytest.mark.attack("streams: arguments without an end")
@pytest.mark.parametrize("calls", [1, 4_000])
def test_endless_arguments_use_no_memory(attack: Attack, calls: int) -> None:
    """Eight times as much as is held of arguments, in one call and in many."""
    stream = new_stream()
    piece_chars = 8 * MOST_HELD_BYTES // 4_000
    with attack.memory(allowed_bytes=2 * MOST_HELD_BYTES + calls * CALL_STATE_BYTES + (1 << 18)):
        for number in range(4_000):
            index = number % calls
            piece = {"index": index, "id": f"c{index}", "function": {"name": "f", "arguments": "x" * piece_chars}}
            with attack.on_loop():
                stream.feed(data(chunk_of({"tool_calls": [piece]})))
    attack.check(stream.feed(DONE) == b"" and stream.failure is not None, calls)


@pytest.mark.attack("streams: arguments of calls")
@pytest.mark.parametrize("unit", ["[]", "1e300", '"\\n"', '"\ud83d"'])
def test_large_arguments_are_checked_for_completeness_within_the_limit(attack: Attack, unit: str) -> None:
    arguments = "[" + ",".join([unit] * (MOST_HELD_BYTES // (len(unit) + 1))) + "]"
    for text_of, expected in ((arguments, True), (arguments[:-1], False)):
        with attack.on_loop():
            found = is_complete_json(text_of)
        attack.check(found is expected, (unit, expected))


@pytest.mark.attack("streams: a server")
@pytest.mark.parametrize(
    ("unit", "is_stream"), [(b"\n", True), (b":\n\n", True), (b":\n", False), (b"data:\n\n", False)]
)
async def test_server_serves_others_while_an_upstream_sends_what_is_no_event(
    attack: Attack, unit: bytes, is_stream: bool
) -> None:
    flood = unit * (16 * KIB // len(unit))
    limits = {"event_bytes": 64 * KIB, "reply_bytes": 64 * KIB}
    dialogue = [*begin_stream(), Send(chunk(EVENTS[0])), *[Send(chunk(flood))] * 8, Send(b"0\r\n\r\n")]
    async with relaying(dialogue, limits=limits) as (_, served), attack.on_this_loop():
        answer = await served.ask({**HELLO, "stream": is_stream}).answer()
    attack.check(b"before the answer was complete" in answer.body or b"limits." in answer.body, answer.body[-400:])
