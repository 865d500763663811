"""Whose a refresh token is: by these names it is kept, and known again after a restart."""

from __future__ import annotations

import json
from hashlib import sha256

from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.recipe import recipe
from gatepass.tokens.secret import revealed


def recipe_of(settings: Oauth2Credential) -> str:
    """Whose refresh tokens these are.

    Where a new login is a fetch like any other, the whole recipe tells it: a field of any name may choose the
    account that is signed in to (`extra.tenant`). Where a person gave the first token, that one is the login, and
    neither wishes nor proof belong to it: a change of those must not bring it back, which has long ended.
    Raises FetchFailure where a secret cannot be read.
    """
    if settings.grant_type == "refresh_token":
        first = settings.refresh_token
        return _digest(account_of(settings), None if first is None else revealed(first, "refresh_token"))
    try:
        return recipe(settings)
    except (ValueError, OSError) as error:
        raise FetchFailure(f"a secret cannot be read: {error}", quick=False) from None


def account_of(settings: Oauth2Credential) -> str:
    """By which client, and of which issuer, a refresh token may be used."""
    return _digest(settings.endpoint, settings.client_id)


def _digest(*parts: str | None) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()
