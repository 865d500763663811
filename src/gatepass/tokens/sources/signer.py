"""Sign a client's assertions. The only OAuth module that imports PyJWT, and cryptography if it is installed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jwt

from gatepass.config.certificates import check_secret, signing_key
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.secrets import revealed
from gatepass.types import Secret


class Signer:
    """Signs client assertions with the client's secret (`secret_jwt`) or the PEM of `key` (`private_key_jwt`)."""

    def __init__(self, settings: Oauth2Credential, secret: Secret, key: Secret | None) -> None:
        self._settings = settings
        self._secret = secret
        self._key = key
        self._parse = lru_cache(maxsize=1)(signing_key)

    def sign(self, claims: dict[str, Any]) -> str:
        """Return the claims as a JWT; raise FetchFailure if the current secret or key is unusable."""
        if self._key is None:
            secret = revealed(self._secret, "client_secret")
            try:
                # The file of the secret may have changed since the start.
                check_secret(secret)
                return jwt.encode(claims, secret, algorithm="HS256")
            except (ValueError, jwt.PyJWTError) as error:
                raise FetchFailure(f"client_secret {error}", quick=False) from None
        pem = revealed(self._key, "private_key")
        try:
            key = self._parse(pem)
        except ValueError as error:
            raise FetchFailure(f"private_key {error}", quick=False) from None
        try:
            # A new key may be of another kind than `algorithm`.
            algorithm = key.algorithm(self._settings.algorithm)
        except ValueError as error:
            raise FetchFailure(f"algorithm {error}", quick=False) from None
        # the header by which the issuer finds the public key (RFC 7515 4.1.4)
        headers = {} if self._settings.key_id is None else {"kid": self._settings.key_id}
        return jwt.encode(claims, key.key, algorithm=algorithm, headers=headers)
