from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.sse import choice_repair
from gatepass.sse.choice_repair import EVIDENCE, MAX_HELD, MAX_HELD_BYTES, MAX_TEXTS, MIN_CHARS
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
    out, _ = repaired(*texts(*growing(SENTENCE), SENTENCE, SENTENCE[:4]), STOP, cumulative=True)
    assert read(out) == SENTENCE


@pytest.mark.parametrize(
    "parts",
    [
        ["ha", "ha", "ha"],
        ["a", "aa", "aaa", "b"],
        ["1", "12", "123", "x", "1234"],
        ["The quick brown", "The quick brown fox", "The end"],
        ["", "a", "", "ab", "b"],
        ["once"],
    ],
)
def test_plain_texts_that_repeat_a_little_pass_unchanged(parts):
    chunks = [ROLE, *texts(*parts), STOP]
    assert repaired(*chunks, cumulative=True) == (chunks, ())


def test_plain_stream_passes_as_the_same_bytes():
    repair = new_repair(cumulative=True)
    for event in [data(ROLE), *map(data, texts("a", "b", "c", "abc")), data(STOP), DONE]:
        assert repair.feed(event) is event
    assert (repair.finish(), repair.adapted) == (b"", ())


def test_chunk_waits_only_while_it_may_be_a_repetition():
    repair = new_repair(cumulative=True)
    first, second, third, other = map(
        data, texts("The quick brown", "The quick brown fox", "The quick brown fox!", " x")
    )
    assert repair.feed(first) == first
    assert repair.feed(second) == b""
    assert repair.feed(other) == second + other

    repair = new_repair(cumulative=True)
    assert repair.feed(first) == first
    assert repair.feed(second) == b""
    assert payloads(repair.feed(third)) == texts(" fox", "!")


def test_evidence_is_needed_twice_and_of_some_length():
    assert EVIDENCE == 2
    short = [SENTENCE[:end] for end in range(1, MIN_CHARS + 1)]
    repair = new_repair(cumulative=True)
    out = [repair.feed(event) for event in map(data, texts(*short))]
    assert [bool(block) for block in out] == [True] + [False] * (MIN_CHARS - 1)
    [event] = map(data, texts("no such text"))
    assert payloads(repair.feed(event)) == texts(*short[1:], "no such text")


@pytest.mark.parametrize(
    ("parts", "read_as", "adapted"),
    [
        ([SENTENCE[:MIN_CHARS], SENTENCE], SENTENCE, NAME),
        ([SENTENCE[: MIN_CHARS - 1], SENTENCE], SENTENCE[: MIN_CHARS - 1] + SENTENCE, ()),
    ],
)
def test_one_match_is_enough_at_the_end_without_a_contradiction(parts, read_as, adapted):
    out, names = repaired(ROLE, *texts(*parts), cumulative=True)
    assert (read(out), names) == (read_as, adapted)
    out, names = repaired(ROLE, *texts(*parts), cumulative=True, done=False)
    assert (read(out), names) == (read_as, adapted)


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


def test_chunks_keep_their_order_while_one_waits():
    first, second, third = texts("The quick brown", "The quick brown fox", "The quick brown fox!")
    other = chunk({"content": "other"}, index=1)
    out, _ = repaired(first, second, other, third, STOP, cumulative=True)
    assert out == [first, *texts(" fox"), other, *texts("!"), STOP]


def test_comments_do_not_wait():
    repair = new_repair(cumulative=True)
    first, second = map(data, texts("The quick brown", "The quick brown fox"))
    assert repair.feed(first + second + b": ping\n\n") == first + b": ping\n\n"


def test_text_that_stops_repeating_is_sent_whole():
    out, _ = repaired(*texts(*growing(SENTENCE), "New start", SENTENCE + "New start and more"), cumulative=True)
    assert read(out) == SENTENCE + "New start" + " and more"


def test_error_event_releases_held_chunks():
    repair = new_repair(cumulative=True)
    first, second = map(data, texts("The quick brown", "The quick brown fox"))
    error = data({"error": {"message": "boom"}})
    out = repair.feed(first) + repair.feed(second) + repair.feed(error)
    assert payloads(out) == [*texts("The quick brown", " fox"), {"error": {"message": "boom"}}]
    assert out.endswith(error)


# --- bounds ---------------------------------------------------------------------------------------


def test_no_more_chunks_wait_than_may():
    repair = new_repair(cumulative=True)
    out = [repair.feed(event) for event in map(data, texts("The quick brown", "The quick brown fox"))]
    others = [data(chunk({"x": number})) for number in range(3 * MAX_HELD)]
    out += [repair.feed(event) for event in others]
    held = [bool(block) for block in out].index(True, 1)
    assert held <= MAX_HELD + 1
    assert b"".join(out).endswith(b"".join(others[MAX_HELD:]))


def test_no_more_bytes_wait_than_may():
    repair = new_repair(cumulative=True)
    for event in map(data, texts("The quick brown", "The quick brown fox")):
        repair.feed(event)
    large = data(chunk({"x": "x" * MAX_HELD_BYTES}))
    assert repair.feed(large).endswith(large)


def test_no_more_texts_are_watched_than_may():
    chunks = [one for index in range(MAX_TEXTS + 2) for one in texts(*growing(SENTENCE, 12), index=index)]
    out, _ = repaired(*chunks, cumulative=True)
    assert read(out, index=MAX_TEXTS - 1) == SENTENCE
    assert read(out, index=MAX_TEXTS) == "".join(growing(SENTENCE, 12))


def test_no_more_of_a_text_is_remembered_than_may_be(monkeypatch):
    monkeypatch.setattr(choice_repair, "MAX_CHARS", 200)
    repeated = growing(SENTENCE, 12)
    added = "-" * 201
    out, _ = repaired(*texts(*repeated, added, SENTENCE + added), cumulative=True)
    assert read(out) == SENTENCE + added + SENTENCE + added


@given(st.text(min_size=1, max_size=60), st.lists(st.integers(0, 60), min_size=3, max_size=8), st.booleans())
def test_any_cumulative_text_is_read_once_if_it_shows_itself(text, cuts, is_done):
    text = SENTENCE + text
    ends = [MIN_CHARS, MIN_CHARS + 4, MIN_CHARS + 9, *sorted(len(SENTENCE) + cut for cut in cuts), len(text)]
    parts = [text[:end] for end in ends]
    out, _ = repaired(*texts(*parts), cumulative=True, done=is_done)
    assert read(out) == text
