"""CORS: which web pages may call gatepass from a browser (Fetch standard): those of `server.cors_origins`."""

from __future__ import annotations

import re
from collections.abc import Collection

from gatepass.errors import ForbiddenOrigin
from gatepass.types import Headers, header

METHODS = b"GET, POST, DELETE, OPTIONS"
"""The methods of all operations. For a method that its path does not support, a page receives the 405."""
MAX_AGE_S = b"600"
EXPOSED = (
    b"x-request-id, x-gatepass-adapted, x-gatepass-attempts, x-gatepass-hop, x-gatepass-limit-warning, "
    b"x-gatepass-targets, x-gatepass-trace-id, x-gatepass-tried, retry-after, retry-after-ms, x-should-retry, "
    b"server-timing"
)
"""Response headers that a page may read in addition to the safelisted ones. openai-node uses the middle three for
its retries."""
SHOWN_BYTES = 100
VARY = (b"vary", b"origin")
"""Sent with every response if origins are listed, because caches distinguish responses by it (Fetch
standard)."""

_NAMES = rb"[A-Za-z0-9-]{1,64}(?:[ \t]*,[ \t]*[A-Za-z0-9-]{1,64}){0,63}\Z"
_ALWAYS = b"authorization, content-type"


def is_preflight(method: str, headers: Headers) -> bool:
    has_method = header(headers, b"access-control-request-method") is not None
    return method == "OPTIONS" and has_method and header(headers, b"origin") is not None


def preflight_error(headers: Headers) -> ForbiddenOrigin:
    """Return the error for a preflight of an origin that is not listed."""
    origin = shown_origin(header(headers, b"origin") or b"")
    if origin == "'null'":
        action = "A page without an origin (a file, a sandboxed frame) is never allowed: serve it from a host."
    else:
        action = "To allow it, add that origin to server.cors_origins."
    return ForbiddenOrigin(f"CORS: a page of the origin {origin} may not call gatepass from a browser. {action}")


def shown_origin(origin: bytes) -> str:
    """Return `origin` quoted and shortened for an error message."""
    return repr(origin[:SHOWN_BYTES].decode("latin-1"))


def cors_headers(headers: Headers, origins: Collection[str]) -> Headers:
    """Return the CORS headers of the response; only VARY for an origin that is not allowed, none without `origins`."""
    if not origins:
        return ()
    origin = header(headers, b"origin")
    if origin is None or not _allows(origin, origins):
        return (VARY,)
    return ((b"access-control-allow-origin", origin), (b"access-control-expose-headers", EXPOSED), VARY)


def preflight(method: str, headers: Headers, origins: Collection[str]) -> Headers | None:
    """Return the headers of the 204 for a preflight. None if it is not a preflight, or its origin is not allowed."""
    origin = header(headers, b"origin")
    if not is_preflight(method, headers) or origin is None or not _allows(origin, origins):
        return None
    requested = header(headers, b"access-control-request-headers") or b""
    names = requested if re.match(_NAMES, requested) is not None else _ALWAYS  # reflect only well-formed names
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", names),
        (b"access-control-max-age", MAX_AGE_S),
        VARY,
    )


def _allows(origin: bytes, origins: Collection[str]) -> bool:
    text = origin.decode("latin-1")
    # `*` does not include `null`, the origin of sandboxed frames and local files
    return text in origins or ("*" in origins and text != "null")
