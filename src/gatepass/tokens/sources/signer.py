"""Sign a client's assertions. The only OAuth module that imports PyJWT and cryptography."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jwt

from gatepass.config.certificates import signing_key
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.secrets import revealed
from gatepass.types import Secret


class Signer:
    """Signs the assertions of one client with the PEM of `key`."""

    def __init__(self, settings: Oauth2Credential, key: Secret) -> None:
        self._settings = settings
        self._key = key
        self._parse = lru_cache(maxsize=1)(signing_key)

    def sign(self, claims: dict[str, Any]) -> str:
        """Return the claims as a JWT; raise FetchFailure if the current key is unusable."""
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
