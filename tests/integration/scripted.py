"""An upstream (or an issuer) that plays bytes: what it sends, when, and how it ends, to the byte.

::

    async with Scripted([*begin_stream(), Send(chunk(event(one))), Pause(0.2), Rst()]) as upstream:
        ...  # let gatepass talk to upstream.url
        await upstream.left()
    assert upstream.received[0].json()["model"] == "m"

Each request plays the next dialogue; the last one is played for every request after it. A dialogue
that ends without Fin, Rst or Hold keeps the connection for the next request. A dialogue stops the
moment the other side closes.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

BACKLOG = 1024
"""Connections that wait to be accepted; asyncio's own default is 100, and beyond it some are reset."""

TURNS_OF_ACCEPT = 3
"""Turns of the loop in which a connection that was accepted just now gets its transport, which must be closed too.

asyncio gives it none after the server's close, and leaves its socket open.
"""


@dataclass(frozen=True, slots=True)
class Send:
    """Write `data` (in pieces of `piece_bytes` where that is set), `pause_s` after each piece."""

    data: bytes
    piece_bytes: int | None = None
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing for this time, for a bound that is tested in real time. Use Wait for a reply that must follow an
    event."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Go on when the test sets `event`."""

    event: asyncio.Event


@dataclass(frozen=True, slots=True)
class Fin:
    """Close well: the other side reads to the end."""


@dataclass(frozen=True, slots=True)
class Rst:
    """Close as a crash does: the other side's next read or write fails."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Say no more until the other side closes."""


Move = Send | Pause | Wait | Fin | Rst | Hold
Dialogue = Sequence[Move]


@dataclass(frozen=True, slots=True)
class Received:
    """One whole request. `connection` starts at 1, header names are in lower case."""

    connection: int
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        return json.loads(self.body)


class Scripted:
    """Plays `dialogues` on a free loopback port; see the module.

    With `answer` the request chooses its dialogue. With `sends_first` the server plays the first dialogue before it
    reads a request. `send_buffer_bytes` limits the kernel's buffer, for tests of back-pressure.

    `received` holds the whole requests in order. `connections` is the number of connections opened so far, `open` the
    number of open ones, `sent_bytes` the number of bytes that the kernel accepted.
    """

    def __init__(
        self,
        *dialogues: Dialogue,
        answer: Callable[[Received], Dialogue] | None = None,
        sends_first: bool = False,
        tls: ssl.SSLContext | None = None,
        send_buffer_bytes: int | None = None,
    ) -> None:
        if not dialogues and answer is None:
            raise ValueError("expects a dialogue at least, or answer")
        self._dialogues = dialogues
        self._answer = answer
        self._sends_first = sends_first
        self._tls = tls
        self._send_buffer_bytes = send_buffer_bytes
        self._changed = asyncio.Event()
        self._talks: set[_Talk] = set()
        self._faults: list[BaseException] = []
        self._position = 0
        self._port = 0
        self.received: list[Received] = []
        self.connections = 0
        self.sent_bytes = 0

    @property
    def open(self) -> int:
        return len(self._talks)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        self._listener = listener = socket.create_server(("127.0.0.1", 0))
        if self._send_buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer_bytes)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Talk(self), sock=listener, ssl=self._tls, backlog=BACKLOG)
        self._port = listener.getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._server.is_serving():  # some tests have closed it
            asyncio.get_running_loop().remove_reader(self._listener)
        for _turn in range(TURNS_OF_ACCEPT):
            await asyncio.sleep(0)
        self._server.close()
        for talk in list(self._talks):
            talk.transport.abort()
        await self.until(lambda: not self._talks)
        if self._faults and kind is None:
            raise self._faults[0]

    async def requested(self, count: int = 1) -> None:
        """Wait until `count` whole requests have come."""
        await self.until(lambda: len(self.received) >= count)

    async def left(self) -> None:
        """Wait until there was a connection and none is open."""
        await self.until(lambda: self.connections > 0 and not self._talks)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`: asked again at every connection, request, piece sent, and end."""
        while not holds():
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _opened(self, talk: _Talk) -> int:
        self._talks.add(talk)
        self.connections += 1
        self._notify()
        return self.connections

    def _closed(self, talk: _Talk) -> None:
        self._talks.discard(talk)
        self._notify()

    def _failed(self, fault: BaseException) -> None:
        """The script failed, for example at a request that is not HTTP. The test fails at its end."""
        self._faults.append(fault)
        self._notify()

    def _took(self, count: int) -> None:
        self.sent_bytes += count
        self._notify()

    def _answer_to(self, request: Received) -> Dialogue:
        self.received.append(request)
        self._notify()
        return self._answer(request) if self._answer is not None else self._next()

    def _next(self) -> Dialogue:
        dialogue = self._dialogues[min(self._position, len(self._dialogues) - 1)]
        self._position += 1
        return dialogue


class _Talk(asyncio.Protocol):
    """One connection. Its task plays; the other side's end cancels it."""

    transport: asyncio.Transport

    def __init__(self, owner: Scripted) -> None:
        self._owner = owner
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        # asyncio looks at the socket's `proto`, which is 0 here, and does not disable Nagle's algorithm (40 ms)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # a drain then means that the kernel accepted all bytes; with 0 a TLS transport of asyncio stays paused
        self.transport.set_write_buffer_limits(high=1)
        self._task = asyncio.get_running_loop().create_task(self._talk(self._owner._opened(self)))
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._owner._failed(fault)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._task.cancel()
        self._owner._closed(self)

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._more.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def _talk(self, number: int) -> None:
        playing = await self._play(self._owner._next()) if self._owner._sends_first else True
        while playing:
            playing = await self._play(self._owner._answer_to(await self._request(number)))

    async def _play(self, dialogue: Dialogue) -> bool:
        """True where the connection is to be kept."""
        for move in dialogue:
            match move:
                case Send():
                    await self._send(move)
                case Pause(delay_s):
                    await asyncio.sleep(delay_s)
                case Wait(event):
                    await event.wait()
                case Hold():
                    await asyncio.Event().wait()
                case Fin():
                    self.transport.close()
                    return False
                case Rst():
                    self._reset()
                    return False
        return True

    async def _send(self, move: Send) -> None:
        for piece in pieces(move.data, move.piece_bytes or max(len(move.data), 1)):
            self.transport.write(piece)
            await self._writable.wait()
            self._owner._took(len(piece))
            await asyncio.sleep(move.pause_s)

    def _reset(self) -> None:
        """socket(7): closing with a linger of zero seconds sends RST."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def _request(self, number: int) -> Received:
        head = (await self._until(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ", 2)
        split = [line.partition(":") for line in lines if line]
        headers = tuple((name.lower(), value.strip()) for name, _, value in split)
        return Received(number, method, target, headers, await self._body(dict(headers)))

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return await self._exactly(int(headers.get("content-length", "0")))
        body = b""
        while size := int((await self._until(b"\r\n")).partition(b";")[0], 16):
            body += await self._exactly(size)
            await self._until(b"\r\n")
        while (await self._until(b"\r\n")) != b"\r\n":
            pass  # trailers
        return body

    async def _until(self, mark: bytes) -> bytes:
        while (found := self._buffer.find(mark)) < 0:
            await self._read_more()
        return self._cut(found + len(mark))

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._read_more()
        return self._cut(count)

    async def _read_more(self) -> None:
        self._more.clear()
        await self._more.wait()

    def _cut(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def pieces(data: bytes, size_bytes: int) -> Iterator[bytes]:
    return (data[start : start + size_bytes] for start in range(0, len(data), size_bytes))


LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of `transfer-encoding: chunked`."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(value: Any) -> bytes:
    """One SSE event: the JSON of an object, or a text such as `[DONE]` unchanged."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


def head(status: int = 200, **headers: str) -> bytes:
    """The head of a reply. A `_` in a header's name becomes `-`."""
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def reply(body: Any, status: int = 200, **headers: str) -> bytes:
    """A whole plain reply: bytes as they are, anything else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    named = {"content_type": "application/json", "content_length": str(len(data))} | headers
    return head(status, **named) + data


def stream(*events: bytes, end: bytes = LAST_CHUNK, **headers: str) -> bytes:
    """A whole event stream, with one HTTP chunk for each of `events`."""
    named = {"content_type": "text/event-stream", "transfer_encoding": "chunked"} | headers
    return head(200, **named) + b"".join(map(chunk, events)) + end


def begin_stream(**headers: str) -> Dialogue:
    """The head of an event stream, whose chunks are to follow."""
    return [Send(stream(end=b"", **headers))]


def cut(data: bytes, after_bytes: int, end: Fin | Rst) -> Dialogue:
    """`data` up to `after_bytes`, then the connection's death."""
    return [Send(data[:after_bytes]), end] if after_bytes else [end]
