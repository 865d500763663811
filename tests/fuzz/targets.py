"""Fuzz targets: functions that check promises for any bytes. A violation raises AssertionError."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from gatepass.config.access import BUILT_IN_PROFILES
from gatepass.errors import GatepassError
from gatepass.sse.aggregate import CompletionAggregator
from gatepass.sse.choice_repair import NAMES, RepairOptions
from gatepass.sse.chunk import StreamSource
from gatepass.sse.event import Framer, read_json, split_events
from gatepass.sse.event_stream import EventStream
from gatepass.sse.repair import StreamRepair, synthesize_stream
from tests.fuzz import parsers
from tests.fuzz.pieces import pieces
from tests.unit.sse.documents import origin
from tests.unit.sse.streams import DONE, read_error

LIMIT_BYTES = 1 << 16

REPAIR_OPTIONS = (
    RepairOptions(include_usage=True),
    RepairOptions(include_usage=False, profile=BUILT_IN_PROFILES["ragflow"]),
    RepairOptions(include_usage=None),
    RepairOptions(include_usage=True, cumulative=True, profile=BUILT_IN_PROFILES["ragflow"]),
)

_TRAILING_COMMENTS = re.compile(rb"(?:(?<![^\r\n]):[^\r\n]*(?:\r\n?|\n))+\Z")

_DATA = re.compile(rb"(?:\A|[\r\n])data")

_CALL_AFTER_END = re.compile(rb'"finish_reason":\s*+"[^"].*"(?:tool_calls|function_call)":\s*+[\[{]', re.DOTALL)
"""The arguments got their `{}` at the first finish reason. With more of them they are no JSON."""

Target = Callable[[bytes, Random], None]


def validated_repaired_and_aggregated(body: bytes, random: Random) -> None:
    """A stream in pieces of random sizes is validated, repaired and aggregated."""
    repair = StreamRepair(random.choice(REPAIR_OPTIONS), origin())
    stream = EventStream(StreamSource("chat", LIMIT_BYTES, read_error), repair=repair)
    aggregator = CompletionAggregator(StreamSource("chat", LIMIT_BYTES, read_error), LIMIT_BYTES, origin())
    out = b""
    for piece in pieces(body, random):
        output = stream.feed(piece)
        aggregator.feed(output)
        out += output
    output = stream.finish()
    aggregator.feed(output)
    _check_complete_events(out + output)
    assert set(repair.adapted) <= set(NAMES)
    assert stream.done or DONE not in split_events(out + output)
    may_fail = (
        stream.failure is not None or not stream.done or _is_no_text(out) or _CALL_AFTER_END.search(out) is not None
    )
    _finish(aggregator, may_fail=may_fail)


def repair_ignores_chunking(body: bytes, random: Random) -> None:
    """A repaired stream does not depend on the chunks, and events without a fault stay unchanged."""
    blocks = split_events(Framer(LIMIT_BYTES).feed(body))
    options = random.choice(REPAIR_OPTIONS)
    single_stream, merged_stream = (
        EventStream(StreamSource("chat", LIMIT_BYTES, read_error), repair=StreamRepair(options, origin()))
        for _ in range(2)
    )
    single = b"".join([*map(single_stream.feed, blocks), single_stream.finish()])
    merged = b"".join([*map(merged_stream.feed, _runs(blocks, random)), merged_stream.finish()])
    # blank lines aside: the framer holds back a CR at the end of a run, which could be half of a CR LF
    assert merged.split() == single.split()
    assert (single_stream.adapted, str(single_stream.failure)) == (merged_stream.adapted, str(merged_stream.failure))
    # comments overtake a finish reason that waits for the usage; of an event that is an error only they are relayed
    relayed = split_events(single)
    known, shown = _data_of(blocks), _data_of(relayed)
    is_kept = single_stream.failure is not None or set(relayed) <= set(blocks)
    assert single_stream.adapted or (is_kept and shown == known[: len(shown)])
    assert single_stream.finish() == b""
    _check_complete_events(single)


def _data_of(blocks: list[bytes]) -> list[bytes]:
    return [block for block in blocks if _DATA.search(block)]


def aggregation_ignores_chunking(body: bytes, random: Random) -> None:
    """An aggregation returns the same reply or error for any chunks."""
    blocks = split_events(Framer(LIMIT_BYTES).feed(body))
    single, merged = (
        CompletionAggregator(StreamSource("chat", LIMIT_BYTES, read_error), LIMIT_BYTES, origin()) for _ in range(2)
    )
    for block in blocks:
        single.feed(block)
    for run in _runs(blocks, random):
        merged.feed(run)
    assert _outcome(single) == _outcome(merged)


def synthesis_round_trip(body: bytes, random: Random) -> None:
    """Any document can be synthesized to a stream of complete events, which can be aggregated again."""
    try:
        document = read_json(body)
    except ValueError:
        return
    if not isinstance(document, dict):
        return
    try:
        blocks = list(
            synthesize_stream(document, random.random() < 0.5, origin(), piece_chars=random.choice([1, 7, 1 << 17]))
        )
    except ValueError:  # nested too deep
        return
    assert blocks[-1] == DONE
    _check_complete_events(b"".join(blocks))
    aggregator = CompletionAggregator(StreamSource("chat", 1 << 26, read_error), LIMIT_BYTES, origin())
    for block in blocks:
        aggregator.feed(block)
    has_choices = len(blocks) > 2
    _finish(aggregator, may_fail=not has_choices or aggregator.failure is not None)
    assert has_choices is False or aggregator.failure is None or "error" in document


@dataclass(frozen=True, slots=True)
class Family:
    """Targets that share the corpus in `corpus/NAME`, each with its share of the runs.

    - `share`: the part of a campaign for this family
    - `traced`: the part of gatepass whose branches guide the campaign
    """

    targets: tuple[tuple[Target, int], ...]
    share: int
    traced: str


FAMILIES: Mapping[str, Family] = {
    "stream": Family(
        (
            (validated_repaired_and_aggregated, 8),
            (repair_ignores_chunking, 6),
            (aggregation_ignores_chunking, 4),
            (synthesis_round_trip, 3),
        ),
        14,
        "gatepass/sse",
    ),
    "framing": Family(((parsers.framing_ignores_chunking, 1),), 4, "gatepass/sse/event"),
    "head": Family(((parsers.parser_ignores_chunking, 1),), 4, "gatepass/server"),
    "body": Family(((parsers.body_is_read_as_the_standard_parser_reads_it, 1),), 4, "gatepass/protocols/request"),
    "form": Family(((parsers.form_has_the_model_that_it_is_given, 1),), 2, "gatepass/proxy/uploads"),
    "token": Family(((parsers.reply_is_token_or_failure, 1),), 4, "gatepass/tokens"),
    "config": Family(((parsers.config_loads_or_is_rejected, 1),), 1, "gatepass/config"),
}


def _runs(blocks: list[bytes], random: Random) -> Iterator[bytes]:
    at = 0
    while at < len(blocks):
        size = random.randint(1, 5)
        yield b"".join(blocks[at : at + size])
        at += size


def _check_complete_events(stream: bytes) -> None:
    """Check that the stream has only complete events, and then comment lines."""
    events = _TRAILING_COMMENTS.sub(b"", stream)
    assert b"".join(split_events(events)) == events, "the output has an incomplete event"


def _is_no_text(out: bytes) -> bool:
    """Return whether the output has bytes that JSON does not allow. The fast path does not check the text of events."""
    try:
        out.decode()
    except UnicodeDecodeError:
        return True
    return re.search(rb"[\x00-\x09\x0b\x0c\x0e-\x1f]", out) is not None


def _finish(aggregator: CompletionAggregator, *, may_fail: bool) -> None:
    try:
        reply = read_json(aggregator.finish())
    except GatepassError:
        assert may_fail
        return
    assert reply["choices"]
    assert all(isinstance(choice["finish_reason"], str) for choice in reply["choices"])


def _outcome(aggregator: CompletionAggregator) -> Any:
    try:
        return aggregator.finish()
    except GatepassError as error:
        return error.public_code, error.message
