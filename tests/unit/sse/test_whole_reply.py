"""A whole reply is repaired as a stream is, and stays the same object if it needs no repair."""

import json
from itertools import count

import pytest

from gatepass import json_scan
from gatepass.sse.chunk import EnvelopeDefaults
from gatepass.sse.whole_reply import repair_reply
from tests.unit.sse.replies import CALL, CUSTOM, USAGE, chat, choice, text, without

TWICE = rb"""{"id":1,"id":"x","object":"chat.completion","created":1,"model":"m",
    "choices":[1],"choices" : [ {"index":0,"finish_reason":"x","finish_reason" : "%b" ,
    "message":{"role":"assistant","tool_calls"	: [ { "id":"a",
    "type":"function","function":{"name":"f","arguments":""}}]},
    "score":-1.50e-07 } ], "x": [NaN, "\ud83d"], "usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":1e400,
    "total_tokens":2}}"""
"""Repeated names, unusual white space, and numbers and escapes that only Python reads."""

FUNCTION = CALL["function"]
FINISH, ENVELOPE, USED = "repair=finish", "repair=envelope", "repair=usage"
ID, TYPE, ARGUMENTS, NAME = "repair=tool-id", "repair=tool-type", "repair=tool-arguments", "repair=tool-name"


def origin():
    numbers = count(1)
    return EnvelopeDefaults(lambda prefix: f"{prefix}{next(numbers)}", 9, "asked")


def never():
    raise AssertionError("the origin was asked for")


def repaired(payload):
    body, adapted = repair_reply(json.dumps(payload).encode(), origin)
    return json.loads(body), adapted


def ended(finish, *calls, **message):
    return chat(choice(*calls, **message) | {"finish_reason": finish})


@pytest.mark.parametrize("before", [b"", b"\n\n  "])
@pytest.mark.parametrize(
    ("stops", "calls"),
    [
        (json.dumps(ended("stop", CALL)).encode(), json.dumps(ended("tool_calls", CALL)).encode()),
        (TWICE % b"stop", TWICE % b"tool_calls"),
        (TWICE % b"", TWICE % b"tool_calls"),
    ],
)
def test_stop_after_tool_calls_is_tool_calls_and_all_else_keeps_its_bytes(before, stops, calls):
    assert repair_reply(before + stops, origin) == (before + calls, (FINISH,))


CORRECT = [
    *(chat(choice(CALL)), chat(choice(), choice(CALL, index=1)), text(), text(finish="length", logprobs=None)),
    *(chat(choice(), usage=USAGE, service_tier=1, more=[None]), chat(choice(), usage=None)),
    chat(choice(CALL), choice(CALL | {"id": "b"}, CALL, CUSTOM, index=1)),
    chat(choice(content=[{"type": "text"}], tool_calls=None)),
    chat(choice(finish="function_call", function_call=CALL["function"])),
]


@pytest.mark.parametrize("payload", CORRECT)
def test_correct_reply_is_the_same_object_without_defaults(payload):
    body = json.dumps(payload).encode()
    assert repair_reply(body, never) == (body, ())
    assert repair_reply(body, never)[0] is body


@pytest.mark.parametrize("payload", [[], "stop", {}, {"choices": "stop"}, {"choices": []}, {"choices": [1, None]}])
def test_reply_without_choices_is_the_same_object(payload):
    body = json.dumps(payload).encode()
    assert repair_reply(body, origin)[0] is body


@pytest.mark.parametrize(
    ("call", "becomes", "names"),
    [
        (without(CALL, "id"), CALL | {"id": "call_1"}, (ID,)),
        (CALL | {"id": ""}, CALL | {"id": "call_1"}, (ID,)),
        (CALL | {"id": None}, CALL | {"id": "call_1"}, (ID,)),
        (CALL | {"id": 7}, CALL | {"id": "7"}, (ID,)),
        (without(CALL, "type"), CALL, (TYPE,)),
        (CALL | {"type": "tool"}, CALL, (TYPE,)),
        (without(CUSTOM, "type"), CUSTOM, (TYPE,)),
        (CALL | {"function": {"name": "f", "arguments": {"x": [1]}}},
         CALL | {"function": {"name": "f", "arguments": '{"x":[1]}'}}, (ARGUMENTS,)),
        (CALL | {"function": {"name": "f"}}, CALL | {"function": {"name": "f", "arguments": ""}}, (ARGUMENTS,)),
        (CALL | {"function": {}}, CALL | {"function": {"name": "", "arguments": ""}}, (NAME, ARGUMENTS)),
        (CALL | {"function": None}, CALL | {"function": None}, ()),
        ({"more": [1], "function": FUNCTION}, {"id": "call_1", "type": "function", "more": [1], "function": FUNCTION},
         (ID, TYPE)),
    ],
)  # fmt: skip
def test_a_tool_call_gets_what_it_lacks(call, becomes, names):
    assert repaired(chat(choice(call))) == (chat(choice(becomes)), names)


def test_two_calls_of_one_id_are_two():
    assert repaired(chat(choice(CALL, CALL))) == (chat(choice(CALL, CALL | {"id": "call_1"})), (ID,))


def test_half_a_character_in_arguments_stays_the_escape_that_it_was():
    call = json.dumps(CALL).encode().replace(json.dumps(FUNCTION["arguments"]).encode(), rb'{"x":"\ud83d"}')
    body, adapted = repair_reply(json.dumps(chat(choice(0))).encode().replace(b"[0]", b"[%b]" % call), origin)
    [payload] = json.loads(body)["choices"][0]["message"]["tool_calls"]
    assert (json.loads(payload["function"]["arguments"]), adapted) == ({"x": "\ud83d"}, (ARGUMENTS,))


@pytest.mark.parametrize(
    ("finish", "message", "becomes", "native"),
    [
        (None, {}, "stop", None),
        ("", {}, "stop", None),
        (3, {}, "stop", None),
        ("eos", {}, "stop", "eos"),
        ("MAX_TOKENS", {}, "length", "MAX_TOKENS"),
        (None, {"function_call": FUNCTION}, "function_call", None),
        ("", {"tool_calls": [CALL]}, "tool_calls", None),
        ("tool_use", {"tool_calls": [CALL]}, "tool_calls", "tool_use"),
    ],
)
def test_an_end_is_one_that_clients_know_and_the_upstreams_word_stays_beside_it(finish, message, becomes, native):
    payload, adapted = repaired(ended(finish, **message))
    expected = ended(becomes, **message)
    if native:
        expected["choices"][0]["native_finish_reason"] = native
    assert (payload, adapted) == (expected, (FINISH,))


def test_a_native_reason_that_is_present_stays():
    payload = ended("eos")
    payload["choices"][0]["native_finish_reason"] = "</s>"
    assert repaired(payload)[0]["choices"][0]["native_finish_reason"] == "</s>"


@pytest.mark.parametrize(
    ("lacks", "becomes", "names"),
    [
        (without(chat(choice()), "created"), chat(choice(), created=9), (ENVELOPE,)),
        (chat(choice(), created=7.0), chat(choice()), (ENVELOPE,)),
        (chat(choice(), object="", id=None, model=""), chat(choice(), id="chatcmpl-1", model="asked"), (ENVELOPE,)),
        ({"choices": [choice()]}, chat(choice(), id="chatcmpl-1", created=9, model="asked"), (ENVELOPE,)),
        (text() | {"object": "text"}, text(), (ENVELOPE,)),
        (without(text(), "id"), text() | {"id": "cmpl-1"}, (ENVELOPE,)),
        (chat(choice(role=None)), chat(choice()), ("repair=role",)),
        (chat(choice(), without(choice(index=1), "index")), chat(choice(), choice(index=1)), ("repair=index",)),
        (chat({"index": 0, "finish_reason": "stop", "delta": {"content": "hi"}}), chat(choice()),
         ("repair=message", "repair=role")),
        (chat(choice(), usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": None}),
         chat(choice(), usage=USAGE), (USED,)),
        (chat(choice(), usage={}), chat(choice(), usage=None), (USED,)),
        (chat(choice(), usage="3"), chat(choice(), usage=None), (USED,)),
        (text("eos"), text(native_finish_reason="eos"), (FINISH,)),
        (text("tool_calls"), text(native_finish_reason="tool_calls"), (FINISH,)),
        (chat(choice(function_call={"name": "f", "arguments": {}}, finish="function_call")),
         chat(choice(function_call={"name": "f", "arguments": "{}"}, finish="function_call")), (ARGUMENTS,)),
    ],
)  # fmt: skip
def test_a_reply_gets_what_it_lacks(lacks, becomes, names):
    assert repaired(lacks) == (becomes, names)


def test_an_empty_choice_stays_beside_one_that_is_repaired():
    assert repaired(chat(choice(role=""), {"index": 1, "error": {}, "finish_reason": "error"})) == (
        chat(choice(), {"index": 1, "error": {}, "finish_reason": "error"}),
        ("repair=role",),
    )


def test_empty_tool_call_is_removed():
    """An empty `function_call` or entry of `tool_calls` with a text: a client would call a function without a name."""
    empty: list[dict[str, object]] = [{"function_call": {}}, {"tool_calls": [{}]}]
    for payload in empty:
        lacks = chat(choice(content="hi", **payload) | {"finish_reason": None})
        assert repaired(lacks) == (chat(choice(content="hi", **payload) | {"finish_reason": "stop"}), (FINISH,))


def test_a_call_of_a_kind_that_we_do_not_know_keeps_it():
    call = {"id": "a", "type": "mcp", "mcp": {"x": 1}}
    assert repaired(ended("tool_calls", call)) == (ended("tool_calls", call), ())


def test_arguments_that_only_python_reads_stay_as_they_came():
    body = json.dumps(chat(choice(CALL | {"function": {"name": "f", "arguments": 0}}))).encode()
    payload = json.loads(repair_reply(body.replace(b": 0}", b': {"n": 1e400, "m": NaN}}'), origin)[0])
    (call,) = payload["choices"][0]["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"n": 1e400, "m": NaN}'


@pytest.mark.parametrize(
    "body",
    [
        *(b"\xef\xbb\xbf{}", b"[" * 100_000, b""),
        b'{"choices":[%b%b]}' % (b"0," * (json_scan.MOST_STEPS // json_scan.ELEMENT_STEPS + 1), b"{}"),
        rb'{"\ud83d":"stop","choices":[{"message":{"tool_calls":[{}]},"finish_reason":"stop"}]}',
        json.dumps(chat(choice(CALL | {"function": {"name": "f", "arguments": 0}})))
        .encode()
        .replace(b'"arguments": 0', b'"arguments": %b%b' % (b"[" * 100_000, b"]" * 100_000)),
    ],
    ids=[
        "byte order mark",
        "too deep",
        "nothing",
        "too many values",
        "a name that Python alone can read",
        "nested too deep",
    ],
)
def test_reply_that_cannot_be_scanned_is_unchanged(body):
    assert repair_reply(body, origin)[0] is body
