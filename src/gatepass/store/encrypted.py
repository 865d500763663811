"""Encrypt the values of a store that others may be able to read: a Valkey server, or a folder on a disk.

Values are AES-256-GCM ciphertexts of the `cryptography` library (extra `crypto` or `valkey`). Names are HMAC-SHA-256
codes. Both keys are derived from one secret by HKDF (RFC 5869).
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

from gatepass.store.base import Store, StoreReading, StoreScope

KEY_BYTES = 32
NONCE_BYTES = 12
"""Length of the random nonce of each value. NIST SP 800-38D (8.3) allows 2**32 per key; each token one."""
NAME_CHARS = 32


class EncryptedStore:
    """Wrap `store` so that it holds no value and no name in clear.

    A value that does not decrypt is treated as absent. It was written with another key, changed, or moved to another
    name.
    """

    def __init__(self, store: Store, secret: bytes) -> None:
        self._store = store
        self._name_key = _derived(secret, b"gatepass store names")
        self._cipher = AESGCM(_derived(secret, b"gatepass store values"))

    @property
    def scope(self) -> StoreScope:
        return self._store.scope

    async def get(self, names: Collection[str]) -> StoreReading:
        codes = {name: self.code(name) for name in names}
        reading = await self._store.get(list(codes.values()))
        values: dict[str, bytes] = {}
        for name, code in codes.items():
            stored = reading.values.get(code, b"")
            if len(stored) >= NONCE_BYTES:
                with suppress(InvalidTag):
                    values[name] = self._cipher.decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], name.encode())
        return replace(reading, values=values)

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        nonce = secrets.token_bytes(NONCE_BYTES)
        await self._store.put(self.code(name), nonce + self._cipher.encrypt(nonce, value, name.encode()), ttl_s)

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
        """Return the name under which `name` is stored: its kind in clear, the rest as an HMAC."""
        kind = name.partition("/")[0]
        return f"{kind}:{hmac.digest(self._name_key, name.encode(), 'sha256').hex()[:NAME_CHARS]}"


def _derived(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)
