"""Streams with one defect and what becomes of them; correct events pass as the same object."""

import itertools
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.config.access import Profile
from gatepass.sse import choice_repair, tool_calls
from gatepass.sse.choice_repair import MAX_TEXTS
from gatepass.sse.chunk import MAX_ENTRIES
from gatepass.sse.repair import MAX_MOVED_BYTES, split_finish
from gatepass.sse.usage import Usage
from tests.memory import traced_memory
from tests.unit.sse.documents import clean_streams, events, fed
from tests.unit.sse.peer import helper_reads
from tests.unit.sse.repair_streams import ROLE, STOP, USAGE, new_repair, payloads, repaired
from tests.unit.sse.replies import without
from tests.unit.sse.streams import REALISTIC, chunk, data, new_stream, pieces, with_line_ends

SPLITS = Profile(splits_finish=True)
Case = tuple[list[Any], list[Any], tuple[str, ...], dict[str, Any]]


def case(sent: list[Any], expected: list[Any], *names: str, **options: Any) -> Case:
    return sent, expected, tuple(f"repair={name}" for name in names), options


def same(*sent: Any, **options: Any) -> Case:
    return case([*sent], [*sent], **options)


def choice(**members: Any) -> dict[str, Any]:
    return chunk(None) | {"choices": [{"index": 0, **members}]}


def open_choice(**members: Any) -> dict[str, Any]:
    return choice(finish_reason=None, **members)


def said(content: str, *, index: int = 0, **more: Any) -> dict[str, Any]:
    return chunk({"content": content}, index=index, **more)


A, B = said("a"), said("b")
WITH_ROLE = chunk({"role": "assistant", "content": "a"})
CALL = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = chunk({"tool_calls": [CALL]})
OPEN: list[dict[str, Any]] = [{"delta": None}, {}, {"delta": "x"}, {"delta": None, "content_filter_offsets": {"a": 1}}]
CHOICES: dict[str, Case] = {
    "a role in each delta of each choice": case(
        [ROLE, WITH_ROLE, chunk({"role": "assistant", "content": "b"}, index=1), chunk({"role": "tool"}, index=1)],
        [ROLE, A, chunk({"role": "assistant", "content": "b"}, index=1), chunk({}, index=1)],
        "role",
    ),
    "empty roles": case([chunk({"role": "", "content": "a"})] * 2, [WITH_ROLE, A], "role"),
    "an empty role after one": case([WITH_ROLE, chunk({"role": "", "content": "b"})], [WITH_ROLE, B], "role"),
    "a null role": same(ROLE, chunk({"role": None, "content": "a"})),
    "a first role without content": case([chunk({"role": "assistant"}), A], [ROLE, A], "delta"),
    **{
        f"a choice of {members}": case(
            [ROLE, open_choice(**members), STOP], [ROLE, open_choice(**members | {"delta": {}}), STOP], "delta"
        )
        for members in OPEN
    },
    "a text": same(open_choice(text="a"), open_choice(text="b")),
    "an empty finish reason": case([ROLE, chunk({"content": "a"}, ""), STOP], [ROLE, A, STOP], "finish"),
    **{f"the end {end}": same(ROLE, chunk({"content": "a"}, end)) for end in ("stop", "length", "tool_calls", None)},
    "stop after calls": case([ROLE, CALLED, STOP], [ROLE, CALLED, chunk({}, "tool_calls")], "finish"),
    "length after calls": same(ROLE, CALLED, chunk({}, "length")),
    "calls of another choice": same(ROLE, CALLED, said("a", index=1), chunk({}, "stop", index=1)),
    **{
        f"a foreign end {end}": case(
            [ROLE, choice(delta={}, finish_reason=end)],
            [ROLE, choice(delta={}, finish_reason=standard, native_finish_reason=end)],
            "finish",
        )
        for end, standard in (("eos", "stop"), ("max_tokens", "length"), ("SAFETY", "content_filter"))
    },
    "messages piece by piece": case(
        [*(open_choice(message={"role": "assistant", "content": part}) for part in "ab"), STOP],
        [open_choice(delta={"role": "assistant", "content": "a"}), open_choice(delta={"content": "b"}), STOP],
        *("message", "role"),
    ),
    "a message after deltas": case(
        [ROLE, A, choice(message={"content": "a"}, finish_reason="stop")],
        [ROLE, A, choice(delta={}, finish_reason="stop")],
        "message",
    ),
    "a message after a role": case(
        [ROLE, open_choice(message={"content": "a"})], [ROLE, open_choice(delta={"content": "a"})], "message"
    ),
    # found by the fuzzer: every part accepts only a text as a finish reason
    "a message after a number for an end": case(
        [choice(delta={}, finish_reason=1.5), open_choice(message={"content": "a"})],
        [choice(delta={}, finish_reason=1.5), open_choice(delta={"content": "a"})],
        "message",
    ),
    "choices without index": case(
        [chunk(None) | {"choices": [{"delta": {"content": part}} for part in "ab"]}],
        [chunk(None) | {"choices": [{"index": at, "delta": {"content": part}} for at, part in enumerate("ab")]}],
        "index",
    ),
    "choices that are no objects": same(ROLE, chunk(None) | {"choices": [None, 7]}, STOP),
}

FILTER = [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}]
AZURE_FIRST = {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": FILTER}
"""Azure's first chunk (mentat#429, autogen#6465)."""
CITED, LARGE = chunk(None, citations=["u"]), chunk(None, x="x" * MAX_MOVED_BYTES)
ALONE = chunk(None, usage=USAGE)
EMPTY: list[dict[str, Any]] = [
    *({}, {"type": "ping"}, {"event": "ping"}, {"code": 0, "data": True}, {"code": "200", "msg": "ok", "data": {}}),
    *(chunk(None), chunk(None) | {"choices": None}, chunk(None, usage=None), {"object": "chat.completion.chunk"}),
    *(chunk(None, obfuscation="xyz", citations=[], x=None), {"choices": "x"}),
]
FOREIGN: list[Any] = [
    *({"type": "status", "text": "searching"}, {"event": {"type": "status"}}, {"data": 1}, [1], 7),
    {"code": 102, "message": "boom", "data": None},
]


def wrapped(payload: Any) -> dict[str, Any]:
    return {"code": 0, "msg": "ok", "data": payload}


ENVELOPES: dict[str, Case] = {
    "Azure's first chunk": case([AZURE_FIRST, ROLE, STOP], [ROLE | {"prompt_filter_results": FILTER}, STOP], "choices"),
    "members that no choices follow": case([ROLE, STOP, CITED], [ROLE, STOP, CITED], "choices"),
    "members and usage at the end": case(
        [ROLE, STOP | {"usage": USAGE}, CITED],
        [ROLE, STOP | {"usage": None}, chunk(None, citations=["u"], usage=USAGE)],
        *("usage", "choices"),
        include_usage=True,
    ),
    "members beside an unrequested usage": case(
        [ROLE, STOP, chunk(None, usage=USAGE, citations=["u"])], [ROLE, STOP, CITED], "usage", "choices"
    ),
    "members that the next chunk has": case(
        [chunk(None, citations=["old"], x=1), ROLE | {"citations": ["new"]}],
        [ROLE | {"citations": ["new"], "x": 1}],
        "choices",
    ),
    "large members": same(LARGE, ROLE),
    **{f"nothing: {nothing}": case([ROLE, nothing, STOP], [ROLE, STOP], "choices") for nothing in EMPTY},
    **{f"no chunk: {foreign}": same(ROLE, foreign, STOP) for foreign in FOREIGN},
    **{
        f"usage without choices: {bare}": case([ROLE, STOP, bare], [ROLE, STOP, ALONE], "choices", include_usage=True)
        for bare in (ALONE | {"choices": None}, without(ALONE, "choices"))
    },
    "usage without an id": case(
        [ROLE, STOP, without(ALONE, "id")], [ROLE, STOP, ALONE], "envelope", include_usage=True
    ),
    **{
        f"no {name}: {is_there}": case(
            [ROLE, STOP | {name: None} if is_there else without(STOP, name)], [ROLE, STOP], "envelope"
        )
        for name in ("id", "object", "created", "model")
        for is_there in (True, False)
    },
    "an envelope that no chunk has": same(without(ROLE, "id", "created"), without(STOP, "id", "created")),
    "a model of the second chunk": case(
        [without(ROLE, "model"), A, without(STOP, "model")], [without(ROLE, "model"), A, STOP], "envelope"
    ),
    "different ids": same(ROLE | {"id": "a"}, A | {"id": "b"}, STOP | {"id": "c"}),
    "wrapped chunks": case(
        [*map(wrapped, (ROLE, chunk({"role": "assistant", "content": "a"}, ""), STOP)), {"code": 0, "data": True}],
        [ROLE, A, STOP],
        *("wrapped", "role", "finish", "choices"),
    ),
}


def early(number: int) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": 11, "completion_tokens": number, "total_tokens": 11 + number}}


def null(*chunks: dict[str, Any]) -> list[Any]:
    return [one | {"usage": None} for one in chunks]


EACH = [ROLE | early(0), A | early(1), STOP | {"usage": USAGE}]
EARLY = chunk(None, **early(0))
USAGES: dict[str, Case] = {
    "requested, at the end": same(*null(ROLE, A), STOP, ALONE, include_usage=True),
    "requested, in every chunk": case(EACH, [*null(ROLE, A, STOP), ALONE], "usage", include_usage=True),
    "requested, in every chunk and alone": case(
        [*EACH[:2], STOP | early(2), ALONE], [*null(ROLE, A, STOP), ALONE], "usage", include_usage=True
    ),
    "requested, alone three times": case(
        [ROLE, EARLY, A, STOP, ALONE, chunk(None, **early(9))],
        [ROLE, A, STOP, ALONE],
        *("usage", "choices"),
        include_usage=True,
    ),
    "requested, alone and early": case(
        [ROLE, ALONE, A, STOP], [ROLE, A, STOP, ALONE], "usage", "choices", include_usage=True
    ),
    "requested, no [DONE]": case(
        [EACH[0], EACH[2]], [*null(ROLE, STOP), ALONE], "usage", include_usage=True, done=False
    ),
    "null": same(*null(ROLE, A), STOP),
    "empty": case([ROLE | {"usage": {}}, A | {"usage": {}}, STOP], [ROLE, A, STOP], "usage"),
    "beside the last finish reason": same(ROLE, A, EACH[2]),
    "beside two finish reasons": case([ROLE, A, EACH[2], EACH[2]], [ROLE, A, EACH[2], STOP], "usage"),
    "in every chunk and alone": case([*EACH, ALONE], [ROLE, A, EACH[2]], "usage", "choices"),
    "of two choices": case(
        [ROLE, said("b", index=1), STOP | early(1), chunk({}, "stop", 1, usage=USAGE)],
        [ROLE, said("b", index=1), STOP, chunk({}, "stop", 1, usage=USAGE)],
        "usage",
    ),
    "alone": case([ROLE, STOP, ALONE], [ROLE, STOP], "usage", "choices"),
    "dropped": case([*EACH, ALONE], [ROLE, A, STOP], "usage", "choices", drops_usage=True),
    "requested in every chunk": same(*EACH, ALONE, include_usage=None),
    "split from the text with its end": case(
        [ROLE, chunk({"content": "a"}, "stop", usage=USAGE)],
        [ROLE, A | {"usage": None}, EACH[2]],
        "split",
        profile=SPLITS,
    ),
    "split without usage": case([ROLE, chunk({"content": "a"}, "stop")], [ROLE, A, STOP], "split", profile=SPLITS),
    "nothing to split": same(ROLE, A, STOP, profile=SPLITS),
}


def grown(whole: str, step: int = 3, **more: Any) -> list[Any]:
    return [said(whole[:end], **more) for end in range(step, len(whole) + step, step)]


def read(chunks: list[Any], name: str = "content", index: int = 0) -> str:
    """The text that a client joins."""
    choices = [choice for one in chunks for choice in one["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get(name) or "" for choice in choices)


SENTENCE = "The quick brown fox jumps over the lazy dog."
CUMULATIVE: dict[str, Case] = {
    "growing texts": case(
        [ROLE, *grown(SENTENCE), *grown(SENTENCE)[-1:], STOP],
        [ROLE, *(said(SENTENCE[at : at + 3]) for at in range(0, len(SENTENCE), 3)), said(""), STOP],
        "cumulative",
        cumulative=True,
    ),
    "without the option": same(ROLE, *grown(SENTENCE), STOP),
    "plain texts": same(ROLE, *map(said, ["a", "b", "c", "abc", "once"]), STOP, cumulative=True),
    "plain from the first other text": case(
        [*map(said, ["1", "12", "123", "x", "1234"])],
        [*map(said, ["1", "2", "3", "x", "1234"])],
        "cumulative",
        cumulative=True,
    ),
    "empty texts": case(
        [*map(said, ["", "a", "", "ab", "b"])], [*map(said, ["", "a", "", "b", "b"])], "cumulative", cumulative=True
    ),
}


@pytest.mark.parametrize("name", [*CHOICES, *ENVELOPES, *USAGES, *CUMULATIVE])
def test_a_defect_is_repaired_and_named_and_all_else_is_unchanged(name):
    sent, expected, names, options = (CHOICES | ENVELOPES | USAGES | CUMULATIVE)[name]
    out, adapted = repaired(*sent, **options)
    assert (out, set(adapted)) == (expected, set(names))


# --- texts that grow ------------------------------------------------------------------------------


def test_no_more_texts_are_watched_than_may():
    chunks = [one for index in range(MAX_TEXTS + 2) for one in grown(SENTENCE, 12, index=index)]
    out, _ = repaired(*chunks, cumulative=True)
    assert read(out, index=MAX_TEXTS - 1) == SENTENCE
    assert read(out, index=MAX_TEXTS) == read(chunks)


# --- a whole completion in one event --------------------------------------------------------------

WHOLE = {
    **{name: ROLE[name] for name in ("id", "created", "model")},
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": USAGE,
}


@pytest.mark.parametrize("sent", [[WHOLE], [WHOLE | {"object": "chat.completion.chunk"}], [wrapped(WHOLE), ALONE]])
def test_whole_completion_in_one_event_becomes_its_delta(sent):
    out, adapted = repaired(*sent, include_usage=True)
    only = chunk({"role": "assistant", "content": "Hi"}, "stop", usage=None)
    assert out == [only | {"choices": [without(only["choices"][0], "logprobs")]}, ALONE]
    assert "repair=message" in adapted


def test_second_whole_completion_repeats_the_first_and_adds_nothing():
    out, _ = repaired(WHOLE, WHOLE)
    assert read(out) == "Hi"


def test_whole_completion_in_a_stream_is_an_answer_with_a_repair():
    stream = new_stream(repair=new_repair())
    out = stream.feed(data(WHOLE)) + stream.finish()
    assert (stream.done, stream.failure) == (True, None)
    assert helper_reads(out)["choices"][0]["message"]["content"] == "Hi"


# --- a finish reason in a chunk of its own --------------------------------------------------------


def test_a_split_leaves_each_member_with_its_text_or_its_end():
    payload = chunk({"content": "a"}, "stop", usage=USAGE, citations=["u"])
    payload["choices"][0] |= {"logprobs": {"content": []}, "stop_reason": "eos"}
    ended = payload["choices"][0]
    payload["choices"] += [{"index": 1, "delta": {"content": "b"}, "finish_reason": None}, None]
    opened = [ended | {"finish_reason": None}, *payload["choices"][1:]]
    assert split_finish(payload) == (
        chunk(None, usage=None, citations=["u"]) | {"choices": opened},
        chunk(None, usage=USAGE) | {"choices": [ended | {"delta": {}, "logprobs": None}]},
    )


# --- correct streams ------------------------------------------------------------------------------


@given(st.data())
def test_every_clean_stream_is_unchanged_whatever_pieces_it_comes_in(draw):
    _, chunks = draw.draw(clean_streams())
    blocks = [block for event in events(chunks) for block in (b": ping\n\n", event)]
    stream = new_stream(repair=new_repair(include_usage=True), choices=1)
    out = b"".join(fed(stream.feed, blocks, draw.draw)) + stream.finish()
    assert (out, stream.adapted, stream.done) == (b"".join(blocks), (), True)


def test_each_correct_event_passes_as_the_same_object():
    for end, gap in itertools.product((b"\n", b"\r\n", b"\r"), (b"", b" ")):
        repair = new_repair(include_usage=True)
        errors = [data({"error": {"message": "boom"}}), data({"object": "error", "message": "boom"}), data({"x": 1})]
        for event in [*REALISTIC, *errors]:
            block = with_line_ends(event.replace(b"data: {", b"data:" + gap + b"{"), end)
            assert repair.feed(block) is block
        assert (repair.finish(), repair.adapted) == (b"", ())


STATEFUL = [
    *(WITH_ROLE, A | {"usage": USAGE}, chunk({"content": "a"}, ""), chunk({"content": "a"}, "stop"), A | {"id": ""}),
    *(CALLED, chunk({"function_call": {"arguments": "a"}}), wrapped(A)),
]


@pytest.mark.parametrize("varied", STATEFUL)
def test_event_after_one_with_state_is_always_repaired(varied):
    repair = new_repair()
    for _ in range(3):
        repair.feed(data(ROLE) + data(varied))
        assert not repair.skips_similar


# --- a stream of many defects ---------------------------------------------------------------------

BROKEN = [
    {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
    ROLE,
    chunk({"role": "assistant", "content": "größer 東京 🚀"}, usage=USAGE),
    chunk({"content": " data: [DONE]\n\n"}, ""),
    chunk({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]}),
    chunk({"tool_calls": [{"id": "b", "function": {"name": "g", "arguments": {"x": "\n"}}}]}),
    chunk(None) | {"choices": None},
    choice(delta=None, finish_reason="stop"),
    ALONE,
]
CALL_B = {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": '{"x":"\\n"}'}}
REPAIRED = [
    ROLE | {"prompt_filter_results": [{"prompt_index": 0}]},
    chunk({"content": "größer 東京 🚀"}, usage=None),
    said(" data: [DONE]\n\n"),
    CALLED,
    chunk({"tool_calls": [CALL_B]}),
    choice(delta={}, finish_reason="tool_calls"),
    ALONE,
    b"[DONE]",
]
NAMES = (
    *(choice_repair.EMPTY_CHOICES, choice_repair.ROLE, choice_repair.USAGE, choice_repair.FINISH),
    *(tool_calls.TOOL_INDEX, tool_calls.TOOL_TYPE, tool_calls.TOOL_ARGUMENTS, choice_repair.DELTA),
)


def test_broken_stream_is_repaired_alike_at_every_split_and_in_pieces_of_any_size():
    for end in (b"\n", b"\r\n", b"\r"):
        whole, outs = with_line_ends(b"".join(events(BROKEN)), end), set()
        splits = [[whole[:at], whole[at:]] for at in range(0, len(whole) + 1, 1 if end == b"\n" else 13)]
        for cut in [*splits, *(list(pieces(whole, size)) for size in (*range(1, 33), 64))]:
            stream = new_stream(repair=new_repair(include_usage=True))
            out = b"".join(map(stream.feed, cut))
            assert (payloads(out), stream.done, stream.adapted) == (REPAIRED, True, NAMES), cut
            assert stream.usage == Usage(11, 7, 18), "noted before it is moved"
            outs.add(out)
        assert len(outs) == 1


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


# --- bounds ---------------------------------------------------------------------------------------


def test_endless_members_without_choices_are_bounded():
    many = [chunk(None) | {f"x_{number}": "x" * 1000} for number in range(200)]
    out, _ = repaired(*many, ROLE)
    assert 100 < len(out) < 150
    assert {name for one in out for name in one if name.startswith("x_")} == {f"x_{number}" for number in range(200)}


def test_more_choices_than_any_answer_has_share_one_state():
    repair = new_repair()
    for index in range(MAX_ENTRIES):
        repair.feed(data(chunk({"role": "assistant", "content": "a"}, index=index)))
    with traced_memory() as memory:
        for index in range(MAX_ENTRIES, 2 * MAX_ENTRIES):
            repair.feed(data(chunk({"role": "assistant", "content": "a"}, index=index)))
    assert memory.kept_bytes < 100 * MAX_ENTRIES
