"""`reply`: where in what an issuer, a program or a file gives the token and its life stand."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gatepass.config.block import Block
from gatepass.config.carry import FIELD_NAME

Unit = Literal["s", "ms"]


class ReplyPaths(Block):
    """Where the token and its life stand in a JSON document, as dotted paths: `data.token`."""

    token: str | None = None
    """None looks for the usual names: access_token, accessToken, token, jwt, value."""
    expires_in: str | None = None
    """A life; exclusive with `expires_at`."""
    expires_at: str | None = None
    """A moment: epoch seconds or milliseconds, ISO 8601 or an HTTP date."""
    unit: Unit | None = None
    """The unit of the number; None infers it from its size."""

    @model_validator(mode="after")
    def _one_expiry(self) -> Self:
        if self.expires_in and self.expires_at:
            raise ValueError("expires_in and expires_at exclude each other")
        return self


class HttpReply(ReplyPaths):
    """As above, in a reply that comes by HTTP."""

    header: Annotated[str, Field(pattern=FIELD_NAME)] | None = None
    """A response header that holds the token, such as `X-Subject-Token`; exclusive with `token`."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.header and self.token:
            raise ValueError("header and token exclude each other")
        return self
