"""The same configuration under each server, on real sockets, in the event loop of the test module.

`gatepass serve` is the accelerated front; the others serve the application of `create_app`.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import hypercorn.asyncio
import hypercorn.config
import uvicorn
from fastapi import FastAPI
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server as Granian
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset

from gatepass.config.model import Config
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.server.app import build_app
from gatepass.server.endpoint import ApiEndpoint
from gatepass.server.listening import bind
from tests.integration.gateway import CHAT, HELLO, JSON, Ask, gateway
from tests.serving import Server, free_port
from tests.waiting import until, until_async

MOUNTED_AT = "/llm"


@dataclass(slots=True)
class AskedByH2(Ask):
    """The same over HTTP/2 without TLS. The client's window opens again when the test has read a piece."""

    _h2: H2Connection = field(default_factory=H2Connection)
    _events: deque[Any] = field(default_factory=deque)

    async def __aenter__(self) -> Self:
        await self._connect()
        self._h2.initiate_connection()
        own = {":method": self.method, ":scheme": "http", ":authority": f"127.0.0.1:{self.port}", ":path": self.path}
        fields = [*own.items(), *self.headers.items()]
        if is_whole := "content-length" not in self.headers:
            fields.append(("content-length", str(len(self.data))))
        self._h2.send_headers(1, fields, end_stream=is_whole and not self.data)
        self._flush()
        rest = memoryview(self.data)
        while rest and not any(isinstance(event, ResponseReceived | StreamReset) for event in self._events):
            size = min(len(rest), self._h2.local_flow_control_window(1), self._h2.max_outbound_frame_size)
            if size:
                self._h2.send_data(1, bytes(rest[:size]), end_stream=size == len(rest))
                rest = rest[size:]
                self._flush()
            else:
                await self._feed()
        return self

    async def head(self) -> int:
        event = await self._next(ResponseReceived)
        named = {name.decode(): value.decode() for name, value in event.headers}
        self.status = int(named.pop(":status"))
        self.received = named
        return self.status

    async def piece(self) -> bytes:
        event = await self._next(DataReceived | StreamEnded)
        if isinstance(event, StreamEnded):
            return b""
        self._h2.acknowledge_received_data(event.flow_controlled_length, 1)
        self._flush()
        self.body += event.data
        return bytes(event.data) or await self.piece()

    async def _next(self, wanted: Any) -> Any:
        while True:
            while not self._events:
                await self._feed()
            event = self._events.popleft()
            if isinstance(event, StreamReset | ConnectionTerminated):
                raise ConnectionResetError("the server reset the stream")
            if isinstance(event, wanted):
                return event

    async def _feed(self) -> None:
        assert self._reader is not None
        data = await self._reader.read(65_536)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._events.extend(self._h2.receive_data(data))
        self._flush()

    def _flush(self) -> None:
        assert self._writer is not None
        self._writer.write(self._h2.data_to_send())


@dataclass(frozen=True, slots=True)
class Served:
    """One gatepass under the server `name`; its API is below `prefix`."""

    name: str
    port: int
    state: AppState
    prefix: str = ""
    by: Callable[..., Ask] = Ask

    def ask(
        self,
        body: Any = HELLO,
        path: str = CHAT,
        *,
        method: str = "POST",
        headers: Mapping[str, str] = JSON,
        **more: Any,
    ) -> Ask:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.by(self.port, method, self.prefix + path, dict(headers), data, **more)


@asynccontextmanager
async def under_uvicorn(app: FastAPI) -> AsyncIterator[int]:
    listening = bind("127.0.0.1", 0)
    server = Server(uvicorn.Config(app, lifespan="on", log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        await until(lambda: server.started)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def under_hypercorn(app: FastAPI) -> AsyncIterator[int]:
    listening, stop = bind("127.0.0.1", 0), asyncio.Event()
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listening.fileno()}"]
    config.errorlog = logging.getLogger("hypercorn.error")
    config.graceful_timeout = config.keep_alive_timeout = 1.0
    serving = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]  # its own ASGI types
    try:
        await connectable(listening.getsockname()[1])
        yield listening.getsockname()[1]
    finally:
        stop.set()
        await serving
        listening.detach()  # hypercorn closed the descriptor


@asynccontextmanager
async def under_granian(app: FastAPI) -> AsyncIterator[int]:
    port = free_port()
    server = Granian(app, "127.0.0.1", port, interface=Interfaces.ASGI, http=HTTPModes.auto, log_enabled=False)
    serving = asyncio.create_task(server.serve())
    try:
        await connectable(port)
        yield port
    finally:
        server.stop()
        await serving


async def connectable(port: int) -> None:
    async def is_listening() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            return False
        writer.close()
        return True

    await until_async(is_listening)


def mounted(app: FastAPI) -> FastAPI:
    """A parent that enters the lifespan of `app`, as docs/embedding.md shows it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with app.router.lifespan_context(app):
            yield

    parent = FastAPI(lifespan=lifespan)
    parent.mount(MOUNTED_AT, app)
    return parent


Under = Callable[[FastAPI], AbstractAsyncContextManager[int]]
SERVERS: Mapping[str, Under] = {"uvicorn": under_uvicorn, "hypercorn": under_hypercorn, "granian": under_granian}
FAST, MOUNTED, H2 = "gatepass serve", "mounted", ", HTTP/2"
BY_HTTP1 = (FAST, *SERVERS, MOUNTED)
ON_SOCKETS = (*BY_HTTP1, f"hypercorn{H2}", f"granian{H2}")


@asynccontextmanager
async def served(name: str, **blocks: Any) -> AsyncIterator[Served]:
    if name == FAST:
        async with gateway(**blocks) as fast:
            yield Served(name, fast.port, fast.state)
        return
    config = Config.model_validate({"server": {"drain_timeout_s": 0}, **blocks})
    state = create_app_state(config)
    app = build_app(lambda: ApiEndpoint(state), config)
    under, is_mounted = SERVERS.get(name.removesuffix(H2), under_uvicorn), name == MOUNTED
    async with under(mounted(app) if is_mounted else app) as port:
        yield Served(name, port, state, MOUNTED_AT if is_mounted else "", AskedByH2 if name.endswith(H2) else Ask)
