from typing import Any

import pytest

from gatepass.sse import tool_calls
from gatepass.sse.chunk import MAX_ENTRIES, ArgumentsTooLarge
from gatepass.sse.tool_calls import CALL_BYTES, MOST_HELD_BYTES, ArgumentBuffer, ToolCall, ToolRepair
from tests.memory import traced_memory
from tests.unit.sse.documents import origin


def entry(index: int | None = None, identity: Any = None, name: str | None = None, arguments: str | None = None):
    function = without_none({"name": name, "arguments": arguments})
    return without_none({"index": index, "id": identity, "function": function})


def without_none(members: dict[str, Any]) -> dict[str, Any]:
    return {member: value for member, value in members.items() if value is not None}


class Calls(ToolRepair):
    """The calls of one choice whose arguments are held as in a stream."""

    def __init__(self) -> None:
        super().__init__(origin(), ArgumentBuffer(), 0)

    def assigned(self, delta: list[dict[str, Any]]) -> list[tuple[ToolCall, bool]]:
        found = list[tuple[ToolCall, bool]]()
        for one in delta:
            before = len(self)
            call, _ = self._assign(one)
            self._arguments.add(0, call.number, one.get("function", {}).get("arguments", ""))
            found.append((call, len(self) > before))
        return found


def placed(*deltas: list[dict[str, Any]]) -> list[list[tuple[int, bool]]]:
    calls = Calls()
    return [[(call.number, is_first) for call, is_first in calls.assigned(delta)] for delta in deltas]


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        pytest.param(
            [
                [entry(None, "a", "f")],
                [entry(None, None, None, "{")],
                [entry(None, "b", "g")],
                [entry(None, arguments="{")],
            ],
            [[(0, True)], [(0, False)], [(1, True)], [(1, False)]],
            id="no index, ids in the openers",
        ),
        pytest.param(
            [[entry(None, None, "f", "{}"), entry(None, None, "g", "{}")]],
            [[(0, True), (1, True)]],
            id="neither index nor id, all in one delta",
        ),
        pytest.param(
            [[entry(None, None, "f", "{}"), entry(None, None, "f", "{}")]],
            [[(0, True), (1, True)]],
            id="neither index nor id, one name twice in one delta",
        ),
        pytest.param(
            [[entry(None, None, "f")], [entry(None, None, "f", "{")], [entry(None, None, None, "}")]],
            [[(0, True)], [(0, False)], [(0, False)]],
            id="neither index nor id, the name repeated",
        ),
        *(
            pytest.param(
                [[entry(index, None, "f", "{}")], [entry(index, None, "g", "{")], [entry(index, None, "", "}")]],
                [[(0, True)], [(1, True)], [(1, False)]],
                id=f"another name without an id at index {index}",
            )
            for index in (None, 0)
        ),
        pytest.param(
            [[entry(0, "a", "f", "{}")], [entry(0, "b")], [entry(0, None, "g")]],
            [[(0, True)], [(1, True)], [(1, False)]],
            id="opener with the id alone",
        ),
        pytest.param(
            [[entry(0, None, "f", "{}")], [entry(0, "b", "g")]],
            [[(0, True)], [(1, True)]],
            id="second call has the first id",
        ),
        pytest.param(
            [[entry(0, "a", "f")], [entry(1, "a", None, "{")], [entry(1, None, None, "}")]],
            [[(0, True)], [(0, False)], [(0, False)]],
            id="index counts the pieces",
        ),
        pytest.param(
            [[{"index": 0, "id": "a"}], [{"index": 0, "id": "b"}]], [[(0, True)], [(1, True)]], id="ids alone"
        ),
    ],
)
def test_each_piece_finds_its_call(deltas, expected):
    assert placed(*deltas) == expected


def test_the_id_of_a_call_is_the_first_it_was_given_and_never_begins_another():
    calls = Calls()
    for delta in ([entry(0, None, "f")], [entry(0, "a", None, "{")], [entry(1, "a", "g")], [entry(0, "b", None, "}")]):
        [(call, _)] = calls.assigned(delta)
    assert (call.id, len(calls)) == ("a", 1)


def test_more_calls_than_any_answer_has_share_the_last_one():
    calls = Calls()
    for number in range(MAX_ENTRIES + 5):
        [(call, _)] = calls.assigned([entry(number, f"id-{number}", "f")])
    with traced_memory() as memory:
        for number in range(3 * MAX_ENTRIES):
            calls.assigned([entry(10_000 + number, f"other-{number}", None, "")])
            calls.assigned([entry(20_000 + number, "id-1", None, "")])
    assert memory.kept_bytes < 10_000
    assert (len(calls), call.number) == (MAX_ENTRIES, MAX_ENTRIES - 1)


# --- arguments ---


LONG = MOST_HELD_BYTES - 1_000
WHOLE = {
    "a text": '{"path":"x","content":"' + "y" * (LONG - 100) + '"}',
    "halves": '{"a":"' + r"\ud83d" * (LONG // 6 - 10) + '"}',
    "line ends": '{"a":"' + "b\n" * (LONG // 2 - 10) + '"}',
    "names": '["' + "a" * 300_000 + '",' + "NaN," * 1_000 + "null]",
}


@pytest.mark.parametrize("step", [1_000, 1_000_000])
@pytest.mark.parametrize("name", WHOLE)
def test_the_end_of_long_arguments_decides(name, step):
    held, text = ArgumentBuffer(), WHOLE[name]
    for at in range(0, len(text) - 1, step):
        held.add(0, 0, text[at : min(at + step, len(text) - 1)])
    for piece, expected in ((text[-1], True), ("1", False)):
        assert not tool_calls.is_complete_json(held.texts(0)[0])
        held.add(0, 0, piece)
        assert tool_calls.is_complete_json(held.texts(0)[0]) is expected
        held.held[0][0].pop()
    with pytest.raises(ArgumentsTooLarge):
        held.add(0, 0, "x" * MOST_HELD_BYTES)


@pytest.mark.parametrize("text", ["ls -la " * LONG, '{"a":1}' * LONG, "]" * LONG, "[" * LONG, '"' * LONG, "x"])
def test_long_arguments_that_are_no_json_stay_so(text):
    for end in ("", "}", "]", '"', " "):
        assert not tool_calls.is_complete_json(text[:LONG] + end)


def test_thousands_of_calls_are_too_many():
    held = ArgumentBuffer()
    for call in range(MOST_HELD_BYTES // CALL_BYTES - 100):
        held.add(call, 0, "{")
    held.add(7, 0, "}")
    assert tool_calls.is_complete_json(held.texts(7)[0])
    for call in range(30):
        held.add(call, 1, "")
    with pytest.raises(ArgumentsTooLarge):
        held.add(30, 1, "{}" * CALL_BYTES * 100)
