"""Sign tokens as an issuer does, and as nobody should: each part of a JWT is written as the test gives it."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from jwt.algorithms import get_default_algorithms

ALGORITHMS = get_default_algorithms()
_CURVES: Mapping[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


def encoded(value: Any) -> str:
    """One part of a JWT. A text or bytes are the part's content as it is, anything else becomes JSON."""
    text = value if isinstance(value, str | bytes) else json.dumps(value)
    data = text.encode() if isinstance(text, str) else text
    return urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key of an issuer, with the algorithm that it is for."""

    kid: str
    algorithm: str = "RS256"
    bits: int = 2048
    number: int = 0
    """Keys with other numbers are others. The same one is made once, because an RSA key takes a tenth of a second."""

    @property
    def private(self) -> Any:
        return _private(self.algorithm, self.bits, self.number)

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key, as a key set has it."""
        public: dict[str, Any] = json.loads(ALGORITHMS[self.algorithm].to_jwk(self.private.public_key()))
        public.pop("key_ops", None)
        return {**public, "kid": self.kid, "use": "sig"}

    def sign(self, claims: Any, header: Any = None, *, algorithm: str = "") -> str:
        """A JWT. `header` is added to that of the key; if it is no object, it is the whole header."""
        known = {"alg": algorithm or self.algorithm, "typ": "JWT", "kid": self.kid}
        whole = {**known, **(header or {})} if header is None or isinstance(header, dict) else header
        if isinstance(whole, dict):
            whole = {name: value for name, value in whole.items() if value is not ...}
        signed = f"{encoded(whole)}.{encoded(claims)}"
        signature = ALGORITHMS[algorithm or self.algorithm].sign(signed.encode(), self.private)
        return f"{signed}.{encoded(signature)}"


@cache
def _private(algorithm: str, bits: int, number: int) -> PrivateKeyTypes:
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    return rsa.generate_private_key(65537, bits)


@dataclass(slots=True)
class Clients:
    """What an issuer writes into the tokens of one subject, from `now_s` on."""

    issuer: str
    now_s: float
    audience: str = "api://gatepass"
    life_s: float = 300
    more: dict[str, Any] = field(default_factory=dict)

    def claims(self, **changed: Any) -> dict[str, Any]:
        """The claims; `...` leaves one out."""
        usual = {
            "iss": self.issuer,
            "sub": "u1",
            "aud": self.audience,
            "exp": int(self.now_s + self.life_s),
            "iat": int(self.now_s),
            "roles": ["llm-user"],
            "preferred_username": "alice",
        }
        return {name: value for name, value in {**usual, **self.more, **changed}.items() if value is not ...}


def key_set(*keys: SigningKey | Mapping[str, Any]) -> bytes:
    """The document of a key set."""
    return json.dumps({"keys": [key.jwk if isinstance(key, SigningKey) else key for key in keys]}).encode()
