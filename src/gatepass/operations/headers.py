"""Which request headers of a client may leave gatepass at all."""

from __future__ import annotations

from gatepass.errors import UnsupportedEncoding
from gatepass.lexicon import CREDENTIALS, HOP_BY_HOP
from gatepass.types import KEEPS_ALIVE, Headers, named_by_connection

FRAMING = frozenset((b"host", b"content-length", b"content-encoding", b"accept-encoding", b"expect"))
"""True of the first hop's message only; the second hop gets its own."""

UNDERSCORE = ord("_")
"""A number, because searching a name for `b"_"` takes 0.2 µs more (CPython 3.11): 1 % of a small chat in all."""

_NEVER = CREDENTIALS | FRAMING | HOP_BY_HOP
_TELLING = frozenset((b"connection", b"content-encoding"))
"""Of `_NEVER`, the ones whose value has a say here."""


def safe_headers(headers: Headers, *, is_read: bool = False) -> Headers:
    """`headers` without those that must not go upstream, whatever a configuration says.

    Gone are the lists above, what `Connection` names, and names with `_`, which CGI-like servers
    read as `-` (so that `x_api_key` would pass for `x-api-key`). What is left is what an upstream's
    allow-list and its `forward_headers` choose from. `is_read`: the body is, so raises what `check_encoding` does.

    In one pass: three of them were 2 % of a small chat.
    """
    safe: list[tuple[bytes, bytes]] = []
    telling: list[tuple[bytes, bytes]] = []
    for field in headers:
        name = field[0]
        if name in _NEVER:
            if name in _TELLING and field != KEEPS_ALIVE:
                telling.append(field)
        elif UNDERSCORE not in name:
            safe.append(field)
    if telling:
        if is_read:
            check_encoding(tuple(telling))
        named = named_by_connection(telling)
        safe = [field for field in safe if field[0] not in named]
    return tuple(safe)


def check_encoding(headers: Headers) -> None:
    """Raises UnsupportedEncoding for a compressed body: rules read it, and nothing bounds what it unfolds to."""
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            shown = value.decode("latin-1")[:40]
            raise UnsupportedEncoding(f"A request body with content-encoding {shown!r} is not read; send it plain.")
