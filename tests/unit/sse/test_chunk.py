from __future__ import annotations

import json

import pytest

from gatepass.sse.chunk import (
    MAX_ENTRIES,
    MEMBERS_OF_ENTRY,
    complete_envelope,
    encode_event,
    has_too_many_entries,
    json_text,
    text_of_id,
    unwrap,
)
from tests.unit.sse.documents import CREATED_S, origin


def test_event_is_one_compact_line_in_utf_8():
    assert encode_event({"a": ["größer 東京 🚀", "two\nlines", 1.5, None]}) == (
        'data: {"a":["größer 東京 🚀","two\\nlines",1.5,null]}\n\n'.encode()
    )


def test_half_of_a_surrogate_pair_is_kept_as_an_escape():
    halves = json.loads('["\\ud83d", "\\ude80"]')
    assert json_text(halves) == b'["\\ud83d","\\ude80"]'


def test_nested_too_deep_is_a_value_error():
    deep: list[object] = []
    for _ in range(200_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deep"):
        json_text(deep)


MEMBERS = dict.fromkeys(map(str, range(MEMBERS_OF_ENTRY)))
FULL = MAX_ENTRIES // 2
"""This many choices, each with one more entry, are as many as are allowed."""


@pytest.mark.parametrize(
    "choice",
    [
        MEMBERS,
        {"delta": MEMBERS},
        {"message": MEMBERS},
        {"delta": {"tool_calls": [{}]}},
        {"message": {"tool_calls": [None]}},
    ],
    ids=["choice", "delta", "message", "call of a delta", "call of a message"],
)
def test_members_and_calls_of_choices_count_as_entries(choice):
    assert not has_too_many_entries([choice] * FULL)
    assert has_too_many_entries([choice] * FULL + [{}])


@pytest.mark.parametrize("other", [None, 3, {"delta": None}, {"message": [1]}, {"delta": {"tool_calls": {"a": 1}}}])
def test_each_choice_of_any_form_is_one_entry(other):
    assert not has_too_many_entries([other] * MAX_ENTRIES)
    assert has_too_many_entries([other] * (MAX_ENTRIES + 1))
    assert not has_too_many_entries(dict.fromkeys(range(MAX_ENTRIES + 1), other))


def test_complete_envelope_is_kept():
    payload = {"id": "a", "object": "x", "created": 7, "model": "m", "system_fingerprint": None, "service_tier": "t"}
    assert complete_envelope(payload, origin(), "o", "p-") == payload | {"object": "o"}


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"id": "", "created": 0, "model": ""},
        {"id": None, "created": None, "model": None},
        {"id": ["x"], "created": True, "model": 3},
        {"created": "1700000000"},
        {"created": float("inf")},
        {"created": float("nan")},
    ],
)
def test_missing_envelope_comes_from_the_origin(payload):
    assert complete_envelope(payload, origin(), "o", "p-") == {
        "id": "p-000000000000000000000001",
        "object": "o",
        "created": CREATED_S,
        "model": "asked-for",
    }


def test_time_with_a_fraction_becomes_whole_seconds():
    assert complete_envelope({"created": 12.9}, origin(), "o", "p-")["created"] == 12


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (0, "0"), (17, "17"), (True, ""), (None, ""), ([], ""), ("", "")]
)
def test_id_as_text(value, text):
    assert text_of_id(value) == text


CHUNK: dict[str, object] = {"choices": []}


@pytest.mark.parametrize(
    ("payload", "inside"),
    [
        ({"code": 0, "data": CHUNK}, CHUNK),
        ({"choices": None, "data": CHUNK}, CHUNK),
        ({"code": 0, "data": {"choice": None}}, None),
        ({"code": 0, "data": [CHUNK]}, None),
        ({"choices": [{}], "data": CHUNK}, None),
        ({}, None),
    ],
)
def test_only_what_is_wrapped_is_unwrapped(payload, inside):
    assert unwrap(payload) is (payload if inside is None else inside)
