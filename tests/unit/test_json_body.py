"""JSON opened one level at a time, against what the standard parser reads; and what is refused before it is read."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass import json_body
from gatepass.errors import BodyTooComplex, GatepassError, InvalidJson, InvalidRequest
from gatepass.json_body import (
    CHECKED_BYTES,
    COUNTED_BYTES,
    LONGEST_NAME_BYTES,
    MOST_ESCAPES,
    MOST_MEMBERS,
    MOST_OPENED,
    MOST_SIGNS,
    SMALL_BYTES,
    UNCOUNTED_BYTES,
    TopLevel,
    check_signs,
    elements,
    folded,
    has_more,
    kind,
    lacks,
    members,
    members_of_each,
    opened,
    places,
    searched,
    string,
    utf8_fault,
)
from tests.unit.protocols.json_texts import STRINGS, VALUES, written

OBJECTS = st.dictionaries(STRINGS, VALUES, max_size=5)
FILLED = COUNTED_BYTES + 1


@given(st.data())
def test_an_object_is_opened_as_the_standard_parser_reads_it(data):
    value = data.draw(OBJECTS)
    text = data.draw(written(value)).encode()
    listed = members(text)
    assert [(name, json.loads(bytes(inner))) for name, inner in listed] == list(value.items())
    assert opened(text).keys() == value.keys()
    for place, (name, inner) in zip(places(text, listed), listed, strict=True):
        assert (place.name, text[place.value : place.end]) == (name, bytes(inner))
        assert json.loads(b"{%b}" % text[place.start : place.end]) == {name: value[name]}


def value_of(top: TopLevel, name: str) -> Any:
    """The value of a member as Python's: what is opened has the texts of its values."""
    found = top.get(name)
    if isinstance(found, list):
        return [json.loads(bytes(one)) for one in found]
    if isinstance(found, dict):
        return {inner: json.loads(bytes(one)) for inner, one in found.items()}
    return json.loads(bytes(found)) if isinstance(found, msgspec.Raw) else found


@given(st.data())
def test_a_body_that_is_opened_in_one_pass_is_the_same_as_a_larger_one_and_one_of_known_members(data):
    value = data.draw(OBJECTS)
    text = data.draw(written(value)).encode()
    for top in (TopLevel(text), TopLevel(text + b" " * SMALL_BYTES), TopLevel(text, members(text))):
        assert top.names == list(value)
        assert [bytes(inner) for _, inner in top.listed] == [bytes(inner) for _, inner in members(text)]
        assert {name: value_of(top, name) for name in value} == value
        assert top.get("absent") is None


@pytest.mark.parametrize(
    "wrong", [b'["\xff"]', b'{"b":"\xc3"}', b'[["\xed\xa0\x80"]]', b'["a","\xc3\xa9",["\xc0\x80"]]']
)
def test_invalid_utf8_in_what_is_not_built_is_found(wrong):
    text = b'{"a":%b}' % wrong
    assert TopLevel(text).names == ["a"]
    assert utf8_fault(text) is not None


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "\\u0061"]), st.integers(0, 9)), max_size=6))
def test_repeated_names_are_listed_and_the_last_is_used(listed):
    text = ("{" + " ,\n".join(f'"{name}" : {value}' for name, value in listed) + "}").encode()
    plain = [(json.loads(f'"{name}"'), value) for name, value in listed]
    assert [(name, int(bytes(value))) for name, value in members(text)] == plain
    assert {name: int(bytes(value)) for name, value in opened(text).items()} == dict(plain)
    assert [one.name for one in places(text, members(text))] == [name for name, _ in plain]


@pytest.mark.parametrize("more", [b'{"a":1}', b"[1]", b'{"b":"%b"}' % (b"x" * UNCOUNTED_BYTES)])
def test_the_members_of_objects_are_those_of_each(more):
    values = elements(b'[{"a":1,"a":{"b":2}},%b,{},{"\\u0061":[]}]' % more)
    assert [*members_of_each(values)] == [members(one) for one in values if kind(one) == "{"]
    with pytest.raises(InvalidRequest, match="member name that is longer"):
        [*members_of_each(elements(b'[{"%b":1},%b]' % (b"n" * (LONGEST_NAME_BYTES + 1), more)))]


@given(st.data())
def test_a_list_is_opened_as_the_standard_parser_reads_it(data):
    value = data.draw(st.lists(VALUES, max_size=5))
    found = elements(data.draw(written(value)).encode())
    assert [json.loads(bytes(inner)) for inner in found] == value
    assert [string(inner) for inner in found if kind(inner) == '"'] == [one for one in value if isinstance(one, str)]


@pytest.mark.parametrize(("wrong", "at"), [(b"\xff", 0), (b"a\xc3", 1), (b"\xed\xa0\x80", 0), (b"\xc0\x80", 0)])
@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("filler", ["é", "😀", "x"])
def test_invalid_utf8_is_found_at_its_place(wrong, at, shift, filler):
    start = b"x" * shift + filler.encode() * CHECKED_BYTES
    assert utf8_fault(start + b"y" * CHECKED_BYTES) is None
    assert utf8_fault(start) is None
    fault = utf8_fault(start + wrong + b'"}')
    assert fault is not None
    assert fault.start == len(start) + at


WRONG_BYTES = st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"])


@given(st.lists(st.text().map(str.encode) | st.binary(max_size=4) | WRONG_BYTES))
def test_utf8_is_judged_as_python_decodes_it(pieces):
    text = b"".join(pieces)
    expected = None
    try:
        text.decode()
    except UnicodeDecodeError as error:
        expected = (error.reason, error.start)
    for answer, part_bytes in ((json_body._LACKING, CHECKED_BYTES), (json_body._LACKING, 8), ("another", 8)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_body, "_LACKING", answer)  # after another the loop alone decides
            patch.setattr(json_body, "ONE_PASS_BYTES", part_bytes)
            fault = utf8_fault(text)
            assert (fault and (fault.reason, fault.start)) == expected


@given(st.lists(st.sampled_from(["image", '"', ",", "é", "xx"])), st.sampled_from([2, 8, CHECKED_BYTES]))
def test_what_a_text_lacks_is_not_in_it(pieces, part_bytes):
    text = "".join(pieces).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_body, "ONE_PASS_BYTES", part_bytes)
        found = lacks(text, searched('"image"'))
    assert not (found and b'"image"' in text)
    if part_bytes == CHECKED_BYTES:
        assert found == (b'"image"' not in text)


@given(st.binary(max_size=40), st.integers(0, 40))
def test_signs_are_counted(text, most):
    assert has_more(text, b"a,", most) == (text.count(b"a") + text.count(b",") > most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_body, "CHECKED_BYTES", 3)
        assert has_more(text, b"a,", most) == (text.count(b"a") + text.count(b",") > most)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"[" + b"1," * MOST_OPENED + b"1]", None),
        (b"[" + b"1," * (MOST_OPENED + 1) + b"1]", BodyTooComplex),
        (b"{" + b",".join(b'"%d":1' % at for at in range(MOST_MEMBERS)) + b"}", None),
        (b"{" + b",".join(b'"%d":1' % at for at in range(MOST_MEMBERS + 1)) + b"}", BodyTooComplex),
        (b'{"' + b"x" * LONGEST_NAME_BYTES + b'":1}', None),
        (b'{"' + b"x" * (LONGEST_NAME_BYTES + 1) + b'":1}', InvalidRequest),
    ],
    ids=["list", "long list", "object", "large object", "name", "long name"],
)
def test_what_is_opened_is_bounded(text, error):
    open_ = members if text.startswith(b"{") else elements
    if error is None:
        assert len(open_(text)) > 0
    else:
        with pytest.raises(error):
            open_(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"[" + b"[]," * (MOST_SIGNS // 2) + b"[]]" + b" " * FILLED, BodyTooComplex),
        (b'"' + b"\\n" * (MOST_ESCAPES + 1) + b" " * FILLED, BodyTooComplex),
        (b'{"' + b"x" * FILLED + b'" : 1}', InvalidRequest),
        (b'{"' + b'aa\\"' * (FILLED // 4) + b'": 1}', InvalidRequest),
        (b'{"a":"' + b'aa\\"' * (FILLED // 4) + b'"}', None),
        (b'{"a":"' + b"x" * FILLED + b'","b":1}', None),
    ],
    ids=["signs", "escapes", "name", "escaped name", "escaped text", "text"],
)
def test_what_takes_long_is_refused_before_it_is_read(text, error):
    if error is None:
        check_signs(text)
    else:
        with pytest.raises(error):
            check_signs(text)


@pytest.mark.parametrize(("read", "before", "after"), [(elements, b"[", b"]"), (members, b'{"a":', b"}")])
def test_a_text_that_is_too_deep_for_the_decoder_is_refused(read, before, after):
    deep = before * 100_000 + b"0" + after * 100_000
    for opened_by, text in ((read, deep), (TopLevel, b'{"a":%b}' % deep)):
        with pytest.raises(InvalidJson, match="deeper than 64 levels"):
            opened_by(text)
    with pytest.raises(InvalidJson, match="deeper than 64 levels"):
        [*members_of_each([msgspec.Raw(b'{"a":%b}' % deep)])]


@given(st.text(max_size=10))
def test_a_folded_name_is_in_lower_case(name):
    assert folded(name) == name.lower() or not name.isascii()
    assert folded("\u212aEY") == "key"


def test_a_wrong_text_is_an_error_of_msgspec():
    for read, text in ((members, b"[]"), (elements, b"{}"), (members, b'{"a":}')):
        with pytest.raises(msgspec.DecodeError):
            read(text)
    assert not issubclass(GatepassError, ValueError)
