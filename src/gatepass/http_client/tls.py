"""TLS contexts of upstreams: trusted CAs and client certificates, reloaded when their files change."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from typing import Any

from gatepass.config.network import Network

FileVersion = tuple[int, int, int, int]
"""What changes with a file: device, inode, size, mtime in nanoseconds."""


class TLSContexts:
    """Shares one context between upstreams with the same files: each context holds the system's CAs, 2.5 MiB."""

    def __init__(self) -> None:
        self._contexts: dict[tuple[str | None, ...], ssl.SSLContext] = {}

    def context_for(self, network: Network) -> ssl.SSLContext:
        files = (network.ca_file, network.client_cert, network.client_key)
        if files not in self._contexts:
            self._contexts[files] = ssl_context(network)
        return self._contexts[files]


def ssl_context(network: Network) -> ssl.SSLContext:
    """Return a context with the system's CAs, the CA of `network`, and its client certificate if it has one.

    Raises OSError (ssl.SSLError is a subclass) if a file is missing or is not PEM.
    """
    context = ssl.create_default_context()
    if network.client_cert:
        reloading = ReloadingSSLContext(ssl.PROTOCOL_TLS_CLIENT)
        reloading.verify_flags = context.verify_flags
        reloading.load_default_certs()
        reloading.load_client_cert(network.client_cert, network.client_key)
        context = reloading
    context.set_alpn_protocols(["http/1.1"])  # the client does not support HTTP/2
    if network.ca_file:
        context.load_verify_locations(network.ca_file)
    return context


class ReloadingSSLContext(ssl.SSLContext):
    """Reloads a client certificate that was renewed on disk, before each new connection."""

    _cert: str
    _key: str | None
    _loaded: tuple[FileVersion, ...] | None = None

    def load_client_cert(self, cert: str, key: str | None) -> None:
        """Use `cert` from now on. Raises OSError if it or its key cannot be read."""
        self._cert, self._key = cert, key
        versions = self._file_versions()
        self.load_cert_chain(cert, key)
        self._loaded = versions

    # asyncio, uvloop and anyio begin every connection with `wrap_bio`
    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        with suppress(OSError):  # only one of the two files was replaced yet: the next connection checks again
            if (versions := self._file_versions()) != self._loaded:
                self._loaded = None
                # a pair that does not match would leave this context without a certificate: try it in another one
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self._cert, self._key)
                self.load_cert_chain(self._cert, self._key)
                self._loaded = versions
        return super().wrap_bio(*args, **kwargs)

    def _file_versions(self) -> tuple[FileVersion, ...]:
        found = [os.stat(path) for path in (self._cert, self._key) if path is not None]
        return tuple((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) for status in found)
