"""On real sockets: neither an address without a key nor a caller with one keeps others from being served."""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Self

import pytest

from gatepass.config.access import hash_key
from gatepass.json_body import UNCOUNTED_BYTES
from gatepass.proxy import failover, handler
from gatepass.proxy.context import RequestContext
from gatepass.server import connection
from gatepass.server.inspection import told
from tests.integration.answers import COMPLETION, delta
from tests.integration.gateway import CHAT, HELLO, JSON, STREAMED, Gateway, relaying
from tests.integration.scripted import Dialogue, Hold, Received, Scripted, Send, begin_stream, chunk, reply
from tests.waiting import until

KEYS = {"hog": "gp-" + "h" * 43, "app": "gp-" + "a" * 43}
CONNECTIONS = 20
SHARE = 5
"""A quarter of CONNECTIONS, for clients without a known key."""


def silent_for_the_hog(request: Received) -> list[Hold | Send]:
    if b"silent" in request.body:
        return [Hold()]
    return [Send(reply(COMPLETION if request.method == "POST" else {"data": [{"id": "m", "object": "model"}]}))]


@asynccontextmanager
async def small(limits: dict[str, int] | None = None) -> AsyncIterator[tuple[Gateway, Scripted]]:
    """A gatepass with two keys and room for CONNECTIONS. Its upstream never answers a body that holds `silent`."""
    keys = [
        {"name": name, "hash": hash_key(text), **({"limits": limits} if limits and name == "hog" else {})}
        for name, text in KEYS.items()
    ]
    blocks: dict[str, Any] = {"limits": {"connections": CONNECTIONS}}
    async with relaying(answer=silent_for_the_hog, access={"keys": keys}, **blocks) as (upstream, gp):
        yield gp, upstream


def of(caller: str) -> dict[str, str]:
    return {**JSON, "authorization": f"Bearer {KEYS[caller]}"}


LARGE = " " * UNCOUNTED_BYTES


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {**HELLO, "user": LARGE}),
        ("/v1/embeddings", {"model": "m", "input": [LARGE]}),
        ("/v1/responses", b'{"model": ' + LARGE.encode()),
    ],
)
async def test_callers_take_turns_at_the_thread_that_reads_large_bodies(
    path: str, body: Any, monkeypatch: pytest.MonkeyPatch
):
    read, go_on = list[str](), threading.Event()

    def noted(context: RequestContext, *rest: Any) -> Any:
        read.append(context.caller.name)
        return parse(context, *rest)

    parse = handler._parse
    monkeypatch.setattr(handler, "_parse", noted)
    async with small() as (gp, _):
        threads = gp.state.body_threads
        held = asyncio.create_task(threads.run_heavy("hog", go_on.wait))
        asked = list[asyncio.Task[Any]]()
        for name in ("hog",) * 12 + ("app",):
            asked.append(asyncio.create_task(gp.ask(body, path, headers=of(name)).answer()))
            await until(lambda: len(threads.turns.waiting) == len(asked))
        go_on.set()
        await asyncio.gather(held, *asked)
    assert read[:2] == ["hog", "app"]


MANY = delta(content="a") * 20_000
RAW = (b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-length: %d\r\n\r\n" % (1 << 30)) + b"a" * (1 << 20)


@pytest.mark.parametrize("kind", ["stream", "raw"])
async def test_a_stream_that_nobody_reads_makes_room_for_another_caller(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(failover, "UNREAD_S", 0.2)
    speech: dict[str, Any] = {"model": "m", "input": "a", "voice": "b"}
    path, body = (CHAT, STREAMED) if kind == "stream" else ("/v1/audio/speech", speech)

    def answer(request: Received) -> Dialogue:
        if b"app" in request.body:
            return [Send(reply(COMPLETION))]
        begun = begin_stream() if kind == "stream" else []
        return [*begun, *[Send(chunk(MANY) if kind == "stream" else RAW)] * 9, Hold()]

    keys = [{"name": name, "hash": hash_key(text)} for name, text in KEYS.items()]
    async with (
        relaying(answer=answer, chat={"max_in_flight": 2}, access={"keys": keys}) as (_, gp),
        gp.ask(body, path, headers={**of("hog"), "x-request-id": "first"}) as first,
        gp.ask(body, path, headers={**of("hog"), "x-request-id": "second"}) as second,
    ):
        assert [await first.head(), await second.head()] == [200, 200]
        served = await gp.ask({**HELLO, "user": "app"}, headers=of("app")).answer()
        assert served.status == 200
        await until(lambda: len(ended(gp, "first", "second")) == 1)
        assert ended(gp, "first", "second") == [("unread", "gatepass")]
        name = "first" if ended(gp, "first") else "second"
        cut = await (first if name == "first" else second).answer()
        assert not cut.whole
        assert b"error" not in cut.body


def ended(gp: Gateway, *names: str) -> list[tuple[str, str | None]]:
    shown = [story for name in names for story, _ in told(name, gp.state)]
    return [(one.outcome, one.closed_by) for one in shown if one.state == "ended"]


@pytest.mark.parametrize(
    ("least_bytes_per_s", "after_s", "loses"), [(1 << 40, 0.3, True), (1, 1.5, False)], ids=["below", "above"]
)
async def test_a_client_that_reads_too_slowly_keeps_no_place_from_another_caller(
    least_bytes_per_s: int, after_s: float, loses: bool, monkeypatch: pytest.MonkeyPatch
):
    """Two clients go on reading: what they acknowledge a second is below the bound, or above it."""
    monkeypatch.setattr(failover, "UNREAD_S", after_s)
    monkeypatch.setattr(connection, "LEAST_BYTES_PER_S", least_bytes_per_s)

    def answer(request: Received) -> Dialogue:
        if b"app" in request.body:
            return [Send(reply(COMPLETION))]
        return [*begin_stream(), *[Send(chunk(MANY))] * 9, Hold()]

    keys = [{"name": name, "hash": hash_key(text)} for name, text in KEYS.items()]
    chat = {"max_in_flight": 2, "queue_s": 2}
    async with relaying(answer=answer, chat=chat, access={"keys": keys}) as (_, gp), AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(Slow(gp.port)) for _ in range(2)]
        tasks = [asyncio.create_task(one.read()) for one in readers]
        try:
            places = gp.state.upstreams["chat"].state.queue.holding
            await until(lambda: len(places) == 2 and all(one.unread_s() > 0 for one in places))
            served = await gp.ask({**HELLO, "user": "app"}, headers=of("app")).answer()
            assert served.status == (200 if loses else 503)
            await until(lambda: sum(task.done() for task in tasks) == loses)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


class Slow:
    """A client of a stream that goes on reading a few bytes, so that its kernel always has room for more."""

    def __init__(self, port: int) -> None:
        self._port, self._socket = port, socket.socket()

    async def __aenter__(self) -> Self:
        # small segments: the kernel tells at once that there is room for one more
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        self._socket.setblocking(False)
        loop, body = asyncio.get_running_loop(), json.dumps(STREAMED).encode()
        await loop.sock_connect(self._socket, ("127.0.0.1", self._port))
        fields = f"host: h\r\nauthorization: Bearer {KEYS['hog']}\r\ncontent-type: application/json\r\n"
        head = f"POST {CHAT} HTTP/1.1\r\n{fields}content-length: {len(body)}\r\n\r\n"
        await loop.sock_sendall(self._socket, head.encode() + body)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def read(self) -> None:
        """Read until gatepass resets the connection."""
        with suppress(ConnectionResetError):
            while await asyncio.get_running_loop().sock_recv(self._socket, 512):
                await asyncio.sleep(0.01)  # the pace of this client: no event is waited for


async def status_of(gp: Gateway, path: str) -> int:
    return (await gp.ask(None, path, method="GET", headers={}).answer()).status


async def test_flood_of_idle_connections_closes_only_its_own_connections(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "gatepass")
    async with small() as (gp, _), AsyncExitStack() as held:
        kept = await held.enter_async_context(Kept(gp.port))
        assert await kept.ask() == b"200"
        readers = []
        for _ in range(3 * CONNECTIONS):
            reader, writer = await asyncio.open_connection("127.0.0.1", gp.port)
            held.callback(writer.close)
            readers.append(reader)
            assert (await gp.ask(headers=of("app")).answer()).status == 200
            assert (await status_of(gp, "/healthz"), await status_of(gp, "/readyz")) == (200, 200)
        assert await kept.ask() == b"200"
        await until(lambda: sum(reader.at_eof() for reader in readers) >= len(readers) - CONNECTIONS - SHARE - 2)
        assert not readers[-1].at_eof()
    refused = [record.__dict__["fields"] for record in caplog.records if record.getMessage() == "refused"]
    assert "limits.connections" in refused[0]["reason"]


class Kept:
    """A client's connection with a key, which stays open between its requests."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self) -> bytes:
        fields = f"host: h\r\nauthorization: Bearer {KEYS['app']}\r\n"
        self._writer.write(f"GET /v1/models HTTP/1.1\r\n{fields}\r\n".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        size = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
        await self._reader.readexactly(int(size))
        return head.split()[1]


async def test_busy_key_leaves_the_last_tenth_to_other_callers():
    async with small() as (gp, upstream), hogging(gp, CONNECTIONS + 5) as heads:
        await upstream.requested(CONNECTIONS - 2)
        await until(lambda: sum(head.done() for head in heads) == 7)
        assert [head.result() for head in heads if head.done()] == [503] * 7
        for _ in range(5):
            assert (await gp.ask(headers=of("app")).answer()).status == 200
            assert (await status_of(gp, "/healthz"), await status_of(gp, "/readyz")) == (200, 200)
        assert gp.state.in_flight.busy == CONNECTIONS - 2


@asynccontextmanager
async def hogging(gp: Gateway, count: int) -> AsyncIterator[list[asyncio.Task[int]]]:
    """`count` requests of one caller that the upstream does not answer; yields the wait for each one's status."""
    silent = {**HELLO, "messages": [{"role": "user", "content": "silent"}]}
    async with AsyncExitStack() as held:
        asks = [await held.enter_async_context(gp.ask(silent, headers=of("hog"))) for _ in range(count)]
        heads = [asyncio.create_task(ask.head()) for ask in asks]
        try:
            yield heads
        finally:
            for head in heads:
                head.cancel()
            await asyncio.wait(heads)
