"""The tool calls of a whole reply as clients can read them: each with an id, a type, and text for arguments."""

from __future__ import annotations

from collections.abc import Iterator

from gatepass.jsontext import Edit
from gatepass.relay.chunk import Origin, text_of_id
from gatepass.relay.repair.tools import Note
from gatepass.relay.repair.wishes import TOOL_ARGUMENTS, TOOL_ID, TOOL_NAME, TOOL_TYPE
from gatepass.relay.synthesis import argument_text
from gatepass.relay.whole.fields import Fields

_ARGUMENTS = {"function": "arguments", "custom": "input"}


def call_edits(calls: list[Fields], origin: Origin, note: Note) -> Iterator[Edit]:
    """The edits that mend the tool calls of one choice; `note` is told what was wrong.

    Each entry is one call, unlike a stream's: two that look alike are two.
    """
    ids: set[str] = set()
    for call in calls:
        _identify(call, ids, origin, note)
        kind = "custom" if call.object("custom") is not None else "function"
        if call.value("type") != kind:
            call.put("type", kind)
            note(TOOL_TYPE)
        yield from call.edits()
        yield from function_edits(call.object(kind), note, _ARGUMENTS[kind])


def function_edits(function: Fields | None, note: Note, arguments: str = "arguments") -> Iterator[Edit]:
    """The edits that mend the name of what is called, and what it is called with: the member `arguments`."""
    if function is None:
        return
    if not isinstance(function.value("name"), str):
        function.put("name", "")
        note(TOOL_NAME)
    told = function.value(arguments)
    if not isinstance(told, str):
        function.put(arguments, argument_text(told))
        note(TOOL_ARGUMENTS)
    yield from function.edits()


def _identify(call: Fields, ids: set[str], origin: Origin, note: Note) -> None:
    """Give `call` an id as text that none of `ids` is, and add it to them."""
    told = call.value("id")
    known = text_of_id(told)
    if not known or known in ids:
        known = origin.new_id("call_")
    if known != told:
        call.put("id", known)
        note(TOOL_ID)
    ids.add(known)
