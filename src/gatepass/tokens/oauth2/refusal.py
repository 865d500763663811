"""The code of an issuer's refusal (RFC 6749 5.2), and what to do about it."""

from __future__ import annotations

from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.refusal import denies, objection
from gatepass.tokens.reply import NotJson, Reply, document_of

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
