"""Parser of client requests, based on httptools: limits of the head, Host, transfer coding and upgrades.

uvicorn's own protocol limits neither the number of header fields nor, with httptools, their size.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote

import httptools

from gatepass.errors import GatepassError, InvalidRequest, UnsupportedHead
from gatepass.http_client.message_head import HEAD_BYTES, MOST_FIELDS
from gatepass.http_client.response_body import add_piece, taken
from gatepass.protocols.operations import BY_PATH
from gatepass.server.cycle import HttpRequestCycle

if TYPE_CHECKING:
    from gatepass.server.connection import ClientConnection

_CHECKED_FIELDS = frozenset((b"host", b"expect", b"transfer-encoding", b"upgrade"))


class RequestParser:
    """Parses the input of one connection: a head if `in_head`, else the body of `cycle`. httptools calls `on_…`."""

    __slots__ = (
        *("in_head", "peer", "cycle", "_connection", "_expects_continue", "_fields", "_first_bytes"),
        *("_framing_bytes", "_head_bytes", "_host", "_hosts", "_is_chunked", "_parser", "_piece_bytes"),
        *("_pieces", "_error", "_is_head_held", "_offers_upgrade", "_received_head", "_target"),
    )

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._parser = self._new_parser()
        self.in_head = True
        self.peer = ""
        self.cycle: HttpRequestCycle | None = None
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._expects_continue = self._is_chunked = self._is_head_held = self._offers_upgrade = False
        self._host = b""
        self._hosts = self._piece_bytes = self._first_bytes = self._head_bytes = self._framing_bytes = 0
        self._error: GatepassError | None = None
        self._pieces: list[bytes | BytesIO] = []
        """The chunks in the piece of input. There may be thousands, and the cycle receives them at once."""
        self._received_head = b""
        """The first line of an incomplete head, or more. Empty if it began behind another request in the same piece."""

    @property
    def is_idle(self) -> bool:
        """Whether no part of an incomplete request has arrived."""
        return self.cycle is None and not (self.in_head and self._first_bytes)

    def feed(self, data: bytes) -> None:
        """Parse the next bytes of the connection; raise GatepassError if the input is not a valid request."""
        self._piece_bytes = len(data)
        if self.is_idle:
            self._received_head = data
        elif self._received_head and b"\n" not in self._received_head.lstrip(b"\r\n"):
            self._received_head += data
        if self.in_head:
            self._head_bytes += len(data)
        else:
            # trailer fields and chunk extensions have the limit of a head; `on_body` sets the count to 0
            self._framing_bytes += len(data)
        try:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                self._ignore_upgrade(memoryview(data)[offer.args[0] :])
        except httptools.HttpParserError as error:
            if self._pieces:
                self._pass_body()
            raise self._error or rejection_of(self._received_head, str(error)) from error
        if self._pieces:
            self._pass_body()
        # the buffered part of an incomplete request, once for each piece of input
        if self.in_head:
            if self._head_bytes > HEAD_BYTES:
                raise large_head()
            self._is_head_held = True
            self._connection.hold_head(self._first_bytes + self._head_bytes)
        if self.cycle is not None and self._is_chunked and not self.in_head and self._framing_bytes > HEAD_BYTES:
            raise UnsupportedHead(
                "head_too_large",
                f"The request's trailer fields or chunk extensions are larger than {HEAD_BYTES} bytes.",
            )

    def drop_head(self) -> None:
        """Hold nothing of a head that is refused. No input may follow."""
        self._parser, self._received_head, self._fields = self._new_parser(), b"", []

    def close(self) -> None:
        """End parsing. Break the reference cycles, so that the garbage collector has no work."""
        self.cycle = None
        del self._connection, self._parser

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # accept, and ignore, data after a request with `connection: close`
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _ignore_upgrade(self, rest: memoryview) -> None:
        """Ignore the Upgrade of the last head, and parse `rest`, the bytes after it, as HTTP/1.1.

        RFC 9110 7.8 allows a server to ignore Upgrade. Java's HTTP client sends h2c with every plain request.
        """
        # httptools treats all bytes after the head as the other protocol. So a new parser reads the head without
        # Upgrade, which begins the cycle, and then the rest.
        while True:
            method, version = self._parser.get_method(), self._parser.get_http_version().encode()
            if method == b"CONNECT":
                raise InvalidRequest("gatepass is not a forward proxy: it does not support CONNECT.")
            line = b"%b %b HTTP/%b" % (method, self._target, version)
            offers = [field for field in self._fields if field[0] == b"upgrade"]
            kept = [b": ".join(field) for field in self._fields if field not in offers]
            self._parser = self._new_parser()
            self._parser.feed_data(b"\r\n".join((line, *kept, b"")))
            self._fields += offers  # an error may name them
            self._parser.feed_data(b"\r\n")
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            else:
                return

    # called by httptools

    def on_message_begin(self) -> None:
        self.in_head, self._head_bytes, self._first_bytes = True, 0, self._piece_bytes
        self._target, self._fields, self._hosts = b"", [], 0
        self._expects_continue = self._is_chunked = self._offers_upgrade = False

    def on_url(self, url: bytes) -> None:
        self._target += url  # in several calls, if the request line arrives in several pieces

    def on_header(self, name: bytes, value: bytes) -> None:
        name, value = name.lower(), value.rstrip()  # httptools leaves the blanks that RFC 9112 5.1 excludes
        if name in _CHECKED_FIELDS:
            if name == b"host":
                self._hosts += 1
                # most requests of a connection have the same Host: check it once
                if (value != self._host or not value) and self.in_head:
                    if not is_host(value, self._target):
                        self._refuse(InvalidRequest(INVALID_HOST))
                    self._host = value
            elif name == b"expect":
                self._expects_continue = self._expects_continue or value.lower() == b"100-continue"
            elif name == b"upgrade":
                self._offers_upgrade = True
            elif value.lower() != b"chunked":
                self._refuse(unknown_coding())
            else:
                self._is_chunked, self._framing_bytes = True, 0
        self._fields.append((name, value))  # trailer fields too, only to count them: the cycle already has its headers
        if len(self._fields) > MOST_FIELDS:  # here, because one piece of input can hold thousands
            self._refuse(UnsupportedHead("head_too_large", f"The request has more than {MOST_FIELDS} header fields."))

    def on_headers_complete(self) -> None:
        if self._is_head_held:
            self._is_head_held = False
            self._connection.hold_head(0)
        if self._first_bytes + self._head_bytes > HEAD_BYTES:
            # what the client chooses: the pieces of input may have had a body before the head, or have one after it
            chosen_bytes = len(self._target) + sum(len(name) + len(value) for name, value in self._fields)
            if chosen_bytes > HEAD_BYTES:
                self._refuse(large_head())
        parser, target = self._parser, self._target
        if self._offers_upgrade and parser.should_upgrade():
            return  # see `_ignore_upgrade`
        head, self._received_head = self._received_head, b""
        has_usual_version = head.endswith(b" HTTP/1.1\r\n", 0, head.find(b"\n") + 1)  # nearly always
        version = "1.1" if has_usual_version else parser.get_http_version()
        is_plain = version == "1.1" and self._hosts == 1
        if not is_plain:
            # RFC 9110 15.6.6 and RFC 9112 3.2; httptools also accepts 0.9 and 2.0
            if version not in ("1.0", "1.1"):
                self._refuse(UnsupportedHead("unsupported_version", UNKNOWN_VERSION))
            if self._hosts > 1 or version == "1.1":
                found = f"{self._hosts} Host fields" if self._hosts else "no Host field"
                self._refuse(InvalidRequest(f"The request has {found}. Send exactly one (RFC 9112 section 3.2)."))
        try:
            path = _known_path(target) or path_of(target)
        except (httptools.HttpParserError, UnicodeDecodeError):
            self._refuse(InvalidRequest("This is not a valid HTTP/1.1 request: its target is not a path or a URL."))
        # RFC 9112 section 3.2.2 requires the host of an absolute target
        if not target.startswith(b"/") and (absolute := _ABSOLUTE.match(target)) is not None:
            host = absolute[1].rpartition(b"@")[2]
            if not is_host(host, target):
                self._refuse(InvalidRequest(INVALID_HOST))
            self._fields = [(b"host", host), *(field for field in self._fields if field[0] != b"host")]
        self.cycle = cycle = HttpRequestCycle(
            self._connection, parser.get_method().decode("ascii"), path, target, version, tuple(self._fields), self.peer
        )
        cycle.persists = is_plain and parser.should_keep_alive()  # an HTTP/1.0 connection always closes
        if self._expects_continue:
            cycle.expect()
        self.in_head = False
        self._connection.begin_cycle(cycle)

    def _refuse(self, error: GatepassError) -> NoReturn:
        """Stop the parser: `feed` raises `error`."""
        self._error = error
        raise httptools.HttpParserError(error.message)

    def on_body(self, body: bytes) -> None:
        if self._is_chunked:
            self._framing_bytes = 0
            add_piece(self._pieces, body)
        elif self.cycle is not None:
            self.cycle.feed(body)

    def _pass_body(self) -> None:
        body = taken(self._pieces)
        if self.cycle is not None:
            self.cycle.feed(body)

    def on_message_complete(self) -> None:
        if self._pieces:
            self._pass_body()
        cycle, self.cycle = self.cycle, None
        if cycle is not None:
            cycle.complete()


HOST_BYTES = 300
"""Maximum length of Host: more than any DNS name with a port."""
TLS_HANDSHAKE = b"\x16\x03"
"""The beginning of the first record of a TLS connection (RFC 8446, section 5.1)."""
UNKNOWN_VERSION = "The version in the request line is not HTTP/1.1 or HTTP/1.0."
INVALID_HOST = "The request's Host field is invalid. Send `host` or `host:port` (RFC 9112 section 3.2)."

_HOST = re.compile(
    rb"(?:\[(?:[0-9A-Fa-f:.]+(?:%[\w.~%-]+)?|[vV][0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+)\]"
    rb"|(?:[\w.~!$&'()*+,;=-]++|%[0-9A-Fa-f]{2})*+)(?::[0-9]*)?"
)
"""`uri-host [":" port]` (RFC 3986 3.2.2), with the zone of RFC 6874, also if its `%` is not escaped."""
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*+://([^/?#]*+)")
"""The beginning of a target in absolute form (RFC 3986 4.3), with its authority."""


_known_path = {path.encode(): path for path in BY_PATH}.get


def path_of(target: bytes) -> str:
    """Return the percent-decoded path of a request target; raise HttpParserError or UnicodeDecodeError."""
    if target.startswith(b"/") and target.find(b"#") < 0:
        path = target.partition(b"?")[0]
    else:
        path = httptools.parse_url(target).path or b"/"
    text = path.decode("ascii")
    return unquote(text) if "%" in text else text


def large_head() -> UnsupportedHead:
    return UnsupportedHead("head_too_large", f"The request's head is larger than {HEAD_BYTES} bytes.")


def is_host(value: bytes, target: bytes) -> bool:
    """Return whether `value` is a valid Host for `target`. Empty only if `target` has no host (RFC 9112 3.2)."""
    if not value:
        return target.startswith((b"/", b"*"))
    return len(value) <= HOST_BYTES and _HOST.fullmatch(value) is not None


def unknown_coding() -> UnsupportedHead:
    return UnsupportedHead(
        "unsupported_transfer_coding",
        "The request's Transfer-Encoding is not `chunked`. Send the body with a Content-Length, or as `chunked`.",
    )


def rejection_of(head: bytes, reason: str) -> GatepassError:
    """Return the error for a request that llhttp rejects. httptools reports most reasons only as text."""
    if head.startswith(TLS_HANDSHAKE):  # a client of https cannot read this text, but the log has it
        return InvalidRequest(
            "The client uses https, and gatepass serves http. Begin the client's base URL with http://."
        )
    if reason in ("Invalid HTTP version", "Pause on PRI/Upgrade"):
        return UnsupportedHead("unsupported_version", UNKNOWN_VERSION)
    if reason in ("Invalid `Transfer-Encoding` header value", "Empty Transfer-Encoding"):
        return unknown_coding()
    return InvalidRequest(f"This is not a valid HTTP/1.1 request: {reason}.")
