"""How many fetches the upstream's 401s of tokens that never worked may cause."""

from __future__ import annotations

from collections import deque

FETCHES = 6
WINDOW_S = 60.0
REST_S = 10.0
"""How long a token is let be that the issuer gave again after it had been rejected."""


class Rejections:
    """A wrong credential is rejected with every request; it must not become a storm of logins."""

    def __init__(self) -> None:
        self._granted: deque[float] = deque(maxlen=FETCHES)
        self._value: str | None = None
        self._confirmed_s: float | None = None

    def __repr__(self) -> str:
        return f"Rejections({len(self._granted)} fetches granted)"

    def note(self, value: str) -> None:
        """Remember which token was dropped last."""
        self._value, self._confirmed_s = value, None

    def minted(self, value: str, now: float) -> None:
        """See whether the issuer stands by the token that was rejected."""
        self._confirmed_s = now if value == self._value else None

    def resting(self, value: str, now: float) -> bool:
        """Whether the issuer gave `value` again only just: asking once more would change nothing."""
        return self._confirmed_s is not None and value == self._value and now < self._confirmed_s + REST_S

    def grant(self, now: float) -> bool:
        """Allow one more rejection, and so one more fetch; counts it."""
        if len(self._granted) == FETCHES and now < self._granted[0] + WINDOW_S:
            return False
        self._granted.append(now)
        return True
