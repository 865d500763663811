"""What a holder tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gatepass.tokens.life import Freshness, Kind, Token, ToldBy, freshness


@dataclass(frozen=True, slots=True)
class Status:
    """One credential at one moment. `left_s` runs until the token is not sent any more; None for a
    key that does not expire and where nothing is held. `fetches` counts the tries that have ended. `last_error` stays
    after it has passed: `failing` says whether it is over, and is true of an issuer that gives no answer too."""

    credential: str
    state: Freshness | Literal["none"]
    kind: Kind | None
    told_by: ToldBy | None
    age_s: float | None
    left_s: float | None
    fetches: int
    failures: int
    last_error: str | None
    last_error_age_s: float | None
    failing: bool
    refreshing: bool
    next_try_in_s: float | None


@dataclass(frozen=True, slots=True)
class Sight:
    """What can be seen of a token."""

    state: Freshness | Literal["none"] = "none"
    kind: Kind | None = None
    told_by: ToldBy | None = None
    age_s: float | None = None
    left_s: float | None = None


def sight(token: Token | None, now: float, jitter: float) -> Sight:
    if token is None:
        return Sight()
    left_s = None if token.life_s is None else max(0.0, token.expires_s - now)
    return Sight(freshness(token, now, jitter), token.kind, token.told_by, now - token.born_s, left_s)
