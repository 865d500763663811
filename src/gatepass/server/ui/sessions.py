"""Sessions of the page at /ui: a signed cookie says who signed in, with which key, and until when.

Each caller has a signing key of its own, which its first sign-in makes and a sign-out removes. So a sign-out ends all
sessions of the caller, and gatepass holds 32 bytes for each caller, however often it signs in. The signing keys are in
memory, and end with gatepass.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

LIFE_S = 8 * 3600
KEY_BYTES = 32
ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True)
class Session:
    """One sign-in of the caller, with the key of this SHA-256: the session ends with the key."""

    caller: str
    key_digest: bytes = field(repr=False)


class Sessions:
    """The sessions of a gatepass. `wall_s` is in seconds since the epoch."""

    def __init__(self) -> None:
        self._keys: dict[str, bytes] = {}

    def begin(self, caller: str, key_digest: bytes, wall_s: float) -> str:
        """Return the cookie of a new session."""
        import jwt  # 10 MiB with cryptography, and only a page with keys needs it

        claims = {"sub": caller, "key": key_digest.hex(), "exp": int(wall_s) + LIFE_S}
        if caller not in self._keys:
            self._keys[caller] = secrets.token_bytes(KEY_BYTES)
        return jwt.encode(claims, self._keys[caller], ALGORITHM)

    def find(self, cookie: str, wall_s: float) -> Session | None:
        """Return the session of `cookie`, None if it has ended or gatepass did not sign it."""
        import jwt

        try:
            caller = jwt.decode(cookie, options={"verify_signature": False}).get("sub")
            key = self._keys.get(caller) if isinstance(caller, str) else None
            if key is None:
                return None
            # `exp` is compared below, by the clock of gatepass
            claims = jwt.decode(cookie, key, [ALGORITHM], options={"verify_exp": False})
        except (jwt.InvalidTokenError, ValueError):  # ValueError: a cookie with lone surrogates
            return None
        return Session(claims["sub"], bytes.fromhex(claims["key"])) if wall_s < claims["exp"] else None

    def end(self, caller: str) -> None:
        self._keys.pop(caller, None)
