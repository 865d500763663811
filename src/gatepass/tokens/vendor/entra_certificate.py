"""An application's certificate at Entra ID, and the assertions that its key signs.

azure-identity's own CertificateCredential parses the key twice for each object, and an object caches tokens: 60 ms
of each fetch in which no stream of the process moves. Here a key is parsed when its file has changed.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import load_key_and_certificates

from gatepass.call import Secret
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.secret import revealed

LIFE_S = 600
"""Of an assertion: enough for a clock that is minutes ahead or behind."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A key and the thumbprint by which the directory knows its certificate."""

    key: RSAPrivateKey = field(repr=False)
    thumbprint: str

    def assertion(self, client_id: str, audience: str, wall_s: float) -> str:
        """Who asks, for `audience` (the token endpoint's URL), in the shape that azure-identity 1.27 sends."""
        made_s = int(wall_s)
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "jti": secrets.token_urlsafe(18),
            "nbf": made_s - LIFE_S // 2,
            "exp": made_s + LIFE_S,
        }
        return jwt.encode(claims, self.key, algorithm="PS256", headers={"x5t#S256": self.thumbprint})


class CertificateFile:
    """The certificate in a file, parsed anew when the file or its pass phrase changes."""

    def __init__(self, path: str, password: Secret | None) -> None:
        self._path = path
        self._password = password
        self._known: tuple[bytes, str | None, Certificate] | None = None

    def current(self) -> Certificate:
        """Raises FetchFailure where the file is not there or is not what it should be."""
        password = None if self._password is None else revealed(self._password, "certificate_password")
        try:
            data = Path(self._path).read_bytes()
            if self._known is None or self._known[:2] != (data, password):
                self._known = (data, password, certificate(data, password))
        except OSError as error:
            raise FetchFailure(f"{self._here} cannot be read: {error.strerror}", quick=False) from None
        except ValueError as error:
            raise FetchFailure(f"{self._here} {error}", quick=False) from None
        return self._known[2]

    def fingerprint(self) -> str:
        """Changes when the file does; raises ValueError. The key goes nowhere: nothing in it is to be masked."""
        try:
            return sha256(Path(self._path).read_bytes()).hexdigest()
        except OSError as error:
            raise ValueError(error.strerror) from None

    @property
    def _here(self) -> str:
        return f"certificate_file: {self._path}"


def certificate(data: bytes, password: str | None) -> Certificate:
    """The certificate and key in `data`, PEM or PKCS #12; raises ValueError, which quotes none of it."""
    phrase = password.encode() if password else None
    try:
        key, found = _from_pem(data, phrase) if b"-----BEGIN" in data else _from_pkcs12(data, phrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("holds no certificate with its key that can be read, or has another pass phrase") from None
    if not isinstance(key, RSAPrivateKey) or found is None:
        raise ValueError("holds no certificate with an RSA key, which Entra ID wants")
    if key.public_key() != found.public_key():
        raise ValueError("holds a key that belongs to another certificate")
    return Certificate(key, urlsafe_b64encode(found.fingerprint(SHA256())).rstrip(b"=").decode())


def _from_pem(data: bytes, phrase: bytes | None) -> tuple[object, x509.Certificate | None]:
    return load_pem_private_key(data, phrase), x509.load_pem_x509_certificate(data)


def _from_pkcs12(data: bytes, phrase: bytes | None) -> tuple[object, x509.Certificate | None]:
    key, found, _ = load_key_and_certificates(data, phrase)
    return key, found
