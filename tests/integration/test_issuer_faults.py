"""Faults of an issuer: reported with its own text within a bound, never with a bad token, recovered soon."""

import asyncio

import pytest

from gatepass.protocols.client_protocol import COMMENT
from tests.integration.answers import COMPLETION, DONE, delta
from tests.integration.gateway import STREAMED
from tests.integration.issuer import minted, renewing
from tests.integration.scripted import Hold, Rst, Scripted, Send, Wait, begin_stream, chunk, reply
from tests.unit.clock import DrivenClock
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOOD = Send(reply(COMPLETION))


async def test_an_issuer_that_is_down_at_the_start_is_used_after_its_return():
    """No traffic helps: readiness turns green by itself."""
    down = True
    async with renewing(Scripted(answer=lambda _: [Rst()] if down else minted()), Scripted([GOOD])) as gp:
        refused = await gp.ask().answer()
        assert (await gp.ask(None, "/readyz", method="GET").answer()).status == 503
        down = False
        await until(lambda: gp.state.ready)
        assert (await gp.ask().answer()).status == 200
    assert (refused.status, refused.error["code"]) == (503, "token_unavailable")


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
