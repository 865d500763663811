"""gatepass on a real socket inside the test's event loop, and the smallest client that sees every byte."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self
from unittest import mock

import uvicorn.server

from gatepass.clock import Clock
from gatepass.config.model import Config
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.server import process
from gatepass.server.cycle import BODILESS
from gatepass.server.listening import bind
from gatepass.server.process import DrainingServer
from gatepass.server.reload import ConfigSource
from tests.integration.scripted import Dialogue, Received, Scripted

CHAT = "/v1/chat/completions"
HELLO: Mapping[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAMED: Mapping[str, Any] = {**HELLO, "stream": True}
JSON = {"content-type": "application/json"}


IMPATIENT = SimpleNamespace(**{**vars(asyncio), "sleep": lambda _: asyncio.sleep(0.005)})  # uvicorn sleeps 0.1 s


class _Guest(DrainingServer):
    """Leaves the process's signals to the test runner, and ends without three tenths of a second for its clients."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        with mock.patch.object(process, "HANDSHAKE_S", 0.005), mock.patch.object(uvicorn.server, "asyncio", IMPATIENT):
            await super().serve(sockets)


@dataclass(frozen=True, slots=True)
class Gateway:
    port: int
    state: AppState
    server: DrainingServer
    tls: ssl.SSLContext | None = None
    """Of the client. None: without TLS."""

    def ask(
        self, body: Any = HELLO, path: str = CHAT, *, method: str = "POST", headers: Mapping[str, str] = JSON
    ) -> Ask:
        """One request on a new connection; see Ask."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return Ask(self.port, method, path, dict(headers), data, self.tls)


@asynccontextmanager
async def gateway(
    *,
    upstream: str = "",
    chat: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
    tls: ssl.SSLContext | None = None,
    **blocks: Any,
) -> AsyncIterator[Gateway]:
    """Serve a configuration; `upstream` is short for one upstream `chat` at that root, with the settings `chat`.

    `clock` drives token lives and the model list's age. No model list is read after the start, so that the upstream
    receives what the test sends, and nothing more.
    """
    if upstream:
        settings = chat or {}
        base_url = upstream if settings.get("dialect") == "ragflow" else f"{upstream}/v1"
        blocks.setdefault("upstreams", {"chat": {"base_url": base_url, **settings}})
    config = Config.model_validate({"server": {"drain_timeout_s": 0}, **blocks})
    async with serving(create_app_state(config, clock), tls=tls) as served:
        yield served


@asynccontextmanager
async def relaying(
    *dialogues: Dialogue,
    answer: Callable[[Received], Dialogue] | None = None,
    sends_first: bool = False,
    send_buffer_bytes: int | None = None,
    **blocks: Any,
) -> AsyncIterator[tuple[Scripted, Gateway]]:
    """Serve a configuration whose one upstream `chat` is Scripted, with `dialogues` and so on."""
    played = Scripted(*dialogues, answer=answer, sends_first=sends_first, send_buffer_bytes=send_buffer_bytes)
    async with played as upstream, gateway(upstream=upstream.url, **blocks) as served:
        yield upstream, served


async def answer_from(
    dialogue: Dialogue,
    body: Any = HELLO,
    path: str = CHAT,
    *,
    method: str = "POST",
    headers: Mapping[str, str] = JSON,
    **blocks: Any,
) -> Answer:
    """Return the answer to one request, for which the upstream `chat` plays `dialogue`."""
    async with relaying(dialogue, **blocks) as (_, served):
        return await served.ask(body, path, method=method, headers=headers).answer()


@asynccontextmanager
async def serving(
    state: AppState, source: ConfigSource | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Gateway]:
    """Serve `state`. With `source` it can be reloaded. `tls` is the context of the clients."""
    listening = bind("127.0.0.1", 0)
    listening.listen()  # until then the kernel may give its port to another socket
    ready = asyncio.Event()
    server = _Guest(state, lambda _: ready.set(), source=source)
    with mock.patch.object(server.endpoint, "read_lists"):
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        serving.add_done_callback(lambda _: ready.set())
        try:
            await ready.wait()
            assert not serving.done(), "the start failed"
            yield Gateway(listening.getsockname()[1], state, server, tls)
        finally:
            server.should_exit = True
            await serving


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@dataclass(slots=True)
class Answer:
    """A whole response, decoded from its chunks; `whole` is False where it broke off."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object of the response, or of the last event of its stream that has one."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            found: dict[str, Any] = next(
                event["error"] for event in map(json.loads, reversed(self.events)) if "error" in event
            )
            return found
        plain: dict[str, Any] = self.json()["error"]
        return plain

    @property
    def events(self) -> list[str]:
        lines = self.body.decode().splitlines()
        return [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]


@dataclass(slots=True)
class Ask:
    """A request under way, read at the test's own pace::

        async with gateway.ask() as ask:
            await ask.head()
            await ask.until(b"first")
        answer = await gateway.ask().answer()

    Leaving the block early closes the connection, as a client does that goes away.
    """

    port: int
    method: str
    path: str
    headers: dict[str, str]
    data: bytes
    tls: ssl.SSLContext | None = None
    receive_bytes: int = 0
    """What the client's kernel takes ahead of the test. 0: the default."""
    status: int = 0
    received: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        await self._connect()
        assert self._writer is not None
        fields = {"host": f"127.0.0.1:{self.port}", "content-length": str(len(self.data)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._writer.write(f"{self.method} {self.path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + self.data)
        return self

    async def _connect(self) -> None:
        connected = socket.socket()
        if self.receive_bytes:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_bytes)
        connected.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", self.port))
            name = None if self.tls is None else "127.0.0.1"
            self._reader, self._writer = await asyncio.open_connection(
                sock=connected, limit=2**16, ssl=self.tls, server_hostname=name
            )
        except BaseException:
            connected.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        assert self._writer is not None
        self._writer.transport.abort()

    async def head(self) -> int:
        assert self._reader is not None
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        split = (line.partition(":") for line in lines[1:] if line)
        self.received = {name.lower(): value.strip() for name, _, value in split}
        return self.status

    async def piece(self) -> bytes:
        """The next chunk of the body (all of it where it has a length); b"" at a clean end.

        Raises asyncio.IncompleteReadError or ConnectionError where it broke off."""
        assert self._reader is not None
        if self.status in BODILESS or self.method == "HEAD":
            return b""
        if "content-length" in self.received:
            size = int(self.received["content-length"]) - len(self.body)
            data = await self._reader.readexactly(size)
        else:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            data = (await self._reader.readexactly(size + 2))[:-2]
        self.body += data
        return data

    async def until(self, mark: bytes) -> bytes:
        while mark not in self.body:
            if not await self.piece():
                raise AssertionError(f"the body ended without {mark!r}: {self.body[-300:]!r}")
        return bytes(self.body)

    def end_sending(self) -> None:
        """Close only the sending side."""
        assert self._writer is not None
        self._writer.write_eof()

    async def skip(self, size_bytes: int) -> bytes:
        """The next bytes as they come, of which the body has none."""
        assert self._reader is not None
        return await self._reader.read(size_bytes)

    async def final_answer(self) -> Answer:
        """The answer after a 100."""
        self.status = 0
        return await self.answer()

    async def answer(self) -> Answer:
        """Read the whole response, including the part that was read before."""
        if self._writer is None:
            async with self:
                return await self.answer()
        if not self.status:
            await self.head()
        whole = True
        try:
            while await self.piece() and len(self.body) != int(self.received.get("content-length", -1)):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            whole = False
        return Answer(self.status, self.received, bytes(self.body), whole)
