"""A whole reply from a stream: gatepass requested the stream, or the upstream sent it without a request."""

import asyncio

from tests.integration.answers import DONE, EVENTS, delta
from tests.integration.gateway import HELLO, relaying
from tests.integration.scripted import Dialogue, Hold, Send, Wait, begin_stream, chunk, event
from tests.waiting import at_rest

MODELS = {"m": {"upstream": "chat", "stream": "aggregate"}}


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


async def test_after_done_and_after_an_error_nothing_is_waited_for():
    """Two upstreams that never end their bodies: one stream is complete, the other ended with an error."""
    error = event({"error": {"message": "busy", "code": 429}})
    for events, status in ((EVENTS, 200), ((delta(content="one"), error), 429)):
        moves: Dialogue = [*begin_stream(), *(Send(chunk(one)) for one in events), Hold()]
        async with relaying(moves, models=MODELS) as (upstream, gp):
            answer = await gp.ask(HELLO).answer()
            await upstream.left()
        assert answer.status == status
