"""Values of the header `anthropic-beta` are left out with the members that only they enable."""

import json

import pytest

from gatepass.normalize.betas import DropBetas, betas_of
from gatepass.normalize.rules import apply_changes
from gatepass.types import Call
from tests.rows import MESSAGES

CONTEXT, COMPACT, SCOPE = "context-management-2025-06-27", "compact-2026-01-12", "prompt-caching-scope-2026-01-05"
BODY = b'{"model": "m",  "messages": [], "context_management": {"edits": []}, "x": 1.0}'


def call(*values: str, body: bytes = BODY) -> Call:
    fields = ((b"anthropic-version", b"1"), *((b"anthropic-beta", value.encode()) for value in values), (b"x", b"a,b"))
    return Call("id", MESSAGES, "caller", "m", body, fields)


def dropped(given_call: Call, *names: str, sent: tuple[str, ...] = ()) -> Call:
    return apply_changes(given_call, [DropBetas(names, frozenset(sent or names))])[0]


def test_a_value_goes_with_the_members_that_only_it_enables():
    changed = dropped(call(f"{CONTEXT},a"), CONTEXT)
    assert changed.headers == call("a").headers
    assert json.loads(changed.body) == {"model": "m", "messages": [], "x": 1.0}
    assert betas_of(changed.headers) == ("a",)
    assert dropped(call(CONTEXT), CONTEXT).headers == ((b"anthropic-version", b"1"), (b"x", b"a,b"))


def test_a_member_that_another_sent_value_enables_stays():
    changed = dropped(call(f"{CONTEXT},{COMPACT}"), CONTEXT)
    assert (changed.body, betas_of(changed.headers)) == (BODY, (COMPACT,))
    assert b"context_management" not in dropped(call(f"{CONTEXT},{COMPACT}"), CONTEXT, COMPACT).body


def test_inner_members_are_left_out_at_each_place():
    block = {"type": "text", "text": '"scope"', "cache_control": {"type": "ephemeral", "scope": "global"}}
    kept = {**block, "cache_control": {"type": "ephemeral"}}
    tool = {"name": "t", "input_schema": {"properties": {"scope": {}}}, "cache_control": {"scope": "global"}}
    body = {
        "system": [block, "x"],
        "tools": [tool],
        "messages": [{"role": "user", "content": [block]}, {"content": "a"}],
    }
    changed = dropped(call(SCOPE, body=json.dumps(body).encode()), SCOPE)
    assert json.loads(changed.body) == {
        "system": [kept, "x"],
        "tools": [{**tool, "cache_control": {}}],
        "messages": [{"role": "user", "content": [kept]}, {"content": "a"}],
    }


def test_a_rule_for_a_set_of_values_needs_all_of_them():
    assert betas_of(dropped(call("a,b,c,d"), "b", "c", sent=("a", "b", "c")).headers) == ("a", "d")
    given_call = call("b,c")
    assert dropped(given_call, "b", "c", sent=("a", "b", "c")) is given_call


@pytest.mark.parametrize("odd", ["`", "A", "é", "a b", "1a", "b" * 65])
def test_a_request_with_a_value_of_another_form_is_not_changed(odd):
    given_call = call("b", odd)
    assert dropped(given_call, "b") is given_call
