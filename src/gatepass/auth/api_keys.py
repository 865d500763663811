"""API keys of clients: create, hash, extract from a request, and look up by digest."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import structs

from gatepass.auth.caller import Caller
from gatepass.config.access import AccessKey, hash_key, moment_text, storing
from gatepass.documents import Key
from gatepass.errors import InvalidApiKey
from gatepass.types import Headers

PREFIX = "gp-"
"""Makes a leaked key easy to recognise for people and secret scanners."""
RANDOM_BYTES = 32
MAX_WRAPPED_CHARS = 4096
"""Maximum length of a JSON object that is searched for a key."""

_KEY_HEADERS = frozenset((b"authorization", b"x-api-key", b"api-key"))


def new_key() -> tuple[str, str]:
    """Return a new key of 256 random bits, and its hash for the configuration."""
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    return key, hash_key(key)


class KeyRing:
    """The configured API keys, with those of the files that the configuration names, read once. A reload reads anew."""

    def __init__(self, keys: Sequence[AccessKey]) -> None:
        self.by_hash = {text: key.model_copy(update={"hash": text}) for key in keys for text in key.hashes}
        is_only = len(storing(keys)) == 1
        self.callers = {text: Caller.of_key(key, is_only=is_only) for text, key in self.by_hash.items()}
        """The caller of each key by its hash, made once for all requests."""
        self.last_used_s: dict[str, float] = {}
        """When each key was last used, in seconds since the epoch, by its id. Only of keys in `known`."""

    @property
    def known(self) -> Collection[AccessKey]:
        """The keys in the order of the configuration. Each has a hash."""
        return self.by_hash.values()

    def rows(self, wall_s: float) -> list[Key]:
        """Return each key without its hash, with its last use in this process."""
        last = {one: moment_text(datetime.fromtimestamp(used_s, UTC)) for one, used_s in self.last_used_s.items()}
        return [structs.replace(key.as_row(wall_s), last_used=last.get(key.id)) for key in self.known]

    def keep_uses(self, last_used_s: Mapping[str, float]) -> None:
        """Continue with the uses of the keys that are still known."""
        ids = {key.id for key in self.known}
        self.last_used_s = {one: used_s for one, used_s in last_used_s.items() if one in ids}

    def find(self, presented: str) -> Caller | None:
        # The time depends neither on the number of keys nor on how much of one is right: a guess with a known hash
        # is the key itself, and the hashes of two guesses have nothing in common.
        return self.callers.get(hash_key(presented))


def presented_keys(headers: Headers) -> list[str]:
    """Return the different values of Authorization, x-api-key and api-key that may be keys.

    Raises InvalidApiKey if there is none but an Authorization whose scheme is not Bearer.
    """
    found: list[str] = []  # `list[str]()` takes ten times as long
    is_other_scheme = False
    for name, value in headers:
        if name not in _KEY_HEADERS:
            continue
        text = value.strip()
        if name == b"authorization":
            scheme, _, text = text.partition(b" ")  # RFC 6750 2.1; the scheme is case-insensitive (RFC 9110 11.1)
            if scheme and scheme.lower() != b"bearer":
                is_other_scheme = True
                continue
        key = text.strip().decode("latin-1")
        if key and key not in found:
            found.append(key)
    if is_other_scheme and not found:
        raise InvalidApiKey(
            "The scheme of the Authorization header is not Bearer. Send it as `Authorization: Bearer <key>`."
        )
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
