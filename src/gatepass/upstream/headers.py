"""Which header fields cross: up by allow-list, down by deny-list."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

from gatepass.call import Headers, named_by_connection
from gatepass.lexicon import CREDENTIALS, HOP_BY_HOP, MADE_ANEW

FORWARDED = frozenset({b"user-agent", b"openai-organization", b"openai-project", b"traceparent", b"tracestate"})
"""Request fields of the client that go up. content-type, accept… and x-request-id are gatepass's own."""

NEVER_UP = HOP_BY_HOP | CREDENTIALS | MADE_ANEW
"""Not even by `forward_headers`: the client's credentials are for gatepass alone, and the framing is ours."""

_ALLOWED = FORWARDED - NEVER_UP

NEVER_DOWN = HOP_BY_HOP | {
    *(b"content-length", b"content-encoding", b"content-type", b"set-cookie", b"set-cookie2"),
    *(b"server", b"date", b"alt-svc", b"strict-transport-security", b"www-authenticate", b"x-request-id"),
    *(b"location", b"content-location", b"refresh", b"x-sendfile", b"x-should-retry", b"via"),
    *(b"server-timing", b"clear-site-data", b"nel", b"report-to"),
}
"""content-type is handled apart: it goes down exactly once. x-request-id is gatepass's own there.

A proxy in front of gatepass obeys x-sendfile (as it does x-accel-*) and would read a file for the
upstream; the openai SDKs obey x-should-retry, where gatepass decides about a repeat.
"""

_NEVER_DOWN_PREFIXES = (b"x-gatepass-", b"access-control-", b"x-accel-", b"public-key-pins")


def forwarded(headers: Headers, more: Collection[str] = ()) -> Headers:
    """The fields of a client's request that may go up; `more` are names of the configuration.

    Fields that `connection` names belong to the first hop and stay there (CVE-2025-48865 was a proxy
    that let a client remove the proxy's own fields with it: those are added behind this).
    """
    allowed = _allowed(tuple(more)) if more else _ALLOWED
    kept: list[tuple[bytes, bytes]] = []
    names_fields = False
    for field in headers:
        name = field[0]
        if name in allowed:
            kept.append(field)
        elif name == b"connection":
            names_fields = True
    return tuple(_not_named(kept, headers) if names_fields else kept)


@lru_cache(maxsize=1024)  # of the configuration's upstreams
def _allowed(more: tuple[str, ...]) -> frozenset[bytes]:
    named = (name.lower().encode("ascii", "replace") for name in more)
    return (FORWARDED | {name for name in named if not name.startswith(b"x-gatepass-")}) - NEVER_UP


def relayed(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The fields of an upstream's reply that may go down, with one content type.

    Of several content types the one that says event stream counts, else the first.
    """
    kinds: list[bytes] = []
    kept: list[tuple[bytes, bytes]] = []
    names_fields = False
    for field in headers:
        name = field[0]
        if name == b"content-type":
            kinds.append(field[1])
        elif name == b"connection":
            names_fields = True
        elif name not in NEVER_DOWN and _goes_down(name):
            kept.append(field)
    if names_fields:
        kept = _not_named(kept, headers)
    if kinds:
        kept.insert(0, (b"content-type", kinds[0] if len(kinds) == 1 else _content_type(kinds)))
    return kept


@lru_cache(maxsize=1024)  # upstreams send the same few again and again
def _goes_down(name: bytes) -> bool:
    """Whether a field outside NEVER_DOWN crosses."""
    return not (b"_" in name or name.startswith(_NEVER_DOWN_PREFIXES))


def _content_type(kinds: Sequence[bytes]) -> bytes:
    streams = [kind for kind in kinds if kind.strip().lower().startswith(b"text/event-stream")]
    return (streams or kinds)[0]


def _not_named(fields: list[tuple[bytes, bytes]], headers: Headers) -> list[tuple[bytes, bytes]]:
    named = named_by_connection(headers)
    return [field for field in fields if field[0] not in named]
