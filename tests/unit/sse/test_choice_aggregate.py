from __future__ import annotations

import base64
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.sse.choice_aggregate import Base64Text, EntryCount, MemberAggregator


def gathered(*pieces):
    gather = MemberAggregator(EntryCount())
    for name, value in pieces:
        gather.add(name, value)
    return gather


def test_texts_are_joined_lists_extended_and_of_the_rest_the_last_counts():
    gather = gathered(
        ("a", "x"), ("l", [1]), ("n", 1), ("a", "y"), ("l", [2, 3]), ("n", 2), ("o", {"a": 1}), ("o", {"b": 2})
    )
    assert gather.build() == {"a": "xy", "l": [1, 2, 3], "n": 2, "o": {"b": 2}}


def test_null_adds_nothing():
    assert gathered(("a", None)).build() == {}


@pytest.mark.parametrize("nothing", [{}, None])
def test_empty_value_does_not_replace_an_earlier_one(nothing):
    assert gathered(("o", {"hate": 1}), ("o", nothing)).build() == {"o": {"hate": 1}}


def test_empty_value_is_kept_if_it_is_the_only_one():
    payload: dict[str, object] = {}
    EntryCount().keep_last(payload, "o", {})
    assert payload == {"o": {}}


def test_joined_text_is_complete_or_empty():
    gather = gathered(("a", "x"), ("a", ""), ("b", ""))
    assert ["".join(gather.pieces(name)) for name in "abc"] == ["x", "", ""]


def test_text_among_parts_becomes_a_part():
    parts = [{"type": "text", "text": "b"}]
    assert gathered(("content", "a"), ("content", parts), ("content", "c")).build() == {
        "content": [{"type": "text", "text": "ac"}, {"type": "text", "text": "b"}]
    }


def test_empty_text_among_parts_is_left_out():
    parts = [{"type": "text", "text": "b"}]
    assert gathered(("content", ""), ("content", parts)).build() == {"content": parts}


def joined(pieces):
    text = Base64Text()
    for piece in pieces:
        text.add(piece)
    return text.text()


@given(st.binary(max_size=40), st.lists(st.integers(0, 60), max_size=5))
def test_base64_cut_anywhere_is_whole_again(raw, cuts):
    text = base64.b64encode(raw).decode()
    places = sorted({0, *(min(cut, len(text)) for cut in cuts), len(text)})
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    assert base64.b64decode(joined(pieces)) == raw


@given(st.lists(st.binary(max_size=10), max_size=5), st.booleans())
def test_base64_of_pieces_each_encoded_by_itself_is_joined(parts, is_padded):
    pieces = [base64.b64encode(part).decode() for part in parts]
    text = joined(pieces)
    assert base64.b64decode(text) == b"".join(parts)
    assert "=" not in text.rstrip("=")


def test_base64_without_padding_is_given_some():
    assert base64.b64decode(joined(["YQ", "YWI"])) == b"aab"


def test_invalid_base64_is_joined_unchanged():
    assert joined(["=", "a!b"]) == "=a!b"
    assert json.dumps(joined(["ä="])) == '"\\u00e4="'
