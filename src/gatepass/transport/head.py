"""The head of a message: what one of ours says, and what one of theirs may say. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from gatepass.call import Headers, Request
from gatepass.errors import Fault, TransportFault

HEAD_BYTES = 64 * 1024
"""The largest head of a reply, interim replies before it included."""

FIELDS = 100
"""The most header fields in a reply, as many as http.client of the standard library takes."""

_PORTS = {"http": 80, "https": 443}
_BODIED = frozenset(("POST", "PUT", "PATCH"))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL leads: the server to connect to, and what to ask it for."""

    secure: bool
    host: str
    port: int
    authority: bytes
    target: bytes


def place_of(url: str) -> Place:
    """Raises TransportFault INVALID, unsent, where `url` is none that could be asked for."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or any(not 0x20 < ord(char) < 0x7F for char in url):
        raise TransportFault(Fault.INVALID, "the URL is no plain http or https one", sent=False)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = parts.port or _PORTS[parts.scheme]
    authority = host if port == _PORTS[parts.scheme] else f"{host}:{port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(parts.scheme == "https", parts.hostname, port, authority.encode(), target.encode())


def request_fields(request: Request, place: Place) -> list[tuple[bytes, bytes]]:
    """The header fields of `request` with those that HTTP/1.1 asks for.

    Raises TransportFault INVALID, unsent, where a field frames the body (that is done here) or could
    end its own line: a value with a line break in it would be a second field, or a second request.
    """
    headers = request.headers
    names = dict(headers)
    if b"content-length" in names or b"transfer-encoding" in names:
        raise TransportFault(Fault.INVALID, "the request frames its own body", sent=False)
    fields = [*headers] if b"host" in names else [(b"host", place.authority), *headers]
    if request.upload is not None:
        size = request.upload.length_bytes
        framing = (b"transfer-encoding", b"chunked") if size is None else (b"content-length", b"%d" % size)
        fields.append(framing)
    elif request.body or request.method in _BODIED:
        fields.append((b"content-length", b"%d" % len(request.body)))
    return fields


def request_head(request: Request, place: Place) -> bytes:
    """The bytes of the head, its empty line included. Raises as `request_fields` does."""
    lines = [
        b"%b %b HTTP/1.1" % (request.method.encode(), place.target),
        *map(b": ".join, request_fields(request, place)),
    ]
    if has_line_break(lines):
        raise TransportFault(Fault.INVALID, "a header field of the request holds a line break", sent=False)
    lines += (b"", b"")
    return b"\r\n".join(lines)


def has_line_break(lines: Iterable[bytes]) -> bool:
    """Whether one of `lines` would end itself. They are joined for it: to find none of three bytes in one piece takes
    an eighth of the time in which CPython 3.11 counts the line breaks that there should be."""
    joined = b"".join(lines)
    return 10 in joined or 13 in joined or 0 in joined


def objection(headers: Headers, named: Mapping[bytes, bytes]) -> str | None:
    """What is wrong with the head of a reply that a parser let pass; `named` is `dict(headers)`.

    A length beside a transfer coding, or a coding that is not `chunked` alone: two readers of such a
    message can differ on where it ends (RFC 9112 6.3).
    """
    if len(headers) > FIELDS:
        return f"it has more than {FIELDS} header fields"
    if b"transfer-encoding" not in named:
        return None
    if b"content-length" in named:
        return "it has a content-length and a transfer-encoding"
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    return None if codings == [b"chunked"] else "its transfer-encoding is not chunked alone"
