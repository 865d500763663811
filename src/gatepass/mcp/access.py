"""What a key may use of an MCP server, and replies without the rest: whole ones and streams.

Replies are filtered by their shape. The request is not known in a stream that repeats earlier replies
(`Last-Event-ID`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal
from unicodedata import normalize
from urllib.parse import unquote

import msgspec

from gatepass.config.access import AccessKey
from gatepass.errors import UpstreamInvalid
from gatepass.json_scan import BOM, folded
from gatepass.sse.event import Framer, has_too_many_lines, parse_event, split_events

Kind = Literal["tools", "prompts", "resources"]

_STEPS = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\?#;]|$)|[\x00-\x1f\x7f\ufffd]")
"""A step of a path, also before parameters. Parsers of URLs remove some control characters, which then join two dots.
U+FFFD stands for bytes that are not UTF-8, such as an overlong dot."""
MOST_ESCAPES = 3
"""Percent-encoding in several layers that is decoded to find `..`."""
MOST_ENTRIES = 10_000
"""Entries of one list in a reply. To check these takes 20 ms."""


class McpAllowed(msgspec.Struct, frozen=True, gc=False):
    """The tools, prompts and resources (globs) of one server that a key may use. None: all."""

    tools: tuple[str, ...] | None = None
    prompts: tuple[str, ...] | None = None
    resources: tuple[str, ...] | None = None

    @property
    def is_limited(self) -> bool:
        """Whether requests must be checked and replies filtered."""
        return not (self.tools is None and self.prompts is None and self.resources is None)

    def allows(self, kind: Kind, name: str) -> bool:
        """Whether the key may use `name`. The name of a resource is its URI, or its template."""
        listed = self.tools if kind == "tools" else self.prompts if kind == "prompts" else self.resources
        if listed is None or name in listed:
            return True
        if kind == "resources" and _climbs(name):  # docs/../secret is not below docs/
            return False
        return any(fnmatchcase(name, glob) for glob in listed)


ALL = McpAllowed()


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


def _climbs(uri: str) -> bool:
    """Whether a server may find another resource than the text of `uri` says, because it has `..`."""
    for _ in range(MOST_ESCAPES):
        if _STEPS.search(normalize("NFKC", uri)):  # a full-width dot becomes a dot
            return True
        uri, before = unquote(uri), uri
        if uri == before:
            return False
    return True


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
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
_CACHED = ("cacheScope", "ttlMs", "resultType")
"""Members of a list since the revision of 2026-07-28."""
_PRIVATE = msgspec.Raw(b'"private"')


def filter_reply(body: bytes, allowed: McpAllowed, upstream: str) -> bytes:
    """Return a JSON-RPC message with only the tools, prompts and resources that are allowed.

    Returns `body` itself if nothing is left out. A shortened list with a `cacheScope` is `private`: a cache must not
    give it to another key. Raises UpstreamInvalid if `body` is not JSON, or lists more than MOST_ENTRIES.
    """
    try:
        return _filtered(body, allowed)
    except _UNREADABLE_ERRORS:
        raise UpstreamInvalid(
            f"The MCP server {upstream} sent a reply that is not JSON or too large a list, so gatepass cannot apply the"
            " lists of this key.",
            upstream=upstream,
        ) from None


def _filtered(body: bytes, allowed: McpAllowed) -> bytes:
    if body.lstrip(b" \t\n\r")[:1] == b"[":  # a batch, which the revision of 2025-03-26 allows
        messages = _LIST.decode(body)
        shown = [_filtered(bytes(message), allowed) for message in messages]
        is_changed = any(new != bytes(old) for new, old in zip(shown, messages, strict=True))
        return msgspec.json.encode([msgspec.Raw(message) for message in shown]) if is_changed else body
    message = _OBJECT.decode(body)
    results = {name: _result(value, allowed) for name, value in message.items() if folded(name) == "result"}
    changed = {name: msgspec.Raw(value) for name, value in results.items() if value is not None}
    return msgspec.json.encode({**message, **changed}) if changed else body


def _result(value: msgspec.Raw, allowed: McpAllowed) -> bytes | None:
    """Return a filtered result; None if it is unchanged."""
    if bytes(memoryview(value)[:1]) != b"{":
        return None
    result = _OBJECT.decode(value)
    is_changed = has_list = False
    for name, listed in list(result.items()):
        kind, key = _LISTS.get(folded(name), (None, ""))
        if kind is None or _is_open(kind, allowed):
            continue
        has_list = True
        is_array = bytes(memoryview(listed)[:1]) == b"["
        entries = _LIST.decode(listed) if is_array else []
        if len(entries) > MOST_ENTRIES:
            raise ValueError("too many entries")
        shown = [entry for entry in entries if _shows(entry, kind, key, allowed)]
        if len(shown) < len(entries) or not is_array:
            is_changed = True
            result[name] = msgspec.Raw(msgspec.json.encode(shown))
    if has_list and any(name in result for name in _CACHED) and result.get("cacheScope") != _PRIVATE:
        is_changed = True
        result["cacheScope"] = _PRIVATE
    return msgspec.json.encode(result) if is_changed else None


def _is_open(kind: Kind, allowed: McpAllowed) -> bool:
    return (allowed.tools if kind == "tools" else allowed.prompts if kind == "prompts" else allowed.resources) is None


def _shows(entry: msgspec.Raw, kind: Kind, key: str, allowed: McpAllowed) -> bool:
    """Whether an entry of a list may be shown: every spelling of its name is allowed."""
    try:
        names = [_TEXT.decode(value) for name, value in _OBJECT.decode(entry).items() if folded(name) == key]
    except _UNREADABLE_ERRORS:
        return False
    return bool(names) and all(allowed.allows(kind, name) for name in names)


_FIELD = re.compile(rb"([^\r\n]*+)(\r\n?|\n)")


class FilteredEvents:
    """A stream whose messages are filtered as `filter_reply` does it. Other bytes of the stream stay unchanged.

    `limit_bytes` bounds an event, and so the memory of this object. Raises UpstreamInvalid for a larger event and for
    data that is not JSON.
    """

    __slots__ = ("_allowed", "_beginning", "_framer", "_upstream")

    def __init__(self, allowed: McpAllowed, limit_bytes: int, upstream: str) -> None:
        self._allowed, self._upstream = allowed, upstream
        self._framer = Framer(limit_bytes)
        self._beginning: bytes | None = b""
        """The first bytes, while they may be a byte order mark, which clients remove."""

    @property
    def unfinished_bytes(self) -> int:
        """The size of the event that has not arrived completely."""
        return self._framer.tail_bytes

    def feed(self, piece: bytes) -> bytes:
        """Return the events that `piece` completes, filtered."""
        if self._beginning is not None:
            piece = self._beginning + piece
            if len(piece) < len(BOM) and BOM.startswith(piece):
                self._beginning = piece
                return b""
            self._beginning, piece = None, piece.removeprefix(BOM)
        run = self._framer.feed(piece)
        if self._framer.large:
            run = self._framer.take_large() + run
        if self._framer.overflowed:
            raise self._invalid("sent an event that is larger than limits.event_bytes")
        return b"".join(map(self._event, split_events(run))) if run else b""

    def finish(self) -> bytes:
        """Return what remains at the end of the stream: b"", because clients ignore an event without a blank line."""
        return b""

    def _event(self, block: bytes) -> bytes:
        if has_too_many_lines(block):
            raise self._invalid("sent an event with too many lines")
        event = parse_event(block)
        if not event.data or not event.data.strip(b" \t\r\n"):  # the first event of a resumable stream has no data
            return block
        try:
            data = _filtered(event.data, self._allowed)
        except _UNREADABLE_ERRORS:
            if event.name not in (b"", b"message"):  # clients read no message from it
                return block
            raise self._invalid("sent an event that is not JSON or has too large a list") from None
        return block if data is event.data else _with_data(block, data)

    def _invalid(self, fault: str) -> UpstreamInvalid:
        return UpstreamInvalid(
            f"The MCP server {self._upstream} {fault}, so gatepass cannot apply the lists of this key.",
            upstream=self._upstream,
        )


def _with_data(block: bytes, data: bytes) -> bytes:
    """Return the event with `data` in the place of its first data line."""
    lines: list[bytes] = []
    is_written = False
    for found in _FIELD.finditer(block):
        if found[1].partition(b":")[0] != b"data":
            lines.append(found[0])
        elif not is_written:
            is_written = True
            # an entry keeps the line breaks of its JSON
            lines += [b"data: " + line + found[2] for line in re.split(rb"\r\n?|\n", data)]
    return b"".join(lines)
