"""What a key may use of an MCP server, and replies without the rest: whole ones and streams.

Replies are filtered by their shape. The request is not known in a stream that repeats earlier replies
(`Last-Event-ID`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import translate
from functools import lru_cache
from itertools import compress
from types import MappingProxyType
from typing import Literal
from unicodedata import normalize
from urllib.parse import unquote

import msgspec

from gatepass.config.access import AccessKey
from gatepass.errors import UpstreamInvalid
from gatepass.json_scan import BOM, MemberName, folded, has_more_values, quoted
from gatepass.sse import event

Kind = Literal["tools", "prompts", "resources"]

_STEPS = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\?#;]|$)|[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufffd]")
"""A step of a path, also before parameters, and characters that are not shown. Parsers of URLs remove some control
characters, which then join two dots. U+FFFD stands for bytes that are not UTF-8, such as an overlong dot."""
MOST_LAYERS = 3
"""Percent-encoding in several layers that is decoded to find `..`."""
LAYER_CHARS = 32
"""What decoding a layer costs of MOST_WORK, in addition to the characters of the next one."""
LONGEST_URI_CHARS = 8192
"""Of the name or the URI in a request of a key with lists, and in a list that it is shown."""
PIECE_CHARS, LONGEST_PIECE_CHARS = 32, 128
"""A name is normalized in pieces, because the time is quadratic in the marks that follow each other. One character may
become 18: a name with a piece that becomes longer matches no glob."""
MOST_BYTES, MOST_VALUES = 12 * 1024 * 1024, 100_000
"""Bounds of one message to a key with lists: its size, and its commas and brackets."""
MOST_WORK = 400_000
"""What else one message may cost together, so that it is filtered in 50 ms: a character of an entry's name 1 (80 ns),
also in each layer and normal form that is searched, and four backslashes 1."""
MEMBER_WORK, ENTRY_WORK = 8, 20
"""The cost of a member that is read, in addition to its name's characters, and of a result, a list or an entry."""
MOST_EVENT_BYTES = 4 * 1024 * 1024
"""Of an event, because it is filtered on the event loop. A whole reply above 32 KiB is filtered in a thread."""
_KEPT_LINE = re.compile(rb"data[:\r\n]|(?:(?:|event|id|retry):[ -~]*+)?[\r\n]")
"""A line of an event to a key with lists: data, an empty line, or a comment or another field in ASCII."""
_OTHER_LINE_ENDS = {
    **dict.fromkeys((b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e"), b" "),
    **{end.encode(): b"\\u%04x" % ord(end) for end in "\x85\u2028\u2029"},
}
"""Clients that split a stream with `str.splitlines` find a message after one of these, which JSON may write as here."""
LONGEST_MEMBER = 32
TURN_BYTES, TURN_LINES = 64 * 1024, 512
"""Events of at most this size together, or one larger event, are filtered before the event loop must run."""


class McpAllowed(msgspec.Struct, frozen=True, gc=False):
    """The tools, prompts and resources (globs) of one server that a key may use. None: all."""

    tools: tuple[str, ...] | None = None
    prompts: tuple[str, ...] | None = None
    resources: tuple[str, ...] | None = None

    @property
    def is_limited(self) -> bool:
        return not (self.tools is None and self.prompts is None and self.resources is None)

    def _listed(self, kind: Kind) -> tuple[str, ...] | None:
        return self.tools if kind == "tools" else self.prompts if kind == "prompts" else self.resources

    def is_open(self, kind: Kind) -> bool:
        return self._listed(kind) is None

    def allows(self, kind: Kind, name: str, spend: Callable[[int], None] = lambda _: None) -> bool:
        """Whether the key may use `name`. The name of a resource is its URI, or its template.

        `spend` receives the cost of each layer and normal form that is searched for `..`, and may raise.
        """
        listed = self._listed(kind)
        if listed is None or name in listed:
            return True
        # docs/../secret is not below docs/
        return len(name) <= LONGEST_URI_CHARS and not _climbs(name, spend) and _any_of(listed).match(name) is not None


ALL = McpAllowed()


@lru_cache
def _any_of(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, globs)) or r"(?!)")


def allowed_of(key: AccessKey, server: str) -> McpAllowed | None:
    """Return what `key` may use of `server`; None if it may not use the server.

    A key without `mcp` may use every server, unless it has `models` or `operations`. Of a server with one list, kinds
    without a list are closed.
    """
    if key.role == "viewer":
        return None
    if key.mcp is None:
        return ALL if key.models is None and key.operations is None else None
    if server not in key.mcp:
        return None
    lists = key.mcp[server]
    given = (lists.tools, lists.prompts, lists.resources)
    if given == (None, None, None):
        return ALL
    return McpAllowed(*(tuple(names or ()) for names in given))


def refusal_of(key: AccessKey) -> str:
    """Return why `key` may not use a server, as a clause."""
    if key.role == "viewer":
        return "because its role is viewer"
    if key.mcp is None:
        limits = " and ".join(f"`{name}`" for name in ("models", "operations") if getattr(key, name) is not None)
        return f"because it has {limits} and no `mcp`"
    return "because its `mcp` does not list it"


def _climbs(uri: str, spend: Callable[[int], None]) -> bool:
    """Whether a server may find another resource than the text of `uri` says, because it has `..`."""
    for _ in range(MOST_LAYERS):
        plain = ""
        for at in () if uri.isascii() else range(0, len(uri), PIECE_CHARS):
            piece = normalize("NFKC", uri[at : at + PIECE_CHARS])  # a full-width dot becomes a dot
            spend(len(piece))
            if len(piece) > LONGEST_PIECE_CHARS:
                return True
            plain += piece
        if _STEPS.search(plain or uri):
            return True
        uri, before = unquote(uri), uri
        if uri == before:
            return False
        spend(LAYER_CHARS + len(uri))
    return True


_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder()
_UNREADABLE_ERRORS = (ValueError, RecursionError)
_LISTS: Mapping[str, tuple[Kind, str]] = MappingProxyType(
    {
        "tools": ("tools", "name"),
        "prompts": ("prompts", "name"),
        "resources": ("resources", "uri"),
        "resourcetemplates": ("resources", "uritemplate"),
    }
)
"""Members of a result that list something, with the member of an entry that has its name. In lower case, because some
clients ignore case."""
_CACHED = ("cachescope", "ttlms", "resulttype")
"""Members of a list since the revision of 2026-07-28, in lower case."""
_PRIVATE = b'"private"'


def filter_reply(body: bytes, allowed: McpAllowed, upstream: str) -> bytes:
    """Return a JSON-RPC message with only the tools, prompts and resources that are allowed.

    Returns `body` itself if nothing is left out. A shortened list with a `cacheScope` is `private`: a cache must not
    give it to another key. Raises UpstreamInvalid if `body` is not one object in JSON, or exceeds a bound.
    """
    try:
        return _filtered(body, allowed)
    except _UNREADABLE_ERRORS:
        raise UpstreamInvalid(
            f"The MCP server {upstream} sent a reply that is not one message in JSON, or too large a one, so gatepass"
            " cannot apply the lists of this key.",
            upstream=upstream,
        ) from None


def _filtered(body: bytes, allowed: McpAllowed) -> bytes:
    if len(body) > MOST_BYTES or has_more_values(body, MOST_VALUES):
        raise ValueError("too large")
    shown = _Filter(allowed).message(body)
    return body if shown is None else shown


class _Filter:
    """Filters one message, within its bounds. Raises ValueError beyond them, and the errors of msgspec."""

    def __init__(self, allowed: McpAllowed) -> None:
        self._allowed = allowed
        self._work_left = MOST_WORK
        self._object = msgspec.json.Decoder(dict[MemberName, msgspec.Raw], dec_hook=self._name)

    def _name(self, _: type, text: str) -> MemberName:
        self._spend(MEMBER_WORK + len(text))
        return MemberName(text)

    def message(self, body: bytes) -> bytes | None:
        self._spend(body.count(b"\\") // 4)
        message, is_changed = self._object.decode(body), False
        for name, value in message.items():
            if _lower(name) == "result" and (shown := self._result(value)) is not None:
                message[name], is_changed = msgspec.Raw(shown), True
        return _encoded(message) if is_changed else None

    def _result(self, value: msgspec.Raw) -> bytes | None:
        if bytes(memoryview(value)[:1]) != b"{":
            return None
        self._spend(ENTRY_WORK)
        result = self._object.decode(value)
        is_changed = has_list = False
        for name, listed in result.items():
            kind, key = _LISTS.get(_lower(name), (None, ""))
            if kind is None or self._allowed.is_open(kind):
                continue
            has_list = True
            is_array = bytes(memoryview(listed)[:1]) == b"["
            entries = _LIST.decode(listed) if is_array else []
            self._spend(ENTRY_WORK * (1 + len(entries)))
            shown = [entry for entry in entries if self._shows(entry, kind, key)]
            if len(shown) < len(entries) or not is_array:
                is_changed = True
                result[name] = msgspec.Raw(msgspec.json.encode(shown))
        if has_list and any(_lower(name) in _CACHED for name in result):
            scopes = {name: value for name, value in result.items() if _lower(name) == _CACHED[0]}
            if [(name.text, bytes(value)) for name, value in scopes.items()] != [("cacheScope", _PRIVATE)]:
                is_changed = True
                result = {name: value for name, value in result.items() if name not in scopes}
                result[MemberName("cacheScope")] = msgspec.Raw(_PRIVATE)
        return _encoded(result) if is_changed else None

    def _shows(self, entry: msgspec.Raw, kind: Kind, key: str) -> bool:
        """Whether an entry of a list may be shown: every spelling of its name is allowed, and it has one to four."""
        if bytes(memoryview(entry)[:1]) != b"{":
            return False
        values = [value for name, value in self._object.decode(entry).items() if _lower(name) == key]
        self._spend(sum(memoryview(value).nbytes for value in values))
        if not 1 <= len(values) <= 4:
            return False
        names = map(_ANY.decode, values)
        return all(isinstance(name, str) and self._allowed.allows(kind, name, self._spend) for name in names)

    def _spend(self, work: int) -> None:
        self._work_left -= work
        if self._work_left < 0:
            raise ValueError("too much work")


def _encoded(members: Mapping[MemberName, msgspec.Raw]) -> bytes:
    return b"{%b}" % b",".join(b"%b:%b" % (quoted(name.text), value) for name, value in members.items())


def _lower(name: MemberName) -> str:
    """Return the name as parsers that ignore case compare it; "" for one that is longer than all that are searched."""
    return folded(name.text) if len(name.text) <= LONGEST_MEMBER else ""


class FilteredEvents:
    """A stream whose messages are filtered as `filter_reply` does it, without lines that a client may read as others.

    `limit_bytes`, at most MOST_EVENT_BYTES, bounds an event, and so the memory of this object. Raises UpstreamInvalid
    for a larger event, for data that is not JSON, and for a message that exceeds a bound.
    """

    __slots__ = ("_allowed", "_beginning", "_framer", "_upstream", "waiting")

    def __init__(self, allowed: McpAllowed, limit_bytes: int, upstream: str) -> None:
        self._allowed, self._upstream = allowed, upstream
        self._framer = event.Framer(min(limit_bytes, MOST_EVENT_BYTES))
        self._beginning: bytes | None = b""
        """The first bytes, while they may be a byte order mark, which clients remove."""
        self.waiting = b""
        """Whole events for later turns. The caller lets the event loop run, and then calls `feed` without a piece."""

    @property
    def unfinished_bytes(self) -> int:
        """The size of the event that has not arrived completely, and of those in `waiting`."""
        return len(self._framer.unfinished) + len(self.waiting)

    def feed(self, piece: bytes = b"") -> bytes:
        """Return the events that `piece` completes, filtered, but not more than may pass in one turn."""
        if self._beginning is not None:
            piece = self._beginning + piece
            if len(piece) < len(BOM) and BOM.startswith(piece):
                self._beginning = piece
                return b""
            self._beginning, piece = None, piece.removeprefix(BOM)
        run, self.waiting = self.waiting + self._framer.feed(piece), b""
        if self._framer.large:
            run += self._framer.take_large()
        if b"data" in run:  # blank lines and comments pass at memory speed
            end = len(run)
            if piece and end > event.LARGE_EVENT_BYTES:
                end = 0  # an event of many MiB is joined in one turn, and filtered in the next
            elif end > TURN_BYTES or event.count_lines(run) > TURN_LINES:
                part = run[: event.first_events_within(run, TURN_BYTES)]
                end = event.first_events(part, TURN_LINES) or event.first_event(run)
            run, self.waiting = run[:end], run[end:]
            run = b"".join(map(self._event, event.split_events(run) if end <= TURN_BYTES else (run,)))
        if self._framer.overflowed and not self.waiting:
            raise self._invalid("sent an event that is larger than 4 MiB, or limits.event_bytes")
        return run

    def _event(self, block: bytes) -> bytes:
        for end, written in _OTHER_LINE_ENDS.items():
            block = block.replace(end, written)
        lines = block.splitlines(keepends=True)  # 0.8 ns a byte; a pattern takes 5
        if len(lines) > event.MOST_LINES:
            raise self._invalid("sent an event with too many lines")
        lines = list(filter(_KEPT_LINE.match, lines))
        block = b"".join(lines)
        is_data = [line.startswith(b"data") and line[4:5] in b":\r\n" for line in lines]
        text = b"\n".join(line[5:].removeprefix(b" ").rstrip(b"\r\n") for line in compress(lines, is_data))
        if not text.strip(b" \t\r\n"):  # the first event of a resumable stream has no data
            return block
        try:
            shown = _filtered(text, self._allowed)
        except _UNREADABLE_ERRORS:
            # clients read no message from an event with another name
            if event.parse_event(
                b"".join(line for line, of_data in zip(lines, is_data, strict=True) if not of_data)
            ).name not in (b"", b"message"):
                return block
            raise self._invalid("sent an event that is not one message in JSON, or too large a one") from None
        if shown is text:
            return block
        first = is_data.index(True)
        end = lines[first][len(lines[first].rstrip(b"\r\n")) :]
        # an entry keeps the line breaks of its JSON
        lines[first] = b"".join(b"data: " + line + end for line in shown.splitlines())
        return b"".join(line for at, line in enumerate(lines) if at == first or not is_data[at])

    def _invalid(self, fault: str) -> UpstreamInvalid:
        return UpstreamInvalid(
            f"The MCP server {self._upstream} {fault}, so gatepass cannot apply the lists of this key.",
            upstream=self._upstream,
        )
