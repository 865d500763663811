"""The ways in which a token cannot be had."""

from __future__ import annotations

from collections.abc import Callable

from gatepass.errors import TokenUnavailable


class FetchFailure(Exception):
    """One try of a source failed. `reason` is for people: it names the issuer and holds no secret.

    `definite`: the issuer understood and said no (a wrong secret), so asking again soon only risks
    a locked account. `quick`: another try within the same second can help. `retry_after_s` is the
    issuer's own wish.
    """

    def __init__(
        self, reason: str, *, definite: bool = False, quick: bool = True, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.definite = definite
        self.quick = quick
        self.retry_after_s = retry_after_s

    def masked(self, mask: Callable[[str], str]) -> FetchFailure:
        """The same failure with secrets taken out of its reason."""
        return FetchFailure(
            mask(self.reason), definite=self.definite, quick=self.quick, retry_after_s=self.retry_after_s
        )


class TokenReissued(TokenUnavailable):
    """The issuer gave the very token again that the upstream had just refused.

    Sending it once more cannot end differently: whoever meets this shows the upstream's own answer.
    """
