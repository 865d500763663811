"""What may stand behind `Authorization: Bearer`."""

from __future__ import annotations

import re

from gatepass.tokens.failure import FetchFailure

_SCHEME = re.compile(r"bearer(\s+|\Z)", re.IGNORECASE)
_B64TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*\Z")
"""RFC 6750 2.1."""
_NOTHING = frozenset({"null", "none", "nil", "undefined", "true", "false", "error"})


def bare(text: str) -> str:
    """`text` without white space around it and without `Bearer` before it."""
    text = text.strip()
    scheme = _SCHEME.match(text)
    return text[scheme.end() :] if scheme else text


def bearer(found: str, issuer: str) -> str:
    """The bare token; raises FetchFailure where it is none by RFC 6750 2.1: a line break in it would
    write headers of its own."""
    text = bare(found)
    if text.lower() in _NOTHING:
        raise FetchFailure(f"{issuer} gave {text!r} where a token is expected")
    if not _B64TOKEN.match(text):
        raise FetchFailure(f"{issuer} gave a token with characters that no bearer token may hold (RFC 6750 2.1)")
    return text
