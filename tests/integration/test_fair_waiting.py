"""On real sockets: a bulk job that fills an upstream does not keep chats from being served."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gatepass.auth.api_keys import hash_key
from tests.integration.answers import COMPLETION
from tests.integration.gateway import JSON, Gateway, gateway
from tests.integration.scripted import Received, Scripted, Send, Wait, reply
from tests.waiting import until

KEYS = {"bulk": "gp-" + "b" * 43, "chat": "gp-" + "c" * 43}
PLACES, EMBEDDINGS, CHATS = 4, 500, 20
VECTORS = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]}


class Upstream:
    """Answers nothing until `go` is set. Knows the order in which requests came, and how many it had at a time."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.came: list[str] = []

    def answer(self, request: Received) -> list[Any]:
        name = "bulk" if b"input" in request.body else "chat"
        self.came.append(name)
        return [Wait(self.go), Send(reply(VECTORS if name == "bulk" else COMPLETION))]


@asynccontextmanager
async def full(upstream: Upstream, **settings: Any) -> AsyncIterator[Gateway]:
    keys = [{"name": name, "hash": hash_key(text)} for name, text in KEYS.items()]
    async with Scripted(answer=upstream.answer) as server:
        one = {"base_url": f"{server.url}/v1", "max_in_flight": PLACES, "queue": 1_000, "queue_s": 60, **settings}
        async with gateway(upstreams={"local": one}, access={"keys": keys}) as gp:
            yield gp


def bulk(gp: Gateway):
    headers = {**JSON, "authorization": f"Bearer {KEYS['bulk']}"}
    return gp.ask({"model": "m", "input": "text"}, "/v1/embeddings", headers=headers)


def chat(gp: Gateway, **members: Any):
    headers = {**JSON, "authorization": f"Bearer {KEYS['chat']}"}
    return gp.ask({"model": "m", "messages": [{"role": "user", "content": "hi"}], **members}, headers=headers)


def waiting(gp: Gateway) -> int:
    return len(gp.state.upstreams["local"].state.queue.waiting)


async def test_chats_are_served_in_turn_with_500_queued_embeddings():
    upstream = Upstream()
    async with full(upstream) as gp:
        embeddings = [asyncio.create_task(bulk(gp).answer()) for _ in range(EMBEDDINGS)]
        await until(lambda: waiting(gp) == EMBEDDINGS - PLACES)
        chats = [asyncio.create_task(chat(gp).answer()) for _ in range(CHATS)]
        await until(lambda: waiting(gp) == EMBEDDINGS - PLACES + CHATS)
        assert upstream.came == ["bulk"] * PLACES
        upstream.go.set()
        answers = await asyncio.gather(*chats, *embeddings)
    assert Counter(answer.status for answer in answers) == {200: EMBEDDINGS + CHATS}
    served = upstream.came[PLACES:]
    for at in range(2 * CHATS):  # requests that were sent together may arrive in another order
        assert abs(served[: at + 1].count("chat") - (at + 1) / 2) <= PLACES
    assert served[: 2 * CHATS + PLACES].count("chat") == CHATS
    assert all("queue;dur=" in answer.headers["server-timing"] for answer in answers[:CHATS])
