"""What is recorded of the changes that rules make: paths, kinds and sizes, booleans and numbers, never a text."""

import json
from collections.abc import Iterable
from typing import Any

from gatepass.draft import Change
from gatepass.normalize.betas import DropBetas
from gatepass.normalize.images import Images
from gatepass.normalize.members import Default, Drop, JsonMemberPath, Rename, Set
from gatepass.normalize.messages import Role, join_text_parts, merge_roles, system_into_user
from gatepass.normalize.ragflow_body import RagflowBody
from gatepass.normalize.rules import ADDED, apply_changes, normalize, with_model
from gatepass.types import MOST_EDITS, Call, RuleEdit, Target
from tests.rows import MESSAGES
from tests.unit.normalize.calls import TARGET, a_call

PNG = "iVBORw0KGgoAAAANSUhEUgAA"
Row = tuple[str, str, tuple[str, int], tuple[str, int], str]
NONE = ("", 0)


def rows(edits: Iterable[RuleEdit]) -> list[Row]:
    return [
        (one.rule, one.path, (one.before, one.before_bytes), (one.after, one.after_bytes), one.moved_to)
        for one in edits
    ]


def edited(document: dict[str, Any], *changes: Change) -> list[Row]:
    call, _ = apply_changes(a_call(json.dumps(document, separators=(",", ":")).encode()), changes)
    return rows(call.edits.listed)


def path(text: str) -> JsonMemberPath:
    return JsonMemberPath.parse(text)


def test_members_that_are_dropped_set_added_and_renamed():
    document = {"model": "m", "seed": 12345, "n": 1, "max_tokens": 100, "tools": [{"a": 1}, {"strict": True}]}
    assert edited(
        document,
        Drop(path("seed")),
        Set(path("n"), b"null"),
        Default(path("options.top_k"), b"0.25"),
        Rename(path("max_tokens"), "max_completion_tokens"),
        Drop(path("tools[].strict")),
        Drop(path("absent")),
    ) == [
        ("drop=seed", "seed", ("12345", 5), NONE, ""),
        ("set=n", "n", ("1", 1), ("null", 4), ""),
        ("default=options.top_k", "options", NONE, ("{", 14), ""),
        ("default=options.top_k", "options.top_k", NONE, ("0.25", 4), ""),
        ("rename=max_tokens>max_completion_tokens", "max_tokens", ("100", 3), ("100", 3), "max_completion_tokens"),
        ("drop=tools[].strict", "tools[1].strict", ("true", 4), NONE, ""),
    ]


def test_messages_that_are_merged_and_moved():
    system, user = {"role": "system", "content": "be"}, {"role": "user", "content": "hi"}
    assert edited({"messages": [system, user]}, system_into_user) == [
        ("role=system>user", "messages[0]", ("{", 32), NONE, ""),
        ("role=system>user", "messages[0].content", ('"', 4), ('"', 10), ""),
    ]
    assert edited({"messages": [user, user]}, merge_roles) == [
        ("roles=merged", "messages[1]", ("{", 30), NONE, ""),
        ("roles=merged", "messages[0].content", ('"', 4), ('"', 10), ""),
    ]
    parts = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    assert edited({"messages": [parts]}, join_text_parts) == [
        ("content=text", "messages[0].content", ("[", 29), ('"', 4), "")
    ]


def test_the_record_is_bounded():
    reply = {"role": "developer", "content": "x"}
    body = json.dumps({"messages": [reply] * 1_000}).encode()
    call, _ = apply_changes(a_call(body), (Role("developer", "system"),))
    assert (len(call.edits.listed), call.edits.left_out) == (MOST_EDITS, 1_000 - MOST_EDITS)
    again, _ = apply_changes(call, (Set(path("n"), b"1"),))
    assert (len(again.edits.listed), again.edits.left_out) == (MOST_EDITS, 1_001 - MOST_EDITS)


def test_a_long_name_is_not_shown():
    name = "s" * 300
    (row,) = edited({"extra": {name: 1, "kept": 2}}, DropLong())
    assert row == ("drop", "extra.(300 characters)", ("1", 1), NONE, "")


class DropLong:
    entry = "drop"

    def apply_to(self, editor: Any) -> bool:
        dropped: bool = editor.top.object("extra").drop("s" * 300)
        return dropped


def images(document: dict[str, Any]) -> Call:
    return normalize(a_call(json.dumps(document, separators=(",", ":")).encode()), TARGET, (Images(),))


def test_images_say_from_where_to_where_they_moved():
    ask = {"role": "user", "content": "what?"}
    call = images({"messages": [ask], "images": [PNG, {"url": "https://example.com/a.png"}]})
    dropped, text, first, second = rows(call.edits.listed)
    assert dropped == ("images=2", "images", ("[", 64), NONE, "")
    assert text[:3] == ("images=2", "messages[0].content", ('"', 7))
    assert text[3][0] == "["
    assert (first[1], first[2], first[4]) == ("images[0]", ('"', 26), "messages[0].content[1]")
    assert (second[1], second[2][0], second[4]) == ("images[1]", "{", "messages[0].content[2]")
    assert PNG not in repr(call.edits)


def test_a_model_that_is_added_and_a_header_that_is_shortened():
    added = with_model(a_call(b"{}", model=""), "gpt")
    assert rows(added.edits.listed) == [(ADDED, "model", NONE, ('"', 5), "")]
    beta = "context-management-2025-06-27"
    fields = ((b"anthropic-beta", f"{beta},other".encode()),)
    call = Call("id", MESSAGES, "caller", "m", b'{"context_management":{}}', fields)
    changed, _ = apply_changes(call, (DropBetas((beta,), frozenset((beta,))),))
    assert rows(changed.edits.listed) == [
        (f"drop_beta={beta}", "context_management", ("{", 2), NONE, ""),
        (f"drop_beta={beta}", "anthropic-beta", ('"', 35), ('"', 5), ""),
    ]


def test_the_dialect_of_ragflow():
    parts = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    document = {"model": "chat-1", "stream": False, "messages": [parts], "reference": True}
    call = normalize(a_call(json.dumps(document, separators=(",", ":")).encode()), Target("chat"), (RagflowBody(),))
    assert rows(call.edits.listed) == [
        ("content=text", "messages[0].content", ("[", 29), ('"', 4), ""),
        ("ragflow", "model", ('"', 8), ('"', 7), ""),
        ("extra_body=reference", "reference", ("true", 4), ("true", 4), "extra_body.reference"),
    ]
