"""A server with the part of Valkey's protocol (RESP2) that gatepass uses. It fails on command.

Its scripts are recognised, not run: the real server of the end-to-end tests runs them.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

OK = b"+OK\r\n"
NIL = b"$-1\r\n"


ODD = {
    "nested": b"*1\r\n" * 200_000,
    "huge": b"$67108864\r\n" + bytes(5 << 20),
}
"""Replies that no command of gatepass has."""
ODD_OF = {
    "odd number": (b"GET", b":77\r\n"),
    "odd array": (b"GET", b"*0\r\n"),
    "odd length": (b"GET", b"*-3\r\n"),
    "odd errors": (b"GET", b"*2\r\n-ERR a\r\n-ERR b\r\n"),
    "odd time": (b"TIME", b"*2\r\n$400\r\n%b\r\n$1\r\n0\r\n" % (b"9" * 400)),
    "odd script": (b"EVAL", b"*1\r\n:1\r\n"),
}
"""Replies to one command that gatepass cannot use."""


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def number(value: int) -> bytes:
    return b":%d\r\n" % value


@dataclass
class Responder:
    """`password` must be shown first where it is set. `mood`: well, mute (reads and never answers), rude (closes),
    loading (an error to everything), quoting (an error with what it was sent), gibberish (no RESP)."""

    password: bytes | None = None
    user: bytes = b"default"
    mood: str = "well"
    port: int = 0
    keys: dict[bytes, tuple[bytes, float]] = field(default_factory=dict)
    received: list[list[bytes]] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def dump(self) -> bytes:
        return repr(self.keys).encode()

    def cut(self) -> None:
        """Close every connection, as a restart does."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self._writers.add(writer)
        state = {"signed_in": self.password is None}
        try:
            while True:
                count = int((await reader.readuntil(b"\r\n"))[1:])
                command = []
                for _ in range(count):
                    size = int((await reader.readuntil(b"\r\n"))[1:])
                    command.append((await reader.readexactly(size + 2))[:-2])
                self.received.append(command)
                if self.mood == "rude":
                    return
                if self.mood != "mute":
                    writer.write(self._answer(command, state))
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.open -= 1
            self._writers.discard(writer)
            writer.close()

    def _answer(self, command: list[bytes], state: dict[str, bool]) -> bytes:
        if self.mood == "loading":
            return b"-LOADING Valkey is loading the dataset in memory\r\n"
        if self.mood == "quoting":
            return b"-ERR cannot run: %s\r\n" % b" ".join(command)
        if self.mood in ODD:
            return ODD[self.mood]
        if self.mood == "gibberish":
            return b"HTTP/1.1 400 Bad Request\r\n\r\n"
        name, *rest = command
        if (odd := ODD_OF.get(self.mood)) is not None and name == odd[0]:
            return odd[1]
        if name == b"AUTH":
            user, password = (b"default", *rest) if len(rest) == 1 else rest
            state["signed_in"] = (user, password) == (self.user, self.password)
            return OK if state["signed_in"] else b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
        if not state["signed_in"]:
            return b"-NOAUTH Authentication required.\r\n"
        return self._does(name, rest)

    def _does(self, name: bytes, rest: list[bytes]) -> bytes:
        if name in (b"SELECT", b"CLIENT"):
            return OK
        if name == b"TIME":
            seconds, micro = divmod(time.time_ns() // 1000, 1_000_000)
            return b"*2\r\n" + bulk(b"%d" % seconds) + bulk(b"%d" % micro)
        if name == b"GET":
            value = self._get(rest[0])
            return NIL if value is None else bulk(value)
        if name == b"SET":
            self._set(rest[0], rest[1], int(rest[3]))
            return OK
        if name == b"DEL":
            return number(self.keys.pop(rest[0], None) is not None)
        if name == b"EVAL":
            return self._runs(rest[0], rest[2], rest[3:])
        return b"-ERR unknown command\r\n"

    def _runs(self, script: bytes, key: bytes, arguments: list[bytes]) -> bytes:
        held = self._get(key)
        if b"INCR" in script:
            until_s = self.keys[key][1] if held else time.monotonic() + int(arguments[0]) / 1000
            self.keys[key] = (b"%d" % (int(held or 0) + 1), until_s)
            return number(int(self.keys[key][0]))
        if b"SET" in script:
            if held not in (None, arguments[0]):
                return number(0)
            self._set(key, arguments[0], int(arguments[1]))
            return number(1)
        if held == arguments[0]:
            del self.keys[key]
        return NIL

    def _get(self, key: bytes) -> bytes | None:
        value, until_s = self.keys.get(key, (b"", 0.0))
        return value if time.monotonic() < until_s else None

    def _set(self, key: bytes, value: bytes, ttl_ms: int) -> None:
        self.keys[key] = (value, time.monotonic() + ttl_ms / 1000)


@asynccontextmanager
async def responding(
    responder: Responder | None = None, context: ssl.SSLContext | None = None
) -> AsyncIterator[Responder]:
    responder = responder or Responder()
    server = await asyncio.start_server(responder.serve, "127.0.0.1", responder.port, ssl=context)
    responder.port = server.sockets[0].getsockname()[1]
    try:
        yield responder
    finally:
        server.close()
        responder.cut()
        await server.wait_closed()
