"""A client's connection without a socket: the test is the client, byte by byte."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from gatepass.config.model import Limits
from gatepass.errors import GatepassError
from gatepass.http_client.loop_turns import LoopTurns
from gatepass.proxy.in_flight import InFlightRequests
from gatepass.server.connection import ClientConnection, ConnectionContext
from gatepass.server.connection_shares import ConnectionShares, UnfinishedHeads
from gatepass.server.cycle import HttpRequestCycle
from tests.unit.http_client import wire

IDLE_TIMEOUT_S = 95.0
DATE = b"Fri, 20 Nov 2026 11:00:00 GMT"

Serve = Callable[[HttpRequestCycle], Coroutine[Any, Any, None]]


class FakeTransport(wire.FakeTransport):
    """That of a client. Closing reaches the protocol in the loop's next iteration, as on a socket."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__(protocol)
        self.socket: socket.socket | None = None
        """Its bytes have arrived, and the loop has not read them."""
        self.ended = False
        self.pieces_at_end = 0
        self.aborted = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"socket": self.socket, "peername": ("192.0.2.7", 4711)}.get(name, default)

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended, self.pieces_at_end = True, len(self.written)

    def close(self) -> None:
        self.end(None)

    def abort(self) -> None:
        self.aborted = True
        self.close()


class WireClient:
    """One connection, made; what it asks is served by `serve`."""

    def __init__(
        self,
        serve: Serve,
        made: type[ClientConnection] = ClientConnection,
        shares: ConnectionShares[Any] | None = None,
        heads: UnfinishedHeads | None = None,
        turns: LoopTurns | None = None,
    ) -> None:
        self.cycles: list[HttpRequestCycle] = []
        self.state = ServerState()
        self.state.default_headers = [(b"date", DATE)]
        self._serve = serve
        self.refused: list[tuple[str, str]] = []
        self.live = InFlightRequests(limit=1)
        bounds = Limits()
        if shares is None:
            shares = ConnectionShares(bounds.connections, bounds.unauthenticated, callers=1)
        heads = heads or UnfinishedHeads(bounds.heads_bytes)
        reception = ConnectionContext(
            *(self._note, self._refuse, IDLE_TIMEOUT_S, shares, heads, self.live),
            turns=turns or LoopTurns(),
        )
        config = Config("nowhere:app")
        self.connection = made(reception, config=config, server_state=self.state, app_state={})
        self.transport = FakeTransport(self.connection)
        self.connection.connection_made(self.transport)

    def _note(self, cycle: HttpRequestCycle) -> Coroutine[Any, Any, None]:
        self.cycles.append(cycle)
        return self._serve(cycle)

    def _refuse(self, error: GatepassError, peer: str) -> None:
        self.refused.append((error.code, peer))

    def send(self, data: bytes) -> None:
        if not self.transport.closing:
            self.connection.data_received(data)

    @property
    def received(self) -> bytes:
        return b"".join(self.transport.written)

    @property
    def statuses(self) -> list[int]:
        return [int(part[:3]) for part in self.received.split(b"HTTP/1.1 ")[1:]]


def asked(body: bytes = b"", *fields: str, line: str = "POST /v1/x HTTP/1.1", length: bool = True) -> bytes:
    """A request with `fields`, and a content-length unless the caller passes another."""
    sized = [f"content-length: {len(body)}"] if length and body else []
    return "\r\n".join([line, "Host: h", *fields, *sized, "", ""]).encode() + body
