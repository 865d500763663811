"""`read_good` agrees with classification, repair and usage, which read the same reply one after the other."""

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from gatepass.dialects import content
from gatepass.dialects.reply_check import ReceivedReply, classify_document
from gatepass.protocols.chat import CHAT
from gatepass.sse import usage, whole_reply
from gatepass.sse.chunk import EnvelopeDefaults
from gatepass.sse.usage import Usage, usage_of
from gatepass.sse.whole_reply import is_empty_answer, read_good
from tests.unit.sse.replies import CALL, CUSTOM, USAGE, chat, choice, text

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


def walked(body, monkeypatch):
    """The reply repaired without the check of `is_strict` before."""
    with monkeypatch.context() as patched:
        patched.setattr(whole_reply, "is_strict", lambda _: False)
        return whole_reply.repair_reply(body, lambda: EnvelopeDefaults(lambda prefix: f"{prefix}1", 9, "asked"))


def usage_in(body):
    usage = json.loads(body.decode("utf-8", "replace")).get("usage")
    return Usage.read(usage) if usage is not None else None


def test_a_good_reply_is_a_success_needs_no_repair_and_has_its_own_usage(monkeypatch):
    taken = [(body, good) for body in bodies() if (good := read_good(body)) is not None]
    with_usage = 0
    for body, good in taken:
        assert not content.is_event_stream(JSON, body), body
        assert walked(body, monkeypatch) == (body, ()), body
        assert good.usage == usage_in(body), body
        with_usage += good.usage is not None
        assert classify_document(ReceivedReply("chat", 200, JSON, body), CHAT) is body, body
    assert len(taken) > 300
    assert with_usage > 100


CACHED = [{"usage": {**USAGE, name: 1, "prompt_tokens_details": {}}} for name in usage.CACHED]


@pytest.mark.parametrize("more", [{}, {"usage": USAGE}, {"service_tier": "x", "usage": USAGE}, *CACHED])
@pytest.mark.parametrize("choices", [[choice()], [choice(CALL)], [choice(), choice(CALL, CUSTOM, index=1)]])
def test_good_reply_is_read_with_its_usage(choices, more):
    body = json.dumps(chat(*choices, **more), separators=(",", ":")).encode()
    good = read_good(body)
    assert good is not None
    assert good.usage == usage_of(body)
    assert (good.usage is not None) is bool(more)


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
