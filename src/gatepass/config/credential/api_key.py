"""`type: api_key`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gatepass.config.block import SecretText
from gatepass.config.carry import PARAMETER, PLACE, Carry, FieldName
from gatepass.config.credential.local import LocalCredential

USUAL_HEADER = "api-key"


class ApiKeyCredential(LocalCredential):
    """A key that does not expire, in a header or query parameter of its own."""

    type: Literal["api_key"]
    """Where the token comes from."""
    key: SecretText
    """The key, best by reference."""
    header: FieldName | None = None
    """The header that holds it; None is `api-key` where there is no `query`."""
    query: Annotated[str, Field(pattern=PARAMETER)] | None = None
    """A query parameter that holds it."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.carry is not None and (self.header or self.query):
            raise ValueError("carry says where the key goes: remove header and query")
        _ = self.usual_carry  # refuses a header that nobody may set
        return self

    @property
    def usual_carry(self) -> Carry:
        header = self.header or (USUAL_HEADER if self.query is None else None)
        return Carry(headers={header: PLACE} if header else None, query=self.query)
