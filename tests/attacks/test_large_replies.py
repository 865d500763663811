"""Large replies that are legitimate: logprobs of long answers, NaN among many brackets, texts near the limit."""

from __future__ import annotations

import pytest

from gatepass.config.access import BUILT_IN_PROFILES
from gatepass.dialects import content
from gatepass.proxy.response import _is_beyond_checks
from gatepass.sse.chunk import EnvelopeDefaults
from gatepass.sse.client_transforms import transform_reply
from gatepass.sse.whole_reply import repair_reply
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
    cases = [(chat(500), True), (chat(5_000), False), (chat(0, b"word " * (3 * MIB)), True)]
    cases += [(chat(600, number=b"NaN"), False), (chat(5_000), True)]
    async with (
        Scripted(*[[Send(reply(body))] for body, _ in cases]) as upstream,
        gateway(upstream=upstream.url) as served,
    ):
        for body, is_stream in cases:
            attack.cases += 1
            async with attack.on_this_loop():
                answer = await served.ask({**HELLO, "stream": is_stream, "logprobs": True}).answer()
            if (body, is_stream) == cases[-1]:
                attack.check(answer.status == 502 and b"too many values for a stream" in answer.body, answer.body[:300])
                continue
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
