"""The embedded model server's streams, which only real sockets show as they are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import httpx2
import pytest

from gatepass.demo.model_server import ModelServer
from gatepass.demo.serving import serving
from gatepass.demo.signing import Minted, SigningKey
from tests.embedded import CHAT, HI, data_events


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
