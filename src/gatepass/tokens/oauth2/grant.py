"""What the form of a token request says: the grant, and what is wished for (RFC 6749 4.3, 4.4 and 6)."""

from __future__ import annotations

from collections.abc import Mapping

from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.oauth2.refusal import sign_in_anew
from gatepass.tokens.secret import revealed

Fields = Mapping[str, str]


def sign_in(settings: Oauth2Credential) -> Fields:
    """The grant that needs no token of before; raises FetchFailure where it cannot be asked for."""
    if settings.grant_type == "client_credentials":
        return {"grant_type": "client_credentials"}
    if settings.username is not None and settings.password is not None:
        password = revealed(settings.password, "password")
        return {"grant_type": "password", "username": settings.username, "password": password}
    raise FetchFailure(f"there is no refresh token to begin with: {sign_in_anew(settings)}", definite=True)


def refresh(token: str) -> Fields:
    return {"grant_type": "refresh_token", "refresh_token": token}


def wishes(settings: Oauth2Credential) -> Fields:
    """What is asked for with every grant, the fields of the user's own last."""
    asked = {"scope": settings.scope, "audience": settings.audience, "resource": settings.resource}
    own = {name: revealed(value, f"extra.{name}") for name, value in settings.extra.items()}
    return {name: value for name, value in asked.items() if value is not None} | own
