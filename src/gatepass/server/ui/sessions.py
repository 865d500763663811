"""Sessions of the page at /ui: a signed cookie says who signed in, with which key, and until when.

Each caller has a signing key of its own, which its first sign-in makes and a sign-out removes. So a sign-out ends all
sessions of the caller, and gatepass holds 32 bytes for each caller, however often it signs in. The signing keys are in
memory, or in a folder that all workers of one `gatepass serve` share. They end with gatepass.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

LIFE_S = 8 * 3600
KEY_BYTES = 32
ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True)
class Session:
    """One sign-in of the caller, with the key of this SHA-256: the session ends with the key."""

    caller: str
    key_digest: bytes = field(repr=False)


class Sessions:
    """The sessions of a gatepass. `wall_s` is in seconds since the epoch.

    `folder` is that of several workers. The supervisor made the folder around it with mode 0700.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._keys: dict[str, bytes] = {}
        self._folder = folder
        if folder is not None:
            folder.mkdir(mode=0o700, exist_ok=True)

    def begin(self, caller: str, key_digest: bytes, wall_s: float) -> str:
        """Return the cookie of a new session; raise OSError."""
        import jwt  # 10 MiB with cryptography, and only a page with keys needs it

        claims = {"sub": caller, "key": key_digest.hex(), "exp": int(wall_s) + LIFE_S}
        while (key := self._find(caller)) is None:  # another worker may remove the one that this one makes
            made = secrets.token_bytes(KEY_BYTES)
            if self._folder is None:
                self._keys[caller] = made
                continue
            new = self._folder / f".{secrets.token_hex(8)}"
            new.touch(mode=0o600)
            new.write_bytes(made)
            with suppress(FileExistsError):  # a link appears with its content, and replaces no other
                os.link(new, self._folder / _name(caller))
            new.unlink()
        return jwt.encode(claims, key, ALGORITHM)

    def find(self, cookie: str, wall_s: float) -> Session | None:
        """Return the session of `cookie`, None if it has ended or gatepass did not sign it."""
        import jwt

        try:
            caller = jwt.decode(cookie, options={"verify_signature": False}).get("sub")
            key = self._find(caller) if isinstance(caller, str) else None
            if key is None:
                return None
            # `exp` is compared below, by the clock of gatepass
            claims = jwt.decode(cookie, key, [ALGORITHM], options={"verify_exp": False})
        except (jwt.InvalidTokenError, ValueError):  # ValueError: a cookie with lone surrogates
            return None
        return Session(claims["sub"], bytes.fromhex(claims["key"])) if wall_s < claims["exp"] else None

    def end(self, caller: str) -> None:
        self._keys.pop(caller, None)
        if self._folder is not None:
            (self._folder / _name(caller)).unlink(missing_ok=True)

    def _find(self, caller: str) -> bytes | None:
        if self._folder is None:
            return self._keys.get(caller)
        try:
            return (self._folder / _name(caller)).read_bytes()
        except FileNotFoundError:
            return None


def _name(caller: str) -> str:
    return sha256(caller.encode("utf-8", "surrogatepass")).hexdigest()
