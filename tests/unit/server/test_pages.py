"""An HTTP request as ASGI: what an application receives, and how its response is sent."""

from __future__ import annotations

import asyncio
from typing import Any

from gatepass.server.asgi import serve_page
from gatepass.server.cycle import HttpRequestCycle
from tests.unit.http_client.loop import rest
from tests.unit.server.wire_client import DATE, WireClient, asked

HEAD = b"HTTP/1.1 200 OK\r\ndate: " + DATE + b"\r\n"


class App:
    """Notes what it receives, and answers with `fields` and `pieces`."""

    def __init__(self, fields: list[tuple[bytes, bytes]], *pieces: bytes) -> None:
        self.fields, self.pieces = fields, pieces
        self.scope: dict[str, Any] = {}
        self.received: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = dict(scope)
        self.received.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": self.fields})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    def served(self) -> WireClient:
        return WireClient(lambda cycle: serve_page(self, cycle, 100))


async def answered(app: App, raw: bytes) -> bytes:
    wire_client = app.served()
    wire_client.send(raw)
    await rest()
    return wire_client.received


async def test_an_application_receives_the_request_as_asgi_has_it():
    app = App([])
    await answered(app, asked(b"hello", line="POST /healthz%21?a=b%20c HTTP/1.1"))
    assert app.scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/healthz!",
        "raw_path": b"/healthz%21",
        "query_string": b"a=b%20c",
        "root_path": "",
        "headers": [(b"host", b"h"), (b"content-length", b"5")],
        "client": ("192.0.2.7", 0),
        "server": None,
    }
    assert app.received == [{"type": "http.request", "body": b"hello", "more_body": False}]


async def test_the_framing_is_the_connections_and_the_rest_the_applications():
    fields = [(b"Content-Length", b"2"), (b"connection", b"keep-alive"), (b"X-A", b"b")]
    assert await answered(App(fields, b"o", b"k"), asked(line="GET / HTTP/1.1")) == (
        HEAD + b"content-length: 2\r\nx-a: b\r\n\r\nok"
    )
    assert await answered(App([], b"ok"), asked(line="GET / HTTP/1.1")) == (
        HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    )


async def test_receive_reports_a_disconnect_and_not_before():
    received: list[str] = []

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        del scope, send
        while True:
            received.append((await receive())["type"])
            if received[-1] == "http.disconnect":
                return

    async def serve(cycle: HttpRequestCycle) -> None:
        await serve_page(waits, cycle, 100)

    wire_client = WireClient(serve)
    wire_client.send(asked(b"x"))
    await rest()
    assert received == ["http.request"]
    wire_client.transport.abort()
    await asyncio.sleep(0)
    await rest()
    assert received == ["http.request", "http.disconnect"]
