"""Streams that are valid enough to be misread: what reaches the client, and that a good one pays for none of it."""

import json
from typing import Any

import pytest

from tests.integration.answers import DONE, delta
from tests.integration.gateway import HELLO, gateway
from tests.integration.scripted import Scripted, Send, event, stream

STREAMED = {**HELLO, "stream": True}
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
