"""The pages for operators: /, /healthz, /readyz, /metrics, /status (credentials) and /learned (learned rules).

With several workers, each collects the pages of the others over Unix sockets in the supervisor's folder (`Peers`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from gatepass import __version__
from gatepass.auth.authenticator import LOCAL
from gatepass.auth.model_access import may_use
from gatepass.config.access import AccessKey
from gatepass.config.model import Config
from gatepass.errors import ModelNotFound, system_reason
from gatepass.learning.export import as_config
from gatepass.learning.learned_rule import LearnedRuleRecord
from gatepass.observability.metrics import CONTENT_TYPE, merge_expositions
from gatepass.operations.table import base_url
from gatepass.protocols.error_objects import NO_STORE
from gatepass.proxy.app_state import AppState
from gatepass.proxy.routing import RouteTable
from gatepass.server.asgi import path_in, peer_in
from gatepass.types import ClientRequest

LOG = logging.getLogger("gatepass.peers")

UNREADY = 503


Row = dict[str, Any]

OPERATOR = "gatepass.operator"
"""Set in the ASGI scope of a request on the control socket, which needs no key. No client can set it."""

PATHS = ("/healthz", "/readyz", "/metrics", "/status", "/learned")
HOME = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>gatepass</title>
<h1>gatepass {version} is running</h1>
<p>It serves the OpenAI API. The base URL for clients is <code>{base_url}</code>.</p>
<p>The documentation is in the gatepass repository:</p>
<ul>
<li><code>docs/clients</code>: connect a client</li>
<li><code>docs/operations</code>: find a fault, log and metrics</li>
<li><code>docs/reference/errors.md</code>: the codes of errors</li>
</ul>
</html>
"""
HOME_HEADERS = {
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class PageRoute(Route):
    """The route of one page. Its responses must not be cached."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_page(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [field for field in message["headers"] if field[0] != b"cache-control"]
                message = {**message, "headers": [*others, NO_STORE]}
            # granian sends the body of a response to HEAD over HTTP/2
            elif scope["method"] == "HEAD" and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await super().handle(scope, receive, send_page)


class HomeRoute(PageRoute):
    """The route of `/` for browsers. The operation table serves every other request of that path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or not is_browser(scope["method"], scope["headers"]):
            return Match.NONE, {}
        return super().matches(scope)


def page_paths(base_path: str) -> frozenset[str]:
    """Return the paths of the pages: at the root, and below `base_path`."""
    return frozenset(prefix + path for prefix in ("", base_path) for path in PATHS)


def home_paths(base_path: str) -> frozenset[str]:
    """Return the paths at which a browser receives the home page."""
    return frozenset((*("/", f"{base_path}/"), *([base_path] if base_path else [])))


def is_browser(method: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a browser's address bar or link may have sent the request: it accepts HTML."""
    # clients of the API send `*/*` or JSON types
    return method in ("GET", "HEAD") and any(name == b"accept" and b"text/html" in value for name, value in headers)


def ops_routes(current: Callable[[], AppState], base_path: str, peers: Peers | None = None) -> list[PageRoute]:
    """Return the routes of the pages, which cover all workers if there are `peers`. `current` may raise NotStarted."""

    async def healthz(request: Request) -> Response:
        _check_page(request, current())
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        """Return ready or not, without the reason: this page requires no key. `?strict` requires that every token is
        usable and that no upstream rejects its token."""
        state = current()
        _check_page(request, state)
        ready = state.has_all_tokens if "strict" in request.query_params else state.ready
        return JSONResponse({"ready": ready}, status_code=200 if ready else UNREADY)

    async def metrics(request: Request) -> Response:
        state = current()
        _check_page(request, state)
        if not state.config.access.metrics_open:
            _reader(request, state)
        shown = await state.metrics.scrape() if peers is None else await peers.exposition()
        return Response(shown, media_type=CONTENT_TYPE)

    async def status(request: Request) -> Response:
        """Return the status. Requires a viewer or admin if there are keys: it quotes errors of token endpoints."""
        state = current()
        _reader(request, state)
        return JSONResponse(status_of(state) if peers is None else {"workers": await peers.statuses()})

    async def learned(request: Request) -> Response:
        """Return the learned rules of the caller's models, with `?as=config` as YAML. Requires a viewer or admin."""
        state = current()
        caller = _reader(request, state)
        known = merge_rows([learned_rows(state)] if peers is None else await peers.learned())
        rows = visible(known, caller, state.routes, state.config)
        if request.query_params.get("as") == "config":
            return Response(pinned(rows, state.config, caller), media_type="application/yaml")
        return JSONResponse({"rules": shown(rows, state.clock.wall())})

    async def home(request: Request) -> Response:
        """Return what a browser shows: gatepass runs, its version and its base URL. Requires no key."""
        state = current()
        state.authenticator.check_without_key(_client_request(request, state))
        mounted_at, _ = path_in(request.scope)
        url = base_url(tuple(request.headers.raw), mounted_at + base_path)
        return HTMLResponse(HOME.format(version=escape(__version__), base_url=escape(url)), headers=HOME_HEADERS)

    endpoints = dict(zip(PATHS, (healthz, readyz, metrics, status, learned), strict=True))
    # at the root too: probes and scrapers of a cluster use paths without the base path
    prefixes = dict.fromkeys(("", base_path))
    return [
        *(HomeRoute(path, home, methods=["GET"]) for path in sorted(home_paths(base_path))),
        *(
            PageRoute(prefix + path, endpoint, methods=["GET"])
            for prefix in prefixes
            for path, endpoint in endpoints.items()
        ),
    ]


def _reader(request: Request, state: AppState) -> AccessKey:
    """Return the caller, who may read the pages; raise as `Authenticator.authenticate_reader`."""
    if OPERATOR in request.scope:
        return LOCAL
    return state.authenticator.authenticate_reader(_client_request(request, state), state.clock.wall())


def _check_page(request: Request, state: AppState) -> None:
    """Raise ForbiddenHost or ForbiddenOrigin if no keys are configured and the request is from another site."""
    if OPERATOR not in request.scope:
        state.authenticator.check_without_key(_client_request(request, state), from_anywhere=True)


def _client_request(request: Request, state: AppState) -> ClientRequest:
    peer = peer_in(request.scope, only_direct=not state.authenticator.requires_key)
    return ClientRequest("", "GET", request.url.path, tuple(request.headers.raw), peer, state.clock.now())


def status_of(state: AppState) -> dict[str, Any]:
    """Return the state of one process as JSON, with times in seconds and without tokens, keys or secrets."""
    credentials: dict[str, dict[str, Any]] = {}
    rejections = state.rejection_ages_s()
    for name, holder in state.holders.items():
        fields = asdict(holder.status())
        del fields["credential"]
        upstreams = [one.name for one in state.upstreams.values() if one.settings.credential == name]
        credentials[name] = {
            "type": state.config.credentials[name].type,
            "upstreams": upstreams,
            "rejected_by": {one: round(rejections[one], 3) for one in upstreams if one in rejections},
            **{field: round(value, 3) if isinstance(value, float) else value for field, value in fields.items()},
        }
    in_flight = state.in_flight
    return {
        "ready": state.ready,
        "draining": in_flight.draining,
        "in_flight": in_flight.busy,
        "credentials": credentials,
        "keys": [key.as_row(state.clock.wall()) for key in state.config.access.keys],
        "reload_problems": list(state.reload_problems),
        "store": None if state.store is None else state.store.health.shown(state.clock.now()),
    }


_SUBJECT = ("upstream", "model", "operation", "credential", "adapted", "state")


def learned_rows(state: AppState) -> list[Row]:
    """Return the learned rules of one process as JSON rows (`LearnedRuleRecord.as_row`), times since the epoch."""
    return [one.as_row() for one in state.learned_rules()]


def merge_rows(pages: Iterable[Sequence[Row]]) -> list[Row]:
    """Merge the rows of several processes: uses are added, `learned_at` is the first, `expires_at` the last."""
    found: dict[tuple[str, ...], Row] = {}
    for row in (row for page in pages for row in page):
        key = tuple(row[name] for name in _SUBJECT)
        if key in found:
            one = found[key]
            later = max(one, row, key=lambda row: float(row["expires_at"]))
            learned_at = min(one["learned_at"], row["learned_at"])
            row = {**later, "learned_at": learned_at, "uses": one["uses"] + row["uses"]}
        found[key] = row
    return [found[key] for key in sorted(found)]


def visible(rows: Iterable[Row], caller: AccessKey, routes: RouteTable, config: Config) -> list[Row]:
    """Return the rows of models that `caller` may use under any name."""
    if caller.models is None:
        return list(rows)
    names = [*caller.models, *config.models]
    return [row for row in rows if any(_has_target(row, name, caller, routes) for name in (row["model"], *names))]


def _has_target(row: Row, name: str, caller: AccessKey, routes: RouteTable) -> bool:
    """Return whether the model `name` of `caller` has the row's target."""
    # a pattern is resolved like a name: every name that it matches has the same targets
    if not may_use(caller, name):
        return False
    try:
        targets = routes.resolve(row["operation"], name)
    except ModelNotFound:
        return False
    return (row["upstream"], row["model"]) in {(target.upstream, target.model or name) for target in targets}


def shown(rows: Iterable[Row], wall_s: float) -> list[Row]:
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


REQUEST_S = 1.0
"""Timeout for the page of one worker. A worker that does not answer in time is omitted."""
PAGE_BYTES = 8 * 1024 * 1024
METRICS, STATUS, LEARNED, RELOAD, RETRY = "metrics", "status", "learned", "reload", "retry"
RELOAD_S = 30.0
"""Timeout for a reload of another worker."""


@dataclass(frozen=True, slots=True)
class OwnPages:
    """What this worker answers to the other workers."""

    metrics: Callable[[], Awaitable[bytes]] = field(repr=False)
    status: Callable[[], Mapping[str, Any]]
    learned: Callable[[], list[Row]]
    reload: Callable[[], Awaitable[Mapping[str, Any]]]
    retry: Callable[[], list[str]]


class Peers:
    """Serves the pages of this worker to the other workers, and collects theirs.

    `folder` is created by the supervisor with mode 0700. A worker's socket in it also means that the worker is ready.
    The client sends one line with the name of a page. It receives the page: Prometheus text, or JSON.
    """

    def __init__(self, folder: Path, name: str, own: OwnPages) -> None:
        self._folder = folder
        self._socket = folder / f"{name}.sock"
        self._own = own
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._answer, self._socket)

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
            self._socket.unlink(missing_ok=True)

    async def exposition(self) -> bytes:
        return await asyncio.to_thread(merge_expositions, (await self._request_all(METRICS)).values())

    async def statuses(self) -> dict[str, Any]:
        return {name: json.loads(page) for name, page in (await self._request_all(STATUS)).items()}

    async def learned(self) -> list[list[Row]]:
        return [json.loads(page) for page in (await self._request_all(LEARNED)).values()]

    async def reload(self) -> list[dict[str, Any]]:
        """Let each worker reload its configuration, and return their results. A worker that does not answer refused."""
        # listed before the requests, so that a worker that ends meanwhile is reported
        workers = [path.stem for path in self._folder.glob("*.sock")]
        pages = await self._request_all(RELOAD)
        silent = [f"{name}: did not answer; its log has the result" for name in sorted(workers) if name not in pages]
        none = dict.fromkeys(("changed", "needs_restart", "retried", "warnings"), ())
        refused = {"outcome": "refused", "problems": silent, **none}
        return [*map(json.loads, pages.values()), *([refused] if silent else [])]

    async def retry(self) -> list[list[str]]:
        """Let the failing credentials of each worker fetch now, and return their names by worker."""
        return [json.loads(page) for page in (await self._request_all(RETRY)).values()]

    async def _request_all(self, page: str) -> dict[str, bytes]:
        paths = sorted(self._folder.glob("*.sock"))
        found = await asyncio.gather(*(self._request(path, page) for path in paths))
        return {path.stem: content for path, content in zip(paths, found, strict=True) if content}

    async def _request(self, path: Path, page: str) -> bytes | None:
        if path == self._socket:  # directly: a full queue of its socket must not hide this worker from itself
            return await self._page(page)
        try:
            async with asyncio.timeout(RELOAD_S if page == RELOAD else REQUEST_S):
                reader, writer = await asyncio.open_unix_connection(path, limit=PAGE_BYTES)
                try:
                    writer.write(f"{page}\n".encode())
                    return await reader.read(-1)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            LOG.warning("worker_unresponsive", extra={"fields": {"silent": path.stem, "reason": system_reason(error)}})
            return None

    async def _page(self, page: str) -> bytes:
        """Return a page of this worker, b"" for an unknown one."""
        own = self._own
        if page == METRICS:
            return await own.metrics()
        if page == RELOAD:
            return json.dumps(await own.reload()).encode()
        read = {STATUS: own.status, LEARNED: own.learned, RETRY: own.retry}.get(page)
        return b"" if read is None else json.dumps(read()).encode()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # two limits: the time for a slow reload begins when the request has arrived
            async with asyncio.timeout(REQUEST_S):
                page = (await reader.readline()).decode("latin-1").strip()
            async with asyncio.timeout(RELOAD_S if page == RELOAD else REQUEST_S):
                writer.write(await self._page(page))
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            return  # the other worker closed the connection, or sent no valid line
        finally:
            writer.close()
