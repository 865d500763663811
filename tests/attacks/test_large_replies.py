"""Large replies that are legitimate: logprobs of long answers, NaN among many brackets, texts near the limit."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.config.access import BUILT_IN_PROFILES
from gatepass.dialects import content
from gatepass.json_scan import ONE_PASS_BYTES, any_of, may_name
from gatepass.proxy.large_body import MOST_NAMES, Scan, scanned_reply
from gatepass.sse import large_event
from gatepass.sse.chunk import EnvelopeDefaults
from gatepass.sse.client_transforms import transform_reply
from gatepass.sse.event import read_json
from gatepass.sse.large_event import LongTexts
from gatepass.sse.synthesize import synthesize_stream
from gatepass.sse.whole_reply import read_shortened, repair_reply
from tests.attacks import generated
from tests.attacks.conftest import Attack
from tests.attacks.test_large_events import scaled
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


def shortened_events(body: bytes) -> list[Any]:
    """The events of a stream that is made with marks instead of long texts."""
    texts = LongTexts()
    stream = b"".join(synthesize_stream(read_shortened(body, texts), True, ORIGIN))
    return values_of(b"".join(texts.restored_pieces(stream)))


def reads_alike(body: bytes) -> bool:
    """Return whether the reader of large values makes the same stream and the same decision as the plain reader."""
    found = asyncio.run(scanned_reply(body))
    expected = joined(values_of(b"".join(synthesize_stream(read_json(body), True, ORIGIN))))
    if joined(shortened_events(found)) != expected or (len(body) < MIB and not reads_alike_if_scaled(body, expected)):
        return False
    padded = body.rstrip()[:-1] + b',"pad":"%b"}' % (b"x" * content.WHOLE_BYTES)
    large_one = asyncio.run(scanned_reply(padded))
    repaired = [repair_reply(one, lambda: ORIGIN) for one in (padded, large_one)]
    adapted = [transform_reply(one, BUILT_IN_PROFILES["ragflow"], "m") for one in (padded, large_one)]
    return content.parse(large_one) == content.parse(padded) and repaired[0] == repaired[1] and adapted[0] == adapted[1]


def reads_alike_if_scaled(body: bytes, expected: list[Any]) -> bool:
    with scaled():
        return joined(shortened_events(body)) == expected


def joined(events: list[Any]) -> list[Any]:
    """Return the events with the deltas of one text joined: a text with marks is cut at other places."""
    merged = list[Any]()
    for event in events:
        text = event["choices"][0].get("delta", {}).get("content") if event != b"[DONE]" and event["choices"] else None
        last = merged[-1] if merged else None
        if text and isinstance(last, dict) and (before := last["choices"][0].get("delta", {})).get("content"):
            before["content"] += text
        else:
            merged.append(event)
    return merged


@pytest.mark.attack("replies: large, read alike")
@generated
@given(documents)
@example(TWICE)
@example(PRETTY)
@example(LATER)
@example(LONG)
@example(chat(30))
def test_large_reply_is_read_like_a_small_one(attack: Attack, body: bytes) -> None:
    attack.cases += 1
    attack.check(reads_alike(body), body)


def test_logprobs_that_break_the_line_of_an_event_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_event, "one_line", lambda text: text)
    assert not reads_alike(PRETTY)


@pytest.mark.attack("replies: large, NaN")
@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"Infinity"])
@pytest.mark.parametrize("count", [600, 6_000])
def test_numbers_that_only_python_writes_are_checked_in_replies_of_any_size(
    attack: Attack, number: bytes, count: int
) -> None:
    body = chat(count, number=number)
    attack.cases += 1
    found = asyncio.run(scanned_reply(body)) if len(body) > ONE_PASS_BYTES else body
    attack.check(content.parse(found)["choices"] == content.parse(chat(count))["choices"], body[:300])


@pytest.mark.attack("replies: large, judged")
def test_no_step_of_classifying_a_reply_near_the_limit_takes_long(attack: Attack) -> None:
    for make_body in (lambda: chat(0, b"word " * (36 * MIB // 5)), lambda: chat(15_000)):
        body = make_body()  # one at a time, because the tests of a process share a limit of memory
        attack.cases += 1
        found = asyncio.run(scanned_reply(body))
        with attack.on_loop():
            assert not content.is_blank(found)
        with attack.on_loop():
            document = content.parse(found)
        with attack.on_loop():
            repaired = repair_reply(found, lambda: ORIGIN)
        with attack.on_loop():
            assert transform_reply(found, BUILT_IN_PROFILES["ragflow"], "m") == (found, ())
        attack.check((len(document["choices"]), repaired) == (1, (found, ())), body[:300])


@pytest.mark.attack("replies: large, names")
@pytest.mark.parametrize("names", [MOST_NAMES - 100, 400_000])
def test_a_body_of_different_names_is_freed_at_once(attack: Attack, names: int) -> None:
    attack.cases += 1
    body = b'{"x":{%b}}' % b",".join(b'"name%d":0' % number for number in range(names))
    scan, is_over = Scan(body), False
    slices = scan.run()
    while not is_over:
        with attack.on_loop():
            is_over = next(slices, scan) is scan
    with attack.on_loop():
        found = scan.result
        del scan, slices
    attack.check(may_name(found, any_of("name7")), names)
    attack.check(may_name(found, any_of("other")) == (names > MOST_NAMES), names)
    attack.check(len(found.names) < MIB, len(found.names))


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
    cases = [(chat(5_000), True), (chat(5_000), False), (chat(0, b"word " * (4 * MIB)), True)]
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
async def test_a_large_reply_of_blanks_is_refused(attack: Attack, place: str) -> None:
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
        attack.check(b"run of blanks" in answer.body and answer.status == 502, answer.body[:300])
