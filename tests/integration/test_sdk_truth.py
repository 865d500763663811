"""What the openai package makes of a reply that passed gatepass, on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from tests.integration.gateway import Gateway, gateway
from tests.integration.scripted import Scripted, Send, reply

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
    "a 503 that forbids it": (503, {"x_should_retry": "False"}, 1),
    "a 503 that forbids it after a time": (503, {"x_should_retry": "false", **QUICK}, 1),
    "a 500 that forbids it, in a 200": (200, {"x_should_retry": "false"}, 1),
    "a 400 that asks for it": (400, {"x_should_retry": "true", **QUICK}, 1),
    "a 404 that asks for it": (404, {"x_should_retry": "true", **QUICK}, 1),
    "a 408 that asks for it": (408, {"x_should_retry": "true", **QUICK}, 3),
    "a 409 that asks for it": (409, {"x_should_retry": "true", **QUICK}, 3),
    "a 429 that asks for it": (429, {"x_should_retry": "true", **QUICK}, 3),
    "a 501 that asks for it": (501, {"x_should_retry": "true", **QUICK}, 3),
    "a 503 that asks for it": (503, {"x_should_retry": "true", **QUICK}, 3),
    "a 503 that says neither": (503, {"x_should_retry": "maybe", **QUICK}, 3),
}
"""Status and headers of the upstream's reply, and how many requests it gets for one of the client's."""


@pytest.mark.parametrize(("status", "headers", "requests"), REPEATS.values(), ids=REPEATS)
async def test_the_upstream_decides_about_a_repeat(status, headers, requests):
    async with (
        Scripted([refusal(status, headers)]) as upstream,
        gateway(upstream=upstream.url) as gate,
        sdk(gate) as client,
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="m", messages=MESSAGES)
        assert len(upstream.received) == requests
        told = caught.value.response.headers
        if headers["x_should_retry"].lower() == "false":
            assert told["x-should-retry"] == "false"
            assert ("retry-after" in told) == ("retry_after_ms" in headers), "the text's 40 s are worth no wait"
        if requests == 3 and headers["x_should_retry"] == "true":
            assert told["x-should-retry"] == "true"
        if status in (400, 404):
            assert "x-should-retry" not in told


async def test_a_time_in_the_text_is_told_where_no_repeat_is_forbidden():
    async with Scripted([refusal(503, {})]) as upstream, gateway(upstream=upstream.url) as gate:
        answer = await gate.ask().answer()
        assert (answer.headers["retry-after"], answer.headers.get("x-should-retry")) == ("40", None)


async def test_a_time_in_the_head_stays_where_a_repeat_is_forbidden():
    refused = refusal(503, {"x_should_retry": "false", "retry_after": "9"})
    async with Scripted([refused]) as upstream, gateway(upstream=upstream.url) as gate:
        answer = await gate.ask().answer()
        assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("9", "false")
