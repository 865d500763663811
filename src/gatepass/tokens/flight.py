"""One flight: the tries that are made for all who wait at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gatepass.runtime import Clock, sleep
from gatepass.tokens.backoff import quick_wait_s
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.journal import Journal
from gatepass.tokens.life import Token, no_longer_than
from gatepass.tokens.secret import next_secret
from gatepass.tokens.source import TokenSource


@dataclass(slots=True)
class Pilot:
    """Makes the tries of one holder; `budget_s` bounds the time in which quick ones begin."""

    source: TokenSource
    clock: Clock
    journal: Journal
    budget_s: float
    chance: Callable[[], float]
    next_secret: str = ""
    """In words, when the last try's secrets may be others."""
    tried_s: float = -math.inf
    """When the last try began."""
    _signed_in_with: int = 0

    async def fly(self, last: Token | None, not_before_s: float, *, quick: bool) -> Token:
        """A token that lives; raises the masked FetchFailure of the last try.

        One try, and where `quick` and the failure may pass, up to three more. `last` is the token
        before this one.
        """
        if (early_s := not_before_s - self.clock.now()) > 0:
            await sleep(self.clock, early_s)
        started_s, tries = self.clock.now(), 0
        while True:
            tries += 1
            try:
                return await self._try(last)
            except FetchFailure as failure:
                wait_s = quick_wait_s(tries, failure, self.chance()) if quick else None
                if wait_s is None or self.clock.now() + wait_s >= started_s + self.budget_s:
                    raise
            await sleep(self.clock, wait_s)

    def secret_changed(self) -> bool:
        """Whether the source would sign in with something else than at the last try."""
        return self.journal.learn(self.source.secrets()) != self._signed_in_with

    async def _try(self, last: Token | None) -> Token:
        started_s = self.tried_s = self.clock.now()
        secrets = self.source.secrets()
        self._signed_in_with, self.next_secret = self.journal.learn(secrets), next_secret(secrets)
        try:
            token = no_longer_than(await self.source.fetch(), last)
            self._check_alive(token)
        except FetchFailure as failure:
            now = self.clock.now()
            raise self.journal.failed(failure, now - started_s, now) from None
        if token.shared:
            self.journal.found(token)
            return token
        self.journal.minted(token, self.clock.now() - started_s)
        return token

    def _check_alive(self, token: Token) -> None:
        now = self.clock.now()
        if now >= token.expires_s:
            raise FetchFailure(
                f"the token was dead on arrival: {max(0.0, token.end_s - token.born_s):.1f} s to live, "
                f"and fetching it took {now - token.born_s:.1f} s",
                quick=False,
                heard=token.shared,
            )
