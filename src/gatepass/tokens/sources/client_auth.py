"""How the client proves to the token endpoint who it is (RFC 6749 2.3, RFC 7523, RFC 8705).

What the form of a token request says (RFC 6749 4.3, 4.4 and 6), and the code of a refusal (5.2).
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
from gatepass.tokens.issuer_error import NotJson, TokenResponse, is_error_reply, parse_json_object, token_error_body
from gatepass.tokens.lifetime import issuer_time
from gatepass.tokens.secrets import revealed
from gatepass.tokens.token_endpoint import TimedTokenResponse
from gatepass.types import Headers, Secret

if TYPE_CHECKING:
    from gatepass.tokens.sources.signer import Signer


Fields = Mapping[str, str]


def login_fields(settings: Oauth2Credential) -> Fields:
    """The grant that needs no token of before; raises FetchFailure where it cannot be asked for."""
    if settings.grant_type == "client_credentials":
        return {"grant_type": "client_credentials"}
    if settings.username is not None and settings.password is not None:
        password = revealed(settings.password, "password")
        return {"grant_type": "password", "username": settings.username, "password": password}
    raise FetchFailure(f"there is no refresh token to begin with: {new_login_advice(settings)}", definite=True)


def extra_fields(settings: Oauth2Credential) -> Fields:
    """What is asked for with every grant, the fields of the user's own last."""
    asked = {"scope": settings.scope, "audience": settings.audience, "resource": settings.resource}
    own = {name: revealed(value, f"extra.{name}") for name, value in settings.extra.items()}
    return {name: value for name, value in asked.items() if value is not None} | own


INVALID_GRANT_CODES = frozenset({"invalid_grant", "bad_refresh_token", "unauthorized_client", "unsupported_grant_type"})
"""Codes after which a refresh token is of no more use. GitHub says bad_refresh_token, in a reply of 200."""


def new_login_advice(settings: Oauth2Credential) -> str:
    """What a person has to do, and where what comes of it belongs: what stands in the file counts first."""
    place = "refresh_token" if settings.refresh_token_file is None else "refresh_token_file, as the file's only text"
    return f"sign in anew, and put the refresh token that you get into {place}"


def code_of(reply: TokenResponse) -> str | None:
    """The `error` of a reply that refuses; None where it gives a token, or no code."""
    try:
        document = parse_json_object(reply.text)
    except NotJson:
        return None
    if 200 <= reply.status < 300 and not is_error_reply(document):
        return None
    found = token_error_body(document)
    return found.code if found is not None else None


def with_advice(failure: FetchFailure, advice: str) -> FetchFailure:
    """The same failure with what to do about it."""
    return failure.with_reason(f"{failure.reason.rstrip('.')}; {advice}")


TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
"""RFC 7523 2.2."""
LIFETIME_S = 60
BACKDATED_S = 10
"""How far `iat` and `nbf` lie in the past: an issuer whose clock is behind would call them of the future."""
_JTI_BYTES = 18


def claims(client_id: str, audience: str, wall_s: float) -> dict[str, Any]:
    """What an assertion made at `wall_s` (epoch seconds, by the issuer's clock) says; LIFE_S from `iat` to `exp`."""
    made_s = int(wall_s) - BACKDATED_S
    return {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "jti": secrets.token_urlsafe(_JTI_BYTES),
        "iat": made_s,
        "nbf": made_s,
        "exp": made_s + LIFETIME_S,
    }


SKEW_S = 20.0
"""A difference of clocks from which on it is what an assertion may have been refused for."""


@dataclass(frozen=True, slots=True)
class ClientProof:
    """What a token request carries so that the issuer knows the client."""

    headers: Headers = field(default=(), repr=False)
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What of it is made for this one request and known to nobody else yet."""
        assertion = self.fields.get("client_assertion")
        return () if assertion is None else (Secret(assertion),)


class ClientAuthenticator:
    """The client of one credential. It learns how far the issuer's clock is ahead of ours, and no more."""

    def __init__(self, settings: Oauth2Credential) -> None:
        self._settings = settings
        self._secret = settings.client_secret or Secret("")
        file = settings.private_key_file  # its PEM text is read afresh at each look
        self._key = settings.private_key if file is None else Secret(lambda: read_file(file))
        self._signer = _signer(settings, self._secret, self._key)
        self._ahead_s = 0.0

    def secrets(self) -> tuple[Secret, ...]:
        """What it proves itself with, in each form in which it travels."""
        if self._key is not None:
            return (self._key,)
        if self._settings.client_secret is None:
            return ()
        return (self._secret, self._secret.derived(partial(_basic, self._settings.client_id)))

    def proof(self, token_url: str, wall_s: float) -> ClientProof:
        """For one request to `token_url` at `wall_s` (Clock.wall); raises FetchFailure where a secret is away."""
        settings = self._settings
        named = {"client_id": settings.client_id}
        match settings.client_auth:
            case "basic":
                pair = _basic(settings.client_id, revealed(self._secret, "client_secret"))
                return ClientProof(((b"authorization", f"Basic {pair}".encode()),))
            case "form":
                return ClientProof(fields=named | {"client_secret": revealed(self._secret, "client_secret")})
            case "secret_jwt" | "private_key_jwt" | "mtls" | "none":
                return ClientProof(fields=named | self._assertion(token_url, wall_s + self._ahead_s))

    def adjust_clock(self, timed_response: TimedTokenResponse) -> bool:
        """Whether an assertion may have been refused for its times alone: then the next is made by the issuer's clock.

        With a clock of ours that is two minutes behind, every assertion has expired when it arrives.
        """
        date_s = issuer_time(timed_response.response.headers)
        if self._signer is None or date_s is None:
            return False
        ahead_s = date_s - timed_response.wall_s
        is_unknown = timed_response.response.status == 401 or code_of(timed_response.response) == "invalid_client"
        if not is_unknown or abs(ahead_s - self._ahead_s) < SKEW_S:
            return False
        self._ahead_s = ahead_s
        return True

    def _assertion(self, token_url: str, wall_s: float) -> dict[str, str]:
        """What a signature proves, where one does."""
        if self._signer is None:
            return {}
        said = claims(self._settings.client_id, self._audience(token_url), wall_s)
        return {"client_assertion_type": TYPE, "client_assertion": self._signer.sign(said)}

    def _audience(self, token_url: str) -> str:
        match self._settings.assertion_audience:
            case "token_url":
                return token_url
            case "issuer":
                return self._settings.issuer or token_url
            case own:
                return own


def _signer(settings: Oauth2Credential, secret: Secret, key: Secret | None) -> Signer | None:
    if settings.client_auth not in ("secret_jwt", "private_key_jwt"):
        return None
    from gatepass.tokens.sources.signer import signer_of  # which loads what signs, for these two alone

    return signer_of(settings, secret, key)


def _basic(client_id: str, secret: str) -> str:
    """RFC 6749 2.3.1: both are form-encoded before they are joined."""
    return b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()
