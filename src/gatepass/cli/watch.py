"""What happens to a credential while somebody watches: a short line for each change, and one a minute for a failure
that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gatepass.tokens import Status, Token
from gatepass.tokens.journal import Repetitions

WHOLE_FROM_S = 10.0
"""From here on they are told without fractions."""


def rounded(seconds: float) -> str:
    """Cut off, never up: no token lives longer than is said."""
    return f"{int(seconds)}" if seconds >= WHOLE_FROM_S else f"{int(seconds * 10) / 10:g}"


FOUND = "found: another gatepass fetched it"


@dataclass(frozen=True, slots=True)
class Look:
    """A credential at the moment `now` (Clock.now); `token` is the one that would be sent."""

    status: Status
    token: Token | None
    now: float


class Story:
    """Goes on from `first`, of which everything has been told."""

    def __init__(self, first: Look) -> None:
        self._before = first.status
        self._token = first.token
        self._repetitions = Repetitions()
        if first.status.failing:
            self._repetitions.times(str(first.status.last_error), first.now)

    def since(self, look: Look) -> Iterator[str]:
        """What has changed since the look before this one, in the order in which it happens."""
        before, self._before = self._before, look.status
        age_s, before_s = look.status.last_error_age_s, before.last_error_age_s
        # by the time of the last error: one that another gatepass was told is in no count of this one
        if age_s is not None and (before_s is None or age_s < before_s):
            reason = str(look.status.last_error)
            times = self._repetitions.times(reason, look.now)  # each at once, then once a minute, as in the log
            if times is not None:
                said = "failed" if times == 1 else f"failed {times} times more"
                yield f"{said}: {reason}{next_try(look.status)}"
        if look.token is not None and look.token is not self._token:
            how = f"fetch {look.status.fetches}" if look.status.fetches > before.fetches else FOUND
            life = "no end told" if look.token.life_s is None else f"lives {rounded(look.token.life_s)} s"
            said = f"new token ({how}): {look.token.kind.value}, {life}"
            if self._token is not None and look.token.text == self._token.text:
                said = f"the same token again ({how})"
            yield f"{said}{next_try(look.status)}"
            self._token = look.token
            self._repetitions.forget()
        if before.left_s and look.status.left_s == 0:
            yield "expired: requests wait for the next token, or fail"


def next_try(status: Status) -> str:
    """When the next fetch is due, as the end of a line; nothing where none is."""
    return "" if status.next_try_in_s is None else f"; next try in {status.next_try_in_s:.0f} s"
