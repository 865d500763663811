from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.sse import tool_calls
from gatepass.sse.chunk import MAX_ENTRIES
from gatepass.sse.tool_calls import CALL_BYTES, MOST_HELD_BYTES, ArgumentBuffer, ToolCallTracker, folded
from tests.memory import traced_memory
from tests.unit.protocols.json_texts import VALUES, written


def entry(index: int | None = None, identity: Any = None, name: str | None = None, arguments: str | None = None):
    function = without_none({"name": name, "arguments": arguments})
    return without_none({"index": index, "id": identity, "function": function})


def without_none(members: dict[str, Any]) -> dict[str, Any]:
    return {member: value for member, value in members.items() if value is not None}


def placed(*deltas: list[dict[str, Any]]) -> list[list[tuple[int, bool]]]:
    calls = ToolCallTracker()
    return [[(piece.call.number, piece.is_first) for piece in calls.assign(delta)] for delta in deltas]


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
        pytest.param([[None, "x", entry(0, "a")], []], [[(0, True)], []], id="what is no object is left out"),
        pytest.param(
            [[{"index": 0, "id": "a"}], [{"index": 0, "id": "b"}]], [[(0, True)], [(1, True)]], id="ids alone"
        ),
    ],
)
def test_each_piece_finds_its_call(deltas, expected):
    assert placed(*deltas) == expected


def test_id_of_a_call_is_the_first_it_was_given_and_no_other_has_it():
    calls = ToolCallTracker()
    for delta in ([entry(0, None, "f")], [entry(0, "a", None, "{")], [entry(1, "a", "g")], [entry(0, "b", None, "}")]):
        pieces = calls.assign(delta)
    first, second = pieces[0].call, calls.assign([entry(1)])[0].call
    assert (first.id, second.id, len(calls)) == ("a", "", 2)


def test_more_calls_than_any_answer_has_share_the_last_one():
    calls = ToolCallTracker()
    for number in range(MAX_ENTRIES + 5):
        [piece] = calls.assign([entry(number, f"id-{number}", "f")])
    with traced_memory() as memory:
        for number in range(3 * MAX_ENTRIES):
            calls.assign([entry(10_000 + number, f"other-{number}", None, "{")])
            calls.assign([entry(20_000 + number, "id-1", None, "{")])
    assert memory.kept_bytes < 10_000
    assert (len(calls), piece.call.number) == (MAX_ENTRIES, MAX_ENTRIES - 1)


# --- arguments in few bytes ---


@given(st.data(), st.integers(1, 9), st.floats(0, 1))
def test_a_folded_text_is_complete_if_the_text_is(data, step_bytes, share):
    text = data.draw(
        VALUES.flatmap(written) | st.sampled_from(['[NaN,{"a":-Infinity}]', r'["\ud83d","\uD83Dx"]', "[[1]"])
    )
    text = text[: round(share * len(text))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool_calls, "FOLDED_BYTES", step_bytes)
        short = folded(text.encode())
    expected = tool_calls.is_complete_json(text)
    assert (tool_calls.is_complete_json(short.decode()), short.strip() == b"") == (expected, text.strip() == "")


LONG = 2 * MOST_HELD_BYTES
WHOLE = {
    "a text": '{"path":"x","content":"' + "y" * LONG + '"}',
    "escapes": '{"a":"' + r"\"[{\\\n" * (LONG // 8) + '"}',
    "halves": '{"a":"' + r"\ud83d" * (LONG // 6) + '"}',
    "line ends": '{"a":"' + "b\n" * (LONG // 2) + '"}',
    "rows": '{"a":[' + '["b",1.5,true],' * (LONG // 15) + "[]]}",
    "numbers": "[" + "10," * (LONG // 3) + "-2.5e+10]",
    "names": "[" + "NaN," * (LONG // 4) + "null]",
    "blanks": "{" + " " * LONG + "}",
}


@pytest.mark.parametrize("step", [1_000, 1_000_000])
@pytest.mark.parametrize("name", WHOLE)
def test_long_arguments_are_held_in_few_bytes_and_their_end_decides(name, step):
    held, text = ArgumentBuffer(), WHOLE[name]
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    with traced_memory() as memory:
        for piece in pieces[:-1]:
            held.add(0, 0, piece)
    assert memory.kept_bytes < 2 * tool_calls.FOLDED_BYTES
    for piece, expected in ((pieces[-1], True), ("]", False), ("1", False)):
        assert tool_calls.is_complete_json(held.texts(0)[0]) is False or piece == "]"
        held.add(0, 0, piece)
        assert tool_calls.is_complete_json(held.texts(0)[0]) is expected


@pytest.mark.parametrize("text", ["ls -la " * LONG, '{"a":1}' * LONG, "]" * LONG, "[" * LONG, '"' * LONG, "x"])
def test_long_arguments_that_are_no_json_stay_so(text):
    for end in ("", "}", "]", '"', " "):
        assert not tool_calls.is_complete_json(text[:LONG] + end)


@pytest.mark.parametrize("escape", [r"\q", r"\u12", r"\u12g4", "\\ ", r"\u", r"\n", r"\u0041", r"\/"])
@pytest.mark.parametrize("before", [LONG, *range(tool_calls.FOLDED_BYTES - 16, tool_calls.FOLDED_BYTES)])
def test_an_escape_in_long_arguments_is_checked(escape, before):
    arguments, is_valid = '{"a":"' + "y" * before + escape + 'z"}', escape in (r"\n", r"\u0041", r"\/")
    held = ArgumentBuffer()
    for at in range(0, len(arguments), 9_999):
        held.add(0, 0, arguments[at : at + 9_999])
    assert [*map(tool_calls.is_complete_json, (arguments, *held.texts(0).values()))] == [is_valid] * 2


def test_no_call_of_thousands_is_known_to_be_complete():
    held = ArgumentBuffer()
    for call in range(MOST_HELD_BYTES // CALL_BYTES - 100):
        held.add(call, 0, "{")
    held.add(7, 0, "}")
    assert tool_calls.is_complete_json(held.texts(7)[0])
    for call in range(MOST_HELD_BYTES // CALL_BYTES):
        held.add(call, 1, "{}")
    assert held.is_full
    assert not any(map(tool_calls.is_complete_json, held.texts(7).values()))
