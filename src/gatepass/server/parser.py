"""The requests in the bytes of a client, by httptools: heads within their bounds, and what becomes of bodies.

uvicorn's own protocol bounds neither the number of header fields nor, with httptools, their size.

The head of a client's request: how large it may be, and what it names. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NoReturn, Protocol
from urllib.parse import unquote

import httptools

from gatepass.errors import GatepassError, HeadTooLarge, InvalidRequest, UnsupportedTransferCoding, UnsupportedVersion
from gatepass.server.cycle import CycleConnection, HttpRequestCycle

_READ_HERE = frozenset((b"host", b"expect", b"transfer-encoding"))


class ParserConnection(CycleConnection, Protocol):
    """The connection, as much of it as its reader may know."""

    def begin_cycle(self, cycle: HttpRequestCycle) -> None:
        """The head of `cycle` is whole."""
        ...

    def last_cycle(self) -> HttpRequestCycle:
        """The turn that was taken last, in the same moment: nobody has begun to serve it."""
        ...


class RequestParser:
    """httptools calls the methods that begin with `on_`; none of them ever waits.

    `in_head`: the head of a request has begun, or the first one is awaited. `cycle`: whose body is not whole yet.
    """

    __slots__ = (
        *("in_head", "peer", "cycle", "_desk", "_expects", "_fields", "_first_bytes", "_framing_bytes", "_head_bytes"),
        *("_host", "_hosts", "_is_chunked", "_parser", "_piece_bytes", "_refusal", "_take", "_target"),
    )

    def __init__(self, desk: ParserConnection) -> None:
        self._desk = desk
        self._take = desk.begin_cycle
        self._parser = self._begin()
        self.in_head = True
        self.peer = ""
        self.cycle: HttpRequestCycle | None = None
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._expects = self._is_chunked = False
        self._host = b""
        self._hosts = self._piece_bytes = self._first_bytes = self._head_bytes = self._framing_bytes = 0
        self._refusal: GatepassError | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a request is here that is not whole."""
        return self.cycle is None and not (self.in_head and self._first_bytes)

    def feed(self, data: bytes) -> None:
        """Parse the next bytes of the connection. Raise a GatepassError if no request can be read any more.

        Trailer fields and chunk extensions have the bound of a head: the bytes since the last byte of the body count.
        """
        self._piece_bytes = len(data)
        if self.in_head:
            self._head_bytes += len(data)
        else:
            self._framing_bytes += len(data)  # `on_body` sets it back
        try:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                self._decline(memoryview(data)[offer.args[0] :])
        except httptools.HttpParserError as error:
            raise self._refusal or refused_by_parser(str(error)) from error
        if self.in_head or self.cycle is not None:
            self._check_bounds()

    def _check_bounds(self) -> None:
        """Bound what is held of a request that is not whole; called once for each piece."""
        if len(self._fields) > HEADER_FIELDS:
            raise many_fields()
        if self.in_head and self._head_bytes > HEAD_BYTES:
            raise large_head()
        if self._is_chunked and not self.in_head and self._framing_bytes > HEAD_BYTES:
            raise large_framing()

    def close(self) -> None:
        """Nothing more is fed, and who holds this object in turn is let go: no cycle waits for the collector."""
        self.cycle = None
        del self._desk, self._parser, self._take

    def _begin(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # what comes behind is passed over
        return parser

    def _decline(self, rest: memoryview) -> None:
        """Read on as if the last head had not offered another protocol: `rest` is what came behind it.

        RFC 9110 7.8 lets a server ignore the offer. The parser takes what follows for that protocol's: so another one
        is told the same head without it. Java's HTTP client offers h2c with every plain request.
        """
        while True:
            cycle = self._desk.last_cycle()
            if cycle.method == "CONNECT":
                raise InvalidRequest("gatepass is no proxy: it opens no tunnel.")
            fields = (field for field in cycle.headers if field[0] != b"upgrade")
            self._parser, self._take = self._begin(), _let_go
            self._parser.feed_data(head_of(cycle.method, cycle.target, cycle.version, fields))
            self._take = self._desk.begin_cycle
            if self.cycle is not None:
                self.cycle = cycle
                cycle.reopen()
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            else:
                return

    # httptools calls these

    def on_message_begin(self) -> None:
        self.in_head, self._head_bytes, self._first_bytes = True, 0, self._piece_bytes
        self._target, self._fields, self._hosts = b"", [], 0
        self._expects = self._is_chunked = False

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _READ_HERE:
            if name == b"host":
                self._hosts += 1
                if (value != self._host or not value) and self.in_head:  # a connection mostly says the same again
                    self._check_host(value)
            elif name == b"expect":
                self._expects = self._expects or value.lower() == b"100-continue"
            elif value.lower() != b"chunked":
                self._refuse(unknown_coding())
            else:
                self._is_chunked, self._framing_bytes = True, 0
        self._fields.append((name, value))  # trailer fields too, which only count: the turn has those of its head

    def on_headers_complete(self) -> None:
        if len(self._fields) > HEADER_FIELDS:
            self._refuse(many_fields())
        if self._first_bytes + self._head_bytes > HEAD_BYTES and size_bytes(self._target, self._fields) > HEAD_BYTES:
            self._refuse(large_head())
        parser, target = self._parser, self._target
        version = parser.get_http_version()
        is_plain = version == "1.1" and self._hosts == 1
        if not is_plain:
            self._check_version(version)
        self.cycle = cycle = HttpRequestCycle(
            self._desk,
            parser.get_method().decode("ascii"),
            path_of(target),
            target,
            version,
            tuple(self._fields),
            self.peer,
        )
        cycle.persists = is_plain and parser.should_keep_alive()  # HTTP/1.0 persists on no connection
        if self._expects:
            cycle.expect()
        self.in_head = False
        self._take(cycle)

    def _check_version(self, version: str) -> None:
        """RFC 9110 15.6.6 and RFC 9112 3.2. The parser also accepts 0.9 and 2.0."""
        if version not in ("1.0", "1.1"):
            self._refuse(unknown_version())
        if self._hosts > 1 or version == "1.1":
            self._refuse(host_missing(self._hosts))

    def _check_host(self, value: bytes) -> None:
        if not is_host(value, self._target):
            self._refuse(host_invalid())
        self._host = value

    def _refuse(self, error: GatepassError) -> NoReturn:
        """Stop the parser: `feed` raises `error`."""
        self._refusal = error
        raise httptools.HttpParserError(error.message)

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        if self.cycle is not None:
            self.cycle.feed(body)

    def on_message_complete(self) -> None:
        if self._is_chunked and len(self._fields) > HEADER_FIELDS:
            self._refuse(many_fields())
        cycle, self.cycle = self.cycle, None
        if cycle is not None:
            cycle.complete()


def _let_go(cycle: HttpRequestCycle) -> None:
    """A head that is told to a parser once more is no other request."""


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
