"""Changes of single members."""

import json
from hashlib import sha256

import pytest

from gatepass.draft import Change, Draft
from gatepass.normalize.members import Clamp, Default, Drop, DropTools, JsonMemberPath, Rename, Set, dropped
from gatepass.normalize.rules import ChangeRule, apply_changes, effective, normalize
from tests.rows import MODELS
from tests.unit.normalize.calls import TARGET, a_call


def at(written: str) -> JsonMemberPath:
    return JsonMemberPath.parse(written)


LONG = b'{"a":"%b"}' % (b"x" * 99)
LONG_VALUE = "sha256:" + sha256(b'"%b"' % (b"x" * 99)).hexdigest()
TOOLS = b'{"tools":[{"type":"function","name":"f"},{"type":"web","name":"w"},{"type":"web"}]}'


@pytest.mark.parametrize(
    ("change", "body", "becomes", "entry"),
    [
        (Drop(at("a")), b'{"a":1, "b":2}', b'{"b":2}', "drop=a"),
        (Drop(at("m[].n")), b'{"m":[{"n":1},{"o":2},{"n":3}]}', b'{"m":[{},{"o":2},{}]}', "drop=m[].n"),
        (Drop(at("a"), frozenset(("null", "[]"))), b'{"a":[ ]}', b"{}", "drop=a"),
        (Drop(at("m[].n"), frozenset(("1",))), b'{"m":[{"n":1},{"n":3}]}', b'{"m":[{},{"n":3}]}', "drop=m[].n"),
        (Drop(at("a"), frozenset((LONG_VALUE,))), LONG, b"{}", "drop=a"),
        (Set(at("a"), b"2", only=frozenset(("1",))), b'{"a":1}', b'{"a":2}', "set=a"),
        (DropTools("web"), TOOLS, b'{"tools":[{"type":"function","name":"f"}]}', "drop=tools[web]"),
        (Rename(at("a"), "b"), b'{"a": 1}', b'{"b":1}', "rename=a>b"),
        (Rename(at("m[].x"), "y"), b'{"m":[{"x":1},{}]}', b'{"m":[{"y":1},{}]}', "rename=m[].x>y"),
        (Set(at("a"), b"2"), b'{"b":1}', b'{"b":1,"a":2}', "set=a"),
        (Set(at("a.b"), b"2"), b"{}", b'{"a":{"b":2}}', "set=a.b"),
        (Set(at("a"), b'"x"', only_there=True, is_shown=True), b'{"a":1}', b'{"a":"x"}', "set=a>x"),
        (Default(at("a"), b"2"), b'{"b":1}', b'{"b":1,"a":2}', "default=a"),
        (Clamp(at("a"), 0, 1), b'{"a":1.5}', b'{"a":1}', "clamp=a"),
        (Clamp(at("a"), 0.5), b'{"a":-3}', b'{"a":0.5}', "clamp=a"),
        (Clamp(at("a"), most=10), b'{"a":1e400}', b'{"a":10}', "clamp=a"),
        (Clamp(at("ab"), most=9), b'{"AB":10,"abc":10,"x":{"Ab":10}}', b'{"AB":9,"abc":10,"x":{"Ab":10}}', "clamp=ab"),
        (
            Clamp(at("o.k"), 5),
            b'{"o":{"\\u212a":1,"k":6,"K":2}}',
            '{"o":{"\u212a":5,"k":6,"K":5}}'.encode(),
            "clamp=o.k",
        ),
    ],
)
def test_a_change_does_what_its_entry_names(change: Change, body, becomes, entry):
    changed, made = apply_changes(a_call(body), [change])
    assert (changed.body, changed.adapted, made) == (becomes, (entry,), [change])


@pytest.mark.parametrize(
    ("change", "body"),
    [
        (Drop(at("a")), b'{"b":1}'),
        (Drop(at("a"), frozenset(("null",))), b'{"a":0}'),
        (Drop(at("a"), frozenset(("1",))), b'{"a":"1"}'),
        (DropTools("web"), b'{"tools":[{"type":"web"},{"type":"web"}]}'),
        (DropTools("web"), b'{"tools":[{"type":"web"},{"type":"x"}],"tool_choice":{"type":"web"}}'),
        (DropTools("web"), b'{"tools":[{"type":"web","name":"w"},{"type":"x"}],"tool_choice":{"name":"w"}}'),
        (DropTools("web"), b'{"tools":[{"type":"x"}]}'),
        (Rename(at("a"), "b"), b'{"b":1}'),
        (Set(at("a"), b"2"), b'{"a":2}'),
        (Set(at("a.b"), b"2", only_there=True), b"{}"),
        (Set(at("a"), b"2", only=frozenset(("1",))), b'{"a":3}'),
        (Set(at("a"), b"2", only=frozenset(("1",))), b"{}"),
        (Default(at("a"), b"2"), b'{"a":null}'),
        (Clamp(at("a"), 0, 1), b'{"a":1}'),
        (Clamp(at("a"), 0, 1), b'{"a":"9"}'),
        (Clamp(at("a"), 0, 1), b'{"a":true}'),
    ],
)
def test_a_change_that_has_nothing_to_do_leaves_the_call_as_it_is(change: Change, body):
    call = a_call(body)
    assert normalize(call, TARGET, (ChangeRule("rules", (change,)),)) is call


def test_a_path_of_a_setting_may_name_tools_by_their_type():
    assert dropped("tools[web_search_20250305]") == DropTools("web_search_20250305")
    assert dropped("tools[].strict") == Drop(at("tools[].strict"))
    with pytest.raises(ValueError, match="member"):
        dropped("tools[a b]")


def test_unstreamed_set_does_not_change_streams():
    change, body = Set(at("a"), b"2", only_there=True, unstreamed=True), b'{"a":1,"stream":true}'
    assert effective([change], a_call(body, stream=False))
    assert not effective([change], a_call(body, stream=True))


def test_a_body_of_too_many_values_concerns_no_change():
    call = a_call(b"{" + b'"m":0,' * 60_000 + b'"a":1}')
    assert not effective([Drop(at("a"))], call)
    assert effective([Drop(at("a"))], a_call(b'{"a":1}'))
    assert not effective([Drop(at("a"))], a_call(b"", MODELS))


BODY = b'{"a":1,"o":{"p":{"q":2}},"l":[{"n":1,"m":[{"k":1},{"k":2}]},5,{"n":3}],"s":"x"}'


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("a", [b"1"]),
        ("o.p.q", [b"2"]),
        ("l[].n", [b"1", b"3"]),
        ("l[].m[].k", [b"1", b"2"]),
        ("l.n", []),
        ("o[].p", []),
        ("s.x", []),
        ("z.y", []),
        ("z[].y", []),
    ],
)
def test_member_path_finds_every_object(written, found):
    place, editor = JsonMemberPath.parse(written), Draft(a_call(BODY))
    assert [owner.text(place.name) for owner in place.owners(editor)] == found
    assert place.dotted == written


def test_missing_objects_on_the_path_are_added_on_request():
    editor = Draft(a_call(BODY))
    for written in ("z.y.x", "l[].new.k", "none[].k", "fresh.none[].k"):
        for owner in JsonMemberPath.parse(written).owners(editor, make=True):
            owner.set(JsonMemberPath.parse(written).name, b"1")
    assert json.loads(editor.top.text("z") or b"") == {"y": {"x": 1}}
    assert json.loads(editor.top.text("l") or b"")[2] == {"n": 3, "new": {"k": 1}}
    assert not {"none", "fresh"} & set(editor.top.names)


@pytest.mark.parametrize("written", ["", ".", "a.", ".a", "a[]", "a[0].b", "a b", "1a", "a..b", "a" * 65, "é", "a\n"])
def test_invalid_member_path_is_refused(written):
    with pytest.raises(ValueError, match="expects the name of a member"):
        JsonMemberPath.parse(written)


@pytest.mark.parametrize(
    ("change", "body", "becomes"),
    [
        (
            Clamp(at("max_tokens"), most=4096),
            b'{"max_tokens":9999,"thinking":{"budgetTokens":9000}}',
            b'{"max_tokens":4096,"thinking":{"budgetTokens":2048}}',
        ),
        (
            Clamp(at("max_completion_tokens"), most=1025.5),
            b'{"max_completion_tokens":9999,"Thinking":{"type":"enabled","budget_tokens":2000}}',
            b'{"max_completion_tokens":1025.5,"Thinking":{"type":"enabled","budget_tokens":1024}}',
        ),
        (
            Clamp(at("max_new_tokens"), most=500),
            b'{"max_new_tokens":9999,"thinking":{"type":"enabled","budget_tokens":2000}}',
            b'{"max_new_tokens":500,"thinking":{"type":"disabled"}}',
        ),
        (  # a budget that fits, none, and a limit that was not lowered
            Clamp(at("max_tokens"), most=4096),
            b'{"max_tokens":9999,"thinking":{"budget_tokens":4095}}',
            b'{"max_tokens":4096,"thinking":{"budget_tokens":4095}}',
        ),
        (
            Clamp(at("max_tokens"), most=4096),
            b'{"max_tokens":9999,"thinking":{"type":"adaptive"}}',
            b'{"max_tokens":4096,"thinking":{"type":"adaptive"}}',
        ),
        (
            Clamp(at("top_k"), most=10),
            b'{"top_k":11,"thinking":{"budget_tokens":4096}}',
            b'{"top_k":10,"thinking":{"budget_tokens":4096}}',
        ),
        (
            Clamp(at("max_tokens"), least=16),
            b'{"max_tokens":5,"thinking":{"budget_tokens":4096}}',
            b'{"max_tokens":16,"thinking":{"budget_tokens":4096}}',
        ),
    ],
)
def test_a_lowered_limit_of_the_answer_leaves_room_for_thoughts(change, body, becomes):
    changed, _ = apply_changes(a_call(body), [change])
    assert changed.body == becomes
