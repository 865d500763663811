"""An issuer that hangs during a stream."""

import asyncio

from gatepass.protocols.client_protocol import COMMENT
from tests.integration.answers import DONE, delta
from tests.integration.gateway import STREAMED
from tests.integration.issuer import minted, renewing
from tests.integration.scripted import Hold, Scripted, Send, Wait, begin_stream, chunk
from tests.unit.clock import DrivenClock


async def test_a_stream_outlives_its_token():
    clock, go = DrivenClock(), asyncio.Event()
    events = [delta(content="one"), delta(content="two"), delta("stop"), DONE]
    rest = [Send(chunk(one)) for one in events[1:]]
    dialogue = [*begin_stream(), Send(chunk(events[0])), Wait(go), *rest, Send(b"0\r\n\r\n")]
    async with (
        renewing(Scripted(minted(), [Hold()]), Scripted(dialogue), clock=clock) as gp,
        gp.ask(STREAMED) as ask,
    ):
        await ask.head()
        await ask.until(events[0])
        await clock.advance(400)
        assert not gp.state.ready
        go.set()
        while await ask.piece():
            pass
    assert ask.body.replace(COMMENT, b"") == b"".join(events)
