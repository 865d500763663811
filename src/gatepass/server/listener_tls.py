"""TLS of the listener (`server.tls`): its context, which a reload replaces, and the errors of failed handshakes."""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from gatepass.config.model import ListenerTlsFiles
from gatepass.errors import GatepassError, UnsupportedHead
from gatepass.http_client.tls import TlsProblem, tls_detail

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: authenticated encryption with forward secrecy. OpenSSL chooses those of TLS 1.3."""


@dataclass(frozen=True, slots=True)
class ListenerContext:
    """A context, and the digest of the files that it was made from."""

    ssl: ssl.SSLContext
    digest: bytes = field(repr=False)


class ListenerTls:
    """The context of new connections.

    A renewed certificate needs a new context: connections and handshakes in progress keep the old one.
    """

    def __init__(self, files: ListenerTlsFiles) -> None:
        """Read the files; raise OSError."""
        self._files = files
        self._digest = b""
        if (found := self.read()) is not None:
            self.use(found)

    def read(self) -> ListenerContext | None:
        """Return a context of the files, or None if they have not changed; raise OSError."""
        cert, key = self._files.cert_file, self._files.key_file
        digest = b"".join(hashlib.sha256(Path(file).read_bytes()).digest() for file in (cert, key))
        if digest == self._digest:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_ciphers(CIPHERS)
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(cert, key, lambda: "")  # OpenSSL would prompt for a pass phrase
        return ListenerContext(context, digest)

    def use(self, found: ListenerContext) -> None:
        self.context, self._digest = found.ssl, found.digest


def handshake_error(error: ssl.SSLError) -> GatepassError:
    """Return the reason for which gatepass closed a connection without a response."""
    if tls_detail(error) == TlsProblem.PLAIN_HTTP:
        return UnsupportedHead(
            "plain_http", "The client speaks plain HTTP, and gatepass requires TLS. Begin its base URL with https://."
        )
    reason = (error.reason or "unknown reason").replace("_", " ").lower()
    return UnsupportedHead("tls_handshake_failed", f"The TLS handshake with the client failed: {reason}.")
