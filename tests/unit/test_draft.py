"""Drafts: what a change does by value, and the bytes that none of them touches."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.draft import PASSED_BYTES, Draft
from gatepass.errors import BodyTooComplex, InvalidJson
from gatepass.json_body import MAX_DEPTH, MOST_MEMBERS
from tests.memory import traced_memory
from tests.unit.normalize.calls import a_call
from tests.unit.protocols.json_texts import STRINGS, VALUES, written

BODY = b'{ "a" : 1 ,\n "b":[ {"x": "\\u00e9"} , 2 ], "c" : {"d":null}, "e":"s" }'


def editor(body: bytes = BODY) -> Draft:
    return Draft(a_call(body))


def test_rename_to_an_existing_name_keeps_the_existing_member():
    under_way = editor()
    assert under_way.top.rename("a", "e")
    assert json.loads(under_way.finished().body) == {"b": [{"x": "é"}, 2], "c": {"d": None}, "e": "s"}


def test_last_of_several_members_with_one_name_is_used():
    under_way = editor(b'{"a":1,"a":2,"b":3}')
    assert under_way.top.text("a") == b"2"
    under_way.top.rename("a", "c")
    assert under_way.finished().body == b'{"c":2,"b":3}'
    under_way = editor(b'{"a":1,"a":2,"b":3}')
    assert under_way.top.drop("a")
    assert under_way.finished().body == b'{"b":3}'


def test_replaced_value_gets_a_new_editor():
    under_way = editor()
    inner = under_way.top.object("c")
    assert inner is not None
    inner.set("d", b"1")
    assert under_way.top.set("c", b'{"d":5}')
    inner = under_way.top.object("c")
    assert inner is not None
    inner.set("f", b"6")
    assert json.loads(under_way.finished().body)["c"] == {"d": 5, "f": 6}


def test_elements_of_a_list_go_and_come():
    under_way = editor(b'{"l":[ 1, {"a":2} ,3 ],"e":[]}')
    elements, empty = under_way.top.array("l"), under_way.top.array("e")
    assert elements is not None
    assert empty is not None
    elements.drop((0,))
    elements.insert(0, b'"new"')
    assert [element.kind for element in elements] == ['"', "{", "3"]
    (inner,) = elements.objects()
    inner.set("a", b"5")
    empty.insert(0, b"1")
    assert under_way.finished().body == b'{"l":["new",{"a":5},3],"e":[1]}'
    while len(elements) > 1:
        elements.drop((1,))
    assert under_way.finished().body == b'{"l":["new"],"e":[1]}'


ACTIONS = st.lists(st.tuples(st.sampled_from(["drop", "set", "rename"]), STRINGS, STRINGS, VALUES), max_size=6)


@given(st.data())
def test_the_editor_does_what_a_dict_does(data):
    value: dict[str, Any] = data.draw(st.dictionaries(STRINGS, VALUES, max_size=4))
    body = data.draw(written(value)).encode()
    model = dict(json.loads(body))
    under_way = editor(body)
    for action, name, other, new in data.draw(ACTIONS):
        if action == "drop":
            assert under_way.top.drop(name) == (name in model)
            model.pop(name, None)
        elif action == "set":
            under_way.top.set(name, json.dumps(new).encode())
            model[name] = json.loads(json.dumps(new))
        else:
            expected = name in model and name != other
            assert under_way.top.rename(name, other) == expected
            if expected and other in model:
                del model[name]
            elif expected:
                model = {other if key == name else key: value for key, value in model.items()}
    assert list(json.loads(under_way.finished().body).items()) == list(model.items())
    for name in model:
        assert json.loads(under_way.top.text(name) or b"") == model[name]


@pytest.mark.parametrize("role", [b'"x"', b'"user"'])
def test_many_changes_of_a_large_body_copy_it_once(role):
    """Also changes of its own members alone."""
    image = "A" * 4_000_000
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": image}}]}]
    body = json.dumps({"model": "m", "messages": messages, **{f"n{at}": at for at in range(20)}}).encode()
    with traced_memory() as memory:
        under_way = editor(body)
        for at in range(20):
            under_way.top.drop(f"n{at}")
        if role != b'"user"':
            under_way.messages[0].set("role", role)
        result = under_way.finished().body
    assert json.loads(result)["messages"][0]["role"] == json.loads(role)
    assert memory.peak_bytes < 1.1 * len(body)


def test_elements_that_do_not_change_are_copied_once():
    body = b'{"l":[%b]}' % b",".join([b'"%b"' % (b"A" * 100_000)] * 30)
    with traced_memory() as memory:
        under_way = editor(body)
        elements = under_way.top.array("l")
        assert elements is not None
        elements.insert(15, b"1")
        result = under_way.finished().body
    assert json.loads(result)["l"][14:17] == ["A" * 100_000, 1, "A" * 100_000]
    assert memory.peak_bytes < 1.1 * len(body)


def test_rules_share_one_draft_and_a_body_is_written_once():
    under_way = editor(b'{ "model" : "m","a":[ {"b" : 1} ] }')
    under_way.name_model("n")
    assert under_way.finished().body == b'{ "model" : "n","a":[ {"b" : 1} ] }'
    top = under_way.finished().top
    assert top is not None
    assert [bytes(value) for _, value in top.listed] == [b'"n"', b'[ {"b" : 1} ]']
    under_way.top.drop("c")
    under_way.top.set("d", b"2")
    assert under_way.finished().body == b'{"model":"n","a":[ {"b" : 1} ],"d":2}'
    assert under_way.finished().top is None


def test_what_rules_open_is_bounded():
    under_way = editor(b'{"messages":[%b]}' % b",".join([b"{}"] * (MOST_MEMBERS + 1)))
    with pytest.raises(BodyTooComplex, match="would open more than"):
        assert under_way.messages


def opened_to(levels: int, inner: bytes = b"") -> Draft:
    under_way = editor(b'{"a":%b,"d":1}' % (b'{"a":' * (levels - 1) + b"[%b]" % inner + b"}" * (levels - 1)))
    owner = under_way.top
    while (found := owner.object("a")) is not None:
        owner = found
    assert owner.array("a") is not None
    return under_way


def test_a_body_is_deep_only_for_what_opens_it():
    assert opened_to(MAX_DEPTH - 1).top.drop("d")
    with pytest.raises(InvalidJson, match="deeper than 64 levels"):
        opened_to(MAX_DEPTH)
    under_way = editor(b'{"a":%b,"d":1}' % (b"[" * 500 + b"]" * 500))
    assert under_way.top.drop("d")
    assert under_way.finished().body == b'{"a":%b}' % (b"[" * 500 + b"]" * 500)


def test_a_text_that_is_opened_at_every_level_is_refused():
    with pytest.raises(BodyTooComplex, match="many levels"):
        opened_to(MAX_DEPTH - 2, b'"%b"' % (b"x" * PASSED_BYTES))
