"""The pages for operators. Every assembly of the application serves `PAGES`."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, structs
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gatepass.auth.caller import Caller
from gatepass.documents import (
    Credential,
    LearnedRule,
    LearnedRules,
    McpServer,
    McpStatus,
    ModelUpstream,
    Status,
    Target,
)
from gatepass.errors import GatepassError, UpstreamConnect
from gatepass.learning.learned_rule import LearnedRuleRecord, flow_style
from gatepass.learning.meaning import PERSONAL
from gatepass.observability.metrics import CONTENT_TYPE, exposition_of, has_many_errors
from gatepass.observability.story import SILENT_S
from gatepass.protocols.error_objects import error_body, error_headers
from gatepass.proxy.app_state import AppState
from gatepass.proxy.attempt import served_by_chat
from gatepass.server import inspection
from gatepass.server.asgi import peer_in
from gatepass.server.cycle import ids_begin
from gatepass.server.endpoint import ApiEndpoint
from gatepass.types import MCP_UPSTREAM, ClientRequest

if TYPE_CHECKING:
    from gatepass.mcp.servers import McpServers


def json_response(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(document), status, headers, "application/json")


class PageRequest:
    def __init__(self, request: Request, endpoint: ApiEndpoint) -> None:
        self.request = request
        self.state = endpoint.state
        self.mcp = endpoint.mcp

    @property
    def client_request(self) -> ClientRequest:
        request, state = self.request, self.state
        peer = peer_in(request.scope, only_direct=not state.authenticator.requires_key)
        return ClientRequest("", "GET", request.url.path, tuple(request.headers.raw), peer, state.clock.now())

    async def reader(self) -> Caller:
        """Return the caller, who may read the pages; raise as `Authenticator.authenticate_reader`."""
        known = await self.state.authenticator.prepare(self.client_request, self.state.clock.wall())
        return self.state.authenticator.authenticate_reader(self.client_request, self.state.clock.wall(), known)

    def check(self) -> None:
        """Raise ForbiddenHost or ForbiddenOrigin if no keys are configured and the request is from another site."""
        self.state.authenticator.check_without_key(self.client_request, from_anywhere=True)


Respond = Callable[[PageRequest], Awaitable[Response]]
PAGES: dict[str, Respond] = {}
"""What responds to a GET request of each page, at its path at the root and below the base path."""


def _page(path: str) -> Callable[[Respond], None]:
    """Add the decorated function to `PAGES`. Its own name is then None: only the route calls it."""
    return lambda respond: PAGES.update({path: respond})


@_page("/healthz")
async def _healthz(call: PageRequest) -> Response:
    call.check()
    return JSONResponse({"status": "ok"})


@_page("/readyz")
async def _readyz(call: PageRequest) -> Response:
    """Return ready or not, without the reason: this page requires no key. `?strict` requires that every token is
    usable and that no upstream rejects its token."""
    call.check()
    state = call.state
    ready = state.has_all_tokens if "strict" in call.request.query_params else state.ready
    return JSONResponse({"ready": ready}, status_code=200 if ready else 503)


@_page("/metrics")
async def _metrics(call: PageRequest) -> Response:
    call.check()
    if not call.state.config.access.metrics_open:
        await call.reader()
    shown = await asyncio.to_thread(exposition_of, call.state.metrics.scrape())
    return Response(shown, media_type=CONTENT_TYPE)


@_page("/status")
async def _status(call: PageRequest) -> Response:
    """Return the status. Requires a viewer or admin if there are keys: it quotes errors of token endpoints."""
    await call.reader()
    return json_response(status_of(call.state, call.mcp))


@_page("/learned")
async def _learned(call: PageRequest) -> Response:
    """Return the learned rules. Requires a viewer or admin."""
    await call.reader()
    return json_response(learned_document(call.state))


def learned_document(state: AppState) -> LearnedRules:
    return LearnedRules(rule_rows(state.learned_rules(), state.clock.wall()))


PATHS = tuple(PAGES)


def paths_of(path: str, base_path: str) -> list[str]:
    """Return the paths of a page. Also at the root, because probes and scrapers of a cluster use such paths."""
    return [*dict.fromkeys((path, base_path + path))]


def error_response(error: GatepassError, headers: Mapping[str, str] | None = None) -> Response:
    fields = {name.decode(): value.decode() for name, value in error_headers(error)}
    return Response(error_body(error), error.http_status, {**fields, **(headers or {})})


def for_method(method: str, response: Response) -> Response:
    """Return `response`, without its body for HEAD: granian would send it over HTTP/2."""
    if method == "HEAD":
        response.body = b""
    return response


def page_routes(running: Callable[[], ApiEndpoint], base_path: str) -> list[Route]:
    """Return the routes of the pages. `running` may raise NotStarted."""

    def route(respond: Respond, path: str) -> Route:
        async def responded(request: Request) -> Response:
            response = await respond(PageRequest(request, running()))
            response.headers["cache-control"] = "no-store"
            return for_method(request.method, response)

        return Route(path, responded, methods=["GET"])

    return [route(respond, path) for name, respond in PAGES.items() for path in paths_of(name, base_path)]


def status_of(state: AppState, mcp: McpServers | None = None) -> Status:
    """Return the state of one process, without tokens, keys or secrets."""
    now_s, wall_s = state.clock.now(), state.clock.wall()
    described = _Described(state)
    return Status(
        at=round(wall_s, 3),
        ready=state.ready,
        draining=state.in_flight.draining,
        in_flight=state.in_flight.busy,
        replica=inspection.REPLICA,
        ids_begin=ids_begin(inspection.REPLICA),
        reload_problems=list(state.reload_problems),
        store=None if state.store is None else state.store.health.shown(now_s),
        credentials=_credentials(state, described.rejections),
        upstreams={name: described.of_models(name) for name in state.upstreams if not name.startswith(MCP_UPSTREAM)},
        keys=state.authenticator.keys.rows(wall_s),
        jwt=[one.status() for one in state.key_sets] or UNSET,
        capture=state.capture.state(),
        limits_without_store=state.counts.fault or UNSET,
        targets=_targets(state) or UNSET,
        mcp=UNSET if mcp is None else described.mcp(mcp),
    )


def _targets(state: AppState) -> dict[str, list[Target]]:
    found: dict[str, list[Target]] = {}
    for route, at, health, (word, for_s) in state.targets():
        upstream, name = route.targets[at].upstream, route.names[at]
        target = Target(upstream, name, word, round(for_s, 3), health.in_flight, route.weights[at])
        found.setdefault(route.entry or "*", []).append(target)
    return found


def _credentials(state: AppState, rejections: Mapping[str, float]) -> dict[str, Credential]:
    found = {}
    for name, holder in state.holders.items():
        status = holder.status()
        upstreams = [one.name for one in state.upstreams.values() if one.settings.credential == name]
        found[name] = Credential(
            type=state.config.credentials[name].type,
            upstreams=upstreams,
            rejected_by={one: round(rejections[one], 3) for one in upstreams if one in rejections},
            needs_restart=status.failing and holder.needs_secret and "restart" in holder.secret_hint,
            **structs.asdict(status),
        )
    return found


class _Described:
    """The upstreams of one process at one moment."""

    def __init__(self, state: AppState) -> None:
        self.state = state
        self.rejections = state.rejection_ages_s()
        self.recent = state.traffic.total(state.clock.wall()).by_upstream
        self.totals = state.metrics.totals().by_upstream
        self.in_flight = Counter(one.response.context.metrics_key()[2] for one in state.in_flight.requests)
        self.silences: dict[str, dict[str, float]] = {}
        """Of the streams that have begun to arrive the time since the last piece, by id, by upstream."""
        for one in state.in_flight.requests:
            context = one.response.context
            if (attempt := context.attempt) is not None and attempt.record.arrivals is not None:
                silent_s = state.clock.now() - attempt.record.arrivals.last_s
                self.silences.setdefault(attempt.record.upstream, {})[context.access.id] = round(silent_s, 3)

    def common(self, name: str) -> dict[str, Any]:
        """Return the members of an `UpstreamStatus`."""
        state, upstream = self.state, self.state.upstreams[name]
        now_s, metrics, connections = state.clock.now(), state.metrics, upstream.transport.counts
        requests, errors, rejected = self.recent.get(name, (0, 0, 0))
        failed, silences = metrics.last_failed(name, now_s), self.silences.get(name, {})
        health = metrics.health(name)
        if health == "unknown" and name in self.silences:
            health = "answering"
        # a model alone may reject the token that the others accept
        is_rejecting = name in self.rejections and requests <= errors
        if is_rejecting or (failed is not None and failed.kind == UpstreamConnect.code):
            health = "failing"
        return {
            "host": upstream.host,
            "credential": upstream.credential or None,
            "health": health,
            "last_failed": failed,
            "last_error": metrics.last_error(name, now_s),
            "many_errors": has_many_errors(requests, errors),
            "in_flight": self.in_flight[name],
            "open_connections": connections.busy + connections.idle,
            "requests_15m": requests,
            "errors_15m": errors,
            "rejected_15m": rejected,
            "silent": {request: silent_s for request, silent_s in silences.items() if silent_s > SILENT_S},
        }

    def of_models(self, name: str) -> ModelUpstream:
        upstream, (requests, errors, _) = self.state.upstreams[name], self.totals.get(name, (0, 0, 0))
        spoken, now_s = upstream.settings.protocols, self.state.clock.now()
        over_chat = [  # learned, or declared
            one
            for one in ("responses", "messages")
            if (served_by_chat(upstream, one, now_s) if spoken is None else one not in spoken and "chat" in spoken)
        ]
        dialect, common = upstream.dialect_name, self.common(name)
        return ModelUpstream(dialect=dialect, requests=requests, errors=errors, over_chat=over_chat, **common)

    def mcp(self, mcp: McpServers) -> McpStatus:
        found, sessions = {}, mcp.sessions.counts()
        for name in mcp.by_name:
            upstream = self.state.upstreams[MCP_UPSTREAM + name]
            usable = upstream.holder is None or upstream.holder.usable
            found[name] = McpServer(usable=usable, sessions=sessions[name], **self.common(upstream.name))
        return McpStatus(len(self.state.in_flight.idle_streams), found)


def rule_rows(records: Iterable[LearnedRuleRecord], wall_s: float) -> list[LearnedRule]:
    """Return one row for the rules that differ only in their caller, their evidence and values that are not shown."""
    alike = defaultdict(list)
    for one in records:
        rule, (_, *scope) = one.rule, structs.astuple(one.scope)
        values = sorted(value for value in rule.values if _may_show(value, one))
        setting = flow_style(rule.setting())[1:-1]
        alike[*scope, rule.entry, rule.beside, setting, not rule.values, *values].append(one)
    return [
        LearnedRule(
            upstream=upstream,
            model=model,
            operation=operation,
            adapted=adapted,
            callers=sorted({one.scope.owner for one in same}),
            beside=beside,
            values=values,
            hidden_values=len(frozenset().union(*(one.rule.values for one in same))) - len(values),
            evidence=max(same, key=lambda one: one.learned_at).evidence,
            age_s=max(0, round(wall_s - min(one.learned_at for one in same))),
            expires_in_s=max(0, round(max(one.expires_at for one in same) - wall_s)),
            uses=sum(one.uses for one in same),
            setting=setting,
        )
        for (upstream, model, operation, adapted, beside, setting, _, *values), same in sorted(alike.items())
    ]


_SHOWN = r'-?[0-9][0-9.eE+-]*|true|false|null|""|\[\]|"([\w.:/-]+)"'


def _may_show(value: str, record: LearnedRuleRecord) -> bool:
    """Whether other callers may see this value: a `user` is a person, and only a word of the error is public."""
    found = re.fullmatch(_SHOWN, value)
    if found is None or record.rule.field in PERSONAL:
        return False
    return found[1] is None or re.search(rf"(?<!\w){re.escape(found[1])}(?!\w)", record.evidence) is not None


def forget_rules(state: AppState, wanted: Mapping[str, str]) -> int:
    """Forget the learned rules that `wanted` names, and return how many there were."""
    upstreams = [one for one in state.upstreams.values() if one.name == wanted["upstream"]]
    scope = wanted["model"], wanted["operation"], wanted["adapted"]
    return sum(one.state.learned.forget_entry(*scope) for one in upstreams)
