"""config ─► Gate ─► FastAPI app ─► uvicorn: wiring only."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from gatepass import __version__
from gatepass.allocator import keep_freed_pages
from gatepass.api.connection import ClientConnection
from gatepass.api.openai import Operations
from gatepass.api.ops import ops_routes
from gatepass.api.pages import show
from gatepass.api.peers import Peers
from gatepass.api.reception import Reception, Serve
from gatepass.api.refusal import Refusals
from gatepass.api.spare import spare
from gatepass.api.turn import Turn
from gatepass.catalog import Catalog
from gatepass.errors import InternalError, MethodNotAllowed
from gatepass.gate import Gate
from gatepass.listening import url_of
from gatepass.surface.openai_error import error_body, error_headers
from gatepass.surface.operations import openapi_paths

LOG = logging.getLogger("gatepass.serve")

KEEP_ALIVE_S = 75
HANDOVER_S = 0.5
"""How long a worker still serves what it had accepted before it left the socket to the others: no 503 for that."""
RELOADS = "a single process reads its configuration at the start only: restart it, or serve with several workers"
"""What a SIGHUP is answered with, where it would renew workers."""
FORCED_STOP_S = 3
"""After the drain: how long uvicorn waits for connections that are still closing."""

COLLECT_AFTER = 10_000
"""Containers more than at the last collection; 64 requests under way hold 6,000. Python's own 700 has each ebb and
flow of requests walked through, 2.6 % of all work, for cycles that they do not make."""

NO_TELEMETRY = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
"""FastAPI's own telemetry records exception texts and reads exporters from the environment by default."""


class Gatepass(FastAPI):
    """gatepass's own pages, and the lifespan. What clients call does not come here: see `served_by`.

    FastAPI's stack of middleware serves dependencies and path operations, which are none here.
    """

    pages: frozenset[str]

    def build_middleware_stack(self) -> ASGIApp:
        pages = ExceptionMiddleware(self.router, handlers={HTTPException: _wrong_method})
        return ServerErrorMiddleware(pages, handler=_internal_error)


def build_app(gate: Gate, peers: Peers | None = None) -> Gatepass:
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
    pages = ops_routes(gate, peers)
    app.pages = frozenset(page.path for page in pages)
    app.router.routes.extend(pages)
    app.openapi = lambda: _openapi(app, gate.config.server.base_path)  # type: ignore[method-assign]  # FastAPI's own way to extend the schema
    return app


def served_by(app: Gatepass, gate: Gate) -> Serve:
    """Pages by FastAPI, everything else by the street."""
    operations, pages, limit_bytes = Operations(gate, Catalog(gate)), app.pages, gate.config.limits.body_bytes

    def serve(turn: Turn) -> Awaitable[None]:
        return show(app, turn, limit_bytes) if turn.path in pages else operations.serve(turn)

    return serve


def reception_of(app: Gatepass, gate: Gate) -> Reception:
    """What the server's connections share."""
    limits, refused = gate.config.limits, Refusals(gate.metrics.refused).note
    spared = spare(lambda turn: show(app, turn, limits.body_bytes), app.pages, refused)
    return Reception(served_by(app, gate), spared, refused, limits, KEEP_ALIVE_S)


def _openapi(app: FastAPI, base_path: str) -> dict[str, Any]:
    """Raw routes are absent from FastAPI's schema, so the operation table adds them."""
    paths = openapi_paths(base_path)
    return {"openapi": "3.1.0", "info": {"title": app.title, "version": app.version}, "paths": paths}


async def _internal_error(_: Request, __: Exception) -> Response:
    """The last resort for a fault of our own; the server logs its trace, the client learns no detail."""
    error = InternalError("gatepass failed at this request. Its log tells more.")
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return Response(error_body(error), error.http_status, headers)


async def _wrong_method(request: Request, error: Exception) -> Response:
    """The router raises no other: a page is asked for by its path, so it is the method that does not fit."""
    named = (error.headers or {}).get("Allow", "GET") if isinstance(error, HTTPException) else "GET"
    allowed = ", ".join(sorted(named.split(", ")))
    fault = MethodNotAllowed(f"{request.method} is not possible at {request.url.path}; use GET.", allow=allowed)
    headers = {name.decode(): value.decode() for name, value in error_headers(fault)}
    return Response(error_body(fault), fault.http_status, headers)


class Server(uvicorn.Server):
    """uvicorn that drains: readiness turns red at once, streams may finish, the rest get an error event."""

    def __init__(
        self,
        gate: Gate,
        announce: Callable[[str], None],
        peers: Peers | None = None,
        lifeline: socket.socket | None = None,
    ) -> None:
        app = build_app(gate, peers)
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(ClientConnection, reception_of(app, gate)),  # type: ignore[arg-type]  # uvicorn only calls it
                loop="uvloop",
                ws="none",
                lifespan="on",
                access_log=False,
                log_config=None,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=FORCED_STOP_S,
            )
        )
        self._gate = gate
        self._announce = announce
        self._peers = peers
        self._lifeline = lifeline
        self._is_end_of_all = False
        """Whether no other worker takes the socket: it is then kept, to answer 503."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_hurried = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            signal.signal(signal.SIGHUP, self.handle_reload)
            yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        gc.collect()
        gc.freeze()  # what stands now stands for good: a collection need not walk it again (25 µs a request)
        gc.set_threshold(COLLECT_AFTER)
        keep_freed_pages()
        for listening in sockets or []:
            self._announce(url_of(listening))
        if self._peers is not None:
            await self._peers.open()
        if self._lifeline is not None:
            self._loop.add_reader(self._lifeline, self._on_lifeline, self._loop, self._lifeline)

    def _on_lifeline(self, loop: asyncio.AbstractEventLoop, lifeline: socket.socket) -> None:
        """The supervisor stops all of its workers, or is gone without a word and nobody would ever end this process:
        the socket is then left at once, for the one that is started in its place."""
        loop.remove_reader(lifeline)
        self._is_end_of_all = bool(lifeline.recv(1, socket.MSG_PEEK))
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        bound_s = self._gate.config.server.drain_timeout_s
        if self._peers is not None and not self._is_end_of_all:
            await self._leave(self._peers)
        LOG.info("draining", extra={"fields": {"bound_s": bound_s, "under_way": self._gate.live.busy}})
        ended = await self._gate.live.drain(self._gate.clock, 0 if self._is_hurried else bound_s)
        LOG.info("drained", extra={"fields": {"streams_ended": ended}})
        if self._peers is not None:
            await self._peers.aclose()
        await super().shutdown(sockets=sockets)

    async def _leave(self, peers: Peers) -> None:
        """What comes now is for the other workers on this socket."""
        await peers.aclose()
        for server in self.servers:
            server.close()
        await asyncio.sleep(HANDOVER_S)

    def handle_reload(self, _: int, __: FrameType | None) -> None:
        """SIGHUP ends nothing. What it asks for is the supervisor's to do, where there is one."""
        if self._peers is None and self._loop is not None:
            self._loop.call_soon_threadsafe(_refuse_reload)

    def handle_exit(self, _: int, __: FrameType | None) -> None:
        """SIGTERM and the first SIGINT drain; a second one ends what still runs, with its error event; a
        third waits for nobody. None is raised again after the stop, so that a clean stop exits with 0."""
        self.force_exit = self._is_hurried
        self._is_hurried = self.should_exit
        if self._is_hurried and self._loop is not None:
            self._loop.call_soon_threadsafe(self._gate.live.hurry)
        self.should_exit = True


def _refuse_reload() -> None:
    LOG.warning("reload_needs_workers", extra={"fields": {"reason": RELOADS}})
