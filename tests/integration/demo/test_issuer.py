"""The embedded issuer's misdeeds with time, which only real sockets show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from gatepass.demo.issuer import Issuer, Turn
from gatepass.demo.serving import serving
from tests.embedded import FORM, LOGIN


@pytest.fixture
async def http(issuer: Issuer) -> AsyncIterator[httpx2.AsyncClient]:
    async with serving(issuer.app) as url, httpx2.AsyncClient(base_url=url, trust_env=False, timeout=10) as client:
        yield client


async def test_a_hung_fetch_ends_when_its_caller_leaves(http: httpx2.AsyncClient, issuer: Issuer):
    issuer.script(Turn.hang())
    with pytest.raises(httpx2.ReadTimeout):
        await http.post("/oauth/token", data=FORM, timeout=0.2)
    assert (issuer.fetches, len(issuer.minted)) == (1, 0)


async def test_a_held_fetch_is_answered_when_it_is_released(http: httpx2.AsyncClient, issuer: Issuer):
    release = asyncio.Event()
    issuer.script(Turn(hold=release))
    fetch = asyncio.create_task(http.post("/oauth/token", data=FORM))
    done, _ = await asyncio.wait({fetch}, timeout=0.2)
    assert not done
    release.set()
    assert (await fetch).status_code == 200


async def test_a_dribbled_reply_comes_byte_by_byte(http: httpx2.AsyncClient, issuer: Issuer):
    issuer.script(Turn(body=b"{}!", dribble_s=0.05))
    async with http.stream("POST", "/login", json=LOGIN) as reply:
        assert [piece async for piece in reply.aiter_raw()] == [b"{", b"}", b"!"]
