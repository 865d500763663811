"""What happens to a credential while somebody watches: a short line for each change, none for what stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gatepass.cli.seconds import rounded
from gatepass.tokens import Status, Token

FOUND = "found: another gatepass fetched it"


@dataclass(frozen=True, slots=True)
class Look:
    """A credential at one moment; `token` is the one that would be sent."""

    status: Status
    token: Token | None


class Story:
    """Goes on from `first`, of which everything has been told."""

    def __init__(self, first: Look) -> None:
        self._before = first.status
        self._token = first.token
        self._reason = first.status.last_error if first.status.failing else None
        self._failures = 1

    def since(self, look: Look) -> Iterator[str]:
        """What has changed since the look before this one, in the order in which it happens."""
        before, self._before = self._before, look.status
        if _has_failed(before, look.status):
            yield self._failed(look.status)
        if look.token is not None and look.token is not self._token:
            how = f"fetch {look.status.fetches}" if look.status.fetches > before.fetches else FOUND
            is_same = self._token is not None and look.token.text == self._token.text
            yield f"{_same(how) if is_same else _new(look.token, how)}{next_try(look.status)}"
            self._token, self._reason = look.token, None
        if before.left_s and look.status.left_s == 0:
            yield "expired: requests wait for the next token, or fail"

    def _failed(self, status: Status) -> str:
        """The reason once, and then only how often; until a token comes, or another reason."""
        is_known = status.last_error == self._reason
        self._failures = self._failures + 1 if is_known else 1
        self._reason = status.last_error
        said = f"failed again, {self._failures} times in a row" if is_known else f"failed: {status.last_error}"
        return f"{said}{next_try(status)}"


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
