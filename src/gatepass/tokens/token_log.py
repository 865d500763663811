"""Log and count the fetches of one credential. Secrets are masked before they are stored."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable

import msgspec

from gatepass.observability.redaction import Redactor
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.lifetime import Token
from gatepass.tokens.secrets import secret_values
from gatepass.types import Secret

LOG = logging.getLogger("gatepass.tokens")

REPEAT_LOG_S = 60.0
"""Between two log lines of failures. An outage of one night produces some hundred lines, not ten thousand."""
MOST_RENEWALS = 20


class TokenLog(msgspec.Struct):
    credential: str
    redactor: Redactor
    fetches: int = 0
    failures: int = 0
    last_failure: FetchFailure | None = None
    last_error_s: float | None = None
    failing_since_s: float | None = None
    """When the first attempt since the last token failed. None after a token."""
    logged_s: float = -math.inf
    unlogged: int = 0
    """The failures since the last log line of one."""
    renewals: deque[tuple[float, str | None]] = msgspec.field(default_factory=lambda: deque(maxlen=MOST_RENEWALS))
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

    def log_shared(self, token: Token) -> None:
        """Log a token that another process fetched. It is not counted."""
        self._accept(token)
        self._log(LOG.debug, "token_shared", lifetime_s=token.lifetime_s)

    def log_failed(
        self, failure: FetchFailure, took_s: float, now: float, bug: BaseException | None = None
    ) -> FetchFailure:
        """Log one failed attempt at `now`; return the failure with its reason masked. A `bug` adds its traceback.

        They are logged once a minute, with their count. A failure of another process is neither counted nor
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
        self.unlogged += 1
        if now >= self.logged_s + REPEAT_LOG_S:
            fields = {"credential": self.credential, "took_s": round(took_s, 3), "reason": failure.reason}
            fields |= {"definite": failure.is_refused, "times": self.unlogged}
            LOG.warning("token_fetch_failed", extra={"fields": fields}, exc_info=bug)
            self.logged_s, self.unlogged = now, 0
        return failure

    def _accept(self, token: Token) -> None:
        self.redactor.learn(token.text, (self.credential, "token"))
        self.logged_s, self.unlogged = -math.inf, 0
        self.failing_since_s = None

    def _log(self, log: Callable[..., None], event: str, **fields: object) -> None:
        log(event, extra={"fields": {"credential": self.credential, **fields}})
