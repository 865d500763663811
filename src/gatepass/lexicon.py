"""Words of the protocols that several parts must read alike: each of these facts stands here and nowhere else."""

from __future__ import annotations

HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"proxy-authenticate", b"proxy-authorization", b"proxy-authentication-info"),
    )
)
"""Header fields that are true of one hop only (RFC 9110 7.6.1), and what older clients send beside them."""

CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"api-key", b"cookie"))
"""Header fields that show a client's own credential: it is for gatepass alone."""

MADE_ANEW = frozenset(
    (
        *(b"host", b"expect", b"content-type", b"content-length", b"content-encoding"),
        *(b"accept", b"accept-encoding", b"x-request-id"),
    )
)
"""Request fields that gatepass writes itself for the second hop."""

NEVER_RELAYED = (
    HOP_BY_HOP
    | CREDENTIALS
    | {
        *(b"content-length", b"content-encoding", b"content-type", b"cache-control", b"set-cookie", b"set-cookie2"),
        *(b"x-auth-token", b"x-amz-security-token", b"authentication-info", b"www-authenticate", b"x-csrf-token"),
        *(b"server", b"date", b"alt-svc", b"strict-transport-security", b"x-request-id", b"via", b"host"),
        *(b"location", b"content-location", b"refresh", b"x-sendfile", b"x-reproxy-url", b"x-lighttpd-send-file"),
        *(b"server-timing", b"clear-site-data", b"nel", b"report-to", b"content-security-policy"),
        *(b"content-security-policy-report-only",),
    }
)
"""Not even by `forward_response_headers`. gatepass writes content-type, cache-control and x-request-id itself.

A proxy in front of gatepass obeys x-sendfile and x-reproxy-url (as it does x-accel-*) and would read a file or a URL
for the upstream.
"""
NEVER_RELAYED_PREFIXES = (b"x-gatepass-", b"access-control-", b"x-accel-", b"public-key-pins", b"x-ms-token-")


def never_relayed(name: bytes) -> bool:
    """Whether a field called `name`, or all that begin so where it ends in `*`, may go down by no setting."""
    start = name.removesuffix(b"*")
    return not start or start.startswith(NEVER_RELAYED_PREFIXES) or name in NEVER_RELAYED


NEVER_UP = HOP_BY_HOP | CREDENTIALS | MADE_ANEW
"""Not even by `forward_headers`: the client's credentials are for gatepass alone, and the framing is ours."""
