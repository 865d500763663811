"""The page at /ui: `Ui` is its ASGI application. It serves the admin routes below `/ui/api`.

Before anything else each request passes `Authenticator.check_page`: its Host, its Origin and Sec-Fetch-Site. Then its
route, its key and its role are checked, and last its body is read.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from gatepass import __version__, errors
from gatepass.auth.api_keys import presented_keys
from gatepass.auth.authenticator import LOCAL
from gatepass.auth.caller import Caller
from gatepass.observability.observer import Refusal
from gatepass.protocols.operations import PAGE_IS_OFF, base_url
from gatepass.server import inspection
from gatepass.server.admin import HEADERS, NO_STORE, Admin, AdminRequest, Role, route
from gatepass.server.asgi import path_in, peer_in
from gatepass.server.pages import error_response, for_method, paths_of
from gatepass.types import ClientRequest

LOG = logging.getLogger("gatepass.ui")

PATH = "/ui"
FOLDER = Path(__file__).parent / "static"
_PAGE = r"https?://(?P<host>[A-Za-z0-9.:\[\]_-]+)(?:/[A-Za-z0-9._~-]+)*/ui/"
"""The URL of the page. No other URL gets into a command for a shell."""


class Ui:
    """The page, an ASGI application."""

    def __init__(self, admin: Admin) -> None:
        self.admin = admin
        self.files = StaticFiles(directory=FOLDER)

    def routes(self, base_path: str) -> list[Route]:
        """Return the routes of the page for an application, at the root and below the base path."""
        paths = [path + rest for path in paths_of(PATH, base_path) for rest in ("", "/{rest:path}")]
        routes = [Route(path, self) for path in paths]
        for one in routes:
            one.path_regex = re.compile(one.path_regex.pattern, re.DOTALL)  # a path may have a line feed
        return routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, state = Request(scope, receive), self.admin.running().state
        peer = peer_in(scope, only_direct=not state.authenticator.requires_key)
        headers = tuple((name.lower(), value) for name, value in request.headers.raw)
        client_request = ClientRequest("", request.method, str(scope["path"]), headers, peer, state.clock.now())
        try:
            state.authenticator.check_page(client_request)
            if not state.config.serves_ui:  # a reload has added keys
                raise errors.UnknownPath(PAGE_IS_OFF)
            response = await self._respond(request, client_request)
        except errors.GatepassError as error:
            if isinstance(error, errors.CallerError) and error.status in (401, 403):  # attempts at access
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
        call = UiRequest(self.admin, request, client_request)
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


class UiRequest(AdminRequest):
    """One request of the page, whose Host and Origin were checked."""

    place = "page"

    def __init__(self, admin: Admin, request: Request, client_request: ClientRequest) -> None:
        super().__init__(admin, request)
        self.client_request = client_request

    async def read(self) -> bytes:
        # a form of another site could send any other kind
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise errors.UnsupportedHead("unsupported_media_type", "Send the body as `content-type: application/json`.")
        return await super().read()

    async def require(self, role: Role) -> Caller:
        if role == "anyone":
            return LOCAL
        state = self.state
        known = await state.authenticator.prepare(self.client_request, state.clock.wall())
        caller = state.authenticator.authenticate_reader(self.client_request, state.clock.wall(), known)
        if role == "admin" and caller.role != "admin":
            raise errors.NotAllowed(
                "role_not_allowed",
                f"The caller {caller.name!r} may only read the page, because it has the role {caller.role}."
                f" {caller.other_role('admin')}",
            )
        return caller

    def log(self, action: str, **fields: object) -> None:
        who = {"action": action, "caller": self.caller.name, "role": self.caller.role}
        who |= {"peer": self.client_request.peer, **({"user": self.caller.user} if self.caller.user else {})}
        LOG.info("page_action", extra={"fields": {**who, **fields}})

    @property
    def root_url(self) -> str:
        """The URL of the root as the browser sees it. Only the page knows a prefix that a proxy removes.

        The page sends its own URL as `page` in the query. Without a valid one it is the URL without such a prefix.
        """
        mounted_at, path = path_in(self.request.scope)
        found = re.fullmatch(_PAGE, self.request.query_params.get("page", ""))
        if found is not None and found["host"] == self.request.headers.get("host"):
            return found[0].removesuffix(path.removesuffix(self.request.path_params["rest"]))
        scheme = self.request.scope["scheme"]
        return base_url(self.client_request.headers, mounted_at, scheme=scheme).removesuffix("/v1")


@route("GET", "session", "anyone", only="page")
async def _session(call: UiRequest) -> ASGIApp:
    """Return who signs in with the key of the request, nobody without a key."""
    requires_key = call.state.authenticator.requires_key
    is_open = requires_key and not presented_keys(call.client_request.headers)
    caller = None if is_open else await call.require("viewer")
    mounted_at, _ = path_in(call.request.scope)
    document = {
        "version": __version__,
        "replica": inspection.REPLICA,
        "login": requires_key,
        "signed_in": None if caller is None else {"name": caller.name, "role": caller.role},
        "base_url": base_url(
            call.client_request.headers, mounted_at + call.state.base_path, scheme=call.request.scope["scheme"]
        ),
    }
    return call.answer(document)
