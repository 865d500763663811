"""Why a token could not be fetched, and which setting to check."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from gatepass.errors import TokenUnavailable

ENVIRONMENT_CREDENTIAL = "token"
"""What the credential is called whose settings are variables of the environment."""
VARIABLES = {
    "url": "GATEPASS_TOKEN_URL",
    "token_url": "GATEPASS_TOKEN_URL",
    "reply.token": "GATEPASS_TOKEN_PATH",
    "network.proxy_auth": "GATEPASS_PROXY",
}

BUSY = "the refresh token is in use elsewhere, and was not free in time"


class FetchFailure(Exception):
    """One try of a source failed. `reason` is for people: it names the issuer and holds no secret.

    `definite`: the issuer understood and said no (a wrong secret), so asking again soon only risks
    a locked account. `unclear`: it said no with a code that is not known, so it may be one or the other.
    `free_tries` of them in a row count as an outage: the holder raises this by its SecretHistory.
    `quick`: another try within the same second can help.
    `retry_after_s` is the issuer's own wish. `heard`: another process asked, or was waited for; this one did not.
    """

    def __init__(
        self,
        reason: str,
        *,
        definite: bool = False,
        unclear: bool = False,
        quick: bool = True,
        retry_after_s: float | None = None,
        free_tries: int = 0,
        from_other_process: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.definite = definite
        self.unclear = unclear and not definite
        self.retry_quickly = quick and not self.unclear
        self.retry_after_s = retry_after_s
        self.free_tries = free_tries
        self.from_other_process = from_other_process

    def with_reason(self, reason: str) -> FetchFailure:
        """The same failure in other words."""
        other = copy(self)
        other.reason, other.args = reason, (reason,)
        return other

    def masked(self, mask: Callable[[str], str]) -> FetchFailure:
        """The same failure with secrets taken out of its reason."""
        return self.with_reason(mask(self.reason))


class TokenReissued(TokenUnavailable):
    """The issuer gave the very token again that the upstream had just refused.

    Sending it once more cannot end differently: whoever meets this shows the upstream's own answer.
    """


def setting(credential: str, name: str) -> str:
    """The full name of a setting, and of the variable that stands for it where there is no file."""
    variable = VARIABLES.get(name) if credential == ENVIRONMENT_CREDENTIAL else None
    return f"credentials.{credential}.{name}{f' ({variable})' if variable else ''}"


def setting_hint(credential: str, name: str | None) -> str:
    """Where an address may be wrong; nothing where none was configured."""
    return "" if name is None else f"; check {setting(credential, name)}"


def network_hint(credential: str, name: str | None) -> str:
    """Where nothing answers: the address may be wrong, or a proxy be needed."""
    return "" if name is None else f"{setting_hint(credential, name)} and its network.proxy"


def token_path_hint(credential: str) -> str:
    """Where the token stands in a place that nobody looks at."""
    return f"; {setting(credential, 'reply.token')} names its place" if credential else ""
