"""What the story of a request says of its attempts, over real sockets."""

import asyncio
from typing import Any

import msgspec
import pytest

from gatepass.server import connection
from gatepass.server.inspection import told
from tests.integration.gateway import HELLO, JSON, STREAMED, Gateway, relaying
from tests.integration.scripted import LAST_CHUNK, Dialogue, Hold, Send, Wait, begin_stream, chunk, event
from tests.unit.clock import DrivenClock
from tests.waiting import until

FIRST = event({"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]})
NAMED = {**JSON, "x-request-id": "asked"}


def story(gp: Gateway, name: str = "asked") -> dict[str, Any]:
    ((shown, _),) = told(name, gp.state)
    found: dict[str, Any] = msgspec.to_builtins(shown)
    return found


def attempts(shown: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(one[name] for name in names) for one in shown["attempts"]]


ANSWERS_UNTIL_THE_TIMEOUT: dict[str, tuple[str, Dialogue]] = {
    "no head": ("chat", [Hold()]),
    "no event": ("stream", [*begin_stream(), Hold()]),
    "no part": ("embeddings", [Hold()]),
}


@pytest.mark.parametrize("name", ANSWERS_UNTIL_THE_TIMEOUT)
async def test_the_wait_that_the_timeout_of_a_request_ends_is_that_of_the_upstream(name):
    kind, answer = ANSWERS_UNTIL_THE_TIMEOUT[name]
    clock = DrivenClock()
    async with relaying(
        answer, chat={"timeouts": {"total_s": 3}}, clock=clock, operations={"embeddings": {"rules": {"split": 1}}}
    ) as (upstream, gp):
        if kind == "embeddings":
            asked = gp.ask({"model": "m", "input": ["a", "b"]}, "/v1/embeddings", headers=NAMED)
        else:
            asked = gp.ask(body=STREAMED if kind == "stream" else HELLO, headers=NAMED)
        answering = asyncio.create_task(asked.answer())
        await until(lambda: bool(upstream.received))
        await clock.advance(3)
        assert (await answering).error["code"] == "upstream_timeout_total"
        timings = story(gp)["timings"]
    assert (timings["upstream_s"], timings["added_s"]) == (3.0, 0.0)


async def test_gatepass_closes_the_connection_of_a_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "STALL_S", 2.0)
    many = FIRST * 20_000
    dialogue = [*begin_stream(), *(Send(chunk(many)) for _ in range(20)), Hold()]
    async with relaying(dialogue) as (_, gp):
        async with gp.ask(STREAMED, headers=NAMED) as ask:
            await ask.head()
            await until(lambda: story(gp)["state"] == "ended")
        shown = story(gp)
    assert (shown["outcome"], shown["closed_by"]) == ("unread", "gatepass")


async def test_a_timeout_and_a_wait_for_a_connection_are_of_gatepass():
    dialogue, clock = [*begin_stream(), Send(chunk(FIRST)), Hold()], DrivenClock()
    chat = {"max_connections": 1, "timeouts": {"connect_s": 2, "total_s": 60}}
    async with relaying(dialogue, chat=chat, clock=clock) as (_, gp), gp.ask(STREAMED, headers=NAMED) as ask:
        await ask.head()
        assert (await gp.ask(headers={**JSON, "x-request-id": "late"}).answer()).status == 503
        await clock.advance(60)
        await ask.answer()
        late, shown = story(gp, "late"), story(gp)
    assert (late["closed_by"], attempts(late, "outcome", "connect_s")) == ("gatepass", [("nothing_written", None)])
    assert late["attempts"][0]["pool_wait_s"] > 0.1
    assert (shown["closed_by"], attempts(shown, "outcome")) == ("gatepass", [("timed_out",)])


async def test_a_client_that_reads_slowly_is_seen():
    goes_on = asyncio.Event()
    end = event({"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + event("[DONE]")
    many = Send(chunk(FIRST * 20_000))
    dialogue = [*begin_stream(), *[many] * 10, Wait(goes_on), Send(chunk(end) + LAST_CHUNK)]
    clock = DrivenClock()
    async with relaying(dialogue, clock=clock) as (_, gp):
        async with gp.ask(STREAMED, headers=NAMED) as ask:
            await until(lambda: len(gp.state.in_flight.held.stalled) > 0)
            await clock.advance(5.0)
            assert story(gp)["state"] == "running"
            goes_on.set()
            assert (await ask.answer()).whole
        shown = story(gp)
    assert shown["attempts"][0]["client_wait_s"] == 5.0
