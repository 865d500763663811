from __future__ import annotations

from typing import Any

from gatepass.sse.tool_calls import MAX_CALLS, ToolCallTracker
from tests.memory import traced_memory


def entry(index: int | None = None, identity: Any = None, name: str | None = None, arguments: str | None = None):
    payload: dict[str, Any] = {"function": {}}
    if index is not None:
        payload["index"] = index
    if identity is not None:
        payload["id"] = identity
    if name is not None:
        payload["function"]["name"] = name
    if arguments is not None:
        payload["function"]["arguments"] = arguments
    return payload


def test_id_of_a_call_is_the_first_it_was_given_and_no_other_has_it():
    calls = ToolCallTracker()
    for delta in ([entry(0, None, "f")], [entry(0, "a", None, "{")], [entry(1, "a", "g")], [entry(0, "b", None, "}")]):
        pieces = calls.assign(delta)
    first, second = pieces[0].call, calls.assign([entry(1)])[0].call
    assert (first.id, second.id, len(calls)) == ("a", "", 2)


def test_more_calls_than_any_answer_has_share_the_last_one():
    calls = ToolCallTracker()
    for number in range(MAX_CALLS + 5):
        [piece] = calls.assign([entry(number, f"id-{number}", "f")])
    with traced_memory() as memory:
        for number in range(3 * MAX_CALLS):
            calls.assign([entry(10_000 + number, f"other-{number}", None, "{")])
            calls.assign([entry(20_000 + number, "id-1", None, "{")])
    assert memory.kept_bytes < 10_000
    assert (len(calls), piece.call.number) == (MAX_CALLS, MAX_CALLS - 1)
