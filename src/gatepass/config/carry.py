"""`carry`: how a token is shown to an upstream."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from gatepass.config.block import Block
from gatepass.lexicon import HOP_BY_HOP, MADE_ANEW

FIELD_NAME = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
"""The name of a header field, a `token` of RFC 9110 5.6.2."""
PARAMETER = r"^[A-Za-z0-9._~-]+$"
"""A query parameter whose name needs no escape (RFC 3986 2.3)."""
PLACE = "{token}"
OWN_FIELDS = frozenset(name.decode() for name in HOP_BY_HOP | MADE_ANEW)
"""Request headers that belong to one hop, or that gatepass makes itself: nobody sets them."""

_PLACEHOLDER = re.compile(r"\{[A-Za-z_ ]*\}")


def unfit(text: str) -> str | None:
    """Why `text` is not what a header can hold, or None."""
    if text == text.strip(" ") and all(" " <= c <= "~" for c in text):
        return None
    return "begins or ends with a space, or holds a line break or a character beyond ASCII"


def _template(text: str) -> str:
    if PLACE not in text:
        raise ValueError(f"holds no {PLACE}: that is where the token goes; a fixed value belongs under upstreams")
    if any(found != PLACE for found in _PLACEHOLDER.findall(text)):
        raise ValueError(f"knows no placeholder but {PLACE}")
    if fault := unfit(text):
        raise ValueError(fault)
    return text


FieldName = Annotated[str, Field(pattern=FIELD_NAME)]
Template = Annotated[str, AfterValidator(_template)]


def checked_fields(names: Iterable[str]) -> None:
    """Raises ValueError where one of `names` is no header for a configuration to set, or stands there twice."""
    seen: set[str] = set()
    for name in map(str.lower, names):
        if name in OWN_FIELDS or name.startswith("x-gatepass-"):
            raise ValueError(f"{name} belongs to one hop or is gatepass's own: it cannot be set")
        if name in seen:
            raise ValueError(f"{name} stands there twice: header names have no case")
        seen.add(name)


class Carry(Block):
    """Where a token stands in a request: in headers, in a query parameter, or in both."""

    headers: dict[FieldName, Template] | None = None
    """Headers and their templates; None and no `query`: `{Authorization: "Bearer {token}"}`."""
    query: Annotated[str, Field(pattern=PARAMETER)] | None = None
    """A query parameter to put the token into, percent-encoded: `access_token`."""

    @model_validator(mode="after")
    def _settable(self) -> Carry:
        if not self.templates and self.query is None:
            raise ValueError("carries the token nowhere: name a header or a query parameter")
        checked_fields(self.headers or ())
        return self

    @property
    def templates(self) -> dict[str, str]:
        """The headers that count."""
        if self.headers is None and self.query is None:
            return {"Authorization": f"Bearer {PLACE}"}
        return dict(self.headers or {})


BEARER = Carry()
"""`Authorization: Bearer …` (RFC 6750 2.1)."""
