from __future__ import annotations

import pytest

from gatepass.sse.chunk import (
    MAX_ENTRIES,
    MEMBERS_OF_ENTRY,
    complete_envelope,
    has_too_many_entries,
    text_of_id,
)
from tests.unit.sse.documents import CREATED_S, origin

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
        {"id": ["x"], "created": True, "model": 3},
        {"created": float("inf")},
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
