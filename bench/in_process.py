"""CPU time of gatepass's code without sockets: `python -m bench.in_process`, a few seconds.

gatepass runs in this process between two transports in memory: parsers, request path, connections and pools. The kernel
and the loop's reads and writes are left out. The fastest of several batches is the figure to watch during a change.
`python -m bench.profile` shows what sockets and libraries add.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, TextIO

import jwt
import msgspec
import uvloop
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from uvicorn.config import Config as ServerConfig
from uvicorn.server import ServerState

from bench.candidates import CLIENT_KEY
from bench.paths import BODIES
from bench.workloads import CHAT, EMBEDDINGS, write_bodies
from gatepass.auth.api_keys import hash_key
from gatepass.config.model import Config
from gatepass.http_client.connection import Connection
from gatepass.http_client.message_head import Destination
from gatepass.http_client.pool import Http1Transport
from gatepass.observability.log import configure
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.server.app import build_app
from gatepass.server.asgi import ApiEndpoint
from gatepass.server.connection import ClientConnection, ConnectionContext
from gatepass.server.process import connection_context

BATCHES, BATCH = 12, 150
EVENTS = 400
ROWS = 200
"""Rows of the table of callers, of which the last one fits."""
US_PER_S = 1_000_000

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nx-request-id: req-0123456789abcdef\r\n"
REPLY = (
    b'{"id":"chatcmpl-bench0000","object":"chat.completion","created":1740062666,"model":"bench","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"' + b"x" * 700 + b'"},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":18,"completion_tokens":246,"total_tokens":264}}'
)
VECTOR = b'{"object":"embedding","index":%d,"embedding":[' + b",".join([b"-0.0123456789"] * 1536) + b"]}"
VECTORS = (
    b'{"object":"list","data":[' + b",".join([VECTOR % index for index in range(16)]) + b'],"model":"bench",'
    b'"usage":{"prompt_tokens":16000,"total_tokens":16000}}'
)
EVENT = (
    b'data: {"id":"chatcmpl-bench0000","object":"chat.completion.chunk","created":1740062666,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":"%d "},"finish_reason":null}]}\n\n'
)
DONE = b"data: [DONE]\n\n"


class MemoryTransport(asyncio.Transport):
    """A transport that passes each write to `received` at once."""

    def __init__(self, received: Callable[[Any], None]) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self._received = received
        self._is_closing = False

    def write(self, data: Any) -> None:
        self._received(data)

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self._received(data)

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0


class Upstream:
    """Answers each request with `reply`, one piece in each iteration of the loop."""

    def __init__(self) -> None:
        self.reply: Sequence[bytes] = ()

    def set_reply(self, body: bytes) -> None:
        self.reply = (HEAD % b"application/json" + b"content-length: %d\r\n\r\n" % len(body) + body,)

    def set_stream(self, events: int, joined: int) -> None:
        """Set a stream as the reply, with `joined` events in each piece."""
        every = [EVENT % number for number in range(events)]
        pieces = [b"".join(every[at : at + joined]) for at in range(0, events, joined)] + [DONE]
        chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
        head = HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\n"
        self.reply = (head + chunks[0], *chunks[1:-1], chunks[-1] + b"0\r\n\r\n")

    async def dial(self, _: Destination, __: ssl.SSLContext, connection: Connection, ___: float) -> None:
        connection.connection_made(MemoryTransport(lambda _: self._answer(connection, 0)))

    def _answer(self, connection: Connection, at: int) -> None:
        asyncio.get_running_loop().call_soon(self._send, connection, at)

    def _send(self, connection: Connection, at: int) -> None:
        data = self.reply[at]
        for start in range(0, len(data), 128 * 1024):
            part = data[start : start + 128 * 1024]
            connection.get_buffer(-1)[: len(part)] = part
            connection.buffer_updated(len(part))
        if at + 1 < len(self.reply):
            self._answer(connection, at + 1)


class Client:
    """One keep-alive connection to gatepass."""

    def __init__(self, reception: ConnectionContext, config: ServerConfig) -> None:
        self.context, self.server_config = reception, config
        self._connection = ClientConnection(reception, config=config, server_state=ServerState(), app_state={})
        self._connection.connection_made(MemoryTransport(self._receive))
        self._done: asyncio.Future[None] | None = None
        self._ends = b""
        self._left_bytes = 0

    def _receive(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1"):
            if not data.startswith(b"HTTP/1.1 200"):
                raise AssertionError(data[:500])
            head = data[: data.index(b"\r\n\r\n") + 4].lower()
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._left_bytes = int(length) + len(head) if length else -1
        if self._left_bytes >= 0:
            self._left_bytes -= len(data)
            is_over = self._left_bytes == 0
        else:
            is_over = data.endswith(b"0\r\n\r\n")
        if is_over and self._done is not None:
            self._done.set_result(None)

    async def ask(self, request: bytes) -> None:
        self._done = asyncio.get_running_loop().create_future()
        for start in range(0, len(request), 256_000):
            self._connection.data_received(request[start : start + 256_000])
        await self._done


def create_state(upstream: Upstream, more: Mapping[str, Any]) -> AppState:
    """Return gatepass's state with a hashed key, a renamed model and a token, as in the benchmark.

    `more` has further blocks of the configuration.
    """
    models = ("bench-chat", "bench-burst-200", "bench-embed")
    config = Config.model_validate(
        {
            "credentials": {"token": {"type": "static", "token": "t" * 800}},
            "upstreams": {"mock": {"base_url": "http://127.0.0.1:9/v1", "credential": "token"}},
            "models": {name: {"upstream": "mock", "name": "deployed"} for name in models},
            "access": {"keys": [{"name": "load", "hash": hash_key(CLIENT_KEY)}]},
            **more,
        }
    )
    state = create_app_state(config)
    transport = Http1Transport(100, ssl.create_default_context(), upstream.dial)
    mock = msgspec.structs.replace(state.upstreams["mock"], transport=transport)
    return msgspec.structs.replace(state, upstreams={"mock": mock})


def request(name: str, path: str = CHAT, fields: str = "", key: str = CLIENT_KEY) -> bytes:
    """Return a request with a body of BODIES and further header `fields`, each with its line end."""
    body = (BODIES / f"{name}.json").read_bytes()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:8080\r\nuser-agent: bench\r\naccept: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n{fields}"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def least_us(client: Client, requests: Iterator[bytes], batch: int) -> float:
    """Return the CPU time of one request in µs, from the fastest of several batches."""
    best_s = float("inf")
    for _ in range(BATCHES):
        began_s = time.process_time()
        for _ in range(batch):
            await client.ask(next(requests))
        best_s = min(best_s, (time.process_time() - began_s) / batch)
    return best_s * US_PER_S


async def connect(log: TextIO, upstream: Upstream | None = None, /, **more: Any) -> tuple[AppState, Upstream, Client]:
    """Return gatepass, an upstream and a client that are connected. `more` has blocks of the configuration."""
    upstream = upstream or Upstream()
    state = create_state(upstream, more)
    configure("info", state.config.log.format or "json", state.redactor, log)
    state.start()
    app = build_app(lambda: ApiEndpoint(state), state.config)
    client = Client(connection_context(app, ApiEndpoint(state)), ServerConfig(app))
    return state, upstream, client


async def chat_us(log: TextIO, requests: Iterator[bytes], batch: int, /, **more: Any) -> float:
    """Return µs for a small chat of a gatepass with the blocks `more` in its configuration."""
    state, upstream, client = await connect(log, **more)
    upstream.set_reply(REPLY)
    us = await least_us(client, requests, batch)
    await state.aclose()
    return us


def callers(folder: Path) -> tuple[dict[str, Any], Iterator[bytes]]:
    """Return the block `access` with a table of ROWS rows, and small chats that each send a new token."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    key_set = folder / "keys.json"
    key_set.write_text(json.dumps({"keys": [RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": "1"}]}))
    rows = [{"claim": "realm_access.roles", "contains": f"role-{row}", "name": f"team-{row}"} for row in range(ROWS)]
    issuer, audience = "https://login.corp.example", "api://gatepass"
    now_s = int(time.time())
    claims = {"iss": issuer, "aud": audience, "sub": "user", "iat": now_s, "exp": now_s + 3600}
    claims |= {"realm_access": {"roles": [f"role-{ROWS - 1}"]}}

    def chats() -> Iterator[bytes]:
        for number in range(BATCHES * (BATCH // 10)):
            token = jwt.encode({**claims, "jti": str(number)}, key, "RS256", {"kid": "1", "typ": "at+jwt"})
            yield request("chat", key=token)

    entry = {"issuer": issuer, "audience": audience, "jwks": str(key_set), "callers": rows}
    return {"jwt": [entry]}, iter([*chats()])


async def measure(log: TextIO) -> dict[str, float]:
    """Return µs for small chats, for an embeddings reply, and for an event alone and in a piece of eight."""
    state, upstream, client = await connect(log)
    upstream.set_reply(REPLY)
    found = {"small chat": await least_us(client, repeat(request("chat")), BATCH)}
    upstream.set_reply(VECTORS)
    embeddings = repeat(request("embeddings", EMBEDDINGS))
    found["embeddings, 64 KB in, 340 KB out"] = await least_us(client, embeddings, BATCH // 10)
    for joined in (1, 8):
        upstream.set_stream(8, joined)
        few = await least_us(client, repeat(request("burst")), BATCH)
        upstream.set_stream(8 + EVENTS, joined)
        many = await least_us(client, repeat(request("burst")), BATCH // 10)
        found[f"event, {joined} in a piece"] = (many - few) / EVENTS
        found[f"stream of 8 events, {joined} in a piece"] = few
    await state.aclose()
    found["small chat, log as text"] = await chat_us(log, repeat(request("chat")), BATCH, log={"format": "text"})
    with tempfile.TemporaryDirectory() as folder:
        access, chats = callers(Path(folder))
        found[f"small chat, new token, {ROWS} rows"] = await chat_us(log, chats, BATCH // 10, access=access)
    return found


def main() -> None:
    write_bodies()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        found = uvloop.run(measure(nowhere))
    for what, us in found.items():
        print(f"{what:<36}{us:8.2f} µs")


if __name__ == "__main__":
    main()
