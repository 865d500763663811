"""A whole reply that calls tools says so."""

import json

import pytest

from gatepass import jsontext
from gatepass.relay.whole_finish import mended_finish

CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"finish_reason":"stop"}'}}


TWICE = rb"""{"choices":[1],"choices" : [ {"finish_reason":"x","finish_reason" : "%b" ,
    "message":{"tool_calls"	: [ { }]}, "score":-1.50e-07 } ], "x": NaN}"""
"""Names that stand twice, of which the last one counts, in an own way to write."""


def choice(finish, *calls, index=0):
    return {"index": index, "finish_reason": finish, "message": {"role": "assistant", "tool_calls": [*calls]}}


def reply(*choices, **more):
    return json.dumps({"id": "x", **more, "choices": [*choices]}).encode()


@pytest.mark.parametrize("before", [b"", b"\n\n  "])
@pytest.mark.parametrize(
    ("stops", "calls"),
    [
        (reply(choice("stop", CALL)), reply(choice("tool_calls", CALL))),
        (
            reply(choice("stop", CALL, CALL), choice("stop", index=1), choice("stop", CALL, index=2), stop="stop"),
            reply(
                choice("tool_calls", CALL, CALL),
                choice("stop", index=1),
                choice("tool_calls", CALL, index=2),
                stop="stop",
            ),
        ),
        (
            TWICE % b"stop",
            TWICE % b"tool_calls",
        ),
    ],
)
def test_stop_after_tool_calls_is_tool_calls_and_all_else_keeps_its_bytes(before, stops, calls):
    assert mended_finish(before + stops) == (before + calls, ("repair=finish",))


@pytest.mark.parametrize(
    "body",
    [
        reply(choice("tool_calls", CALL)),
        reply(choice("length", CALL), stop="stop"),
        reply(choice("stop")),
        reply(choice("stop"), choice("tool_calls", CALL, index=1)),
        reply({"finish_reason": "stop", "message": {"content": json.dumps({"tool_calls": [CALL]})}}),
        reply({"finish_reason": "stop", "message": {"x": {"tool_calls": [CALL]}}}),
        reply({"finish_reason": "stop", "message": None, "tool_calls": [CALL]}),
        reply({"finish_reason": "stop", "text": "a"}, "stop", None, x={"tool_calls": [{}]}),
        json.dumps([{"tool_calls": [CALL], "x": "stop"}]).encode(),
        json.dumps({"tool_calls": [CALL], "choices": "stop"}).encode(),
        json.dumps({"tool_calls": [CALL], "x": "stop"}).encode(),
    ],
)
def test_what_ends_as_it_should_or_calls_nothing_is_the_same_object(body):
    mended, adapted = mended_finish(body)
    assert mended is body
    assert adapted == ()


def test_a_reply_that_would_take_too_long_to_walk_through_stays_as_it_is():
    steps = jsontext.MOST_STEPS // jsontext.ELEMENT_STEPS + 1
    body = b'{"choices":[%b%b]}' % (b"0," * steps, json.dumps(choice("stop", CALL)).encode())
    assert mended_finish(body)[0] is body


def test_a_name_that_python_alone_can_read_costs_no_answer():
    body = rb'{"\ud83d":"stop","choices":[{"message":{"tool_calls":[{}]},"finish_reason":"stop"}]}'
    assert mended_finish(body)[0] is body
