"""A stream made of a whole reply, while the client waits: true statuses first, then signs of life, then the answer."""

import asyncio
import json

from gatepass.proxy.client_response import EVERY_S, SYNTHESIZED_HOLD_S
from tests.integration.answers import COMPLETION
from tests.integration.gateway import STREAMED, relaying
from tests.integration.scripted import Dialogue, Fin, Send, Wait, reply
from tests.unit.clock import DrivenClock

MODELS = {"m": {"upstream": "chat", "stream": "emulate"}}
COMMENT = b": keep-alive\n\n"


async def test_an_error_after_the_head_is_the_streams_last_event():
    go, clock = asyncio.Event(), DrivenClock()
    dialogue: Dialogue = [Wait(go), Send(reply(COMPLETION)[:-9]), Fin()]
    async with relaying(dialogue, models=MODELS, clock=clock) as (upstream, gp), gp.ask(STREAMED) as ask:
        await upstream.requested()
        await clock.advance(SYNTHESIZED_HOLD_S)
        await ask.head()
        await ask.until(COMMENT)
        await clock.advance(EVERY_S)
        await ask.until(COMMENT * 2)
        assert ask.body == COMMENT * 2
        assert ask.received["x-gatepass-adapted"] == "stream=synth"
        go.set()
        answer = await ask.answer()
    assert (answer.status, answer.whole, answer.error["code"]) == (200, True, "upstream_closed")
    assert answer.events == [json.dumps({"error": answer.error}, separators=(",", ":"), ensure_ascii=False)]
    assert answer.body.startswith(COMMENT * 2 + b"data: ")
