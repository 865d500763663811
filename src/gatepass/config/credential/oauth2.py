"""`type: oauth2`."""

from __future__ import annotations

from typing import Literal

from gatepass.config.block import SecretText, Url
from gatepass.config.credential.base import Credential


class Oauth2Credential(Credential):
    """OAuth 2.0 client credentials (RFC 6749 4.4)."""

    type: Literal["oauth2"]
    """Where the token comes from."""
    token_url: Url
    """The issuer's token endpoint."""
    client_id: str
    """Who asks."""
    client_secret: SecretText
    """The proof, best by reference."""
    client_auth: Literal["basic", "form"] = "basic"
    """Where the client's id and secret go: an Authorization header or the form."""
    scope: str | None = None
    """Scopes, separated by spaces."""
    audience: str | None = None
    """The API that the token is for, where the issuer wants it told."""
    resource: str | None = None
    """The same in RFC 8707's way."""
    extra: dict[str, SecretText] = {}
    """More form fields, as the issuer wants them."""
