"""config ─► Gate ─► FastAPI app ─► a server: wiring only."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gatepass import __version__
from gatepass.clock import SystemClock
from gatepass.config.load import check, load
from gatepass.config.model import Config
from gatepass.errors import GatepassError, InternalError, MethodNotAllowed, NotStarted
from gatepass.operations.error_objects import error_body, error_headers
from gatepass.operations.table import OPERATIONS, PREFIXES, openapi_paths
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.server.asgi import ApiEndpoint
from gatepass.server.pages import ops_routes
from gatepass.store.choice import open_store

if TYPE_CHECKING:
    from fastapi import FastAPI

LOG = logging.getLogger("gatepass.serve")


ENTER_LIFESPAN = "Enter its lifespan in the event loop that serves the requests."
"""What the application around gatepass does to start it."""

NO_TELEMETRY = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
"""FastAPI's own telemetry records exception texts and reads exporters from the environment by default."""


class Service:
    """What one application serves with, from the start of its lifespan to its end."""

    def __init__(self, opened: Callable[[], AppState]) -> None:
        self._opened = opened
        self._operations: ApiEndpoint | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[int] | None = None

    @property
    def state(self) -> AppState:
        return self._running().state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI endpoint of every API route. The operation table does the routing: 404, 405, CORS, profiles."""
        await self._running().serve_asgi(scope, receive, send)

    def _running(self) -> ApiEndpoint:
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
        self._operations, self._loop = ApiEndpoint(gate), asyncio.get_running_loop()
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
        gate = self._operations.state
        if self._draining is not None:
            gate.in_flight.end_now()
        elif not gate.in_flight.draining:
            self._draining = gate.in_flight.tasks.spawn(_drain(gate), "drain")

    async def _drained(self, gate: AppState) -> None:
        """End what is still under way: a server ends the lifespan when it waits for no request any more."""
        if self._draining is not None:
            await asyncio.wait((self._draining,))
        elif gate.in_flight.busy:
            await gate.in_flight.drain(gate.clock, 0)


class ApiRoute(Route):
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

    def opened() -> AppState:
        clock = SystemClock()
        return create_app_state(config, clock, open_store(config.store, None, clock))

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


def build_app(gate: AppState) -> FastAPI:
    """The application of one Gate that is open already."""
    return _app(lambda: gate, gate.config.server.base_path)


def _app(opened: Callable[[], AppState], base_path: str) -> FastAPI:
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
        exception_handlers=ERRORS,
    )
    app.state.gatepass = service
    app.router.routes.extend(ops_routes(lambda: service.state, base_path))
    app.router.routes.extend(_operation_routes(service, base_path))
    not_http = app.router.default

    async def otherwise(scope: Scope, receive: Receive, send: Send) -> None:
        await (service if scope["type"] == "http" else not_http)(scope, receive, send)

    app.router.default = otherwise
    app.openapi = lambda: _openapi(app, base_path)  # type: ignore[method-assign]  # FastAPI's own way to extend the schema
    return app


def _operation_routes(service: Service, base_path: str) -> list[ApiRoute]:
    methods: dict[str, list[str]] = {}
    for operation in OPERATIONS:
        methods.setdefault(base_path + PREFIXES[0] + operation.path, []).append(operation.method)
    return [ApiRoute(path, service, methods=methods[path], name=path) for path in methods]


async def _drain(gate: AppState) -> int:
    """Serve on for the delay, then let end what runs. Return how many streams had to be ended."""
    server = gate.config.server
    log_unready(gate)
    await gate.in_flight.delay(gate.clock, server.drain_delay_s)
    log_draining(gate)
    return await gate.in_flight.drain(gate.clock, server.drain_timeout_s)


def log_unready(gate: AppState) -> None:
    if delay_s := gate.config.server.drain_delay_s:
        LOG.info("unready", extra={"fields": {"delay_s": delay_s, "in_flight": gate.in_flight.busy}})


def log_draining(gate: AppState) -> None:
    LOG.info(
        "draining", extra={"fields": {"bound_s": gate.config.server.drain_timeout_s, "in_flight": gate.in_flight.busy}}
    )


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


ERRORS: dict[int | type[Exception], Callable[[Request, Exception], Coroutine[Any, Any, Response]]] = {
    HTTPException: _wrong_method,
    GatepassError: _told,
    Exception: _internal_error,
}
