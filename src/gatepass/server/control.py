"""Serve the control socket: the operator's pages and `POST /reload`, without a key and for all workers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gatepass.proxy.app_state import AppState
from gatepass.server.app import ERRORS
from gatepass.server.pages import OPERATOR, ops_routes
from gatepass.server.peers import Peers
from gatepass.server.reload import Reloader, ReloadResult

CONFLICT = 409
MAX_REQUEST_BYTES = 64 * 1024


class _BoundedConnection(HttpToolsProtocol):
    """A connection that closes if a request exceeds MAX_REQUEST_BYTES. uvicorn's protocol bounds no head."""

    _received_bytes = 0

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        if self._received_bytes > MAX_REQUEST_BYTES:
            self.transport.close()
        else:
            super().data_received(data)

    def on_message_complete(self) -> None:
        self._received_bytes = 0
        super().on_message_complete()


class ControlServer:
    """Serves the control socket of this process. All workers of a supervisor accept on the same one."""

    def __init__(
        self, listening: socket.socket, current: Callable[[], AppState], reloader: Reloader, peers: Peers | None
    ) -> None:
        self._listening = listening
        self._connections = ServerState()

        async def reload(_: Request) -> Response:
            results = [asdict(await reloader.reload("command"))] if peers is None else await peers.reload()
            result = merged_results(results)
            return JSONResponse(result, CONFLICT if result["outcome"] == "refused" else 200)

        routes = [*ops_routes(current, "", peers), Route("/reload", reload, methods=["POST"])]
        app = Starlette(routes=routes, exception_handlers=ERRORS)

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, OPERATOR: True}, receive, send)

        self._config = uvicorn.Config(
            serve, http="httptools", ws="none", lifespan="off", access_log=False, log_config=None, server_header=False
        )
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._config.load()

        def connection() -> asyncio.Protocol:
            return _BoundedConnection(self._config, self._connections, app_state={})

        self._server = await asyncio.get_running_loop().create_unix_server(connection, sock=self._listening)

    def close(self) -> None:
        """Accept no more connections, and close each one after its response."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections.connections):
                connection.shutdown()


def merged_results(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one result for all processes: `refused` if one of them refused, and all names and problems."""
    outcomes = [result["outcome"] for result in results]
    outcome = next((one for one in ("refused", "reloaded") if one in outcomes), "unchanged")
    names = [name for name in ReloadResult.__dataclass_fields__ if name != "outcome"]
    listed = {name: list(dict.fromkeys(text for result in results for text in result[name])) for name in names}
    return {"outcome": outcome, "processes": len(results), **listed}
