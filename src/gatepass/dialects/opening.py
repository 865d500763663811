"""What a reply of status 200 really is, by its first bytes.

The label is often wrong: streams come as application/json or text/plain, JSON as text/event-stream,
login pages as either. So the first bytes decide, and the content type only where they tell nothing.
"""

from __future__ import annotations

import re
from enum import StrEnum

MAX_BLANK_BYTES = 1024
"""So much white space may come first: DeepSeek sends empty lines to keep a connection up before it
answers with JSON (its rate limit page)."""

_BOM = b"\xef\xbb\xbf"
_FIELD = re.compile(rb":|(?:data|event|id|retry)[:\r\n]")
_FIELD_NAMES = (b"data", b"event", b"id", b"retry")


class Kind(StrEnum):
    """DOCUMENT is what a parser of JSON is to judge; HTML any markup."""

    UNDECIDED = "undecided"
    STREAM = "stream"
    DOCUMENT = "document"
    HTML = "html"


class Opening:
    """Takes pieces until they tell what the body is. `held` is all that was taken: it is read on from
    there, and is the very piece where the first one decided."""

    __slots__ = ("_label", "held", "kind")

    def __init__(self, content_type: bytes | None) -> None:
        self.held = b""
        self.kind = Kind.UNDECIDED
        self._label = _kind_of_label(content_type)

    def feed(self, piece: bytes) -> Kind:
        """UNDECIDED asks for more; at most `MAX_BLANK_BYTES` and one piece are ever held for that."""
        self.held += piece
        if self.kind is Kind.UNDECIDED:
            self.kind = _decide(self.held) or self._label
        return self.kind


def _decide(head: bytes) -> Kind | None:
    """None: the label decides."""
    start = _start(head)
    if not start:
        return Kind.UNDECIDED if len(head) <= MAX_BLANK_BYTES else None
    if start[:1] in (b"{", b"["):
        return Kind.DOCUMENT
    if start[:1] == b"<":
        return Kind.HTML
    if _FIELD.match(start):
        return Kind.STREAM
    may_become_field = any(name.startswith(start) for name in _FIELD_NAMES)
    return Kind.UNDECIDED if may_become_field or _BOM.startswith(start) else None


def _start(head: bytes) -> bytes:
    return head[: MAX_BLANK_BYTES + 16].removeprefix(_BOM).lstrip()


def _kind_of_label(content_type: bytes | None) -> Kind:
    media_type = (content_type or b"").partition(b";")[0].strip().lower()
    if media_type == b"text/event-stream":
        return Kind.STREAM
    return Kind.HTML if media_type in (b"text/html", b"application/xhtml+xml") else Kind.DOCUMENT
