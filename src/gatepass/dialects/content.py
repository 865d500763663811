"""What the bytes of a body are, whatever its content type claims: a page, events, JSON.

What a reply of status 200 really is, by its first bytes.

The label is often wrong: streams come as application/json or text/plain, JSON as text/event-stream,
login pages as either. So the first bytes decide, and the content type only where they tell nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from enum import StrEnum
from typing import Any

import msgspec

from gatepass.dialects import error_body
from gatepass.json_scan import JsonScanner, ScannedBody, json_value
from gatepass.types import Headers

BLANKS = b" \t\r\n"
BOM = b"\xef\xbb\xbf"
WHOLE_BYTES = 256 * 1024
"""A larger document is no mere error: only MEMBERS of it are read, and of them the small ones."""
LENIENT_BYTES = 1024 * 1024
LENIENT_BRACKETS = 100_000
"""The largest document that is read as Python reads it, which takes 40 ms."""
MEMBER_BYTES = 64 * 1024

_TAG = re.compile(rb"<(?:!|[a-z][a-z0-9]*[\s>/])")
_TITLE = re.compile(r"<title[^<>]{0,200}>([^<]{0,2000})</title", re.IGNORECASE)
_BLANK_BODY = re.compile(rb"(?:\xef\xbb\xbf)?+[ \t\r\n]*+")
_OBJECTS = re.compile(rb"\[[ \t\r\n]*\{")
FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")

MEMBERS = ("choices", "data", *error_body.MEMBERS)
"""All that errors and successes are told by."""

CHOICE = ("message", "text", "delta", "error", "finish_reason")
"""All that a choice is judged by."""


def _unread(name: str, members: Iterable[str]) -> type[msgspec.Struct]:
    """An object of which only `members` are found, and none of them read."""
    return msgspec.defstruct(name, [(member, msgspec.Raw, msgspec.Raw()) for member in members])


_ENVELOPE: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_unread("Envelope", MEMBERS))

_CHOICES: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    msgspec.defstruct(
        "Choices", [("first", _unread("Choice", CHOICE)), ("second", msgspec.Raw, msgspec.Raw())], array_like=True
    )
)
"""Of a list the first two: what is behind them is stepped over, and millions of them take no memory."""

_TOP: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])


def content_type(headers: Headers) -> str:
    """The media type in lower case without parameters; of two headers the one that says event stream.

    RAGFlow sends two of them.
    """
    kinds = [
        value.split(b";")[0].strip().lower().decode("latin-1") for name, value in headers if name == b"content-type"
    ]
    return "text/event-stream" if "text/event-stream" in kinds else next(iter(kinds), "")


def first_bytes(body: bytes) -> bytes:
    """The first bytes that mean something: after a byte order mark and blanks."""
    return body[:WHOLE_BYTES].removeprefix(BOM).lstrip(BLANKS)[:1024]


def is_blank(body: bytes) -> bool:
    return _BLANK_BODY.fullmatch(body) is not None


def is_html(headers: Headers, body: bytes) -> bool:
    """Whether `body` is a page. JSON labelled text/html (a habit of small forwarders) is none, and
    neither is XML or DashScope's `<400> InternalError…`."""
    start, kind = first_bytes(body).lower(), content_type(headers)
    if start[:1] in (b"{", b"["):
        return False
    if b"<html" in start or b"<!doctype html" in start:
        return True
    if start.startswith(b"<?xml") or "xml" in kind:
        return False
    return _TAG.match(start) is not None or (kind == "text/html" and b"<" in start)


def title_of(page: str) -> str | None:
    found = _TITLE.search(page)
    return found[1] if found and found[1].strip() else None


def is_event_stream(headers: Headers, body: bytes) -> bool:
    """Whether `body` is a stream of events: by its first bytes, whatever the content type, or else by that.

    A JSON document or a page is none even where the content type says so.
    """
    start = first_bytes(body)
    if start.startswith(FIELDS):
        return True
    return content_type(headers) == "text/event-stream" and start[:1] not in (b"{", b"[", b"<", b"")


def parse(body: bytes) -> Any:
    """The JSON document in `body`; raises ValueError where it is none.

    A byte order mark before it is ignored, and what strict JSON forbids but Python writes (NaN, a
    lone surrogate) is read as Python reads it, up to LENIENT_BYTES. Bytes that are not UTF-8 are
    replaced. Of a document beyond WHOLE_BYTES only MEMBERS are
    read, and one larger than MEMBER_BYTES becomes a token value of its kind: memory is bounded. Of such
    `choices` the first is read in the same way.
    """
    if type(body) is ScannedBody:
        return _parse_scanned(body)
    body = body.removeprefix(BOM)
    try:
        return json_value(body) if len(body) <= WHOLE_BYTES else _parse_large(body)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except ValueError as strict:
        return _parse_leniently(body, strict)


def _parse_large(body: bytes) -> dict[str, Any]:
    found = _ENVELOPE.decode(body)
    document, choices = _held(found, MEMBERS), memoryview(found.choices)
    if choices.nbytes > MEMBER_BYTES and _has_objects(choices):
        listed = _CHOICES.decode(choices)
        first = _held(listed.first, CHOICE)
        document["choices"] = [first, {}] if memoryview(listed.second).nbytes else [first]
    return document


def _parse_scanned(body: ScannedBody) -> dict[str, Any]:
    walk, view = JsonScanner(body), memoryview(body)
    spans = {member.name: member for member in walk.members()}
    document = _held({name: view[spans[name].value : spans[name].end] for name in MEMBERS if name in spans}, MEMBERS)
    choices = spans.get("choices")
    if choices is not None and choices.end - choices.value > MEMBER_BYTES and _has_objects(view[choices.value :]):
        elements = walk.elements(choices.value)
        start, _ = next(elements)
        said = {member.name: view[member.value : member.end] for member in walk.members(start)}
        document["choices"] = [_held(said, CHOICE), {}] if next(elements, None) is not None else [_held(said, CHOICE)]
    return document


def _held(found: Any, members: Iterable[str]) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for name in members:
        raw = found.get(name, memoryview(b"")) if isinstance(found, dict) else memoryview(getattr(found, name))
        if raw.nbytes > MEMBER_BYTES:
            token_values: dict[bytes, Any] = {b"[": [{} if _has_objects(raw) else None], b"{": {"message": "…"}}
            held[name] = token_values.get(bytes(raw[:1]), "…")
        elif raw.nbytes:
            held[name] = json_value(bytes(raw))
    return held


def _parse_leniently(body: bytes, strict: ValueError) -> Any:
    if len(body) > WHOLE_BYTES and (b"NaN" in body or b"Infinity" in body):  # outside the texts that are read
        with suppress(ValueError, RecursionError):
            return _parse_large(body.replace(b"NaN", b"0.0").replace(b"Infinity", b"0.000000"))
    if len(body) > LENIENT_BYTES or body.count(b"[") + body.count(b"{") > LENIENT_BRACKETS:
        raise strict
    try:
        return json.loads(body.decode(errors="replace"))  # a reply with a damaged text is relayed as it came
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except ValueError:
        raise strict from None


def member(body: bytes, name: str) -> bytes | None:
    """The value of the top-level member `name` of a JSON object, byte for byte; None where there is none."""
    try:
        found = _TOP.decode(body.removeprefix(BOM)).get(name)
    except (ValueError, RecursionError):
        return None
    return None if found is None else bytes(found)


def _has_objects(raw: memoryview) -> bool:
    """Whether `raw` is a list that begins with an object."""
    return _OBJECTS.match(raw) is not None


def first_event(body: bytes) -> bytes | None:
    """The data of the first event that has any, in a body that is events: `data: {"error": …}`."""
    for line in body[:WHOLE_BYTES].removeprefix(BOM).splitlines():
        if line.startswith(b"data:") and (data := line[5:].strip()):
            return data
    return None


MAX_BLANK_BYTES = 1024
"""So much white space may come first: DeepSeek sends empty lines to keep a connection up before it
answers with JSON (its rate limit page)."""

_BOM = b"\xef\xbb\xbf"
_FIELD = re.compile(rb":|(?:data|event|id|retry)[:\r\n]")
_FIELD_NAMES = (b"data", b"event", b"id", b"retry")


class ContentKind(StrEnum):
    """DOCUMENT is what a parser of JSON is to judge; HTML any markup."""

    UNDECIDED = "undecided"
    STREAM = "stream"
    DOCUMENT = "document"
    HTML = "html"


class ContentSniffer:
    """Takes pieces until they tell what the body is. `held` is all that was taken: it is read on from
    there, and is the very piece where the first one decided."""

    __slots__ = ("_label", "held", "kind")

    def __init__(self, content_type: bytes | None) -> None:
        self.held = b""
        self.kind = ContentKind.UNDECIDED
        self._label = _kind_of_label(content_type)

    def feed(self, piece: bytes) -> ContentKind:
        """UNDECIDED asks for more; at most `MAX_BLANK_BYTES` and one piece are ever held for that."""
        self.held += piece
        if self.kind is ContentKind.UNDECIDED:
            self.kind = _decide(self.held) or self._label
        return self.kind


def _decide(head: bytes) -> ContentKind | None:
    """None: the label decides."""
    start = _start(head)
    if not start:
        return ContentKind.UNDECIDED if len(head) <= MAX_BLANK_BYTES else None
    if start[:1] in (b"{", b"["):
        return ContentKind.DOCUMENT
    if start[:1] == b"<":
        return ContentKind.HTML
    if _FIELD.match(start):
        return ContentKind.STREAM
    may_become_field = any(name.startswith(start) for name in _FIELD_NAMES)
    return ContentKind.UNDECIDED if may_become_field or _BOM.startswith(start) else None


def _start(head: bytes) -> bytes:
    return head[: MAX_BLANK_BYTES + 16].removeprefix(_BOM).lstrip()


def _kind_of_label(content_type: bytes | None) -> ContentKind:
    media_type = (content_type or b"").partition(b";")[0].strip().lower()
    if media_type == b"text/event-stream":
        return ContentKind.STREAM
    return ContentKind.HTML if media_type in (b"text/html", b"application/xhtml+xml") else ContentKind.DOCUMENT
