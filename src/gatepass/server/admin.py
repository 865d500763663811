"""The admin routes: JSON that the command line and the page at /ui read, and what they change.

`ROUTES` is the one table of them. The control socket serves it to its owner, and the listener below `/ui/api` to who
has a key with a role (`ui/routes.py`, which checks Host and Origin first).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import structs
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gatepass import errors
from gatepass.auth.authenticator import LOCAL
from gatepass.auth.caller import Caller
from gatepass.config.model import Config
from gatepass.documents import (
    Callers,
    CaptureState,
    Curl,
    DoctorTask,
    LearnedRules,
    Limits,
    ReloadResult,
    Requests,
    RuleName,
    Status,
    Step,
    Stories,
    Traffic,
)
from gatepass.normalize.profiles import PROFILES
from gatepass.observability.capture import CaptureSettings
from gatepass.observability.story import NO_CURL, curl_command
from gatepass.protocols.error_objects import error_object
from gatepass.proxy.app_state import AppState
from gatepass.proxy.context import RequestContext
from gatepass.server import inspection, views
from gatepass.server.endpoint import ApiEndpoint
from gatepass.server.pages import error_response, forget_rules, json_response, learned_document, status_of
from gatepass.server.reload import Reloader

CONFLICT = 409
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

Role = Literal["anyone", "viewer", "admin"]

Doctor = Callable[[Config, DoctorTask, Callable[[str, str], object]], AsyncGenerator[Step, None]]
"""Yields the steps of `gatepass doctor`. The last argument is called with the hop and the name of each step
that begins."""

Place = Literal["socket", "page"]


@dataclass(frozen=True, slots=True, repr=False)
class AdminRoute:
    """One route. `path` is below `/` of the control socket and below `…/ui/api/` of the listener. `{id}` at its end is
    any text that is not empty."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    role: Role
    """The least role of who may use it. The owner of the control socket is an admin."""
    document: type | None
    """What it returns, if that is JSON of one type."""
    takes: type | None
    """What the body of a POST is, if it has one."""
    only: Place | None
    """Where it is, if it is not at both places."""
    respond: Callable[[AdminRequest], Awaitable[ASGIApp]]

    def match(self, path: str) -> str | None:
        """Return the id in `path`, "" for a path without one, None if this is another path."""
        prefix, has_id, _ = self.path.partition("{id}")
        if not has_id:
            return "" if path == prefix else None
        return path.removeprefix(prefix) or None if path.startswith(prefix) else None


ROUTES: list[AdminRoute] = []
"""All routes. The tests request each one with each role."""


def route(
    method: Literal["GET", "POST", "DELETE"],
    path: str,
    role: Role,
    document: type | None = None,
    *,
    takes: type | None = None,
    only: Place | None = None,
) -> Callable[[Callable[[Any], Awaitable[ASGIApp]]], None]:
    """Add the decorated function to `ROUTES`. Its own name is then None: only the route calls it."""
    return lambda respond: ROUTES.append(AdminRoute(method, path, role, document, takes, only, respond))


class Admin:
    """What the requests of one server share. It is also the application of the control socket.

    `running` may raise NotStarted.
    """

    def __init__(self, running: Callable[[], ApiEndpoint]) -> None:
        self.running = running
        self.url = ""
        """Where gatepass listens for clients."""
        self.reloader: Reloader
        """Set before the control socket is served."""
        self.doctor: Doctor | None = None
        self.doctor_turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self.respond(AdminRequest(self, request), scope["path"].removeprefix("/"))
        except errors.GatepassError as error:
            response = error_response(error, HEADERS)
        await response(scope, receive, send)

    async def respond(self, call: AdminRequest, path: str) -> ASGIApp:
        known = [one for one in ROUTES if one.only in (None, call.place)]
        matching = [(one, found) for one in known if (found := one.match(path)) is not None]
        if not matching:
            raise errors.UnknownPath(f"The API of the page has no path {path[:100]!r}.")
        method = call.request.method
        chosen = next((one for one in matching if one[0].method == method), None)
        if chosen is None:
            allowed = ", ".join(sorted(one.method for one, _ in matching))
            raise errors.MethodNotAllowed(f"{method} is not possible at {path[:100]}.", allow=allowed)
        used, call.found = chosen
        call.caller = await call.require(used.role)
        if method == "POST":
            text = await call.read()
            try:
                call.body = None if used.takes is None else msgspec.json.decode(text or b"{}", type=used.takes)
            except msgspec.ValidationError as error:
                raise errors.InvalidRequest(f"The request body is invalid: {error}.") from None
            except (msgspec.DecodeError, ValueError, RecursionError):
                raise errors.InvalidJson("The request body is not valid JSON.") from None
        return await used.respond(call)


class AdminRequest:
    """One request of the owner of the control socket; `UiRequest` is one of the page."""

    place: ClassVar[Place] = "socket"

    def __init__(self, admin: Admin, request: Request) -> None:
        endpoint = admin.running()
        self.admin, self.request, self.endpoint = admin, request, endpoint
        # a reload does not change them
        self.state, self.mcp = endpoint.state, endpoint.mcp
        self.found = ""
        """The id in the path."""
        self.caller: Caller = LOCAL
        self.body: Any = None
        """Of the type that the route takes."""

    async def require(self, role: Role) -> Caller:  # noqa: ARG002 - its owner may use every route
        """Return the caller; raise InvalidApiKey, or NotAllowed for a role that is less than `role`."""
        return LOCAL

    async def read(self) -> bytes:
        """Return the body; raise BodyTooLarge."""
        text = bytearray()
        try:
            async for piece in self.request.stream():  # `gatepass serve` bounds the wait for each
                text += piece
                if len(text) > BODY_BYTES:
                    break
        except errors.BodyTooLarge:  # `gatepass serve` reads no more than this, and its error names a setting
            raise errors.BodyTooLarge(TOO_LARGE) from None
        if len(text) > BODY_BYTES:
            raise errors.BodyTooLarge(TOO_LARGE)
        return bytes(text)

    def log(self, action: str, **fields: object) -> None:
        """Write the audit line of one action at the page. The owner's commands have none."""

    @property
    def root_url(self) -> str:
        """The URL of gatepass's root as the caller reaches it."""
        return self.admin.url

    def answer(self, document: object, status: int = 200, *, lasting: object = None) -> Response:
        """Return `document` as JSON with an ETag, and no body if the caller has it (RFC 9110, section 13.1.2).

        The ETag is that of `lasting`, which is without what changes at each poll.
        """
        response = json_response(document, status, {**HEADERS, **NO_STORE})
        body = response.body if lasting is None else msgspec.json.encode(lasting)
        response.headers["etag"] = etag = f'"{sha256(body).hexdigest()[:32]}"'
        known = self.request.headers.get("if-none-match", "").replace("W/", "").split(", ")
        if self.request.method == "GET" and etag in known:
            return Response(status_code=304, headers={**HEADERS, **NO_STORE, "etag": etag})
        return response


@route("GET", "traffic", "viewer", Traffic)
async def _traffic(call: AdminRequest) -> ASGIApp:
    return call.answer(views.traffic(call.state))


@route("GET", "callers", "viewer", Callers)
async def _callers(call: AdminRequest) -> ASGIApp:
    return call.answer(views.callers(call.state))


@route("GET", "requests", "viewer", Requests)
async def _requests(call: AdminRequest) -> ASGIApp:
    found = await inspection.requests_listing(call.state, dict(call.request.query_params))
    return call.answer(found, lasting=structs.replace(found, now=0.0))


@route("GET", "requests/{id}", "viewer", Stories)
async def _story(call: AdminRequest) -> ASGIApp:
    found = await inspection.stories(call.state, call.found, bodies=call.caller.role == "admin")
    return call.answer(Stories(found, call.root_url))


@route("GET", "curl/{id}", "viewer", Curl)
async def _curl(call: AdminRequest) -> ASGIApp:
    """Return the command that sends the newest request with this id again."""
    found = await inspection.stories(call.state, call.found, bodies=call.caller.role == "admin")
    if not found:
        raise errors.InvalidRequest("This request is not in memory any more.")
    if (command := curl_command(found[0], call.root_url)) is None:
        raise errors.InvalidRequest(NO_CURL)
    return call.answer(Curl(command))


@route("GET", "use", "viewer")
async def _use(call: AdminRequest) -> ASGIApp:
    return call.answer({"use": views.use(call.state)})


@route("GET", "models", "viewer")
async def _models(call: AdminRequest) -> ASGIApp:
    """Return the routes, the names of `GET /v1/models` for the caller, and why that list is incomplete or missing."""
    context = RequestContext.without_client(call.state, PROFILES["plain"])
    context.caller = call.caller
    listed, failed = list[str](), None
    try:
        listed = [entry["id"] for entry in await call.endpoint.catalog.entries(context)]
    except errors.GatepassError as error:
        failed = call.state.redactor.mask(error.message)
    routes, routed = views.routes(call.state.config, call.caller), await views.routed(call.state.routes, listed)
    return call.answer({"routes": routes, "listed": listed, "list_error": failed, "routed": routed})


@route("GET", "status", "viewer", Status)
async def _status(call: AdminRequest) -> ASGIApp:
    return call.answer(status_of(call.state, call.mcp))


@route("GET", "limits", "viewer", Limits)
async def _limits(call: AdminRequest) -> ASGIApp:
    """Return all limits, or with `nearest` those with the smallest part left."""
    nearest = call.request.query_params.get("nearest", "")
    # int refuses more than 4,300 digits
    return call.answer(await inspection.limits_of(call.state, int(nearest[:4]) if nearest.isdecimal() else None))


@route("GET", "learned", "viewer", LearnedRules)
async def _learned(call: AdminRequest) -> ASGIApp:
    return call.answer(learned_document(call.state))


@route("GET", "errors/{id}", "viewer")
async def _error(call: AdminRequest) -> ASGIApp:
    return call.answer(views.documented(call.found))


@route("GET", "capture", "admin", CaptureState)
async def _capture(call: AdminRequest) -> ASGIApp:
    return call.answer(call.state.capture.state())


@route("POST", "capture", "admin", CaptureState, takes=CaptureSettings)
async def _start_capture(call: AdminRequest) -> ASGIApp:
    state = inspection.start_capture(call.state, call.body)
    call.log("capture", model=state.model, of_caller=state.caller, for_s=state.left_s)
    return call.answer(state)


@route("DELETE", "capture", "admin", CaptureState)
async def _stop_capture(call: AdminRequest) -> ASGIApp:
    call.log("capture_stop")
    call.state.capture.stop()
    return call.answer(call.state.capture.state())


@route("POST", "learned/forget", "admin", takes=RuleName)
async def _forget(call: AdminRequest) -> ASGIApp:
    count, wanted = 0, structs.asdict(call.body)
    known = learned_document(call.state).rules
    if any(wanted.items() <= structs.asdict(row).items() for row in known):
        count = forget_rules(call.state, wanted)
    call.log("forget", **wanted, forgotten=count)
    return call.answer({"forgotten": count})


@route("POST", "doctor", "admin", takes=DoctorTask)
async def _doctor(call: AdminRequest) -> ASGIApp:
    admin, task = call.admin, call.body
    if admin.doctor is None:
        raise errors.UnknownPath("Only `gatepass serve` can run doctor. Run `gatepass doctor` on the machine.")
    if admin.doctor_turn.locked():
        raise errors.Overloaded("doctor already runs for another tab. Try again when it has ended.", retry_after_s=5)
    call.log("doctor", model=task.model, call=task.call)
    events = _doctor_events(admin.doctor, admin.doctor_turn, call.state, task)
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
            async with turn, aclosing(doctor(state.config, task, begin)) as steps:
                async for step in steps:
                    failed += step.failed
                    texts = {name: mask(text) for name, text in structs.asdict(step).items() if type(text) is str}
                    queue.put_nowait(_event("step", structs.replace(step, **texts)))
        except errors.GatepassError as error:
            ending = error_object(error)
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


@route("POST", "reload", "admin", ReloadResult, only="socket")
async def _reload(call: AdminRequest) -> ASGIApp:
    result = await call.admin.reloader.reload("command")
    return call.answer(result, CONFLICT if result.outcome == "refused" else 200)


def _event(name: str, data: Any) -> bytes:
    # JSON has no line breaks
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))
