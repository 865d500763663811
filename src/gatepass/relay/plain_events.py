"""Streams of chunks in their plainest form, for clients that look for the very bytes `data: ` and two line feeds."""

from __future__ import annotations

import re

from gatepass.relay.event import parse_event
from gatepass.relay.framing import split_comments, split_events

PLAIN = "sse=plain"

_PLAIN = re.compile(rb"(?:data: [^\r\n]++\n\n)++")


class PlainEvents:
    """Sends each event as one line `data: …` and one blank line, both ended by a line feed, and nothing else: no names,
    no ids, no comments. What is that already keeps its bytes.

    It stands behind the judge of a stream, and so is told JSON or `[DONE]` alone.
    """

    __slots__ = ("_has_changed",)

    def __init__(self) -> None:
        self._has_changed = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return (PLAIN,) if self._has_changed else ()

    def feed(self, block: bytes) -> bytes:
        if _PLAIN.fullmatch(block):
            return block
        self._has_changed = True
        run, _ = split_comments(block)
        return b"".join(map(_plain, split_events(run)))

    def finish(self) -> bytes:
        return b""


def _plain(block: bytes) -> bytes:
    """b"" for what has no data. A line break between lines of data is white space of the JSON: none may stand in one of
    its strings (RFC 8259, section 7)."""
    data = parse_event(block).data
    return b"" if data is None else b"data: %b\n\n" % data.replace(b"\n", b" ")
