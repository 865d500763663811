"""Replies, streams and errors of llama.cpp arrive unchanged.

Its own answers over the Responses and the Messages API are compared with those that gatepass makes of its chats.
"""

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.e2e.realllm.compared import CASES, DIFFERENCES, MODELS, Difference, differences, document, explained
from tests.e2e.servers import ask, listening, start_model
from tests.integration.gateway import gateway

STREAMS = (False, True)
VERSION = {"anthropic_version": "2023-06-01"}


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, str]]:
    """The URLs of the models, each with one slot, so that the same prompt is cached in both answers."""
    options: dict[str, tuple[str, ...]] = dict.fromkeys(
        ("tiny-chat", "tiny-call", "tiny-calls"), ("--slots", "1", "--answer-tokens", "400")
    )
    options["tiny-ends"] = ("--embeddings",)
    with ExitStack() as stack:
        yield {
            name: listening(stack.enter_context(start_model(f"{name}.gguf", *more))) for name, more in options.items()
        }


async def both(url: str, api: str, body: dict[str, Any], **upstream: Any) -> tuple[tuple[int, str], tuple[int, str]]:
    """Return the status and the body of llama.cpp's own answer, and of the one through gatepass."""
    async with gateway(upstreams={"chat": {"base_url": f"{url}/v1", **upstream}}) as gp:
        await asyncio.to_thread(ask, f"{url}/v1/{api}", body, **VERSION)  # fills the cache of prompts
        own = await asyncio.to_thread(ask, f"{url}/v1/{api}", body, **VERSION)
        return own, await asyncio.to_thread(ask, f"http://127.0.0.1:{gp.port}/v1/{api}", body, **VERSION)


HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "temperature": 0}
TOO_LONG = {**HELLO, "messages": [{"role": "user", "content": "word " * 10_000}]}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
NEW_TEXT = re.compile(r'"(?:id|created)":[^,]+,|"timings":\{.*?\}')
"""Members of its chats that differ between two answers of one server."""


@pytest.mark.parametrize(
    ("model", "api", "body", "holds"),
    [
        ("tiny-chat", "chat/completions", HELLO, '"completion_tokens":12'),
        ("tiny-chat", "chat/completions", {**HELLO, **STREAMED}, '"completion_tokens":12'),
        ("tiny-chat", "chat/completions", TOO_LONG, "exceeds the available context size"),
        ("tiny-chat", "chat/completions", {**TOO_LONG, **STREAMED}, "exceeds the available context size"),
        ("tiny-chat", "messages", {**HELLO, "stream": True}, "event: message_stop"),
        ("tiny-ends", "embeddings", {"model": "m", "input": ["amber", "basalt", "topaz"]}, '"embedding":['),
    ],
    ids=["chat", "stream", "error", "error of a stream", "messages", "vectors"],
)
async def test_a_relayed_answer_is_its_own_one(models, model: str, api: str, body: dict[str, Any], holds: str):
    """But for ids, times and, of an error, what gatepass adds to it."""
    (status, own), (relayed_status, relayed) = await both(models[model], api, body)
    assert relayed_status == status
    assert holds in relayed
    if status == 200:
        assert NEW_TEXT.sub("", relayed) == NEW_TEXT.sub("", own)
        assert ("timings" in relayed) is ("timings" in own), "llama.cpp's own fields survive"


async def compared(models: dict[str, str], api: str, case: str, streams: bool) -> tuple[Any, Any, Any]:
    """Return what is different, and the native and the translated answer."""
    body = {"model": "m", "temperature": 0, "stream": streams, **CASES[api][case]}
    own, other = await both(models[MODELS.get(case, "tiny-chat")], api, body, protocols=["chat"])
    return list(differences(document(own[1]), document(other[1]))), own[1], other[1]


async def test_translated_answers_are_its_own_ones_but_for_a_table(models: dict[str, str]):
    used: set[Difference] = set()
    unexplained = []
    for api, case in ((api, case) for api, cases in CASES.items() for case in cases):
        for streams in STREAMS:
            for place, *values in (await compared(models, api, case, streams))[0]:
                row = explained(api, case, place)
                if row is None:
                    unexplained.append((api, case, streams, place, *values))
                else:
                    used.add(row)
    assert unexplained == []
    assert used == set(DIFFERENCES)


@pytest.mark.parametrize("streams", STREAMS)
async def test_calls_that_tool_choice_forces_are_the_same(models: dict[str, str], streams: bool):
    _, *messages = await compared(models, "messages", "calls", streams)
    _, *responses = await compared(models, "responses", "call", streams)
    assert [one.count('"tool_use"') for one in messages] == [2, 2]
    assert ['"type":"function_call"' in one for one in responses] == [True, True]


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize(("api", "case"), [("responses", "named"), ("messages", "named"), ("messages", "stop at once")])
async def test_an_empty_answer_is_an_error(models: dict[str, str], api: str, case: str, streams: bool):
    assert "upstream_empty" in (await compared(models, api, case, streams))[2]
