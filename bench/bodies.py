"""Cost of large bodies, replies and events: `python -m bench.bodies`, about a minute.

gatepass runs in this process between two transports in memory (bench/in_process.py). For each shape and size, the table
shows:

- msgspec: what msgspec needs to validate the same bytes, in ms: `Decoder(Raw)`, or `decode` for bytes beyond ASCII,
  because the first does not check UTF-8
- read: the CPU time that gatepass needs to accept or refuse a request body, and in brackets how much it may take:
  three times msgspec and 5 ms. Without the transport, and with the built-in rules.
- late: how much a timer of 1 ms was late at most during the whole request, in ms. 50 ms is the promise.
- peak: the memory that the request added, in MiB
- verdict: the status, the code of the error, and the changes in `x-gatepass-adapted`
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TextIO

import msgspec
import uvloop

from bench.candidates import CLIENT_KEY
from bench.in_process import Client, MemoryTransport, Upstream, connect
from bench.processes import clear_peak, peak_bytes, resident_bytes
from gatepass.errors import GatepassError
from gatepass.http_client.connection import Connection
from gatepass.http_client.message_head import Destination
from gatepass.normalize.rules import BUILT_IN_RULES, normalize
from gatepass.protocols import PROTOCOLS
from gatepass.protocols.operations import match_operation
from gatepass.server.process import COLLECT_AFTER
from gatepass.types import ClientRequest, Target

MIB = 1024 * 1024
PIECE_BYTES = 128 * 1024
ROUNDS, LATE_ROUNDS = 5, 3
FACTOR, SPARE_MS = 3, 5.0
LATE_MS = 50.0
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
VALUE, ANY = msgspec.json.Decoder(msgspec.Raw), msgspec.json.Decoder()
HELLO = b'{"model":"bench-chat","messages":[{"role":"user","content":"hi"}]%b}'
OK_CHAT = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"%b"}%b}],"usage":{"prompt_tokens":1,"completion_tokens":1,'
    b'"total_tokens":2}}'
)
EVENT_OF = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[%b]}\n\n'
END = EVENT_OF % b'{"index":0,"delta":{},"finish_reason":"stop"}' + b"data: [DONE]\n\n"


def listed(unit: bytes, size_bytes: int) -> bytes:
    return b",".join([unit] * max(1, size_bytes // (len(unit) + 1)))


def chat(members: bytes) -> bytes:
    return b'{"model":"bench-chat","messages":[%b]}' % members


def message(content: bytes) -> bytes:
    return b'{"role":"user","content":%b}' % content


def text(unit: str, size_bytes: int) -> bytes:
    return b'"%b"' % (unit.encode() * (size_bytes // len(unit.encode())))


def image(size_bytes: int) -> bytes:
    part = b'{"type":"image_url","image_url":{"url":"data:image/png;base64,%b"}}'
    return message(b"[%b]" % (part % (b"iVBORw0KGgoA" * (size_bytes // 12))))


def vectors(count: int, numbers: int, number: bytes = b"-0.0123456789") -> bytes:
    one = b"[%b]" % b",".join([number] * numbers)
    entries = (b'{"object":"embedding","index":%d,"embedding":%b}' % (at, one) for at in range(count))
    return b'{"object":"list","data":[%b],"model":"m","usage":{"prompt_tokens":1,"total_tokens":1}}' % b",".join(
        entries
    )


def logprobs(tokens: int) -> bytes:
    one = b'{"token":" ab","logprob":-0.0123,"bytes":[32,97,98]'
    entry = b'%b,"top_logprobs":[%b]}' % (one, b",".join([one + b"}"] * 20))
    return OK_CHAT % (b"a", b',"logprobs":{"content":[%b],"refusal":null}' % b",".join([entry] * tokens))


def stream(content: bytes) -> bytes:
    return EVENT_OF % (b'{"index":0,"delta":{"content":%b},"finish_reason":null}' % content) + END


@dataclass(frozen=True)
class Shape:
    """A request body, or a reply to a small request."""

    name: str
    make: Callable[[], bytes]
    path: str = CHAT
    request: bytes = b""
    """Empty: `make` returns the request body. Else it returns the reply to this request."""

    def sizes(self) -> tuple[bytes, bytes]:
        """Return the request body and the reply."""
        made = self.make()
        if self.request:
            return self.request, made
        count = 2048 if self.path == EMBEDDINGS else 0
        return made, vectors(count, 1) if count else OK_CHAT % (b"a", b"")


SHAPES = (
    Shape("chat, images, 30 MiB", lambda: chat(listed(image(10 * MIB), 30 * MIB))),
    Shape("chat, English, 30 MiB", lambda: chat(message(text("It is, so to say, a text. ", 30 * MIB)))),
    Shape("chat, one letter, 30 MiB", lambda: chat(message(text("a", 30 * MIB)))),
    Shape("chat, Chinese, 30 MiB", lambda: chat(message(text("漢字", 30 * MIB)))),
    Shape("chat, escapes, 30 MiB", lambda: chat(message(text("\\n", 30 * MIB)))),
    Shape("chat, JSON in a text, 10 MiB", lambda: chat(message(text('{\\"a\\": [1, 2]}', 10 * MIB)))),
    Shape("chat, messages of 100 B, 14 MiB", lambda: chat(listed(message(text("ab c", 100)), 14 * MIB))),
    Shape("chat, messages of 100 B, 30 MiB", lambda: chat(listed(message(text("ab c", 100)), 30 * MIB))),
    Shape("chat, messages of 1 KB, 14 MiB", lambda: chat(listed(message(text("ab c", 1000)), 14 * MIB))),
    Shape("chat, messages of 2 B, 14 MiB", lambda: chat(listed(message(b'"hi"'), 14 * MIB))),
    Shape("brackets, 499,000", lambda: HELLO % (b',"x":[%b]' % listed(b"[]", 166_000 * 3))),
    Shape("brackets, 30 MiB", lambda: HELLO % (b',"x":[%b]' % listed(b"[]", 30 * MIB))),
    Shape("60 levels, 499,000", lambda: HELLO % (b',"x":[%b]' % listed(b"[" * 60 + b"]" * 60, 499_000))),
    Shape("60 levels, 30 MiB", lambda: HELLO % (b',"x":[%b]' % listed(b"[" * 60 + b"]" * 60, 30 * MIB))),
    Shape("numbers, 30 MiB", lambda: HELLO % (b',"x":[%b]' % listed(b"1", 30 * MIB))),
    Shape("blanks, 30 MiB", lambda: HELLO % (b',"x":[%b]' % (b" " * 30 * MIB))),
    Shape("names at the top, 30 MiB", lambda: b'{"model":"bench-chat",%b}' % listed(b'"name":0', 30 * MIB)),
    Shape("a name of 30 MiB", lambda: HELLO % (b',"%b":0' % (b"n" * 30 * MIB))),
    Shape("embeddings, 2,048 texts, 8 MiB", lambda: embeddings(text("ab, c", 4096), 2048), EMBEDDINGS),
    Shape("embeddings, 300,000 token ids", lambda: embeddings(b"[%b]" % listed(b"12345", 879), 2048), EMBEDDINGS),
    Shape("reply: vectors, 64 MiB", lambda: vectors(1556, 3072), EMBEDDINGS, b'{"model":"bench-embed","input":[%b]}'),
    Shape("reply: answer, 2 MiB", lambda: OK_CHAT % (b"word " * (2 * MIB // 5), b""), CHAT, HELLO % b""),
    Shape("reply: answer, 15 MiB", lambda: OK_CHAT % (b"word " * (3 * MIB), b""), CHAT, HELLO % b""),
    Shape("reply: answer, 60 MiB", lambda: OK_CHAT % (b"word " * (12 * MIB), b""), CHAT, HELLO % b""),
    Shape("reply: logprobs, 5,000 tokens", lambda: logprobs(5_000), CHAT, HELLO % b""),
    Shape("reply: logprobs, 20,000 tokens", lambda: logprobs(20_000), CHAT, HELLO % b""),
    Shape(
        "reply: brackets, 60 MiB", lambda: OK_CHAT % (b"a", b',"x":[%b]' % listed(b"[]", 60 * MIB)), CHAT, HELLO % b""
    ),
    Shape("reply to a stream: 15 MiB", lambda: OK_CHAT % (b"word " * (3 * MIB), b""), CHAT, HELLO % b',"stream":true'),
    Shape("event: image, 4 MiB", lambda: stream(text("iVBORw0KGgoA", 4 * MIB - 999)), CHAT, HELLO % b',"stream":true'),
    Shape("event: escapes, 4 MiB", lambda: stream(text("\\n", 4 * MIB - 999)), CHAT, HELLO % b',"stream":true'),
    Shape(
        "event: numbers, 4 MiB", lambda: stream(b"[%b]" % listed(b"1", 4 * MIB - 999)), CHAT, HELLO % b',"stream":true'
    ),
    Shape("event: 5 MiB", lambda: stream(text("a", 5 * MIB)), CHAT, HELLO % b',"stream":true'),
)


def embeddings(unit: bytes, count: int) -> bytes:
    return b'{"model":"bench-embed","input":[%b]}' % b",".join([unit] * count)


def read(body: bytes, path: str) -> None:
    """Accept or refuse a request body, as the request path does."""
    request = ClientRequest("id", "POST", path, (), "127.0.0.1", 0.0)
    try:
        operation = match_operation("POST", path).operation
        call = PROTOCOLS[operation.protocol].parse(request, operation, body, "load")
        normalize(call, Target("mock", None), BUILT_IN_RULES)
    except GatepassError:
        pass


def least_ms(work: Callable[[], object]) -> float:
    best_s = float("inf")
    for _ in range(ROUNDS):
        began_s = time.thread_time()
        work()
        best_s = min(best_s, time.thread_time() - began_s)
    return best_s * 1000


class AnyStatus(Client):
    """A connection whose response may be an error."""

    head = b""
    last = b""

    def _receive(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 "):
            self.head = bytes(data[: data.index(b"\r\n\r\n") + 4])
        self.last = bytes(data[-600:])
        super()._receive(data.replace(data[:12], b"HTTP/1.1 200", 1) if data.startswith(b"HTTP/1.1 ") else data)

    async def send(self, request: Iterator[bytes]) -> None:
        """Send a request in pieces, as a socket receives it."""
        self._done = asyncio.get_running_loop().create_future()
        for piece in request:
            self._connection.data_received(piece)
            await asyncio.sleep(0)
            if self._done.done():
                break
        await self._done

    def verdict(self) -> str:
        status = self.head[9:12].decode()
        found = re.findall(rb'x-gatepass-adapted: ([^\r]+)|"code": ?"(\w+)"', self.head + self.last)
        return " ".join([status, *(b"".join(one).decode() for one in found)])


class WholeUpstream(Upstream):
    """Answers a request after its last byte."""

    async def dial(self, _: Destination, __: ssl.SSLContext, connection: Connection, ___: float) -> None:
        left_bytes = 0

        def receive(data: bytes) -> None:
            nonlocal left_bytes
            if left_bytes <= 0:
                head, _, _ = bytes(data).partition(b"\r\n\r\n")
                left_bytes = len(head) + 4 + int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
            left_bytes -= len(data)
            if left_bytes <= 0:
                self._answer(connection, 0)

        connection.connection_made(MemoryTransport(receive))


async def lateness(late: list[float]) -> None:
    while True:
        began_s = time.perf_counter()
        await asyncio.sleep(0.001)
        late.append((time.perf_counter() - began_s) * 1000 - 1)


async def measure(shape: Shape, upstream: Upstream, client: AnyStatus) -> tuple[float, int, str]:
    """Return how late a timer was in ms, the memory that the request added in bytes, and the verdict."""
    body, reply = shape.sizes()
    if b"%b" in body and shape.request:
        body = body % listed(b'"a"', 1556 * 4)
    kind = b"text/event-stream" if reply.startswith(b"data:") else b"application/json"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, len(reply))
    upstream.reply = (head, *pieces(reply))
    request = (
        f"POST {shape.path} HTTP/1.1\r\nhost: 127.0.0.1:8080\r\nauthorization: Bearer {CLIENT_KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    late = [0.0]
    gc.collect()
    clear_peak([os.getpid()])
    before_bytes = resident_bytes([os.getpid()])
    timer = asyncio.create_task(lateness(late))
    await asyncio.sleep(0.01)
    await client.send(iter((request, *pieces(body))))
    await asyncio.sleep(0.01)
    timer.cancel()
    return max(late), peak_bytes([os.getpid()]) - before_bytes, client.verdict()


def pieces(body: bytes) -> list[bytes]:
    return [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)]


async def run(log: TextIO) -> None:
    state, upstream, first = await connect(log, WholeUpstream())
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    print(f"{'shape and size':<34}{'msgspec':>8}{'read (allowed)':>20}{'late':>7}{'peak':>6}  verdict")
    for shape in SHAPES:
        made = shape.make()
        decoder = VALUE if made.isascii() else ANY
        msgspec_ms = least_ms(partial(decoder.decode, made)) if made[:1] == b"{" else 0.0
        cost = ""
        if not shape.request:
            took_ms, allowed_ms = least_ms(partial(read, made, shape.path)), FACTOR * msgspec_ms + SPARE_MS
            cost = f"{took_ms:.1f} ({allowed_ms:.0f}){'!' if took_ms > allowed_ms else ' '}"
        del made
        found = [
            await measure(shape, upstream, AnyStatus(first.context, first.server_config)) for _ in range(LATE_ROUNDS)
        ]
        late_ms, added_bytes, verdict = min(found)  # the machine may be busy
        mark = "!" if late_ms > LATE_MS else " "
        print(f"{shape.name:<34}{msgspec_ms:8.1f}{cost:>20}{late_ms:6.0f}{mark}{added_bytes / MIB:6.0f}  {verdict}")
    await state.aclose()


def main() -> None:
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        uvloop.run(run(nowhere))


if __name__ == "__main__":
    main()
