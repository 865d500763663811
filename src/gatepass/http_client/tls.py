"""The trust of one hop, and what it shows of itself."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from typing import Any

from gatepass.config.network import Network

Mark = tuple[int, int, int, int]
"""By what a change of a file is seen: device, inode, size, mtime in nanoseconds."""


class TLSContexts:
    """One context for all hops whose files are the same: each holds the system's CAs anew, 2.5 MiB of them."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[str | None, ...], ssl.SSLContext] = {}

    def context_for(self, network: Network) -> ssl.SSLContext:
        files = (network.ca_file, network.client_cert, network.client_key)
        if files not in self._contexts:
            self._contexts[files] = ssl_context(network)
        return self._contexts[files]


def ssl_context(network: Network) -> ssl.SSLContext:
    """The system's trust, the hop's own CA added to it, and the client certificate where one is set.

    Raises OSError (ssl.SSLError is one) where a file is missing or is no PEM.
    """
    context = ssl.create_default_context()
    if network.client_cert:
        presenting = ReloadingSSLContext(ssl.PROTOCOL_TLS_CLIENT)
        presenting.verify_flags = context.verify_flags
        presenting.load_default_certs()
        presenting.present(network.client_cert, network.client_key)
        context = presenting
    context.set_alpn_protocols(["http/1.1"])
    if network.ca_file:
        context.load_verify_locations(network.ca_file)
    return context


class ReloadingSSLContext(ssl.SSLContext):
    """Shows a certificate that is renewed on the disk: each new connection shows what stands there then.

    asyncio, uvloop and anyio begin every connection with `wrap_bio`.
    """

    _cert: str
    _key: str | None
    _marks: tuple[Mark, ...] | None = None

    def present(self, cert: str, key: str | None) -> None:
        """Show `cert` from now on; raises OSError where it, or its key, cannot be read."""
        self._cert, self._key = cert, key
        marks = self._found()
        self.load_cert_chain(cert, key)
        self._marks = marks

    def wrap_bio(self, *given: Any, **named: Any) -> ssl.SSLObject:
        with suppress(OSError):  # half of a pair has been replaced: the next connection looks again
            if (marks := self._found()) != self._marks:
                self._marks = None
                # a pair that does not match would leave this context without any: another one tries it
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self._cert, self._key)
                self.load_cert_chain(self._cert, self._key)
                self._marks = marks
        return super().wrap_bio(*given, **named)

    def _found(self) -> tuple[Mark, ...]:
        found = [os.stat(path) for path in (self._cert, self._key) if path is not None]
        return tuple((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) for status in found)
