"""What happens to a credential while somebody watches: a short line for each change, and one a minute for a failure
that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gatepass.cli.seconds import rounded
from gatepass.tokens import Status, Token
from gatepass.tokens.journal import Repetitions

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
        if _has_failed(before, look.status):
            yield from self._failed(look)
        if look.token is not None and look.token is not self._token:
            how = f"fetch {look.status.fetches}" if look.status.fetches > before.fetches else FOUND
            is_same = self._token is not None and look.token.text == self._token.text
            yield f"{_same(how) if is_same else _new(look.token, how)}{next_try(look.status)}"
            self._token = look.token
            self._repetitions.forget()
        if before.left_s and look.status.left_s == 0:
            yield "expired: requests wait for the next token, or fail"

    def _failed(self, look: Look) -> Iterator[str]:
        """Each reason at once, and then once a minute, as in the log; anew when a token has come."""
        reason = str(look.status.last_error)
        times = self._repetitions.times(reason, look.now)
        if times is not None:
            said = "failed" if times == 1 else f"failed {times} times more"
            yield f"{said}: {reason}{next_try(look.status)}"


def next_try(status: Status) -> str:
    """When the next fetch is due, as the end of a line; nothing where none is."""
    return "" if status.next_try_in_s is None else f"; next try in {status.next_try_in_s:.0f} s"


def _has_failed(before: Status, after: Status) -> bool:
    """By the time of the last error: one that another gatepass was told is in no count of this one."""
    if after.last_error_age_s is None:
        return False
    return before.last_error_age_s is None or after.last_error_age_s < before.last_error_age_s


def _new(token: Token, how: str) -> str:
    life = "no end told" if token.life_s is None else f"lives {rounded(token.life_s)} s"
    return f"new token ({how}): {token.kind.value}, {life}"


def _same(how: str) -> str:
    return f"the same token again ({how})"
