"""A stream made of a whole reply, while the client waits: true statuses first, then signs of life, then the answer."""

import asyncio
import json

import pytest

from gatepass.proxy.client_response import EVERY_S, SYNTHESIZED_HOLD_S
from tests.integration.answers import COMPLETION
from tests.integration.gateway import STREAMED, relaying
from tests.integration.scripted import Dialogue, Fin, Send, Wait, reply
from tests.unit.clock import DrivenClock

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
