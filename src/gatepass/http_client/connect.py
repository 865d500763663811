"""How a connection is made, directly or through a proxy, and which fault keeps it from being made."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import sys
from typing import Any, cast

from gatepass.errors import Fault, TransportFault
from gatepass.http_client.connection import Connection
from gatepass.http_client.message_head import HEAD_BYTES, Place, ProxyServer

_HEAD = rb"HTTP/1\.[01] (%b)(?: ([^\r\n]*+))?\r?\n(?:[^\r\n]++\r?\n)*+\r?\n"
_ANSWER = re.compile(b"(?:%b)*+%b" % (_HEAD % b"10[023]", _HEAD % b"[2-5][0-9]{2}"))
"""The whole head of a reply to CONNECT, behind interim ones; a line may end in a bare LF (RFC 9112 2.2)."""
_BLANK_LINE = re.compile(rb"\n\r?\n")

FAILS_IN_TLS = sys.version_info < (3, 11, 8) or (3, 12) <= sys.version_info < (3, 12, 2)
"""asyncio raises TypeError where TLS inside TLS fails, and hides the reason (python/cpython#113214)."""


async def dial(place: Place, context: ssl.SSLContext, connection: Connection, bound_s: float) -> None:
    """Connect `connection` to the server of `place`; `bound_s` covers the proxy and every TLS handshake.

    Raises TransportFault, unsent. asyncio's own bound of a handshake is put behind ours.
    """
    loop = asyncio.get_running_loop()
    proxy = place.proxy
    tunnel = None if proxy is None or not place.secure else _Tunnel(loop, place, proxy)
    first, where = (place, "") if proxy is None else (proxy.place, f"proxy {proxy.place.authority.decode()}: ")
    tls: dict[str, Any] = {"ssl": context, "server_hostname": first.host, "ssl_handshake_timeout": bound_s + 1}
    try:
        async with asyncio.timeout(bound_s):
            protocol = connection if tunnel is None else tunnel
            await loop.create_connection(lambda: protocol, first.host, first.port, **(tls if first.secure else {}))
            if tunnel is not None:
                await tunnel.opened()
                where = ""
                await tunnel.become(connection, context, bound_s)
    except BaseException as error:
        if tunnel is not None:
            tunnel.abort()
        if isinstance(error, TimeoutError):
            raise TransportFault(Fault.TIMEOUT_CONNECT, f"no connection within {bound_s:g} s", sent=False) from None
        if isinstance(error, OSError | UnicodeError):
            detail = where + (str(error) or "the server hung up")
            fault = Fault.CONNECT
            # one that is refused was never made; one that is reset here was, and the handshake was under way
            if isinstance(error, ssl.SSLError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
                fault = Fault.TLS
            elif isinstance(error, socket.gaierror | UnicodeError):  # the idna codec takes no label of 64 characters
                fault = Fault.DNS
            raise TransportFault(fault, detail, sent=False) from error
        raise


class _Tunnel(asyncio.Protocol):
    """A connection to a proxy that is asked by CONNECT to lead to the server of `place` (RFC 9110 9.3.6)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, place: Place, proxy: ProxyServer) -> None:
        self._loop = loop
        self._place = place
        self._proxy = proxy
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._refusal: asyncio.Future[TransportFault | None] = loop.create_future()

    async def opened(self) -> None:
        """Wait for the reply to CONNECT; raises TransportFault PROXY where it is not a success."""
        if (refusal := await self._refusal) is not None:
            raise refusal

    async def become(self, connection: Connection, context: ssl.SSLContext, bound_s: float) -> None:
        """Do the TLS handshake with the server at the other end, and give the tunnel to `connection`."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise _refused("it closed the tunnel")
        if self._proxy.place.secure and FAILS_IN_TLS and hasattr(transport, "__dict__"):  # uvloop's do not, nor fail

            def force_close(error: Exception | None) -> None:
                connection.broke_off(error)
                transport.abort()

            transport._force_close = force_close  # type: ignore[attr-defined]  # noqa: SLF001 - else asyncio drops the error (python/cpython#113214)
        host = self._place.host
        secured = await self._loop.start_tls(
            transport, connection, context, server_hostname=host, ssl_handshake_timeout=bound_s + 1
        )
        if secured is None or secured.is_closing():  # uvloop says nothing of a server that hangs up in the handshake
            raise ConnectionResetError("the server hung up in the TLS handshake")
        connection.connection_made(secured)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        lines = [b"CONNECT %b HTTP/1.1" % self._place.host_and_port, b"host: " + self._place.host_and_port]
        if self._proxy.authorization is not None:
            lines.append(b"proxy-authorization: " + self._proxy.authorization)
        self._transport.write(b"\r\n".join((*lines, b"", b"")))

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = _ANSWER.match(self._received)
        if answer is not None:
            self._answered(answer)
        elif len(self._received) > HEAD_BYTES:
            self._refuse(f"the head of its reply is larger than {HEAD_BYTES} bytes")
        elif not self._received.startswith(b"HTTP/1."[: len(self._received)]) or _BLANK_LINE.search(self._received):
            self._refuse("its reply is invalid HTTP")

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ssl.SSLError):  # in TLS 1.3 a client certificate is refused after the handshake
            self._end(TransportFault(Fault.TLS, str(exc), sent=False))
        self._refuse("it closed the connection without an answer")

    def _answered(self, answer: re.Match[bytes]) -> None:
        status, reason = answer[3].decode(), answer[4] or b""
        if not status.startswith("2"):
            told = "".join(char for char in reason.decode("latin-1") if char.isprintable())
            self._refuse(f"{status} {self._proxy.mask(told)}".strip())
        elif answer.end() < len(self._received):
            self._refuse("it sent data before the TLS handshake")
        elif self._transport is not None and not self._refusal.done():
            self._transport.pause_reading()  # whatever comes now is for TLS to read
            self._end(None)

    def _refuse(self, why: str) -> None:
        self._end(_refused(why))

    def _end(self, refusal: TransportFault | None) -> None:
        if not self._refusal.done():
            self._refusal.set_result(refusal)


def _refused(why: str) -> TransportFault:
    return TransportFault(Fault.PROXY, why, sent=False)
