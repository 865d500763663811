"""A stream made of a whole reply, while the client waits: true statuses first, then signs of life, then the answer."""

import asyncio
import json

import pytest

from gatepass.proxy.client_response import EVERY_S, SYNTHESIZED_HOLD_S
from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, STREAMED, gateway, relaying
from tests.integration.scripted import Dialogue, Fin, Hold, Scripted, Send, Wait, reply
from tests.unit.clock import DrivenClock, settle
from tests.waiting import until

MODELS = {"m": {"upstream": "chat", "stream": "emulate"}}
COMMENT = b": keep-alive\n\n"
BUSY = {"error": {"message": "slow down", "type": "rate_limit_error", "param": None, "code": "busy"}}


async def comments(ask, clock, count):
    """Let time go by until `count` signs of life have come."""
    await clock.advance(SYNTHESIZED_HOLD_S)
    await ask.head()
    for number in range(1, count + 1):
        await ask.until(COMMENT * number)
        if number < count:
            await clock.advance(EVERY_S)
    assert ask.body == COMMENT * count


def text_of(events):
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def test_model_without_streams_is_called_for_a_whole_reply():
    async with relaying([Send(reply(COMPLETION))], models=MODELS) as (upstream, gp):
        answer = await gp.ask(STREAMED).answer()
        plain = await gp.ask(HELLO).answer()
    assert (answer.status, text_of(answer.events), answer.events[-1]) == (200, "hi", "[DONE]")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-accel-buffering"] == "no"
    assert (plain.status, plain.json()) == (200, COMPLETION)
    assert [request.json().get("stream") for request in upstream.received] == [False, None]
    assert upstream.received[0].header("accept") == "application/json"


LATE: dict[str, tuple[Dialogue, str]] = {
    "refusal": ([Send(reply(BUSY, 429))], "busy"),
    "cut": ([Send(reply(COMPLETION)[:-9]), Fin()], "upstream_closed"),
    "error in a 200": ([Send(reply({"code": 102, "message": "no"}))], "102"),
}


@pytest.mark.parametrize("case", LATE)
async def test_an_error_after_the_head_is_the_streams_last_event(case):
    go, clock = asyncio.Event(), DrivenClock()
    moves, code = LATE[case]
    async with relaying([Wait(go), *moves], models=MODELS, clock=clock) as (upstream, gp), gp.ask(STREAMED) as ask:
        await upstream.requested()
        await comments(ask, clock, 2)
        assert ask.received["x-gatepass-adapted"] == "stream=synth"
        go.set()
        answer = await ask.answer()
    assert (answer.status, answer.whole, answer.error["code"]) == (200, True, code)
    assert answer.events == [json.dumps({"error": answer.error}, separators=(",", ":"), ensure_ascii=False)]
    assert answer.body.startswith(COMMENT * 2 + b"data: ")


async def test_while_only_comments_went_out_the_next_target_may_answer():
    clock = DrivenClock()
    models = {"m": {"targets": [{"upstream": "first"}, {"upstream": "second"}], "stream": "emulate"}}
    async with Scripted([Hold()]) as issuer, Scripted([Send(reply(COMPLETION))]) as upstream:
        slow = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": "a-long-secret"}
        upstreams = {
            "first": {"base_url": f"{upstream.url}/first", "credential": "slow"},
            "second": {"base_url": f"{upstream.url}/second"},
        }
        async with (
            gateway(upstreams=upstreams, credentials={"slow": slow}, models=models, clock=clock) as gp,
            gp.ask(STREAMED) as ask,
        ):
            await until(lambda: gp.state.in_flight.busy == 1)
            await settle()
            await comments(ask, clock, 1)
            await clock.advance(30)
            answer = await ask.answer()
    assert [request.target for request in upstream.received] == ["/second/chat/completions"]
    assert (text_of(answer.events), answer.events[-1]) == ("hi", "[DONE]")


async def test_unrequested_whole_reply_becomes_a_stream():
    """`stream: auto`: the upstream was asked for a stream, and answers with one whole document all the same."""
    for moves in ([Send(reply(COMPLETION))], [Send(reply({"code": 0, "msg": "ok", "data": COMPLETION}))]):
        async with relaying(moves) as (upstream, gp):
            answer = await gp.ask({**STREAMED, "stream_options": {"include_usage": True}}).answer()
        assert upstream.received[0].json()["stream"] is True
        assert (answer.status, text_of(answer.events), answer.events[-1]) == (200, "hi", "[DONE]")
        assert answer.headers["x-gatepass-adapted"].startswith("stream=synth")
        assert json.loads(answer.events[-2])["usage"] == COMPLETION["usage"]
        assert len(upstream.received) == 1
