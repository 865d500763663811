"""The same configuration under each server, on real sockets, in the event loop of the test module.

`gatepass serve` is the accelerated front; the others serve the application of `create_app`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import uvicorn
from fastapi import FastAPI
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server as Granian

from gatepass.app import build_app
from gatepass.config.model import Config
from gatepass.gate import Gate, build_gate
from gatepass.listening import listen
from gatepass.runtime import Clock
from tests.integration.gateway import CHAT, HELLO, JSON, Ask, gateway

BOUND_S = 10.0
MOUNTED_AT = "/llm"


@dataclass(frozen=True, slots=True)
class Served:
    """One gatepass under the server `name`; its API is below `prefix`."""

    name: str
    port: int
    gate: Gate
    prefix: str = ""

    def ask(
        self, body: Any = HELLO, path: str = CHAT, *, method: str = "POST", headers: Mapping[str, str] = JSON
    ) -> Ask:
        """One request on a connection of its own."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return Ask(self.port, method, self.prefix + path, dict(headers), data)


class _Uvicorn(uvicorn.Server):
    """Leaves the process's signals to the test runner."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def under_uvicorn(app: FastAPI) -> AsyncIterator[int]:
    listening = listen("127.0.0.1", 0)
    server = _Uvicorn(uvicorn.Config(app, lifespan="on", log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        async with asyncio.timeout(BOUND_S):
            while not server.started:
                await asyncio.sleep(0.005)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def under_hypercorn(app: FastAPI) -> AsyncIterator[int]:
    listening, stop = listen("127.0.0.1", 0), asyncio.Event()
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listening.fileno()}"]
    config.errorlog = logging.getLogger("hypercorn.error")
    config.graceful_timeout = 1.0
    serving = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
    try:
        await _connectable(listening.getsockname()[1])
        yield listening.getsockname()[1]
    finally:
        stop.set()
        await serving
        listening.detach()  # hypercorn closed the descriptor


@asynccontextmanager
async def under_granian(app: FastAPI) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Granian(app, "127.0.0.1", port, interface=Interfaces.ASGI, http=HTTPModes.auto, log_enabled=False)
    serving = asyncio.create_task(server.serve())
    try:
        await _connectable(port)
        yield port
    finally:
        server.stop()
        await serving


async def _connectable(port: int) -> None:
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return


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
FAST, MOUNTED = "gatepass serve", "mounted"
NAMES = (FAST, *SERVERS, MOUNTED)


@asynccontextmanager
async def served(name: str, clock: Clock | None = None, **blocks: Any) -> AsyncIterator[Served]:
    """A configuration under the server `name`."""
    if name == FAST:
        async with gateway(clock=clock, **blocks) as fast:
            yield Served(name, fast.port, fast.gate)
        return
    gate = build_gate(Config.model_validate({"server": {"drain_timeout_s": 0}, **blocks}), clock)
    app = build_app(gate)
    async with SERVERS.get(name, under_uvicorn)(mounted(app) if name == MOUNTED else app) as port:
        yield Served(name, port, gate, MOUNTED_AT if name == MOUNTED else "")
