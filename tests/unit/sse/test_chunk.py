from __future__ import annotations

import pytest

from gatepass.sse.chunk import (
    MAX_ENTRIES,
    MEMBERS_OF_ENTRY,
    has_too_many_entries,
)

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
