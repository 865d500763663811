"""Why a whole reply ended, for clients that run its tool calls only where it says so."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gatepass.errors import InvalidRequest
from gatepass.jsontext import Edit, Member, Walk, edited
from gatepass.relay.repair.wishes import FINISH

_CALLS = re.compile(rb'"tool_calls"\s*+:\s*+\[\s*+\{')
_STOP, _TOOL_CALLS = b'"stop"', b'"tool_calls"'


def mended_finish(body: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The completion `body`, which is JSON that was judged, with `tool_calls` in the place of the finish reason `stop`
    of each choice that calls tools, as streams have it; and what was repaired. The same object where nothing was.

    Loops of agents end at `stop` (anomalyco/opencode#14972, #20719). A reply without calls costs one search.
    """
    if body.find(_TOOL_CALLS) < 0 or body.find(_STOP) < 0 or _CALLS.search(body) is None:
        return body, ()
    try:
        edits = list(_edits(Walk(body)))
    except (InvalidRequest, ValueError, IndexError):
        return body, ()  # made of too many small values, or JSON that only its judge reads
    return (edited(body, edits), (FINISH,)) if edits else (body, ())


def _edits(walk: Walk) -> Iterator[Edit]:
    start = len(walk.text) - len(walk.text.lstrip())  # DeepSeek sends empty lines before a reply that takes time
    choices = _member(walk, "choices", start)
    if choices is None or walk.text[choices.value] != ord("["):
        return
    for at, _ in walk.elements(choices.value):
        reason = _member(walk, "finish_reason", at)
        if reason is not None and walk.text[reason.value : reason.end] == _STOP and _calls_tools(walk, at):
            yield Edit(reason.value, reason.end, (_TOOL_CALLS,))


def _calls_tools(walk: Walk, choice: int) -> bool:
    message = _member(walk, "message", choice)
    calls = None if message is None else _member(walk, "tool_calls", message.value)
    return calls is not None and _CALLS.match(walk.text, calls.start) is not None


def _member(walk: Walk, name: str, at: int) -> Member | None:
    """The member of the value at `at`, None where that is no object or has none; of several the last one counts."""
    if walk.text[at] != ord("{"):
        return None
    found = [member for member in walk.members(at) if member.name == name]
    return found[-1] if found else None
