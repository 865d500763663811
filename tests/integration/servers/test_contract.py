"""The client's view is the same under every server: `gatepass serve`, any ASGI server, a mount.

One upstream plays for all: each request takes the dialogue that its test put down last.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, get_args

import pytest
import pytest_asyncio

from gatepass.config.access import KeyOperation, hash_key
from tests.integration.answers import COMPLETION, DONE, EVENTS, delta
from tests.integration.gateway import JSON, STREAMED, Answer
from tests.integration.scripted import (
    LAST_CHUNK,
    Dialogue,
    Fin,
    Hold,
    Received,
    Scripted,
    Send,
    Wait,
    begin_stream,
    chunk,
    cut,
    head,
    reply,
)
from tests.integration.servers.running import BY_HTTP1, ON_SOCKETS, Served, served
from tests.waiting import at_rest, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "gp-a-key-of-the-contract-suite-0123456789"
KEYED = {**JSON, "authorization": f"Bearer {KEY}", "x-request-id": "id-1"}

HANDSHAKE = {
    "authorization": f"Bearer {KEY}",
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}

UNBOUNDED = ("hypercorn, HTTP/2",)
"""Servers whose `send` does not wait for a client that reads nothing (see docs/embedding.md)."""

DECIDED_BY_THE_SERVER = ("date", "server", "connection", "keep-alive", "transfer-encoding", "server-timing")
"""`server-timing` is ours, and a measurement."""


LISTED = {"object": "list", "data": [{"id": "m", "object": "model"}]}


class Stage:
    """The upstream's part: what it plays for the requests of this test."""

    def __init__(self) -> None:
        self.dialogue: Dialogue = ()
        self.upstream = Scripted(answer=self._next, send_buffer_bytes=65_536)

    def _next(self, _: Received) -> Dialogue:
        return self.dialogue

    def plays(self, *dialogue: Any) -> None:
        self.dialogue = dialogue
        self.upstream.received.clear()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    found = Stage()
    async with found.upstream:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ON_SOCKETS)
async def server(request: pytest.FixtureRequest, stage: Stage) -> AsyncIterator[Served]:
    blocks: dict[str, Any] = {
        "upstreams": {"chat": {"base_url": f"{stage.upstream.url}/v1"}},
        "access": {
            "keys": [{"name": "one", "hash": hash_key(KEY), "role": "admin", "operations": [*get_args(KeyOperation)]}]
        },
        "limits": {"body_bytes": 1_000_000},
    }
    stage.plays(Send(reply(LISTED)))
    async with served(request.param, **blocks) as found:
        # each server reads the list at its start, and this waits for it
        assert (await found.ask(None, "/v1/models", method="GET", headers=KEYED).answer()).status == 200
        yield found


def shown(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in DECIDED_BY_THE_SERVER}


# whole replies


async def test_a_whole_reply_has_the_upstreams_bytes(server, stage):
    stage.plays(Send(reply(COMPLETION)))
    answer = await server.ask(headers=KEYED).answer()
    body = json.dumps(COMPLETION).encode()
    assert (answer.status, answer.body, answer.whole) == (200, body, True)
    assert shown(answer) == {
        "cache-control": "no-store",
        "content-length": str(len(body)),
        "content-type": "application/json",
        "x-request-id": "id-1",
    }


# streams


async def test_each_event_arrives_when_it_is_whole_and_unchanged(server, stage):
    gates = [asyncio.Event() for _ in EVENTS]
    halves: list[Any] = []
    for event, gp in zip(EVENTS, gates, strict=True):
        halves += [Wait(gp), Send(chunk(event[:5])), Send(chunk(event[5:]))]
    stage.plays(*begin_stream(), *halves, Send(LAST_CHUNK))
    gates[0].set()  # the TestClient sends a request and waits for its head in one call
    async with server.ask(STREAMED, headers=KEYED) as ask:
        for gp, event in zip(gates, EVENTS, strict=True):
            gp.set()
            if not ask.status:
                await ask.head()
            await ask.until(event)
        answer = await ask.answer()
    assert (answer.status, answer.body, answer.whole) == (200, b"".join(EVENTS), True)
    assert shown(answer) == {
        "cache-control": "no-store, no-transform",
        "content-type": "text/event-stream; charset=utf-8",
        "x-accel-buffering": "no",
        "x-request-id": "id-1",
    }


@pytest.mark.parametrize("server", BY_HTTP1, indirect=True)
async def test_a_websocket_is_refused_before_an_upstream_sees_it(server, stage):
    stage.plays(Send(reply(COMPLETION)))
    answer = await server.ask(None, "/v1/responses", method="GET", headers=HANDSHAKE).answer()
    if answer.status == 426:
        assert (answer.error["code"], answer.whole) == ("unsupported_upgrade", True)
        assert (answer.headers["upgrade"], "upgrade" in answer.headers["connection"]) == ("HTTP/1.1", True)
    else:  # the server's own
        assert answer.status == 403
    assert stage.upstream.received == []


# other replies


@pytest.mark.parametrize("path", ["/v1/models", "/healthz"])
async def test_head_has_the_fields_of_get_and_no_body(server, stage, path):
    stage.plays(Send(reply(LISTED)))
    got = await server.ask(None, path, method="GET", headers=KEYED).answer()
    asked = await server.ask(None, path, method="HEAD", headers=KEYED).answer()
    assert (asked.status, asked.body, asked.whole) == (200, b"", True)
    assert shown(asked).items() <= shown(got).items()
    assert asked.headers["content-type"] == got.headers["content-type"]


async def test_a_form_passes_through_as_it_comes(server, stage):
    for path in ("/v1/audio/transcriptions", "/v1/files"):
        form = b"--b\r\ncontent-disposition: form-data; name=model\r\n\r\nw\r\n--b\r\n"
        form += b"content-disposition: form-data; name=file; filename=a\r\n\r\n" + b"sound" * 100_000 + b"\r\n--b--\r\n"
        stage.plays(Send(reply({"text": "hi"})))
        headers = {**KEYED, "content-type": "multipart/form-data; boundary=b"}
        answer = await server.ask(form, path, headers=headers).answer()
        assert (answer.status, answer.json()) == (200, {"text": "hi"})
        assert stage.upstream.received[-1].body == form


SOUND = bytes(range(256)) * 4000


@pytest.mark.parametrize("length", ["known", "unknown"])
async def test_a_sound_that_breaks_off_never_looks_complete(server, stage, length, logged_errors):
    framed = reply(SOUND, content_type="audio/mpeg")
    if length == "unknown":
        framed = head(200, content_type="audio/mpeg", transfer_encoding="chunked") + chunk(SOUND)
    stage.plays(*cut(framed, 500_000, Fin()))
    answer = await server.ask({"model": "t", "input": "hi"}, "/v1/audio/speech", headers=KEYED).answer()
    assert (answer.status, answer.whole) == (200, False)
    assert SOUND.startswith(answer.body)
    logged_errors.clear()


# clients that leave, or read slowly


async def test_disconnect_in_a_stream_closes_the_upstream_request(server, stage):
    stage.plays(*begin_stream(), Send(chunk(EVENTS[0])), Hold())
    async with server.ask(STREAMED, headers=KEYED) as ask:
        await ask.head()
        await ask.until(b"data:")
    await until(lambda: not stage.upstream.open)
    await until(lambda: not server.state.in_flight.busy)


async def test_a_client_that_reads_nothing_stops_the_upstream_and_gets_all_when_it_reads(server, stage):
    event = delta(content="x" * 60_000)
    size = 500 * len(event) + len(delta("stop") + DONE)
    stage.plays(*begin_stream(), *[Send(chunk(event))] * 500, Send(chunk(delta("stop") + DONE) + LAST_CHUNK))
    sent_before = stage.upstream.sent_bytes
    async with server.ask(STREAMED, headers=KEYED, receive_bytes=65_536) as ask:
        await ask.head()
        if server.name in UNBOUNDED:
            await stage.upstream.until(lambda: stage.upstream.sent_bytes - sent_before >= size)
        else:  # the kernel's buffers on both hops grow to some 10 MB
            taken = await at_rest(lambda: stage.upstream.sent_bytes) - sent_before
            assert taken < size * 2 / 3
        answer = await ask.answer()
    assert (len(answer.body), answer.body.count(event), answer.whole) == (size, 500, True)
