"""The OpenAI surface as one raw ASGI route on the FastAPI app, and its OpenAPI from the operation table."""

from __future__ import annotations

import re
import secrets

from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from gatepass.api.asgi_client import AsgiClient
from gatepass.api.http_guard import DEPARTURES
from gatepass.call import Headers, Inbound, header
from gatepass.catalog import Catalog
from gatepass.gate import Gate
from gatepass.pipeline import handle

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")


class OperationsRoute(BaseRoute):
    """Every path that is not one of gatepass's own: the operation table says what exists.

    No FastAPI parameters, dependencies or body models: a request body's bytes are not ours to model,
    and a FastAPI endpoint costs 50 to 70 µs more than this.
    """

    def __init__(self, gate: Gate, catalog: Catalog) -> None:
        self._gate = gate
        self._catalog = catalog

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.FULL if scope["type"] == "http" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = tuple(scope["headers"])
        client = AsgiClient(receive, send, headers, scope.get("extensions", {}).get(DEPARTURES))
        await handle(_inbound(scope, headers, self._gate.clock.now()), self._gate, self._catalog, client)


def _inbound(scope: Scope, headers: Headers, now_s: float) -> Inbound:
    peer = scope.get("client")
    return Inbound(_request_id(headers), scope["method"], scope["path"], headers, peer[0] if peer else "", now_s)


def _request_id(headers: Headers) -> str:
    """The client's own x-request-id where it is a plain word, else a new one."""
    given = header(headers, b"x-request-id")
    if given is not None and _REQUEST_ID.match(given):
        return given.decode("ascii")
    return secrets.token_hex(12)
