"""Tool deltas as clients can read them: each with its index, ids and names once, arguments as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gatepass.relay.calls import KEY_CHARS, Calls, Piece
from gatepass.relay.chunk import Object, Origin, json_text
from gatepass.relay.repair.wishes import TOOL_ARGUMENTS, TOOL_ID, TOOL_INDEX, TOOL_NAME, TOOL_TYPE

Note = Callable[[str], None]


class ToolRepair:
    """The tool deltas of one choice."""

    __slots__ = ("_calls", "_named", "_origin")

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._calls = Calls()
        self._named: set[int] = set()

    def mend(self, entries: list[Any], note: Note) -> None:
        """Mend the entries of one delta in place, and tell `note` what was wrong with them."""
        for piece in self._calls.place(entries):
            said, number = piece.said, piece.call.number
            if said.get("index") != number or type(said["index"]) is not int:
                said["index"] = number
                note(TOOL_INDEX)
            if piece.opens:
                self._open(piece, note)
            elif said.get("id"):
                del said["id"]
                note(TOOL_ID)
            inner = said.get("function")
            if isinstance(inner, dict):
                self._mend_function(inner, number, note)

    def _open(self, piece: Piece, note: Note) -> None:
        said, call = piece.said, piece.call
        if not call.id:
            call.id = self._origin.new_id("call_")
        if said.get("id") != call.id:
            said["id"] = call.id
            note(TOOL_ID)
        call.id = call.id[:KEY_CHARS]
        if not said.get("type"):
            said["type"] = "custom" if isinstance(said.get("custom"), dict) else "function"
            note(TOOL_TYPE)

    def _mend_function(self, inner: Object, number: int, note: Note) -> None:
        if inner.get("name"):
            if number in self._named:
                del inner["name"]
                note(TOOL_NAME)
            self._named.add(number)
        arguments = inner.get("arguments")
        if arguments is not None and not isinstance(arguments, str):
            inner["arguments"] = json_text(arguments).decode()
            note(TOOL_ARGUMENTS)
