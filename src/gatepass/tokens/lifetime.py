"""Decide how long a token is valid and when the next one is fetched. Pure functions and values."""

from __future__ import annotations

import json
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import replace

from gatepass.config.credential.base import Unit
from gatepass.replies.retry_after import epoch_s, http_date
from gatepass.types import Secret

STALE_SHARE = 0.80
JITTER_SHARE = 0.05
"""How much earlier than STALE_SHARE a token may become stale, to spread the refreshes of replicas."""
MARGIN_SHARE = 0.05
MARGIN_S = 5.0
"""A token is not sent in its last MARGIN_SHARE, at most MARGIN_S, because it must still be valid on arrival."""
MAX_LIFETIME_S = 86_400.0
"""A token with a longer lifetime is refreshed after a day. Its unit may be wrong, which a rejection corrects."""
SPACING_S = 1.0
"""Between the starts of two successful fetches, however short the lifetimes are."""
EPOCH_S = 1e9
"""From here on a number of seconds is a point in time (after 2001), not a lifetime (31 years)."""
EPOCH_MS = 1e12
"""From here on it is one in milliseconds: as seconds it were in the year 33658."""
_LARGEST = 1e18
NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?\Z")
# `fromisoformat` accepts more, such as week dates.
_ISO_DATE = r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}([T ]|\Z)"
SAFE_CLAIMS = ("iss", "aud", "sub", "client_id", "azp", "appid", "tid", "scope", "scp", "iat", "nbf", "exp")
"""The claims to show, in this order. All others may be private: names, mail addresses, groups."""
TIME_CLAIMS = frozenset(("iat", "nbf", "exp"))
MAX_CLAIM_CHARS = 200
CLIENT_CLAIMS = ("client_id", "azp", "appid", "cid")
"""Claims that identify the client (RFC 9068 2.2, OpenID Connect Core 2, Entra, Okta)."""
_MACHINE = (
    r"(?i)[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}|system:serviceaccount:[^@\s]+|spiffe://[^@\s]+|[^@\s]+@clients"
)
"""Subjects that are not a person: a UUID, a Kubernetes service account, a SPIFFE ID, a client of Auth0."""


class TokenKind(StrEnum):
    JWT = "jwt"
    OPAQUE = "opaque"
    KEY = "key"


class LifetimeSource(StrEnum):
    JWT = "jwt"
    REPLY = "reply"
    DEFAULT = "default_ttl_s"
    NONE = "none"


class Freshness(StrEnum):
    """FRESH is used. STALE is used while the next token is fetched. EXPIRED is never sent."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"


class Token(msgspec.Struct, frozen=True):
    """A token and its lifetime.

    - `requested_s` (Clock.now): the start of the fetch. The issuer made the token later, so `requested_s +
      lifetime_s` is never too late.
    - `lifetime_s`: None for a key that does not expire.
    - `from_store`: another process fetched the token.
    """

    value: Secret
    requested_s: float
    lifetime_s: float | None
    kind: TokenKind = TokenKind.OPAQUE
    lifetime_source: LifetimeSource = LifetimeSource.REPLY
    from_store: bool = False

    @property
    def text(self) -> str:
        return self.value.reveal()

    @property
    def end_s(self) -> float:
        return math.inf if self.lifetime_s is None else self.requested_s + self.lifetime_s

    @property
    def expires_s(self) -> float:
        """The moment from which the token is not sent."""
        if self.lifetime_s is None:
            return math.inf
        return self.end_s - min(MARGIN_S, MARGIN_SHARE * self.lifetime_s)


def stale_at_s(token: Token, jitter: float) -> float:
    """Return the moment from which the token is refreshed. `jitter` is 0 to 1."""
    if token.lifetime_s is None:
        return math.inf
    return token.requested_s + min(token.lifetime_s, MAX_LIFETIME_S) * (STALE_SHARE - JITTER_SHARE * jitter)


def freshness(token: Token, now: float, jitter: float) -> Freshness:
    if now >= token.expires_s:
        return Freshness.EXPIRED
    return Freshness.STALE if now >= stale_at_s(token, jitter) else Freshness.FRESH


def is_reissued(token: Token, before: Token | None) -> bool:
    return before is not None and before.text == token.text


def without_extension(token: Token, before: Token | None) -> Token:
    """Return `token` with an end no later than before: an issuer's cache cannot have extended the same JWT."""
    if before is None or token.lifetime_s is None or not is_reissued(token, before):
        return token
    if token.lifetime_source is not LifetimeSource.JWT:
        return token
    return replace(token, lifetime_s=min(token.lifetime_s, before.end_s - token.requested_s))


def refresh_at_s(token: Token, *, again: bool, now: float, jitter: float) -> float:
    """Return the moment of the next fetch.

    An issuer that returned the same token `again` has no newer one yet. Then half of the rest passes before the next
    fetch.
    """
    # Metadata servers return a token again until shortly before its end. Clients that fetched at once repeated fetches
    # without end (googleapis/google-auth-library-python#581, #862).
    if again and token.lifetime_s is not None:
        return now + max(SPACING_S, (token.end_s - now) / 2)
    return max(stale_at_s(token, jitter), token.requested_s + SPACING_S)


class ExpiresIn(msgspec.Struct, frozen=True):
    """Seconds from now on, as announced. May be zero or negative."""

    seconds: float


class ExpiresAt(msgspec.Struct, frozen=True):
    """Seconds since the epoch, by the issuer's clock."""

    epoch_s: float


def parse_expiry(value: Any, unit: Unit | None) -> ExpiresIn | ExpiresAt | None:
    """Return the expiry in a member of a reply; None if it cannot be read, or is 0 or -1, which state none.

    A number may be text. Some issuers return an epoch (simple-oauth2#277), also in milliseconds, or a date
    (js-client-oauth2#107) instead of a lifetime. A lifetime is in seconds unless `unit` says otherwise.
    """
    if isinstance(value, str):
        text = value.strip()
        if not NUMBER.match(text):
            moment_s = http_date(text)
            if moment_s is None and re.match(_ISO_DATE, text):
                moment_s = epoch_s(datetime.fromisoformat, text)
            return None if moment_s is None else ExpiresAt(moment_s)
        value = float(text)
    # bool is an int in Python. The limit also excludes NaN and infinity.
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST < value < _LARGEST:
        return None
    if value in (0, -1):  # of a token without an end
        return None
    # IBM IAM writes epoch seconds into `expiration`, corporate gateways write milliseconds into `expireTime`.
    seconds = value / 1000 if unit == "ms" or (unit is None and value >= EPOCH_MS) else float(value)
    return ExpiresAt(seconds) if seconds >= EPOCH_S else ExpiresIn(seconds)


def token_kind(text: str, other: TokenKind = TokenKind.OPAQUE) -> TokenKind:
    return other if claims_of(text) is None else TokenKind.JWT


def jwt_lifetime_s(text: str, now_s: float, *, is_new: bool = False) -> float | None:
    """Return the lifetime of a JWT by its claims, at `now_s` (epoch seconds); None if it has no `exp`.

    Zero or negative if it has expired, and never more than `exp - iat`, or `exp - nbf` without `iat`: .NET's
    `JwtSecurityToken` writes `nbf` alone (RFC 7519 4.1.5). The clocks may differ, so a new JWT that has expired has
    this whole lifetime. The signature is not verified, because the upstream does that.
    """
    claims = claims_of(text) or {}
    end_s, issued_s, valid_s = (_epoch_of(claims.get(name)) for name in ("exp", "iat", "nbf"))
    if end_s is None:
        return None
    begin_s = valid_s if issued_s is None else issued_s
    left_s = end_s - now_s
    if begin_s is None or begin_s >= end_s:
        return None if is_new and left_s <= 0 else left_s
    return end_s - begin_s if is_new and left_s <= 0 else min(left_s, end_s - begin_s)


def _epoch_of(claim: Any) -> float | None:
    # bool is an int in Python
    is_time = isinstance(claim, int | float) and not isinstance(claim, bool) and 0 < claim < _LARGEST
    return float(claim) if is_time else None


def claims_of(text: str) -> dict[str, Any] | None:
    """Return all claims of the signed JWT `text`; None if it is not one (RFC 7515 3.1, RFC 7519 7.2)."""
    # Without PyJWT: if cryptography is installed too, importing it costs 20 MB and a seventh of a start.
    parts = text.split(".")
    if len(parts) != 3:
        return None
    try:
        # RFC 7515 2: base64url without its padding
        header, claims, _ = [urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts]
        found = json.loads(claims) if isinstance(json.loads(header), dict) else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def safe_claims(text: str, wall_s: float) -> dict[str, str]:
    """Return the SAFE_CLAIMS of a JWT as text, times in UTC and relative to `wall_s`; empty for other texts."""
    claims = claims_of(text) or {}
    shown = {name: _claim_text(name, claims[name], wall_s) for name in SAFE_CLAIMS if name in claims}
    return shown | {"sub": _subject(claims)} if "sub" in shown else shown


def ended_at(text: str, wall_s: float) -> str:
    """Return when a JWT ended, in UTC and relative to `wall_s`; empty if it has not ended, and for other texts."""
    left_s = jwt_lifetime_s(text, wall_s)
    return "" if left_s is None or left_s > 0 else safe_claims(text, wall_s)["exp"]


def _subject(claims: Mapping[str, Any]) -> str:
    """Return the subject if it is a client. Otherwise return its length, because it may be a person's name or mail."""
    subject = claims["sub"]
    if not isinstance(subject, str):
        return "not shown"
    if re.fullmatch(_MACHINE, subject) or subject in [claims.get(name) for name in CLIENT_CLAIMS]:
        return _claim_text("sub", subject, 0.0)
    return f"not shown, {len(subject)} characters: it may be a person's name"


def _claim_text(name: str, value: Any, wall_s: float) -> str:
    if name in TIME_CLAIMS and (moment := _time_text(value, wall_s)):
        return moment
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    shown = "".join(char if char.isprintable() else "?" for char in text[:MAX_CLAIM_CHARS])
    return shown if len(text) <= MAX_CLAIM_CHARS else f"{shown}…"


def _time_text(value: Any, wall_s: float) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        date = datetime.fromtimestamp(value, UTC)
    except (OverflowError, OSError, ValueError):
        return None
    away_s = value - wall_s
    relative = f"in {away_s:.0f} s" if away_s >= 0 else f"{-away_s:.0f} s ago"
    return f"{date:%Y-%m-%d %H:%M:%S}Z ({relative})"
