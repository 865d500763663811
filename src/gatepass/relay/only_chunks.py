"""Streams of chunks and nothing else, for clients that look for choices in all that comes."""

from __future__ import annotations

import re

from gatepass.relay.event import parse_event, read_json, single_line_data
from gatepass.relay.short_lines import each_event

NO_CHUNK = "sse=no-chunk"

_CHOICES = re.compile(rb'"choices"\s*+:')


class OnlyChunks:
    """Leaves out events that have no `choices`, but for errors: to fail at one is right.

    It stands behind the repair, which gives chunks their choices. An event with a member of that name, at whatever
    depth, passes unread: in a text its quotes would be escaped.
    """

    __slots__ = ("_has_cut",)

    def __init__(self) -> None:
        self._has_cut = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return (NO_CHUNK,) if self._has_cut else ()

    def feed(self, block: bytes) -> bytes:
        if _CHOICES.search(block) and single_line_data(block) is not None:
            return block
        return each_event(block, self._kept)

    def finish(self) -> bytes:
        return b""

    def _kept(self, block: bytes) -> bytes:
        if _CHOICES.search(block) or not _is_foreign(parse_event(block).data):
            return block
        self._has_cut = True
        return b""


def _is_foreign(data: bytes | None) -> bool:
    """Whether this is JSON, and neither a chunk nor an error."""
    try:
        said = read_json(data or b"")
    except ValueError:  # [DONE], a comment
        return False
    return not (isinstance(said, dict) and ("choices" in said or said.get("error") or said.get("object") == "error"))
