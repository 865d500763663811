"""Signed assertions of a client (RFC 7523): short-lived, for one issuer, each for one use."""

from __future__ import annotations

import secrets
from typing import Any, Protocol

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
