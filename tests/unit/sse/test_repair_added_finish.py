"""`[DONE]` without a finish reason: a complete choice gets one, a choice that was cut never looks complete."""

import json

import pytest

from gatepass.sse.chunk import MAX_ENTRIES
from gatepass.sse.tool_calls import MOST_HELD_BYTES
from tests.unit.sse.peer import chunks_of
from tests.unit.sse.repair_streams import USAGE, new_repair
from tests.unit.sse.streams import DONE, chunk, code, data, looks_finished, new_stream, text

CALL = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}


def read(*blocks, include_usage=False):
    stream = new_stream(repair=new_repair(include_usage=include_usage))
    return b"".join(map(stream.feed, blocks)) + stream.finish(), stream


def call(*pieces, number=0):
    opened = [data(chunk({"tool_calls": [{**CALL, "index": number, "id": f"id{number}"}]}))]
    more = [{"tool_calls": [{"index": number, "function": {"arguments": piece}}]} for piece in pieces]
    return opened + [data(chunk(delta)) for delta in more]


def reasons(out):
    return {
        choice.index: choice.finish_reason for one in chunks_of(out) for choice in one.choices if choice.finish_reason
    }


WHOLE = {
    "a call": (call('{"city":', ' "Bern"}'), {0: "tool_calls"}),
    "text and a call": ([text("Wait."), *call("{}")], {0: "tool_calls"}),
    "two calls": ([*call("{}"), *call('{"n":1}', number=1)], {0: "tool_calls"}),
    "half a pair in each of two pieces": (
        [block.replace(b"HALF", b"\\ud83d").replace(b"REST", b"\\ude80") for block in call('{"a":"HALF', 'REST"}')],
        {0: "tool_calls"},
    ),
    "a custom call": (
        [data(chunk({"tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}}]}))],
        {0: "tool_calls"},
    ),
    "a function of old": (
        [
            data(chunk({"function_call": {"name": "f", "arguments": "{"}})),
            data(chunk({"function_call": {"arguments": "}"}})),
        ],
        {0: "function_call"},
    ),
    "the second of two": ([text("a", finish="length"), text("b", index=1)], {0: "length", 1: "stop"}),
    "thoughts before the text": ([data(chunk({"reasoning_content": "hm", "content": ""})), text("Hi")], {0: "stop"}),
}


@pytest.mark.parametrize(("blocks", "expected"), WHOLE.values(), ids=WHOLE)
def test_each_choice_that_is_whole_gets_its_reason(blocks, expected):
    out, stream = read(*blocks, DONE)
    assert (stream.failure, stream.done) == (None, True)
    assert "repair=added-finish" in stream.adapted
    assert looks_finished(out)
    assert reasons(out) == expected


CUT = {
    "thoughts alone": [data(chunk({"reasoning_content": "hm"}))],
    "a call without arguments": call(),
    "a call cut in its arguments": call('{"city":"Ber'),
    "the first of two calls": [*call('{"n":'), *call("{}", number=1)],
    "a call that names nothing": [data(chunk({"tool_calls": [{}]}))],
    "a custom call without input": [data(chunk({"tool_calls": [{"id": "a", "custom": {"name": "f"}}]}))],
    "a function of old": [data(chunk({"function_call": {"name": "f", "arguments": '{"a'}}))],
    "one choice of two, the other finished": [text("a", finish="stop"), data(chunk({"reasoning": "hm"}, index=1))],
}


@pytest.mark.parametrize("blocks", CUT.values(), ids=CUT)
def test_choice_that_was_cut_never_looks_complete(blocks):
    out, stream = read(*blocks, DONE)
    assert (code(stream), stream.done, looks_finished(out)) == ("upstream_closed", False, False)
    assert "repair=added-finish" not in stream.adapted
    assert b'"finish_reason":"' not in out.replace(b'"finish_reason":"stop"', b"", 1)


def test_added_finish_reason_comes_before_the_usage_and_events_keep_their_bytes():
    words = [text("Hello"), text(" you"), b": ping\n\n", text("!")]
    usage = data(chunk(None, usage=USAGE))
    out, _ = read(*words, usage, DONE, include_usage=True)
    assert out.startswith(b"".join(words))
    last = [json.loads(one[6:]) for one in out.removeprefix(b"".join(words)).split(b"\n\n")[:-2]]
    envelope = {name: chunk({})[name] for name in ("id", "object", "created", "model")}
    end = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert last == [{**envelope, "choices": [end]}, {**envelope, "choices": [], "usage": USAGE}]
    assert out.endswith(DONE)


def test_text_that_no_similar_event_brought_before_counts():
    """The pattern of an event with an empty text must not match an event with a text."""
    thought = data(chunk({"content": "", "reasoning_content": "hm"}))
    answered = data(chunk({"content": "Hi", "reasoning_content": ""}))
    out, stream = read(thought, thought, answered, DONE)
    assert (reasons(out), stream.failure) == ({0: "stop"}, None)
    one = [text("a"), data(chunk({"content": ""}, index=1)), data(chunk({"content": "b"}, index=1)), DONE]
    assert reasons(read(*one)[0]) == {0: "stop", 1: "stop"}


def test_finished_choices_release_their_memory():
    argument = '"' + "x" * (MOST_HELD_BYTES // 8) + '"'
    blocks = []
    for index in range(16):
        payload = {"tool_calls": [{**CALL, "function": {"name": "f", "arguments": argument}}]}
        blocks.append(data(chunk(payload, index=index, finish="tool_calls" if index < 15 else None)))
    out, stream = read(*blocks, DONE)
    assert (stream.failure, reasons(out)[15]) == (None, "tool_calls")


def test_more_choices_than_have_a_state_get_no_reason():
    blocks = [text("x", index=index) for index in range(MAX_ENTRIES + 1)]
    assert code(read(*blocks[:-1], DONE)[1]) is None
    assert code(read(*blocks, DONE)[1]) == "upstream_closed"
