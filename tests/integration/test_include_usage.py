"""`include_usage` of an upstream: the tokens of streams that the client does not request, and does not receive."""

import asyncio
import re
from typing import Any

import pytest

from tests.integration.answers import COMPLETION, DONE, EVENTS
from tests.integration.gateway import STREAMED, gateway
from tests.integration.scripted import LAST_CHUNK, Dialogue, Received, Scripted, Send, Wait, chunk, event, reply, stream
from tests.integration.test_limits import access, ask, by, settled

USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
HEAD = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
LAST = event({**HEAD, "choices": [], "usage": USAGE})


def answered(received: Received) -> Dialogue:
    asked = received.json()
    counts = (asked.get("stream_options") or {}).get("include_usage") is True
    if not asked.get("stream"):
        return [Send(reply({**COMPLETION, "usage": USAGE}))]
    return [Send(stream(*EVENTS[:-1], *([LAST] if counts else []), DONE))]


def settings(upstream: Scripted, **more: Any) -> dict[str, Any]:
    return {"upstreams": {"chat": {"base_url": f"{upstream.url}/v1", "include_usage": True, **more}}}


async def test_the_client_receives_the_bytes_of_a_stream_without_usage_and_limits_and_metrics_have_its_tokens():
    async with (
        Scripted(answer=answered) as upstream,
        gateway(**settings(upstream), access=access({"tokens": {"minute": 10_000}})) as gp,
    ):
        answer = await ask(gp, STREAMED)
        await settled(gp, [15, 0])
        page = gp.state.metrics.exposition().decode()
    assert upstream.received[0].json() == {**STREAMED, "stream_options": {"include_usage": True}}
    assert answer.body == b"".join(EVENTS)
    adapted = "set=stream_options.include_usage, repair=usage, repair=choices"
    assert answer.headers["x-gatepass-adapted"] == adapted
    tokens = re.findall(r'gatepass_(input|output)_tokens_total\{caller="ana".*\} (\d+)', page)
    assert dict(tokens) == {"input": "11", "output": "4"}


@pytest.mark.parametrize("options", ["yes", True, 1, ["include_usage"], None, {}, {"include_usage": "true"}])
async def test_options_that_cannot_ask_for_usage_are_replaced(options):
    limits = access({"tokens": {"minute": 10_000}})
    async with Scripted(answer=answered) as upstream, gateway(upstream=upstream.url, access=limits) as gp:
        answer = await ask(gp, {**STREAMED, "stream_options": options})
        await settled(gp, [15, 0])
    assert upstream.received[0].json()["stream_options"] == {"include_usage": True}
    assert "set=stream_options.include_usage" in answer.headers["x-gatepass-adapted"]


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("is_late", [True, False])
async def test_usage_after_done_is_counted_and_sent_if_the_client_asked(asks, is_late):
    go = asyncio.Event()  # the usage is a piece of its own
    wait: Dialogue = [Wait(go)] if is_late else []
    options = {"stream_options": {"include_usage": True}} if asks else {}
    async with (
        Scripted([Send(stream(*EVENTS, end=b"")), *wait, Send(chunk(LAST) + LAST_CHUNK)]) as upstream,
        gateway(**settings(upstream), access=access({"tokens": {"minute": 10_000}})) as gp,
        gp.ask({**STREAMED, **options}, headers=by("ana")) as asking,
    ):
        await asking.head()
        await asking.until(EVENTS[1])
        go.set()
        answer = await asking.answer()
        await settled(gp, [15, 0])
    assert answer.body.endswith(DONE)
    assert (answer.body.count(DONE), answer.body.count(LAST)) == (1, asks)


async def test_an_upstream_that_stays_open_after_done_without_usage_delays_the_end_for_a_while_only():
    async with (
        Scripted([Send(stream(*EVENTS, end=b"")), Wait(asyncio.Event())]) as upstream,
        gateway(**settings(upstream)) as gp,
    ):
        assert (await gp.ask(STREAMED).answer()).body == b"".join(EVENTS)
