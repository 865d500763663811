import pytest

from gatepass.config.file import parse_json, value_of
from gatepass.config.problem import ConfigError


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_json("f.json", text)
    return str(caught.value)


def test_values_come_with_their_lines():
    text = '{\n\t"a": {"b": 1,\n\t\t"c": ["x",\n {"d{": "}\\"]"}]},\n"e": [], "f": {}, "g": null\n}\n'
    document = parse_json("f.json", text)
    assert document.tree == {"a": {"b": 1, "c": ["x", {"d{": '}"]'}]}, "e": [], "f": {}, "g": None}
    assert {path: origin.line for path, origin in document.origins.items()} == {
        (): 1,
        ("a",): 2,
        ("a", "b"): 2,
        ("a", "c"): 3,
        ("a", "c", 0): 3,
        ("a", "c", 1): 4,
        ("a", "c", 1, "d{"): 4,
        ("e",): 5,
        ("f",): 5,
        ("g",): 5,
    }
    assert document.problems == ()


def test_every_name_that_stands_twice_is_told_with_both_lines():
    document = parse_json("f.json", '{"a": 1,\n"b": {"c": 1, "\\u0063": 2},\n"a": 3}')
    assert [str(problem) for problem in document.problems] == [
        "f.json:2: b.c: is written twice (first in line 2): keep one",
        "f.json:3: a: is written twice (first in line 1): keep one",
    ]


def test_a_scalar_is_a_document_of_its_own():
    assert parse_json("f.json", ' "x" ').tree == "x"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "f.json:1: is not JSON: Expecting value"),
        ('{"a": 1,\n}', "f.json:"),
        ('{"a": 1}\n{', "f.json:2: is not JSON: Extra data"),
        ('{"a": NaN}', "holds a number that is none, or far too long"),
        ('{"a": -Infinity}', "holds a number that is none, or far too long"),
        ('{"a": ' + "9" * 5000 + "}", "holds a number that is none, or far too long"),
        ("[" * 100_000, "is nested deeper than 64 levels"),
        ("[" * 66 + "]" * 66, "is nested deeper than 64 levels"),
        ("[" + "1," * 20_000 + "1]", "holds more than 20000 values"),
    ],
)
def test_what_is_no_configuration_is_refused(text, told):
    assert told in refused(text)


def test_a_value_without_lines_is_read_and_never_quoted():
    assert value_of('{"a": [1]}') == {"a": [1]}
    for text, told in (('{"topsecret', "line 1, column 2"), ('["topsecret", NaN]', "a number that is none")):
        with pytest.raises(ValueError) as caught:
            value_of(text)
        assert told in str(caught.value)
        assert "topsecret" not in str(caught.value)
