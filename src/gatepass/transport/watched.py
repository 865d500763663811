"""httpcore2's network, watched for connections that die without one byte of answer."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore2


class Unanswered(httpcore2.ReadError):
    """The connection ended, well or badly, and nothing had come since the last byte was written."""


class WatchedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects as httpcore2 does by itself."""

    def __init__(self) -> None:
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> WatchedStream:
        return WatchedStream(await self._inner.connect_tcp(host, port, timeout, local_address, socket_options))


class WatchedStream(httpcore2.AsyncNetworkStream):
    """Tells a connection that died at once from one that died in the middle of a head.

    httpcore2 says "disconnected without sending a response" of both, and of a reset nothing at all.
    Its HTTP/1.1 writes a whole request before it reads, so what is read after a write is answer.
    """

    def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
        self._inner = inner
        self._heard = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            data = await self._inner.read(max_bytes, timeout)
        except (httpcore2.ReadError, ssl.SSLError) as error:  # httpcore2 lets the latter through as it is
            kind = httpcore2.ReadError if self._heard else Unanswered
            raise kind(str(error) or "the connection broke") from error
        if not data and not self._heard:
            raise Unanswered("the server closed the connection without an answer")
        self._heard = True
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._heard = False
        try:
            await self._inner.write(buffer, timeout)
        except ssl.SSLError as error:
            raise httpcore2.WriteError(str(error)) from error

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> WatchedStream:
        try:
            return WatchedStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:  # httpcore2 itself leaves the socket of a cancelled handshake to the garbage collector
            await self._inner.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
