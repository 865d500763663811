import math

import pytest

from gatepass.config.document import MOST_VALUES, ConfigError
from gatepass.config.yaml_file import parse_yaml


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml("f.yaml", text)
    return str(caught.value)


def test_values_have_the_lines_of_their_names():
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
        *(("12:30", "12:30"), ("no", "no"), ("on", "on"), ("2024-01-01", "2024-01-01"), ("=", "=")),
        *(("0o17", 15), ("0x1F", 31), ("017", 17), ("-3", -3), ("+3", 3), ("1e3", 1000.0), (".5", 0.5), ("1.", 1.0)),
        *(("~", None), ("null", None), ("Null", None), ("true", True), ("FALSE", False), ("nulL", "nulL")),
        *(("-.inf", -math.inf), (".INF", math.inf), ("1.2.3", "1.2.3"), ("'12'", "12"), ('"~"', "~")),
        *(("!!str 12", "12"), ("!!int '12'", 12)),
    ],
)
def test_a_word_has_its_yaml_1_2_meaning(word, value):
    found = parse_yaml("f.yaml", f"a: {word}\n").tree["a"]
    assert (type(found), found) == (type(value), value)


def test_anchors_and_aliases_repeat_a_block():
    document = parse_yaml("f.yaml", "a: &x {n: 1}\nb: *x\nc: &x 2\nd: *x\n")
    assert document.tree == {"a": {"n": 1}, "b": {"n": 1}, "c": 2, "d": 2}
    assert document.origin(("b",)).line == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: [1\n", "f.yaml:3: is not YAML: "),
        ("a: 1\nb: '\x01'\n", "f.yaml:2: is not YAML: holds a control character"),
        ("a: &x [*x]\n", "is nested too deeply"),
        ("[" * 500, "is nested too deeply"),
    ],
)
def test_invalid_yaml_is_refused_with_its_line(text, expected):
    """tests/golden/config_problems.txt has the other kinds."""
    assert expected in refused(text)


def test_aliases_of_aliases_end_early():
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert f"holds more than {MOST_VALUES} values" in refused("\n".join(["l0: &l0 text", *levels]))
    assert f"holds more than {MOST_VALUES} values" in refused(f"[{'1, ' * MOST_VALUES}]")
    assert len(parse_yaml("f.yaml", f"a: [{'1, ' * (MOST_VALUES - 2)}]").tree["a"]) == MOST_VALUES - 2


def test_an_alias_of_many_values_counts_with_each_use():
    many = f"a: &a [{'1, ' * 1_000}]\n"
    assert len(parse_yaml("f.yaml", many + "".join(f"b{n}: *a\n" for n in range(10))).tree) == 11
    assert f"holds more than {MOST_VALUES} values" in refused(many + "".join(f"b{n}: *a\n" for n in range(20)))
