"""Inbound keys: made here, kept as hashes, found in constant time, taken from a request by one function.

A key that came inside a JSON object.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gatepass.config.access import AccessKey, keys_in
from gatepass.config.checks import SHORTEST_KEY_CHARS, api_key_weakness
from gatepass.config.references import UnresolvedReference
from gatepass.errors import InvalidApiKey
from gatepass.types import Headers

logger = logging.getLogger("gatepass.admission")

PREFIX = "gp-"
"""What makes a leaked key easy to recognise, for people and for scanners."""
RANDOM_BYTES = 32
LOOK_AGAIN_S = 1.0
"""How often a file that holds keys is looked at, at most."""

_HASH_PREFIX = "sha256:"
_KEY_HEADERS = frozenset((b"authorization", b"x-api-key", b"api-key"))


def new_key() -> tuple[str, str]:
    """A new key of 256 random bits, and the hash that stands for it in a configuration."""
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    return key, hash_key(key)


def hash_key(key: str) -> str:
    """`sha256:<hex>`. A key of 256 random bits needs no salt and no slow hash: nobody can guess it."""
    return _HASH_PREFIX + _digest(key).hex()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class _Trouble:
    """What is wrong with a key's file, as the log tells it: the event, and why."""

    event: str
    reason: str


@dataclass(slots=True)
class _Entry:
    key: AccessKey
    digests: tuple[bytes, ...]
    trouble: _Trouble | None = None


class KeyRing:
    """The keys that open the door.

    A key by reference is read again at most once in LOOK_AGAIN_S, so a rotated file counts at once
    without a restart; while it cannot be read, or is empty, the keys read last stay good. A key in
    it that no configuration may start with (`config.checks.api_key_weakness`) opens nothing. Each change
    for the worse is one line of the log, which names the entry and the file and holds no key.
    """

    def __init__(self, keys: Sequence[AccessKey]) -> None:
        self._entries = [_Entry(key, _digests(key)) for key in keys]
        self._looked_s = -math.inf

    def find(self, presented: str, now: float) -> AccessKey | None:
        """The entry that `presented` belongs to. Takes as long for a wrong key as for any right one.

        `now` is in seconds of the Clock.
        """
        if now - self._looked_s >= LOOK_AGAIN_S:
            self._look_again(now)
        digest = _digest(presented)
        found: AccessKey | None = None
        for entry in self._entries:
            for known in entry.digests:
                if hmac.compare_digest(known, digest):
                    found = entry.key
        return found

    def _look_again(self, now: float) -> None:
        self._looked_s = now
        for entry in self._entries:
            if entry.key.key is not None:
                entry.digests, trouble = _reread(entry)
                _tell(entry, trouble)
                entry.trouble = trouble


def _digests(key: AccessKey) -> tuple[bytes, ...]:
    if key.hash is not None:
        return (bytes.fromhex(key.hash.removeprefix(_HASH_PREFIX)),)
    return tuple(_digest(text) for text in key_texts(key))


def _reread(entry: _Entry) -> tuple[tuple[bytes, ...], _Trouble | None]:
    try:
        texts = key_texts(entry.key)
    except UnresolvedReference as error:  # a secret that is being replaced is missing for a moment
        return entry.digests, _Trouble("keys_unreadable", str(error))
    if not texts:
        return entry.digests, _Trouble("keys_unreadable", "holds no key")
    faults = {text: api_key_weakness(text) for text in texts}
    good = tuple(_digest(text) for text, fault in faults.items() if fault is None)
    return good, next((_weak(text, fault) for text, fault in faults.items() if fault is not None), None)


def _weak(key: str, fault: str) -> _Trouble:
    return _Trouble("key_too_short" if len(key) < SHORTEST_KEY_CHARS else "key_unusable", fault)


def _tell(entry: _Entry, trouble: _Trouble | None) -> None:
    """Log what has become of the entry's file, once per change."""
    if trouble == entry.trouble:
        return
    fields: dict[str, object] = {"key": entry.key.name}
    if trouble is None:
        logger.info("keys_reloaded", extra={"fields": fields})
    else:
        fields |= {"reason": trouble.reason, "keys_in_force": len(entry.digests)}
        logger.warning(trouble.event, extra={"fields": fields})


def key_texts(key: AccessKey) -> tuple[str, ...]:
    """The keys themselves, where the configuration knows them: for masking. Raises UnresolvedReference."""
    return keys_in(key.key.reveal()) if key.key is not None else ()


def presented_key(headers: Headers) -> str | None:
    """The key that a request shows in Authorization, x-api-key or api-key; None where it shows none.

    Raises InvalidApiKey where two differ, and where Authorization is not of the scheme Bearer: a key
    must not be looked at in one header and overlooked in another (the class of CVE-2026-45339). A key, and
    a JSON object with it (RAGFlow sends one), do not differ: it is the key then.
    """
    found: str | None = None
    for name, value in headers:
        if name in _KEY_HEADERS:
            key = _bearer(value) if name == b"authorization" else value.strip().decode("latin-1")
            if found is not None and key and key != found:
                found = _agreed(found, key)
            found = found or key or None
    return found


def _agreed(one: str, other: str) -> str:
    """The key that both are, where one holds the other in a JSON object."""
    inner, other_inner = unwrapped_key(one), unwrapped_key(other)
    if (inner or one) != (other_inner or other):
        raise InvalidApiKey(
            "The request shows two API keys that differ: `Authorization`, `x-api-key` and `api-key` all count."
            " Send one, as `Authorization: Bearer <key>`."
        )
    return one if inner is None else other


def _bearer(value: bytes) -> str:
    """The key in an Authorization header (RFC 6750 2.1; the scheme's case is free, RFC 9110 11.1)."""
    scheme, _, key = value.strip().partition(b" ")
    if scheme and scheme.lower() != b"bearer":
        raise InvalidApiKey("The Authorization header is not understood. Send it as `Authorization: Bearer <key>`.")
    return key.strip().decode("latin-1")


MOST_CHARS = 4096


def unwrapped_key(presented: str) -> str | None:
    """The key in `{"api_key": "…", …}`, None where `presented` is no such object.

    RAGFlow stores what its form collected as one JSON text, and some versions send that whole text as the bearer
    (infiniflow/ragflow#17757).
    """
    if not presented.startswith("{") or len(presented) > MOST_CHARS:
        return None
    try:
        said: Any = msgspec.json.decode(presented)
    except (ValueError, RecursionError):
        return None
    key = said.get("api_key")
    return key.strip() or None if isinstance(key, str) else None
