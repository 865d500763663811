"""What a JWT and a reply say about a token's lifetime.

How long a token is good, and when the next one is asked for: values in, values out.
"""

from __future__ import annotations

import json
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from gatepass.config.credential.base import Unit
from gatepass.types import Headers, Secret, header

STALE_SHARE = 0.80
JITTER_SHARE = 0.05
"""How much earlier than STALE_SHARE a token may become stale, as a share of its life: replicas spread."""
MARGIN_SHARE = 0.05
MARGIN_S = 5.0
"""A token is not sent in its last MARGIN_SHARE, at most MARGIN_S: it must still live when it arrives."""
JWT_MARGIN_S = 1.0
"""A JWT's times are whole seconds, cut off: one made late in a second dies up to that much before
`born_s + (exp - iat)`. Of very short lives a quarter is given, for the whole would leave nothing."""
MAX_LIFETIME_S = 86_400.0
"""A JWT that says to live longer is believed about its end, which a rejection may correct; a newer one is asked
for after a day all the same."""
SPACING_S = 1.0
"""Between the starts of two fetches that went well, however short the lives are."""


class TokenKind(StrEnum):
    JWT = "jwt"
    OPAQUE = "opaque"
    KEY = "key"


class LifetimeSource(StrEnum):
    """Who said how long a token lives."""

    JWT = "jwt"
    REPLY = "reply"
    DEFAULT = "default_ttl_s"
    NONE = "none"


class Freshness(StrEnum):
    """FRESH is used, STALE is used while a newer one is fetched, EXPIRED is never sent."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Token:
    """A token and its life. `born_s` (Clock.now) is the start of its fetch: the issuer can only have
    made it later, so `born_s + life_s` is never too late. `lifetime_s` None is a key that does not expire.
    `no_expiry_at` is the configured path that told no expiry, so that `lifetime_s` is only assumed.
    `shared` says that another process minted it; `doubted_s` is an implausible lifetime that was told for it, and
    `unusual_type` an unusual `token_type`.
    """

    value: Secret
    requested_s: float
    lifetime_s: float | None
    kind: TokenKind = TokenKind.OPAQUE
    lifetime_source: LifetimeSource = LifetimeSource.REPLY
    missing_expiry_path: str | None = None
    from_store: bool = False
    implausible_lifetime_s: float | None = None
    unexpected_type: str | None = None

    @property
    def text(self) -> str:
        return self.value.reveal()

    @property
    def end_s(self) -> float:
        return math.inf if self.lifetime_s is None else self.requested_s + self.lifetime_s

    @property
    def expires_s(self) -> float:
        """The moment from which it is not sent any more."""
        if self.lifetime_s is None:
            return math.inf
        cut_s = jwt_margin_s(self.lifetime_s) if self.lifetime_source is LifetimeSource.JWT else 0.0
        return self.end_s - cut_s - min(MARGIN_S, MARGIN_SHARE * self.lifetime_s)


def jwt_margin_s(life_s: float) -> float:
    """How much earlier than a JWT's times say it may die."""
    return min(JWT_MARGIN_S, life_s / 4)


def stale_at_s(token: Token, jitter: float) -> float:
    """The moment from which a newer one is wanted; `jitter` is 0 to 1."""
    if token.lifetime_s is None:
        return math.inf
    life_s = min(token.lifetime_s, MAX_LIFETIME_S) if token.lifetime_source is LifetimeSource.JWT else token.lifetime_s
    return token.requested_s + life_s * (STALE_SHARE - JITTER_SHARE * jitter)


def freshness(token: Token, now: float, jitter: float) -> Freshness:
    if now >= token.expires_s:
        return Freshness.EXPIRED
    return Freshness.STALE if now >= stale_at_s(token, jitter) else Freshness.FRESH


def is_reissued(token: Token, before: Token | None) -> bool:
    """Whether the issuer gave the same token as last time."""
    return before is not None and before.text == token.text


def without_extension(token: Token, before: Token | None) -> Token:
    """`token`, its end not after that of the same JWT as it was first met.

    An issuer that hands out a JWT from its cache cannot have prolonged it; an opaque token it can.
    """
    if (
        before is None
        or token.lifetime_s is None
        or token.lifetime_source is not LifetimeSource.JWT
        or not is_reissued(token, before)
    ):
        return token
    return replace(token, lifetime_s=min(token.lifetime_s, before.end_s - token.requested_s))


def refresh_at_s(token: Token, *, again: bool, now: float, jitter: float) -> float:
    """When to ask for the next token.

    An issuer that gives the same one `again` has no newer one yet. Metadata servers do so until
    shortly before its end (googleapis/google-auth-library-python#581, #862): half of what is left
    is waited, or a refresh would follow a refresh without end.
    """
    if again and token.lifetime_s is not None:
        return now + max(SPACING_S, (token.end_s - now) / 2)
    return max(stale_at_s(token, jitter), token.requested_s + SPACING_S)


EPOCH_S = 1e9
"""From here on a number of seconds is a moment (after 2001), not a life (31 years)."""
EPOCH_MS = 1e12
MAX_SECONDS = 34_560_000
"""400 days: a larger life was counted in milliseconds."""
MAX_DATE_LAG_S = 2.0
"""How far a `Date` may lie behind the clock it shows: its fraction of a second is cut off (RFC 9110 5.6.7),
and there are servers that write it anew only once a second (uvicorn, `Server.on_tick`)."""
MAX_SKEW_S = 600.0
"""A file older than its own token by more than this has been dated back (a copy, an image), and shows no skew."""
_LARGEST = 1e18
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?\Z")
_ISO_DATE = re.compile(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}([T ]|\Z)")
_HTTP_DATE = re.compile(
    r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} (GMT|UTC|[+-][0-9]{4})\Z"
)


@dataclass(frozen=True, slots=True)
class ExpiresIn:
    """Seconds from now on, as announced: zero and less are possible."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ExpiresAt:
    """Seconds since the epoch, by the issuer's clock."""

    epoch_s: float


def parse_expiry(value: Any, unit: Unit | None) -> ExpiresIn | ExpiresAt | None:
    """What the member of a reply that tells the expiry says; None where it cannot be read.

    Numbers may be text. Without a `unit` the size decides: there are issuers that write
    milliseconds (apigee edgeauth#44), an epoch (simple-oauth2#277) or a date
    (js-client-oauth2#107) where a life in seconds is expected.
    """
    if isinstance(value, str):
        text = value.strip()
        if not _NUMBER.match(text):
            moment = http_date(text)
            moment = _iso_date(text) if moment is None else moment
            return None if moment is None else ExpiresAt(moment)
        value = float(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST < value < _LARGEST:
        return None
    seconds = _seconds(float(value), unit)
    return ExpiresAt(seconds) if seconds >= EPOCH_S else ExpiresIn(seconds)


def _seconds(number: float, unit: Unit | None) -> float:
    if unit is None:
        unit = "ms" if number >= EPOCH_MS or MAX_SECONDS < number < EPOCH_S else "s"
    return number / 1000 if unit == "ms" else number


def _iso_date(text: str) -> float | None:
    return _epoch_s(datetime.fromisoformat, text) if _ISO_DATE.match(text) else None


def http_date(text: str) -> float | None:
    """Epoch seconds of an IMF-fixdate (RFC 9110 5.6.7), or None."""
    return _epoch_s(parsedate_to_datetime, text) if _HTTP_DATE.match(text) else None


def _epoch_s(parse: Callable[[str], datetime], text: str) -> float | None:
    try:
        moment = parse(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def issuer_time(headers: Headers) -> float | None:
    """The issuer's own clock: its `Date` header in epoch seconds."""
    text = header(headers, b"date")
    return None if text is None else http_date(text.decode("latin-1").strip())


def at_least_left_s(end_s: float, date_s: float, lag_s: float = MAX_DATE_LAG_S) -> float:
    """What surely was left until `end_s` when the issuer stamped the reply with `date_s`.

    Of very short lives half is given up at most, for the whole lag would leave nothing.
    """
    claimed_lifetime_s = end_s - date_s
    return claimed_lifetime_s - min(lag_s, claimed_lifetime_s / 2)


def is_jwt(text: str) -> bool:
    return claims_of(text) is not None


def jwt_lifetime_s(text: str, date_s: float | None, wall_s: float) -> float | None:
    """The life that a JWT tells of itself, in seconds from now on; None where it tells none.

    `exp - iat` is free of every difference between clocks. Where the issuer's `Date` shows that
    the JWT comes out of a cache, only the rest counts. Without `iat`, `exp` is read by the
    issuer's clock, or else by ours. Nothing is verified: that is the upstream's business.
    The life is up to a whole second too long, which every JWT is cut by (`life.WHOLE_SECOND_S`).
    """
    span = jwt_times(text)
    if span is None:
        return None
    if span.issued_s is None:
        left_s = _left_by_clocks_s(text, span.end_s, date_s, wall_s)
        return left_s if left_s > 0 else None
    whole_s = span.end_s - span.issued_s
    if whole_s <= 0:
        return None
    return whole_s if date_s is None else _plausible_left_s(span.end_s - date_s, whole_s)


def _plausible_left_s(left_s: float, whole_s: float) -> float:
    """`expires_in_s` where it can be true of a token of `whole_s` that was given just now; else the whole."""
    return left_s if 0 < left_s < whole_s else whole_s


def _left_by_clocks_s(text: str, end_s: float, date_s: float | None, wall_s: float) -> float:
    """What is left of a JWT without `iat`. Our clock may be minutes off, and `exp - nbf` is the most there can be."""
    if date_s is not None:
        return at_least_left_s(end_s, date_s, MAX_DATE_LAG_S - JWT_MARGIN_S)
    whole_s = _span_from_nbf_s(text, end_s)
    return end_s - wall_s if whole_s is None else _plausible_left_s(end_s - wall_s, whole_s)


def _span_from_nbf_s(text: str, end_s: float) -> float | None:
    """`exp - nbf`; None where `nbf` says nothing. It is the moment from which a JWT is good (RFC 7519 4.1.5), so
    at the latest the one in which it was given. .NET's `JwtSecurityToken` writes it without `iat`.
    """
    valid_s = _epoch_of((claims_of(text) or {}).get("nbf"))
    return end_s - valid_s if valid_s is not None and valid_s < end_s else None


@dataclass(frozen=True, slots=True)
class JwtTimes:
    """What a JWT tells of its own times, in epoch seconds by its issuer's clock. `is_guess`: it said something
    else, which can hardly have been meant."""

    issued_s: float | None
    end_s: float
    is_guess: bool = False


def jwt_times(text: str) -> JwtTimes | None:
    """None where `text` is no JWT with an `exp`. A life that was counted in milliseconds is put right."""
    claims = claims_of(text) or {}
    end_s, issued_s = _epoch_of(claims.get("exp")), _epoch_of(claims.get("iat"))
    if end_s is None:
        return None
    if issued_s is None or not _counted_in_ms(end_s - issued_s):
        return JwtTimes(issued_s, end_s)
    return JwtTimes(issued_s, issued_s + (end_s - issued_s) / 1000, is_guess=True)


def _counted_in_ms(life_s: float) -> bool:
    """Whether `exp - iat` looks like milliseconds: beyond a day, and no number of days.

    `300000` may mean three days and a half as well: then a newer one is asked for too often, and no harm is done.
    """
    if life_s <= MAX_LIFETIME_S:
        return False
    return life_s > MAX_SECONDS or (life_s % MAX_LIFETIME_S != 0 and life_s % 1000 == 0)


def jwt_remaining_s(text: str, wall_s: float, written_s: float | None = None) -> float | None:
    """What is left of a JWT that may have been made long ago, by our clock; zero or less where it has
    expired, None where it tells no end.

    Never more than `exp - iat`, or `exp - nbf` without it. `written_s` is when it came to this machine, by
    the same clock: a JWT that is younger than its file shows that our clock is behind the issuer's, and by
    how much at least.
    The other way round the file may be late or the clock ahead, and the shorter life counts.
    """
    claims = claims_of(text) or {}
    end_s, issued_s = _epoch_of(claims.get("exp")), _epoch_of(claims.get("iat"))
    if end_s is None:
        return None
    left_s = end_s - wall_s
    if issued_s is None:
        whole_s = _span_from_nbf_s(text, end_s)
        return left_s if whole_s is None else min(left_s, whole_s)
    behind_s = 0.0 if written_s is None else issued_s - written_s
    if 0 < behind_s <= MAX_SKEW_S:
        left_s -= behind_s
    return min(left_s, end_s - issued_s) if end_s > issued_s else left_s


def _epoch_of(claim: Any) -> float | None:
    """Epoch seconds; there are issuers that write milliseconds, which RFC 7519 2 knows nothing of."""
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not 0 < claim < _LARGEST:
        return None
    return claim / 1000 if claim >= EPOCH_MS else float(claim)


def retry_after_s(headers: Headers, wall_s: float) -> float | None:
    """Seconds that the issuer asks to wait (RFC 9110 10.2.3), never negative; None where it does not."""
    value = header(headers, b"retry-after")
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    if _NUMBER.match(text):
        return max(0.0, float(text))
    moment, date_s = http_date(text), issuer_time(headers)
    if moment is None:
        return None
    return max(0.0, math.ceil(moment - (wall_s if date_s is None else date_s)))


SAFE_CLAIMS = ("iss", "aud", "sub", "client_id", "azp", "appid", "tid", "scope", "scp", "iat", "nbf", "exp")
"""The claims that are shown, in this order. All others may be private: names, mail addresses, groups."""
TIME_CLAIMS = frozenset(("iat", "nbf", "exp"))
MAX_CLAIM_CHARS = 200
CLIENT_CLAIMS = ("client_id", "azp", "appid", "cid")
"""Claims that name the client (RFC 9068 2.2, OpenID Connect Core 2, Entra, Okta)."""
_MACHINE = re.compile(
    r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}|system:serviceaccount:[^@\s]+|[^@\s]+@clients", re.IGNORECASE
)
"""Subjects that are no person's name: a UUID, a Kubernetes service account, a client of Auth0."""


def claims_of(text: str) -> dict[str, Any] | None:
    """All claims of the signed JWT `text`, or None where it is none (RFC 7515 3.1, RFC 7519 7.2).

    PyJWT is for signing alone: where cryptography is installed too, importing it takes 20 MB and 365 M instructions,
    a seventh of a start.
    """
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
    """The claims of SAFE that the JWT `text` has, each in words; nothing where it is no JWT.

    Moments are told in UTC and from `wall_s`, this machine's clock: a difference of clocks shows.
    """
    claims = claims_of(text) or {}
    shown = {name: _claim_text(name, claims[name], wall_s) for name in SAFE_CLAIMS if name in claims}
    return shown | {"sub": _subject(claims)} if "sub" in shown else shown


def _subject(claims: Mapping[str, Any]) -> str:
    """The subject where it is plainly a client; of anything else, a person's name or mail perhaps, its length."""
    subject = claims["sub"]
    if not isinstance(subject, str):
        return "not shown"
    if _MACHINE.fullmatch(subject) or subject in [claims.get(name) for name in CLIENT_CLAIMS]:
        return _claim_text("sub", subject, 0.0)
    return f"not shown, {len(subject)} characters: it may be a person's name"


def _claim_text(name: str, value: Any, wall_s: float) -> str:
    if name in TIME_CLAIMS and (moment := _time_text(value, wall_s)):
        return moment
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    shown = "".join(char if char.isprintable() else "?" for char in said[:MAX_CLAIM_CHARS])
    return shown if len(said) <= MAX_CLAIM_CHARS else f"{shown}…"


def _time_text(value: Any, wall_s: float) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        date = datetime.fromtimestamp(value, UTC)
    except (OverflowError, OSError, ValueError):
        return None
    away_s = value - wall_s
    told = f"in {away_s:.0f} s" if away_s >= 0 else f"{-away_s:.0f} s ago"
    return f"{date:%Y-%m-%d %H:%M:%S}Z ({told})"
