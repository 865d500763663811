"""Compressed request bodies on real sockets: the upstream receives them plain."""

import asyncio
import gzip
import json
import sys
import zlib
from secrets import token_hex

import brotli
import pytest

from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, JSON, gateway
from tests.integration.scripted import Scripted, Send, Wait, reply
from tests.waiting import until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODINGS = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress, "br": brotli.compress}
BODY = json.dumps(HELLO).encode()
LIMIT_BYTES = 100_000
each_coding = pytest.mark.parametrize("coding", CODINGS)


@pytest.fixture
async def upstream():
    async with Scripted([Send(reply(COMPLETION))] * 3) as scripted:
        yield scripted


@pytest.fixture
async def served(upstream):
    async with gateway(upstream=upstream.url, limits={"body_bytes": LIMIT_BYTES}) as gp:
        yield gp


def padded(size_bytes: int) -> bytes:
    body = json.dumps({**HELLO, "user": ""}).encode()
    return body.replace(b'"user": ""', b'"user": "%b"' % (b"x" * (size_bytes - len(body))))


async def ask(served, body, coding):
    return await served.ask(body, headers={**JSON, "content-encoding": coding}).answer()


@each_coding
async def test_the_upstream_receives_the_body_plain(served, upstream, coding):
    answer = await ask(served, CODINGS[coding](BODY), coding)
    assert answer.status == 200
    (received,) = upstream.received
    assert received.body == BODY
    assert received.header("content-encoding") is None
    assert received.header("content-length") == str(len(BODY))


@each_coding
async def test_the_limit_is_that_of_the_decompressed_body(served, upstream, coding):
    assert (await ask(served, CODINGS[coding](padded(LIMIT_BYTES)), coding)).status == 200
    answer = await ask(served, CODINGS[coding](padded(LIMIT_BYTES + 1)), coding)
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    answer = await ask(served, CODINGS[coding](bytes(1 << 26)), coding)
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert len(upstream.received) == 1
    assert served.state.in_flight.held.total_bytes == 0


async def test_a_body_is_held_once():
    plain, go_on = json.dumps({**HELLO, "user": token_hex(LIMIT_BYTES)}).encode(), asyncio.Event()
    async with (
        Scripted([Wait(go_on), Send(reply(COMPLETION))]) as upstream,
        gateway(upstream=upstream.url) as served,
        served.ask(gzip.compress(plain), headers={**JSON, "content-encoding": "gzip"}) as ask,
    ):
        await until(lambda: upstream.received)
        assert served.state.in_flight.held.total_bytes == len(plain)
        go_on.set()
        assert await ask.head() == 200


@each_coding
async def test_an_incomplete_body_is_400(served, upstream, coding):
    answer = await ask(served, CODINGS[coding](BODY)[:-1], coding)
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")
    assert upstream.received == []


async def test_an_empty_body_is_empty_in_every_coding(served):
    answer = await ask(served, b"", "gzip")
    assert (answer.status, answer.error["code"]) == (400, "invalid_json")


async def test_a_compressed_form_is_415(served):
    headers = {"content-type": "multipart/form-data; boundary=b", "content-encoding": "gzip"}
    answer = await served.ask(gzip.compress(b"--b--"), "/v1/audio/transcriptions", headers=headers).answer()
    assert (answer.status, answer.error["code"]) == (415, "unsupported_encoding")
    assert answer.headers["accept-encoding"] == "identity"
