"""How many token renewals the rejections of upstreams may cause."""

from __future__ import annotations

import math
from collections import deque

import msgspec

from gatepass.tokens.life import Token

RENEWALS = 20
"""In WINDOW_S, for all users of one credential together."""
UNPROVEN_RENEWALS = 6
"""How many of RENEWALS may follow the rejection of a token by a user that had not accepted it. The rest is kept for
tokens that worked and ended early, so that a model that always refuses takes no renewal from one that is served."""
SPACING_S = 1.0
"""Between two renewals of tokens that worked: an upstream may answer 401 to every second request."""
WINDOW_S = 60.0
REST_S = 10.0
"""How long a token is not renewed that the issuer returned again after it was rejected."""
USERS = 1024
"""How many users are remembered: a client may invent model names, which some upstreams answer."""


class User(msgspec.Struct, frozen=True, gc=False):
    """Whom a token is sent to: an upstream, and a model there, because one model may refuse what another accepts."""

    upstream: str = ""
    model: str = ""


ANYBODY = User()


class Rejections:
    """Decides which rejections renew the token.

    A wrong credential is rejected with every request and must not cause a login with every request. A user that
    refused the renewed token too causes no renewal for WINDOW_S, unless it accepts a token meanwhile.
    """

    def __init__(self) -> None:
        self._renewals: deque[float] = deque(maxlen=RENEWALS)
        self._unproven: deque[float] = deque(maxlen=UNPROVEN_RENEWALS)
        self._proven_s = -math.inf
        self._in_vain_s: dict[User, float] = {}
        self._token: Token | None = None
        self._accepted_by: set[User] = set()
        self._refused_by: set[User] = set()
        self._rejected: Token | None = None
        self._rests_until_s = 0.0

    def __repr__(self) -> str:
        return f"Rejections({len(self._renewals)} renewals)"

    @property
    def is_refused(self) -> bool:
        """Whether the current token was refused, and accepted by nobody who has not refused it."""
        return bool(self._refused_by) and self._accepted_by <= self._refused_by

    def is_rejected(self, token: Token) -> bool:
        """Whether `token` itself was rejected: one with the same text that came later was not."""
        return token is self._rejected

    def adopt(self, token: Token, now: float) -> None:
        """`token` is the current one from now on."""
        is_reissued = self._rejected is not None and token.text == self._rejected.text
        self._rests_until_s = now + REST_S if is_reissued else 0.0
        self._token, self._accepted_by, self._refused_by = token, set(), set()

    def accept(self, by: User) -> None:
        """`by` accepted the current token."""
        if self._refused_by:
            self._refused_by.discard(by)
        if by not in self._accepted_by and len(self._accepted_by) < USERS:
            self._accepted_by.add(by)

    def reject(self, by: User, now: float) -> bool:
        """Whether the current token, which `by` refused, is to be renewed."""
        has_worked = by in self._accepted_by
        was_in_vain = self._was_in_vain(by, now)
        if now < self._rests_until_s or (was_in_vain and not has_worked):
            return False
        if self._token is not self._rejected:
            if not self._spend(now, is_proven=has_worked and not was_in_vain):
                return False
            self._rejected = self._token
        if len(self._refused_by) < USERS:
            self._refused_by.add(by)
        return True

    def reason(self, by: User, now: float) -> str:
        """Why `reject` has just returned False, in words that end a sentence."""
        if now < self._rests_until_s:
            return "its issuer returned the same token again"
        if self._was_in_vain(by, now) and by not in self._accepted_by:
            rest = f"less than {WINDOW_S:.0f} s ago"
            return f"it was not renewed, because this upstream and model refused a new token {rest}"
        return "it was not renewed, because rejections have used up the credential's rate of renewals"

    def in_vain(self, by: User, now: float) -> None:
        """`by` refused the renewed token too."""
        if len(self._in_vain_s) >= USERS:
            self._in_vain_s = {user: at_s for user, at_s in self._in_vain_s.items() if now < at_s + WINDOW_S}
        if len(self._in_vain_s) < USERS:
            self._in_vain_s[by] = now

    def _was_in_vain(self, by: User, now: float) -> bool:
        return by in self._in_vain_s and now < self._in_vain_s[by] + WINDOW_S

    def _spend(self, now: float, *, is_proven: bool) -> bool:
        if _is_full(self._renewals, now):
            return False
        if is_proven:
            if now < self._proven_s + SPACING_S:
                return False
            self._proven_s = now
        elif _is_full(self._unproven, now):
            return False
        else:
            self._unproven.append(now)
        self._renewals.append(now)
        return True


def _is_full(moments: deque[float], now: float) -> bool:
    return len(moments) == moments.maxlen and now < moments[0] + WINDOW_S
