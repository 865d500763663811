"""Chunks without choices, for clients that look into the first one without asking whether there is one."""

from __future__ import annotations

import re

from gatepass.relay.chunk import LEGACY, event
from gatepass.relay.event import parse_event, read_json
from gatepass.relay.short_lines import each_event
from gatepass.relay.sign import silent_choice

EMPTY_CHOICE = "repair=empty-choice"

_NONE = re.compile(rb'"choices"\s*+:\s*+\[\s*+\]')


class EmptyChoice:
    """Gives a chunk without choices, such as the last one with the usage, a choice that says nothing.

    To move the usage into the chunk before would hold that one, and its finish reason, back until the next is here.
    """

    __slots__ = ("_has_given",)

    def __init__(self) -> None:
        self._has_given = False

    @property
    def adapted(self) -> tuple[str, ...]:
        return (EMPTY_CHOICE,) if self._has_given else ()

    def feed(self, block: bytes) -> bytes:
        return each_event(block, self._given) if _NONE.search(block) else block

    def finish(self) -> bytes:
        return b""

    def _given(self, block: bytes) -> bytes:
        if not _NONE.search(block):
            return block
        try:
            said = read_json(parse_event(block).data or b"")
        except ValueError:
            return block
        if not isinstance(said, dict) or said.get("choices") != []:
            return block
        self._has_given = True
        return event({**said, "choices": [silent_choice(0, is_text=said.get("object") == LEGACY)]})
