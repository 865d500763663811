"""Signed assertions of a client (RFC 7523): short-lived, for one issuer, each for one use."""

from __future__ import annotations

import secrets
from typing import Any, Protocol

import jwt

from gatepass.call import Secret
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.references import UnresolvedReference, read_file
from gatepass.config.signing_key import SigningKey, check_secret, signing_key, thumbprint
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.secret import revealed

TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
"""RFC 7523 2.2."""
LIFE_S = 60
BACKDATED_S = 10
"""How far `iat` and `nbf` lie in the past: an issuer whose clock is behind would call them of the future."""
_JTI_BYTES = 18


def claims(client_id: str, audience: str, wall_s: float) -> dict[str, Any]:
    """What an assertion made at `wall_s` (epoch seconds, by the issuer's clock) says; LIFE_S from `iat` to `exp`."""
    made_s = int(wall_s) - BACKDATED_S
    return {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "jti": secrets.token_urlsafe(_JTI_BYTES),
        "iat": made_s,
        "nbf": made_s,
        "exp": made_s + LIFE_S,
    }


class Signer(Protocol):
    def sign(self, claims: dict[str, Any]) -> str:
        """The claims as a JWT, with the secret or key as it stands now; raises FetchFailure where that is unfit."""
        ...


class SecretSigner:
    """`client_secret_jwt`: HS256 with the client's secret."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def sign(self, claims: dict[str, Any]) -> str:
        secret = revealed(self._secret, "client_secret")
        try:
            check_secret(secret)
            return jwt.encode(claims, secret, algorithm="HS256")
        except (ValueError, jwt.PyJWTError) as error:
            raise FetchFailure(f"client_secret {error}", quick=False) from None


class KeySigner:
    """`private_key_jwt`. The key's file is read each time, and parsed again when it has changed."""

    def __init__(self, settings: Oauth2Credential, key: Secret) -> None:
        self._settings = settings
        self._key = key
        self._parsed: tuple[str, SigningKey] | None = None

    def sign(self, claims: dict[str, Any]) -> str:
        try:
            key = self._current()
        except ValueError as error:
            raise FetchFailure(f"private_key {error}", quick=False) from None
        try:
            algorithm = key.algorithm(self._settings.algorithm)
        except ValueError as error:
            raise FetchFailure(f"algorithm {error}", quick=False) from None
        return jwt.encode(claims, key.key, algorithm=algorithm, headers=self._headers())

    def _current(self) -> SigningKey:
        pem = revealed(self._key, "private_key")
        if self._parsed is None or self._parsed[0] != pem:
            self._parsed = (pem, signing_key(pem))
        return self._parsed[1]

    def _headers(self) -> dict[str, str]:
        """How the issuer finds the key's public half (RFC 7515 4.1.4 and 4.1.8)."""
        found = {} if self._settings.key_id is None else {"kid": self._settings.key_id}
        if (file := self._settings.certificate_file) is not None:
            try:
                found["x5t#S256"] = thumbprint(read_file(file))
            except UnresolvedReference as error:
                raise FetchFailure(f"certificate_file: {error}", quick=False) from None
            except ValueError as error:
                raise FetchFailure(f"certificate_file {error}", quick=False) from None
        return found
