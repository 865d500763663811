"""How long a request waits for a token, and what it is told when there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gatepass.errors import TokenUnavailable
from gatepass.tokens.backoff import Setback
from gatepass.tokens.remedy import setting

GRACE_S = 0.25
"""Beyond the budget: a fetch that has used it up ends with words of its own."""
OUTAGE_WAIT_S = 1.0
"""How long a request waits for a try that is under way while the issuer is known to be failing."""
SHORTEST_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Patience:
    """For the credential `name`, whose issuer people know as `place`. `trouble` is what the issuer is known to fail
    with, if it does."""

    name: str
    place: str
    budget_s: float

    def wait_s(self, trouble: Setback | None) -> float:
        longest_s = self.budget_s + GRACE_S
        return longest_s if trouble is None else min(longest_s, OUTAGE_WAIT_S)

    def over(self, trouble: Setback | None, now: float, next_secret: str) -> TokenUnavailable:
        """`next_secret` says, in words, when another secret is tried."""
        if trouble is None:
            bound = f"{self.budget_s:g} s ({setting(self.name, 'timeout_s')} and a moment more)"
            return self._told(f"no answer from {self.place} within {bound}", SHORTEST_RETRY_S)
        reason, retry_s = trouble.reason, max(SHORTEST_RETRY_S, trouble.next_try_s - now)
        if trouble.definite:
            reason = f"{reason.rstrip('.')}; tried again in {math.ceil(retry_s)} s{next_secret}"
        return self._told(reason, retry_s)

    def _told(self, reason: str, retry_s: float) -> TokenUnavailable:
        message = f"no token for credential {self.name}: {reason}"
        return TokenUnavailable(message, credential=self.name, retry_after_s=retry_s)
