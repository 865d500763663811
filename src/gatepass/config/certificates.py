"""Checks of private keys, certificates and other files that a configuration names.

The package cryptography is an optional dependency, so it is imported only if a key is configured.
"""

from __future__ import annotations

import json
import ssl
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gatepass.config.credential.base import checked_extra
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.document import SettingPath
from gatepass.config.model import Config
from gatepass.config.network import TlsFiles
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


def unusable_files(config: Config) -> Iterator[tuple[SettingPath, str]]:
    """Yield each setting whose file or key cannot be used for TLS or for tokens, with the reason."""
    blocks: list[tuple[SettingPath, TlsFiles]] = [(("network",), config.network)]
    blocks += [((*path, "network"), hop.network) for path, hop in config.hops()]
    if config.store is not None:
        blocks.append((("store", "network"), config.store.network))
    tried = set()  # a hop inherits the files of the top level
    for path, one in blocks:
        files = (("ca_file", one.ca_file), ("client_cert", one.client_cert), ("client_key", one.client_key))
        if files not in tried:
            tried.add(files)
            yield from _faults(path, *files)
    if (tls := config.server.tls) is not None:
        yield from _faults(("server", "tls"), ("", None), ("cert_file", tls.cert_file), ("key_file", tls.key_file))
    for at, entry in enumerate(config.access.jwt):
        faults = list(_fault_of("issuer", checked_extra, LIBRARY, EXTRA, "a token of a caller"))
        if (file := entry.file) is not None:
            faults += _fault_of("jwks", _check_key_set, file)
        yield from ((("access", "jwt", at, setting), text) for setting, text in faults)
    for name, credential in config.credentials.items():
        if isinstance(credential, Oauth2Credential):
            yield from ((("credentials", name, setting), text) for setting, text in _oauth2_faults(credential))


def end_of_certificate(cert_file: str, key_file: str) -> str:
    """Return when the certificate of a listener ends, as `ssl.cert_time_to_seconds` reads it; raise OSError.

    Raises SSLCertVerificationError for one that is not valid now. The standard library reads a certificate only in a
    handshake, here one in memory.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(cert_file, key_file, lambda: "")
    client.load_verify_locations(cert_file)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # its CA is of no interest here
    client.check_hostname = False
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours, theirs = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
    for side in (ours, theirs, ours):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return str((ours.getpeercert() or {})["notAfter"])


Named = tuple[str, str | None]


def _faults(path: SettingPath, ca: Named, cert: Named, key: Named) -> Iterator[tuple[SettingPath, str]]:
    """Yield the first file under `path` that the TLS library itself rejects."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def load_pair(_: str) -> None:
        # without a callback OpenSSL would prompt for a pass phrase at the terminal
        context.load_cert_chain(str(cert[1]), key[1], lambda: "")

    pair = key if key[1] is not None else cert
    for (name, file), load in (
        (ca, context.load_verify_locations),
        (cert, context.load_verify_locations),
        (pair, load_pair),
    ):
        try:
            if file is not None:
                open_regular(file).close()
                load(file)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            yield (*path, name), f"cannot be used: {reason}"
            return


def _oauth2_faults(block: Oauth2Credential) -> Iterator[tuple[str, str]]:
    method = block.client_auth
    if method == "private_key_jwt" or block.subject_is_signed:
        setting, kind = ("client_auth", method) if method == "private_key_jwt" else ("subject", "private_key")
        if missing := list(_fault_of(setting, checked_extra, LIBRARY, EXTRA, kind)):
            yield from missing
            return
        if (file := block.certificate_file) is not None:
            yield from _fault_of("certificate_file", lambda: certificate_key(_text_of(file)))
        if (pem := block.private_key) is not None:
            yield from _fault_of("private_key", lambda: signing_key(pem.reveal()))


def _check_key_set(file: str) -> None:
    text = _text_of(file)
    with suppress(ValueError, LookupError, TypeError, RecursionError):
        if isinstance(json.loads(text)["keys"], list):
            return
    raise ValueError("is no key set: expects a JSON object with a list of keys under `keys`")


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
