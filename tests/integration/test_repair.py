"""Streams that are valid enough to be misread: what reaches the client, and that a good one pays for none of it."""

import json
from typing import Any

import pytest

from tests.integration.answers import DONE, delta
from tests.integration.gateway import HELLO, Answer, answer_from
from tests.integration.scripted import Send, event, stream

MIB = 1024 * 1024


def piece(**fields: Any) -> dict[str, Any]:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


async def streamed(*events: bytes, cumulative: bool = True) -> Answer:
    repair = {"repair": {"cumulative": cumulative}}
    return await answer_from([Send(stream(*events, delta("stop"), DONE))], {**HELLO, "stream": True}, chat=repair)


TEXTS = ["The answer", "The answer is", "The answer is forty", "The answer is forty-two."]


@pytest.mark.parametrize("cumulative", [False, True])
async def test_cumulative_texts_are_cut_only_if_configured(cumulative):
    answer = await streamed(*(event(piece(content=text)) for text in TEXTS), cumulative=cumulative)
    texts = [json.loads(one)["choices"][0]["delta"].get("content", "") for one in answer.events[:-1]]
    assert "".join(texts) == (TEXTS[-1] if cumulative else "".join(TEXTS))


async def test_a_large_event_is_refused_if_its_texts_are_compared():
    answer = await streamed(event(piece(content="a" * MIB)))
    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid")
    assert "than 1 MiB where gatepass converts the stream" in answer.error["message"]
