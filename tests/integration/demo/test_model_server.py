"""The embedded model server's streams, which only real sockets show as they are."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from gatepass.demo.answer import Understood, answer
from gatepass.demo.model_server import ModelServer
from gatepass.demo.serving import serving
from gatepass.demo.signing import Minted, SigningKey

CHAT = "/v1/chat/completions"
HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
HI_BACK = answer(Understood("Hi"))


@pytest.fixture
def key() -> SigningKey:
    return SigningKey()


@pytest.fixture
def token(key: SigningKey) -> Minted:
    return key.sign(number=1, subject="bot", audience="chat", life_s=60)


@pytest.fixture
def server(key: SigningKey) -> ModelServer:
    return ModelServer(key, audience="chat", models=["m", "org/m"], pace_s=0.02)


@pytest.fixture
async def http(server: ModelServer, token: Minted) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"authorization": f"Bearer {token.token}"}
    async with (
        serving(server.app) as url,
        httpx2.AsyncClient(base_url=url, trust_env=False, timeout=10, headers=headers) as client,
    ):
        yield client


def data_events(body: str) -> list[Any]:
    lines = [block.removeprefix("data: ") for block in body.split("\n\n") if block]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def moments_of_a_stream(http: httpx2.AsyncClient) -> list[float]:
    async with http.stream("POST", CHAT, json=HI | {"stream": True}) as reply:
        return [time.monotonic() async for _ in reply.aiter_raw()]


async def test_words_leave_one_after_the_other(http: httpx2.AsyncClient, server: ModelServer):
    moments = await moments_of_a_stream(http)
    assert len(moments) > 10
    assert moments[-1] - moments[0] > 10 * server.pace_s


async def test_a_burst_comes_at_once(http: httpx2.AsyncClient, server: ModelServer):
    server.faults.burst = True
    assert len(await moments_of_a_stream(http)) == 1


async def test_a_cut_stream_ends_well_and_short(http: httpx2.AsyncClient, server: ModelServer):
    server.faults.cut_streams = True
    events = data_events((await http.post(CHAT, json=HI | {"stream": True})).text)
    assert events[-1]["choices"][0]["finish_reason"] is None
