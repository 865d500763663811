"""What the form of a token request says (RFC 6749 4.3, 4.4 and 6), and the code of a refusal (5.2)."""

from __future__ import annotations

from collections.abc import Mapping

from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer_error import denies, objection
from gatepass.tokens.reply import NotJson, Reply, document_of
from gatepass.tokens.secrets import revealed

Fields = Mapping[str, str]


def sign_in(settings: Oauth2Credential) -> Fields:
    """The grant that needs no token of before; raises FetchFailure where it cannot be asked for."""
    if settings.grant_type == "client_credentials":
        return {"grant_type": "client_credentials"}
    if settings.username is not None and settings.password is not None:
        password = revealed(settings.password, "password")
        return {"grant_type": "password", "username": settings.username, "password": password}
    raise FetchFailure(f"there is no refresh token to begin with: {sign_in_anew(settings)}", definite=True)


def wishes(settings: Oauth2Credential) -> Fields:
    """What is asked for with every grant, the fields of the user's own last."""
    asked = {"scope": settings.scope, "audience": settings.audience, "resource": settings.resource}
    own = {name: revealed(value, f"extra.{name}") for name, value in settings.extra.items()}
    return {name: value for name, value in asked.items() if value is not None} | own


DEAD_GRANT = frozenset({"invalid_grant", "bad_refresh_token", "unauthorized_client", "unsupported_grant_type"})
"""Codes after which a refresh token is of no more use. GitHub says bad_refresh_token, in a reply of 200."""


def sign_in_anew(settings: Oauth2Credential) -> str:
    """What a person has to do, and where what comes of it belongs: what stands in the file counts first."""
    place = "refresh_token" if settings.refresh_token_file is None else "refresh_token_file, as the file's only text"
    return f"sign in anew, and put the refresh token that you get into {place}"


def code_of(reply: Reply) -> str | None:
    """The `error` of a reply that refuses; None where it gives a token, or no code."""
    try:
        document = document_of(reply.text)
    except NotJson:
        return None
    if 200 <= reply.status < 300 and not denies(document):
        return None
    found = objection(document)
    return found.code if found is not None else None


def advised(failure: FetchFailure, advice: str) -> FetchFailure:
    """The same failure with what to do about it."""
    return failure.worded(f"{failure.reason.rstrip('.')}; {advice}")
