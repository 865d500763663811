"""How many fetches the rejections of upstreams may cause."""

from __future__ import annotations

from collections import defaultdict, deque

import msgspec

from gatepass.tokens.life import Token

FETCHES = 6
"""In WINDOW_S, for tokens that had not worked, and for those whose successor did not either."""
WORKED_FETCHES = 20
"""The same for tokens that had worked: some are good for one use, and an upstream may say 401 in turns."""
WORKED_SPACING_S = 1.0
MOST_FETCHES = 60
"""The same for all users of a credential together."""
WINDOW_S = 60.0
REST_S = 10.0
"""How long a token is let be that the issuer gave again after it had been rejected."""
USERS = 256
"""So many are known by themselves; a client may make up names of models, which some upstreams serve."""


class User(msgspec.Struct, frozen=True, gc=False):
    """Who is shown a token: an upstream, and there a model, for what one model takes another may refuse."""

    upstream: str = ""
    model: str = ""


ANYBODY = User()


class Rejections:
    """A wrong credential is rejected with every request; it must not become a storm of logins.

    A user that was served well has a budget of its own, so that nobody else's refusals keep it from being
    healed; all others at an upstream share one. A token that its user had taken has ended, which may happen
    often; any other rejection counts for more, and so does that of the token that came in its place.
    """

    def __init__(self) -> None:
        self._own: dict[User, _Budget] = {}
        self._shared: defaultdict[str, _Budget] = defaultdict(_Budget)
        self._granted: deque[float] = deque(maxlen=MOST_FETCHES)
        self._taken: Token | None = None
        self._takers: set[User] = set()
        self._value: str | None = None
        self._confirmed_s: float | None = None

    def __repr__(self) -> str:
        return f"Rejections({len(self._granted)} fetches granted)"

    def confirm(self, token: Token, by: User, now: float) -> None:
        """`by` took `token`."""
        if token is not self._taken:
            self._taken, self._takers = token, set()
        if by not in self._takers and len(self._takers) < USERS and self._entitle(by, now):
            self._takers.add(by)

    def is_taken(self, token: Token | None, users: set[User]) -> bool:
        """Whether somebody else than `users` took `token`."""
        return token is self._taken and bool(self._takers - users)

    def note(self, value: str) -> None:
        """Remember which token was dropped last."""
        self._value, self._confirmed_s = value, None

    def minted(self, value: str, now: float) -> None:
        """See whether the issuer stands by the token that was rejected."""
        self._confirmed_s = now if value == self._value else None

    def resting(self, value: str, now: float) -> bool:
        """Whether the issuer gave `value` again only just: asking once more would change nothing."""
        return self._confirmed_s is not None and value == self._value and now < self._confirmed_s + REST_S

    def grant(self, token: Token, by: User, now: float) -> bool:
        """Allow `by` to reject `token`, and so one more fetch."""
        has_worked = token is self._taken and by in self._takers
        if _is_full(self._granted, now) or not self._budget(by).spend(now, has_worked=has_worked):
            return False
        self._granted.append(now)
        return True

    def in_vain(self, by: User, now: float) -> None:
        """`by` refused the newer token too: what was granted last counts as for a token that had not worked."""
        self._budget(by).count_after_all(now)

    def _budget(self, by: User) -> _Budget:
        return self._own.get(by) or self._shared[by.upstream]

    def _entitle(self, by: User, now: float) -> bool:
        """Give `by` a budget of its own, where there is room: none is forgotten while it still bounds anything."""
        if by not in self._own and len(self._own) >= USERS:
            idle = next((user for user, budget in self._own.items() if budget.is_idle(now)), None)
            if idle is None:
                return False
            del self._own[idle]
        self._own.setdefault(by, _Budget())
        return True


class _Budget:
    """The fetches that one's rejections caused in the last WINDOW_S."""

    __slots__ = ("_counted", "_is_open", "_worked")

    def __init__(self) -> None:
        self._counted: deque[float] = deque(maxlen=FETCHES)
        self._worked: deque[float] = deque(maxlen=WORKED_FETCHES)
        self._is_open = False

    def spend(self, now: float, *, has_worked: bool) -> bool:
        if _is_full(self._counted, now) or (has_worked and not self._may_end(now)):
            return False
        (self._worked if has_worked else self._counted).append(now)
        self._is_open = has_worked
        return True

    def count_after_all(self, now: float) -> None:
        if self._is_open:
            self._counted.append(now)
            self._is_open = False

    def is_idle(self, now: float) -> bool:
        return all(now >= moment + WINDOW_S for moment in (*self._counted, *self._worked))

    def _may_end(self, now: float) -> bool:
        """Whether one more token that had worked may have ended."""
        is_soon = bool(self._worked) and now < self._worked[-1] + WORKED_SPACING_S
        return not is_soon and not _is_full(self._worked, now)


def _is_full(moments: deque[float], now: float) -> bool:
    return len(moments) == moments.maxlen and now < moments[0] + WINDOW_S
