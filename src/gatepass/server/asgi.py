"""A request under any ASGI server: the pipeline's Client on `receive` and `send`.

A request has three tasks beside the server's own: one that handles it, the only one that awaits `receive`, and the only
one that awaits `send`. The server's own task waits for them, so that its cancel scope (anyio cancels at every await)
never reaches the `finally` blocks of the request.

gatepass's own pages: a Turn handed to an ASGI application.

The API: every path that is not one of gatepass's own pages, straight to the pipeline.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from itertools import count
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gatepass.cancel import timeout
from gatepass.errors import ClientGone, Overloaded
from gatepass.proxy.app_state import AppState
from gatepass.proxy.handler import handle
from gatepass.proxy.models import Catalog
from gatepass.server.cycle import AHEAD_BYTES, BODILESS, Fields, HttpRequestCycle, add_piece, announced_bytes, too_large
from gatepass.server.timeouts import slow_body, slow_upload
from gatepass.types import ClientRequest, Headers, header

RUN_BYTES = 64 * 1024
"""The largest run of events that waits behind the message that the server is taking. One event may be larger."""

_FORWARDED = frozenset((b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"))


class ResponseIncomplete(Exception):
    """A begun reply cannot be completed. The server must break the connection, and never end the body."""

    def __init__(self) -> None:
        super().__init__("The reply broke off after its head. The access line of the request has the reason.")


def path_in(scope: Scope) -> tuple[str, str]:
    """Where the app is mounted, and the path below. ASGI's `path` includes `root_path`; hypercorn's may not."""
    path, root_path = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    below = path.removeprefix(root_path)
    return (root_path, below) if not below or below.startswith("/") else (root_path, path)


def peer_in(scope: Scope, *, only_direct: bool = False) -> str:
    """The address of the client, "" if the server does not name one (a Unix socket).

    `only_direct`: also "" for a request that a proxy forwarded. The server may have put an address into the scope that
    such a header names, and anybody can write the header.
    """
    if only_direct and any(name.lower() in _FORWARDED for name, _ in scope["headers"]):
        return ""
    client = scope.get("client")
    return str(client[0]) if client else ""


class AsgiRequestCycle:
    """The other end of one ASGI exchange (https://asgi.readthedocs.io/en/latest/specs/www.html)."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, state: AppState) -> None:
        self.headers: Headers = tuple((bytes(name).lower(), bytes(value)) for name, value in scope["headers"])
        self._method: str = scope["method"]
        self._receive = receive
        self._send = send
        self._clock = state.clock
        self._tasks = state.in_flight.tasks
        self._live = state.in_flight
        self._can_close = scope.get("http_version", "1.1") in ("1.0", "1.1")
        self._limits = state.config.limits
        self.is_disconnected = self.has_begun = self.has_ended = False
        self._is_ending = False
        """The server is taking the last run: a disconnect that it tells of may be the end of the response."""
        self._left: Callable[[], None] | None = None
        # the request body
        self._receiver: asyncio.Task[None] | None = None
        self._pieces: list[bytes | bytearray] = []
        self._size_bytes = self._taken_bytes = 0
        self._ahead_bytes = 0
        self._claim: Callable[[int], None] | None = None
        self._refusal: Overloaded | None = None
        """Why no more of the body is held."""
        self._waited_s = 0.0
        self._is_whole = False
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        # the response
        self._sender: asyncio.Task[None] | None = None
        self._head: Message | None = None
        self._is_bodiless = False
        self._run: list[bytes] = []
        self._run_bytes = 0
        self._is_last = self._is_sending = False
        self._offered = asyncio.Event()
        self._sent = asyncio.Event()

    async def serve(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, which uses this object as its Client, to its end.

        Raises what `work` and `send` raise, and ResponseIncomplete.
        """
        handling = self._tasks.spawn(work, "request")
        is_broken = False
        try:
            await asyncio.wait((handling,))
            while not self.is_disconnected and (self._is_sending or self._run):
                await _next(self._sent)
            is_broken = self.has_begun and not (self.has_ended or self.is_disconnected)
        finally:
            handling.cancel()  # no effect unless the server cancelled this call
            helpers = [task for task in (self._receiver, self._sender) if task is not None]
            for task in helpers:
                task.cancel()
            await asyncio.wait((handling, *helpers))
        for task in (handling, *helpers):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        if is_broken:
            raise ResponseIncomplete

    # the pipeline calls these: call.Client

    @property
    def connected_before_drain(self) -> bool:
        """The server knows its connections, not gatepass."""
        return False

    def set_caller(self, caller: str) -> None:
        """The server counts connections, not gatepass."""

    async def read_body(self, limit_bytes: int, claim: Callable[[int], None] | None = None) -> bytes:
        if announced_bytes(self.headers) > limit_bytes:
            raise too_large(limit_bytes)
        self._claim = claim
        self._read(limit_bytes)
        bound_s = self._limits.receive_s
        arrival = self._until(lambda: self._is_whole or self._refusal is not None or self._size_bytes > limit_bytes)
        try:
            await timeout(self._clock, bound_s, arrival, slow_body(bound_s))
        finally:
            self._claim = None
        if self._refusal is not None:
            raise self._refusal
        if self._size_bytes > limit_bytes:
            raise too_large(limit_bytes)
        if not self._is_whole:
            raise ClientGone
        return self._take()

    async def read_piece(self, limit_bytes: int) -> bytes:
        if self._receiver is None and announced_bytes(self.headers) > limit_bytes:
            raise too_large(limit_bytes, "limits.upload_bytes")
        self._read(AHEAD_BYTES)
        limits, began_s = self._limits, self._clock.now()
        ahead_s = self._size_bytes / limits.upload_bytes_per_s - self._waited_s
        bound_s = max(0.0, limits.receive_s + min(0.0, ahead_s))
        arrival = self._until(lambda: self._is_whole or bool(self._pieces))
        await timeout(self._clock, bound_s, arrival, slow_upload(limits))
        self._waited_s += self._clock.now() - began_s
        if self._size_bytes > limit_bytes:
            raise too_large(limit_bytes, "limits.upload_bytes")
        if not self._pieces and not self._is_whole:
            raise ClientGone
        return self._take()

    def start(self, status: int, headers: Fields, length_bytes: int | None = None) -> None:
        self.has_begun = True
        self._is_bodiless = self._method == "HEAD" or status in BODILESS
        fields = [*headers] if length_bytes is None else [(b"content-length", b"%d" % length_bytes), *headers]
        if (self._live.draining or self._refusal is not None) and self._can_close:
            fields.append((b"connection", b"close"))
        self._head = {"type": "http.response.start", "status": status, "headers": fields}
        self._pieces.clear()
        self._taken.set()  # the receiver reads on: see `_read_all`

    async def write(self, data: bytes, *, last: bool = False) -> None:
        while self._run and not self.is_disconnected:
            await _next(self._sent)
        self._put(data, last=last)
        while last and not (self.has_ended or self.is_disconnected):
            await _next(self._sent)

    def try_write(self, data: bytes) -> bool:
        if self._run and self._run_bytes + len(data) > RUN_BYTES and not self.is_disconnected:
            return False
        self._put(data)
        return True

    def on_disconnect(self, left: Callable[[], None]) -> Callable[[], None]:
        self._left = left
        if self.is_disconnected:
            left()
        return self._unwatch

    def _unwatch(self) -> None:
        self._left = None

    # receiving

    def _read(self, ahead_bytes: int) -> None:
        """Let the receiver read on while at most `ahead_bytes` wait here."""
        self._ahead_bytes = ahead_bytes
        if self._receiver is None:
            self._receiver = self._tasks.spawn(self._read_all(), "receive")

    async def _read_all(self) -> None:
        """Collect the body, then wait for the client to leave. The only reader: servers wake one.

        Once the reply has begun, nobody takes more of the body. The rest is read and dropped, because a server reports
        a disconnect only behind it.
        """
        try:
            while (message := await self._receive())["type"] == "http.request":
                if self.has_begun or self._refusal is not None:
                    continue
                piece = bytes(message.get("body", b""))
                if piece and self._has_room(len(piece)):
                    add_piece(self._pieces, piece)
                    self._size_bytes += len(piece)
                self._is_whole = self._is_whole or not message.get("more_body", False)
                self._arrived.set()
                while self._is_full():
                    await _next(self._taken)
        finally:
            if not self._is_ending:
                self._depart()

    def _has_room(self, size_bytes: int) -> bool:
        """Whether a piece of so many bytes may be held. If not, `body` raises, and nothing more is held."""
        try:
            if self._claim is not None:
                self._claim(size_bytes)
        except Overloaded as error:
            self._refusal = error
            self._pieces.clear()
            return False
        return True

    def _is_full(self) -> bool:
        """Whether the client must wait until a piece is taken."""
        is_open = not (self._is_whole or self.has_begun)
        return is_open and self._size_bytes - self._taken_bytes > self._ahead_bytes

    async def _until(self, has_come: Callable[[], bool]) -> None:
        while not (has_come() or self.is_disconnected):
            await _next(self._arrived)

    def _take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        self._taken_bytes = self._size_bytes
        self._taken.set()
        return b"".join(pieces)

    def _depart(self) -> None:
        """There is no client any more, or the response is complete."""
        if self.is_disconnected or self.has_ended:
            return
        self.is_disconnected = True
        self._run.clear()
        for signal in (self._arrived, self._sent):
            signal.set()
        if self._left is not None:
            self._left()

    # sending

    def _put(self, data: bytes, *, last: bool = False) -> None:
        if self.is_disconnected or not (data or last or self._head):
            return
        self._run.append(b"" if self._is_bodiless else data)
        self._run_bytes += len(data)
        self._is_last = last
        self._offered.set()
        if self._sender is None:
            self._sender = self._tasks.spawn(self._send_all(), "send")

    async def _send_all(self) -> None:
        """Send one run after the other; a client that takes nothing for `limits.send_stall_s` counts as gone."""
        try:
            while not self.has_ended:
                while not self._run:
                    await _next(self._offered)
                self._is_sending = True
                await timeout(self._clock, self._limits.send_stall_s, self._send_run(), ResponseIncomplete())
                self._is_sending = False
                self._sent.set()
        except OSError:
            return  # the client has left (ASGI 2.4)
        finally:
            self._is_sending = False
            self._depart()

    async def _send_run(self) -> None:
        head, data, self._is_ending = self._head, b"".join(self._run), self._is_last
        self._head, self._run_bytes = None, 0
        self._run.clear()
        if head is not None:
            await self._send(head)
        await self._send({"type": "http.response.body", "body": data, "more_body": not self._is_ending})
        self.has_ended = self._is_ending


async def _next(event: asyncio.Event) -> None:
    """Wait until `event` is set, and clear it: each has one waiter."""
    await event.wait()
    event.clear()


_FRAMING = frozenset((b"connection", b"content-length", b"keep-alive", b"transfer-encoding"))
"""What the connection says itself (RFC 9110 7.6.1); an event stream's library says `connection: keep-alive`."""


async def show(app: ASGIApp, cycle: HttpRequestCycle, limit_bytes: int) -> None:
    """Have `app` answer `cycle`; raises what it raises. `receive` tells it that the client has left."""
    page = _Page(cycle, limit_bytes)
    unwatch = cycle.on_disconnect(page.leave)
    try:
        await app(page.scope(), page.receive, page.send)
    finally:
        unwatch()


class _Page:
    """One exchange of ASGI 3 (https://asgi.readthedocs.io/en/latest/specs/www.html)."""

    def __init__(self, cycle: HttpRequestCycle, limit_bytes: int) -> None:
        self._turn = cycle
        self._limit_bytes = limit_bytes
        self._is_read = False
        self._left = asyncio.Event()

    def scope(self) -> MutableMapping[str, Any]:
        cycle = self._turn
        raw_path, _, query = cycle.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": cycle.version,
            "method": cycle.method,
            "scheme": "http",
            "path": cycle.path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": list(cycle.headers),
            "client": (cycle.peer, 0),
            "server": None,
        }

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> Message:
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": await self._turn.read_body(self._limit_bytes), "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            fields = [(name.lower(), value) for name, value in message.get("headers", ())]
            length = dict(fields).get(b"content-length")
            kept = [field for field in fields if field[0] not in _FRAMING]
            self._turn.start(message["status"], kept, None if length is None else int(length))
        else:
            await self._turn.write(message.get("body", b""), last=not message.get("more_body", False))


_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")


class ApiEndpoint:
    """Serves what the operation table knows, from either front: our own HTTP/1.1 protocol, or any ASGI server.

    No FastAPI parameters, dependencies or body models: a request body's bytes are not ours to model, and a FastAPI
    endpoint costs 50 to 70 µs more than this.
    """

    def __init__(self, state: AppState) -> None:
        self.state = state
        self._catalog = Catalog(state)
        self._ids = RequestIds()

    def serve(self, cycle: HttpRequestCycle) -> Awaitable[None]:
        state = self.state
        name = given_id(cycle.headers) or self._ids.new()
        query = cycle.target.partition(b"?")[2]
        client_request = ClientRequest(
            name, cycle.method, cycle.path, cycle.headers, cycle.peer, state.clock.now(), query
        )
        return handle(client_request, state, self._catalog, cycle)

    async def serve_asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        state, client = self.state, AsgiRequestCycle(scope, receive, send, self.state)
        mounted_at, path = path_in(scope)
        client_request = ClientRequest(
            given_id(client.headers) or self._ids.new(),
            scope["method"],
            path,
            client.headers,
            peer_in(scope, only_direct=not state.authenticator.wants_key),
            state.clock.now(),
            scope["query_string"],
            mounted_at,
        )
        await client.serve(handle(client_request, state, self._catalog, client))


class RequestIds:
    """Names for requests: random for the process, counted in it. A random one for each costs a system call (3 µs)."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(8)
        self._numbers = count(1)

    def new(self) -> str:
        return f"{self._process}{next(self._numbers):08x}"


def given_id(headers: Headers) -> str | None:
    """The client's own x-request-id where it is a plain word."""
    given = header(headers, b"x-request-id")
    return given.decode("ascii") if given is not None and _REQUEST_ID.match(given) else None
