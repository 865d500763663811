"""Large replies that are legitimate: logprobs of long answers, NaN among many brackets, texts near the limit."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.config.access import BUILT_IN_PROFILES
from gatepass.dialects import content
from gatepass.proxy.response import _is_beyond_checks
from gatepass.sse import whole_reply
from gatepass.sse.chunk import EnvelopeDefaults
from gatepass.sse.client_transforms import transform_reply
from gatepass.sse.event import read_json
from gatepass.sse.synthesize import synthesize_stream
from gatepass.sse.whole_reply import read_large, repair_reply
from tests.attacks import generated
from tests.attacks.conftest import Attack
from tests.integration.gateway import HELLO, gateway
from tests.integration.scripted import Scripted, Send, reply

MIB = 1 << 20
ORIGIN = EnvelopeDefaults(lambda prefix: f"{prefix}x", 1, "m")


def chat(tokens: int, text: bytes = b"word", number: bytes = b"-0.0123") -> bytes:
    """An answer with 20 alternatives for each token."""
    one = b'{"token":" ab","logprob":%b,"bytes":[32,97,98]' % number
    entry = b'%b,"top_logprobs":[%b]}' % (one, b",".join([one + b"}"] * 20))
    return (
        b'{"id":"a","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
        b'"message":{"role":"assistant","content":"%b"},"logprobs":{"content":[%b],"refusal":null}}],'
        b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}' % (text, b",".join([entry] * tokens))
    )


def values_of(stream: bytes) -> list[Any]:
    """The values of the events. Events of several lines are left out."""
    lines = [line.removeprefix(b"data: ") for line in stream.split(b"\n\n") if line]
    return [line if line == b"[DONE]" else json.loads(line) for line in lines if b"\n" not in line]


tokens = st.lists(st.fixed_dictionaries({"token": st.text(max_size=5), "logprob": st.floats(-9, 0)}), max_size=80)
logprobs = st.none() | st.fixed_dictionaries({"content": tokens | st.none()}, optional={"refusal": tokens})
choices = st.fixed_dictionaries(
    {"message": st.fixed_dictionaries({"role": st.just("assistant"), "content": st.none() | st.text(max_size=9)})},
    optional={"logprobs": logprobs, "finish_reason": st.sampled_from([None, "stop"]), "index": st.integers(0, 2)},
)
documents = st.builds(
    lambda found, indent: json.dumps({"id": "a", "choices": found, "model": "m"}, indent=indent).encode(),
    st.lists(choices, max_size=3) | st.none(),
    st.none() | st.integers(0, 2),
)
MANY = json.dumps([{"token": "a", "logprob": -1}] * 80, indent=1).encode()
TWICE = b'{"choices":[{"logprobs":{"content":%b},"logprobs":null,"message":{"content":"a"}}]}' % MANY
PRETTY = b'{"choices":[{"logprobs":{"content":null,"content":%b},"message":{"content":"a"}}]}' % MANY
LATER = b'{"choices":[1],"choices":[{"logprobs":{"content":%b},"message":{"content":"a"}}]}' % MANY
LONG = b'{"choices":[{"message":{"content":"%b","role":"assistant"}}]}' % (b"\\u00e9 \\n" * (200 * 1024))


def reads_alike(body: bytes) -> bool:
    """Return whether the reader of many values makes the same stream as the plain reader."""
    expected = values_of(b"".join(synthesize_stream(read_json(body), True, ORIGIN)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole_reply, "takes_long", lambda _: True)
        try:
            found = values_of(b"".join(synthesize_stream(read_large(body), True, ORIGIN)))
        except ValueError:  # its choices are not objects
            return not all(isinstance(one, dict) for one in json.loads(body)["choices"] or [None])
    return found == expected


@pytest.mark.attack("replies: large, read alike")
@generated
@given(documents)
@example(PRETTY)
@example(chat(30))
def test_large_reply_is_read_like_a_small_one(attack: Attack, body: bytes) -> None:
    attack.cases += 1
    attack.check(reads_alike(body), body)


def test_logprobs_that_break_the_line_of_an_event_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_reply, "_unread", msgspec.Raw)
    assert not reads_alike(PRETTY)


@pytest.mark.attack("replies: large, judged")
def test_no_step_of_classifying_a_reply_near_the_limit_takes_long(attack: Attack) -> None:
    for make_body in (lambda: chat(0, b"word " * (15 * MIB // 5)), lambda: chat(8_000)):
        body = make_body()  # one at a time, because the tests of a process share a limit of memory
        attack.cases += 1
        assert not _is_beyond_checks(body)
        with attack.on_loop():
            assert not content.is_blank(body)
        with attack.on_loop():
            document = content.parse(body)
        with attack.on_loop():
            repaired = repair_reply(body, lambda: ORIGIN)
        with attack.on_loop():
            assert transform_reply(body, BUILT_IN_PROFILES["ragflow"], "m") == (body, ())
        attack.check((len(document["choices"]), repaired) == (1, (body, ())), body[:300])


def test_a_long_answer_gets_whole_numbers() -> None:
    body = chat(0, b"word " * MIB).replace(b'"total_tokens":2', b'"total_tokens":2.0')
    changed, adapted = transform_reply(body, BUILT_IN_PROFILES["ragflow"], "m")
    assert (adapted, changed) == (("repair=usage",), body.replace(b"2.0", b"2"))


@pytest.mark.attack("replies: large, as a stream for a client")
@pytest.mark.parametrize("profile", ["ragflow", "dify"])
async def test_a_long_answer_becomes_a_stream_for_a_profile(attack: Attack, profile: str) -> None:
    body = chat(0, b"word " * (2 * MIB))
    attack.cases += 1
    path = f"/for/{profile}/v1/chat/completions"
    async with (
        Scripted([Send(reply(body))]) as upstream,
        gateway(upstream=upstream.url) as served,
        attack.on_this_loop(),
    ):
        answer = await served.ask({**HELLO, "stream": True}, path=path).answer()
    attack.check(answer.status == 200 and answer.body.endswith(b"data: [DONE]\n\n"), answer.body[-300:])
    attack.check(answer.body.count(b"word ") > 2 * MIB - 2_000, answer.body[:300])  # some words are cut between chunks


@pytest.mark.attack("replies: large, a server")
async def test_a_long_answer_with_logprobs_is_served_whole_and_as_a_stream(attack: Attack) -> None:
    cases = [(chat(5_000), True), (chat(5_000), False), (chat(0, b"word " * (3 * MIB)), True)]
    cases += [(chat(600, number=b"NaN"), False)]
    async with (
        Scripted(*[[Send(reply(body))] for body, _ in cases]) as upstream,
        gateway(upstream=upstream.url) as served,
    ):
        for body, is_stream in cases:
            attack.cases += 1
            async with attack.on_this_loop():
                answer = await served.ask({**HELLO, "stream": is_stream, "logprobs": True}).answer()
            attack.check(answer.status == 200, answer.body[:300])
            if is_stream:
                attack.check(answer.body.endswith(b"data: [DONE]\n\n"), answer.body[-300:])
                attack.check(answer.body.count(b'"top_logprobs"') == body.count(b'"top_logprobs"'), answer.body[:300])
            else:
                attack.check(answer.body == body, answer.body[:300])


@pytest.mark.attack("replies: large, blanks")
@pytest.mark.parametrize("place", ["extra", "before", "behind"])
async def test_a_large_reply_of_blanks_holds_nobody_up(attack: Attack, place: str) -> None:
    blanks = b" " * 12 * MIB
    body = {
        "extra": chat(1)[:-1] + b',"x":[%b]}' % blanks,
        "before": chat(1).replace(b"{", b"{" + blanks, 1),
        "behind": chat(1) + blanks,
    }[place].replace(b'"created":1,', b"")
    attack.cases += 1
    async with Scripted([Send(reply(body))]) as upstream, gateway(upstream=upstream.url) as served:
        async with attack.on_this_loop():
            answer = await served.ask(HELLO).answer()
        attack.check(answer.status in (200, 502), answer.body[:300])
