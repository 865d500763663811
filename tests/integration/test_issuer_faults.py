"""An issuer that hangs during a stream, and one whose secret is rotated during a fetch."""

import asyncio
import json
from pathlib import Path

from gatepass.config.references import Reference
from gatepass.protocols.client_protocol import COMMENT
from tests.integration.answers import COMPLETION, DONE, delta
from tests.integration.gateway import STREAMED, gateway
from tests.integration.issuer import corp, minted, renewing
from tests.integration.scripted import Dialogue, Hold, Scripted, Send, Wait, begin_stream, chunk, reply
from tests.integration.test_secrets import logged
from tests.unit.clock import DrivenClock
from tests.waiting import until


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


async def test_requests_that_wait_survive_the_rotation_of_the_issuers_secret(tmp_path: Path):
    file, go = tmp_path / "secret", asyncio.Event()
    file.write_text("secret-of-yesterday")
    old: Dialogue = [Wait(go), Send(reply({"error": "invalid_client"}, 401))]
    async with (
        Scripted(old, minted()) as issuer,
        Scripted(answer=lambda _: [Send(reply(COMPLETION))]) as upstream,
        gateway(**corp(issuer, upstream, client_secret=Reference.to_file(str(file)), client_auth="form")) as gp,
    ):
        with logged(gp.state) as out:
            asking = [asyncio.ensure_future(gp.ask().answer()) for _ in range(5)]
            await until(lambda: gp.state.in_flight.busy == 5 and len(issuer.received) == 1)
            file.write_text("secret-of-today")
            go.set()
            answers = await asyncio.gather(*asking)
            await until(lambda: out.getvalue().count('"event":"request"') == 5)
        lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [one.status for one in answers] == [200] * 5
    assert [b"secret-of-today" in one.body for one in issuer.received] == [False, True]
    assert [one.get("token_wait_s", 0) > 0 for one in lines if one["event"] == "request"] == [True] * 5
