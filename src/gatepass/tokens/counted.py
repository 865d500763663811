"""How often an issuer is asked, by this process: what the others that share a store ask is theirs to count."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

from gatepass.call import Secret
from gatepass.runtime import Clock
from gatepass.tokens.life import Token
from gatepass.tokens.source import TokenSource


@runtime_checkable
class CountedSource(TokenSource, Protocol):
    @property
    def fetches(self) -> int:
        """How many of its fetches have asked the issuer and ended: with a token, a failure, or because nobody wanted
        one any more."""
        ...


class Counted:
    """`source`, with the number of its fetches that have ended; each token says how long it took."""

    def __init__(self, source: TokenSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self.fetches = 0

    def __repr__(self) -> str:
        return repr(self._source)

    async def fetch(self) -> Token:
        try:
            token = await self._source.fetch()
        finally:
            self.fetches += 1
        return replace(token, took_s=self._clock.now() - token.born_s)

    def secrets(self) -> tuple[Secret, ...]:
        return self._source.secrets()


def counted(source: TokenSource, clock: Clock) -> CountedSource:
    """`source` itself where it counts already, for it alone knows which of its fetches ask the issuer."""
    return source if isinstance(source, CountedSource) else Counted(source, clock)
