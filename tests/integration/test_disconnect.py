"""A client that disconnects closes the upstream at once, in every phase."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from gatepass.normalize.embeddings_reply import PARALLEL
from tests.integration.answers import COMPLETION, delta
from tests.integration.gateway import CHAT, HELLO, JSON, STREAMED, descriptors, gateway, relaying
from tests.integration.issuer import corp, minted
from tests.integration.scripted import Dialogue, Hold, Scripted, Send, Wait, begin_stream, chunk, head, reply
from tests.integration.test_mcp import ACCEPT, CALL, PATH
from tests.unit.clock import DrivenClock
from tests.waiting import until

LARGE = {"messages": [{"role": "user", "content": "x" * 300_000}]}
"""Above uvicorn's high-water mark, where it stops reading."""

BEGUN: Dialogue = [Send(head(200, content_type="application/json", content_length="999") + b'{"a'), Hold()]
STREAM = [*begin_stream(), Send(chunk(delta(content="a"))), Hold()]
OF_MCP = [*begin_stream(), Send(chunk(b": hi\n\n")), Hold()]


@dataclass(frozen=True, slots=True)
class Phase:
    """A client of the model `m` asks for `asked`, and leaves while the upstream does the last move of `dialogue`."""

    asked: Mapping[str, Any] | None
    dialogue: Dialogue
    read: bytes | None = None
    """What the client has read by then. None: it leaves before the head of its response."""
    model: Mapping[str, Any] = field(default_factory=dict)
    path: str = CHAT
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    calls: int = 1


PHASES = {
    "before headers": Phase(STREAMED, [Hold()]),
    "in a plain reply": Phase(HELLO, BEGUN),
    "in an error": Phase(HELLO, [Send(head(500, content_length="999") + b'{"error'), Hold()]),
    "before the first event": Phase(STREAMED, [*begin_stream(), Send(chunk(b": wait\n")), Hold()]),
    "in a stream, a large body": Phase({**STREAMED, **LARGE}, STREAM, b"data:"),
    "in a stream": Phase(STREAMED, STREAM, b"data:"),
    "of a reply that becomes a stream": Phase(STREAMED, [Hold()], model={"stream": "emulate"}),
    "of a stream that becomes a reply": Phase(HELLO, STREAM, model={"stream": "aggregate"}),
    "of a batch in parts": Phase(
        {"model": "m", "input": list("abcdefgh")},
        [Hold()],
        model={"rules": {"split": 1}},
        path="/v1/embeddings",
        calls=PARALLEL,
    ),
    "of a stream that listens to an MCP server": Phase(
        None, OF_MCP, b": hi", path=PATH, method="GET", headers={"accept": "text/event-stream"}
    ),
    "in a stream of an MCP server": Phase(CALL, OF_MCP, b": hi", path=PATH, headers=ACCEPT),
    "before headers of an MCP server": Phase(CALL, [Hold()], path=PATH, headers=ACCEPT),
}


@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES)
async def test_leaving_closes_the_upstream_at_once(phase):
    clock = DrivenClock()  # nobody advances it
    models = {"m": {"upstream": "chat", **phase.model}} if phase.model else {}
    async with Scripted(phase.dialogue) as upstream:
        mcp = {"tools": {"url": f"{upstream.url}/corp/mcp"}}
        async with gateway(upstream=upstream.url, clock=clock, models=models, mcp=mcp) as gp:
            async with gp.ask(phase.asked, phase.path, method=phase.method, headers=phase.headers) as ask:
                await upstream.requested(phase.calls)
                sent = sum(len(move.data) for move in phase.dialogue if isinstance(move, Send))
                await upstream.until(lambda: upstream.sent_bytes >= sent)
                if phase.read is not None:
                    await ask.head()
                    await ask.until(phase.read)
            await upstream.left()
            await until(lambda: not gp.state.in_flight.busy)
        assert (upstream.connections, len(upstream.received)) == (phase.calls, phase.calls)


async def test_a_disconnect_during_the_wait_for_a_token_sends_nothing_and_cancels_no_other_request():
    """The token's fetch goes on for the others who wait for it."""
    release = asyncio.Event()
    async with (
        Scripted([Wait(release), *minted()]) as issuer,
        Scripted([Send(reply(COMPLETION))]) as upstream,
        gateway(**corp(issuer, upstream)) as gp,
    ):
        await issuer.requested()
        async with gp.ask() as leaver, gp.ask() as stayer:
            await until(lambda: gp.state.in_flight.busy == 2)
            await leaver.__aexit__()
            await until(lambda: gp.state.in_flight.busy == 1)
            release.set()
            assert (await stayer.answer()).status == 200
        assert (len(issuer.received), len(upstream.received)) == (1, 1)


async def test_after_a_storm_of_leavers_every_request_is_served_and_no_file_descriptor_is_left():
    """1,200 requests cut after a few milliseconds over 10 connections: httpx 0.28 fails for good after it."""
    release = asyncio.Event()
    slow: Dialogue = [Wait(release), Send(reply(COMPLETION))]
    async with relaying(slow, chat={"max_connections": 10}) as (_, gp):
        before = descriptors()
        for _ in range(20):
            asks = [gp.ask() for _ in range(60)]
            for ask in asks:
                await ask.__aenter__()
            await until(lambda: gp.state.in_flight.busy >= 30)
            for ask in asks:
                await ask.__aexit__()
        await until(lambda: not gp.state.in_flight.busy)
        assert descriptors() <= before + 40
        release.set()
        answers = await asyncio.gather(*(gp.ask().answer() for _ in range(50)))
    assert [answer.status for answer in answers] == [200] * 50
