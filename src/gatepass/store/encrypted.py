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
"""The entry with the id of the key that the processes write with."""
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

    Values are written with the first of `secret_keys` and read with each of them. Counters and leases are kept under
    all of them, so processes in the middle of a key rotation exclude each other too. A value that does not decrypt is
    treated as absent. It was written with another key, changed, or moved to another name.
    """

    def __init__(self, store: Store, *secret_keys: bytes) -> None:
        self._store = store
        self._keys = [StoreKey(secret) for secret in secret_keys]
        self._ordered = sorted(self._keys, key=lambda key: key.id)
        """In the same order in all processes, so that two of them cannot each hold a part of a lease for long."""

    @property
    def key_id(self) -> str:
        """A fingerprint of the key that writes. It reveals nothing of the key."""
        return self._keys[0].id

    async def get(self, names: Collection[str]) -> StoreReading:
        codes = [(name, key, key.code(name)) for name in names for key in self._keys]
        reading = await self._store.get([code for _, _, code in codes])
        values: dict[str, bytes] = {}
        for name, key, code in codes:
            stored = reading.values.get(code, b"")
            if len(stored) >= NONCE_BYTES and name not in values:
                with suppress(InvalidTag):
                    # The name is authenticated too: a server cannot exchange the values of two names.
                    values[name] = key.cipher.decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], name.encode())
        return replace(reading, values=values)

    async def put(self, name: str, value: bytes, ttl_s: float) -> None:
        nonce, (key, *others) = secrets.token_bytes(NONCE_BYTES), self._keys
        await self._store.put(key.code(name), nonce + key.cipher.encrypt(nonce, value, name.encode()), ttl_s)
        for other in others:  # a process that prefers the other key would still read the old value
            await self._store.drop(other.code(name))

    async def drop(self, name: str) -> None:
        for key in self._keys:
            await self._store.drop(key.code(name))

    async def count(self, name: str, ttl_s: float) -> int:
        # The maximum, because a process with only one of the keys counts under that key alone.
        return max([await self._store.count(key.code(name), ttl_s) for key in self._keys])

    async def lease(self, name: str, owner: str, ttl_s: float) -> bool:
        for index, key in enumerate(self._ordered):
            if not await self._store.lease(key.code(name), owner, ttl_s):
                # Given back at once, so that the process which holds the other part can complete its lease.
                for taken in self._ordered[:index]:
                    await self._store.release(taken.code(name), owner)
                return False
        return True

    async def release(self, name: str, owner: str) -> None:
        for key in self._ordered:
            await self._store.release(key.code(name), owner)

    async def aclose(self) -> None:
        await self._store.aclose()

    def code(self, name: str) -> str:
        """Return the name under which the first key stores `name`."""
        return self._keys[0].code(name)

    def accepts(self, key_id: str) -> bool:
        return key_id in {key.id for key in self._keys}

    async def shared_key_id(self) -> str | None:
        """Return the id of the key that the processes write with, or None."""
        found = (await self._store.get((KEY_NAME,))).values.get(KEY_NAME)
        if found is None:
            return None
        text = found.decode("ascii", "replace")  # shown in the log: any client of the server may have written it
        return text if len(text) == KEY_ID_CHARS and text.isalnum() else "not an id of a key"

    async def put_key_id(self) -> None:
        """Store the id of the key that writes, in clear, while a process with this key runs."""
        await self._store.put(KEY_NAME, self.key_id.encode(), KEY_KEPT_S)


def _derived(secret: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)
