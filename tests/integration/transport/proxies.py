"""A proxy that connects whom it is asked to connect, over TCP or over TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trustme

AUTHORITY = trustme.CA()
"""A CA that signs only a proxy's certificate."""


def proxy_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    return context


@dataclass(slots=True)
class Tunnel:
    """`asked` holds the heads that came to the proxy."""

    tls: ssl.SSLContext | None = None
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
    asked: list[str] = field(default_factory=list)
    _tunnels: list[asyncio.Task[None] | None] = field(default_factory=list)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        async with server:
            yield f"{'https' if self.tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*filter(None, self._tunnels))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tunnels.append(asyncio.current_task())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(head)
            host, _, port = head.split()[1].rpartition(":")
            there, there_writer = await asyncio.open_connection(host, int(port))
            writer.write(self.answer)
            await asyncio.gather(_pump(reader, there_writer), _pump(there, writer))
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            if writer.is_closing():  # uvloop raises where asyncio ignores a write to a closing transport
                return
            writer.write(data)
            await writer.drain()
        writer.close()
    except OSError:  # a reset goes on as a reset
        writer.transport.abort()
