"""`include_usage` of an upstream: the tokens of streams that the client does not request, and does not receive."""

import asyncio
import json
import re
from typing import Any

import pytest

from tests.integration.answers import COMPLETION, DONE, EVENTS
from tests.integration.gateway import HELLO, STREAMED, gateway
from tests.integration.scripted import LAST_CHUNK, Dialogue, Received, Scripted, Send, Wait, chunk, event, reply, stream
from tests.integration.test_limits import access, ask, by, settled
from tests.waiting import until

USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
HEAD = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
LAST = event({**HEAD, "choices": [], "usage": USAGE})
REJECTED = {
    "error": {"message": "Unrecognized request argument supplied: stream_options", "type": "invalid_request_error"}
}


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


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_obfuscation": False}, {"include_obfuscation": False, "include_usage": True}),
    ],
)
async def test_other_options_of_the_client_are_kept(options, sent):
    async with Scripted(answer=answered) as upstream, gateway(**settings(upstream)) as gp:
        answer = await gp.ask({**STREAMED, "stream_options": options}).answer()
    assert upstream.received[0].json()["stream_options"] == sent
    assert answer.body == b"".join(EVENTS)


async def test_a_client_that_requests_the_usage_receives_its_chunk_and_its_own_bytes_are_sent():
    asked = {**STREAMED, "stream_options": {"include_usage": True}}
    async with Scripted(answer=answered) as upstream, gateway(**settings(upstream)) as gp:
        answer = await gp.ask(asked).answer()
    assert upstream.received[0].body == json.dumps(asked).encode()
    assert answer.body == b"".join((*EVENTS[:-1], LAST, DONE))
    assert "x-gatepass-adapted" not in answer.headers


@pytest.mark.parametrize("models", [{}, {"m": {"upstream": "chat", "stream": "emulate"}}])
async def test_without_a_stream_to_the_upstream_nothing_is_added(models):
    asked = {**(STREAMED if models else HELLO), "model": "m"}
    async with (
        Scripted(answer=answered) as upstream,
        gateway(**settings(upstream), models=models or {"m": {"upstream": "chat"}}) as gp,
    ):
        assert (await gp.ask(asked).answer()).status == 200
    assert "stream_options" not in upstream.received[0].json()


async def test_an_upstream_that_rejects_it_is_asked_once():
    def strict(received: Received) -> Dialogue:
        return [Send(reply(REJECTED, 400))] if "stream_options" in received.json() else answered(received)

    async with Scripted(answer=strict) as upstream, gateway(**settings(upstream)) as gp:
        answers = [await gp.ask(STREAMED).answer() for _ in range(2)]
        await until(lambda: not gp.state.in_flight.busy)
    assert [answer.body for answer in answers] == [b"".join(EVENTS)] * 2
    assert ["stream_options" in one.json() for one in upstream.received] == [True, False, False]


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
