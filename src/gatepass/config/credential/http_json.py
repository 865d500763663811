"""`type: http_json`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gatepass.config.block import Block, SecretText, SecretTree, Url
from gatepass.config.credential.base import Credential

Unit = Literal["s", "ms"]


class ReplyPaths(Block):
    """Where in the issuer's reply the token and its life stand, as dotted paths: `data.token`."""

    token: str | None = None
    """None looks for the usual names: access_token, accessToken, token, jwt, value."""
    expires_in: str | None = None
    """A life; exclusive with `expires_at`."""
    expires_at: str | None = None
    """A moment: epoch seconds or milliseconds, ISO 8601 or an HTTP date."""
    unit: Unit | None = None
    """The unit of the number; None infers it from its size."""

    @model_validator(mode="after")
    def _one_expiry(self) -> ReplyPaths:
        if self.expires_in and self.expires_at:
            raise ValueError("expires_in and expires_at exclude each other")
        return self


class HttpJsonCredential(Credential):
    """A login of your own: one HTTP request whose JSON (or plain text) reply holds a token."""

    type: Literal["http_json"]
    """Where the token comes from."""
    url: Url
    """The login's URL."""
    method: Literal["GET", "POST", "PUT", "PATCH"] = "POST"
    """The request's method."""
    headers: dict[str, SecretText] = {}
    """Headers to send."""
    query: dict[str, SecretText] = {}
    """Query parameters to put behind the URL; they appear in no log."""
    json_body: Annotated[SecretTree, Field(alias="json", repr=False)] = None
    """A JSON body; references inside it are resolved."""
    form: dict[str, SecretText] | None = None
    """A form body; exclusive with `json`."""
    reply: ReplyPaths = ReplyPaths()
    """Where the token and its life stand in the reply."""

    @model_validator(mode="after")
    def _one_body(self) -> HttpJsonCredential:
        if self.json_body is not None and self.form is not None:
            raise ValueError("json and form exclude each other")
        if self.method == "GET" and (self.json_body is not None or self.form is not None):
            raise ValueError("a GET has no body: use query, or method: POST")
        return self
