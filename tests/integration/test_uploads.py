"""Uploads and their rejections on real sockets: which side waits, and which client receives which response."""

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import cast

import pytest

from gatepass.proxy import uploads
from tests.integration.gateway import gateway, relaying
from tests.integration.scripted import Send, reply

NO = {"error": {"message": "no audio for you", "type": "invalid_request_error"}}
BEGIN = b'--b-1\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
FILE = b'--b-1\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
END = b"\r\n--b-1--\r\n"
MIB = 1024 * 1024


def announced(path: str, length_bytes: int) -> bytes:
    return (
        b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=b-1\r\n"
        b"content-length: %d\r\n\r\n" % (path.encode(), length_bytes)
    )


class Refusing(asyncio.Protocol):
    """An upstream that takes no body: it answers `after_s` its first bytes, and reads no others meanwhile."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._has_begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(self._after_s, self._refuse)

    def _refuse(self) -> None:
        self._transport.write(reply(NO, 403))
        self._transport.resume_reading()


@asynccontextmanager
async def refusing(after_s: float):
    """The root of such an upstream."""
    server = await asyncio.get_running_loop().create_server(lambda: Refusing(after_s), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_an_upstreams_refusal_reaches_a_client_that_is_slow_to_send():
    async with refusing(0) as url, gateway(upstream=url) as gp:
        reader, writer = await asyncio.open_connection("127.0.0.1", gp.port)
        writer.write(announced("/v1/files", 9_000_000) + BEGIN % (b"purpose", b"batch") + FILE + bytes(1000))
        reported = await reader.read()  # before RECEIVE_S, which applies to the client
        writer.close()
    assert reported.startswith(b"HTTP/1.1 403 ")
    assert b"no audio for you" in reported
    assert b'"hop":"upstream:chat"' in reported


def sent_and_answered(port: int, head: bytes, length_bytes: int) -> bytes:
    """As most clients do it: all of a body is sent, and only then is the response read. Raises OSError."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head)
        left = length_bytes
        while left:
            left -= client.send(bytes(min(left, 65536)))
        reported = b""
        while piece := client.recv(65536):
            reported += piece
    return reported


async def test_client_that_sends_all_first_receives_a_refusal_during_the_upload():
    """The upstream reads nothing for half a second, so gatepass stops reading; then the upstream rejects it."""
    begin = BEGIN % (b"purpose", b"batch") + FILE
    head = announced("/v1/files", len(begin) + 50 * MIB) + begin
    async with refusing(0.5) as url, gateway(upstream=url) as gp:
        reported = await asyncio.to_thread(sent_and_answered, gp.port, head, 50 * MIB)
    assert reported.startswith(b"HTTP/1.1 403 ")
    assert reported.count(b"no audio for you") == 1
    assert reported.endswith(b"}}")


@pytest.mark.parametrize("model", [b"", BEGIN % (b"model", b"m")], ids=["plain", "with a model that nobody asks for"])
async def test_file_of_an_operation_without_a_model_is_sent_at_once(model: bytes):
    begin, rest = BEGIN % (b"purpose", b"batch") + model + FILE, bytes(2 * MIB) + END
    async with relaying([Send(reply({"id": "file-1"}))]) as (upstream, gp):
        reader, writer = await asyncio.open_connection("127.0.0.1", gp.port)
        writer.write(announced("/v1/files", len(begin + rest)) + begin + rest[:MIB])
        await upstream.until(lambda: upstream.open == 1)
        writer.write(rest[MIB:])
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
    assert [request.body for request in upstream.received] == [begin + rest]


async def test_file_that_is_too_large_is_not_sent(monkeypatch):
    monkeypatch.setattr(uploads, "MOST_STREAMED_BYTES", 1000)
    async with relaying([Send(reply({}))]) as (upstream, gp):
        headers = {"content-type": "multipart/form-data; boundary=b-1"}
        answer = await gp.ask(FILE + bytes(1000) + END, "/v1/files", headers=headers).answer()
    assert (answer.status, answer.error["code"], upstream.connections) == (413, "body_too_large", 0)
    assert answer.error["message"] == "The form is larger than 1000 bytes, which is the most that gatepass relays."
