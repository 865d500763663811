"""Encrypt what is stored: others may be able to read a Valkey server.

Values are AES-256-GCM ciphertexts of the `cryptography` library (extra `crypto` or `valkey`). Names are HMAC-SHA-256
codes. Both keys, and the fingerprint that processes compare, are derived from one secret by HKDF (RFC 5869).
"""

from __future__ import annotations

import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
NONCE_BYTES = 12
"""Length of the random nonce of each value. NIST SP 800-38D (8.3) allows 2**32 nonces for each key."""
NAME_CHARS = 32
KEY_ID_CHARS = 16


class StoreKey:
    """The keys that are derived from one secret. `id` is a fingerprint, which reveals nothing of them."""

    def __init__(self, secret: bytes) -> None:
        self.id = _derived(secret, b"gatepass store key id").hex()[:KEY_ID_CHARS]
        self._cipher = AESGCM(_derived(secret, b"gatepass store values"))
        self._names = _derived(secret, b"gatepass store names")

    def code(self, name: str) -> str:
        """Return the name under which `name` is stored: its kind in clear, the rest as an HMAC."""
        kind = name.partition("/")[0]
        return f"{kind}:{hmac.digest(self._names, name.encode(), 'sha256').hex()[:NAME_CHARS]}"

    def seal(self, name: str, value: bytes) -> bytes:
        """Encrypt the value of `name`. The name is authenticated: a server cannot exchange the values of two names."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value, name.encode())

    def open(self, name: str, stored: bytes) -> bytes | None:
        """Decrypt. Return None if `stored` is of another key or name, or was changed."""
        try:
            return self._cipher.decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError):  # the second one: it is shorter than a nonce
            return None


def _derived(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)
