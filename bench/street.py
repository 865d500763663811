"""What the street itself costs: `python -m bench.street`, a few seconds.

gatepass's ASGI application in this process, with an upstream and a client that cost next to nothing: no
sockets, no server, no HTTP parser. The least of several batches is what the code costs when nothing
disturbs it: the figure to watch while changing it. What sockets and libraries add: `python -m bench.profile`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from dataclasses import replace
from typing import Any, TextIO

import uvloop

from bench.candidates import CLIENT_KEY
from bench.places import BODIES
from bench.workloads import CHAT, write_bodies
from gatepass.admission.keys import hash_key
from gatepass.app import build_app
from gatepass.call import Headers, Request
from gatepass.config.model import Config
from gatepass.gate import Gate, build_gate
from gatepass.observe.log import configure

BATCHES, BATCH = 12, 150
EVENTS = 400
US_PER_S = 1_000_000

Message = MutableMapping[str, Any]
Ask = Callable[[], Awaitable[None]]

REPLY = (
    b'{"id":"chatcmpl-bench0000","object":"chat.completion","created":1740062666,"model":"bench","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"' + b"x" * 700 + b'"},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":18,"completion_tokens":246,"total_tokens":264}}'
)
EVENT = (
    b'data: {"id":"chatcmpl-bench0000","object":"chat.completion.chunk","created":1740062666,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":"%d "},"finish_reason":null}]}\n\n'
)
DONE = b"data: [DONE]\n\n"


class Answer:
    """A reply whose pieces are all here."""

    def __init__(self, content_type: bytes, pieces: Iterable[bytes]) -> None:
        self.status = 200
        self.headers: Headers = ((b"content-type", content_type), (b"x-request-id", b"req-0123456789abcdef"))
        self._pieces = iter(pieces)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration

    async def aclose(self) -> None:
        pass


class Upstream:
    """A transport that answers at once: a small chat, or a stream of `events` events."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def stream(self, events: int, joined: int) -> None:
        """`joined` events come in one piece."""
        every = [EVENT % number for number in range(events)]
        self.pieces = [b"".join(every[at : at + joined]) for at in range(0, events, joined)] + [DONE]

    async def send(self, request: Request) -> Answer:
        del request
        return Answer(b"text/event-stream", self.pieces) if self.pieces else Answer(b"application/json", (REPLY,))

    async def aclose(self) -> None:
        pass


def complete_gate(upstream: Upstream) -> Gate:
    """A Gate with a key by hash, a rename and a token, as in the benchmark."""
    config = Config.model_validate(
        {
            "credentials": {"token": {"type": "static", "token": "t" * 800}},
            "upstreams": {"mock": {"base_url": "http://127.0.0.1:9/v1", "credential": "token"}},
            "models": {name: {"upstream": "mock", "name": "deployed"} for name in ("bench-chat", "bench-burst-200")},
            "access": {"keys": [{"name": "load", "hash": hash_key(CLIENT_KEY)}]},
        }
    )
    gate = build_gate(config)
    return replace(gate, hops={"mock": replace(gate.hops["mock"], transport=upstream)})


def client(app: Any, body: bytes) -> Ask:
    """Asks `app` once per call, and reads all of the answer."""
    headers = (
        (b"host", b"127.0.0.1:8080"),
        (b"user-agent", b"bench"),
        (b"accept", b"application/json"),
        (b"authorization", b"Bearer " + CLIENT_KEY.encode()),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    )
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "client": ("127.0.0.1", 1)}

    async def ask() -> None:
        messages = iter(({"type": "http.request", "body": body, "more_body": False},))

        async def receive() -> Message:
            for message in messages:
                return message
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] != 200:
                raise AssertionError(message)

        await app({**scope, "query_string": b"", "root_path": ""}, receive, send)

    return ask


async def least_us(ask: Ask, batch: int) -> float:
    """The CPU microseconds of one `ask`, in the fastest of several batches."""
    best_s = float("inf")
    for _ in range(BATCHES):
        began_s = time.process_time()
        for _ in range(batch):
            await ask()
        best_s = min(best_s, (time.process_time() - began_s) / batch)
    return best_s * US_PER_S


async def measured(log: TextIO) -> dict[str, float]:
    """Microseconds of a small chat, and of one event that comes alone, or with seven others."""
    upstream = Upstream()
    gate = complete_gate(upstream)
    configure("info", "json", gate.redactor, log)
    gate.start()
    app = build_app(gate)
    chat = client(app, (BODIES / "chat.json").read_bytes())
    stream = client(app, (BODIES / "burst.json").read_bytes())
    found = {"small chat": await least_us(chat, BATCH)}
    for joined in (1, 8):
        upstream.stream(8, joined)
        few = await least_us(stream, BATCH)
        upstream.stream(8 + EVENTS, joined)
        found[f"event, {joined} in a piece"] = (await least_us(stream, BATCH // 10) - few) / EVENTS
        found[f"stream of 8 events, {joined} in a piece"] = few
    await gate.aclose()
    return found


def main() -> None:
    write_bodies()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        found = uvloop.run(measured(nowhere))
    for what, us in found.items():
        print(f"{what:<36}{us:8.2f} µs")


if __name__ == "__main__":
    main()
