"""The status of a holder."""

from gatepass.documents import TokenStatus
from gatepass.tokens.lifetime import Freshness, LifetimeSource, TokenKind

FRESH = TokenStatus(
    state=Freshness.FRESH,
    kind=TokenKind.OPAQUE,
    lifetime_source=LifetimeSource.REPLY,
    age_s=0.4,
    expires_in_s=284.6,
    fetches=1,
    failures=0,
    last_error=None,
    last_error_age_s=None,
    failing=False,
    failing_since=None,
    refreshing=False,
    next_try_in_s=232.4,
    renewals=[],
)
"""0.4 s after the first token, an opaque one that its issuer gave 300 s."""
