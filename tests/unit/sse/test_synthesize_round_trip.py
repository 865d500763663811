"""Synthesis and aggregation undo each other, byte for byte where nothing is lost in between."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gatepass.sse.aggregate import CompletionAggregator
from gatepass.sse.chunk import StreamSource
from gatepass.sse.synthesize import PIECE_CHARS, synthesize_stream
from tests.unit.sse.documents import clean_streams, completions, events, fed, legacy_completions, meaning, origin
from tests.unit.sse.peer import helper_reads
from tests.unit.sse.streams import LIMIT_BYTES, read_error


def aggregated(blocks: list[bytes], choices: int = 1) -> bytes:
    one = CompletionAggregator(StreamSource("chat", LIMIT_BYTES, read_error), LIMIT_BYTES, origin(), choices=choices)
    fed(one.feed, blocks)
    return one.finish()


@given(completions(), st.integers(1, 5) | st.just(PIECE_CHARS))
def test_synthesised_and_aggregated_is_the_same_in_meaning(document, piece_chars):
    blocks = list(synthesize_stream(document, True, origin(), piece_chars))
    assert meaning(json.loads(aggregated(blocks, len(document["choices"])))) == meaning(document)


@given(legacy_completions(), st.integers(1, 5))
def test_legacy_synthesised_and_aggregated_is_the_same(document, piece_chars):
    blocks = list(synthesize_stream(document, True, origin(), piece_chars))
    assert json.loads(aggregated(blocks, len(document["choices"]))) == document


@given(clean_streams())
def test_aggregated_and_synthesised_means_the_same_to_the_helper_of_the_sdk(stream):
    _, chunks = stream
    again = synthesize_stream(json.loads(aggregated(events(chunks))), True, origin())
    assert meaning(helper_reads(b"".join(again))) == meaning(helper_reads(b"".join(events(chunks))))


@given(clean_streams())
def test_a_second_round_changes_nothing_at_all(stream):
    _, chunks = stream
    once = aggregated(events(chunks))
    assert aggregated(list(synthesize_stream(json.loads(once), True, origin()))) == once
