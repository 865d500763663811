"""What processes tell each other of a credential, as it lies in the store."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Self

import msgspec

from gatepass.call import Secret
from gatepass.store.seam import Reading
from gatepass.tokens.backoff import DOUBT_LONGEST_S, RETRY_AFTER_LONGEST_S, hold_s
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.life import Kind, Token, ToldBy

TRANSIENT_S = 1.0
"""How long a failure that may pass speaks for the others too. They notice a recovery within 4 s all the same:
who asks first tells them."""


class _Record:
    """Encodes itself; what another version wrote is as good as nothing."""

    def encoded(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decoded(cls, data: bytes | None) -> Self | None:
        try:
            return None if data is None else msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError:
            return None


@dataclass(frozen=True, slots=True)
class TokenRecord(_Record):
    """A token as its minter gives it on. `born_s` is a moment of the store; `id` tells two of them apart that
    hold the same text; `took_s` is how long the issuer took for it."""

    text: str = field(repr=False)
    born_s: float
    life_s: float
    kind: Kind
    told_by: ToldBy
    no_expiry_at: str | None
    id: str
    took_s: float = 0.0

    @classmethod
    def of(cls, token: Token, life_s: float, born_s: float) -> Self:
        mark = secrets.token_hex(8)
        return cls(token.text, born_s, life_s, token.kind, token.told_by, token.no_expiry_at, mark, token.took_s)

    def token(self, reading: Reading) -> Token:
        """The same token by this process's clock, its end never later than it really is."""
        born_s = reading.here_s(self.born_s)
        return Token(
            Secret(self.text),
            born_s,
            self.life_s,
            self.kind,
            self.told_by,
            self.no_expiry_at,
            shared=True,
            took_s=self.took_s,
        )


@dataclass(frozen=True, slots=True)
class FailureRecord(_Record):
    """A fetch that failed. Until `until_s`, a moment of the store like `at_s`, nobody but `owner` asks again."""

    owner: str
    reason: str
    definite: bool
    quick: bool
    at_s: float
    until_s: float
    unclear: bool = False
    free_tries: int = 1

    @classmethod
    def of(cls, failure: FetchFailure, owner: str, at_s: float, refusals: int) -> Self:
        """`refusals`: how often the issuer has said no, or what may be one, by now, this time included."""
        until_s = at_s + max(hold(failure, refusals), TRANSIENT_S)
        kind = (failure.definite, failure.quick)
        return cls(owner, failure.reason, *kind, at_s, until_s, failure.unclear, failure.free_tries)

    def speaks_for(self, process: str, now_s: float) -> bool:
        """Whether `process` has failed as well at the store's moment `now_s`, without asking: it would hear the same.
        Its own failures are its own affair."""
        return self.owner != process and now_s < self.until_s

    def failure(self, now_s: float) -> FetchFailure:
        """The same failure at the store's moment `now_s`, for somebody who has not asked."""
        left_s = self.until_s - now_s
        wish_s = left_s if left_s > TRANSIENT_S else None
        return FetchFailure(
            self.reason,
            definite=self.definite,
            unclear=self.unclear,
            quick=self.quick,
            retry_after_s=wish_s,
            free_tries=self.free_tries,
            heard=True,
        )


def hold(failure: FetchFailure, refusals: int) -> float:
    """Seconds for which `failure` keeps every process from asking; 0 where it may pass at any moment.

    As in one process: together they must not lock an account either.
    """
    wished_s = min(failure.retry_after_s or 0.0, RETRY_AFTER_LONGEST_S)
    if failure.unclear and refusals > failure.free_tries:
        return max(wished_s, hold_s(refusals - failure.free_tries, DOUBT_LONGEST_S))
    return max(wished_s, hold_s(refusals)) if failure.definite else wished_s
