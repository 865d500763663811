"""The page at /ui: `Ui` is its ASGI application. It serves the admin routes below `/ui/api`.

Before anything else each request passes `Authenticator.check_page`: its Host, its Origin and Sec-Fetch-Site. Then its
route, its session and its role are checked, and last its body is read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from gatepass import __version__, errors
from gatepass.auth.authenticator import LOCAL
from gatepass.config.access import AccessKey
from gatepass.documents import Login
from gatepass.observability.observer import Refusal
from gatepass.protocols.operations import base_url
from gatepass.proxy.app_state import AppState
from gatepass.server import inspection
from gatepass.server.admin import HEADERS, NO_STORE, Admin, AdminRequest, Role, route
from gatepass.server.asgi import path_in, peer_in
from gatepass.server.pages import error_response, for_method
from gatepass.server.ui.sessions import LIFE_S, Session, Sessions
from gatepass.types import ClientRequest

LOG = logging.getLogger("gatepass.ui")

PATH = "/ui"
COOKIE = "gatepass_ui"
FOLDER = Path(__file__).parent / "static"
_PAGE = re.compile(r"https?://(?P<host>[A-Za-z0-9.:\[\]_-]+)(?:/[A-Za-z0-9._~-]+)*/ui/")
"""The URL of the page. No other URL gets into a command for a shell."""


def ui_paths(base_path: str) -> tuple[str, ...]:
    """Return where the page is: at the root, as the other pages, and below the base path."""
    return tuple(prefix + PATH for prefix in dict.fromkeys(("", base_path)))


class Ui:
    """The page, an ASGI application."""

    def __init__(self, admin: Admin, sessions: Sessions) -> None:
        self.admin = admin
        self.sessions = sessions
        self.files = StaticFiles(directory=FOLDER)

    def current(self) -> AppState:
        return self.admin.running().state

    def routes(self, base_path: str) -> list[Route]:
        """Return the routes of the page for an application, at the root and below the base path."""
        paths = [path + rest for path in ui_paths(base_path) for rest in ("", "/{rest:path}")]
        routes = [Route(path, self) for path in paths]
        for one in routes:
            one.path_regex = re.compile(one.path_regex.pattern, re.DOTALL)  # a path may have a line feed
        return routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, state = Request(scope, receive), self.current()
        peer = peer_in(scope, only_direct=not state.authenticator.requires_key)
        headers = tuple((name.lower(), value) for name, value in request.headers.raw)
        client_request = ClientRequest("", request.method, str(scope["path"]), headers, peer, state.clock.now())
        try:
            state.authenticator.check_page(client_request)
            if not state.config.serves_ui:  # a reload has added keys
                raise errors.UnknownPath("The page is off. Set `server.ui: true` or GATEPASS_UI=true to serve it.")
            response = await self._respond(request, client_request)
        except errors.GatepassError as error:
            if error.code in _LOGGED:
                state.observers.tell(state.observers.refused, Refusal(error, peer, at_page=True))
            response = error_response(error, HEADERS)
        except (errors.ClientGone, ClientDisconnect):
            return
        if isinstance(response, Response):
            response = for_method(request.method, response)
        await response(scope, receive, send)

    async def _respond(self, request: Request, client_request: ClientRequest) -> ASGIApp:
        path = request.scope["path_params"].get("rest")
        if path is None:  # relative, so that it is right behind every prefix
            return Response(status_code=307, headers={**HEADERS, **NO_STORE, "location": "ui/"})
        if not path.startswith("api/"):
            return await self._file(request, path)
        call = UiRequest(self, request, client_request)
        return await self.admin.respond(call, path.removeprefix("api/"))

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


class UiRequest(AdminRequest):
    """One request of the page, whose Host and Origin were checked."""

    place = "page"

    def __init__(self, ui: Ui, request: Request, client_request: ClientRequest) -> None:
        super().__init__(ui.admin, request)
        self.ui, self.client_request = ui, client_request

    async def read(self) -> bytes:
        # a form of another site could send any other kind
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise errors.UnsupportedHead("unsupported_media_type", "Send the body as `content-type: application/json`.")
        return await super().read()

    @property
    def cookie(self) -> str:
        """The cookie of the session, "" without one."""
        # not by http.cookies, which drops all cookies after one that another application wrote badly
        pairs = (pair.strip() for field in self.request.headers.getlist("cookie") for pair in field.split(";"))
        return next((pair.partition("=")[2] for pair in pairs if pair.startswith(f"{COOKIE}=")), "")

    def session(self) -> Session | None:
        return self.ui.sessions.find(self.cookie, self.ui.current().clock.wall())

    def signed_in(self) -> AccessKey | None:
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
        if role == "anyone":
            return LOCAL
        caller = self.signed_in()
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

    def log(self, action: str, **fields: object) -> None:
        who = {"action": action, "caller": self.caller.name, "role": self.caller.role}
        who |= {"peer": self.client_request.peer}
        LOG.info("page_action", extra={"fields": {**who, **fields}})

    @property
    def is_over_tls(self) -> bool:
        """Whether the browser used TLS: to this server, or to a proxy in front of it."""
        headers = self.request.headers
        # the Origin of a page that is over TLS; it was compared with Host
        if self.request.scope.get("scheme") == "https" or headers.get("origin", "").startswith("https://"):
            return True
        try:
            peer = ip_address(self.client_request.peer.partition("%")[0])
        except ValueError:  # a Unix socket has no address
            return False
        peer = getattr(peer, "ipv4_mapped", None) or peer
        is_trusted = any(peer in ip_network(network) for network in self.state.config.server.trusted_proxies)
        return is_trusted and headers.get("x-forwarded-proto") == "https"

    @property
    def root_url(self) -> str:
        """The URL of the root as the browser sees it. Only the page knows a prefix that a proxy removes.

        The page sends its own URL as `page` in the query. Without a valid one it is the URL without such a prefix.
        """
        mounted_at, path = path_in(self.request.scope)
        found = _PAGE.fullmatch(self.request.query_params.get("page", ""))
        if found is not None and found["host"] == self.request.headers.get("host"):
            return found[0].removesuffix(path.removesuffix(self.request.path_params["rest"]))
        scheme = self.request.scope["scheme"]
        return base_url(self.client_request.headers, mounted_at, scheme=scheme).removesuffix("/v1")


@route("GET", "session", "anyone", only="page")
async def _session(call: UiRequest) -> ASGIApp:
    return call.answer(_session_of(call, call.signed_in()))


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


@route("POST", "login", "anyone", takes=Login, only="page")
async def _login(call: UiRequest) -> ASGIApp:
    """Exchange a key for a session. The key is checked as the API checks it, and is kept nowhere."""
    state = call.state
    if not state.authenticator.requires_key:
        return call.answer(_session_of(call, LOCAL))
    key, wall_s = call.body.key.strip(), state.clock.wall()
    caller, digest = state.authenticator.sign_in(key, state.clock.now(), wall_s)
    cookie = call.ui.sessions.begin(caller.name, digest, wall_s)
    call.caller = caller
    call.log("login")
    return _with_cookie(call, _session_of(call, caller), cookie, LIFE_S)


@route("POST", "logout", "viewer", only="page")
async def _logout(call: UiRequest) -> ASGIApp:
    call.log("logout")
    call.ui.sessions.end(call.caller.name)
    return _with_cookie(call, {}, "", 0)


def _with_cookie(call: UiRequest, document: Mapping[str, Any], value: str, life_s: int) -> Response:
    # Without Path it is the folder of the request's path as the browser sees it: `…/ui/api`, behind every prefix. The
    # files of the page need no session.
    secure = "; Secure" if call.is_over_tls else ""
    response = call.answer(document)
    response.headers["set-cookie"] = f"{COOKIE}={value}; Max-Age={life_s}; HttpOnly; SameSite=Strict{secure}"
    return response
