"""Positions and edits in JSON text, against what the standard parser reads."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass import json_scan
from gatepass.errors import BodyTooComplex, InvalidRequest
from gatepass.json_body import MOST_SLOW_NUMBERS, SMALL_BYTES, has_slow_numbers
from gatepass.json_scan import (
    MOST_PART_BYTES,
    NAME_BYTES,
    PART_BYTES,
    WINDOW_BYTES,
    Edit,
    JsonScanner,
    any_of,
    at_most_once,
    edited,
    has_more_escapes,
    has_more_values,
    may_name,
    occurrences,
    place_of,
    top_members,
    value_span,
)
from tests.unit.protocols.json_texts import STRINGS, VALUES, written

OBJECTS = st.dictionaries(STRINGS, VALUES, max_size=5)


@given(st.data())
def test_members_are_those_of_the_object_in_order(data):
    value = data.draw(OBJECTS)
    text = data.draw(written(value)).encode()
    listed = list(JsonScanner(text).members())
    assert [(member.name, json.loads(text[member.value : member.end])) for member in listed] == list(value.items())
    assert [json.loads(b"{" + text[member.start : member.end] + b"}") for member in listed] == [
        {name: inner} for name, inner in value.items()
    ]


@given(st.data())
def test_elements_are_those_of_the_array_in_order(data):
    value = data.draw(st.lists(VALUES, max_size=5))
    text = data.draw(written(value)).strip().encode()
    assert [json.loads(text[start:end]) for start, end in JsonScanner(text).elements(0)] == value


@given(st.data())
def test_the_span_of_a_value_holds_the_value_alone(data):
    value = data.draw(OBJECTS)
    value["model"] = data.draw(VALUES)
    text = data.draw(written(value)).encode()
    start, end = value_span(text, b'"model"')
    assert json.loads(text[start:end]) == value["model"]
    assert json.loads(text[:start] + b'"new"' + text[end:]) == {**value, "model": "new"}


@given(st.data())
def test_may_name_is_false_only_without_a_member_at_any_depth(data):
    value = data.draw(VALUES)
    text = data.draw(written(value)).encode()
    if not may_name(text, any_of("images", "drop_params")):
        assert not _names(value) & {"images", "drop_params"}


def _names(value):
    if isinstance(value, dict):
        return set(value).union(*map(_names, value.values()))
    return set().union(*map(_names, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize(
    ("text", "span"),
    [
        (b'{"model":"m"}', b'"m"'),
        (b'{"metadata":{"model":"inner"},"model":"m"}', b'"m"'),
        (b'{"model":"m","metadata":{"model":"inner"}}', b'"m"'),
        (b'{"a":"model","model":"m"}', b'"m"'),
        (b'{"a":"say \\"model","model" :\n"m" }', b'"m"'),
        (b'{"mod\\u0065l":"m"}', b'"m"'),
        (b'{"a":"\\\\u0065","model":"a\\"b\\\\"}', b'"a\\"b\\\\"'),
        (b'{"model":[{"a":"]"}]}', b'[{"a":"]"}]'),
        (b'{"model":1,"model":2}', b"2"),
        (b'{"model":-1.5e9}', b"-1.5e9"),
        (b'{"say \\"model":1,"large":"%b","model":"m"}' % (b"x" * SMALL_BYTES), b'"m"'),
    ],
)
def test_a_value_is_found_among_decoys(text, span):
    start, end = value_span(text, b'"model"')
    assert text[start:end] == span


LARGE = "é" * SMALL_BYTES


@given(st.data())
def test_place_of_and_a_scan_find_the_same_member(data):
    value, large = data.draw(OBJECTS), data.draw(st.sampled_from(['say \\"model": ', "model", '{"model":"m"}', "[{"]))
    inner = data.draw(st.lists(OBJECTS | st.just({"model": "inner"}), max_size=4))
    others = [(name, held) for name, held in value.items() if name != "model"]
    members = [*others, ("model", "m"), ("large", large + LARGE + large), ("inner", inner), ("tail", value)]
    text = data.draw(written(dict(data.draw(st.permutations(members))))).encode()
    at = place_of(text, b'"model"')
    assert at in (-1, next(member.start for member in JsonScanner(text).members() if member.name == "model"))
    start, end = value_span(text, b'"model"')
    assert text[start:end] == b'"m"' or json.loads(text[start:end]) == "m"


SIGNS = STRINGS | st.sampled_from([", [", ',"', "\\", '\\"', '"', "{}[],"]).map(lambda text: text * 3)


@given(st.data(), st.sampled_from([1, 7, 64, 1 << 18]))
def test_commas_and_brackets_outside_of_texts_are_counted(data, window_bytes):
    value = data.draw(st.lists(st.one_of(SIGNS, st.dictionaries(SIGNS, VALUES, max_size=3), OBJECTS), max_size=12))
    text, count = data.draw(written(value)).encode(), _signs(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "WINDOW_BYTES", window_bytes)
        assert has_more_values(text, count - 1)
        assert not has_more_values(text, count)


@given(st.data(), st.sampled_from([1, 7, 64]))
def test_members_are_the_same_in_windows_of_any_size(data, window_bytes):
    text = data.draw(written(data.draw(st.dictionaries(SIGNS, VALUES | SIGNS | OBJECTS, max_size=4)))).encode()
    whole = list(JsonScanner(text).members())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "WINDOW_BYTES", window_bytes)
        assert list(JsonScanner(text).members()) == whole


@given(st.data(), st.integers(0, 2 * NAME_BYTES), st.booleans())
def test_a_name_is_found_across_windows(data, before_bytes, is_text):
    name = data.draw(written("model")).encode()
    value = data.draw(written(data.draw(st.lists(SIGNS | VALUES, max_size=12)))).encode()
    filler = b'"%b"' % (b'\\"' * before_bytes if is_text else b"a" * before_bytes)
    text = b'{"x":%b,"y":%b,%b:1,"z":%b}' % (filler, value, name, value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "WINDOW_BYTES", NAME_BYTES)
        patch.setattr(json_scan, "SMALL_BYTES", 0)
        patch.setattr(json_scan, "MANY_QUOTES_BYTES", 0)
        assert may_name(text, any_of("other", "model"))
        assert not at_most_once(b'{"model":2,' + text[1:], b'"model"')


def _signs(value):
    """The number of commas and brackets in the JSON text of `value`."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return 0
    return 2 + max(0, len(value) - 1) + sum(map(_signs, value))


@pytest.mark.parametrize("filler", [b"", b"a" * 3 * WINDOW_BYTES])
def test_backslashes_are_counted(filler):
    text = b"".join((b"\\n\\\\", filler)) * 10
    assert has_more_escapes(text, 29)
    assert not has_more_escapes(text, 30)


@pytest.mark.parametrize("inside", ['"a",' * 300 + "1", "[[]]," * 300 + "{}", '{"a":"]"},' * 300 + "NaN"])
def test_a_long_value_ends_where_its_steps_end(inside, monkeypatch):
    text = f'{{"a":[{inside}] ,"b":2}}'.encode()
    found = list(JsonScanner(text).members())
    monkeypatch.setattr(json_scan, "SHORT_STEPS", 1_000_000)
    assert list(JsonScanner(text).members()) == found
    assert [member.name for member in found] == ["a", "b"]


@given(st.data())
def test_members_of_the_top_level_are_listed_with_duplicates(data):
    names = st.sampled_from(["a", "model", "é", 'q"', "\\"]) | STRINGS
    listed = data.draw(st.lists(st.tuples(names, VALUES), max_size=6))
    blank = data.draw(st.sampled_from(["", " ", "\n\t"]))
    inside = f"{blank},{blank}".join(f"{json.dumps(name)}{blank}:{blank}{json.dumps(value)}" for name, value in listed)
    text = f"{blank}{{{blank}{inside}{blank}}}{blank}".encode()
    assert [(one.name, json.loads(text[one.value : one.end])) for one in top_members(text)] == listed


def test_a_top_level_of_many_members_is_refused():
    text = b"{%b}" % b",".join([b'"a":0'] * 1_001)
    with pytest.raises(BodyTooComplex):
        top_members(text)


def test_a_name_of_megabytes_is_refused():
    with pytest.raises(InvalidRequest, match="name that is longer"):
        top_members(b'{"%b":0}' % (b"n" * 20_000))


@pytest.mark.parametrize("spelled", [b'"images"', b'"im\\u0061ges"', b'"\\u0069mages"', b'"image\\u0073"'])
def test_may_name_finds_a_name_at_every_position_of_a_large_text(spelled):
    """Large texts are searched in parts that begin with a quote: the name is placed on all of their borders."""
    names, rest = any_of("images"), b':0,"z":"' + b"z" * SMALL_BYTES + b'"}'
    for length in range(PART_BYTES + NAME_BYTES + len(spelled)):
        text = b'{"a":"' + b"a" * length + b'",' + spelled + rest
        assert may_name(text, names)
        assert not may_name(text.replace(spelled, b'"imagos"'), names)


@pytest.mark.parametrize("spelled", [b'"images"', b'"im\\u0061ges"', b'"' + b"\\u0069" * 14 + b'"'])
def test_may_name_finds_a_name_at_every_position_among_short_strings(spelled):
    """Parts grow among short strings and end before a quote."""
    short = b'"b","b\'",' * (2 * MOST_PART_BYTES // 10)
    for at in range(0, len(short), 10):
        text = b"[" + short[:at] + spelled + b"," + short[at:] + b"0]"
        for shift in (b"", b" ", b"   ", b" " * 7):
            assert may_name(shift + text, any_of("images"))
    assert not may_name(b"[" + short + b"0]", any_of("images"))


@pytest.mark.parametrize("filler", [b"y", b"y" * SMALL_BYTES])
def test_repeated_names_are_found_in_all_parts(filler):
    inner = b'{"model":"' + b"x" * 3 * PART_BYTES + b'"}'
    end = b',"a":"' + filler + b'","model":""}'
    assert at_most_once(b'{"b":0' + end, b'"model"')
    assert not at_most_once(b'{"b":' + inner + end, b'"model"')
    assert at_most_once(b'{"b":' + inner + end, b'"stream"')
    assert not at_most_once(b'{"\\u006d":0' + end, b'"model"')
    for escape in (b"\\u00e9", b"\\u0040", b"\\u0060", b"\\u000a", b"\\u002f", b"\\u007f", b"\\u0030"):
        assert at_most_once(b'{"a":"' + escape + b'"}', b'"model"'), "an escape of another character"


def test_edits_are_applied_in_order_of_position():
    edits = [Edit(4, 5, (b"E",)), Edit(1, 2), Edit(1, 1, (b"+",))]
    assert edited(b"abcdef", edits) == b"a+cdEf"


def test_a_scan_ends_at_its_step_limit():
    text = b"{" + b",".join(b'"%d":0' % at for at in range(100)) + b"}"
    assert list(JsonScanner(text).members())
    with pytest.raises(InvalidRequest, match="too many small values"):
        list(JsonScanner(text, steps_left=400).members())


def _walk_down(scanner):
    at = 0
    for _ in range(40):
        at = next(scanner.members(at)).value


def test_passes_over_a_long_value_count_as_steps():
    text = b'{"a":' * 40 + b'{"b":["%b"%b]}' % (b"x" * 1_000_000, b',""' * 200) + b"}" * 40
    scanner = JsonScanner(text, steps_left=20_000)
    with pytest.raises(InvalidRequest, match="too many small values"):
        _walk_down(scanner)


def test_the_elements_of_an_array_count_as_steps():
    with pytest.raises(InvalidRequest):
        list(JsonScanner(b"[" + b"0," * 200 + b"0]", steps_left=400).elements(0))


@pytest.mark.parametrize(
    "text", [b'{"a"', b'{"a" 1}', b'{"a":}', b'{"a":"', b'{"a":"\\"', b'{"a":[', b"{", b'{"a":{"b":1}']
)
def test_text_that_is_not_json_ends_the_scan(text):
    with pytest.raises((ValueError, IndexError)):
        list(JsonScanner(text).members())


@given(st.text("ab,[{", max_size=200), st.integers(0, 50))
def test_occurrences_are_counted_up_to_a_limit(text, most):
    counts = [text.count(sign) for sign in ",["]
    counted = occurrences(text.encode(), b",[", most)
    assert (counted > most) == (sum(counts) > most)
    assert counted == sum(min(count, most + 1) for count in counts)


@given(
    st.lists(st.sampled_from([b"1e300", b"-5E-324", b"1e5", b"0.5", b"12", b'"been,"']), min_size=1, max_size=6),
    st.integers(0, 3_000),
)
def test_slow_numbers_are_detected_as_by_counting_all(numbers, count):
    text = b"[%b]" % b",".join(numbers * (count // len(numbers) + 1))
    is_slow = text.count(b",") >= MOST_SLOW_NUMBERS and len(re.findall(rb"[eE][+-]?\d{3}", text)) > MOST_SLOW_NUMBERS
    assert has_slow_numbers(text) == is_slow
