import math

import pytest

from gatepass.config.document import DEEPEST, MOST_VALUES
from gatepass.config.problem import ConfigError
from gatepass.config.yaml_file import core_schema, parse_yaml


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml("f.yaml", text)
    return str(caught.value)


def test_values_come_with_the_lines_of_their_names():
    document = parse_yaml("f.yaml", "# head\na:\n  b: 1\n  c:\n    - x\n    - {d: y}\nt: |\n  two\n  lines\n")
    assert document.tree == {"a": {"b": 1, "c": ["x", {"d": "y"}]}, "t": "two\nlines\n"}
    assert {path: origin.line for path, origin in document.origins.items()} == {
        (): 2,
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "c"): 4,
        ("a", "c", 0): 5,
        ("a", "c", 1): 6,
        ("a", "c", 1, "d"): 6,
        ("t",): 7,
    }
    assert str(document.origin(("a", "b", "missing"))) == "f.yaml:3"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *(("12:30", "12:30"), ("no", "no"), ("on", "on"), ("2024-01-01", "2024-01-01"), ("1_000", "1_000"), ("=", "=")),
        *(("0o17", 15), ("0x1F", 31), ("017", 17), ("-3", -3), ("+3", 3), ("1e3", 1000.0), (".5", 0.5), ("1.", 1.0)),
        *(("~", None), ("null", None), ("Null", None), ("true", True), ("FALSE", False), ("nulL", "nulL")),
        *(("-.inf", -math.inf), (".INF", math.inf), ("1.2.3", "1.2.3"), ("'12'", "12"), ('"~"', "~")),
        *(("!!str 12", "12"), ("!!int '12'", 12)),
    ],
)
def test_a_word_means_what_yaml_1_2_says(word, value):
    found = parse_yaml("f.yaml", f"a: {word}\n").tree["a"]
    assert (type(found), found) == (type(value), value)


def test_a_value_that_is_not_there_is_null():
    assert parse_yaml("f.yaml", "a:\nb: 1\n").tree == {"a": None, "b": 1}


def test_not_a_number_is_a_float():
    found = core_schema(".nan")
    assert isinstance(found, float)
    assert math.isnan(found)


def test_a_number_of_thousands_of_digits_is_a_text():
    assert core_schema("9" * 5000) == "9" * 5000


def test_the_directive_of_yaml_1_1_changes_no_value():
    assert parse_yaml("f.yaml", "%YAML 1.1\n---\na: 12:30\nb: yes\n").tree == {"a": "12:30", "b": "yes"}


def test_an_empty_file_is_an_empty_block():
    assert parse_yaml("f.yaml", "# nothing\n").tree == {}


def test_anchors_and_aliases_repeat_a_block():
    document = parse_yaml("f.yaml", "a: &x {n: 1}\nb: *x\nc: &x 2\nd: *x\n")
    assert document.tree == {"a": {"n": 1}, "b": {"n": 1}, "c": 2, "d": 2}
    assert document.origin(("b",)).line == 2


def test_every_name_that_stands_twice_is_told_with_both_lines():
    document = parse_yaml("f.yaml", "a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert [str(problem) for problem in document.problems] == [
        "f.yaml:2: b.c: is written twice (first in line 2): keep one",
        "f.yaml:3: a: is written twice (first in line 1): keep one",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: b: c", "f.yaml:1: is not YAML: mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", "f.yaml:2: is not YAML: "),
        ("a: 1\nb: [1\n", "f.yaml:3: is not YAML: "),
        ("a: 1\nb: *nope\n", "f.yaml:2: is not YAML: found undefined alias 'nope'"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: is not YAML: but found another document"),
        ("a: 1\nb: '\x01'\n", "f.yaml:2: is not YAML: holds a control character"),
        ("a: 1\n<<: {b: 2}\n", "f.yaml:2: `<<` is of YAML 1.1"),
        ("a: 1\n? [b]\n: 2\n", "f.yaml:2: a name is expected before the colon"),
        ("a: 1\n: 2\n", "f.yaml:2: a name is expected before the colon"),
        (
            "a: !!python/object:os.system x\n",
            "f.yaml:1: the tag tag:yaml.org,2002:python/object:os.system is not known",
        ),
        ("a: !!binary aGk=\n", "f.yaml:1: the tag tag:yaml.org,2002:binary is not known"),
        ('a: "\\U00110000"\n', "f.yaml:1: is not YAML: an escape in it stands for no character"),
        ("a: &x [*x]\n", "is nested deeper than 64 levels"),
        ("[" * 1_000, "is nested deeper than 64 levels"),
    ],
)
def test_what_is_no_configuration_is_refused_with_its_line(text, told):
    assert told in refused(text)


def test_a_billion_laughs_end_early():
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    text = "\n".join(["l0: &l0 lol", *levels])
    assert f"holds more than {MOST_VALUES} values" in refused(text)


def test_the_deepest_file_is_taken_and_one_level_more_is_not():
    def nested(levels):
        return "[" * levels + "x" + "]" * levels

    assert parse_yaml("f.yaml", nested(DEEPEST)).tree
    assert "is nested deeper" in refused(nested(DEEPEST + 1))
