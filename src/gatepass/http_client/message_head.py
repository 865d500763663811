"""Heads of HTTP/1.1 messages: encode those of requests, check those of replies. Without I/O."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gatepass.errors import Fault, TransportFault
from gatepass.types import Headers, OutboundRequest

HEAD_BYTES, MOST_FIELDS = 64 * 1024, 100
"""The largest head of a request or a reply. The standard library's http.client allows as many fields."""

_PORTS = {"http": 80, "https": 443}
_BODIED = frozenset(("POST", "PUT", "PATCH"))
_FRAMING = frozenset((b"host", b"content-length", b"transfer-encoding"))


@dataclass(frozen=True, slots=True)
class Destination:
    """The parts of a URL that a request needs: server, request target, and the proxy in between."""

    secure: bool
    host: str
    port: int
    authority: bytes
    target: bytes = field(repr=False)
    """May hold the token in its query."""
    proxy: ProxyServer | None = None

    @property
    def host_and_port(self) -> bytes:
        """The server as CONNECT names it: always with its port."""
        return b"%b:%d" % (_bracketed(self.host).encode(), self.port)


@dataclass(frozen=True, slots=True)
class ProxyServer:
    """An HTTP proxy: its address, and the value of `proxy-authorization` if it requires one."""

    destination: Destination
    authorization: bytes | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str, user_and_password: str | None) -> ProxyServer:
        """Parse `url`. Raises TransportFault INVALID if it is not an http or https URL."""
        if user_and_password is None:
            return cls(destination_of(url))
        colon = "" if ":" in user_and_password else ":"
        return cls(destination_of(url), b"Basic " + base64.b64encode(f"{user_and_password}{colon}".encode()))

    def mask(self, text: str) -> str:
        if self.authorization is None:
            return text
        encoded = self.authorization.removeprefix(b"Basic ")
        for secret in (encoded.decode(), base64.b64decode(encoded).decode().partition(":")[2]):
            text = text.replace(secret, "***") if secret else text
        return text


WITHOUT_BASIC = "it offers no Basic, only "


def schemes_text(challenges: Collection[bytes]) -> str:
    """Return what a proxy that answered 407 offers, as the end of a detail; "" if it offers Basic."""
    schemes = [value.decode("latin-1").split(" ")[0] for value in challenges if value.strip()]
    has_basic = any(re.search(rb"(?i)(?:\A|,)\s*basic\b", value) for value in challenges)
    return "" if has_basic or not schemes else f"; {WITHOUT_BASIC}{', '.join(schemes)}"


def destination_of(url: str, proxy: ProxyServer | None = None) -> Destination:
    """Return the destination of `url` through `proxy`; raise TransportFault INVALID, unsent, for a wrong URL."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or any(not 0x20 < ord(char) < 0x7F for char in url):
        raise TransportFault(Fault.INVALID, "the URL is not a valid http or https URL", sent=False)
    host = _bracketed(parts.hostname)
    port = parts.port or _PORTS[parts.scheme]
    authority = host if port == _PORTS[parts.scheme] else f"{host}:{port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    secure = parts.scheme == "https"
    if proxy is not None and not secure:
        target = f"http://{host}:{port}{target}"  # a proxy needs the absolute URL (RFC 9112 3.2.2)
    return Destination(secure, parts.hostname, port, authority.encode(), target.encode(), proxy)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def request_head(request: OutboundRequest, destination: Destination) -> bytes:
    """Encode the head with its empty line: the header fields of `request` and those that HTTP/1.1 requires.

    Raises TransportFault INVALID, unsent, if a field contains a line break, or frames the body: this function adds it.
    """
    headers = request.headers
    framing = [name for name, _ in headers if name in _FRAMING]  # takes half as long as a dict of the fields
    if framing and framing != [b"host"]:
        raise TransportFault(Fault.INVALID, "the request contains content-length or transfer-encoding", sent=False)
    fields = [*headers] if framing else [(b"host", destination.authority), *headers]
    if request.body or request.method in _BODIED:
        fields.append((b"content-length", str(len(request.body)).encode()))
    if destination.proxy is not None and destination.proxy.authorization is not None and not destination.secure:
        fields.append((b"proxy-authorization", destination.proxy.authorization))
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), destination.target), *map(b": ".join, fields)]
    if has_line_break(lines):  # the rest of such a field would be another field, or another request
        raise TransportFault(Fault.INVALID, "a header field of the request contains a line break", sent=False)
    lines += (b"", b"")
    return b"\r\n".join(lines)


def has_line_break(lines: Iterable[bytes]) -> bool:
    joined = b"".join(lines)
    return 10 in joined or 13 in joined or 0 in joined


_END = re.compile(rb"\r?\n\r?\n")
HEAD_BEGINS = re.compile(rb"HTTP/1\.[01] [1-9]\d\d[^\n]*\n")
_INTERIM = re.compile(rb"(?:HTTP/1\.1 1(?!01)\d\d[^\n]*+\n(?:[^\r\n][^\n]*+\n)*+\r?\n)*+")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?=:)")
_CONTROLS = bytes(32 if byte == 127 or (byte < 32 and byte not in b"\t\n") else byte for byte in range(256))


def mended_head(received: bytes) -> bytes:
    """Return `received` with its head as RFC 9110 and 9112 let a recipient read it, b"" if it is not complete.

    A folded line is joined (9112 5.2), a control character becomes a space (9110 5.5), equal lengths become one
    (9110 8.6), and chunks override a length (9112 6.3). Interim replies are left out. Raises ValueError for an invalid
    name.
    """
    received = _INTERIM.sub(b"", received, count=1)
    end = _END.search(received)
    if end is None:
        return b""
    status, _, head = received[: end.start()].translate(_CONTROLS).partition(b"\n")
    by_name: dict[bytes, list[bytes]] = {}
    for line in re.sub(rb"\n[ \t]+", b" ", head).split(b"\n") if head else ():
        name = _NAME.match(line)
        if name is None:
            raise ValueError(f"its header {line.partition(b':')[0][:60].decode('latin-1')!r} has no valid name")
        by_name.setdefault(name[0].lower(), []).append(line[name.end() + 1 :].strip())
    lengths = {length.strip() for value in by_name.pop(b"content-length", []) for length in value.split(b",")}
    if b"transfer-encoding" not in by_name and lengths:
        by_name[b"content-length"] = [*lengths]  # the parser refuses two
    fields = [b"%b: %b" % (name, value) for name, values in by_name.items() for value in values]
    return b"\r\n".join((status.strip(), *fields, b"", received[end.end() :]))


def head_error(headers: Headers, by_name: Mapping[bytes, bytes]) -> str | None:
    """Return the fault of a head that the parser accepted, or None. `by_name` is `dict(headers)`."""
    if len(headers) > MOST_FIELDS:
        return f"it has more than {MOST_FIELDS} header fields"
    if b"transfer-encoding" not in by_name:
        return None
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    return None if codings == [b"chunked"] else "its transfer-encoding is not just `chunked`"
