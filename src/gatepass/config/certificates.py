"""Checks of private keys, certificates and other files that a configuration names.

The package cryptography is an optional dependency, so it is imported only if a key is configured.
"""

from __future__ import annotations

import ssl
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gatepass.config.credential.base import checked_extra
from gatepass.config.credential.oauth2 import method_of
from gatepass.config.document import SettingPath, lookup, matches
from gatepass.config.references import UnresolvedReference, open_regular, read_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

LIBRARY, EXTRA = "cryptography", "crypto"
NO_KEY = "holds no PEM private key that can be read (-----BEGIN PRIVATE KEY-----)"
LOCKED_KEY = "holds a private key with a pass phrase, which gatepass does not support: use a key without one"
WRONG_KIND = "holds a key that is neither RSA nor on the curve P-256 or Ed25519"
SHORT_KEY = "holds an RSA key of fewer than 2048 bits, which RFC 7518 3.3 forbids: use a longer one"
NO_RSA_KEY = "holds a key that is not RSA, and a certificate signs with PS256"
KEY_OF_ANOTHER = "holds a key that belongs to another certificate"
NO_CERTIFICATE = "holds no PEM certificate that can be read (-----BEGIN CERTIFICATE-----)"
SHORTEST_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, its signature algorithm (RFC 7518 3.1, RFC 8037 3.1), and the header of its certificate."""

    key: RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey = field(repr=False)
    algorithm: str
    headers: Mapping[str, str] = field(default_factory=dict)


def signing_key(pem: str) -> SigningKey:
    """Return the key of a PEM text; raise ValueError with the reason, which never quotes the text."""
    # imported here, because cryptography is an extra
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        # RSA-4096 takes 0.3 s to validate
        key = load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True)
    except TypeError:  # "Password was not given but private key is encrypted"
        raise ValueError(LOCKED_KEY) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(NO_KEY) from None
    if isinstance(key, RSAPrivateKey):
        if key.key_size < SHORTEST_RSA_BITS:
            raise ValueError(SHORT_KEY)
        check_signature(key)
        return SigningKey(key, "RS256")
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return SigningKey(key, "ES256")
    if isinstance(key, Ed25519PrivateKey):
        return SigningKey(key, "EdDSA")
    raise ValueError(WRONG_KIND)


def certificate_key(pem: str) -> SigningKey:
    """Return the RSA key of a PEM text with its certificate; raise ValueError, which never quotes the text."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509 import load_pem_x509_certificate

    found = signing_key(pem)
    if found.algorithm != "RS256":
        raise ValueError(NO_RSA_KEY)
    try:
        certificate = load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise ValueError(NO_CERTIFICATE) from None
    if found.key.public_key() != certificate.public_key():
        raise ValueError(KEY_OF_ANOTHER)
    # RFC 7515 4.1.8: base64url of the SHA-256 digest, without padding
    thumbprint = urlsafe_b64encode(certificate.fingerprint(SHA256())).rstrip(b"=").decode()
    return SigningKey(found.key, "PS256", {"x5t#S256": thumbprint})


def check_signature(key: RSAPrivateKey) -> None:
    """Raise ValueError if the numbers of a key that was read without validation give no valid signature."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key.public_key().verify(key.sign(b"", PKCS1v15(), SHA256()), b"", PKCS1v15(), SHA256())
    except InvalidSignature:
        raise ValueError(NO_KEY) from None


FILES = ("ca_file", "client_cert", "client_key")
NETWORKS = (
    *(("network",), ("upstreams", "*", "network"), ("mcp", "*", "network"), ("credentials", "*", "network")),
    ("store", "network"),
)
NO_KEY_IN_CERTIFICATE = "holds a certificate and no private key: name the key's file in client_key"
LISTENER_FILES: Mapping[str, str] = MappingProxyType({"client_cert": "cert_file", "client_key": "key_file"})
"""The names in `server.tls` of FILES."""
FOREIGN_KEY = "holds no PEM private key that belongs to client_cert"
TOO_WEAK = "is too weak for the TLS library of this machine: use one with a longer key or a newer signature"


def unusable_files(tree: Any) -> Iterator[tuple[SettingPath, str]]:
    """Yield each setting whose file or key cannot be used for TLS or for tokens, with the reason."""
    for pattern in NETWORKS:
        for path, network in matches(tree, pattern):
            files = {name: file for name in FILES if isinstance(file := lookup(network, (name,)), str)}
            for name, text in _faults(files):
                yield (*path, name), text
    for path, block in matches(tree, ("server", "tls")):
        files = {name: file for name, own in LISTENER_FILES.items() if isinstance(file := lookup(block, (own,)), str)}
        for name, text in _faults(files):
            yield (*path, LISTENER_FILES[name]), text.replace("client_cert", "cert_file")
    for path, block in matches(tree, ("credentials", "*")):
        if isinstance(block, Mapping) and block.get("type") == "oauth2":
            yield from (((*path, setting), text) for setting, text in _oauth2_faults(block))


def _faults(files: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    unread = {name: reason for name, file in files.items() if (reason := _unreadable(file)) is not None}
    yield from ((name, f"cannot be read: {reason}") for name, reason in unread.items())
    readable = {name: file for name, file in files.items() if name not in unread}
    for name in ("ca_file", "client_cert"):
        try:
            if name in readable:
                # The TLS library itself decides, as it does for a connection.
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(readable[name])
        except OSError:  # ssl.SSLError is one
            yield name, NO_CERTIFICATE
            readable.pop(name)
    if "client_cert" in readable and "client_key" not in unread:
        yield from _pair_fault(readable["client_cert"], readable.get("client_key"))


def _unreadable(file: str) -> str | None:
    try:
        open_regular(file).close()
    except OSError as error:
        return error.strerror
    except ValueError:
        return "a NUL in its name"
    return None


def _pair_fault(cert: str, key: str | None) -> Iterator[tuple[str, str]]:
    is_locked = False

    def asked() -> str:  # without this callback OpenSSL would prompt for a pass phrase at the terminal
        nonlocal is_locked
        is_locked = True
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, asked)
    except OSError as error:
        if str(getattr(error, "reason", "")).endswith(("_TOO_SMALL", "_TOO_WEAK")):
            yield "client_cert", TOO_WEAK
        elif is_locked and getattr(error, "reason", "") != "KEY_VALUES_MISMATCH":
            yield "client_cert" if key is None else "client_key", LOCKED_KEY
        elif key is None:
            yield "client_cert", NO_KEY_IN_CERTIFICATE
        else:
            yield "client_key", FOREIGN_KEY


def _oauth2_faults(block: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    method = method_of(block.get("client_auth"))
    if method == "private_key_jwt" or block.get("subject") is not None:
        setting, kind = ("client_auth", method) if method == "private_key_jwt" else ("subject", "private_key")
        if missing := list(_fault_of(setting, checked_extra, LIBRARY, EXTRA, kind)):
            yield from missing
            return
        if isinstance(file := block.get("certificate_file"), str):
            yield from _fault_of("certificate_file", lambda: certificate_key(_text_of(file)))
        if isinstance(pem := block.get("private_key"), str):
            yield from _fault_of("private_key", signing_key, pem)


def _text_of(file: str) -> str:
    try:
        return read_file(file)
    except UnresolvedReference as error:
        raise ValueError(str(error).removeprefix(f"the file {file} ")) from None


def _fault_of(setting: str, check: Callable[..., object], *arguments: Any) -> Iterator[tuple[str, str]]:
    try:
        check(*arguments)
    except ValueError as error:
        yield setting, str(error)
