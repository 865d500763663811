"""A client that disconnects closes the upstream at once, in every phase."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from gatepass.normalize.embeddings_reply import PARALLEL
from tests.integration.answers import COMPLETION, DONE, delta
from tests.integration.gateway import CHAT, HELLO, JSON, STREAMED, Ask, descriptors, gateway, relaying
from tests.integration.issuer import corp, minted
from tests.integration.scripted import (
    LAST_CHUNK,
    Dialogue,
    Hold,
    Scripted,
    Send,
    Wait,
    begin_stream,
    chunk,
    head,
    reply,
)
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


# --- a client that closes only its sending side

SPEECH = {"model": "m", "input": "a", "voice": "b"}
DONE_SENDING: Mapping[str, tuple[str, Mapping[str, Any], Dialogue, Dialogue]] = {
    "a whole reply": (CHAT, HELLO, [], [Send(reply(COMPLETION))]),
    "a stream": (CHAT, STREAMED, [], [*STREAM[:-1], Send(chunk(delta("stop")) + chunk(DONE) + LAST_CHUNK)]),
    "a stream that has begun": (CHAT, STREAMED, STREAM[:-1], [Send(chunk(delta("stop")) + chunk(DONE) + LAST_CHUNK)]),
    "a file": ("/v1/audio/speech", SPEECH, [], [Send(reply(b"sound", content_type="audio/mpeg"))]),
    "a file in chunks": (
        "/v1/audio/speech",
        SPEECH,
        [Send(head(200, content_type="audio/mpeg", transfer_encoding="chunked") + chunk(b"so"))],
        [Send(chunk(b"und") + LAST_CHUNK)],
    ),
    "an error": (CHAT, HELLO, [], [Send(reply({"error": {"message": "no"}}, 400))]),
}


@pytest.mark.parametrize("kind", DONE_SENDING)
async def test_a_client_that_closes_only_its_sending_side_is_served(kind: str):
    """RFC 9112 9.6. Before the rest it reads a 100, or a zero in front of the next chunk's size."""
    path, body, begin, rest = DONE_SENDING[kind]
    go_on = asyncio.Event()
    async with relaying([*begin, Wait(go_on), *rest]) as (upstream, gp), gp.ask(body, path) as ask:
        await upstream.requested()
        if begin:
            await ask.head()
            await ask.piece()
        ask.end_sending()
        if not begin:
            assert await ask.head() == 100
        else:
            assert await ask.skip(1) == b"0"
        go_on.set()
        answer = await (ask.answer() if begin else ask.final_answer())
        assert (answer.whole, answer.status) == (True, 400 if kind == "an error" else 200)
        assert begin or answer.headers["connection"] == "close"
        assert await ask.skip(1) == b""
    assert len(upstream.received) == 1


async def test_all_requests_that_were_sent_before_the_end_are_answered():
    fields = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(json.dumps(HELLO))}"
    one = f"POST {CHAT} HTTP/1.1\r\n{fields}\r\n\r\n{json.dumps(HELLO)}".encode()
    async with relaying([Send(reply(COMPLETION))]) as (_, gp):
        reader, writer = await asyncio.open_connection("127.0.0.1", gp.port)
        writer.write(one * 3 + one[:-5])
        writer.write_eof()
        partly = await reader.read()
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", gp.port)
        writer.write(one * 3)
        writer.write_eof()
        received = await reader.read()
        writer.close()
    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert received.count(b"connection: close") == 1
    assert partly.count(b"HTTP/1.1 200 OK") <= 3


@pytest.mark.parametrize(
    ("line", "dialogue"),
    [
        ("HTTP/1.0", [Hold()]),
        ("HTTP/1.1", [Send(head(200, content_type="audio/mpeg", content_length="9") + b"so"), Hold()]),
    ],
    ids=["no 100 may be sent", "no chunk follows"],
)
async def test_the_end_of_a_client_that_cannot_be_probed_is_a_disconnect(line: str, dialogue: Dialogue):
    text = json.dumps(SPEECH)
    fields = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(text)}"
    async with relaying(dialogue) as (upstream, gp):
        reader, writer = await asyncio.open_connection("127.0.0.1", gp.port)
        writer.write(f"POST /v1/audio/speech {line}\r\n{fields}\r\n\r\n{text}".encode())
        await upstream.requested()
        if line == "HTTP/1.1":
            await reader.readuntil(b"so")
        writer.write_eof()
        await upstream.left()
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("phase", ["before headers", "in a stream", "in a stream of an MCP server"])
async def test_a_client_that_leaves_behind_a_proxy_that_forwards_both_ends_closes_the_upstream(phase: str):
    """The proxy passes the end on. Only a write tells it that the client has left, and gatepass that the proxy has."""
    asked = PHASES[phase]
    async with Scripted(asked.dialogue) as upstream:
        mcp = {"tools": {"url": f"{upstream.url}/corp/mcp"}}
        async with gateway(upstream=upstream.url, mcp=mcp) as gp, forwarding(gp.port) as port:
            ask = Ask(port, asked.method, asked.path, dict(asked.headers), json.dumps(asked.asked).encode())
            async with ask:
                await upstream.requested()
                if asked.read is not None:
                    await ask.head()
                    await ask.until(asked.read)
            await upstream.left()
            await until(lambda: not gp.state.in_flight.busy)


@asynccontextmanager
async def forwarding(to: int) -> AsyncIterator[int]:
    """A proxy of TCP connections, which forwards the end of each side."""
    tasks = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", to)
        with closing(writer), closing(to_writer):
            ends = [asyncio.create_task(copy(reader, to_writer)), asyncio.create_task(copy(to_reader, writer))]
            tasks.update(ends)
            await asyncio.wait(ends, return_when=asyncio.FIRST_EXCEPTION)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)
