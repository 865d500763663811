"""A connection without a socket: the test is the server, byte by byte."""

import asyncio
import socket
from typing import Any, cast

from gatepass.http_client.connection import Connection
from gatepass.http_client.loop_turns import LoopTurns
from gatepass.http_client.pool import ConnectionPool

HIGH_WATER_BYTES = 64 * 1024
"""As asyncio's transports have it."""


class FakeTransport(asyncio.Transport):
    """Keeps the written bytes until the test drains it, and reports when there are too many."""

    def __init__(self, protocol: asyncio.BaseProtocol, connected: socket.socket | None = None) -> None:
        super().__init__({"socket": connected})
        self.protocol = protocol
        self.written: list[bytes | memoryview] = []
        self.buffered_bytes = 0
        self.held_back = False
        self.reading = True
        self.closing = False

    def write(self, data: Any) -> None:
        assert not self.closing
        self.written.append(data)
        if self.held_back:
            self.buffered_bytes += len(data)
            if self.buffered_bytes > HIGH_WATER_BYTES:
                self.protocol.pause_writing()

    def drain(self) -> None:
        self.buffered_bytes = 0
        self.protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        return self.buffered_bytes

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.end(None)

    def end(self, exc: Exception | None) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, exc)


class Wire:
    """One open connection and its owner, which records its calls in `events`. With `holding` a small request waits for
    the end of the loop's iteration: the test calls `flush`. `now_s` is the time by which reads get their turns.
    `connected` is a socket whose unread bytes count as the server's."""

    def __init__(self, connected: socket.socket | None = None) -> None:
        self.events: list[str] = []
        self.holding = False
        self.now_s = 0.0
        self.turns = LoopTurns(lambda: self.now_s)
        owner, buffer = cast(ConnectionPool, self), memoryview(bytearray(128 * 1024))
        self.connection = Connection(asyncio.get_running_loop(), owner, buffer, self.turns)
        self.transport = FakeTransport(self.connection, connected)
        self.connection.connection_made(self.transport)

    def on_idle(self, connection: Connection) -> None:
        assert connection is self.connection
        self.events.append("freed")

    def on_lost(self, connection: Connection) -> None:
        assert connection is self.connection
        self.events.append("lost")

    def defers_write(self, connection: Connection) -> bool:
        assert connection is self.connection
        return self.holding

    @property
    def sent(self) -> bytes:
        return b"".join(self.transport.written)

    def feed(self, data: bytes) -> None:
        feed(self.connection, data)

    def end(self, exc: Exception | None = None) -> None:
        """The server closes: well, or with an error of the network."""
        if exc is None:
            self.connection.eof_received()
        self.transport.end(exc)


def feed(connection: Connection, data: bytes) -> None:
    """As a loop does it that has read `data`."""
    while data:
        buffer = connection.get_buffer(-1)
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        connection.buffer_updated(count)
        data = data[count:]
