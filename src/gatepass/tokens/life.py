"""How long a token is good, and when the next one is asked for: values in, values out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from gatepass.types import Secret

STALE_SHARE = 0.80
JITTER_SHARE = 0.05
"""How much earlier than STALE_SHARE a token may become stale, as a share of its life: replicas spread."""
MARGIN_SHARE = 0.05
MARGIN_S = 5.0
"""A token is not sent in its last MARGIN_SHARE, at most MARGIN_S: it must still live when it arrives."""
WHOLE_SECOND_S = 1.0
"""A JWT's times are whole seconds, cut off: one made late in a second dies up to that much before
`born_s + (exp - iat)`. Of very short lives a quarter is given, for the whole would leave nothing."""
LONGEST_S = 86_400.0
"""A JWT that says to live longer is believed about its end, which a rejection may correct; a newer one is asked
for after a day all the same."""
SPACING_S = 1.0
"""Between the starts of two fetches that went well, however short the lives are."""


class Kind(StrEnum):
    JWT = "jwt"
    OPAQUE = "opaque"
    KEY = "key"


class ToldBy(StrEnum):
    """Who said how long a token lives."""

    JWT = "jwt"
    REPLY = "reply"
    DEFAULT = "default_ttl_s"
    NOBODY = "nobody"


class Freshness(StrEnum):
    """FRESH is used, STALE is used while a newer one is fetched, EXPIRED is never sent."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Token:
    """A token and its life. `born_s` (Clock.now) is the start of its fetch: the issuer can only have
    made it later, so `born_s + life_s` is never too late. `life_s` None is a key that does not expire.
    `no_expiry_at` is the configured path that told no expiry, so that `life_s` is only assumed.
    `shared` says that another process minted it; `doubted_s` is an implausible lifetime that was told for it, and
    `unusual_type` an unusual `token_type`.
    """

    value: Secret
    born_s: float
    life_s: float | None
    kind: Kind = Kind.OPAQUE
    told_by: ToldBy = ToldBy.REPLY
    no_expiry_at: str | None = None
    shared: bool = False
    doubted_s: float | None = None
    unusual_type: str | None = None

    @property
    def text(self) -> str:
        return self.value.reveal()

    @property
    def end_s(self) -> float:
        return math.inf if self.life_s is None else self.born_s + self.life_s

    @property
    def expires_s(self) -> float:
        """The moment from which it is not sent any more."""
        if self.life_s is None:
            return math.inf
        cut_s = cut_off_s(self.life_s) if self.told_by is ToldBy.JWT else 0.0
        return self.end_s - cut_s - min(MARGIN_S, MARGIN_SHARE * self.life_s)


def cut_off_s(life_s: float) -> float:
    """How much earlier than a JWT's times say it may die."""
    return min(WHOLE_SECOND_S, life_s / 4)


def stale_s(token: Token, jitter: float) -> float:
    """The moment from which a newer one is wanted; `jitter` is 0 to 1."""
    if token.life_s is None:
        return math.inf
    life_s = min(token.life_s, LONGEST_S) if token.told_by is ToldBy.JWT else token.life_s
    return token.born_s + life_s * (STALE_SHARE - JITTER_SHARE * jitter)


def freshness(token: Token, now: float, jitter: float) -> Freshness:
    if now >= token.expires_s:
        return Freshness.EXPIRED
    return Freshness.STALE if now >= stale_s(token, jitter) else Freshness.FRESH


def issued_again(token: Token, before: Token | None) -> bool:
    """Whether the issuer gave the same token as last time."""
    return before is not None and before.text == token.text


def no_longer_than(token: Token, before: Token | None) -> Token:
    """`token`, its end not after that of the same JWT as it was first met.

    An issuer that hands out a JWT from its cache cannot have prolonged it; an opaque token it can.
    """
    if before is None or token.life_s is None or token.told_by is not ToldBy.JWT or not issued_again(token, before):
        return token
    return replace(token, life_s=min(token.life_s, before.end_s - token.born_s))


def refresh_s(token: Token, *, again: bool, now: float, jitter: float) -> float:
    """When to ask for the next token.

    An issuer that gives the same one `again` has no newer one yet. Metadata servers do so until
    shortly before its end (googleapis/google-auth-library-python#581, #862): half of what is left
    is waited, or a refresh would follow a refresh without end.
    """
    if again and token.life_s is not None:
        return now + max(SPACING_S, (token.end_s - now) / 2)
    return max(stale_s(token, jitter), token.born_s + SPACING_S)
