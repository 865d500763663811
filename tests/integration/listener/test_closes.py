"""An idle connection that gatepass closes: its client sees the end before it can send another request."""

import asyncio
import socket

import pytest

from gatepass.server import connection, process
from gatepass.server.connection import ClientConnection
from tests.integration.gateway import gateway
from tests.waiting import until

UNREAD = socket.MSG_PEEK | socket.MSG_DONTWAIT


@pytest.mark.parametrize(("why", "close"), [("drain", "_linger"), ("stop", "_linger"), ("idle", "_close")])
async def test_the_client_sees_the_end_of_an_idle_connection_before_anything_else_runs(
    why: str, close: str, monkeypatch: pytest.MonkeyPatch
):
    """A request that came between the last look for one and the end of the connection would be lost."""
    seen = list[bytes | None]()
    closes = getattr(ClientConnection, close)

    def closed(self: ClientConnection) -> None:
        closes(self)
        try:
            seen.append(client.recv(1, UNREAD))
        except BlockingIOError:
            seen.append(None)

    monkeypatch.setattr(connection, "DRAIN_IDLE_S", 0.01)
    monkeypatch.setattr(connection, "DRAIN_RECHECK_S", 0.1)
    monkeypatch.setattr(process, "IDLE_TIMEOUT_S", 2.0 if why == "idle" else 95.0)
    async with gateway(upstream="http://127.0.0.1:9") as gp:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", gp.port)) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, b"GET /v1/unknown HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert b"404" in await loop.sock_recv(client, 65_536)
            monkeypatch.setattr(ClientConnection, close, closed)
            if why == "drain":
                gp.server.should_exit = True
            elif why == "stop":
                for one in list(gp.server.server_state.connections):
                    one.shutdown()
            await until(lambda: seen)
            assert await loop.sock_recv(client, 1) == b""
    assert seen[0] == b""
