"""API keys of clients: create, hash, extract from a request, and look up by digest."""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import structs

from gatepass.config.access import AccessKey, keys_in, moment_text
from gatepass.config.checks import api_key_weakness
from gatepass.config.references import UnresolvedReference
from gatepass.documents import Key
from gatepass.errors import InvalidApiKey
from gatepass.types import Headers

LOG = logging.getLogger("gatepass.admission")

PREFIX = "gp-"
"""Makes a leaked key easy to recognise for people and secret scanners."""
RANDOM_BYTES = 32
RELOAD_INTERVAL_S = 1.0
MAX_WRAPPED_CHARS = 4096
"""Maximum length of a JSON object that is searched for a key."""

_HASH_PREFIX = "sha256:"
_KEY_HEADERS = frozenset((b"authorization", b"x-api-key", b"api-key"))


def new_key() -> tuple[str, str]:
    """Return a new key of 256 random bits, and its hash for the configuration."""
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    return key, hash_key(key)


def hash_key(key: str) -> str:
    """Return `sha256:<hex>`."""
    # a key of 256 random bits cannot be guessed, so it needs neither a salt nor a slow hash
    return _HASH_PREFIX + digest_of(key).hex()


def digest_of(key: str) -> bytes:
    """Return the SHA-256 of `key`."""
    # a key with lone surrogates must not raise
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


@dataclass(slots=True)
class _Entry:
    key: AccessKey
    by_digest: dict[bytes, AccessKey] = field(repr=False)
    """Its keys. Each has its own hash, also those of a file."""
    problem: str | None = None
    """The fault that the last read found in its file or in a key of it."""


class KeyRing:
    """The configured API keys.

    A key file is read again at most once in RELOAD_INTERVAL_S, so that a rotated key needs no restart. While the file
    is unreadable or empty, the keys read last stay valid. A key that is too weak for a configuration
    (`config.checks.api_key_weakness`) is ignored. Each new problem of a file is logged once, without the key.
    """

    def __init__(self, keys: Sequence[AccessKey]) -> None:
        self._entries = [_Entry(key, _by_digest(key, key_texts(key))) for key in keys]
        self._read = [entry for entry in self._entries if entry.key.hash is None]
        self._keys = self._all()
        self._loaded_s = -math.inf
        self.last_used_s: dict[str, float] = {}
        """When each key was last used, in seconds since the epoch, by its id. Only of keys in `known`."""

    def _all(self) -> dict[bytes, AccessKey]:
        return {digest: key for entry in self._entries for digest, key in entry.by_digest.items()}

    @property
    def known(self) -> Collection[AccessKey]:
        """The keys in the order of the configuration. Each has a hash."""
        return self._keys.values()

    def rows(self, wall_s: float) -> list[Key]:
        """Return each key without its hash, with its last use in this process."""
        last = {one: moment_text(datetime.fromtimestamp(used_s, UTC)) for one, used_s in self.last_used_s.items()}
        return [structs.replace(key.as_row(wall_s), last_used=last.get(key.id)) for key in self.known]

    def keep_uses(self, last_used_s: Mapping[str, float]) -> None:
        """Continue with the uses of the keys that are still known."""
        ids = {key.id for key in self.known}
        self.last_used_s = {one: used_s for one, used_s in last_used_s.items() if one in ids}

    def find(self, presented: str, now_s: float) -> AccessKey | None:
        """Return the entry of the key `presented`, None if it is unknown. `now_s` is a time of the Clock."""
        if self._read and now_s - self._loaded_s >= RELOAD_INTERVAL_S:
            self._loaded_s = now_s
            before = [entry.by_digest.keys() for entry in self._read]
            for entry in self._read:
                _reload(entry)
            # Rebuilt only after a change, because a process may have thousands of keys.
            if before != [entry.by_digest.keys() for entry in self._read]:
                self._keys = self._all()
                self.keep_uses(self.last_used_s)
        # The time depends neither on the number of keys nor on how much of one is right: a guess with a known digest
        # is the key itself, and the digests of two guesses have nothing in common.
        return self._keys.get(digest_of(presented))


def _by_digest(key: AccessKey, texts: Iterable[str]) -> dict[bytes, AccessKey]:
    if key.hash is not None:
        return {bytes.fromhex(key.hash.removeprefix(_HASH_PREFIX)): key}
    digests = map(digest_of, texts)
    return {digest: key.model_copy(update={"hash": f"{_HASH_PREFIX}{digest.hex()}"}) for digest in digests}


def _reload(entry: _Entry) -> None:
    """Read the key file of `entry`, and log a problem that is new or gone."""
    problem: str | None
    try:
        texts = key_texts(entry.key)
    except UnresolvedReference as error:  # a secret is missing for a moment while it is being replaced
        problem = str(error)
    else:
        faults = [api_key_weakness(text) for text in texts]
        if texts:
            good = [text for text, fault in zip(texts, faults, strict=True) if fault is None]
            entry.by_digest = _by_digest(entry.key, good)
        problem = next(filter(None, faults or ["holds no key"]), None)
    if problem == entry.problem:
        return
    entry.problem = problem
    fields: dict[str, object] = {"key": entry.key.name}
    if problem is None:
        LOG.info("keys_reloaded", extra={"fields": fields})
    else:
        fields |= {"reason": problem, "keys_in_force": len(entry.by_digest)}
        LOG.warning("keys_unusable", extra={"fields": fields})


def key_texts(key: AccessKey) -> tuple[str, ...]:
    """Return the keys in clear if the configuration contains them, for masking. Raises UnresolvedReference."""
    return keys_in(key.key.reveal()) if key.key is not None else ()


def presented_key(headers: Headers) -> str | None:
    """Return the key in Authorization, x-api-key or api-key; None if the request has none.

    Raises InvalidApiKey if two keys differ, and if the scheme of Authorization is not Bearer. A key and a JSON object
    that contains the same key do not differ: RAGFlow sends both.
    """
    # All three headers count: a key checked in one header and ignored in another is the class of CVE-2026-45339.
    found: str | None = None
    for name, value in headers:
        if name not in _KEY_HEADERS:
            continue
        text = value.strip()
        if name == b"authorization":
            scheme, _, text = text.partition(b" ")  # RFC 6750 2.1; the scheme is case-insensitive (RFC 9110 11.1)
            if scheme and scheme.lower() != b"bearer":
                raise InvalidApiKey(
                    "The scheme of the Authorization header is not Bearer. Send it as `Authorization: Bearer <key>`."
                )
        key = text.strip().decode("latin-1")
        if found is not None and key and key != found:
            inner, other_inner = unwrapped_key(found), unwrapped_key(key)
            if (inner or found) != (other_inner or key):
                raise InvalidApiKey(
                    "The request contains two different API keys: `Authorization`, `x-api-key` and `api-key` all count."
                    " Send one, as `Authorization: Bearer <key>`."
                )
            found = found if inner is None else key
        found = found or key or None
    return found


def unwrapped_key(presented: str) -> str | None:
    """Return the key in `{"api_key": "…", …}`, or None. Some versions of RAGFlow send it (infiniflow/ragflow#17757)."""
    if not presented.startswith("{") or len(presented) > MAX_WRAPPED_CHARS:
        return None
    try:
        decoded: Any = msgspec.json.decode(presented)
    except (ValueError, RecursionError):
        return None
    key = decoded.get("api_key")
    return key.strip() or None if isinstance(key, str) else None
