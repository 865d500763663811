import pytest

from gatepass.config.file import LARGEST_BYTES, read_document
from gatepass.config.problem import ConfigError, Origin, Problem, dotted


@pytest.mark.parametrize(
    ("name", "text"), [("f.yaml", "a: {b: 1}"), ("f.YML", "a: {b: 1}"), ("f.json", '\ufeff{"a": {"b": 1}}')]
)
def test_the_suffix_tells_the_format(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    document = read_document(str(tmp_path / name))
    assert document.tree == {"a": {"b": 1}}
    assert document.origin(("a", "b")) == Origin(str(tmp_path / name), 1)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("f.toml", b"a = 1", "expects a name that ends in .yaml, .yml or .json"),
        ("f.yaml", b"- a", "expects settings, as `name: value`"),
        ("f.json", b"1", "expects settings, as `name: value`"),
        ("f.yaml", b"a: \xff", "is not UTF-8 text"),
        ("f.yaml", b"#" * (LARGEST_BYTES + 1), f"is larger than {LARGEST_BYTES} bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, name, data, told):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_document(str(tmp_path / name))
    assert str(caught.value) == f"{tmp_path / name}: {told}"


def test_a_file_that_is_not_there_or_no_file_is_told_apart(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_document(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_document(str(tmp_path))


def test_problems_come_in_the_order_of_the_file():
    error = ConfigError([Problem(("b",), "y", Origin("f", 12)), Problem((), "z", Origin("f", 2))])
    assert str(error) == "f:2: z\nf:12: b: y"
    assert dotted(("access", "keys", 0, "name")) == "access.keys[0].name"
