"""The demo's tokens: JWTs that one side signs and the other verifies with no leeway."""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import jwt
from jwt.types import Options

_ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True)
class Minted:
    """One token as its issuer knows it. `issued_at` and `expires_at` are seconds since the epoch."""

    number: int
    subject: str
    audience: str
    token: str
    issued_at: float
    expires_at: int

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.token)

    def __repr__(self) -> str:
        return f"Minted({self.number}, {self.subject}, {self.fingerprint})"


class Distrust(StrEnum):
    """Why a bearer is refused."""

    MISSING = "missing"
    STALE = "stale"
    FOREIGN = "foreign"


class Distrusted(Exception):
    def __init__(self, why: Distrust) -> None:
        super().__init__(why.value)
        self.why = why


class SigningKey:
    """A secret of this run, shared by an issuer and the servers that believe it."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._secret = secrets.token_bytes(32)
        self._wall = wall

    def sign(self, *, number: int, subject: str, audience: str, life_s: float) -> Minted:
        """A token for `audience` that lives at least `life_s`: RFC 7519 `exp` is written in whole seconds."""
        now = self._wall()
        expires_at = math.ceil(now + life_s)
        claims = {"sub": subject, "aud": audience, "iat": math.floor(now), "exp": expires_at, "jti": str(number)}
        token = jwt.encode(claims, self._secret, algorithm=_ALGORITHM)
        return Minted(number, subject, audience, token, now, expires_at)

    def verify(self, token: str, audience: str, *, expiry: bool = True) -> None:
        """Raises Distrusted unless `token` was signed here for `audience` and is not past its `exp` by a moment."""
        checks: Options = {"require": ["exp", "aud"], "verify_exp": expiry}
        try:
            jwt.decode(token, self._secret, algorithms=[_ALGORITHM], audience=audience, leeway=0, options=checks)
        except jwt.ExpiredSignatureError:
            raise Distrusted(Distrust.STALE) from None
        except jwt.PyJWTError:
            raise Distrusted(Distrust.FOREIGN) from None


def fingerprint(token: str) -> str:
    """Enough of a token's hash to tell it from another, and nothing of the token."""
    return hashlib.sha256(token.encode()).hexdigest()[:8]
