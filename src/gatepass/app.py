"""config ─► Gate ─► FastAPI app ─► a server: wiring only."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gatepass import __version__
from gatepass.admission.shares import ConnectionShares, TrustedProxies
from gatepass.allocator import keep_freed_pages
from gatepass.api.connection import ClientConnection
from gatepass.api.openai import Operations
from gatepass.api.ops import ops_routes, page_paths
from gatepass.api.pages import show
from gatepass.api.peers import Peers
from gatepass.api.reception import Evictable, Reception, Serve
from gatepass.api.refusal import Refusals
from gatepass.api.turn import Turn
from gatepass.config.load import check, load
from gatepass.config.model import Config
from gatepass.errors import GatepassError, InternalError, MethodNotAllowed, NotStarted
from gatepass.gate import Gate, build_gate
from gatepass.listening import Acceptor, AcceptWatch, Seats, descriptor_limit, has_free_descriptor, url_of
from gatepass.runtime import SystemClock
from gatepass.store.choice import open_store
from gatepass.surface.openai_error import error_body, error_headers
from gatepass.surface.operations import OPERATIONS, PREFIXES, openapi_paths

if TYPE_CHECKING:
    from fastapi import FastAPI

LOG = logging.getLogger("gatepass.serve")

KEEP_ALIVE_S = 75
HANDOVER_S = 0.1
"""How long a process that stops serves on at least: connections that the system had accepted before get no 503."""
LOOK_S = 0.02
"""How often a drain looks whether a connection is left on which a client may send a request."""
RELOADS = "a single process reads its configuration at the start only: restart it, or serve with several workers"
"""What a SIGHUP is answered with, where it would renew workers."""
FORCED_STOP_S = 3
"""After the drain: how long uvicorn waits for connections that are still closing."""

COLLECT_AFTER = 10_000
"""Containers more than at the last collection; 64 requests under way hold 6,000. Python's own 700 has each ebb and
flow of requests walked through, 2.6 % of all work, for cycles that they do not make."""

ENTER_LIFESPAN = "Enter its lifespan in the event loop that serves the requests."
"""What the application around gatepass does to start it."""

NO_TELEMETRY = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
"""FastAPI's own telemetry records exception texts and reads exporters from the environment by default."""


class Service:
    """What one application serves with, from the start of its lifespan to its end."""

    def __init__(self, opened: Callable[[], Gate]) -> None:
        self._opened = opened
        self._operations: Operations | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[int] | None = None

    @property
    def gate(self) -> Gate:
        return self._running().gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI endpoint of every API route. The operation table does the routing: 404, 405, CORS, profiles."""
        await self._running().serve_asgi(scope, receive, send)

    def _running(self) -> Operations:
        """Raises NotStarted."""
        if self._operations is None:
            raise NotStarted(f"gatepass was not started: its lifespan is not running. {ENTER_LIFESPAN}")
        if asyncio.get_running_loop() is not self._loop:
            raise NotStarted(f"gatepass was started in another event loop than this request's. {ENTER_LIFESPAN}")
        return self._operations

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        if self._operations is not None:
            raise RuntimeError("the lifespan of this gatepass application is running already")
        gate = self._opened()
        self._operations, self._loop = Operations(gate), asyncio.get_running_loop()
        try:
            gate.start()
            yield
            await self._drained(gate)
        finally:
            self._operations = self._draining = self._loop = None
            await gate.aclose()

    def drain(self) -> None:
        """See `gatepass.drain`."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        if self._operations is None:
            return
        gate = self._operations.gate
        if self._draining is not None:
            gate.live.hurry()
        elif not gate.live.draining:
            self._draining = gate.live.tasks.spawn(_drain(gate), "drain")

    async def _drained(self, gate: Gate) -> None:
        """End what is still under way: a server ends the lifespan when it waits for no request any more."""
        if self._draining is not None:
            await asyncio.wait((self._draining,))
        elif gate.live.busy:
            await gate.live.drain(gate.clock, 0)


class OperationRoute(Route):
    """Shows an API path in `app.routes`. It passes on every method: the operation table answers 405."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def create_app(config: Config) -> FastAPI:
    """The complete gateway as an ASGI application, for any server, a mount, or the TestClient.

    Its lifespan opens the configuration, starts to fetch tokens, and closes everything at the end: a parent application
    must enter it. `drain` is for the parent's signal handler. gatepass changes nothing of the process: no signals, log
    handlers, garbage collector or event loop policy.

    Raises: ConfigError if the configuration cannot be used. At the start of the lifespan OSError if a certificate
    cannot be loaded, and UnresolvedReference if a secret has gone since the configuration was loaded.
    """
    check(config)

    def opened() -> Gate:
        clock = SystemClock()
        return build_gate(config, clock, open_store(config.store, None, clock))

    return _app(opened, config.server.base_path)


def load_config(path: str | os.PathLike[str]) -> Config:
    """The configuration in the YAML file `path`, with the references in it resolved from the environment.

    Warnings go to the logger `gatepass.config`. Raises `gatepass.config.document.ConfigError`, which
    lists every problem.
    """
    loaded = load(os.fspath(path), os.environ)
    for warning in loaded.warnings:
        logging.getLogger("gatepass.config").warning(warning)
    return loaded.config


def drain(app: FastAPI) -> None:
    """Begin to stop an application of `create_app`: safe in a signal handler and in any thread.

    /readyz turns 503. After `server.drain_delay_s` new requests get 503 `draining`. Running streams may go on for
    `server.drain_timeout_s` more, and then end with an error event. A second call ends them at once. Without effect
    while the lifespan does not run.
    """
    service: Service = app.state.gatepass
    service.drain()


def build_app(gate: Gate) -> FastAPI:
    """The application of one Gate that is open already."""
    return _app(lambda: gate, gate.config.server.base_path)


def _app(opened: Callable[[], Gate], base_path: str) -> FastAPI:
    from fastapi import FastAPI  # takes 0.1 s and 6 MB, and `gatepass serve` needs none of it

    service = Service(opened)
    app = FastAPI(
        title="gatepass",
        version=__version__,
        lifespan=service.lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        telemetry=NO_TELEMETRY,  # type: ignore[arg-type]  # a TypedDict with total=False
        exception_handlers=_ERRORS,
    )
    app.state.gatepass = service
    app.router.routes.extend(ops_routes(lambda: service.gate, base_path))
    app.router.routes.extend(_operation_routes(service, base_path))
    not_http = app.router.default

    async def otherwise(scope: Scope, receive: Receive, send: Send) -> None:
        await (service if scope["type"] == "http" else not_http)(scope, receive, send)

    app.router.default = otherwise
    app.openapi = lambda: _openapi(app, base_path)  # type: ignore[method-assign]  # FastAPI's own way to extend the schema
    return app


def _pages(gate: Gate, peers: Peers | None) -> Starlette:
    """What `gatepass serve` hands to uvicorn: the lifespan and the pages. ClientConnection serves every other path."""
    service = Service(lambda: gate)
    routes = ops_routes(lambda: service.gate, gate.config.server.base_path, peers)
    return Starlette(routes=routes, lifespan=service.lifespan, exception_handlers=_ERRORS)


def _operation_routes(service: Service, base_path: str) -> list[OperationRoute]:
    methods: dict[str, list[str]] = {}
    for operation in OPERATIONS:
        methods.setdefault(base_path + PREFIXES[0] + operation.path, []).append(operation.method)
    return [OperationRoute(path, service, methods=methods[path], name=path) for path in methods]


def served_by(app: ASGIApp, gate: Gate) -> Serve:
    """Pages by `app`, everything else by the pipeline."""
    operations, pages = Operations(gate), page_paths(gate.config.server.base_path)
    limit_bytes = gate.config.limits.body_bytes

    def serve(turn: Turn) -> Awaitable[None]:
        return show(app, turn, limit_bytes) if turn.path in pages else operations.serve(turn)

    return serve


def reception_of(app: ASGIApp, gate: Gate) -> Reception:
    """What the server's connections share."""
    config, refused = gate.config, Refusals(gate.metrics.refused).note
    shares: ConnectionShares[Evictable] = ConnectionShares(
        config.limits.connections, config.limits.unauthenticated, config.access.callers
    )
    proxies = TrustedProxies(config.server.trusted_proxies)
    return Reception(served_by(app, gate), refused, config.limits, KEEP_ALIVE_S, proxies, shares, gate.live)


async def _drain(gate: Gate) -> int:
    """Serve on for the delay, then let end what runs. Return how many streams had to be ended."""
    server = gate.config.server
    _log_unready(gate)
    await gate.live.delay(gate.clock, server.drain_delay_s)
    _log_draining(gate)
    return await gate.live.drain(gate.clock, server.drain_timeout_s)


def _log_unready(gate: Gate) -> None:
    if delay_s := gate.config.server.drain_delay_s:
        LOG.info("unready", extra={"fields": {"delay_s": delay_s, "under_way": gate.live.busy}})


def _log_draining(gate: Gate) -> None:
    LOG.info("draining", extra={"fields": {"bound_s": gate.config.server.drain_timeout_s, "under_way": gate.live.busy}})


def _openapi(app: FastAPI, base_path: str) -> dict[str, Any]:
    """Raw routes are absent from FastAPI's schema, so the operation table adds them."""
    paths = openapi_paths(base_path)
    return {"openapi": "3.1.0", "info": {"title": app.title, "version": app.version}, "paths": paths}


def _response(error: GatepassError) -> Response:
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return Response(error_body(error), error.http_status, headers)


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, GatepassError)  # noqa: S101 - Starlette's handlers take any Exception
    return _response(error)


async def _internal_error(_: Request, __: Exception) -> Response:
    """The last resort for a fault of our own; the server logs its trace, the client learns no detail."""
    return _response(InternalError("gatepass failed at this request. Its log tells more."))


async def _wrong_method(request: Request, error: Exception) -> Response:
    """The router raises no other: a page is asked for by its path, so it is the method that does not fit."""
    named = (error.headers or {}).get("Allow", "GET") if isinstance(error, HTTPException) else "GET"
    allowed = ", ".join(sorted(named.split(", ")))
    return _response(
        MethodNotAllowed(f"{request.method} is not possible at {request.url.path}; use GET.", allow=allowed)
    )


_ERRORS: dict[int | type[Exception], Callable[[Request, Exception], Coroutine[Any, Any, Response]]] = {
    HTTPException: _wrong_method,
    GatepassError: _told,
    Exception: _internal_error,
}


@dataclass(frozen=True, slots=True)
class Team:
    """What makes a server one of several workers. `lifeline` tells it that all stop, or that the supervisor is gone."""

    peers: Peers
    lifeline: socket.socket
    seats: Seats


class Server(uvicorn.Server):
    """uvicorn that drains: readiness turns red at once, streams may finish, the rest get an error event."""

    def __init__(
        self,
        gate: Gate,
        announce: Callable[[str], None],
        team: Team | None = None,
    ) -> None:
        app = _pages(gate, team.peers if team is not None else None)
        reception = reception_of(app, gate)
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(ClientConnection, reception),  # type: ignore[arg-type]  # uvicorn only calls it
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
        self._reception = reception
        self._accept_watch = AcceptWatch()
        self._announce = announce
        self._team = team
        self._acceptors: list[Acceptor] = []
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
        team = self._team
        await super().startup(sockets=sockets if team is None else [])
        gc.enable()  # `gatepass serve` starts without it
        gc.freeze()  # what stands now stands for good: a collection need not walk it again (25 µs a request)
        gc.set_threshold(COLLECT_AFTER)
        keep_freed_pages()
        for listening in sockets or []:
            self._announce(url_of(listening))
        if team is not None:
            self._acceptors = [self._acceptor(team, listening) for listening in sockets or []]
            await team.peers.open()
            self._loop.add_reader(team.lifeline, self._on_lifeline, self._loop, team.lifeline)

    def _acceptor(self, team: Team, listening: socket.socket) -> Acceptor:
        def make() -> asyncio.Protocol:
            state, config = self.server_state, self.config
            return ClientConnection(self._reception, config=config, server_state=state, app_state=self.lifespan.state)

        return Acceptor(listening, make, lambda: len(self.server_state.connections), team.seats)

    async def on_tick(self, counter: int) -> bool:
        now_s = asyncio.get_running_loop().time()
        for acceptor in self._acceptors:
            acceptor.publish()
        if self._accept_watch.is_due(now_s) and not has_free_descriptor():
            for connection in self._reception.shares.relieve(now_s):
                connection.evict()
            if (count := self._accept_watch.failed(now_s)) is not None:
                limit, needed = descriptor_limit(), self._gate.config.descriptors
                LOG.warning("accept_failing", extra={"fields": {"count": count, "limit": limit, "needed": needed}})
        return await super().on_tick(counter)

    def _on_lifeline(self, loop: asyncio.AbstractEventLoop, lifeline: socket.socket) -> None:
        """The supervisor stops all of its workers, or is gone without a word and nobody would ever end this process:
        the socket is then left at once, for the one that is started in its place."""
        loop.remove_reader(lifeline)
        self._is_end_of_all = bool(lifeline.recv(1, socket.MSG_PEEK))
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Turn unready, serve on for the delay, then close each connection behind its answer or when it is idle."""
        gate, connections = self._gate, cast(set[ClientConnection], self.server_state.connections)
        live, team, server = gate.live, self._team, gate.config.server
        delay_s = max(server.drain_delay_s, min(HANDOVER_S, server.drain_timeout_s))
        live.draining = True
        for connection in connections:
            connection.retire()
        if team is not None and not self._is_end_of_all:
            delay_s = 0  # what comes now is for the other workers on this socket
            await asyncio.gather(team.peers.aclose(), *(acceptor.close() for acceptor in self._acceptors))
        else:
            _log_unready(gate)
        await live.delay(SystemClock(), delay_s)
        _log_draining(gate)
        for connection in connections:
            connection.leave()
        ended = await self._drained(connections)
        LOG.info("drained", extra={"fields": {"streams_ended": ended}})
        if team is not None:
            await asyncio.gather(team.peers.aclose(), *(acceptor.close() for acceptor in self._acceptors))
        await super().shutdown(sockets=sockets)

    async def _drained(self, connections: Collection[ClientConnection]) -> int:
        """Wait until nothing is under way and no client can send more. Return how many streams had to be ended."""
        live, clock, now = self._gate.live, self._gate.clock, asyncio.get_running_loop().time
        bound_s = self._gate.config.server.drain_timeout_s
        until_s = now() + bound_s
        ended = await live.drain(clock, bound_s)
        while now() < until_s and not live.is_hurried and any(each.may_ask for each in connections):
            await asyncio.sleep(LOOK_S)
            ended += await live.drain(clock, until_s - now())
        return ended

    def handle_reload(self, _: int, __: FrameType | None) -> None:
        """SIGHUP ends nothing. What it asks for is the supervisor's to do, where there is one."""
        if self._team is None and self._loop is not None:
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
