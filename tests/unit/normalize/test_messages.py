"""Changes of what messages hold: roles, content, members of an answer, ids of tool calls."""

import json
from typing import Any

import pytest

from gatepass.draft import Change
from gatepass.normalize.messages import (
    Role,
    drop_empty_text,
    drop_own_thoughts,
    drop_thoughts,
    fill_empty_content,
    join_text_parts,
    last_system_as_user,
    merge_roles,
    merge_system,
    short_id,
    shorten_tool_ids,
    system_into_user,
)
from gatepass.normalize.rules import apply_changes
from tests.rows import MESSAGES
from tests.unit.normalize.calls import a_call

PICTURE = {"type": "image_url", "image_url": {"url": "https://h/a.png"}}


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
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


def test_a_role_is_replaced_in_every_message():
    messages = (message("developer", "a"), message("user", "developer"), message("developer", "b"))
    assert after(Role("developer", "system"), *messages) == [
        message("system", "a"),
        messages[1],
        message("system", "b"),
    ]
    assert unchanged(Role("developer", "system"), message("user", "x"), {"content": "no role"}, 5)


def test_the_system_text_precedes_the_first_user_text():
    messages = (
        message("system", [text("a"), text("b")]),
        message("developer", "c"),
        message("user", "d"),
        message("user", "e"),
    )
    assert after(system_into_user, *messages) == [message("user", "a\n\nb\n\nc\n\nd"), message("user", "e")]
    for parts in ([PICTURE], []):
        assert after(system_into_user, message("user", parts), message("system", "s")) == [
            message("user", [text("s"), *parts])
        ]


@pytest.mark.parametrize(
    "messages",
    [
        (message("user", "u"),),
        (message("system", "s"),),
        (message("system", "s"), message("user", None)),
        (message("system", None), message("user", "u")),
    ],
)
def test_system_message_without_a_user_message_is_unchanged(messages):
    assert unchanged(system_into_user, *messages)


def test_neighbours_of_one_role_become_one_message():
    messages = (
        message("user", "a"),
        message("user", [text("b"), text("c")]),
        message("assistant", "x"),
        message("assistant", "y"),
    )
    assert after(merge_roles, *messages) == [message("user", "a\n\nb\n\nc"), message("assistant", "x\n\ny")]


def test_system_messages_become_one_in_front():
    messages = (message("user", "a"), message("system", "s"), message("user", "b"), message("system", "t"))
    assert after(merge_roles, *messages) == [message("system", "s\n\nt"), message("user", "a\n\nb")]
    assert after(merge_roles, message("system", "s"), message("system", "t")) == [message("system", "s\n\nt")]


@pytest.mark.parametrize(
    "messages",
    [
        (message("system", "s"), message("user", "a"), message("assistant", "b"), message("user", "c")),
        (message("user", "a"), message("user", "b", name="n")),
        (message("user", "a"), message("user", [PICTURE])),
        (message("tool", "a"), message("tool", "b")),
    ],
)
def test_messages_that_are_more_than_text_are_not_joined(messages):
    assert unchanged(merge_roles, *messages)


def test_text_parts_become_one_string():
    messages = (message("user", [text("a"), text("é")]), message("system", [text("one")]), message("user", "plain"))
    assert after(join_text_parts, *messages) == [
        message("user", "a\n\né"),
        message("system", "one"),
        message("user", "plain"),
    ]


@pytest.mark.parametrize("content", [[], [text("a"), PICTURE], [{"type": "text"}], ["a"], [{"type": "x", "text": "a"}]])
def test_lists_with_other_parts_are_unchanged(content):
    assert unchanged(join_text_parts, message("user", content))


def test_missing_content_becomes_an_empty_text():
    calls = [{"id": "c"}]
    messages = (
        message("assistant", None, tool_calls=calls),
        {"role": "assistant", "tool_calls": calls},
        message("user", None),
    )
    assert after(fill_empty_content, *messages) == [
        message("assistant", "", tool_calls=calls),
        {"role": "assistant", "tool_calls": calls, "content": ""},
        message("user", ""),
    ]
    assert unchanged(fill_empty_content, message("assistant", ""), {"role": "user"})


CALL = {"tool_calls": [{"id": "a"}]}
USE = {"type": "tool_use", "id": "functions.f:0", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "functions.f:0", "content": "x"}


@pytest.mark.parametrize(
    ("before", "then"),
    [
        (message("user", [text(" \n"), text("a")]), message("user", [text("a")])),
        (message("assistant", [text(""), USE]), message("assistant", [USE])),
        (message("assistant", "", **CALL), message("assistant", None, **CALL)),
        (message("assistant", [text("")], **CALL), message("assistant", None, **CALL)),
        (message("assistant", ""), None),
        (message("assistant", [text("")]), None),
        *((same, same) for same in (message("user", ""), message("user", [text("")]), message("assistant", [PICTURE]))),
    ],
)
def test_empty_texts_are_left_out(before: Any, then: Any) -> None:
    assert after(drop_empty_text, before, message("user", "b")) == [*([then] if then else []), message("user", "b")]


@pytest.mark.parametrize(
    ("system", "then"),
    [
        ({}, "b\n\nc"),
        ({"system": "a"}, "a\n\nb\n\nc"),
        ({"system": [text("a")]}, [text("a"), text("b\n\nc")]),
    ],
)
def test_system_messages_of_the_messages_api_move_into_its_member(system: Any, then: Any) -> None:
    late = [message("user", "u"), message("system", "b"), message("system", [text("c")])]
    call = a_call(json.dumps({"model": "m", "messages": late, **system}).encode(), MESSAGES)
    changed = json.loads(apply_changes(call, [merge_system])[0].body)
    assert (changed["system"], changed["messages"]) == (then, late[:1])


def test_ids_of_blocks_become_short_too() -> None:
    called, answered = after(shorten_tool_ids, message("assistant", [USE]), message("user", [RESULT]))
    assert called["content"][0]["id"] == answered["content"][0]["tool_use_id"] == short_id("functions.f:0")


def test_tool_ids_become_short_in_both_places_and_always_the_same():
    calls = [{"id": "call_abc", "type": "function"}, {"id": "AbCdEf123"}, {"type": "function"}]
    messages = (message("assistant", None, tool_calls=calls), message("tool", "r", tool_call_id="call_abc"))
    short = short_id("call_abc")
    assert after(shorten_tool_ids, *messages) == [
        message("assistant", None, tool_calls=[{"id": short, "type": "function"}, *calls[1:]]),
        message("tool", "r", tool_call_id=short),
    ]
    assert (short, short_id(short)) == ("uCUSbrUmq", "uCUSbrUmq")
    assert len({short_id(f"call_{at}") for at in range(10_000)}) == 10_000
    assert all(len(short_id(f"é{at}")) == 9 and short_id(f"é{at}").isalnum() for at in range(100))
    assert unchanged(shorten_tool_ids, message("assistant", None, tool_calls="x"), message("tool", "r", tool_call_id=5))


@pytest.mark.parametrize(
    ("change", "messages", "texts"),
    [
        (join_text_parts, [message("user", [text("%"), text("b")])], [b"%\\n\\nb"]),
        (merge_roles, [message("user", "%"), message("user", "b")], [b"%\\n\\nb"]),
        (system_into_user, [message("system", "%"), message("user", "b")], [b"%\\n\\nb"]),
        (system_into_user, [message("system", "%"), message("user", [text("b")])], [b"%", b"b"]),
    ],
)
def test_joined_texts_keep_their_bytes(change, messages, texts):
    written = b'\\u00e9\\/\\"\xe4\xb8\xad\\ud83d\\ude00'
    body = json.dumps({"messages": messages}).encode().replace(b"%", written)
    changed, _ = apply_changes(a_call(body), [change])
    for joined in texts:
        assert b'"%b"' % joined.replace(b"%", written) in changed.body


THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "gatepass_thought"}
OTHER_THOUGHT = {**THOUGHT, "signature": "real"}


def test_a_message_of_own_thoughts_alone_is_dropped_with_them():
    """A server of the Messages API rejects a message without content."""
    hi, empty = message("user", "Hi"), message("assistant", [])
    both = message("assistant", [THOUGHT, text("Yes.")])
    alone, two = message("assistant", [THOUGHT]), message("assistant", [THOUGHT, THOUGHT])
    assert after(drop_own_thoughts, hi, alone, hi, both, hi, two, empty) == [
        *(hi, hi, message("assistant", [text("Yes.")]), hi),
        empty,
    ]
    other = message("assistant", [THOUGHT, OTHER_THOUGHT])
    assert after(drop_own_thoughts, hi, other) == [hi, message("assistant", [OTHER_THOUGHT])]
    assert unchanged(drop_own_thoughts, hi, message("assistant", [OTHER_THOUGHT]), empty)


def test_all_thoughts_that_a_server_signed_or_encrypted_are_dropped():
    redacted = {"type": "redacted_thinking", "data": "x"}
    mixed = message("assistant", [OTHER_THOUGHT, redacted, text("Yes.")])
    hi = message("user", "Hi")
    assert after(drop_thoughts, hi, message("assistant", [THOUGHT]), mixed) == [
        hi,
        message("assistant", [text("Yes.")]),
    ]
    assert unchanged(drop_thoughts, hi, message("assistant", [text("Yes.")]))
    body = b'{"input":[{"type":"reasoning","encrypted_content":"x"},{"type":"reasoning","encrypted_content":null}]}'
    kept = b'{"input":[{"type":"reasoning","encrypted_content":null}]}'
    assert apply_changes(a_call(body), [drop_thoughts])[0].body == kept


def test_the_last_instructions_become_the_users_if_no_user_said_anything():
    one, two, answer = message("system", "A"), message("developer", "B"), message("assistant", "C")
    assert after(last_system_as_user, one, two, answer) == [one, message("user", "B"), answer]
    assert unchanged(last_system_as_user, one, message("user", "Hi"))
    assert unchanged(last_system_as_user, answer)
