"""A client that disconnects closes the upstream at once, in every phase."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gatepass.proxy.app_state import AppState
from gatepass.types import OutboundRequest
from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, descriptors, gateway
from tests.integration.scripted import Dialogue, Hold, Scripted, Send, Wait, begin_stream, chunk, event, head, reply
from tests.responses import PlayedResponse
from tests.unit.clock import DrivenClock
from tests.waiting import until

STREAMED = {**HELLO, "stream": True}
FIRST = event({"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})

LARGE = {"messages": [{"role": "user", "content": "x" * 300_000}]}
"""Above uvicorn's high-water mark, where it stops reading."""

PHASES: dict[str, tuple[Mapping[str, Any], Dialogue, bytes | None]] = {
    "before headers": (STREAMED, [Hold()], None),
    "before headers, plain": (HELLO, [Hold()], None),
    "in a plain reply": (
        HELLO,
        [Send(head(200, content_type="application/json", content_length="999") + b'{"a'), Hold()],
        None,
    ),
    "before headers, a large body": ({**STREAMED, **LARGE}, [Hold()], None),
    "in a plain reply, a large body": (
        {**HELLO, **LARGE},
        [Send(head(200, content_type="application/json", content_length="999") + b'{"a'), Hold()],
        None,
    ),
    "in a stream, a large body": ({**STREAMED, **LARGE}, [*begin_stream(), Send(chunk(FIRST)), Hold()], b"data:"),
    "in a stream": (STREAMED, [*begin_stream(), Send(chunk(FIRST)), Hold()], b"data:"),
}


@pytest.mark.parametrize("phase", PHASES)
async def test_leaving_closes_the_upstream_at_once(phase):
    body, dialogue, mark = PHASES[phase]
    clock = DrivenClock()  # nobody advances it
    async with Scripted(dialogue) as upstream, gateway(upstream=upstream.url, clock=clock) as gp:
        async with gp.ask(body) as ask:
            await upstream.requested()
            if mark is not None:
                await ask.head()
                await ask.until(mark)
        await upstream.left()
        await until(lambda: not gp.state.in_flight.busy)


async def test_a_disconnect_during_the_wait_for_a_token_sends_nothing_and_cancels_no_other_request():
    """The token's fetch goes on for the others who wait for it."""
    release = asyncio.Event()
    token_reply = reply({"access_token": "abc-token", "expires_in": 300})
    async with (
        Scripted(answer=lambda _: [Wait(release), Send(token_reply)]) as issuer,
        Scripted([Send(reply(COMPLETION))]) as upstream,
    ):
        blocks: dict[str, Any] = {
            "credentials": {
                "corp": {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": "a-long-secret"}
            },
            "upstreams": {"chat": {"base_url": upstream.url, "credential": "corp"}},
        }
        async with gateway(**blocks) as gp:
            await issuer.requested()
            async with gp.ask() as leaver, gp.ask() as stayer:
                await until(lambda: gp.state.in_flight.busy == 2)
                await leaver.__aexit__()
                await until(lambda: gp.state.in_flight.busy == 1)
                release.set()
                assert (await stayer.answer()).status == 200
            assert (len(issuer.received), len(upstream.received)) == (1, 1)


async def test_three_hundred_leavers_leave_no_file_descriptor_behind():
    dialogue = [*begin_stream(), Send(chunk(FIRST)), Hold()]
    async with Scripted(dialogue) as upstream, gateway(upstream=upstream.url) as gp:
        before = descriptors()
        for _ in range(30):
            asks = [gp.ask(STREAMED) for _ in range(10)]
            for ask in asks:
                await ask.__aenter__()
            await asyncio.gather(*(ask.head() for ask in asks))
            for ask in asks:
                await ask.__aexit__()
        await upstream.left()
        await until(lambda: not gp.state.in_flight.busy)
        assert descriptors() <= before + 15


async def test_after_a_storm_of_leavers_every_request_is_served():
    """1,200 requests cut after a few milliseconds over 10 connections: httpx 0.28 fails for good after it."""
    release = asyncio.Event()
    slow: Dialogue = [Wait(release), Send(reply(COMPLETION))]
    async with Scripted(slow) as upstream:
        upstreams = {"chat": {"base_url": upstream.url, "max_connections": 10}}
        async with gateway(upstreams=upstreams) as gp:
            for _ in range(20):
                asks = [gp.ask() for _ in range(60)]
                for ask in asks:
                    await ask.__aenter__()
                await until(lambda: gp.state.in_flight.busy >= 30)
                for ask in asks:
                    await ask.__aexit__()
            await until(lambda: not gp.state.in_flight.busy)
            release.set()
            answers = await asyncio.gather(*(gp.ask().answer() for _ in range(50)))
    assert [answer.status for answer in answers] == [200] * 50


class Wire:
    """A Transport that answers with `response`."""

    def __init__(self, response: PlayedResponse) -> None:
        self.response = response

    async def send(self, request: OutboundRequest, times: object = None) -> PlayedResponse:
        return self.response

    async def aclose(self) -> None:
        pass


UNFINISHED: dict[str, tuple[Mapping[str, Any], int, bytes, bytes]] = {
    "a whole reply": (HELLO, 200, b"application/json", b'{"a'),
    "a stream before its first event": (STREAMED, 200, b"text/event-stream", b": wait\n"),
    "a whole reply where a stream was asked for": (STREAMED, 200, b"application/json", b'{"a'),
    "a stream where a whole reply was asked for": (HELLO, 200, b"text/event-stream", FIRST),
    "an error": (HELLO, 500, b"application/json", b'{"error'),
}


@pytest.mark.parametrize("case", UNFINISHED)
async def test_a_reply_is_closed_when_the_client_leaves_while_it_is_classified(case):
    asked, status, kind, beginning = UNFINISHED[case]
    response = PlayedResponse(beginning, status=status, headers=((b"content-type", kind),), hangs=True)

    def on_wire(gp: AppState) -> AppState:
        hop = gp.upstreams["chat"]
        return replace(gp, upstreams={"chat": replace(hop, transport=Wire(response))})  # type: ignore[arg-type]  # a fake

    async with gateway(upstream="http://127.0.0.1:9", change=on_wire) as gp:
        async with gp.ask(asked):
            await response.read.wait()
            assert not response.closed
        await until(lambda: not gp.state.in_flight.busy)
        assert response.closed
