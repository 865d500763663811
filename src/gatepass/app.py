"""config ─► Gate ─► FastAPI app ─► uvicorn: wiring only."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gatepass import __version__
from gatepass.api.http_guard import guarded
from gatepass.api.openai import OperationsRoute
from gatepass.api.ops import ops_routes
from gatepass.api.peers import Peers
from gatepass.catalog import Catalog
from gatepass.errors import InternalError
from gatepass.gate import Gate
from gatepass.listening import url_of
from gatepass.surface.openai_error import error_body, error_headers
from gatepass.surface.operations import openapi_paths

LOG = logging.getLogger("gatepass.serve")

KEEP_ALIVE_S = 75
HANDOVER_S = 0.5
"""How long a worker still serves what it had accepted before it left the socket to the others: no 503 for that."""
FORCED_STOP_S = 3
"""After the drain: how long uvicorn waits for connections that are still closing."""

NO_TELEMETRY = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
"""FastAPI's own telemetry records exception texts and reads exporters from the environment by default."""


class Gatepass(FastAPI):
    """FastAPI for raw routes: its stack of middleware serves dependencies and path operations, which are none here.

    What clients call goes straight to its route, which saves a request 10 µs; gatepass's own pages and
    the lifespan go FastAPI's way.
    """

    operations: OperationsRoute
    pages: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self.pages:
            await self.operations.handle(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        return ServerErrorMiddleware(self.router, handler=_internal_error)


def build_app(gate: Gate, peers: Peers | None = None) -> FastAPI:
    """The ASGI application of one Gate."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        gate.start()
        try:
            yield
        finally:
            await gate.aclose()

    app = Gatepass(
        title="gatepass",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        telemetry=NO_TELEMETRY,  # type: ignore[arg-type]  # a TypedDict with total=False
    )
    pages, app.operations = ops_routes(gate, peers), OperationsRoute(gate, Catalog(gate))
    app.pages = frozenset(page.path for page in pages)
    app.router.routes.extend([*pages, app.operations])
    app.openapi = lambda: _openapi(app, gate.config.server.base_path)  # type: ignore[method-assign]  # FastAPI's own way to extend the schema
    return app


def _openapi(app: FastAPI, base_path: str) -> dict[str, Any]:
    """Raw routes are absent from FastAPI's schema, so the operation table adds them."""
    paths = openapi_paths(base_path)
    return {"openapi": "3.1.0", "info": {"title": app.title, "version": app.version}, "paths": paths}


async def _internal_error(_: Request, __: Exception) -> Response:
    """The last resort for a fault of our own; the server logs its trace, the client learns no detail."""
    error = InternalError("gatepass failed at this request. Its log tells more.")
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return Response(error_body(error), error.http_status, headers)


class Server(uvicorn.Server):
    """uvicorn that drains: readiness turns red at once, streams may finish, the rest get an error event."""

    def __init__(
        self,
        gate: Gate,
        announce: Callable[[str], None],
        peers: Peers | None = None,
        lifeline_fd: int | None = None,
    ) -> None:
        limits = gate.config.limits
        super().__init__(
            uvicorn.Config(
                build_app(gate, peers),
                http=guarded(limits),
                loop="uvloop",
                ws="none",
                lifespan="on",
                access_log=False,
                log_config=None,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=FORCED_STOP_S,
            )
        )
        self._gate = gate
        self._announce = announce
        self._peers = peers
        self._lifeline_fd = lifeline_fd
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_hurried = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        gc.collect()
        gc.freeze()  # what stands now stands for good: a collection need not walk it again (25 µs a request)
        for listening in sockets or []:
            self._announce(url_of(listening))
        if self._peers is not None:
            await self._peers.open()
        if self._lifeline_fd is not None:
            asyncio.get_running_loop().add_reader(self._lifeline_fd, self._orphaned)

    def _orphaned(self) -> None:
        """The supervisor is gone without a word: nobody would ever end this process."""
        asyncio.get_running_loop().remove_reader(self._lifeline_fd)  # type: ignore[arg-type]  # it was added
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        bound_s = self._gate.config.server.drain_timeout_s
        if self._peers is not None:
            await self._peers.aclose()
            for server in self.servers:
                server.close()  # what comes now is for the other workers on this socket
            await asyncio.sleep(HANDOVER_S)
        LOG.info("draining", extra={"fields": {"bound_s": bound_s, "under_way": self._gate.live.busy}})
        ended = await self._gate.live.drain(self._gate.clock, 0 if self._is_hurried else bound_s)
        LOG.info("drained", extra={"fields": {"streams_ended": ended}})
        await super().shutdown(sockets=sockets)

    def handle_exit(self, _: int, __: FrameType | None) -> None:
        """SIGTERM and the first SIGINT drain; a second one ends what still runs, with its error event; a
        third waits for nobody. None is raised again after the stop, so that a clean stop exits with 0."""
        self.force_exit = self._is_hurried
        self._is_hurried = self.should_exit
        if self._is_hurried and self._loop is not None:
            self._loop.call_soon_threadsafe(self._gate.live.hurry)
        self.should_exit = True
