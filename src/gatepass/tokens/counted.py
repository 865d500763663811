"""How often an issuer is asked, by this process: what the others that share a store ask is theirs to count."""

from __future__ import annotations

from gatepass.call import Secret
from gatepass.tokens.life import Token
from gatepass.tokens.source import TokenSource


class Counted:
    """`source`, with the number of its fetches that have ended: with a token, a failure, or because nobody wanted
    one any more."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self.fetches = 0

    def __repr__(self) -> str:
        return repr(self._source)

    async def fetch(self) -> Token:
        try:
            return await self._source.fetch()
        finally:
            self.fetches += 1

    def secrets(self) -> tuple[Secret, ...]:
        return self._source.secrets()
