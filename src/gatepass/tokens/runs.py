"""The fetches of one credential that are under way."""

from __future__ import annotations

import asyncio
import math

from gatepass.tokens.life import Token

MOST = 2
"""At once, and only while nobody has a token or the issuer fails: the oldest has its full time, a newer one meets
the recovery."""

Run = asyncio.Task[Token]


class Runs:
    """Oldest first. `begun_s` is when the last one that people wait for began (Clock.now). What has ended is kept no
    longer, nor the token that it brought.

    What is given up may still have been heard by its issuer; what is let go may still bring a token.
    """

    def __init__(self) -> None:
        self._under_way: list[Run] = []
        self._awaited: Run | None = None
        self.begun_s = -math.inf

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def awaited(self) -> bool:
        """Whether one is under way that began while nothing was known to fail: who waits, waits for its end."""
        return self._awaited is not None

    def add(self, run: Run, now: float, *, awaited: bool) -> None:
        """One more, for which the newest is given up where there are MOST."""
        while len(self._under_way) >= MOST:
            self._dropped().cancel()
        self._under_way.append(run)
        if awaited:
            self._awaited, self.begun_s = run, now

    def remove(self, run: Run) -> bool:
        """Whether `run`, which has ended, was one of them until now."""
        if run not in self._under_way:
            return False
        self._under_way.remove(run)
        self._forget(run)
        return True

    def give_up(self) -> None:
        """Cancel them all: nobody needs what they would bring."""
        while self._under_way:
            self._dropped().cancel()

    def let_go(self) -> None:
        """Forget them all: what they fail with is no news any more."""
        self._under_way.clear()
        self._awaited = None

    def _dropped(self) -> Run:
        run = self._under_way.pop()
        self._forget(run)
        return run

    def _forget(self, run: Run) -> None:
        if run is self._awaited:
            self._awaited = None
