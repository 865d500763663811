"""What a client gets is the same under every server: `gatepass serve`, any ASGI server, a mount.

One upstream plays for all: each request takes the dialogue that its test put down last.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gatepass.admission.keys import hash_key
from gatepass.heartbeat import EVERY_S, STREAM_HOLD_S
from gatepass.relay.sign import COMMENT
from tests.integration.answers import COMPLETION, DONE, EVENTS, VECTORS, delta
from tests.integration.gateway import HELLO, JSON, Answer
from tests.integration.scripted import (
    LAST_CHUNK,
    Dialogue,
    Fin,
    Received,
    Scripted,
    Send,
    Wait,
    begin_stream,
    chunk,
    cut,
    reply,
    stream,
)
from tests.integration.servers.running import NAMES, Served, served
from tests.unit.clock import DrivenClock

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "gp-a-key-of-the-contract-suite-0123456789"
KEYED = {**JSON, "authorization": f"Bearer {KEY}", "x-request-id": "id-1"}
STREAMED = {**HELLO, "stream": True}
PAGE = "https://page.example"

DECIDED_BY_THE_SERVER = ("date", "server", "connection", "keep-alive", "transfer-encoding", "server-timing")
"""`server-timing` is ours, and a measurement."""


class Stage:
    """The upstream's part: what it plays for the requests of this test."""

    def __init__(self) -> None:
        self.dialogue: Dialogue = ()
        self.upstream = Scripted(answer=self._next, send_buffer_bytes=65_536)

    def _next(self, _: Received) -> Dialogue:
        return self.dialogue

    def plays(self, *dialogue: Any) -> None:
        self.dialogue = dialogue
        self.upstream.received.clear()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    found = Stage()
    async with found.upstream:
        yield found


@pytest.fixture(scope="module")
def clock() -> DrivenClock:
    return DrivenClock()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=NAMES)
async def server(request: pytest.FixtureRequest, stage: Stage, clock: DrivenClock) -> AsyncIterator[Served]:
    blocks: dict[str, Any] = {
        "upstreams": {"chat": {"base_url": f"{stage.upstream.url}/v1"}},
        "access": {"keys": [{"name": "one", "hash": hash_key(KEY)}]},
        "profiles": {"web": {"cors_origins": [PAGE]}},
        "limits": {"body_bytes": 1_000_000, "upload_bytes": 8_000_000},
    }
    async with served(request.param, clock, **blocks) as found:
        yield found


def shown(answer: Answer) -> dict[str, str]:
    """The header fields that gatepass decides."""
    return {name: value for name, value in answer.headers.items() if name not in DECIDED_BY_THE_SERVER}


# whole replies


async def test_a_whole_reply_has_the_upstreams_bytes(server, stage):
    stage.plays(Send(reply(COMPLETION)))
    answer = await server.ask(headers=KEYED).answer()
    body = json.dumps(COMPLETION).encode()
    assert (answer.status, answer.body, answer.whole) == (200, body, True)
    assert shown(answer) == {
        "content-length": str(len(body)),
        "content-type": "application/json",
        "x-request-id": "id-1",
    }


async def test_embeddings_and_the_list_of_models_answer(server, stage):
    stage.plays(Send(reply(VECTORS)))
    vectors = await server.ask({"model": "e", "input": "a"}, "/v1/embeddings", headers=KEYED).answer()
    assert (vectors.status, vectors.json()) == (200, VECTORS)
    stage.plays(Send(reply({"object": "list", "data": [{"id": "m", "object": "model"}]})))
    models = await server.ask(None, "/v1/models", method="GET", headers=KEYED).answer()
    assert (models.status, [one["id"] for one in models.json()["data"]]) == (200, ["m"])


# streams


async def test_each_event_arrives_when_it_is_whole_and_unchanged(server, stage):
    gates = [asyncio.Event() for _ in EVENTS]
    halves: list[Any] = []
    for event, gate in zip(EVENTS, gates, strict=True):
        halves += [Wait(gate), Send(chunk(event[:5])), Send(chunk(event[5:]))]
    stage.plays(*begin_stream(), *halves, Send(LAST_CHUNK))
    async with server.ask(STREAMED, headers=KEYED) as ask:
        for gate, event in zip(gates, EVENTS, strict=True):
            gate.set()
            if not ask.status:
                await ask.head()
            await ask.until(event)
        answer = await ask.answer()
    assert (answer.status, answer.body, answer.whole) == (200, b"".join(EVENTS), True)
    assert shown(answer) == {
        "cache-control": "no-cache, no-transform",
        "content-type": "text/event-stream; charset=utf-8",
        "x-accel-buffering": "no",
        "x-request-id": "id-1",
    }


async def test_every_chunk_of_a_stream_holds_whole_events(server, stage):
    events = [delta(content=str(number) * 50) for number in range(400)]
    stage.plays(Send(stream(*events, delta("stop"), DONE)))
    pieces = []
    async with server.ask(STREAMED, headers=KEYED) as ask:
        await ask.head()
        while piece := await ask.piece():
            pieces.append(piece)
    assert b"".join(pieces) == b"".join([*events, delta("stop"), DONE])
    assert all(piece.endswith(b"\n\n") for piece in pieces)


async def test_a_stream_that_breaks_off_ends_with_an_error_event(server, stage):
    stage.plays(*cut(stream(*EVENTS), len(stream(EVENTS[0], end=b"")), Fin()))
    answer = await server.ask(STREAMED, headers=KEYED).answer()
    assert (answer.status, answer.whole, answer.error["code"]) == (200, True, "upstream_closed")
    assert DONE not in answer.body


async def test_a_silent_stream_is_kept_alive_and_then_goes_on(server, stage, clock):
    go = asyncio.Event()
    stage.plays(Wait(go), Send(stream(*EVENTS)))
    async with server.ask(STREAMED, headers=KEYED) as ask:
        await stage.upstream.requested()
        await clock.advance(STREAM_HOLD_S + 2)
        await ask.head()
        await ask.until(COMMENT)
        await clock.advance(EVERY_S + 2)
        await ask.until(COMMENT + COMMENT)
        go.set()
        answer = await ask.answer()
    assert answer.body == COMMENT + COMMENT + b"".join(EVENTS)
