"""Encryption of what lies in a store, with the standard library alone.

It has no cipher, but a pseudo-random function (HMAC-SHA-256), and that is enough: a stream of it over
a counter encrypts (NIST SP 800-108r1, 4.1, is the stream; Bellare, Desai, Jokipii, Rogaway 1997 the
proof), and a code over the ciphertext, with a key of its own, makes it authenticated (encrypt-then-MAC:
Bellare, Namprempre 2000, 4.3; Krawczyk 2001). 100 µs for a token of 4 KiB, once per life.
"""

from __future__ import annotations

import hmac
import secrets

KEY_BYTES = 32
"""Of a key that is made for the purpose."""
VERSION = b"\x01"
NONCE_BYTES = 24
"""Random: 2**96 values pass before two are likely to be the same."""
TAG_BYTES = 32
_BLOCK_BYTES = 32
_LABEL = b"gatepass store stream"


class Seal:
    """What one key closes. Values cannot be read or changed without it, nor moved to another name."""

    def __init__(self, key: bytes) -> None:
        root = hmac.digest(b"gatepass store", key, "sha256")  # HKDF's extract (RFC 5869): `key` may be a text
        self._names = hmac.digest(root, b"names", "sha256")
        self._stream = hmac.digest(root, b"stream", "sha256")
        self._tags = hmac.digest(root, b"tags", "sha256")

    def __repr__(self) -> str:
        return "Seal(hidden)"

    def name(self, name: str) -> str:
        """`kind/rest` with a code instead of the rest: who cannot make it learns nothing, and finds nothing twice."""
        kind, _, rest = name.partition("/")
        return f"{kind}:{hmac.digest(self._names, f'{kind}/{rest}'.encode(), 'sha256')[:16].hex()}"

    def close(self, name: str, value: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        body = VERSION + nonce + _xor(value, self._keystream(nonce, len(value)))
        return body + self._tag(name, body)

    def open(self, name: str, closed: bytes) -> bytes | None:
        """What `close` was given for `name`; None for anything else."""
        body, tag = closed[:-TAG_BYTES], closed[-TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(name, body)) or not body.startswith(VERSION):
            return None
        nonce, hidden = body[1 : 1 + NONCE_BYTES], body[1 + NONCE_BYTES :]
        return _xor(hidden, self._keystream(nonce, len(hidden)))

    def _tag(self, name: str, body: bytes) -> bytes:
        context = name.encode()
        return hmac.digest(self._tags, len(context).to_bytes(8) + context + body, "sha256")

    def _keystream(self, nonce: bytes, size_bytes: int) -> bytes:
        """SP 800-108 in counter mode: counter, label, zero, context, length in bits."""
        blocks = -(-size_bytes // _BLOCK_BYTES)
        fixed = _LABEL + b"\0" + nonce + (size_bytes * 8).to_bytes(4)
        stream = (hmac.digest(self._stream, number.to_bytes(4) + fixed, "sha256") for number in range(1, blocks + 1))
        return b"".join(stream)[:size_bytes]


def _xor(data: bytes, stream: bytes) -> bytes:
    return (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(len(data))
