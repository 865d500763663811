"""TLS contexts of upstreams: trusted CAs and client certificates, reloaded when their files change.

`tls_detail` names the likely cause of a failed handshake. `fault_text.py` states the remedy.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from typing import Any

from gatepass.config.network import Network

FileVersion = tuple[int, int, int, int, int]
"""What changes with a file, or with a symbolic link to it: device, inode, size, mtime and ctime in nanoseconds."""


def file_version(status: os.stat_result) -> FileVersion:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class TLSContexts:
    """Shares one context between upstreams with the same files: each context holds the system's CAs, 2.5 MiB.

    `previous` are those of the configuration before a reload. A context is used again unless its CA file has changed.
    """

    def __init__(self, previous: TLSContexts | None = None) -> None:
        self.loaded: dict[tuple[object, ...], ssl.SSLContext] = {}
        self._previous = {} if previous is None else previous.loaded

    def context_for(self, network: Network, url: str = "https:") -> ssl.SSLContext:
        """Return the context for `url`, without CAs if no hop uses TLS; raise OSError for a file that is not PEM."""
        version = None if network.ca_file is None else file_version(os.stat(network.ca_file))
        files: tuple[object, ...] = (network.ca_file, version, network.client_cert, network.client_key)
        if not any(files) and not any(one.lower().startswith("https:") for one in (url, network.proxy or "")):
            files = ()
        if files not in self.loaded:
            self.loaded[files] = self._previous.get(files) or ssl_context(network, with_cas=files != ())
        return self.loaded[files]


def ssl_context(network: Network, *, with_cas: bool = True) -> ssl.SSLContext:
    """Return a context with the system's CAs, the CA and client certificate of `network`; raise OSError."""
    context = ssl.create_default_context() if with_cas else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
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
        """Use `cert` from now on; raise OSError if it or its key cannot be read."""
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
        return tuple(file_version(os.stat(path)) for path in (self._cert, self._key) if path is not None)


class TlsProblem(StrEnum):
    """The likely cause of a failed handshake. The value is the end of a sentence, before OpenSSL's own words."""

    CERTIFICATE = "its certificate is not valid"
    UNKNOWN_CA = "its certificate is signed by a CA that this machine does not trust"
    PLAIN_HTTP = "it does not use TLS on this port"
    CLIENT_CERTIFICATE = "it rejects the connection without a client certificate that it trusts"
    OTHER = "the TLS handshake failed"


LATE_TLS, LATE_TUNNEL = "the TLS handshake did not end", "it opened no tunnel"
"""Details of TIMEOUT_CONNECT after the TCP connection was made."""
TLS_PORT = "the port requires TLS"
"""The detail of INVALID after a TLS alert in place of a reply."""
_UNKNOWN_CA = frozenset((2, 18, 19, 20, 21, 24))
"""OpenSSL's X509_V_ERR_* numbers (openssl-verification-options)."""
_PLAIN_REASONS = frozenset(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"))
_CLIENT_REASONS = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "UNKNOWN_CA", "CERTIFICATE_UNKNOWN", "ACCESS_DENIED")
"""Alerts about the client certificate. TLS 1.2 has only HANDSHAKE_FAILURE, and that alert has other causes too."""


def tls_detail(error: BaseException) -> str:
    """Return the likely cause of `error`, which ended a handshake: the value of a TlsProblem, and OpenSSL's reason."""
    found = next((cause for cause in causes_of(error) if isinstance(cause, ssl.SSLError)), None)
    if isinstance(found, ssl.SSLCertVerificationError):
        if found.verify_code in _UNKNOWN_CA:
            return TlsProblem.UNKNOWN_CA
        return f"{TlsProblem.CERTIFICATE}: {found.verify_message}"
    # an error that Python code raised has only a text
    reason = "" if found is None else getattr(found, "reason", None) or str(found.args[-1] if found.args else "")
    if reason in _PLAIN_REASONS:
        return TlsProblem.PLAIN_HTTP
    if "ALERT" in reason and reason.endswith(_CLIENT_REASONS):
        return TlsProblem.CLIENT_CERTIFICATE
    if any(isinstance(cause, ConnectionError | ssl.SSLEOFError) for cause in causes_of(error)):
        return f"{TlsProblem.OTHER}: it closed the connection"
    return f"{TlsProblem.OTHER}: {reason.replace('_', ' ').lower()}" if reason else TlsProblem.OTHER


def tls_problem(detail: str) -> TlsProblem:
    """Return the problem that `detail`, a result of `tls_detail`, names."""
    return next((problem for problem in TlsProblem if problem in detail), TlsProblem.OTHER)


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield `error` and its causes. A host with several addresses fails with a group, one error for each address."""
    while error is not None:
        yield error
        for member in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
            yield from causes_of(member)
        error = error.__cause__ or error.__context__
