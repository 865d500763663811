from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import StreamSource
from gatepass.sse.event_stream import EventStream
from gatepass.sse.repair import StreamRepair
from gatepass.sse.usage import Usage
from tests.unit.sse.documents import clean_streams, events, fed, meaning, origin
from tests.unit.sse.peer import helper_reads
from tests.unit.sse.repair_streams import new_repair
from tests.unit.sse.streams import DONE, LIMIT_BYTES, REALISTIC, chunk, code, data, read_error, text
from tests.unit.sse.test_repair_defects import MISREAD, OTHERS, SAMPLE, named, read_by_helper

CLEAN = b"".join(events(SAMPLE))
WHOLE = {
    **{name: SAMPLE[0][name] for name in ("id", "created", "model")},
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
}


def repaired(blocks: list[bytes], draw: Any = None, **more: Any) -> tuple[bytes, EventStream]:
    repair = StreamRepair(RepairOptions(include_usage=True), origin())
    stream = EventStream(StreamSource("chat", LIMIT_BYTES, read_error), repair=repair, **more)
    return b"".join(fed(stream.feed, blocks, draw)) + stream.finish(), stream


@pytest.mark.parametrize("has_done", [True, False])
@pytest.mark.parametrize("defect", [*MISREAD, *OTHERS], ids=named)
def test_event_stream_with_a_repair_returns_what_the_repair_alone_returns(defect, has_done):
    blocks = events(defect(copy.deepcopy(SAMPLE)))
    out, stream = repaired(blocks if has_done else blocks[:-1])
    alone = new_repair(include_usage=True)
    assert out == b"".join(alone.feed(block) for block in blocks)
    assert read_by_helper(out) == meaning(helper_reads(CLEAN))
    assert (stream.done, stream.failure, stream.usage is not None) == (True, None, True)
    assert stream.adapted == ((*alone.adapted,) if has_done else ("sse=done", *alone.adapted))


def test_clean_stream_is_unchanged():
    out, stream = repaired(REALISTIC, choices=2)
    assert (out, stream.adapted) == (b"".join(REALISTIC), ())


@given(st.data())
def test_every_clean_stream_is_unchanged_in_pieces_of_any_size(draw):
    _, chunks = draw.draw(clean_streams())
    out, stream = repaired(events(chunks), draw.draw)
    assert (out, stream.adapted) == (b"".join(events(chunks)), ())


def test_event_that_the_fast_path_matches_is_not_passed_to_the_repair():
    class Counting(StreamRepair):
        shown = 0

        def repair_event(self, block, payload):
            self.shown += 1
            return super().repair_event(block, payload)

    repair = Counting(RepairOptions(), origin())
    stream = EventStream(StreamSource("chat", LIMIT_BYTES, read_error), repair=repair)
    for number in range(100):
        stream.feed(text(f"word {number}"))
    assert repair.shown == 1


def test_whole_completion_in_a_stream_is_an_answer_with_a_repair():
    out, stream = repaired([data(WHOLE)])
    assert (stream.done, stream.failure) == (True, None)
    assert helper_reads(out)["choices"][0]["message"]["content"] == "Hi"


def test_usage_that_the_repair_moves_is_noted():
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    _, stream = repaired([data(SAMPLE[0]), data(chunk({}, "stop", usage=usage)), DONE])
    assert stream.usage == Usage(1, 2, 3)


def test_event_of_a_list_or_a_number_passes():
    blocks = [data(SAMPLE[0]), data([1]), data(7), data(SAMPLE[-2]), DONE]
    assert repaired(blocks)[0] == b"".join(blocks)


def test_cut_stream_is_a_failure_and_never_looks_finished():
    out, stream = repaired([data(SAMPLE[0] | {"usage": {"total_tokens": 1}}), data(SAMPLE[1])])
    assert (code(stream), DONE in out) == ("upstream_closed", False)
