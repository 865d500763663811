"""Which pages may call gatepass from a browser (the Fetch standard's CORS protocol). None, unless they are listed."""

from __future__ import annotations

import re
from collections.abc import Collection

from gatepass.errors import ForbiddenOrigin
from gatepass.types import Headers, header

METHODS = b"GET, POST, DELETE, OPTIONS"
"""All that any operation has: a page whose path serves another one reads the 405 itself."""
MAX_AGE_S = b"600"
EXPOSED = (
    b"x-request-id, x-gatepass-adapted, x-gatepass-attempts, x-gatepass-hop, x-gatepass-tried, "
    b"retry-after, retry-after-ms, x-should-retry, server-timing"
)
"""Response headers that a page may read beside the harmless ones; openai-node repeats by the middle three."""
SHOWN_BYTES = 100
"""Of an origin in an error."""
VARY = (b"vary", b"origin")
"""Of every response where some pages are let in, also of those that let none in: a cache must not give a page the
response that another request got (https://fetch.spec.whatwg.org/#cors-protocol-and-http-caches)."""

_NAMES = re.compile(rb"[A-Za-z0-9-]{1,64}(?:[ \t]*,[ \t]*[A-Za-z0-9-]{1,64}){0,63}\Z")
_ALWAYS = b"authorization, content-type"


def is_preflight(method: str, headers: Headers) -> bool:
    """Whether a browser only asks if the page that it shows may call."""
    asks = header(headers, b"access-control-request-method") is not None
    return method == "OPTIONS" and asks and header(headers, b"origin") is not None


def shut_out(headers: Headers, profile: str | None) -> ForbiddenOrigin:
    """The error for a preflight of a page that the profile lists not; `profile` is the one that the path names."""
    origin = shown_origin(header(headers, b"origin") or b"")
    if origin == "'null'":
        told = "A page without an origin of its own (a file, a sandboxed frame) is never let in: serve it from a host."
    else:
        told = f"To let it in, add that origin to profiles.{profile or 'plain'}.cors_origins."
    if profile is None:
        told += " A preflight shows no key: for the profile of a key the base URL has to end in /for/NAME/v1."
    return ForbiddenOrigin(f"CORS: a page of the origin {origin} may not call gatepass from a browser. {told}")


def shown_origin(origin: bytes) -> str:
    """`origin` as an error tells of it."""
    return repr(origin[:SHOWN_BYTES].decode("latin-1"))


def cors_headers(headers: Headers, origins: Collection[str]) -> Headers:
    """What the response to a request with `headers` says to the browser; no more than VARY where its page may not
    read it, nothing where no page may.

    No credentials are allowed: a key goes in a header, and no cookie is ever looked at.
    """
    if not origins:
        return ()
    origin = header(headers, b"origin")
    if origin is None or not _allows(origin, origins):
        return (VARY,)
    return ((b"access-control-allow-origin", origin), (b"access-control-expose-headers", EXPOSED), VARY)


def preflight(method: str, headers: Headers, origins: Collection[str]) -> Headers | None:
    """The headers of the 204 to a preflight; None where the request is none, or its page may not go on.

    A preflight carries no key, so it can only be told by its path and its Origin.
    """
    origin = header(headers, b"origin")
    if not is_preflight(method, headers) or origin is None or not _allows(origin, origins):
        return None
    wanted = header(headers, b"access-control-request-headers") or b""
    names = wanted if _NAMES.match(wanted) is not None else _ALWAYS
    private = header(headers, b"access-control-request-private-network") == b"true"
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", names),
        (b"access-control-max-age", MAX_AGE_S),
        *([(b"access-control-allow-private-network", b"true")] if private else []),
        VARY,
    )


def _allows(origin: bytes, origins: Collection[str]) -> bool:
    """The text alone decides; `null`, which sandboxed frames send, is not every page's."""
    text = origin.decode("latin-1")
    return text in origins or ("*" in origins and text != "null")
