"""How many fetches the rejections of upstreams may cause."""

from __future__ import annotations

from collections import defaultdict, deque

from gatepass.tokens.life import Token

FETCHES = 6
WINDOW_S = 60.0
REST_S = 10.0
"""How long a token is let be that the issuer gave again after it had been rejected."""


class Rejections:
    """A wrong credential is rejected with every request; it must not become a storm of logins.

    Counted for each upstream by itself (`by`): what one accepts another may refuse for good. A token
    that `by` had taken has ended, so a rejection of it is free, until the token in its place turns
    out to be refused as well; any other rejection counts at once.
    """

    def __init__(self) -> None:
        self._counted: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=FETCHES))
        self._settled: set[str] = set()
        self._taken: Token | None = None
        self._takers: set[str] = set()
        self._value: str | None = None
        self._confirmed_s: float | None = None

    def __repr__(self) -> str:
        return f"Rejections({sum(map(len, self._counted.values()))} fetches counted)"

    def confirm(self, token: Token, by: str) -> None:
        """`by` took `token`."""
        if token is not self._taken:
            self._taken, self._takers = token, set()
        self._takers.add(by)

    def note(self, value: str) -> None:
        """Remember which token was dropped last."""
        self._value, self._confirmed_s = value, None

    def minted(self, value: str, now: float) -> None:
        """See whether the issuer stands by the token that was rejected."""
        self._confirmed_s = now if value == self._value else None

    def resting(self, value: str, now: float) -> bool:
        """Whether the issuer gave `value` again only just: asking once more would change nothing."""
        return self._confirmed_s is not None and value == self._value and now < self._confirmed_s + REST_S

    def grant(self, token: Token, by: str, now: float) -> bool:
        """Allow `by` to reject `token`, and so one more fetch."""
        counted = self._counted[by]
        if len(counted) == FETCHES and now < counted[0] + WINDOW_S:
            return False
        if token is self._taken and by in self._takers:
            self._settled.discard(by)
        else:
            self._count(by, now)
        return True

    def in_vain(self, by: str, now: float) -> None:
        """`by` refused the newer token too: what was granted last counts after all."""
        if by not in self._settled:
            self._count(by, now)

    def _count(self, by: str, now: float) -> None:
        self._counted[by].append(now)
        self._settled.add(by)
