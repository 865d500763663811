"""The page at /ui: `Ui` is its ASGI application, and `ROUTES` are those of its API.

Before anything else each request passes `Authenticator.check_page`: its Host, its Origin and Sec-Fetch-Site. Then its
route, its session and its role are checked, and last its body is read.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from gatepass import __version__, errors
from gatepass.auth.authenticator import LOCAL
from gatepass.config.access import AccessKey
from gatepass.config.model import Config
from gatepass.normalize.profiles import PROFILES
from gatepass.observability.observer import Refusal
from gatepass.observability.story import curl_command
from gatepass.protocols.error_objects import error_object
from gatepass.protocols.operations import base_url
from gatepass.proxy.app_state import AppState
from gatepass.proxy.context import RequestContext
from gatepass.server import inspection
from gatepass.server.asgi import path_in, peer_in
from gatepass.server.connection_shares import TrustedProxies
from gatepass.server.endpoint import ApiEndpoint
from gatepass.server.pages import error_response, for_method, forget_rules, learned_rules, shown
from gatepass.server.timeouts import RECEIVE_S
from gatepass.server.ui import views
from gatepass.server.ui.sessions import LIFE_S, Session, Sessions
from gatepass.types import ClientRequest

LOG = logging.getLogger("gatepass.ui")

PATH = "/ui"
COOKIE = "gatepass_ui"
FOLDER = Path(__file__).parent / "static"
_PAGE = re.compile(r"https?://(?P<host>[A-Za-z0-9.:\[\]_-]+)(?:/[A-Za-z0-9._~-]+)*/ui/")
"""The URL of the page. No other URL gets into a command for a shell."""
BODY_BYTES = 64 * 1024
TOO_LARGE = f"The request body is larger than {BODY_BYTES} bytes."
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Fields of every response."""
NO_STORE = {"cache-control": "no-store"}

DOCTOR_S = 180.0
"""Limit on one run of doctor. Each of its steps has a limit of its own."""

Role = Literal["anyone", "viewer", "admin"]


@dataclass(frozen=True, slots=True)
class DoctorTask:
    """What `gatepass doctor` tests: all hops, or those of `model`; with `call` also by real calls of `operation`."""

    model: str | None = None
    call: bool = False
    operation: str | None = None


Doctor = Callable[[Config, DoctorTask, Callable[[str, str], object]], AsyncGenerator[dict[str, object], None]]
"""Yields the steps of `gatepass doctor` as JSON. The last argument is called with the hop and the name of each step
that begins."""


def ui_paths(base_path: str) -> tuple[str, ...]:
    """Return where the page is: at the root, as the other pages, and below the base path."""
    return tuple(prefix + PATH for prefix in dict.fromkeys(("", base_path)))


@dataclass(frozen=True, slots=True, repr=False)
class UiRoute:
    """One route of the API. `path` is relative to `…/ui/`; `{id}` at its end is any text that is not empty."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    role: Role
    """Who may use it. An admin may use the routes of a viewer."""
    respond: Callable[[UiRequest], Awaitable[ASGIApp]]

    def match(self, path: str) -> str | None:
        """Return the id in `path`, "" for a path without one, None if this is another path."""
        prefix, has_id, _ = self.path.partition("{id}")
        if not has_id:
            return "" if path == prefix else None
        return path.removeprefix(prefix) or None if path.startswith(prefix) else None


ROUTES: list[UiRoute] = []
"""All routes of the API of the page. The tests request each one with each role."""


def _route(
    method: Literal["GET", "POST", "DELETE"], path: str, role: Role
) -> Callable[[Callable[[UiRequest], Awaitable[ASGIApp]]], None]:
    """Add the decorated function to `ROUTES`. Its own name is then None: only the route calls it."""
    return lambda respond: ROUTES.append(UiRoute(method, path, role, respond))


class Ui:
    """The page, an ASGI application. `running` may raise NotStarted."""

    def __init__(self, running: Callable[[], ApiEndpoint], sessions: Sessions) -> None:
        self.running = running
        self.sessions = sessions
        self.files = StaticFiles(directory=FOLDER)
        self.doctor: Doctor | None = None
        self.doctor_turn = asyncio.Lock()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def current(self) -> AppState:
        return self.running().state

    def routes(self, base_path: str) -> list[Route]:
        """Return the routes of the page for an application, at the root and below the base path."""
        paths = [path + rest for path in ui_paths(base_path) for rest in ("", "/{rest:path}")]
        routes = [Route(path, self) for path in paths]
        for route in routes:
            route.path_regex = re.compile(route.path_regex.pattern, re.DOTALL)  # a path may have a line feed
        return routes

    async def listed_models(self, caller: AccessKey) -> tuple[list[str], str | None]:
        """Return the names of `GET /v1/models` for `caller`, and why the list is incomplete or missing."""
        state, catalog = self.current(), self.running().catalog
        context = RequestContext.without_client(state, PROFILES["plain"])
        context.caller = caller
        try:
            return [entry["id"] for entry in await catalog.entries(context)], None
        except errors.GatepassError as error:
            return [], state.redactor.mask(error.message)

    def turn(self, caller: str) -> asyncio.Lock:
        """Return the lock for what `caller` reads: one answer is made at a time, so no caller delays the others."""
        return self._turns.setdefault(caller, asyncio.Lock())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, state = Request(scope, receive), self.current()
        peer = peer_in(scope, only_direct=not state.authenticator.requires_key)
        headers = tuple((name.lower(), value) for name, value in request.headers.raw)
        client_request = ClientRequest("", request.method, str(scope["path"]), headers, peer, state.clock.now())
        try:
            state.authenticator.check_page(client_request)
            if not state.config.serves_ui:  # a reload has added keys
                raise errors.UnknownPath("The page is off. Set `server.ui: true` or GATEPASS_UI=true to serve it.")
            response = await self._respond(request, client_request, state)
        except errors.GatepassError as error:
            if error.code in _LOGGED:
                state.observers.tell(state.observers.refused, Refusal(error, peer, at_page=True))
            response = error_response(error, HEADERS)
        except (errors.ClientGone, ClientDisconnect):
            return
        if isinstance(response, Response):
            response = for_method(request.method, response)
        await response(scope, receive, send)

    async def _respond(self, request: Request, client_request: ClientRequest, state: AppState) -> ASGIApp:
        path = request.scope["path_params"].get("rest")
        if path is None:  # relative, so that it is right behind every prefix
            return Response(status_code=307, headers={**HEADERS, **NO_STORE, "location": "ui/"})
        if not path.startswith("api/"):
            return await self._file(request, path)
        matching = [(route, found) for route in ROUTES if (found := route.match(path)) is not None]
        if not matching:
            raise errors.UnknownPath(f"The API of the page has no path {path[:100]!r}.")
        chosen = next((one for one in matching if one[0].method == request.method), None)
        if chosen is None:
            allowed = ", ".join(sorted(route.method for route, _ in matching))
            raise errors.MethodNotAllowed(f"{request.method} is not possible at {path[:100]}.", allow=allowed)
        route, found = chosen
        call = UiRequest(self, request, client_request, state, found)
        caller = LOCAL if route.role == "anyone" else call.require(route.role)
        if route.method == "GET" and route.role != "anyone":
            async with self.turn(caller.name):
                return await route.respond(call)
        if route.method == "POST":
            # a form of another site could send any other kind
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise errors.UnsupportedHead(
                    "unsupported_media_type", "Send the body as `content-type: application/json`."
                )
            call.body = await _json_body(request)
        return await route.respond(call)

    async def _file(self, request: Request, path: str) -> ASGIApp:
        try:
            response = await self.files.get_response(path or "index.html", request.scope)
        except HTTPException as error:
            if error.status_code == errors.MethodNotAllowed.status:
                raise errors.MethodNotAllowed(
                    f"{request.method} is not possible at {path[:100]}.", allow="GET, HEAD"
                ) from None
            raise errors.UnknownPath(f"The page has no file {path[:100]!r}.") from None
        response.headers.update({**HEADERS, "cache-control": "no-cache"})
        return response


_LOGGED = frozenset(("forbidden_host", "forbidden_origin", "forbidden_peer", "invalid_api_key", "role_not_allowed"))
"""Codes of errors that the log reports like refused API requests. The others are not attempts at access."""


@dataclass(slots=True, repr=False)
class UiRequest:
    """One request of the API, whose Host and Origin were checked. `found` is the id in its path."""

    ui: Ui
    request: Request
    client_request: ClientRequest
    state: AppState
    found: str
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cookie(self) -> str:
        """The cookie of the session, "" without one."""
        # not by http.cookies, which drops all cookies after one that another application wrote badly
        pairs = (pair.strip() for field in self.request.headers.getlist("cookie") for pair in field.split(";"))
        return next((pair.partition("=")[2] for pair in pairs if pair.startswith(f"{COOKIE}=")), "")

    def session(self) -> Session | None:
        return self.ui.sessions.find(self.cookie, self.ui.current().clock.wall())

    def caller(self) -> AccessKey | None:
        """Return who signed in, with the role that the key has now. None without a session, or if it has ended."""
        state = self.ui.current()
        if not state.authenticator.requires_key:
            return LOCAL
        session = self.session()
        if session is None:
            return None
        now_s, wall_s = state.clock.now(), state.clock.wall()
        return state.authenticator.signed_in(session.caller, session.key_digest, now_s, wall_s)

    def require(self, role: Role) -> AccessKey:
        """Return the caller; raise NotAllowed without a session, or for a viewer at a route of admins."""
        caller = self.caller()
        if caller is None:
            raise errors.NotAllowed("session_required", self.why() or "Sign in to use the page.")
        if role == "admin" and caller.role != "admin":
            raise errors.NotAllowed(
                "role_not_allowed",
                f"The caller {caller.name!r} may only read the page, because its key has the role {caller.role}."
                " Sign in with a key with the role admin (`gatepass keys new --role admin`).",
            )
        return caller

    def why(self) -> str | None:
        """Return why the session of the cookie is not valid. None without a cookie."""
        if not self.cookie:
            return None
        if self.session() is None:
            return f"The session has ended, or another gatepass than {inspection.REPLICA} made it. Sign in again."
        return "The key of this session has ended, has changed, or has lost its role. Sign in again."

    def log(self, action: str, caller: AccessKey, **fields: object) -> None:
        """Write the audit line of one action."""
        who = {"action": action, "caller": caller.name, "role": caller.role, "peer": self.client_request.peer}
        LOG.info("page_action", extra={"fields": {**who, **fields}})

    @property
    def is_over_tls(self) -> bool:
        """Whether the browser used TLS: to this server, or to a proxy in front of it."""
        headers = self.request.headers
        # the Origin of a page that is over TLS; it was compared with Host
        if self.request.scope.get("scheme") == "https" or headers.get("origin", "").startswith("https://"):
            return True
        proxies = TrustedProxies(self.state.config.server.trusted_proxies)
        return proxies.is_trusted(self.client_request.peer) and headers.get("x-forwarded-proto") == "https"

    @property
    def root_url(self) -> str:
        """The URL of gatepass's root as the browser sees it. Only the page knows a prefix that a proxy removes.

        The page sends its own URL as `page` in the query. Without a valid one it is the URL without such a prefix.
        """
        mounted_at, path = path_in(self.request.scope)
        found = _PAGE.fullmatch(self.request.query_params.get("page", ""))
        if found is not None and found["host"] == self.request.headers.get("host"):
            return found[0].removesuffix(path.removesuffix(self.request.path_params["rest"]))
        scheme = self.request.scope["scheme"]
        return base_url(self.client_request.headers, mounted_at, scheme=scheme).removesuffix("/v1")

    def text(self, name: str) -> str:
        """Return the member `name` of the body; raise InvalidRequest if it is not a text."""
        value = self.body.get(name)
        if not isinstance(value, str):
            raise errors.InvalidRequest(f"The member `{name}` must be a text.", param=name)
        return value

    def answer(self, value: Any) -> Response:
        """Return `value` as JSON with an ETag, and no body if the page has it (RFC 9110, section 13.1.2)."""
        response = json_response(value)
        response.headers["etag"] = etag = f'"{sha256(response.body).hexdigest()[:32]}"'
        if etag in self.request.headers.get("if-none-match", "").replace("W/", "").split(", "):
            return Response(status_code=304, headers={**HEADERS, **NO_STORE, "etag": etag})
        return response


async def _json_body(request: Request) -> Mapping[str, Any]:
    """Return the body, a JSON object; raise BodyTooLarge, InvalidJson, ReceiveTimeout."""
    text = bytearray()
    try:
        async with asyncio.timeout(RECEIVE_S):
            async for piece in request.stream():
                text += piece
                if len(text) > BODY_BYTES:
                    break
    except errors.BodyTooLarge:  # `gatepass serve` reads no more than this, and its error names a setting
        raise errors.BodyTooLarge(TOO_LARGE) from None
    except TimeoutError:
        raise errors.ReceiveTimeout(f"The request body did not arrive within {RECEIVE_S:g} s.") from None
    if len(text) > BODY_BYTES:
        raise errors.BodyTooLarge(TOO_LARGE)
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise errors.InvalidJson("The request body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise errors.InvalidJson("The request body is not a JSON object.")
    return body


def json_response(value: Any, headers: Mapping[str, str] = NO_STORE) -> Response:
    return JSONResponse(value, headers={**HEADERS, **NO_STORE, **headers})


@_route("GET", "api/session", "anyone")
async def _session(call: UiRequest) -> ASGIApp:
    return json_response(_session_of(call, call.caller()))


def _session_of(call: UiRequest, caller: AccessKey | None) -> dict[str, Any]:
    mounted_at, _ = path_in(call.request.scope)
    return {
        "version": __version__,
        "replica": inspection.REPLICA,
        "login": call.state.authenticator.requires_key,
        "signed_in": None if caller is None else {"name": caller.name, "role": caller.role},
        "why": call.why() if caller is None else None,
        "base_url": base_url(
            call.client_request.headers, mounted_at + call.state.base_path, scheme=call.request.scope["scheme"]
        ),
    }


@_route("POST", "api/login", "anyone")
async def _login(call: UiRequest) -> ASGIApp:
    """Exchange a key for a session. The key is checked as the API checks it, and is kept nowhere."""
    state = call.state
    if not state.authenticator.requires_key:
        return json_response(_session_of(call, LOCAL))
    key, wall_s = call.text("key").strip(), state.clock.wall()
    caller, digest = state.authenticator.sign_in(key, state.clock.now(), wall_s)
    cookie = call.ui.sessions.begin(caller.name, digest, wall_s)
    call.log("login", caller)
    return json_response(_session_of(call, caller), {"set-cookie": _cookie(call, cookie, LIFE_S)})


@_route("POST", "api/logout", "viewer")
async def _logout(call: UiRequest) -> ASGIApp:
    caller = call.require("viewer")
    call.log("logout", caller)
    call.ui.sessions.end(caller.name)
    return json_response({}, {"set-cookie": _cookie(call, "", 0)})


def _cookie(call: UiRequest, value: str, life_s: int) -> str:
    # Without Path it is the folder of the request's path as the browser sees it: `…/ui/api`, behind every prefix. The
    # files of the page need no session.
    secure = "; Secure" if call.is_over_tls else ""
    return f"{COOKIE}={value}; Max-Age={life_s}; HttpOnly; SameSite=Strict{secure}"


@_route("GET", "api/overview", "viewer")
async def _overview(call: UiRequest) -> ASGIApp:
    state = call.state
    limits = await views.nearest_limits(state)
    return call.answer(views.overview(state) | views.callers(state) | {"limits": limits})


@_route("GET", "api/requests", "viewer")
async def _requests(call: UiRequest) -> ASGIApp:
    listing = await inspection.requests_listing(call.state, dict(call.request.query_params))
    del listing["now"]  # it would be another document at each poll
    return call.answer(listing)


@_route("GET", "api/requests/{id}", "viewer")
async def _story(call: UiRequest) -> ASGIApp:
    is_admin = call.require("viewer").role == "admin"
    return call.answer({"stories": await inspection.stories(call.state, call.found, bodies=is_admin)})


@_route("GET", "api/curl/{id}", "viewer")
async def _curl(call: UiRequest) -> ASGIApp:
    """Return the command that sends a request again. `nth` chooses one of several with the same id, from 1."""
    is_admin, nth = call.require("viewer").role == "admin", call.request.query_params.get("nth", "1")
    found = await inspection.stories(call.state, call.found, bodies=is_admin)
    # its length first: `int` refuses more than 4,300 digits
    if not nth.isdecimal() or len(nth) > len(str(len(found))) or not 0 < int(nth) <= len(found):
        raise errors.InvalidRequest("This request is not in memory any more.")
    return json_response({"curl": curl_command(found[int(nth) - 1], call.root_url)})


@_route("GET", "api/bodies/{id}", "admin")
async def _body(call: UiRequest) -> ASGIApp:
    return json_response(await inspection.body_piece(call.state, call.found))


@_route("GET", "api/use", "viewer")
async def _use(call: UiRequest) -> ASGIApp:
    return json_response({"use": views.use(call.state)})


@_route("GET", "api/models", "viewer")
async def _models(call: UiRequest) -> ASGIApp:
    caller, state = call.require("viewer"), call.state
    records = learned_rules(caller, state)
    rules = [shown(record, state, caller) for record in records]
    listed, failed = await call.ui.listed_models(caller)
    routes = views.routes(state.config, caller)
    routed = await views.routed(state.routes, listed)
    listing = {"listed": listed, "list_error": failed, "routed": routed}
    return json_response({"routes": routes, **listing, "rules": rules})


@_route("GET", "api/errors/{id}", "viewer")
async def _error(call: UiRequest) -> ASGIApp:
    return json_response(views.documented(call.found))


@_route("GET", "api/capture", "admin")
async def _capture(call: UiRequest) -> ASGIApp:
    return json_response(call.state.capture.state())


@_route("POST", "api/capture", "admin")
async def _start_capture(call: UiRequest) -> ASGIApp:
    state = inspection.start_capture(call.state, json.dumps(call.body).encode())
    chosen = {"model": state["model"], "of_caller": state["caller"], "for_s": state["left_s"]}
    call.log("capture", call.require("admin"), **chosen)
    return json_response(state)


@_route("DELETE", "api/capture", "admin")
async def _stop_capture(call: UiRequest) -> ASGIApp:
    call.log("capture_stop", call.require("admin"))
    call.state.capture.stop()
    return json_response(call.state.capture.state())


@_route("POST", "api/rules/forget", "admin")
async def _forget(call: UiRequest) -> ASGIApp:
    caller = call.require("admin")
    wanted = {name: call.text(name) for name in ("upstream", "model", "operation", "adapted")}
    known = learned_rules(caller, call.state)
    count, rows = 0, [shown(one, call.state, caller) for one in known]
    if any(all(row[name] == value for name, value in wanted.items()) for row in rows):
        count = forget_rules(call.state, wanted)
    call.log("forget", caller, **wanted, forgotten=count)
    return json_response({"forgotten": count})


@_route("POST", "api/doctor", "admin")
async def _doctor(call: UiRequest) -> ASGIApp:
    caller, ui, model, calls = call.require("admin"), call.ui, call.body.get("model"), call.body.get("call", False)
    operation = call.body.get("operation")
    if not all(one is None or isinstance(one, str) for one in (model, operation)) or not isinstance(calls, bool):
        raise errors.InvalidRequest("Expects `model` and `operation`, texts or null, and `call`, a boolean.")
    if ui.doctor is None:
        raise errors.UnknownPath("Only `gatepass serve` can run doctor. Run `gatepass doctor` on the machine.")
    if ui.doctor_turn.locked():
        raise errors.Overloaded("doctor already runs for another tab. Try again when it has ended.", retry_after_s=5)
    call.log("doctor", caller, model=model, call=calls)
    task = DoctorTask(model or None, calls, operation or None)
    events = _doctor_events(ui.doctor, ui.doctor_turn, call.state, task)
    return StreamingResponse(events, headers={**HEADERS, **NO_STORE}, media_type="text/event-stream")


async def _doctor_events(
    doctor: Doctor, turn: asyncio.Lock, state: AppState, task: DoctorTask
) -> AsyncGenerator[bytes, None]:
    """Yield `begin` and `step` for each step, and `end` with the number of failures, perhaps with an error."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    mask = state.redactor.mask

    def begin(hop: str, what: str) -> None:
        queue.put_nowait(_event("begin", {"hop": hop, "what": what}))

    async def run() -> None:
        failed, ending = 0, {}
        try:
            async with turn, asyncio.timeout(DOCTOR_S), aclosing(doctor(state.config, task, begin)) as steps:
                async for step in steps:
                    failed += step["outcome"] == "fails"
                    texts = {name: mask(str(step[name])) for name in ("hop", "what", "why", "advice")}
                    queue.put_nowait(_event("step", {**step, **texts}))
        except errors.GatepassError as error:
            ending = error_object(error)
        except TimeoutError:
            ending = error_object(errors.Overloaded(f"doctor did not end within {DOCTOR_S:g} s."))
        queue.put_nowait(_event("end", {"failed": failed, **ending}))

    running = asyncio.create_task(run(), name="doctor")
    running.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (data := await queue.get()) is not None:
            yield data
        await running
    finally:
        running.cancel()
        await asyncio.wait((running,))


def _event(name: str, data: Any) -> bytes:
    # JSON has no line breaks
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
