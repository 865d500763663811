"""ASGI: API requests under any ASGI server, and gatepass's own pages under `gatepass serve`.

`AsgiRequestCycle` is the proxy's `RequestCycle` on `receive` and `send`, and `serve_request` serves an API request with
it. `serve_page` serves a page: it passes an HTTP/1.1 cycle to an ASGI application.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, MutableMapping
from io import BytesIO
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gatepass.cancel import timeout
from gatepass.errors import ClientGone, Overloaded
from gatepass.http_client.response_body import add_piece, taken
from gatepass.proxy.app_state import AppState
from gatepass.server.connection import LEAST_BYTES_PER_S, RECEIVE_S, STALL_S, slow_body
from gatepass.server.cycle import (
    BODILESS,
    UNSENT_BYTES,
    Fields,
    HttpRequestCycle,
    RequestIds,
    announced_bytes,
    too_large,
)
from gatepass.server.endpoint import ApiEndpoint
from gatepass.types import ClientRequest, Headers

_FORWARDED = frozenset((b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"))


class ResponseIncomplete(Exception):
    """A response cannot be completed after its head. The server must abort the connection, and not end the body."""

    def __init__(self) -> None:
        super().__init__("The response ended before it was complete. The access log of the request has the reason.")


def path_in(scope: Scope) -> tuple[str, str]:
    """Return where the app is mounted, and the path below. ASGI's `path` includes `root_path`; hypercorn's may not."""
    path, root_path = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    below = path.removeprefix(root_path)
    return (root_path, below) if not below or below.startswith("/") else (root_path, path)


def peer_in(scope: Scope, *, only_direct: bool = False) -> str:
    """Return the address of the client, "" if the server does not provide one (a Unix socket).

    `only_direct`: also "" for a request that a proxy forwarded. The server may have set the address from such a header,
    and any client can write the header.
    """
    if only_direct and any(name.lower() in _FORWARDED for name, _ in scope["headers"]):
        return ""
    client = scope.get("client")
    return str(client[0]) if client else ""


class AsgiRequestCycle:
    """One request/response cycle under ASGI (https://asgi.readthedocs.io/en/latest/specs/www.html)."""

    # A request has three tasks of gatepass: one handles it, one awaits the disconnect, one awaits `send`.
    # The server's task only waits for them. So its cancel scope never reaches the `finally` blocks of the request:
    # anyio cancels at every await.

    def __init__(self, scope: Scope, receive: Receive, send: Send, state: AppState) -> None:
        self.headers: Headers = tuple((bytes(name).lower(), bytes(value)) for name, value in scope["headers"])
        self._method: str = scope["method"]
        self._receive = receive
        self._send = send
        self._clock = state.clock
        self._tasks = state.in_flight.tasks
        self._in_flight = state.in_flight
        # HTTP/2 forbids `connection` and `upgrade` (RFC 9113 8.2.2)
        self._can_close = scope.get("http_version", "1.1") in ("1.0", "1.1")
        self.is_disconnected = self.has_begun = self.has_ended = self.gave_up = False
        self._is_ending = False
        """The server sends the last message. A disconnect that it now reports may be the end of the response."""
        self._on_disconnect: Callable[[], None] | None = None
        # the request body
        self._has_asked = self._is_refused = False
        self._watcher: asyncio.Task[None] | None = None
        # the response
        self._sender: asyncio.Task[None] | None = None
        self._head: Message | None = None
        self._is_bodiless = False
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._is_last = self._is_sending = False
        self._sending_since_s = 0.0
        self._queued = asyncio.Event()
        self._sent = asyncio.Event()

    async def serve(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, which uses this object as its RequestCycle.

        Raises the errors of `work` and `send`, and ResponseIncomplete.
        """
        # a separate task, because a server may cancel this call at every await, also in the cleanup of `work`
        handling = self._tasks.spawn(work, "request")
        is_broken = False
        try:
            await asyncio.wait((handling,))
            while not self.is_disconnected and (self._is_sending or self._unsent):
                await _wait_and_clear(self._sent)
            is_broken = self.has_begun and not (self.has_ended or self.is_disconnected)
        finally:
            handling.cancel()  # no effect unless the server cancelled this call
            helpers = [task for task in (self._watcher, self._sender) if task is not None]
            for task in helpers:  # the watcher waits for the disconnect of a client that may stay connected
                task.cancel()
            await asyncio.wait((handling, *helpers))
            self._watcher = self._sender = None
        try:
            for task in (handling, *helpers):
                if not task.cancelled():
                    task.result()  # raises the task's error
        finally:
            del task, handling, helpers  # the traceback of an error refers to this frame: break the reference cycle
        if is_broken:
            raise ResponseIncomplete

    # called by the proxy (`RequestCycle` in proxy/client_response.py has the contract)

    @property
    def connected_before_drain(self) -> bool:
        return False  # only the server knows its connections

    def set_caller(self, caller: str) -> None:
        """Do nothing: the server limits its connections."""

    async def read_body(self, limit_bytes: int, claim: Callable[[int], None] | None = None) -> bytes:
        if announced_bytes(self.headers) > limit_bytes:
            raise too_large(limit_bytes)
        self._has_asked = True
        pieces, size_bytes, began_s, is_whole = list[bytes | BytesIO](), 0, self._clock.now(), False
        while not is_whole:
            late_s = self._clock.now() - began_s - size_bytes / LEAST_BYTES_PER_S
            bound_s = max(0.0, RECEIVE_S - max(0.0, late_s))
            message = await timeout(self._clock, bound_s, self._receive(), slow_body())
            if message["type"] != "http.request":
                self._on_disconnect = None  # it cancels this task, which ends by itself
                self._disconnect()
                raise ClientGone
            piece = bytes(message.get("body", b""))  # ASGI: `body` and `more_body` are optional
            size_bytes += len(piece)
            try:
                if claim is not None:
                    claim(len(piece))
            except Overloaded:
                self._is_refused = True
                raise
            if size_bytes > limit_bytes:
                raise too_large(limit_bytes)
            add_piece(pieces, piece)
            is_whole = not message.get("more_body", False)
        self._watcher = self._tasks.spawn(self._watch(), "receive")
        return taken(pieces)

    def start(self, status: int, headers: Fields, length_bytes: int | None = None) -> None:
        self.has_begun = True
        self._is_bodiless = self._method == "HEAD" or status in BODILESS
        fields = [*headers] if length_bytes is None else [(b"content-length", b"%d" % length_bytes), *headers]
        if not self._can_close:
            fields = [field for field in fields if field[0] not in (b"connection", b"upgrade")]
        elif self._in_flight.draining or self._is_refused:
            fields.append((b"connection", b"close"))
        self._head = {"type": "http.response.start", "status": status, "headers": fields}
        if self._has_asked and self._watcher is None:
            self._watcher = self._tasks.spawn(self._watch(), "receive")

    async def write(self, data: bytes, *, last: bool = False) -> None:
        while self._unsent and not self.is_disconnected:
            await _wait_and_clear(self._sent)
        self._put(data, last=last)
        while last and not (self.has_ended or self.is_disconnected):
            await _wait_and_clear(self._sent)

    def try_write(self, data: bytes) -> bool:
        if self._unsent and self._unsent_bytes + len(data) > UNSENT_BYTES and not self.is_disconnected:
            return False
        self._put(data)
        return True

    def unread_s(self) -> float:
        return self._clock.now() - self._sending_since_s if self._is_sending else 0.0

    def abort(self) -> None:
        self.gave_up = True
        self._disconnect()

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        if self.is_disconnected:
            callback()
        else:
            self._on_disconnect = callback

    async def _watch(self) -> None:
        """Drop the rest of the body, and wait for the client to disconnect. Servers report that only after the body."""
        try:
            while (await self._receive())["type"] == "http.request":
                pass
        finally:
            if not self._is_ending:
                self._disconnect()

    def _disconnect(self) -> None:
        """The client has disconnected, or the response is complete."""
        if self.is_disconnected or self.has_ended:
            return
        self.is_disconnected = True
        self._unsent.clear()
        self._sent.set()
        callback, self._on_disconnect = self._on_disconnect, None
        if callback is not None:
            callback()

    # sending

    def _put(self, data: bytes, *, last: bool = False) -> None:
        if self.is_disconnected or not (data or last or self._head):
            return
        self._unsent.append(b"" if self._is_bodiless else data)
        self._unsent_bytes += len(data)
        self._is_last = last
        self._queued.set()
        if self._sender is None:
            self._sender = self._tasks.spawn(self._send_all(), "send")

    async def _send_all(self) -> None:
        """Send what `_put` adds. If the client reads nothing for STALL_S, end as if it disconnected."""
        try:
            while not self.has_ended:
                while not self._unsent:
                    await _wait_and_clear(self._queued)
                self._is_sending, self._sending_since_s = True, self._clock.now()
                await timeout(self._clock, STALL_S, self._send_unsent(), ResponseIncomplete())
                self._is_sending = False
                self._sent.set()
        except OSError:
            return  # the client has disconnected (ASGI 2.4)
        except ResponseIncomplete:
            self.gave_up = True
            raise
        finally:
            self._is_sending = False
            self._disconnect()

    async def _send_unsent(self) -> None:
        head, data, self._is_ending = self._head, b"".join(self._unsent), self._is_last
        self._head, self._unsent_bytes = None, 0
        self._unsent.clear()
        if head is not None:
            await self._send(head)
        await self._send({"type": "http.response.body", "body": data, "more_body": not self._is_ending})
        self.has_ended = self._is_ending
        if self.has_ended:
            self._on_disconnect = None


async def _wait_and_clear(event: asyncio.Event) -> None:
    """Wait until `event` is set, and clear it. Each event has only one waiting task."""
    await event.wait()
    event.clear()


_FRAMING = frozenset((b"connection", b"content-length", b"keep-alive", b"transfer-encoding"))
"""Header fields that the connection sets itself (RFC 9110 7.6.1). Event stream libraries set some of them."""


async def serve_page(app: ASGIApp, cycle: HttpRequestCycle, limit_bytes: int) -> None:
    """Serve `cycle` with `app`, and raise its errors. `receive` reports the client's disconnect."""
    page = _Page(cycle, limit_bytes)
    cycle.on_disconnect(page.disconnected.set)
    await app(page.scope(), page.receive, page.send)


class _Page:
    """`scope`, `receive` and `send` of ASGI 3 for one cycle."""

    def __init__(self, cycle: HttpRequestCycle, limit_bytes: int) -> None:
        self._cycle = cycle
        self._limit_bytes = limit_bytes
        self._is_read = False
        self.disconnected = asyncio.Event()

    def scope(self) -> MutableMapping[str, Any]:
        cycle = self._cycle
        raw_path, _, query = cycle.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": cycle.version,
            "method": cycle.method,
            "scheme": cycle.scheme,
            "path": cycle.path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": list(cycle.headers),
            "client": (cycle.peer, 0),
            "server": None,
        }

    async def receive(self) -> Message:
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": await self._cycle.read_body(self._limit_bytes), "more_body": False}
        await self.disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            fields = [(name.lower(), value) for name, value in message.get("headers", ())]
            # as an argument: the cycle adds the framing fields itself, so they are not in `kept`
            length = dict(fields).get(b"content-length")
            kept = [field for field in fields if field[0] not in _FRAMING]
            self._cycle.start(message["status"], kept, None if length is None else int(length))
        else:
            await self._cycle.write(message.get("body", b""), last=not message.get("more_body", False))


async def serve_request(endpoint: ApiEndpoint, ids: RequestIds, scope: Scope, receive: Receive, send: Send) -> None:
    state, cycle = endpoint.state, AsgiRequestCycle(scope, receive, send, endpoint.state)
    mounted_at, path = path_in(scope)
    named = dict(cycle.headers)
    client_request = ClientRequest(
        ids.of(named.get(b"x-request-id")),
        scope["method"],
        path,
        cycle.headers,
        peer_in(scope, only_direct=not state.authenticator.requires_key),
        state.clock.now(),
        scope["query_string"],
        mounted_at,
        named.get(b"user-agent", b""),
        b"content-encoding" in named,
    )
    await cycle.serve(endpoint.serve(client_request, cycle))
