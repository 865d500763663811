"""Changes of what messages hold: roles, content, members of an answer, ids of tool calls."""

import json
from typing import Any

import pytest

from gatepass.errors import InvalidRequest
from gatepass.normalize.messages import (
    EmptyContent,
    MergedRoles,
    Replayed,
    Role,
    SchemaInWords,
    SystemIntoUser,
    TextContent,
    ToolIds,
    short_id,
)
from gatepass.normalize.rules import Change, apply_changes, would_change
from tests.unit.normalize.calls import EMBEDDINGS, a_call

PICTURE = {"type": "image_url", "image_url": {"url": "https://h/a.png"}}


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def after(change: Change, *messages: Any) -> Any:
    body = json.dumps({"model": "m", "messages": messages}).encode()
    changed, made = apply_changes(a_call(body), [change])
    assert (changed.body == body) == (made == [])
    assert changed.adapted == ((change.entry,) if made else ())
    return json.loads(changed.body)["messages"]


def unchanged(change: Change, *messages: Any) -> bool:
    result: bool = after(change, *messages) == list(messages)
    return result


def test_a_role_is_replaced_wherever_it_speaks():
    messages = (turn("developer", "a"), turn("user", "developer"), turn("developer", "b"))
    assert after(Role("developer", "system"), *messages) == [turn("system", "a"), messages[1], turn("system", "b")]
    assert unchanged(Role("developer", "system"), turn("user", "x"), {"content": "no role"}, 5)


def test_the_system_text_precedes_the_first_user_text():
    messages = (turn("system", [text("a"), text("b")]), turn("developer", "c"), turn("user", "d"), turn("user", "e"))
    assert after(SystemIntoUser(), *messages) == [turn("user", "a\n\nb\n\nc\n\nd"), turn("user", "e")]
    for parts in ([PICTURE], []):
        assert after(SystemIntoUser(), turn("user", parts), turn("system", "s")) == [turn("user", [text("s"), *parts])]


@pytest.mark.parametrize(
    "messages",
    [
        (turn("user", "u"),),
        (turn("system", "s"),),
        (turn("system", "s"), turn("user", None)),
        (turn("system", [PICTURE]), turn("user", "u")),
        (turn("system", None), turn("user", "u")),
    ],
)
def test_a_system_message_that_has_no_place_to_go_stays(messages):
    assert unchanged(SystemIntoUser(), *messages)


def test_neighbours_of_one_role_become_one_message():
    messages = (turn("user", "a"), turn("user", [text("b"), text("c")]), turn("assistant", "x"), turn("assistant", "y"))
    assert after(MergedRoles(), *messages) == [turn("user", "a\n\nb\n\nc"), turn("assistant", "x\n\ny")]


def test_system_messages_become_one_in_front():
    messages = (turn("user", "a"), turn("system", "s"), turn("user", "b"), turn("system", "t"))
    assert after(MergedRoles(), *messages) == [turn("system", "s\n\nt"), turn("user", "a\n\nb")]
    assert after(MergedRoles(), turn("system", "s"), turn("system", "t")) == [turn("system", "s\n\nt")]


@pytest.mark.parametrize(
    "messages",
    [
        (turn("system", "s"), turn("user", "a"), turn("assistant", "b"), turn("user", "c")),
        (turn("user", "a"), turn("user", "b", name="n")),
        (turn("user", "a"), turn("user", [PICTURE])),
        (turn("tool", "a", tool_call_id="x"), turn("tool", "b", tool_call_id="y")),
        (turn("tool", "a"), turn("tool", "b")),
        (turn("user", "a"), turn("system", [PICTURE])),
    ],
)
def test_messages_that_are_more_than_text_are_not_joined(messages):
    assert unchanged(MergedRoles(), *messages)


def test_text_parts_become_one_string():
    messages = (turn("user", [text("a"), text("é")]), turn("system", [text("one")]), turn("user", "plain"))
    assert after(TextContent(), *messages) == [turn("user", "a\n\né"), turn("system", "one"), turn("user", "plain")]


@pytest.mark.parametrize("content", [[], [text("a"), PICTURE], [{"type": "text"}], ["a"], [{"type": "x", "text": "a"}]])
def test_lists_of_anything_else_stay(content):
    assert unchanged(TextContent(), turn("user", content))


def test_missing_content_becomes_an_empty_text():
    calls = [{"id": "c"}]
    messages = (
        turn("assistant", None, tool_calls=calls),
        {"role": "assistant", "tool_calls": calls},
        turn("user", None),
    )
    assert after(EmptyContent(), *messages) == [
        turn("assistant", "", tool_calls=calls),
        {"role": "assistant", "tool_calls": calls, "content": ""},
        turn("user", ""),
    ]
    assert unchanged(EmptyContent(), turn("assistant", ""), {"role": "user"})


ANSWER = turn(
    "assistant",
    "x",
    reasoning_content="r",
    reasoning="r",
    annotations=[],
    refusal=None,
    audio=None,
    function_call=None,
    tool_calls=[],
)


def test_an_answer_that_comes_back_loses_what_only_an_answer_has():
    assert after(Replayed(), ANSWER) == [turn("assistant", "x")]
    kept = after(Replayed(keeps_reasoning=True), ANSWER)
    assert kept == [turn("assistant", "x", reasoning_content="r", reasoning="r")]


def test_members_that_the_model_reads_remain():
    message = turn("assistant", "x", refusal="no", audio={"id": "a"}, tool_calls=[{"id": "c"}], name="n")
    assert unchanged(Replayed(), message, turn("user", "u", metadata={"a": 1}))


def test_tool_ids_become_short_in_both_places_and_always_the_same():
    calls = [{"id": "call_abc", "type": "function"}, {"id": "AbCdEf123"}, {"type": "function"}]
    messages = (turn("assistant", None, tool_calls=calls), turn("tool", "r", tool_call_id="call_abc"))
    short = short_id("call_abc")
    assert after(ToolIds(), *messages) == [
        turn("assistant", None, tool_calls=[{"id": short, "type": "function"}, *calls[1:]]),
        turn("tool", "r", tool_call_id=short),
    ]
    assert (short, short_id(short)) == ("uCUSbrUmq", "uCUSbrUmq")
    assert len({short_id(f"call_{at}") for at in range(10_000)}) == 10_000
    assert all(len(short_id(f"é{at}")) == 9 and short_id(f"é{at}").isalnum() for at in range(100))
    assert unchanged(ToolIds(), turn("assistant", None, tool_calls="x"), turn("tool", "r", tool_call_id=5))


SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
INSTRUCTION = 'Answer with one JSON object that fits this JSON Schema, and with nothing else:\n{"type":"object"}'


@pytest.mark.parametrize(
    ("messages", "becomes"),
    [
        ([turn("user", "u")], [turn("system", INSTRUCTION), turn("user", "u")]),
        ([turn("developer", "d")], [turn("developer", f"d\n\n{INSTRUCTION}")]),
        ([turn("system", [PICTURE])], [turn("system", INSTRUCTION), turn("system", [PICTURE])]),
    ],
)
def test_a_schema_is_added_as_text(messages, becomes):
    body = json.dumps({"response_format": SCHEMA, "messages": messages}).encode()
    changed, _ = apply_changes(a_call(body), [SchemaInWords()])
    assert json.loads(changed.body) == {"response_format": {"type": "json_object"}, "messages": becomes}


@pytest.mark.parametrize(
    "document",
    [
        {"messages": []},
        {"response_format": "x", "messages": []},
        {"response_format": {"type": "json_object"}, "messages": []},
        {"response_format": {"type": "json_schema", "json_schema": 5}, "messages": []},
        {"response_format": SCHEMA},
    ],
)
def test_without_a_schema_or_messages_nothing_is_added(document):
    call = a_call(json.dumps(document).encode())
    assert apply_changes(call, [SchemaInWords()]) == (call, [])


@pytest.mark.parametrize("number", [b"1e999", b"-" + b"9" * 5000])
@pytest.mark.parametrize(
    ("change", "body"),
    [
        (Replayed(), b'{"messages":[{"role":"assistant","tool_calls":%b}]}'),
        (Replayed(), b'{"messages":[{"role":"assistant","tool_calls":[{"id":%b}]}]}'),
        (
            SchemaInWords(),
            b'{"response_format":{"type":"json_schema","json_schema":{"schema":%b}},"messages":[{"role":"user"}]}',
        ),
    ],
)
def test_a_number_that_cannot_be_read_is_the_clients_to_fix(change, body, number):
    call = a_call(body % number)
    with pytest.raises(InvalidRequest, match="a number that is too large"):
        apply_changes(call, [change])
    assert not would_change(change, call)


def test_embeddings_have_no_messages_to_change():
    call = a_call(b'{"input":["a"]}', EMBEDDINGS)
    changes: list[Change] = [SystemIntoUser(), MergedRoles(), TextContent(), EmptyContent(), Replayed(), ToolIds()]
    assert apply_changes(call, changes) == (call, [])
