"""The check of the servers behind gatepass: only requests with a token that is valid now pass.

It verifies the RS256 signature with the keys that the issuer publishes, and `iss`, `aud` and `exp` without leeway.
"""

import json
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import jwt

CONNECT_S = 5.0


@dataclass(slots=True)
class Tally:
    """The counts of the check. `tokens`: the number of accepted requests by the `jti` of their token."""

    refusals: list[str] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> bytes:
        return json.dumps({"refusals": self.refusals, "tokens": self.tokens}).encode()


class TokenRefused(Exception):
    """The request has no token that is valid now. The text contains the reason."""


@dataclass(frozen=True, slots=True)
class Verifier:
    issuer: str
    audience: str
    keys: dict[str, jwt.PyJWK]
    tally: Tally = field(default_factory=Tally)

    def claims(self, authorization: str) -> dict[str, Any]:
        """Count the request, and return the claims of its token; raise TokenRefused."""
        try:
            claims = self._claims(authorization)
        except TokenRefused as refused:
            self.tally.refusals.append(str(refused))
            raise
        self.tally.tokens[claims["jti"]] += 1
        return claims

    def _claims(self, authorization: str) -> dict[str, Any]:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise TokenRefused("no bearer token")
        try:
            key = self.keys[jwt.get_unverified_header(token)["kid"]]
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                issuer=self.issuer,
                audience=self.audience,
                leeway=0,
                options={"require": ["exp", "iat", "iss", "aud", "jti"]},
            )
        except KeyError:
            raise TokenRefused("signed with an unknown key") from None
        except jwt.InvalidTokenError as error:
            raise TokenRefused(str(error)) from None
        return claims


def verifier(issuer: str, audience: str) -> Verifier:
    """Return a verifier with the keys that the issuer publishes."""
    with urllib.request.urlopen(f"{issuer}/jwks", timeout=CONNECT_S) as reply:  # noqa: S310 - our own issuer
        keys = jwt.PyJWKSet.from_dict(json.load(reply)).keys
    return Verifier(issuer, audience, {key.key_id: key for key in keys if key.key_id is not None})
