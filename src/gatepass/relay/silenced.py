"""Streams without comments, for clients whose parsers stumble over them."""

from __future__ import annotations

import re

from gatepass.relay.framing import split_comments, split_events

COMMENTS = "sse=comments"

_COMMENT = re.compile(rb"(?<![^\r\n]):[^\r\n]*+(?>\r\n?|\n)")
_MARKS = (b"\n:", b"\r:")


class WithoutComments:
    """Leaves out comment lines, and the blank line of a block that is nothing else.

    What Dify and Continue throw away with a comment is the event next to it (see config/profiles.py).
    """

    __slots__ = ("_has_cut",)

    def __init__(self) -> None:
        self._has_cut = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return (COMMENTS,) if self._has_cut else ()

    def feed(self, block: bytes) -> bytes:
        """A run without a line that begins with a colon is the same object: no line of JSON does."""
        if not block.startswith(b":") and block.find(_MARKS[0]) < 0 and block.find(_MARKS[1]) < 0:
            return block
        self._has_cut = True
        run, _ = split_comments(block)
        return b"".join(map(_cut, split_events(run)))

    def finish(self) -> bytes:
        return b""


def _cut(event: bytes) -> bytes:
    kept = _COMMENT.sub(b"", event)
    return b"" if len(kept) < len(event) and not kept.strip(b"\r\n") else kept
