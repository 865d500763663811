"""How long an issuer takes when all is well: whoever is slow is not to be taken for silent."""

from __future__ import annotations

from dataclasses import dataclass

from gatepass.tokens.backoff import PROBE_S
from gatepass.tokens.life import Token


@dataclass(slots=True)
class Pace:
    """`longest_s` is the longest that a fetch can take: more than that was a machine that slept."""

    longest_s: float
    usual_s: float = 0.0

    def minted(self, token: Token, *, alone: bool) -> None:
        """A fetch of this process has brought `token`. One that was not `alone` says nothing: an issuer that hung and
        came back answers what it was asked long ago."""
        if alone and not token.shared and token.took_s <= self.longest_s:
            self.usual_s = token.took_s

    def refused(self, token: Token, now: float) -> None:
        """`token` has ended before its time. Fetches go out PROBE_S apart, and so do the tokens come of an issuer that
        is always slow; where each ends the one before, one that came then has ended this one."""
        came_s = token.born_s + token.took_s
        if now >= came_s + PROBE_S and token.took_s <= self.longest_s:
            self.usual_s = max(self.usual_s, token.took_s)
