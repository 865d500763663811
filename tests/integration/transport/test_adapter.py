"""Either transport stands where httpx2's own stands."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from gatepass.transport.adapter import HttpxTransport
from tests.integration.scripted import (
    Dialogue,
    Fin,
    Hold,
    Rst,
    Scripted,
    Send,
    begin_stream,
    chunk,
    head,
    reply,
    stream,
)
from tests.integration.transport.hand import DIRECT


@asynccontextmanager
async def client_over(timeout: httpx2.Timeout | float | None = 5, limit: int = 10) -> AsyncIterator[httpx2.AsyncClient]:
    async with DIRECT.open(limit) as hand:
        transport = HttpxTransport(hand.transport)
        async with httpx2.AsyncClient(transport=transport, timeout=timeout) as client:
            yield client


async def test_a_client_gets_json_over_it():
    async with Scripted([Send(reply({"a": 1}, x_b="c"))]) as upstream, client_over() as client:
        response = await client.post(f"{upstream.url}/x?y=z", json={"b": 2}, headers={"X-One": "1"})
    asked = upstream.received[0]
    assert (response.status_code, response.json(), response.headers["x-b"]) == (200, {"a": 1}, "c")
    assert response.http_version == "HTTP/1.1"
    assert (asked.method, asked.target, asked.json(), asked.header("x-one")) == ("POST", "/x?y=z", {"b": 2}, "1")
    assert [name for name, _ in asked.headers].count("content-length") == 1
    assert [name for name, _ in asked.headers].count("host") == 1


async def test_a_client_streams_over_it():
    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async with (
        Scripted([Send(stream(b"a", b"b"))]) as upstream,
        client_over() as client,
        client.stream("POST", upstream.url, content=body()) as response,
    ):
        assert b"".join([piece async for piece in response.aiter_raw()]) == b"ab"
    assert upstream.received[0].body == b"onetwo"


async def test_a_client_sees_no_coding_that_is_undone():
    packed = reply(gzip.compress(b"plain"), content_encoding="gzip")
    async with Scripted([Send(packed)]) as upstream, client_over() as client:
        response = await client.get(upstream.url)
    assert response.content == b"plain"
    assert "content-encoding" not in response.headers


async def test_a_client_that_leaves_a_reply_closes_it():
    async with Scripted([*begin_stream(), Send(chunk(b"a")), Hold()]) as upstream, client_over() as client:
        async with client.stream("GET", upstream.url) as response:
            assert response.status_code == 200
        await upstream.left()


ERRORS: list[tuple[Dialogue, type[Exception]]] = [
    ([Fin()], httpx2.RemoteProtocolError),
    ([Rst()], httpx2.RemoteProtocolError),
    ([Send(b"no HTTP\r\n\r\n")], httpx2.RemoteProtocolError),
    ([Send(head(content_length="9") + b"half"), Fin()], httpx2.RemoteProtocolError),
    ([Hold()], httpx2.ReadTimeout),
    ([*begin_stream(), Hold()], httpx2.ReadTimeout),
]


@pytest.mark.parametrize(("dialogue", "error"), ERRORS)
async def test_faults_are_httpx_errors(dialogue: Dialogue, error: type[Exception]):
    async with Scripted(dialogue) as upstream, client_over(httpx2.Timeout(5, read=0.2)) as client:
        with pytest.raises(error):
            await client.get(upstream.url)


async def test_what_cannot_be_sent_and_who_cannot_be_reached():
    async with Scripted([Hold()]) as upstream:
        url = upstream.url
    async with client_over(None) as client:
        with pytest.raises(httpx2.LocalProtocolError):
            await client.get(url, headers={"x": "a\nb"})
        with pytest.raises(httpx2.ConnectError):
            await client.get(url)


async def test_a_busy_pool_is_a_pool_timeout():
    async with (
        Scripted([*begin_stream(), Hold()]) as upstream,
        client_over(limit=1) as client,
        client.stream("GET", upstream.url),
    ):
        with pytest.raises(httpx2.PoolTimeout):
            await client.get(upstream.url, timeout=httpx2.Timeout(5, connect=0.1))
