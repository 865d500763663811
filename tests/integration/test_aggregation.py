"""A whole reply from a stream: gatepass requested the stream, or the upstream sent it without a request."""

import asyncio
import threading
from typing import Any

import pytest

from gatepass.sse.aggregate import CompletionAggregator
from tests.integration.answers import DONE, EVENTS, delta
from tests.integration.gateway import HELLO, gateway, relaying
from tests.integration.scripted import Dialogue, Hold, Rst, Scripted, Send, Wait, begin_stream, chunk, event, stream
from tests.waiting import at_rest

MODELS = {"m": {"upstream": "chat", "stream": "aggregate"}}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


async def test_stream_of_the_upstream_becomes_one_reply():
    first = event({"id": "x", "model": "m-1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    usage = event({"id": "x", "choices": [], "usage": USAGE})
    events = (first, delta(content="he"), delta(content="llo"), delta("stop"), usage, DONE)
    dialogue = [Send(stream(*events, x_ratelimit_remaining_tokens="9"))]
    async with relaying(dialogue, models=MODELS) as (upstream, gp):
        answer = await gp.ask({"messages": HELLO["messages"], "model": "m", "stream": False}).answer()
    sent = upstream.received[0]
    assert (sent.json()["stream"], sent.json()["stream_options"]) == (True, {"include_usage": True})
    assert sent.header("accept") == "text/event-stream"
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["x-gatepass-adapted"] == "stream=aggregate, repair=envelope"
    assert answer.headers["x-ratelimit-remaining-tokens"] == "9"
    body = answer.json()
    message = {"role": "assistant", "content": "hello", "refusal": None}
    assert body["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert (body["id"], body["object"], body["model"], body["usage"]) == ("x", "chat.completion", "m-1", USAGE)


async def test_a_stream_whose_first_bytes_do_not_show_what_it_is_is_answered_at_its_done():
    """Nothing after `[DONE]` is waited for, however few bytes the first piece had."""
    go, events = asyncio.Event(), delta(content="hi") + delta("stop") + DONE
    dialogue = [*begin_stream(), Send(chunk(events[:2])), Wait(go), Send(chunk(events[2:])), Hold()]
    async with relaying(dialogue, models=MODELS) as (upstream, gp), gp.ask(HELLO) as ask:
        await upstream.requested()
        await at_rest(lambda: upstream.sent_bytes)
        go.set()
        answer = await ask.answer()
    assert answer.json()["choices"][0]["message"]["content"] == "hi"


BAD: dict[str, tuple[list[Any], int, str]] = {
    "is broken off": ([*begin_stream(), Send(chunk(delta(content="one"))), Rst()], 502, "upstream_closed"),
    "holds an error": (
        [Send(stream(delta(content="one"), event({"error": {"message": "busy", "code": 429}}), DONE))],
        429,
        "429",
    ),
    "falls silent": ([*begin_stream(), Send(chunk(delta(content="one"))), Hold()], 504, "upstream_timeout_idle"),
    "is too large": (
        [Send(stream(*[delta(content="x" * 1000)] * 200, delta("stop"), DONE))],
        502,
        "upstream_invalid",
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_stream_that_is_an_error_has_its_true_status(case):
    moves, status, code = BAD[case]
    async with Scripted(moves) as upstream:
        upstreams = {"chat": {"base_url": f"{upstream.url}/v1", "timeouts": {"idle_s": 1.0}}}
        async with gateway(upstreams=upstreams, models=MODELS, limits={"reply_bytes": 100_000}) as gp:
            answer = await gp.ask(HELLO).answer()
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    assert len(upstream.received) == 1


@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain", "application/json"])
async def test_an_unrequested_stream_becomes_one_reply(kind):
    lines = b"\xef\xbb\xbf" + b"".join(EVENTS).replace(b"\n", b"\r\n") + b"\r\n"
    dialogue = [Send(stream(lines, content_type=kind))]
    async with relaying(dialogue) as (upstream, gp):
        answer = await gp.ask(HELLO).answer()
    assert "stream" not in upstream.received[0].json()
    assert (answer.status, answer.json()["choices"][0]["message"]["content"]) == (200, "hi")
    assert answer.headers["x-gatepass-adapted"] == "stream=aggregate"
    assert len(upstream.received) == 1


async def test_after_done_and_after_an_error_nothing_is_waited_for():
    """Two upstreams that never end their bodies: one stream is complete, the other ended with an error."""
    error = event({"error": {"message": "busy", "code": 429}})
    for events, status in ((EVENTS, 200), ((delta(content="one"), error), 429)):
        moves: Dialogue = [*begin_stream(), *(Send(chunk(one)) for one in events), Hold()]
        async with relaying(moves, models=MODELS) as (upstream, gp):
            answer = await gp.ask(HELLO).answer()
            await upstream.left()
        assert answer.status == status


@pytest.mark.parametrize(("events", "is_large"), [(1, False), (30, True)])
async def test_a_large_reply_is_written_outside_of_the_event_loop(monkeypatch, events, is_large):
    finish, outside = CompletionAggregator.finish, []

    def noted(self: CompletionAggregator) -> bytes:
        outside.append(threading.current_thread() is not threading.main_thread())
        return finish(self)

    monkeypatch.setattr(CompletionAggregator, "finish", noted)
    dialogue = [Send(stream(*[delta(content="x" * 50_000)] * events, delta("stop"), DONE))]
    async with relaying(dialogue, models=MODELS) as (_, gp):
        answer = await gp.ask(HELLO).answer()
    assert (len(answer.json()["choices"][0]["message"]["content"]), outside) == (50_000 * events, [is_large])
