"""Authenticate the client to the token endpoint (RFC 6749 2.3, RFC 7523, RFC 8705).

Also builds the form of a token request (RFC 6749 4.3, 4.4 and 6) and reads the code of a refusal (5.2).
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.references import read_file
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer_error import TokenResponse, is_error_reply, token_error_body
from gatepass.tokens.lifetime import issuer_time
from gatepass.tokens.secrets import revealed
from gatepass.tokens.token_endpoint import TimedTokenResponse
from gatepass.types import Headers, Secret

if TYPE_CHECKING:
    from gatepass.tokens.sources.signer import Signer

Fields = Mapping[str, str]
INVALID_GRANT_CODES = frozenset({"invalid_grant", "bad_refresh_token", "unauthorized_client", "unsupported_grant_type"})
"""Codes after which a refresh token is useless. GitHub returns bad_refresh_token with status 200."""
TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
"""RFC 7523 2.2."""
LIFETIME_S = 60
BACKDATED_S = 10
"""How far `iat` and `nbf` are in the past. An issuer with a slow clock would reject them as future times."""
_JTI_BYTES = 18
SKEW_S = 20.0
"""A clock skew from here on may be the reason why an assertion was refused."""


def login_fields(settings: Oauth2Credential) -> Fields:
    """Return the grant that requires no earlier token; raise FetchFailure if it cannot be requested."""
    if settings.grant_type == "client_credentials":
        return {"grant_type": "client_credentials"}
    if settings.username is not None and settings.password is not None:
        password = revealed(settings.password, "password")
        return {"grant_type": "password", "username": settings.username, "password": password}
    raise FetchFailure(f"there is no refresh token: {new_login_advice(settings)}", definite=True)


def extra_fields(settings: Oauth2Credential) -> Fields:
    """Return the fields that accompany every grant. The operator's own fields come last and override."""
    fields = {"scope": settings.scope, "audience": settings.audience, "resource": settings.resource}
    own = {name: revealed(value, f"extra.{name}") for name, value in settings.extra.items()}
    return {name: value for name, value in fields.items() if value is not None} | own


def new_login_advice(settings: Oauth2Credential) -> str:
    """Return what the operator must do after the refresh token ended.

    The file has precedence over `refresh_token`, so the advice names the file if one is configured.
    """
    place = "refresh_token" if settings.refresh_token_file is None else "refresh_token_file, as the file's only text"
    return f"sign in again, and put the new refresh token into {place}"


def code_of(reply: TokenResponse) -> str | None:
    """Return the `error` of a refusal; None for a reply with a token or without a code."""
    document = reply.document
    if reply.is_success and not is_error_reply(document):
        return None
    found = token_error_body(document)
    return found.code if found is not None else None


def with_advice(failure: FetchFailure, advice: str) -> FetchFailure:
    """Return the same failure with advice for the operator."""
    return failure.with_reason(f"{failure.reason.rstrip('.')}; {advice}")


def claims(client_id: str, audience: str, wall_s: float) -> dict[str, Any]:
    """Return the claims of an assertion issued at `wall_s`: epoch seconds on the issuer's clock."""
    issued_s = int(wall_s) - BACKDATED_S
    return {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        # An issuer may reject an assertion that it has seen before (RFC 7523 3).
        "jti": secrets.token_urlsafe(_JTI_BYTES),
        "iat": issued_s,
        "nbf": issued_s,
        "exp": issued_s + LIFETIME_S,
    }


@dataclass(frozen=True, slots=True)
class ClientProof:
    """The headers and fields of a token request that authenticate the client."""

    headers: Headers = field(default=(), repr=False)
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The secrets created for this request alone, so that they can be masked."""
        assertion = self.fields.get("client_assertion")
        return () if assertion is None else (Secret(assertion),)


class ClientAuthenticator:
    """Authenticates one credential's client. Its only state is the measured skew of the issuer's clock."""

    def __init__(self, settings: Oauth2Credential) -> None:
        self._settings = settings
        self._secret = settings.client_secret or Secret("")
        file = settings.private_key_file  # the PEM text is read again for each use
        self._key = settings.private_key if file is None else Secret(lambda: read_file(file))
        self._signer = _signer(settings, self._secret, self._key)
        self._ahead_s = 0.0

    def secrets(self) -> tuple[Secret, ...]:
        """Return the client's secrets in each form in which they are sent."""
        if self._key is not None:
            return (self._key,)
        if self._settings.client_secret is None:
            return ()
        return (self._secret, self._secret.derived(partial(_basic, self._settings.client_id)))

    def proof(self, token_url: str, wall_s: float) -> ClientProof:
        """Return the proof for one request at `wall_s` (Clock.wall); raise FetchFailure if a secret is unreadable."""
        settings = self._settings
        named = {"client_id": settings.client_id}
        match settings.client_auth:
            case "basic":
                pair = _basic(settings.client_id, revealed(self._secret, "client_secret"))
                return ClientProof(((b"authorization", f"Basic {pair}".encode()),))
            case "form":
                return ClientProof(fields=named | {"client_secret": revealed(self._secret, "client_secret")})
            case "secret_jwt" | "private_key_jwt" | "mtls" | "none":
                if self._signer is None:
                    return ClientProof(fields=named)
                assertion = claims(settings.client_id, self._audience(token_url), wall_s + self._ahead_s)
                signed = self._signer.sign(assertion)
                return ClientProof(fields=named | {"client_assertion_type": TYPE, "client_assertion": signed})

    def adjust_clock(self, timed_response: TimedTokenResponse) -> bool:
        """Return whether an assertion may have been refused for its times. Then the next one uses the issuer's clock.

        If this machine's clock is two minutes slow, every assertion has expired on arrival.
        """
        date_s = issuer_time(timed_response.response.headers)
        if self._signer is None or date_s is None:
            return False
        ahead_s = date_s - timed_response.wall_s
        is_unknown = timed_response.response.status == 401 or code_of(timed_response.response) == "invalid_client"
        # A small difference cannot be the reason, and must not cause a second request.
        if not is_unknown or abs(ahead_s - self._ahead_s) < SKEW_S:
            return False
        self._ahead_s = ahead_s  # the caller sends the request once more
        return True

    def _audience(self, token_url: str) -> str:
        match self._settings.assertion_audience:
            # RFC 7523 3 allows the token endpoint as audience. FAPI 2.0 requires the issuer.
            case "token_url":
                return token_url
            case "issuer":
                return self._settings.issuer or token_url
            case own:
                return own


def _signer(settings: Oauth2Credential, secret: Secret, key: Secret | None) -> Signer | None:
    if settings.client_auth not in ("secret_jwt", "private_key_jwt"):
        return None
    from gatepass.tokens.sources.signer import Signer  # imports PyJWT, only for these two methods

    return Signer(settings, secret, key)


def _basic(client_id: str, secret: str) -> str:
    """Return the Basic credentials. RFC 6749 2.3.1: both parts are form-encoded before they are joined."""
    return b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()
