"""Streams that are valid enough to be misread: what reaches the client, and that a good one pays for none of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.answers import DONE, delta
from tests.integration.gateway import HELLO, gateway
from tests.integration.scripted import Scripted, Send, event, reply, stream

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
