from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.sse.choice_repair import MAX_TEXTS
from tests.unit.sse.repair_streams import ROLE, STOP, new_repair, payloads, repaired
from tests.unit.sse.streams import DONE, chunk, data

NAME = ("repair=cumulative",)


def texts(*contents, name="content", index=0):
    return [chunk({name: content}, index=index) for content in contents]


def read(chunks, name="content", index=0):
    """Return the text that a client joins."""
    parts = [
        choice["delta"].get(name) or "" for one in chunks for choice in one["choices"] if choice.get("index") == index
    ]
    return "".join(parts)


def growing(text, step=3):
    return [text[:end] for end in range(step, len(text) + step, step)]


SENTENCE = "The quick brown fox jumps over the lazy dog."


def test_growing_texts_are_cut_down_to_what_is_new():
    out, adapted = repaired(ROLE, *texts(*growing(SENTENCE)), STOP, cumulative=True)
    assert [one["choices"][0]["delta"].get("content") for one in out] == [
        "",
        *(SENTENCE[at : at + 3] for at in range(0, len(SENTENCE), 3)),
        None,
    ]
    assert adapted == NAME


def test_growing_texts_stay_unchanged_without_the_option():
    chunks = [ROLE, *texts(*growing(SENTENCE)), STOP]
    assert repaired(*chunks) == (chunks, ())


def test_repetition_in_the_last_chunk_adds_nothing():
    out, _ = repaired(*texts(*growing(SENTENCE), SENTENCE), STOP, cumulative=True)
    assert read(out) == SENTENCE


@pytest.mark.parametrize(
    ("parts", "read_as"),
    [
        (["The", " quick", " brown", "The quick"], "The quick brownThe quick"),
        (["1", "12", "123", "x", "1234"], "123x1234"),
        (["The quick brown", "The quick brown fox", "The end"], "The quick brown foxThe end"),
        (["", "a", "", "ab", "b"], "abb"),
        (["ha", "ha", " ha"], "ha ha"),
        (["once"], "once"),
    ],
)
def test_text_is_plain_from_its_first_part_that_does_not_repeat_all_before(parts, read_as):
    out, _ = repaired(ROLE, *texts(*parts), STOP, cumulative=True)
    assert read(out) == read_as


def test_plain_stream_passes_as_the_same_bytes():
    repair = new_repair(cumulative=True)
    for event in [data(ROLE), *map(data, texts("a", "b", "c", "abc")), data(STOP), DONE]:
        assert repair.feed(event) is event
    assert (repair.finish(), repair.adapted) == (b"", ())


def test_no_event_waits():
    repair = new_repair(cumulative=True)
    sent = [repair.feed(event) for event in map(data, texts("The", "The quick", "The quick brown"))]
    assert [payloads(block) for block in sent] == [[one] for one in texts("The", " quick", " brown")]


def test_each_text_of_each_choice_is_watched_separately():
    plain = list("The quick plain one")
    chunks = [
        one
        for parts in itertools.zip_longest(
            texts(*growing(SENTENCE)),
            texts(*growing(SENTENCE.upper()), name="reasoning_content"),
            texts(*plain, index=1),
        )
        for one in parts
        if one is not None
    ]
    out, adapted = repaired(*chunks, cumulative=True)
    assert read(out) == SENTENCE
    assert read(out, "reasoning_content") == SENTENCE.upper()
    assert read(out, index=1) == "".join(plain)
    assert adapted == NAME


# --- bounds ---------------------------------------------------------------------------------------


def test_no_more_texts_are_watched_than_may():
    chunks = [one for index in range(MAX_TEXTS + 2) for one in texts(*growing(SENTENCE, 12), index=index)]
    out, _ = repaired(*chunks, cumulative=True)
    assert read(out, index=MAX_TEXTS - 1) == SENTENCE
    assert read(out, index=MAX_TEXTS) == "".join(growing(SENTENCE, 12))


@given(st.text(min_size=1, max_size=60), st.lists(st.integers(0, 60), min_size=3, max_size=8), st.booleans())
def test_any_cumulative_text_is_read_once(text, cuts, is_done):
    parts = [text[:end] for end in (*sorted(cuts), len(text))]
    out, _ = repaired(*texts(*parts), cumulative=True, done=is_done)
    assert read(out) == text
