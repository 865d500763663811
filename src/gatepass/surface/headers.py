"""Which request headers of a client may leave gatepass at all."""

from __future__ import annotations

from gatepass.call import Headers
from gatepass.lexicon import CREDENTIALS, HOP_BY_HOP

FRAMING = frozenset((b"host", b"content-length", b"content-encoding", b"accept-encoding", b"expect"))
"""True of the first hop's message only; the second hop gets its own."""

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
