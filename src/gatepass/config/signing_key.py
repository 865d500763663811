"""Private keys that sign, and their certificates: what of a PEM text can be used, and why not.

RSA and elliptic curves want the package cryptography, which is no part of the small installed set: it is
imported only where a key is configured.
"""

from __future__ import annotations

import ssl
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

LIBRARY, EXTRA = "cryptography", "crypto"
NO_KEY = "holds no PEM private key that can be read (-----BEGIN PRIVATE KEY-----)"
LOCKED_KEY = "holds a private key under a pass phrase, which gatepass has no setting for: take one without"
WRONG_KIND = "holds a key that is neither RSA nor on the curve P-256"
SHORT_KEY = "holds an RSA key of fewer than 2048 bits, which RFC 7518 3.3 forbids: take a longer one"
NO_CERTIFICATE = "holds no PEM certificate that can be read (-----BEGIN CERTIFICATE-----)"
FOREIGN_CERTIFICATE = "holds a certificate that does not belong to the private key"
SHORTEST_RSA_BITS = 2048
SHORTEST_SECRET_BYTES = 32
SHORT_SECRET = "is shorter than 32 bytes, and HS256 wants that many (RFC 7518 3.2)"  # noqa: S105 - words, no secret
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key and what it can sign with (RFC 7518 3.1), the usual algorithm first."""

    key: RSAPrivateKey | EllipticCurvePrivateKey = field(repr=False)
    algorithms: tuple[str, ...]

    def algorithm(self, wanted: str | None) -> str:
        """`wanted`, or the key's usual one; raises ValueError where the key cannot sign so."""
        if wanted is not None and wanted not in self.algorithms:
            raise ValueError(f"is {wanted}, which the key cannot sign with: it can {' and '.join(self.algorithms)}")
        return wanted or self.algorithms[0]


def signing_key(pem: str) -> SigningKey:
    """The key of a PEM text; raises ValueError, which tells what is wrong and quotes nothing."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    key = _private_key(pem)
    if isinstance(key, RSAPrivateKey):
        if key.key_size < SHORTEST_RSA_BITS:
            raise ValueError(SHORT_KEY)
        return SigningKey(key, ("RS256", "PS256"))
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return SigningKey(key, ("ES256",))
    raise ValueError(WRONG_KIND)


def _private_key(pem: str) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(pem.encode(), None)
    except TypeError:  # "Password was not given but private key is encrypted"
        raise ValueError(LOCKED_KEY) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(NO_KEY) from None


def thumbprint(pem: str) -> str:
    """The `x5t#S256` of the first certificate of a PEM text (RFC 7515 4.1.8); raises ValueError."""
    return urlsafe_b64encode(sha256(_first_certificate(pem)).digest()).rstrip(b"=").decode()


def check_belongs(pem: str, key: SigningKey) -> None:
    """Raises ValueError unless the first certificate of `pem` is the key's."""
    from cryptography.x509 import load_der_x509_certificate

    try:
        shown = load_der_x509_certificate(_first_certificate(pem)).public_key()
    except ValueError:
        raise ValueError(NO_CERTIFICATE) from None
    if shown != key.key.public_key():
        raise ValueError(FOREIGN_CERTIFICATE)


def _first_certificate(pem: str) -> bytes:
    start, end = pem.find(_BEGIN), pem.find(_END)
    try:
        return ssl.PEM_cert_to_DER_cert(pem[start : end + len(_END)])
    except ValueError:
        raise ValueError(NO_CERTIFICATE) from None


def check_secret(secret: str) -> None:
    """Raises ValueError where `secret` is too short to sign with HS256."""
    if len(secret.encode()) < SHORTEST_SECRET_BYTES:
        raise ValueError(SHORT_SECRET)
