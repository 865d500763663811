"""The pages for operators: alive, ready, metrics, status, learned rules.

What /status tells: each credential as it stands now.

What /learned tells: what the upstreams' rejections have taught, with the evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from gatepass.auth.model_access import may_use
from gatepass.config.access import AccessKey
from gatepass.config.model import Config
from gatepass.errors import GatepassError, ModelNotFound
from gatepass.learning.export import as_config
from gatepass.learning.learned_rule import LearnedRuleRecord
from gatepass.observability.metrics import CONTENT_TYPE
from gatepass.operations.error_objects import error_body, error_headers
from gatepass.proxy.app_state import AppState
from gatepass.proxy.routing import RouteTable
from gatepass.server.asgi import peer_in
from gatepass.server.peers import Peers
from gatepass.tokens import Status
from gatepass.types import ClientRequest

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


def ops_routes(current: Callable[[], AppState], base_path: str, peers: Peers | None = None) -> list[PageRoute]:
    """The routes of the pages, which tell of all `peers`. `current` returns the Gate, or raises NotStarted."""

    async def healthz(request: Request) -> Response:
        _check_page(request, current())
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        """Says only ready or not: who asks need not be known, so nothing is told of the reason."""
        state = current()
        _check_page(request, state)
        ready = state.ready
        return JSONResponse({"ready": ready}, status_code=200 if ready else UNREADY)

    async def metrics(request: Request) -> Response:
        state = current()
        _check_page(request, state)
        if not state.config.access.metrics_open and (refused := _refused(request, state)):
            return refused
        shown = state.metrics.exposition() if peers is None else await peers.exposition()
        return Response(shown, media_type=CONTENT_TYPE)

    async def status(request: Request) -> Response:
        """Wants a key wherever there are any: it quotes what issuers say."""
        state = current()
        if refused := _refused(request, state):
            return refused
        return JSONResponse(status_of(state) if peers is None else {"workers": await peers.statuses()})

    async def learned(request: Request) -> Response:
        """Wants a key as well, and shows the models that it may use: it quotes what upstreams say. `?as=config` is the
        YAML that pins it."""
        state = current()
        caller = _admitted(request, state)
        if isinstance(caller, Response):
            return caller
        known = merged([lessons_of(state)] if peers is None else await peers.learned())
        rows = visible(known, caller, state.routes, state.config)
        if request.query_params.get("as") == "config":
            return Response(pinned(rows, state.config, caller), media_type="application/yaml")
        return JSONResponse({"rules": shown(rows, state.clock.wall())})

    endpoints = dict(zip(PATHS, (healthz, readyz, metrics, status, learned), strict=True))
    prefixes = dict.fromkeys(("", base_path))
    return [
        PageRoute(prefix + path, endpoint, methods=["GET"])
        for prefix in prefixes
        for path, endpoint in endpoints.items()
    ]


def _refused(request: Request, state: AppState) -> Response | None:
    """The answer to somebody without a known key; None lets them in."""
    caller = _admitted(request, state)
    return caller if isinstance(caller, Response) else None


def _admitted(request: Request, state: AppState) -> AccessKey | Response:
    """Who asks, or the answer to somebody without a known key."""
    try:
        return state.authenticator.authenticate(_inbound(request, state))
    except GatepassError as error:
        shown = {name.decode(): value.decode() for name, value in error_headers(error)}
        return Response(error_body(error), error.http_status, shown)


def _check_page(request: Request, state: AppState) -> None:
    """Raises ForbiddenHost and ForbiddenOrigin for a page of a foreign name or origin, where there are no keys."""
    state.authenticator.check_page(_inbound(request, state), from_anywhere=True)


def _inbound(request: Request, state: AppState) -> ClientRequest:
    peer = peer_in(request.scope, only_direct=not state.authenticator.wants_key)
    return ClientRequest("", "GET", request.url.path, tuple(request.headers.raw), peer, state.clock.now())


def status_of(state: AppState) -> dict[str, Any]:
    """The state of one process, as plain JSON. Times are seconds; no token, key or secret is in it."""
    credentials = {name: _credential(state, name, holder.status()) for name, holder in state.holders.items()}
    in_flight = state.in_flight
    return {
        "ready": state.ready,
        "draining": in_flight.draining,
        "in_flight": in_flight.busy,
        "credentials": credentials,
    }


def _credential(state: AppState, name: str, status: Status) -> dict[str, Any]:
    told = {field: _plain(value) for field, value in asdict(status).items() if field != "credential"}
    users = [hop.name for hop in state.upstreams.values() if hop.settings.credential == name]
    return {"type": state.config.credentials[name].type, "upstreams": users, **told}


def _plain(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


Row = dict[str, Any]

_SUBJECT = ("upstream", "model", "operation", "credential", "adapted", "state")
"""What tells two rows apart."""


def lessons_of(state: AppState) -> list[Row]:
    """The rows of one process, plain JSON (`LearnedRuleRecord.as_row`); moments are seconds since the epoch."""
    return [one.as_row() for one in state.learner.memory.learned(state.clock.now(), state.clock.wall())]


def merged(pages: Iterable[Sequence[Row]]) -> list[Row]:
    """The rows of several processes as one list: uses added up, from the first learning to the last end."""
    found: dict[tuple[str, ...], Row] = {}
    for row in (row for page in pages for row in page):
        key = tuple(row[name] for name in _SUBJECT)
        found[key] = _together(found[key], row) if key in found else row
    return [found[key] for key in sorted(found)]


def visible(rows: Iterable[Row], caller: AccessKey, routes: RouteTable, config: Config) -> list[Row]:
    """The rows of models that `caller` may use, by any name that leads there."""
    if caller.models is None:
        return list(rows)
    names = [*caller.models, *config.models]
    return [row for row in rows if any(_leads_to(row, name, caller, routes) for name in (row["model"], *names))]


def _leads_to(row: Row, name: str, caller: AccessKey, routes: RouteTable) -> bool:
    """A glob stands for the names that it matches: each of them goes where the glob itself does."""
    if not may_use(caller, name):
        return False
    try:
        targets = routes.resolve(row["operation"], name)
    except ModelNotFound:
        return False
    return (row["upstream"], row["model"]) in {(target.upstream, target.model or name) for target in targets}


def _together(one: Row, other: Row) -> Row:
    later = max(one, other, key=lambda row: float(row["expires_at"]))
    learned_at = min(one["learned_at"], other["learned_at"])
    return {**later, "learned_at": learned_at, "uses": one["uses"] + other["uses"]}


def shown(rows: Iterable[Row], wall_s: float) -> list[Row]:
    """Return `rows` with ages instead of moments, for people and programs."""
    return [
        {
            **{name: row[name] for name in _SUBJECT},
            "evidence": row["evidence"],
            "age_s": max(0, round(wall_s - row["learned_at"])),
            "expires_in_s": max(0, round(row["expires_at"] - wall_s)),
            "uses": row["uses"],
        }
        for row in rows
    ]


def pinned(rows: Iterable[Row], config: Config, caller: AccessKey) -> str:
    """Return YAML that makes the learned rules permanent, for the names that `caller` may use."""
    learned = (LearnedRuleRecord.of_row(row) for row in rows if row["state"] == "learned")
    return as_config(learned, config, lambda name: may_use(caller, name))
