"""The FastAPI application: `create_app` builds it from a configuration, `drain` begins to stop it."""

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
from starlette.types import Receive, Scope, Send

from gatepass import __version__
from gatepass.clock import SystemClock
from gatepass.config.load import check, load
from gatepass.config.model import Config
from gatepass.errors import GatepassError, InternalError, MethodNotAllowed, NotStarted
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.server.admin import Admin
from gatepass.server.asgi import serve_request
from gatepass.server.cycle import RequestIds
from gatepass.server.endpoint import ApiEndpoint
from gatepass.server.pages import error_response, for_method, page_routes
from gatepass.server.ui.routes import Ui
from gatepass.store.guarded import open_store

if TYPE_CHECKING:
    from fastapi import FastAPI

LOG = logging.getLogger("gatepass.serve")

ENTER_LIFESPAN = "Enter its lifespan in the event loop that serves the requests."

NO_TELEMETRY = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}
"""By default FastAPI's own telemetry records exception texts and reads exporters from the environment."""


class Service:
    """The ApiEndpoint of one application and its AppState, while its lifespan runs, and the routes of its pages."""

    def __init__(self, make_endpoint: Callable[[], ApiEndpoint], config: Config) -> None:
        self._make_endpoint = make_endpoint
        self._ids = RequestIds()
        self.base_path = config.server.base_path
        self.routes = page_routes(self.running, self.base_path)
        self.admin = Admin(self.running)
        self.ui = Ui(self.admin) if config.serves_ui else None
        if self.ui is not None:
            self.routes += self.ui.routes(self.base_path)
        self._endpoint: ApiEndpoint | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[int] | None = None

    @property
    def state(self) -> AppState:
        return self.running().state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve any API request. The operation table does the routing: 404, 405, CORS, profiles."""
        await serve_request(self.running(), self._ids, scope, receive, send)

    def running(self) -> ApiEndpoint:
        if self._endpoint is None:
            raise NotStarted(f"gatepass was not started: its lifespan is not running. {ENTER_LIFESPAN}")
        if asyncio.get_running_loop() is not self.loop:
            raise NotStarted(f"gatepass was started in another event loop than this request's. {ENTER_LIFESPAN}")
        return self._endpoint

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        if self._endpoint is not None:
            raise RuntimeError("the lifespan of this gatepass application is already running")
        endpoint = self._make_endpoint()
        state = endpoint.state
        self._endpoint, self.loop = endpoint, asyncio.get_running_loop()
        try:
            state.start()
            state.in_flight.tasks.spawn(endpoint.read_lists(), "lists of models")
            state.in_flight.tasks.spawn(state.traffic.run(state.clock), "traffic")
            state.in_flight.tasks.spawn(state.metrics.sample_loop_lag(), "loop lag")
            yield
            # a server ends the lifespan when it no longer waits for requests: end those that are still in progress
            if self._draining is not None:
                await asyncio.wait((self._draining,))
            elif state.in_flight.busy:
                await state.in_flight.drain(state.clock, 0)
        finally:
            self._endpoint = self._draining = self.loop = None
            await endpoint.state.aclose()  # a reload may have replaced the first one

    def begin_drain(self) -> None:
        """Begin to stop, or end all streams at the second call. Called in the event loop of `loop`."""
        if self._endpoint is None:
            return
        state = self._endpoint.state
        if self._draining is not None:
            state.in_flight.end_now.set()
        elif not state.in_flight.draining:
            self._draining = state.in_flight.tasks.spawn(_drain(state), "drain")


def create_app(config: Config) -> FastAPI:
    """Return the complete gateway as an ASGI application, for any server, a mount, or the TestClient.

    A parent application must enter its lifespan, which starts to fetch tokens and closes everything at the end. `drain`
    is for the parent's signal handler. gatepass does not change the process: no signals, log handlers, garbage
    collector or event loop policy.

    Raises:
        ConfigError: the configuration is invalid.
        OSError: at the start of the lifespan, if a certificate cannot be loaded.
        UnresolvedReference: at the start of the lifespan, if a secret was removed after the configuration was loaded.
    """
    check(config)

    def make_endpoint() -> ApiEndpoint:
        clock = SystemClock()
        return ApiEndpoint(create_app_state(config, clock, open_store(config.store, clock)))

    return build_app(make_endpoint, config)


def load_config(path: str | os.PathLike[str]) -> Config:
    """Load the YAML file `path`, and resolve its references from the environment; raise ConfigError with every problem.

    Logs warnings to the logger `gatepass.config`.
    """
    loaded = load(os.fspath(path), os.environ)
    for warning in loaded.warnings:
        logging.getLogger("gatepass.config").warning(warning)
    return loaded.config


def drain(app: FastAPI) -> None:
    """Begin to stop an application of `create_app`. Safe in a signal handler and in any thread.

    /readyz returns 503 at once. After `server.drain_delay_s` new requests receive 503 `draining`. Streams in progress
    may continue for `server.drain_timeout_s` more, and then end with an error event. A second call ends them at once.
    Does nothing if the lifespan is not running.
    """
    service: Service = app.state.gatepass
    if service.loop is not None:
        service.loop.call_soon_threadsafe(service.begin_drain)


def build_app(make_endpoint: Callable[[], ApiEndpoint], config: Config) -> FastAPI:
    from fastapi import FastAPI  # takes 0.1 s and 6 MB; `gatepass serve` does not need it

    service = Service(make_endpoint, config)
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
    app.router.routes.extend(service.routes)
    not_http = app.router.default

    async def serve_unrouted(scope: Scope, receive: Receive, send: Send) -> None:
        await (service if scope["type"] == "http" else not_http)(scope, receive, send)

    app.router.default = serve_unrouted
    return app


async def _drain(state: AppState) -> int:
    """Serve on for the delay, then wait for requests in progress. Return the number of streams that were ended."""
    server = state.config.server
    log_unready(state)
    await state.in_flight.begin_drain(state.clock, server.drain_delay_s)
    log_draining(state)
    return await state.in_flight.drain(state.clock, server.drain_timeout_s)


def log_unready(state: AppState) -> None:
    if delay_s := state.config.server.drain_delay_s:
        LOG.info("unready", extra={"fields": {"delay_s": delay_s, "in_flight": state.in_flight.busy}})


def log_draining(state: AppState) -> None:
    LOG.info(
        "draining",
        extra={"fields": {"bound_s": state.config.server.drain_timeout_s, "in_flight": state.in_flight.busy}},
    )


async def respond_to_error(request: Request, error: Exception) -> Response:
    """Respond to an internal error without details. The server logs the traceback."""
    if isinstance(error, GatepassError):
        shown = error
    elif isinstance(error, HTTPException):
        # the only HTTPException of the router: the path of a page matched, its method did not
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "GET").split(", ")))
        shown = MethodNotAllowed(f"{request.method} is not possible at {request.url.path}; use GET.", allow=allowed)
    else:
        shown = InternalError("Internal error while handling the request. Search the server's log for the traceback.")
    return for_method(request.method, error_response(shown))


ERRORS: dict[int | type[Exception], Callable[[Request, Exception], Coroutine[Any, Any, Response]]] = dict.fromkeys(
    (HTTPException, GatepassError, Exception), respond_to_error
)
