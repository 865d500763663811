import os
from pathlib import Path

import pytest

from gatepass.config.document import ConfigError, ValueOrigin
from gatepass.config.file import DEFAULT_FILE, LARGEST_BYTES, configuration_file, read_document
from gatepass.config.yaml_file import parse_yaml


@pytest.mark.parametrize(
    ("name", "text"), [("f.yaml", "a: {b: 1}"), ("f.YML", "a: {b: 1}"), ("f.json", '\ufeff{"a": {"b": 1}}')]
)
def test_the_suffix_decides_the_format(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    document = read_document(str(tmp_path / name))
    assert document.tree == {"a": {"b": 1}}
    assert document.origin(("a", "b")) == ValueOrigin(str(tmp_path / name), 1)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("f.toml", b"a = 1", "expects a name that ends in .yaml, .yml or .json"),
        ("f.json", b"1", "expects settings, as `name: value`"),
        ("f.yaml", b"a: \xff", "is not UTF-8 text"),
        ("f.yaml", b"#" * (LARGEST_BYTES + 1), f"is larger than {LARGEST_BYTES} bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, name, data, expected):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_document(str(tmp_path / name))
    assert str(caught.value) == f"{tmp_path / name}: {expected}"


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize(
    "data", ['{"a": 1,\n"\\ud83d": 2}', '{"a": 1,\n"b": {"c": ["\\udE00"]}}', '{"a": 1,\n"\\ud83d": {}}']
)
def test_half_of_a_surrogate_pair_is_refused_with_its_line(tmp_path, suffix, data):
    """Found by the fuzzer of configurations: the error of another setting could not be encoded."""
    path = tmp_path / f"f.{suffix}"
    path.write_text(data)
    with pytest.raises(ConfigError, match=r":2: holds half of a surrogate pair"):
        read_document(str(path))


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_both_halves_are_one_character(tmp_path, suffix):
    (tmp_path / f"f.{suffix}").write_text('{"a": "\\ud83d\\ude00", "\\ud83d\\ude00": "\U0001f600"}')
    assert read_document(str(tmp_path / f"f.{suffix}")).tree == {"a": "\U0001f600", "\U0001f600": "\U0001f600"}


def test_a_missing_file_and_a_directory_have_different_messages(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_document(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_document(str(tmp_path))


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml("f.json", text)
    return str(caught.value)


def test_a_fault_of_json_is_named_as_one():
    assert "f.json:2: is not JSON: " in refused('{"a": 1}\n{')


def test_the_file_of_the_current_folder_is_refused_if_another_user_wrote_or_may_write_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configuration_file(None, {}) is None
    file, shared = Path(DEFAULT_FILE), "belongs to another user, or every user may write it"
    file.write_text("access: {}")
    for mode in (0o600, 0o644, 0o664):
        file.chmod(mode)
        assert configuration_file(None, {}) == DEFAULT_FILE
    file.chmod(0o666)
    with pytest.raises(ConfigError, match=shared):
        configuration_file(None, {})
    file.chmod(0o644)
    owner, stat = file.stat().st_uid, os.stat
    monkeypatch.setattr(os, "geteuid", lambda: owner + 7)
    # the tests may run as root, whose files every user may use
    monkeypatch.setattr(os, "lstat", lambda _: os.stat_result((0o120777, 0, 0, 1, owner + 8, 0, 0, 0, 0, 0)))
    with pytest.raises(ConfigError, match=shared):  # the link belongs to another user
        configuration_file(None, {})
    monkeypatch.setattr(os, "lstat", stat)
    if owner == 0:
        assert configuration_file(None, {}) == DEFAULT_FILE
    assert configuration_file(DEFAULT_FILE, {}) == DEFAULT_FILE  # named on purpose
    assert configuration_file(None, {"UPSTREAM_URL": "https://llm"}) is None
