"""The header fields of a request to an MCP server. Those of its replies are `dialects.base.ResponseHeaders`."""

from __future__ import annotations

from collections.abc import Collection

from gatepass.dialects.base import forwarded
from gatepass.errors import InvalidRequest
from gatepass.types import Headers, header, named_by_connection

_OF_MCP = frozenset((b"accept", b"last-event-id"))
_BOTH: Headers = ((b"accept", b"application/json, text/event-stream"),)
_STREAM: Headers = ((b"accept", b"text/event-stream"),)
_JSON: Headers = ((b"content-type", b"application/json"),)
_IDENTITY = (b"accept-encoding", b"identity")  # compression would delay the events of a stream


def request_headers(headers: Headers, forward_headers: Collection[str] = (), method: str = "POST") -> Headers:
    """Return the fields of a client's request that the MCP server receives.

    They are all `mcp-*`, `accept`, `last-event-id`, those of every operation, and `forward_headers`. The content type
    is always JSON: Express decodes a body by its `charset`, and so could read another message than gatepass did.
    Neither a credential, a cookie, `origin` nor a field that `connection` names is among them. Raises InvalidRequest if
    one of MCP, such as the session, is sent twice: gatepass and the server could read different ones.
    """
    named = named_by_connection(headers)
    sent = tuple([field for field in headers if field[0] not in named])
    # `_` could become `-` at a proxy behind gatepass, and the field another one that gatepass compared with the body
    own = [field for field in sent if field[0] in _OF_MCP or (field[0].startswith(b"mcp-") and b"_" not in field[0])]
    single = [field[0] for field in own if field[0] != b"accept"]
    if len(set(single)) < len(single):
        twice = next(name for name in single if single.count(name) > 1)
        raise InvalidRequest(f"The header {twice.decode('latin-1')[:100]} appears twice. Send it once.")
    missing: Headers = ()
    if header(sent, b"accept") is None:
        missing += _STREAM if method == "GET" else _BOTH
    if method == "POST":
        missing += _JSON
    return (*forwarded(sent, forward_headers), *own, *missing, _IDENTITY)
