"""`upstreams.NAME.rejection`: in which ways an upstream says that it does not take a token."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from gatepass.config.block import Block

CODE = r"^[A-Za-z0-9_.:-]{1,100}$"
HOST = r"^[A-Za-z0-9*?._-]+$"


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Status = Annotated[int, Field(ge=400, le=599)]
Code = Annotated[
    str,
    Field(pattern=CODE),
    BeforeValidator(_text),
    WithJsonSchema({"type": ["string", "integer"], "description": "an upstream's own error code"}),
]
HostGlob = Annotated[str, Field(pattern=HOST)]


class Rejection(Block):
    """A 401, and an error whose own words say 401, always count; these do too.

    What counts drops the token, fetches one new token for all that wait, and sends the request once more.
    """

    statuses: list[Status] = []
    """More HTTP statuses that say so: `[403]`."""
    codes: list[Code] = []
    """More codes in the body of an error, that of a 200 too: `[A0230, 40101]`."""
    login_page: bool = True
    """An HTML page where a reply was due, and a redirect to a login."""
    login_hosts: list[HostGlob] | None = None
    """The only hosts (names or globs) to which a redirect leads to a login; None: any other host, or a path that
    says so."""
