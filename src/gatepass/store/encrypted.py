"""Encrypt the values of a store that others may be able to read: a Valkey server.

Values are AES-256-GCM ciphertexts of the `cryptography` library (extra `crypto` or `valkey`). Names are HMAC-SHA-256
codes. Both keys, and the fingerprint that processes compare, are derived from one secret by HKDF (RFC 5869).
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gatepass.store.base import Store, StoreReading

KEY_BYTES = 32
NONCE_BYTES = 12
"""Length of the random nonce of each value. NIST SP 800-38D (8.3) allows 2**32 nonces for each key."""
NAME_CHARS = 32
KEY_ID_CHARS = 16
KEY_NAME = "encryption-key:current"
"""The entry with the id of the key of the processes."""
KEY_KEPT_S = 15.0
"""How long after the end of the last process with a key another key may take its place."""


class StoreKey:
    """The keys that are derived from one secret, and their id."""

    def __init__(self, secret: bytes) -> None:
        self.id = _derived(secret, b"gatepass store key id").hex()[:KEY_ID_CHARS]
        self.cipher = AESGCM(_derived(secret, b"gatepass store values"))
        self._names = _derived(secret, b"gatepass store names")

    def code(self, name: str) -> str:
        """Return the name under which `name` is stored: its kind in clear, the rest as an HMAC."""
        kind = name.partition("/")[0]
        return f"{kind}:{hmac.digest(self._names, name.encode(), 'sha256').hex()[:NAME_CHARS]}"


class EncryptedStore:
    """Wrap `store` so that it holds no value and no name in clear.

    A value that does not decrypt is treated as absent. It was written with another key, changed, or moved to another
    name.
    """

    def __init__(self, store: Store, secret_key: bytes) -> None:
        self._store = store
        self._key = StoreKey(secret_key)

    @property
    def key_id(self) -> str:
        """A fingerprint of the key. It reveals nothing of the key."""
        return self._key.id

    async def get(self, names: Collection[str]) -> StoreReading:
        reading = await self._store.get([self.code(name) for name in names])
        values: dict[str, bytes] = {}
        for name in names:
            stored = reading.values.get(self.code(name), b"")
            if len(stored) >= NONCE_BYTES:
                with suppress(InvalidTag):
                    # The name is authenticated too: a server cannot exchange the values of two names.
                    values[name] = self._key.cipher.decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], name.encode())
        return replace(reading, values=values)

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        nonce = secrets.token_bytes(NONCE_BYTES)
        await self._store.put(self.code(name), nonce + self._key.cipher.encrypt(nonce, value, name.encode()), ttl_s)

    async def drop(self, name: str) -> None:
        await self._store.drop(self.code(name))

    async def count(self, name: str, ttl_s: float) -> int:
        return await self._store.count(self.code(name), ttl_s)

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        return await self._store.lease(self.code(name), owner, ttl_s)

    async def release(self, name: str, owner: str) -> None:
        await self._store.release(self.code(name), owner)

    async def aclose(self) -> None:
        await self._store.aclose()

    def code(self, name: str) -> str:
        """Return the name under which `name` is stored."""
        return self._key.code(name)

    async def shared_key_id(self) -> str | None:
        """Return the id of the key of the other processes, or None."""
        found = (await self._store.get((KEY_NAME,))).values.get(KEY_NAME)
        if found is None:
            return None
        text = found.decode("ascii", "replace")  # shown in the log: any client of the server may have written it
        return text if len(text) == KEY_ID_CHARS and text.isalnum() else "not an id of a key"

    async def put_key_id(self) -> None:
        """Store the id of the key, in clear, while a process with this key runs."""
        await self._store.put(KEY_NAME, self.key_id.encode(), KEY_KEPT_S)


def _derived(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)
