"""The pages for operators: alive, ready, metrics, status, learned rules."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from gatepass.config.access import AccessKey
from gatepass.errors import GatepassError
from gatepass.observability.metrics import CONTENT_TYPE
from gatepass.operations.error_objects import error_body, error_headers
from gatepass.proxy.app_state import Gate
from gatepass.server.asgi import peer_in
from gatepass.server.learned import lessons_of, merged, pinned, shown, visible
from gatepass.server.peers import Peers
from gatepass.server.status import status_of
from gatepass.types import Inbound

UNREADY = 503
NO_STORE = (b"cache-control", b"no-store")


PATHS = ("/healthz", "/readyz", "/metrics", "/status", "/learned")


class PageRoute(Route):
    """A page, which no cache keeps. Drops the body of a reply to HEAD, which granian sends over HTTP/2."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_page(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [field for field in message["headers"] if field[0] != b"cache-control"]
                message = {**message, "headers": [*others, NO_STORE]}
            elif scope["method"] == "HEAD" and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await super().handle(scope, receive, send_page)


def page_paths(base_path: str) -> frozenset[str]:
    """Where the pages are: at the root, and below `base_path`."""
    return frozenset(prefix + path for prefix in ("", base_path) for path in PATHS)


def ops_routes(current: Callable[[], Gate], base_path: str, peers: Peers | None = None) -> list[PageRoute]:
    """The routes of the pages, which tell of all `peers`. `current` returns the Gate, or raises NotStarted."""

    async def healthz(request: Request) -> Response:
        _check_page(request, current())
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        """Says only ready or not: who asks need not be known, so nothing is told of the reason."""
        gate = current()
        _check_page(request, gate)
        ready = gate.ready
        return JSONResponse({"ready": ready}, status_code=200 if ready else UNREADY)

    async def metrics(request: Request) -> Response:
        gate = current()
        _check_page(request, gate)
        if not gate.config.access.metrics_open and (refused := _refused(request, gate)):
            return refused
        shown = gate.metrics.exposition() if peers is None else await peers.exposition()
        return Response(shown, media_type=CONTENT_TYPE)

    async def status(request: Request) -> Response:
        """Wants a key wherever there are any: it quotes what issuers say."""
        gate = current()
        if refused := _refused(request, gate):
            return refused
        return JSONResponse(status_of(gate) if peers is None else {"workers": await peers.statuses()})

    async def learned(request: Request) -> Response:
        """Wants a key as well, and shows the models that it may use: it quotes what upstreams say. `?as=config` is the
        YAML that pins it."""
        gate = current()
        caller = _admitted(request, gate)
        if isinstance(caller, Response):
            return caller
        known = merged([lessons_of(gate)] if peers is None else await peers.learned())
        rows = visible(known, caller, gate.routes, gate.config)
        if request.query_params.get("as") == "config":
            return Response(pinned(rows, gate.config, caller), media_type="application/yaml")
        return JSONResponse({"lessons": shown(rows, gate.clock.wall())})

    endpoints = dict(zip(PATHS, (healthz, readyz, metrics, status, learned), strict=True))
    prefixes = dict.fromkeys(("", base_path))
    return [
        PageRoute(prefix + path, endpoint, methods=["GET"])
        for prefix in prefixes
        for path, endpoint in endpoints.items()
    ]


def _refused(request: Request, gate: Gate) -> Response | None:
    """The answer to somebody without a known key; None lets them in."""
    caller = _admitted(request, gate)
    return caller if isinstance(caller, Response) else None


def _admitted(request: Request, gate: Gate) -> AccessKey | Response:
    """Who asks, or the answer to somebody without a known key."""
    try:
        return gate.doors.admit(_inbound(request, gate))
    except GatepassError as error:
        shown = {name.decode(): value.decode() for name, value in error_headers(error)}
        return Response(error_body(error), error.http_status, shown)


def _check_page(request: Request, gate: Gate) -> None:
    """Raises ForbiddenHost and ForbiddenOrigin for a page of a foreign name or origin, where there are no keys."""
    gate.doors.check_page(_inbound(request, gate), from_anywhere=True)


def _inbound(request: Request, gate: Gate) -> Inbound:
    peer = peer_in(request.scope, only_direct=not gate.doors.wants_key)
    return Inbound("", "GET", request.url.path, tuple(request.headers.raw), peer, gate.clock.now())
