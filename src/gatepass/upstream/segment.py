"""A name in the path of a URL."""

from __future__ import annotations

from urllib.parse import quote

from gatepass.errors import ModelNotFound

STEPS = (".", "..")
"""No names but steps through the path, however they are escaped (RFC 3986 5.2.4)."""


def segment(name: str) -> str:
    """`name`, which a client may have chosen, as one segment of a path: it leads nowhere else.

    Raises ModelNotFound for what can be none.
    """
    if not name or name in STEPS:
        raise ModelNotFound(f"The upstream can have no model of the name {name!r}.", param="model")
    return quote(name, safe="", errors="replace")
