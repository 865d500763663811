"""A silent upstream that has chats alone: Codex and Claude Code read events, not only comments, while they wait."""

import asyncio
import json
from typing import Any

import pytest

from gatepass.proxy.client_response import EVERY_S, STREAM_HOLD_S, SYNTHESIZED_HOLD_S
from tests.integration.gateway import Answer, gateway, relaying
from tests.integration.scripted import LAST_CHUNK, Dialogue, Fin, Hold, Scripted, Send, Wait, chunk, reply, stream
from tests.integration.test_keep_alive import BEGUN, BUSY
from tests.integration.test_translated_messages import ANSWER, CHATS, VERSION, a_completion
from tests.unit.clock import DrivenClock
from tests.waiting import until

PATHS: dict[str, dict[str, Any]] = {
    "/v1/responses": {"model": "m", "input": "Hi", "stream": True},
    "/v1/messages": {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}], "stream": True},
}
RESPONSES, MESSAGES = PATHS


async def waited(path: str, for_s: float, *dialogues: Dialogue, go: asyncio.Event, at: str = "", **more: Any) -> Answer:
    """The answer of an upstream that goes on after `for_s`."""
    clock = DrivenClock()
    async with (
        relaying(*dialogues, clock=clock, chat=CHATS, **more) as (upstream, gp),
        gp.ask(PATHS[path], at + path, headers=VERSION) as ask,
    ):
        await upstream.requested()
        await clock.advance(for_s)
        go.set()
        return await ask.answer()


def events_of(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(data) for data in answer.events]


def assert_one_response(answer: Answer, last: str) -> list[str]:
    """Check that ids and numbers are those of one response, and return the types of its events."""
    events = events_of(answer)
    assert [one["sequence_number"] for one in events] == [*range(len(events))]
    assert len({one["response"]["id"] for one in events if "response" in one}) == 1
    assert len({one["response"]["created_at"] for one in events if "response" in one}) == 1
    kinds = [str(one["type"]) for one in events]
    assert (kinds[0], kinds[1], kinds[-1]) == ("response.created", "response.in_progress", last)
    assert kinds.count("response.created") == kinds.count("response.in_progress") == 1
    return kinds


SILENCES: dict[str, list[Any]] = {
    "before the head": [Wait, Send(stream(*ANSWER))],
    "after the head": [Send(BEGUN), Wait, Send(b"".join(map(chunk, ANSWER)) + LAST_CHUNK)],
    "before a whole reply": [Wait, Send(reply(a_completion({"content": "Hi"})))],
}


@pytest.mark.parametrize("silence", SILENCES)
async def test_codex_reads_an_event_in_each_interval_before_the_first_chunk(silence: str):
    go = asyncio.Event()
    dialogue = [Wait(go) if move is Wait else move for move in SILENCES[silence]]
    answer = await waited(RESPONSES, STREAM_HOLD_S + 2 * (EVERY_S + 1), dialogue, go=go)
    kinds = assert_one_response(answer, "response.completed")
    assert kinds[2:4] == ["keepalive", "keepalive"]
    assert "response.output_item.added" in kinds
    assert b"\n:" not in answer.body


@pytest.mark.parametrize("silence", SILENCES)
async def test_claude_code_reads_a_ping_in_each_interval(silence: str):
    go = asyncio.Event()
    dialogue = [Wait(go) if move is Wait else move for move in SILENCES[silence]]
    answer = await waited(MESSAGES, STREAM_HOLD_S + 2 * (EVERY_S + 1), dialogue, go=go)
    kinds = [one["type"] for one in events_of(answer)]
    assert kinds[:4] == ["ping", "ping", "ping", "message_start"]
    assert kinds[-1] == "message_stop"


@pytest.mark.parametrize(
    "moves", [[Send(reply(BUSY, 429))], [Send(reply(BUSY, 503))], [Fin()], [Send(stream(ANSWER[0], end=b"")), Fin()]]
)
async def test_an_error_after_the_beginning_ends_the_same_response(moves: list[Any]):
    go = asyncio.Event()
    answer = await waited(RESPONSES, STREAM_HOLD_S + EVERY_S + 1, [Wait(go), *moves], go=go)
    kinds = assert_one_response(answer, "response.failed")
    assert kinds[-2] == "error"


async def test_each_profile_gets_the_events_of_a_response_in_a_silence():
    go = asyncio.Event()
    answer = await waited(RESPONSES, 2 * STREAM_HOLD_S, [Wait(go), Send(stream(*ANSWER))], go=go, at="/for/dify")
    assert_one_response(answer, "response.completed")


@pytest.mark.parametrize("spoken", [None, ["chat", "responses"], ["responses"]], ids=str)
async def test_the_next_target_goes_on_with_the_response_that_has_begun(spoken: list[str] | None):
    """The first one gets no token. The second one may have responses too, but another one must not begin."""
    clock, answer = DrivenClock(), [Send(reply(a_completion({"content": "Hi"})))]
    async with Scripted([Hold()]) as issuer, Scripted(answer) as first, Scripted(answer) as second:
        credential = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": "s"}
        chat = {"base_url": f"{first.url}/v1", **CHATS, "credential": "c"}
        async with (
            gateway(
                clock=clock,
                credentials={"c": credential},
                upstreams={"chat": chat, "second": {"base_url": f"{second.url}/v1", "protocols": spoken}},
                models={"m": {"targets": [{"upstream": "chat"}, {"upstream": "second"}], "stream": "emulate"}},
            ) as gp,
            gp.ask(PATHS[RESPONSES], RESPONSES) as ask,
        ):
            await issuer.requested()
            await until(lambda: bool(gp.state.in_flight.requests))
            await clock.advance(SYNTHESIZED_HOLD_S + 1)
            await ask.head()
            await clock.advance(20)
            answered = await ask.answer()
    if spoken == ["responses"]:
        assert_one_response(answered, "response.failed")
        assert b"no chat completions, as which the stream has begun" in answered.body
    else:
        assert_one_response(answered, "response.completed")
        assert [request.target for request in second.received] == ["/v1/chat/completions"]
