"""The head of a client's request: how large it may be, and what it names. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

import httptools

from gatepass.errors import GatepassError, HeadTooLarge, InvalidRequest, UnsupportedTransferCoding, UnsupportedVersion

HEADER_FIELDS = 100
HEAD_BYTES = 64 * 1024
HOST_BYTES = 300
"""No name of DNS with a port is longer."""

_HOST = re.compile(
    rb"(?:\[(?:[0-9A-Fa-f:.]+(?:%[\w.~%-]+)?|[vV][0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+)\]"
    rb"|(?:[\w.~!$&'()*+,;=-]++|%[0-9A-Fa-f]{2})*+)(?::[0-9]*)?"
)
"""`uri-host [":" port]` of RFC 3986 3.2.2, and the zone of RFC 6874 also with its `%` unescaped."""


def path_of(target: bytes) -> str:
    """The path that `target` names, its percent-escapes decoded.

    Raises httptools.HttpParserError or UnicodeDecodeError where it names none.
    """
    if target.startswith(b"/") and target.find(b"#") < 0:
        path = target.partition(b"?")[0]
    else:
        path = httptools.parse_url(target).path or b"/"
    text = path.decode("ascii")
    return unquote(text) if "%" in text else text


def head_of(method: str, target: bytes, version: str, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head that says this, with its empty line."""
    line = b"%b %b HTTP/%b" % (method.encode(), target, version.encode())
    return b"\r\n".join((line, *map(b": ".join, fields), b"", b""))


def size_bytes(target: bytes, fields: Iterable[tuple[bytes, bytes]]) -> int:
    """What of a head is the client's choice: its target, the names and values of its fields."""
    return len(target) + sum(len(name) + len(value) for name, value in fields)


def large_head() -> HeadTooLarge:
    return HeadTooLarge(f"The request's head is larger than {HEAD_BYTES} bytes.")


def many_fields() -> HeadTooLarge:
    return HeadTooLarge(f"The request has more than {HEADER_FIELDS} header fields.")


def large_framing() -> HeadTooLarge:
    return HeadTooLarge(f"The request's trailer fields or chunk extensions are larger than {HEAD_BYTES} bytes.")


def host_missing(count: int) -> InvalidRequest:
    found = "no Host field" if count == 0 else f"{count} Host fields"
    return InvalidRequest(f"The request has {found}. Send exactly one (RFC 9112 section 3.2).")


def is_host(value: bytes, target: bytes) -> bool:
    """Whether `value` is a right Host field for `target`: empty only where `target` names no host (RFC 9112 3.2)."""
    if not value:
        return target.startswith((b"/", b"*"))
    return len(value) <= HOST_BYTES and _HOST.fullmatch(value) is not None


def host_invalid() -> InvalidRequest:
    return InvalidRequest("The request's Host field is invalid. Send `host` or `host:port` (RFC 9112 section 3.2).")


def unknown_coding() -> UnsupportedTransferCoding:
    return UnsupportedTransferCoding(
        "The request's Transfer-Encoding is not `chunked`. Send the body with a Content-Length, or as `chunked`."
    )


def unknown_version() -> UnsupportedVersion:
    return UnsupportedVersion("The request line does not say HTTP/1.1 or HTTP/1.0.")


def refused_by_parser(reason: str) -> GatepassError:
    """Return the error for what llhttp rejects. httptools tells most kinds apart by their text alone."""
    if reason in ("Invalid HTTP version", "Pause on PRI/Upgrade"):
        return unknown_version()
    if reason in ("Invalid `Transfer-Encoding` header value", "Empty Transfer-Encoding"):
        return unknown_coding()
    return InvalidRequest(f"This is not a valid HTTP/1.1 request: {reason}.")
