"""A whole reply is repaired as a stream is, and stays the same object if it needs no repair."""

import json
from collections.abc import Iterator
from itertools import count, product
from typing import Any

import pytest

from gatepass import json_body
from gatepass.dialects.reply_check import ReceivedReply, classify_document
from gatepass.protocols.chat import CHAT
from gatepass.replies import content
from gatepass.sse import chunk, whole_reply
from gatepass.sse.chunk import EnvelopeDefaults
from gatepass.sse.usage import Usage
from gatepass.sse.whole_reply import is_empty_answer, read_good, repair_reply
from tests.unit.sse.replies import CALL, CUSTOM, USAGE, chat, choice, text, without

TWICE = rb"""{"id":1,"id":"x","object":"chat.completion","created":1,"model":"m",
    "choices":[1],"choices" : [ {"index":0,"finish_reason":"x","finish_reason" : "%b" ,
    "message":{"role":"assistant","tool_calls"	: [ { "id":"a",
    "type":"function","function":{"name":"f","arguments":"{}"}}]},
    "score":-1.50e-07 } ], "x": [NaN, "\ud83d"], "usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":1e400,
    "total_tokens":2}}"""
"""Repeated names, unusual white space, and numbers and escapes that only Python reads."""

FUNCTION = CALL["function"]
FINISH, ENVELOPE = "repair=finish", "repair=envelope"
ID, TYPE, ARGUMENTS = "repair=tool-id", "repair=tool-type", "repair=tool-arguments"


def origin():
    numbers = count(1)
    return EnvelopeDefaults(lambda prefix: f"{prefix}{next(numbers)}", 9, "asked")


def never():
    raise AssertionError("the origin was asked for")


def stated(payload: Any) -> Any:
    """`payload` without members that are null, and without the index of a call."""
    if isinstance(payload, list):
        return [stated(one) for one in payload]
    if not isinstance(payload, dict):
        return payload
    is_call = "function" in payload or "custom" in payload
    return {
        name: stated(value)
        for name, value in payload.items()
        if value is not None and not (is_call and name == "index")
    }


def repaired(payload):
    body, adapted = repair_reply(json.dumps(payload).encode(), origin)
    return stated(json.loads(body)), adapted


def ended(finish, *calls, **message):
    return chat(choice(*calls, **message) | {"finish_reason": finish})


@pytest.mark.parametrize("before", [b"", b"\n\n  "])
@pytest.mark.parametrize("reason", [b"stop", b""])
def test_stop_after_tool_calls_is_tool_calls_also_in_json_that_only_python_reads(before, reason):
    body, adapted = repair_reply(before + TWICE % reason, origin)
    # compared as texts, because NaN equals nothing
    expected = json.dumps(stated(json.loads(TWICE % b"tool_calls")), sort_keys=True)
    assert json.dumps(stated(json.loads(body)), sort_keys=True) == expected
    assert adapted == (FINISH,)


@pytest.mark.parametrize("value", ['"größer"', "1" + "0" * 15, '{"a":[1.0,1]}', '[null,"\\"",true]'])
def test_values_that_no_repair_reads_are_written_as_they_were(value):
    members = {"x": 1, "logprobs": 1, "more": 1}
    whole = json.dumps(chat(choice(content=1, **members, finish="stop"), more=1) | {"id": ""}).encode()
    body, adapted = repair_reply(whole.replace(b": 1", b": " + value.encode()), origin)
    assert (body.replace(b'"refusal":null', b"").count(b":" + value.encode()), adapted) == (5, (ENVELOPE,))


CORRECT = [
    *(chat(choice(CALL)), chat(choice(), choice(CALL, index=1)), text(), text(finish="length", logprobs=None)),
    *(chat(choice(), usage=USAGE, service_tier=1, more=[None]), chat(choice(), usage=None)),
    chat(choice(CALL), choice(CALL | {"id": "b"}, CALL, CUSTOM, index=1)),
    chat(choice(content="a", tool_calls=None)),
    chat(choice(finish="function_call", function_call=CALL["function"])),
]


@pytest.mark.parametrize("payload", CORRECT)
def test_correct_reply_is_the_same_object_without_defaults(payload):
    body = json.dumps(payload).encode()
    made = origin if payload["object"] == chunk.LEGACY else never
    assert repair_reply(body, made) == (body, ())
    assert repair_reply(body, made)[0] is body


@pytest.mark.parametrize("payload", [[], "stop", {}, {"choices": "stop"}, {"choices": []}, {"choices": [1, None]}])
def test_reply_without_choices_is_the_same_object(payload):
    body = json.dumps(payload).encode()
    assert repair_reply(body, origin)[0] is body


@pytest.mark.parametrize(
    ("call", "becomes", "names"),
    [
        (CALL | {"function": {"name": "f", "arguments": " "}},
         CALL | {"function": {"name": "f", "arguments": "{}"}}, (ARGUMENTS,)),
        (CALL | {"function": {}}, CALL | {"function": {"name": "", "arguments": "{}"}}, (ARGUMENTS,)),
        (CUSTOM | {"custom": {"input": ["x"]}}, CUSTOM | {"custom": {"name": "", "input": '["x"]'}}, (ARGUMENTS,)),
        (CALL | {"index": 7, "id": ""}, CALL | {"index": 7, "id": "call_1"}, (ID,)),
        ({"more": [1], "function": FUNCTION}, {"id": "call_1", "type": "function", "more": [1], "function": FUNCTION},
         (ID, TYPE)),
    ],
)  # fmt: skip
def test_a_tool_call_gets_what_it_lacks(call, becomes, names):
    assert repaired(chat(choice(call))) == (stated(chat(choice(becomes))), names)


def test_half_a_character_in_arguments_stays_the_escape_that_it_was():
    call = json.dumps(CALL).encode().replace(json.dumps(FUNCTION["arguments"]).encode(), rb'{"x":"\ud83d"}')
    body, adapted = repair_reply(json.dumps(chat(choice(0))).encode().replace(b"[0]", b"[%b]" % call), origin)
    [payload] = json.loads(body)["choices"][0]["message"]["tool_calls"]
    assert (json.loads(payload["function"]["arguments"]), adapted) == ({"x": "\ud83d"}, (ARGUMENTS,))


@pytest.mark.parametrize(
    ("finish", "message", "becomes"),
    [
        (3, {}, "stop"),
        (None, {"function_call": FUNCTION}, "function_call"),
        ("", {"tool_calls": [CALL]}, "tool_calls"),
    ],
)
def test_an_end_that_is_missing_is_the_one_that_fits(finish, message, becomes):
    assert repaired(ended(finish, **message)) == (stated(ended(becomes, **message)), (FINISH,))


REFUSED = {"index": 1, "error": {}, "finish_reason": "error"}
UNKNOWN = {"id": "a", "type": "mcp", "mcp": {"x": 1}}
NATIVE = {"native_finish_reason": "</s>"}


@pytest.mark.parametrize(
    ("lacks", "becomes", "names"),
    [
        (without(chat(choice()), "created"), chat(choice(), created=9), (ENVELOPE,)),
        (chat(choice(), created=7.0), chat(choice()), (ENVELOPE,)),
        (chat(choice(), object="", id=None, model=""), chat(choice(), id="chatcmpl-1", model="asked"), (ENVELOPE,)),
        (text() | {"object": "text"}, text(), (ENVELOPE,)),
        (without(text(), "id"), text() | {"id": "cmpl-1"}, (ENVELOPE,)),
        (chat(choice(), without(choice(index=1), "index")), chat(choice(), choice(index=1)), ("repair=index",)),
        (text("eos"), text(native_finish_reason="eos"), (FINISH,)),
        (text("tool_calls"), text(native_finish_reason="tool_calls"), (FINISH,)),
        (chat(choice(function_call={"name": "f", "arguments": {}}, finish="function_call")),
         chat(choice(function_call={"name": "f", "arguments": "{}"}, finish="function_call")), (ARGUMENTS,)),
        (chat(choice(role=""), REFUSED),
         chat(choice(), choice(content="", index=1, finish="length") | {"error": {}, "native_finish_reason": "error"}),
         ("repair=role", "repair=delta", FINISH)),
        # an empty call: a client would call a function without a name
        (ended(None, content="hi", function_call={}), ended("stop", content="hi"), (ARGUMENTS, FINISH)),
        (ended(None, CALL, {}), ended("tool_calls", CALL), (ARGUMENTS, FINISH)),
        (chat(choice(content="hi", function_call=None, finish="eos")),
         chat(choice(content="hi", function_call=None) | {"native_finish_reason": "eos"}), (FINISH,)),
        (ended("tool_calls", UNKNOWN), ended("tool_calls", UNKNOWN), ()),
        (chat(choice(finish="eos") | NATIVE), chat(choice() | NATIVE), (FINISH,)),
    ],
)  # fmt: skip
def test_a_reply_gets_what_it_lacks(lacks, becomes, names):
    assert repaired(lacks) == (stated(becomes), names)


def asked_for_messages():
    return EnvelopeDefaults(lambda prefix: f"{prefix}own", 9, "asked", is_chat=True)


@pytest.mark.parametrize(
    ("more", "finish", "becomes"),
    [({}, "stop", "stop"), ({}, "eos", "stop"), ({"message": None}, "length", "length"), ({"delta": {}}, "", "stop")],
)
def test_a_text_is_the_message_of_a_chat(more, finish, becomes):
    body, adapted = repair_reply(json.dumps(text(finish, **more, seen=1)).encode(), asked_for_messages)
    found = json.loads(body)
    (one,) = stated(found["choices"])
    assert (found["object"], one["message"], "text" in one) == (
        "chat.completion",
        {"role": "assistant", "content": "hi"},
        False,
    )
    assert (one["finish_reason"], one["seen"], {"repair=message", ENVELOPE} <= {*adapted}) == (becomes, 1, True)
    assert repair_reply(body, asked_for_messages)[0] is body


def asked_for_texts():
    return EnvelopeDefaults(lambda prefix: f"{prefix}own", 9, "asked", is_chat=False)


@pytest.mark.parametrize(
    ("lacks", "becomes", "finish"),
    [
        (choice(content="hi"), "hi", "stop"),
        (choice(content=[{"type": "text", "text": "hi"}], reasoning_content="hm"), "hi", "stop"),
        (choice(content=None, refusal="no"), "no", "stop"),
        (choice(CALL, content=None, finish="tool_calls"), "", "stop"),
        ({"index": 0, "delta": {"content": "hi"}, "finish_reason": "max_tokens"}, "hi", "length"),
        ({"index": 0, "text": None, "message": {"content": "hi"}}, "hi", "stop"),
        ({"index": 0, "text": "hi", "message": {"content": "other"}, "finish_reason": "stop"}, "hi", "stop"),
    ],
)
def test_a_message_is_the_text_of_a_completion(lacks, becomes, finish):
    body, adapted = repair_reply(json.dumps(chat(lacks, usage=USAGE)).encode(), asked_for_texts, is_text=True)
    found = json.loads(body)
    (one,) = found["choices"]
    assert (found["object"], one["text"], one["finish_reason"]) == ("text_completion", becomes, finish)
    assert ("message" in one, "delta" in one, found["usage"]) == (False, False, USAGE)
    assert {"repair=message", ENVELOPE} <= {*adapted}
    assert repair_reply(body, asked_for_texts, is_text=True) == (body, ())


@pytest.mark.parametrize("defaults", [asked_for_messages, asked_for_texts])
@pytest.mark.parametrize("lacking", [{}, {"text": None}, {"message": None}, {"delta": None, "finish_reason": "eos"}])
def test_choices_with_neither_a_message_nor_a_text_are_no_answer_but_one_beside_an_answer_is_empty(lacking, defaults):
    empty = [{"index": index, "finish_reason": "stop", **lacking} for index in (0, 1)]
    with pytest.raises(chunk.AnswerFault):
        repair_reply(json.dumps(chat(*empty)).encode(), defaults, is_text=False)
    body, _ = repair_reply(json.dumps(chat(choice(content="hi"), empty[1])).encode(), defaults, is_text=False)
    assert b"hi" in body
    for reason in ("length", "content_filter"):
        repair_reply(json.dumps(chat({**empty[0], "finish_reason": reason})).encode(), defaults)


def test_arguments_that_only_python_reads_are_those_that_came():
    body = json.dumps(chat(choice(CALL | {"function": {"name": "f", "arguments": 0}}))).encode()
    payload = json.loads(repair_reply(body.replace(b": 0}", b': {"n": 1e400, "m": NaN}}'), origin)[0])
    (call,) = payload["choices"][0]["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"n": Infinity, "m": NaN}'


@pytest.mark.parametrize(
    "body",
    [
        *(b"\xef\xbb\xbf{}", b"[" * 100_000, b""),
        b'{"choices":[%b%b]}' % (b"0," * json_body.MOST_WORK, b"{}"),
        b'{"choices":[%b{}]}' % (b"{}," * chunk.MAX_ENTRIES),
        json.dumps(chat(choice(CALL | {"function": {"name": "f", "arguments": 0}})))
        .encode()
        .replace(b'"arguments": 0', b'"arguments": %b%b' % (b"[" * 100_000, b"]" * 100_000)),
    ],
    ids=[
        "byte order mark",
        "too deep",
        "nothing",
        "too many values",
        "too many choices",
        "nested too deep",
    ],
)
def test_reply_that_takes_too_long_is_unchanged(body):
    assert repair_reply(body, origin)[0] is body


JSON = ((b"content-type", b"application/json"),)

REPLIES = [
    chat(),
    chat(choice()),
    chat(choice(CALL, CALL)),
    chat(choice(CALL, CUSTOM), choice(index=1)),
    chat(choice(CALL, finish="stop")),
    chat(choice(finish="eos")),
    chat(choice(content='"usage":{"total_tokens":9}')),
    chat(choice(content='an "error", "choices":[{"message":{"')),
    chat(choice(), 1),
    chat(choice() | {"error": {"message": "no"}}),
    chat(choice() | {"error": None}),
    chat(choice(), choice(index=1) | {"error": {"message": "no"}}),
    chat({"content_filter_results": {}} | choice()),
    chat(choice(content=None)),
    chat({"index": 0, "finish_reason": "stop", "message": {}}),
    text(),
    text() | {"choices": [{"index": 0, "finish_reason": "stop", "text": None}]},
    {"object": "error", "message": "no"},
    {"data": chat(choice())},
    [chat(choice())],
]
ENDS = [
    b"",
    *(b',"usage":' + json.dumps(USAGE, separators=separators).encode() for separators in ((",", ":"), (", ", ": "))),
    b',"usage":null',
    b',"usage":{}',
    b',"usage":{"prompt_tokens":-1,"completion_tokens":2,"total_tokens":3}',
    b',"usage":{"prompt_tokens":1.0,"completion_tokens":2,"total_tokens":3}',
    b',"usage":{"prompt_tokens":1%b,"completion_tokens":2,"total_tokens":3}' % (b"0" * 40),
    b',"usage":{"prompt_tokens":1,"prompt_tokens":9,"completion_tokens":2,"total_tokens":3}',
    b',"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"more":{"usage":{"total_tokens":9}}}',
    b',"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"more":"a\\n"}',
    b',"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt\\u005ftokens":9}',
    b',"usage":{"total_tokens":9},"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}',
    b',"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3},"usage":{"total_tokens":9}',
    b',"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3},"us\\u0061ge":null',
    b',"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3},"x\\"usage":{"prompt_tokens":9}',
    b',"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3},"x":[{"y":1,"usage":{"total_tokens":9}}]',
    b',"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"x":"' + b"x" * 3_000 + b'"}',
    *(
        b',"usage":{"prompt_tokens":9,"completion_tokens":8,"total_tokens":17,"prompt_tokens_details":%b,'
        b'"completion_tokens_details":%b}' % details
        for details in (
            (b'{"cached_tokens":7,"audio_tokens":0}', b'{"reasoning_tokens":6}'),
            (b"null", b'{"reasoning_tokens":null}'),
            (b'{"cached_tokens":-1}', b'{"reasoning_tokens":"6"}'),
            (b"[]", b"7"),
        )
    ),
]
MEMBERS = [
    b"",
    b',"error":null',
    b',"error":{}',
    b',"error":"no"',
    b',"err\\u006fr":{"message":"no"}',
    b',"error":{"message":"no"},"error":null',
    b',"object":"error"',
    b',"code":500,"msg":"no"',
    b',"choices":[]',
    b',"choices":[{"index":0,"finish_reason":"stop","message":{"role":"user"}}]',
    b',"choic\\u0065s":[]',
    b',"x":"\xff"',
    b',"x":"\\ud83d"',
    b',"x":NaN',
    b',"x":1e999',
    b',"x":01',
]
AROUND = [(b"", b""), (b"\n\n", b""), (b"", b"\n"), (b"", b" x"), (b"\xef\xbb\xbf", b""), (b"data: ", b"")]


def bodies():
    for reply, member, end in product(REPLIES, MEMBERS, ENDS):
        written = json.dumps(reply, separators=(",", ":")).encode()
        opened = written[:-1] if isinstance(reply, dict) else written
        yield opened + member + end + (b"}" if isinstance(reply, dict) else b"")
    plain = json.dumps(chat(choice(), usage=USAGE), separators=(",", ":")).encode()
    for before, after in AROUND:
        yield before + plain + after
    for pretty in (chat(choice(), usage=USAGE), {"usage": USAGE} | chat(choice())):
        yield json.dumps(pretty, indent=1).encode()
    yield plain.replace(b'"hi"', b'"%b"' % (b"x" * content.WHOLE_BYTES))
    yield plain.replace(b'"hi"', b'"\xff"')
    yield plain.replace(b'"hi"', b'"\\ud83d"')
    yield plain.replace(b'"hi"', b"[" * 100_000 + b"]" * 100_000)
    yield from (b"", b" ", b"{}", b"[]", b"<html>", b"null")


def walked(body, monkeypatch, is_chat=None):
    """The reply repaired without the check of `is_strict` before."""
    with monkeypatch.context() as patched:
        patched.setattr(whole_reply, "is_strict", lambda *_, **__: False)
        return whole_reply.repair_reply(
            body, lambda: EnvelopeDefaults(lambda prefix: f"{prefix}1", 9, "asked", is_chat=is_chat)
        )


def test_a_completion_that_is_strict_needs_no_repair_and_a_chat_in_its_place_is_not_strict(monkeypatch):
    strict = [body for body in bodies() if whole_reply.is_strict(body, asked_for_texts, is_text=True)]
    for body in strict:
        assert walked(body, monkeypatch, is_chat=False) == (body, ()), body
        assert b'"text_completion"' in body
    assert len(strict) > 10


def test_a_good_reply_is_a_success_needs_no_repair_and_has_its_own_usage(monkeypatch):
    taken = [(body, good) for body in bodies() if (good := read_good(body)) is not None]
    with_usage = 0
    for body, good in taken:
        assert not content.is_event_stream(JSON, body), body
        assert walked(body, monkeypatch) == (body, ()), body
        usage = json.loads(body.decode("utf-8", "replace")).get("usage")
        assert good.usage == (Usage.read(usage) if usage is not None else None), body
        with_usage += good.usage is not None
        assert classify_document(ReceivedReply("chat", 200, JSON, body), CHAT) is body, body
    assert len(taken) > 300
    assert with_usage > 100


CONTENT_VALUES: list[Any] = [None, "", "a", " ", [], [{"type": "text", "text": "a"}], {}, 0, 7, False]
CONTENTS: list[dict[str, Any]] = [
    {},
    *({"content": content} for content in CONTENT_VALUES),
    {"content": None, "reasoning_content": "hm"},
    {"content": None, "refusal": "no"},
    {"content": "", "refusal": None, "tool_calls": [], "annotations": []},
    {"content": None, "tool_calls": [CALL]},
    {"content": None, "function_call": {"name": "f", "arguments": "{}"}},
    {"content": None, "audio": {"id": "a", "data": "AA=="}},
]


def empty_replies() -> Iterator[tuple[bytes, bool]]:
    kinds = list(product(("stop", "length"), CONTENTS))
    for chosen in [*([one] for one in kinds), *product(kinds[::3], kinds)]:
        choices = [
            {"index": index, "finish_reason": reason, "message": {"role": "assistant", **payload}}
            for index, (reason, payload) in enumerate(chosen)
        ]
        yield (
            json.dumps(chat(*choices)).encode(),
            all(reason == "stop" and not has_text(payload) for reason, payload in chosen),
        )


def has_text(payload: dict[str, Any]) -> bool:
    values = (value for name, value in payload.items() if name != "reasoning_content")
    return any(bool(value) and isinstance(value, list | dict | str) for value in values)


def test_no_empty_answer_is_good_at_first_sight():
    good = empty = 0
    for body, is_empty in empty_replies():
        assert is_empty_answer(body) is is_empty, body
        is_good = read_good(body) is not None
        assert not (is_good and is_empty), body
        good, empty = good + is_good, empty + is_empty
    assert (good > 100, empty > 20) == (True, True)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[7]}', b'{"choices":7}', b"\xff"])
def test_reply_that_is_not_a_chat_is_not_an_empty_answer(body):
    assert not is_empty_answer(body)


def test_the_first_look_takes_time_linear_in_the_body():
    assert read_good(b'{"choices":[{"a":"' + b'\\"choices\\":[{' * 50_000 + b'"}]}') is None
