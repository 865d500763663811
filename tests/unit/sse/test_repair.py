from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.sse import choice_repair
from tests.unit.sse.documents import clean_streams, events, fed
from tests.unit.sse.repair_streams import ROLE, STOP, USAGE, new_repair, payloads
from tests.unit.sse.streams import DONE, REALISTIC, chunk, data, new_stream, pieces, text, with_line_ends

# --- clean streams --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("gap", [b"", b" "])
def test_clean_stream_is_unchanged_in_runs_of_any_size_and_each_run_is_the_same_object(end, gap):
    blocks = [with_line_ends(event.replace(b"data: {", b"data:" + gap + b"{"), end) for event in REALISTIC]
    for size in range(1, len(blocks) + 1):
        repair = new_repair(include_usage=True)
        for at in range(0, len(blocks), size):
            run = b"".join(blocks[at : at + size])
            assert repair.feed(run) is run
        assert (repair.finish(), repair.adapted) == (b"", ())


@given(st.data())
def test_every_clean_stream_is_unchanged_whatever_runs_it_comes_in(draw):
    _, chunks = draw.draw(clean_streams())
    blocks = [block for event in events(chunks) for block in (b": ping\n\n", event)]
    repair = new_repair(include_usage=True)
    assert b"".join(fed(repair.feed, blocks, draw.draw)) == b"".join(blocks)
    assert (repair.finish(), repair.adapted) == (b"", ())


@pytest.mark.parametrize(
    "block", [data({"error": {"message": "boom"}}), data({"object": "error", "message": "boom"}), data({"x": 1})]
)
def test_event_that_is_not_a_chunk_passes_as_the_same_object(block):
    repair = new_repair()
    assert repair.feed(block) is block
    assert (repair.finish(), repair.adapted) == (b"", ())


def test_events_similar_to_a_clean_one_may_pass_without_a_look():
    repair = new_repair()
    seen = []
    for event in [data(ROLE), text("a"), text("b"), text("c") + text("d"), data(STOP), text("e")]:
        repair.feed(event)
        seen.append(repair.skips_similar)
    assert seen == [False, True, True, True, False, True]


@pytest.mark.parametrize(
    "varied",
    [
        chunk({"role": "assistant", "content": "a"}),
        chunk({"content": "a"}, usage=USAGE),
        chunk({"content": "a"}, ""),
        chunk({"content": "a"}, "stop"),
        chunk({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"arguments": "a"}}]}),
        chunk({"function_call": {"arguments": "a"}}),
        chunk({"content": "a"}) | {"id": ""},
        {"code": 0, "data": chunk({"content": "a"})},
    ],
)
def test_event_after_one_with_state_is_always_repaired(varied):
    repair = new_repair()
    for _ in range(3):
        repair.feed(data(ROLE) + data(varied))
        assert not repair.skips_similar


# --- repaired streams -----------------------------------------------------------------------------

BROKEN = [
    {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
    ROLE,
    chunk({"role": "assistant", "content": "größer 東京 🚀"}, usage=USAGE),
    chunk({"content": " data: [DONE]\n\n"}, ""),
    chunk({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]}),
    chunk({"tool_calls": [{"id": "b", "function": {"name": "g", "arguments": {"x": "\n"}}}]}),
    chunk(None) | {"choices": None},
    chunk(None) | {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]},
    chunk(None, usage=USAGE),
]
CALL_A = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALL_B = {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": '{"x":"\\n"}'}}
REPAIRED = [
    ROLE | {"prompt_filter_results": [{"prompt_index": 0}]},
    chunk({"content": "größer 東京 🚀"}, usage=None),
    chunk({"content": " data: [DONE]\n\n"}),
    chunk({"tool_calls": [CALL_A]}),
    chunk({"tool_calls": [CALL_B]}),
    chunk(None) | {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    chunk(None, usage=USAGE),
]
NAMES = (
    *(choice_repair.EMPTY_CHOICES, choice_repair.ROLE, choice_repair.USAGE, choice_repair.FINISH),
    *(choice_repair.TOOL_INDEX, choice_repair.TOOL_TYPE, choice_repair.TOOL_ARGUMENTS, choice_repair.DELTA),
)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("gap", [b"", b" "])
def test_broken_stream_is_repaired_alike_in_runs_of_any_size(end, gap):
    blocks = [with_line_ends(event.replace(b"data: {", b"data:" + gap + b"{"), end) for event in events(BROKEN)]
    outs = set()
    for size in range(1, len(blocks) + 1):
        repair = new_repair(include_usage=True)
        runs = [b"".join(blocks[at : at + size]) for at in range(0, len(blocks), size)]
        out = b"".join(repair.feed(run) for run in runs)
        assert (payloads(out), repair.finish()) == ([*REPAIRED, b"[DONE]"], b"")
        assert repair.adapted == NAMES
        outs.add(out)
    assert len(outs) == 1


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_broken_stream_is_repaired_alike_in_an_event_stream_at_every_split_and_in_pieces_of_any_size(end):
    whole = with_line_ends(b"".join(events(BROKEN)), end)
    splits = [[whole[:at], whole[at:]] for at in range(0, len(whole) + 1, 1 if end == b"\n" else 5)]
    for cut in [*splits, *(list(pieces(whole, size)) for size in range(1, 65))]:
        stream = new_stream(repair=new_repair(include_usage=True))
        out = b"".join(map(stream.feed, cut))
        assert (payloads(out), stream.done, stream.adapted) == ([*REPAIRED, b"[DONE]"], True, NAMES)


def test_names_are_those_that_are_documented():
    assert set(NAMES) < set(choice_repair.NAMES)
    assert len(set(choice_repair.NAMES)) == len(choice_repair.NAMES) == 17


def test_repaired_event_is_one_data_line_and_a_clean_one_keeps_its_id_and_comments():
    repair = new_repair()
    clean = b": hello\nid: 7\nevent: message\n" + data(ROLE)
    broken = b": hello\nid: 8\n" + data(chunk({"content": "a"}, ""))
    assert repair.feed(clean + broken) == clean + text("a")


def test_half_of_a_surrogate_pair_survives_a_repair():
    broken = data(chunk({"content": "X"}, "")).replace(b"X", b"\\ud83d")
    assert b'"content":"\\ud83d"' in new_repair().feed(broken)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="frames of C are counted apart: what was read can be written")
def test_chunk_nested_too_deep_to_be_written_passes_as_it_is():
    deep = b"[" * 850 + b"]" * 850
    broken = data(chunk({"content": "X"}, "")).replace(b'"X"', deep)

    def at_depth(frames):
        return at_depth(frames - 1) if frames else new_repair().feed(broken)

    outs = {at_depth(frames) == broken for frames in range(120)}
    assert outs == {True, False}


def test_too_deep_event_does_not_break_finish():
    deep: list[object] = []
    for _ in range(200_000):
        deep = [deep]
    repair = new_repair()
    assert repair.repair_event(b"", {"x": deep}) == b""
    assert repair.finish() == b""


def test_finish_gives_what_is_held_once():
    repair = new_repair(include_usage=True)
    repair.feed(data(ROLE | {"usage": USAGE}))
    assert payloads(repair.finish()) == [chunk(None, usage=USAGE)]
    assert repair.finish() == b""


def test_stream_without_an_envelope_still_gets_its_usage():
    repair = new_repair(include_usage=True)
    repair.feed(data({"choices": [{"delta": {"content": "a"}}], "usage": USAGE}))
    assert payloads(repair.finish()) == [{"object": "chat.completion.chunk", "choices": [], "usage": USAGE}]


def test_clean_event_passes_as_the_same_object_and_a_broken_one_does_not():
    asked = new_repair()
    event, broken = text("a"), data(chunk({"content": "a"}, ""))
    assert (asked.repair_event(event, chunk({"content": "a"})) is event, asked.skips_similar) == (True, True)
    assert (asked.repair_event(broken, chunk({"content": "a"}, "")), asked.skips_similar) == (event, False)
    assert asked.finish() + DONE == DONE
