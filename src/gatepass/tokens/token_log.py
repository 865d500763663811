"""Log and count the fetches of one credential. Secrets are masked before they are stored."""

from __future__ import annotations

import logging
import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gatepass.observability.redaction import Redactor
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.lifetime import Token
from gatepass.tokens.secrets import secret_values
from gatepass.types import Secret

LOG = logging.getLogger("gatepass.tokens")

REPEAT_LOG_S = 60.0
"""Between two log lines with the same reason. An outage of one night produces some hundred lines, not ten thousand."""
MAX_REASONS = 16
"""Cap on different reasons in one outage. Further reasons share one line a minute."""
_VARYING = re.compile(r"[0-9a-f]{8,}|[0-9]+", re.IGNORECASE)
"""Times, ports and request ids: they differ between two equal reasons."""

MOST_RENEWALS = 20


@dataclass(slots=True)
class TokenLog:
    credential: str
    redactor: Redactor
    fetches: int = 0
    failures: int = 0
    last_failure: FetchFailure | None = None
    last_error_s: float | None = None
    failing_since_s: float | None = None
    """When the first attempt since the last token failed. None after a token."""
    early_end_s: float = -math.inf
    reasons: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Of each reason since the last token, when it was logged last and how many failures were not."""
    renewals: deque[tuple[float, str | None]] = field(default_factory=lambda: deque(maxlen=MOST_RENEWALS))
    """When each of the last fetches ended, and why it failed: None if it brought a token. The newest is at the end."""

    def mask_secrets(self, secrets: tuple[Secret, ...]) -> int:
        """Mask the current secrets of a source; return a hash that changes when they change."""
        values = secret_values(secrets)
        for place, value in enumerate(values):
            self.redactor.learn(value or "", (self.credential, place))
        return hash(values)

    def log_fetched(self, token: Token, took_s: float) -> None:
        """Log a fetch, and count it unless another process made it."""
        if token.from_store:
            self.log_shared(token)
            return
        self.fetches += 1
        self.renewals.append((token.requested_s + took_s, None))
        self._accept(token)
        fields = {
            "lifetime_s": token.lifetime_s,
            "kind": token.kind.value,
            "lifetime_source": token.lifetime_source.value,
        }
        self._log(LOG.info, "token_fetched", took_s=round(took_s, 3), **fields)

    def log_early_end(self, token: Token, upstream: str, now: float) -> None:
        """Log once a minute that `upstream` accepted `token` and rejects it long before its announced end."""
        if now < self.early_end_s + REPEAT_LOG_S:
            return
        self.early_end_s = now
        age_s = round(now - token.requested_s, 1)
        self._log(LOG.warning, "token_ended_early", upstream=upstream, age_s=age_s, lifetime_s=token.lifetime_s)

    def log_shared(self, token: Token) -> None:
        """Log a token that another process fetched. It is not counted."""
        self._accept(token)
        self._log(LOG.debug, "token_shared", lifetime_s=token.lifetime_s)

    def log_failed(
        self, failure: FetchFailure, took_s: float, now: float, bug: BaseException | None = None
    ) -> FetchFailure:
        """Log one failed attempt at `now`; return the failure with its reason masked. A `bug` adds its traceback.

        A repeated reason is logged once a minute with its count. A failure of another process is neither counted nor
        logged as a warning, because that process does both.
        """
        failure = failure.masked(self.redactor.mask)
        self.last_failure, self.last_error_s = failure.masked(), now
        self.failing_since_s = now if self.failing_since_s is None else self.failing_since_s
        if failure.from_other_process:
            self._log(LOG.debug, "token_failure_shared", reason=failure.reason)
            return failure
        self.fetches += bug is None  # a bug is not an attempt at the issuer
        self.failures += 1
        self.renewals.append((now, failure.reason))
        times = self.count_to_report(failure.reason, now)
        if times is not None:
            fields = {"credential": self.credential, "took_s": round(took_s, 3), "reason": failure.reason}
            fields |= {"definite": failure.is_refused, "times": times}
            LOG.warning("token_fetch_failed", extra={"fields": fields}, exc_info=bug)
        return failure

    def count_to_report(self, reason: str, now: float) -> int | None:
        """Return how many failures a log line about `reason` represents now; None to write no line."""
        key = _VARYING.sub("#", reason)
        if key not in self.reasons and len(self.reasons) >= MAX_REASONS:
            key = ""  # further reasons share one entry
        logged_s, suppressed = self.reasons.get(key, (-math.inf, 0))
        if now < logged_s + REPEAT_LOG_S:
            self.reasons[key] = logged_s, suppressed + 1
            return None
        self.reasons[key] = now, 0
        return suppressed + 1

    def _accept(self, token: Token) -> None:
        self.redactor.learn(token.text, (self.credential, "token"))
        self.reasons.clear()
        self.failing_since_s = None

    def _log(self, log: Callable[..., None], event: str, **fields: object) -> None:
        log(event, extra={"fields": {"credential": self.credential, **fields}})
