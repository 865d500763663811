"""Describe why a token could not be fetched, and which setting to check."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from gatepass.errors import TokenUnavailable

ENVIRONMENT_CREDENTIAL = "token"
"""Name of the credential whose settings are environment variables."""
VARIABLES = {
    "url": "GATEPASS_TOKEN_URL",
    "token_url": "GATEPASS_TOKEN_URL",
    "reply.token": "GATEPASS_TOKEN_PATH",
    "network.proxy_auth": "GATEPASS_PROXY",
}

BUSY = "another process uses the refresh token and did not release it in time"


class FetchFailure(Exception):
    """One failed attempt of a source. `reason` is for people: it names the issuer and contains no secret.

    - `definite`: the issuer refused the client, for example because of a wrong secret. Another attempt soon only
      risks a locked account.
    - `unclear`: the issuer refused with an unknown code, so this may be a refusal or an outage.
    - `free_tries`: how many unclear failures in a row are treated as an outage. The holder raises it (SecretHistory).
    - `retry_quickly`: another attempt within the same second can succeed.
    - `retry_after_s`: the issuer's own `Retry-After`.
    - `from_other_process`: another process sent the request, or was waited for.
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
        """Return the same failure with another reason."""
        other = copy(self)
        other.reason, other.args = reason, (reason,)
        return other

    def masked(self, mask: Callable[[str], str]) -> FetchFailure:
        """Return the same failure with secrets masked in its reason."""
        return self.with_reason(mask(self.reason))


class TokenReissued(TokenUnavailable):
    """The issuer returned the same token that the upstream had just rejected.

    Sending it again cannot succeed, so the client receives the upstream's own answer.
    """


def setting(credential: str, name: str) -> str:
    """Return the full name of a setting, with its environment variable if the environment configures the credential."""
    variable = VARIABLES.get(name) if credential == ENVIRONMENT_CREDENTIAL else None
    return f"credentials.{credential}.{name}{f' ({variable})' if variable else ''}"


def setting_hint(credential: str, name: str | None) -> str:
    """Return advice to check the setting `name`; empty if `name` is None."""
    return "" if name is None else f"; check {setting(credential, name)}"


def network_hint(credential: str, name: str | None) -> str:
    """Return advice for an issuer that does not answer: the address may be wrong, or a proxy is required."""
    return "" if name is None else f"{setting_hint(credential, name)} and its network.proxy"


def token_path_hint(credential: str) -> str:
    """Return advice for a token in an unknown place of the reply."""
    return f"; {setting(credential, 'reply.token')} sets its path" if credential else ""
