"""Streams that are valid enough to be misread: what reaches the client, and that a good one pays for none of it."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from tests.integration.answers import DONE, EVENTS, delta
from tests.integration.gateway import HELLO, gateway
from tests.integration.scripted import Scripted, Send, begin_stream, chunk, event, reply, stream

STREAMED = {**HELLO, "stream": True}
WITH_USAGE = {**STREAMED, "stream_options": {"include_usage": True}}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
MIB = 1024 * 1024


def piece(**fields: Any) -> dict[str, Any]:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


async def streamed(*events: bytes, asked: Any = STREAMED, repair: Any = None) -> Any:
    async with Scripted([Send(stream(*events))]) as upstream:
        settings = {} if repair is None else {"repair": repair}
        async with gateway(upstreams={"chat": {"base_url": f"{upstream.url}/v1", **settings}}) as gp:
            return await gp.ask(asked).answer()


def documents(answer: Any) -> list[Any]:
    return [event if event == "[DONE]" else json.loads(event) for event in answer.events]


async def test_wrapped_events_are_unwrapped():
    wrapped = [event({"code": 0, "msg": "ok", "data": json.loads(one[6:])}) for one in EVENTS[:-1]]
    answer = await streamed(*wrapped, DONE)
    assert answer.status == 200
    assert documents(answer) == [*(json.loads(one[6:]) for one in EVENTS[:-1]), "[DONE]"]
    assert "repair=wrapped" in answer.headers["x-gatepass-adapted"]


CALL = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}


def answered(finish: str, *calls: Any) -> bytes:
    """A whole reply, written as no encoder of gatepass's would."""
    calling = f', "tool_calls" : {json.dumps(calls)}' if calls else ""
    message = f'{{"role": "assistant", "content": null{calling}}}'
    choice = f'{{ "index": 0,  "message": {message}, "finish_reason" : "{finish}" , "seconds": 1.50}}'
    head = '"id": "x", "object": "chat.completion", "created": 1, "model": "m"'
    return f'{{{head}, "choices": [{choice}], "more": 1e400}}'.encode()


async def plainly(body: bytes, **asked: Any) -> Any:
    async with Scripted([Send(reply(body))]) as upstream, gateway(upstream=upstream.url) as gp:
        return await gp.ask({**HELLO, **asked}).answer()


async def test_a_whole_reply_that_calls_tools_reports_it_as_the_end_of_a_stream_does():
    answer = await plainly(answered("stop", CALL))
    assert answer.body == answered("tool_calls", CALL)
    assert answer.headers["x-gatepass-adapted"] == "repair=finish"


BARE_CALL = {"function": {"name": "look", "arguments": {"city": "Rome"}}}


@pytest.mark.parametrize("way", ["native", "emulate", "aggregate"])
async def test_tool_calls_are_equal_in_streams_and_whole_replies(way):
    def answer(request: Any) -> list[Send]:
        if not request.json().get("stream"):
            choice = {"message": {"content": None, "tool_calls": [BARE_CALL]}, "finish_reason": None}
            return [Send(reply({"choices": [choice]}))]
        return [Send(stream(event(piece(tool_calls=[BARE_CALL])), delta("stop"), DONE))]

    async with Scripted(answer=answer) as upstream:
        models = {"m": {"upstream": "chat", "stream": way}}
        async with gateway(upstream=upstream.url, models=models) as gp:
            reported = (await gp.ask({**HELLO, "model": "m"}).answer()).json()
    [choice] = reported["choices"]
    [call] = choice["message"]["tool_calls"]
    assert (reported["object"], type(reported["created"]), choice["index"]) == ("chat.completion", int, 0)
    assert (choice["message"]["role"], choice["finish_reason"]) == ("assistant", "tool_calls")
    assert call.pop("id").startswith("call_")
    assert call == {"type": "function", "function": {"name": "look", "arguments": '{"city":"Rome"}'}}


@pytest.mark.parametrize("body", [answered("stop"), answered("tool_calls", CALL), answered("length", CALL)])
async def test_a_whole_reply_that_ends_as_it_should_keeps_its_bytes(body):
    answer = await plainly(body)
    assert answer.body == body
    assert "x-gatepass-adapted" not in answer.headers


@pytest.mark.parametrize(("asked", "usages"), [(STREAMED, []), (WITH_USAGE, [USAGE])])
async def test_usage_in_every_chunk_is_sent_once_and_on_request(asked, usages):
    events = [event({**piece(content=text), "usage": USAGE}) for text in "abc"]
    answer = await streamed(*events, delta("stop"), DONE, asked=asked)
    assert [one["usage"] for one in documents(answer)[:-1] if one.get("usage")] == usages
    assert documents(answer)[-1] == "[DONE]"


TEXTS = ["The answer", "The answer is", "The answer is forty", "The answer is forty-two."]


@pytest.mark.parametrize("cumulative", [False, True])
async def test_cumulative_texts_are_cut_only_if_configured(cumulative):
    events = [event(piece(content=text)) for text in TEXTS]
    answer = await streamed(*events, delta("stop"), DONE, repair={"cumulative": cumulative})
    texts = [one["choices"][0]["delta"].get("content", "") for one in documents(answer)[:-1]]
    assert "".join(texts) == (TEXTS[-1] if cumulative else "".join(TEXTS))


async def test_a_large_event_is_refused_if_its_texts_are_compared():
    answer = await streamed(event(piece(content="a" * MIB)), delta("stop"), DONE, repair={"cumulative": True})
    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid")
    assert "1 MiB, which applies because `repair.cumulative` compares its texts" in answer.error["message"]


@pytest.mark.parametrize(
    ("ends", "blank", "repair"),
    [(b"\n", b"data:", None), (b"\r\n", b"data: ", {"cumulative": True}), (b"\r", b"data: ", None)],
)
async def test_correct_stream_is_relayed_byte_for_byte(ends, blank, repair):
    last = piece()
    last["choices"][0]["finish_reason"] = "stop"
    texts = [piece(content=f"w{number} ") for number in range(20)]
    whole = b"".join([*map(event, [piece(role="assistant", content=""), *texts, last]), DONE])
    lines = (b": hello\n" + whole).replace(b"data: ", blank).replace(b"\n", ends)
    for size in (1, 7, 1000):
        pieces = [lines[at : at + size] for at in range(0, len(lines), size)]
        assert (await streamed(*pieces, repair=repair)).body == lines


async def test_a_line_of_64_mib_is_refused_within_bounds():
    block = chunk(b"a" * MIB)
    moves = [
        *begin_stream(),
        Send(chunk(EVENTS[0])),
        Send(chunk(b'data: {"x":"')),
        *[Send(block)] * 64,
        Send(chunk(b'"}\n\n')),
    ]
    async with Scripted(moves, send_buffer_bytes=65_536) as upstream, gateway(upstream=upstream.url) as gp:
        tracemalloc.start()
        try:
            answer = await gp.ask(STREAMED).answer()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        await upstream.left()
        assert upstream.sent_bytes < 40 * MIB
    assert answer.error["code"] == "upstream_invalid"
    assert (answer.status, answer.whole) == (200, True)
    assert peak < 3 * 32 * MIB
