"""Which request headers of a client may leave gatepass at all."""

from __future__ import annotations

from gatepass.call import Headers

CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"api-key", b"cookie", b"proxy-authorization"))
"""The client's own: an upstream sees the credential of its configuration and no other."""

FRAMING = frozenset((b"host", b"content-length", b"content-encoding", b"accept-encoding", b"expect"))
"""True of the first hop's message only; the second hop gets its own."""

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""RFC 9110 section 7.6.1, and what older clients send beside it."""

UNDERSCORE = ord("_")
"""Looked for as a number: CPython 3.11 takes six times as long to find out that bytes are none."""

_NEVER = CREDENTIALS | FRAMING | HOP_BY_HOP


def safe_headers(headers: Headers) -> Headers:
    """`headers` without those that must not go upstream, whatever a configuration says.

    Gone are the lists above, what `Connection` names, and names with `_`, which CGI-like servers
    read as `-` (so that `x_api_key` would pass for `x-api-key`). What is left is what an upstream's
    allow-list and its `forward_headers` choose from.
    """
    never = _NEVER
    for name, value in headers:
        if name == b"connection":
            never |= {named.strip().lower() for named in value.split(b",")}
    return tuple([pair for pair in headers if pair[0] not in never and UNDERSCORE not in pair[0]])
