"""The API: every path that is not one of gatepass's own pages, straight to the pipeline."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable
from itertools import count

from starlette.types import Receive, Scope, Send

from gatepass.proxy.app_state import Gate
from gatepass.proxy.handler import handle
from gatepass.proxy.models import Catalog
from gatepass.server.asgi import AsgiClient, path_in, peer_in
from gatepass.server.cycle import Turn
from gatepass.types import Headers, Inbound, header

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")


class Operations:
    """Serves what the operation table knows, from either front: our own HTTP/1.1 protocol, or any ASGI server.

    No FastAPI parameters, dependencies or body models: a request body's bytes are not ours to model, and a FastAPI
    endpoint costs 50 to 70 µs more than this.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._catalog = Catalog(gate)
        self._ids = RequestIds()

    def serve(self, turn: Turn) -> Awaitable[None]:
        gate = self.gate
        name = given_id(turn.headers) or self._ids.new()
        query = turn.target.partition(b"?")[2]
        inbound = Inbound(name, turn.method, turn.path, turn.headers, turn.peer, gate.clock.now(), query)
        return handle(inbound, gate, self._catalog, turn)

    async def serve_asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        gate, client = self.gate, AsgiClient(scope, receive, send, self.gate)
        mounted_at, path = path_in(scope)
        inbound = Inbound(
            given_id(client.headers) or self._ids.new(),
            scope["method"],
            path,
            client.headers,
            peer_in(scope, only_direct=not gate.doors.wants_key),
            gate.clock.now(),
            scope["query_string"],
            mounted_at,
        )
        await client.serve(handle(inbound, gate, self._catalog, client))


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
