"""How a connection is made, and the name of what keeps it from being made."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from gatepass.errors import Fault, TransportFault
from gatepass.transport.connection import Connection
from gatepass.transport.head import Place


async def dial(place: Place, context: ssl.SSLContext, connection: Connection, bound_s: float) -> None:
    """Connect `connection` to the server of `place`, the TLS handshake included.

    Raises TransportFault, unsent. asyncio's own bound of a handshake is put behind ours.
    """
    secure: dict[str, Any] = {"ssl": context, "server_hostname": place.host, "ssl_handshake_timeout": bound_s + 1}
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(bound_s):
            await loop.create_connection(lambda: connection, place.host, place.port, **(secure if place.secure else {}))
    except TimeoutError:
        raise TransportFault(Fault.TIMEOUT_CONNECT, f"no connection within {bound_s:g} s", sent=False) from None
    except (OSError, UnicodeError) as error:
        raise TransportFault(_fault_of(error), str(error) or "the server hung up", sent=False) from error


def _fault_of(error: OSError | UnicodeError) -> Fault:
    # a connection that is refused was never made; one that is reset here was, and the handshake was under way
    if isinstance(error, ssl.SSLError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return Fault.TLS
    if isinstance(error, socket.gaierror | UnicodeError):  # a label of 64 characters is no name for the idna codec
        return Fault.DNS
    return Fault.CONNECT
