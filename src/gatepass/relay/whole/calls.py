"""The tool calls of a whole reply as clients can read them: each with an id, a type, and text for arguments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gatepass.jsontext import Edit
from gatepass.relay.chunk import Origin, text_of_id
from gatepass.relay.event import read_json
from gatepass.relay.repair.tools import Note
from gatepass.relay.repair.wishes import TOOL_ARGUMENTS, TOOL_ID, TOOL_NAME, TOOL_TYPE
from gatepass.relay.synthesis import argument_text
from gatepass.relay.whole.fields import Fields

_ARGUMENTS = {"function": "arguments", "custom": "input"}


def calls_of(message: Fields) -> list[Fields]:
    """The entries of `tool_calls` that call something: an empty one does not."""
    return [
        call for call in message.objects("tool_calls") if "type" in call or any(kind in call for kind in _ARGUMENTS)
    ]


def function_of(message: Fields) -> Fields | None:
    """The one function of old that `message` calls; an object without a name calls none."""
    function = message.object("function_call")
    return function if function is not None and function.value("name") else None


def call_edits(calls: list[Fields], origin: Origin, note: Note) -> Iterator[Edit]:
    """The edits that mend the tool calls of one choice; `note` is told what was wrong.

    Each entry is one call, unlike a stream's: two that look alike are two.
    """
    ids: set[str] = set()
    for call in calls:
        _identify(call, ids, origin, note)
        kind = _kind_of(call)
        if call.value("type") != kind:
            call.put("type", kind)
            note(TOOL_TYPE)
        yield from call.edits()
        if kind in _ARGUMENTS:
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
        function.put(arguments, _as_text(function, arguments, told))
        note(TOOL_ARGUMENTS)
    yield from function.edits()


def _as_text(function: Fields, name: str, told: Any) -> str:
    """What the member `name` says, as text, in the form that a stream of it has; as it came where numbers stand there
    that only Python reads: the tool would be called with others."""
    text = argument_text(told)
    return text if told is None or read_json(text.encode()) == told else function.text(name)


def _kind_of(call: Fields) -> str:
    """The type of a call by what it holds, else its own word: there may be kinds that we do not know."""
    held = next((kind for kind in ("custom", "function") if call.object(kind) is not None), None)
    said = call.value("type")
    return held or (said if said and isinstance(said, str) else "function")


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
