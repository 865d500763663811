"""The openai package's reading of a reply that passed gatepass, on real sockets."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from tests.integration.answers import DONE
from tests.integration.gateway import HELLO, Gateway, relaying
from tests.integration.scripted import Send, event, head, reply, stream
from tests.integration.test_profiles import lines_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS = "The model is overloaded. Please try again in 40 seconds."
MESSAGES: Any = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def sdk(to: Gateway, **options: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{to.port}/v1", api_key="none", **options) as client:
        yield client


def refusal(status: int, headers: Mapping[str, str]) -> Send:
    return Send(reply({"error": {"message": WORDS, "type": "server_error", "code": None}}, status, **headers))


# --- x-should-retry -----------------------------------------------------------------------------------------------

QUICK = {"retry_after_ms": "1"}
REPEATS: dict[str, tuple[int, Mapping[str, str], int]] = {
    "a 429 that forbids it": (429, {"x_should_retry": "false"}, 1),
    "a 503 that forbids it after a time": (503, {"x_should_retry": "false", **QUICK}, 1),
    "a 500 that forbids it, in a 200": (200, {"x_should_retry": "false"}, 1),
    "a 400 that asks for it": (400, {"x_should_retry": "true", **QUICK}, 1),
    "a 409 that asks for it": (409, {"x_should_retry": "true", **QUICK}, 3),
    "a 503 that asks for it": (503, {"x_should_retry": "true", **QUICK}, 3),
    "a 503 that says neither": (503, {"x_should_retry": "maybe", **QUICK}, 3),
}
"""Status and headers of the upstream's reply, and how many requests it gets for one of the client's."""


@pytest.mark.parametrize(("status", "headers", "requests"), REPEATS.values(), ids=REPEATS)
async def test_the_upstream_decides_about_a_repeat(status, headers, requests):
    async with relaying([refusal(status, headers)]) as (upstream, gp), sdk(gp) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="m", messages=MESSAGES)
        assert len(upstream.received) == requests
        reported = caught.value.response.headers
        if headers["x_should_retry"].lower() == "false":
            assert reported["x-should-retry"] == "false"
            assert ("retry-after" in reported) == ("retry_after_ms" in headers), "the text's 40 s are worth no wait"
        if requests == 3 and headers["x_should_retry"] == "true":
            assert reported["x-should-retry"] == "true"
        if status == 400:
            assert "x-should-retry" not in reported


@pytest.mark.parametrize("status", [200, 202, 204, 205])
async def test_a_deletion_that_is_answered_without_a_body_is_sent_once(status):
    fields = {"content_type": "application/json"} | ({} if status == 204 else {"content_length": "0"})
    async with relaying(answer=lambda _: [Send(head(status, **fields))]) as (upstream, gp), sdk(gp) as client:
        await client.files.delete("file-1")
        await client.responses.delete("resp_1")
    assert [one.method for one in upstream.received] == ["DELETE", "DELETE"]


def chunk(**delta: Any) -> bytes:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


# --- answers that say nothing -------------------------------------------------------------------------------------

STOP = event({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
BESIDE = event({"id": "x", "choices": [{"index": 1, "delta": {"content": "a"}, "finish_reason": "stop"}]})
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def completion_with(**message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return reply({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


EMPTY: dict[str, tuple[bytes, bool]] = {
    "null": (completion_with(content=None), True),
    "a text": (completion_with(content="a"), False),
    "a call": (completion_with(content=None, tool_calls=[CALL]), False),
    "a stream of nothing": (stream(chunk(role="assistant", content=""), STOP, DONE), True),
    "a stream of thoughts": (stream(chunk(reasoning_content="hm"), chunk(reasoning_content="so"), STOP, DONE), True),
    "a stream with a call": (stream(chunk(role="assistant", tool_calls=[{"index": 0, **CALL}]), STOP, DONE), False),
    "an empty choice beside a text": (stream(BESIDE, STOP, DONE), False),
}


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(("answer", "is_empty"), EMPTY.values(), ids=EMPTY)
async def test_an_empty_answer_is_counted_and_logged(caplog, answer, is_empty, streamed):
    caplog.set_level(logging.INFO, "gatepass.access")
    async with relaying([Send(answer)]) as (_, gp):
        got = await gp.ask({**HELLO, "stream": streamed}).answer()
        (line,) = await lines_of(caplog, 1)
        assert (got.status, line.get("outcome")) == (200, "ok")
        assert line.get("empty_answer") is (True if is_empty else None)
        shown = gp.state.metrics.exposition().decode()
        assert ('gatepass_empty_answers_total{upstream="chat"} 1.0' in shown) is is_empty
