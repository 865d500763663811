"""The files of each `network` and credential: there to be read, and PEM that can be used."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from gatepass.config.oauth2_files import unusable_oauth2_files
from gatepass.config.problem import Path
from gatepass.config.tree import matches

FILES = ("ca_file", "client_cert", "client_key")
NETWORKS = (("upstreams", "*", "network"), ("credentials", "*", "network"), ("store", "network"))
NO_CERTIFICATE = "holds no PEM certificate that can be read (-----BEGIN CERTIFICATE-----)"
NO_KEY = "holds a certificate and no private key: name the key's file in client_key"
FOREIGN_KEY = "holds no PEM private key that belongs to client_cert"
LOCKED_KEY = "holds a private key under a pass phrase, which gatepass has no setting for: take one without"
TOO_WEAK = "is too weak for the TLS library of this machine: take one with a longer key or a newer signature"


def unusable_files(tree: Any) -> Iterator[tuple[Path, str]]:
    """Each file with which no connection could be made or no token had, and why: found at load, not at the start."""
    for pattern in NETWORKS:
        for path, network in matches(tree, pattern):
            files = {name: file for name in FILES if isinstance(file := _member(network, name), str)}
            for name, text in _faults(files):
                yield (*path, name), text
    yield from unusable_oauth2_files(tree)


def _member(network: Any, name: str) -> Any:
    return network.get(name) if isinstance(network, dict) else None


def _faults(files: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    unread = {name: reason for name, file in files.items() if (reason := _unreadable(file)) is not None}
    yield from ((name, f"cannot be read: {reason}") for name, reason in unread.items())
    readable = {name: file for name, file in files.items() if name not in unread}
    for name in ("ca_file", "client_cert"):
        if name in readable and not _holds_certificate(readable[name]):
            yield name, NO_CERTIFICATE
            readable.pop(name)
    if "client_cert" in readable and "client_key" not in unread:
        yield from _pair_fault(readable["client_cert"], readable.get("client_key"))


def _unreadable(file: str) -> str | None:
    try:
        FilePath(file).open("rb").close()
    except OSError as error:
        return error.strerror
    except ValueError:
        return "a NUL in its name"
    return None


def _holds_certificate(file: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except OSError:  # ssl.SSLError is one
        return False
    return True


def _pair_fault(cert: str, key: str | None) -> Iterator[tuple[str, str]]:
    """What is wrong with a client's key, in a file of its own or behind its certificate."""
    asked: list[str] = []  # without a password of ours OpenSSL would ask for one at the terminal

    def password() -> str:
        asked.append(cert)
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password)
    except OSError as error:
        if str(getattr(error, "reason", "")).endswith(("_TOO_SMALL", "_TOO_WEAK")):
            yield "client_cert", TOO_WEAK
        elif asked:
            yield "client_cert" if key is None else "client_key", LOCKED_KEY
        elif key is None:
            yield "client_cert", NO_KEY
        else:
            yield "client_key", FOREIGN_KEY
