import math

import pytest

from gatepass.config.document import DEEPEST, MOST_VALUES, ConfigError
from gatepass.config.yaml_file import parse_yaml, without_item


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
        ("a: 'x'\n'y' b: 2\n", "f.yaml:2: is not YAML: "),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: is not YAML: but found another document"),
        ("a: 1\nb: '\x01'\n", "f.yaml:2: is not YAML: holds a control character"),
        ("a: 1\n<<: {b: 2}\n", "f.yaml:2: `<<` is a feature of YAML 1.1"),
        ("a: 1\n: 2\n", "f.yaml:2: a name is expected before the colon"),
        ("a: !!binary aGk=\n", "f.yaml:1: the tag tag:yaml.org,2002:binary is not known"),
        ('a: "\\U00110000"\n', "f.yaml:1: is not YAML: holds an escape of a character that does not exist"),
        ("a: &x [*x]\n", "is nested deeper than 64 levels"),
    ],
)
def test_invalid_yaml_is_refused_with_its_line(text, expected):
    assert expected in refused(text)


def test_a_billion_laughs_end_early():
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    text = "\n".join(["l0: &l0 lol", *levels])
    assert f"holds more than {MOST_VALUES} values" in refused(text)


def test_file_of_the_deepest_level_is_accepted_and_one_more_is_refused():
    def nested(levels):
        return "[" * levels + "x" + "]" * levels

    assert parse_yaml("f.yaml", nested(DEEPEST)).tree
    assert "is nested deeper" in refused(nested(DEEPEST + 1))


LISTED = """access:
  keys:   # all
    # the first
    - {name: a}   # A
    # the second
    - name: b
      models:
        - x   # last

      # of b

    # the third
    - {name: c}
  # after
  open: 1
"""
BRACKETS = """access:
  keys: [   # one, two
    {name: a},   # first, of all
    {name: b},   # second
    {name: c}   # third
  ]
"""


@pytest.mark.parametrize("text", [LISTED, BRACKETS])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_item_is_removed_with_its_own_comments_alone(text, index):
    changed = without_item(text, ("access", "keys"), index) or ""
    names = [key["name"] for key in parse_yaml("", changed).tree["access"]["keys"]]
    assert names == [name for place, name in enumerate("abc") if place != index]
    gone = [line for line in text.splitlines() if line not in changed.splitlines()]
    own = {0: ["    - {name: a}   # A"], 1: LISTED.splitlines()[5:10], 2: ["    - {name: c}"]}
    assert (
        gone == [line for line in own[index] if line] if text is LISTED else "# first, of all" in changed or not index
    )
    assert without_item(text, ("access", "keys"), 3) is None


def test_the_only_item_leaves_an_empty_list_and_the_comments():
    assert without_item("access:\n  keys:   # k\n  # it\n  - {name: a}   # a\n# end\n", ("access", "keys"), 0) == (
        "access:\n  keys: []   # k\n  # it\n# end\n"
    )
    assert without_item("access: {keys: [{name: a}]}\n", ("access", "keys"), 0) == "access: {keys: []}\n"
