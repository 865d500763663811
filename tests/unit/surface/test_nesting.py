"""The depth of a JSON text, measured without building it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.surface.nesting import is_deeper
from tests.unit.surface.json_texts import VALUES, written

WINDOW = 262_144


def nested(depth: int) -> bytes:
    return b'{"a":' * (depth // 2) + b"[" * (depth - depth // 2) + b"]" * (depth - depth // 2) + b"}" * (depth // 2)


def depth_of(value) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@pytest.mark.parametrize("depth", [1, 2, 63, 64])
def test_as_deep_as_allowed_is_not_deeper(depth):
    assert not is_deeper(nested(depth), 64)


@pytest.mark.parametrize("depth", [65, 66, 500])
def test_one_more_level_is_deeper(depth):
    assert is_deeper(nested(depth), 64)


@given(st.data())
def test_the_depth_is_that_of_the_value(data):
    value = data.draw(VALUES)
    text = data.draw(written(value)).encode()
    deep = depth_of(value)
    assert not is_deeper(text, deep)
    assert is_deeper(text, deep - 1) or deep == 0


@pytest.mark.parametrize("text", ["[" * 100, "{" * 100, '\\"[' * 100, "\\" * 7 + "[" * 99, '"' * 3 + "{" * 99])
def test_brackets_inside_strings_are_not_counted(text):
    body = json.dumps({"a": [text, {"b": text}]}).encode()
    assert not is_deeper(body, 3)
    assert is_deeper(body, 2)


def test_many_siblings_are_not_depth():
    assert not is_deeper(b"[" + b"[{}]," * 10_000 + b"[]]", 3)


@pytest.mark.parametrize("filler", [b"x", b"\\\\", b'\\"', b"\\n", b"["])
@pytest.mark.parametrize("shift", range(-4, 5))
def test_a_window_border_anywhere_changes_nothing(filler, shift):
    """Strings, escapes and runs of backslashes come to lie across the border of a window."""
    before = b'{"a":[0,"' + filler * ((WINDOW + shift) // len(filler)) + b'"'
    assert not is_deeper(before + b"," + nested(62) + b"]}", 64)
    assert is_deeper(before + b"," + nested(63) + b"]}", 64)
    assert is_deeper(before + b"],"[:2] + b'"b":' + nested(64) + b"}", 64)
    assert not is_deeper(before + b'],"b":' + nested(63) + b"}", 64)


def test_a_run_of_backslashes_longer_than_a_window_is_one_string():
    text = b'["' + b"\\" * (4 * WINDOW) + b'",' + b"[" * 70 + b"]" * 70 + b"]"
    assert is_deeper(text, 64)
    assert not is_deeper(b'["' + b"\\" * (4 * WINDOW) + b'[[[[","' + b"[" * 70 + b'"]', 64)
