"""Lessons: as changes, and against each other."""

import json

import pytest

from gatepass.learning.learned_rule import EVIDENCE_CHARS, HOUR_S, QUOTED_CHARS, Learned, Lesson, Subject, evidence_of
from tests.unit.learning.rejections import ROWS

WITHOUT_A_CHANGE = (
    ("drop", "tools[]", None),
    ("drop", "messages[].content[]", None),
    ("drop", "messages.0.name", None),
    ("drop", "2fast", None),
    ("drop", "x" * 65, None),
    ("drop", "", None),
    ("drop", "seed", "7"),
    ("rename", "max_tokens", "a b"),
    ("set", "seed", "{}"),
    ("clamp", "max_tokens", "much"),
    ("split", "input", "0"),
    ("stream", "sideways", None),
    ("explode", "seed", None),
)

LESSONS = (
    Lesson("stream", "synth", ttl_s=900, by_credential=True),
    Lesson("stream", "aggregate"),
    Lesson("stream_options", "orphaned"),
    Lesson("rename", "max_tokens", "max_completion_tokens"),
    Lesson("drop", "messages[].name"),
    Lesson("set", "enable_thinking", "false"),
    Lesson("clamp", "max_tokens", "5"),
    Lesson("response_format", "json_object"),
    Lesson("role", "developer", "system"),
    Lesson("role", "system", "user"),
    Lesson("roles", "merged"),
    Lesson("content", "text"),
    Lesson("content", "empty"),
    Lesson("tool_ids", "short"),
    Lesson("split", "input", "16"),
)


def test_lessons_are_made_in_an_order_in_which_each_sees_what_it_needs():
    shuffled = [*LESSONS[8:], *LESSONS[:8]]
    assert [lesson.rank for lesson in sorted(shuffled, key=lambda lesson: lesson.rank)] == [
        lesson.rank for lesson in LESSONS
    ]


def test_the_entries_are_those_of_the_table():
    seen = {entry for row in ROWS for entry in row.adapted}
    assert {lesson.entry for lesson in LESSONS[:2]} <= seen
    assert [lesson.entry for lesson in LESSONS[2:]] == [
        "drop=stream_options",
        "rename=max_tokens>max_completion_tokens",
        "drop=messages[].name",
        "set=enable_thinking>false",
        "clamp=max_tokens",
        "response_format=json_object",
        "role=developer>system",
        "role=system>user",
        "roles=merged",
        "content=text",
        "content=empty",
        "tool_ids=short",
        "split=16",
    ]
    assert Lesson("split", "input", "64%", ttl_s=0).entry == "split=64%"


@pytest.mark.parametrize(("rule", "field", "to"), WITHOUT_A_CHANGE)
def test_there_is_no_lesson_without_a_change(rule, field, to):
    with pytest.raises(ValueError, match=r"."):
        Lesson(rule, field, to)


@pytest.mark.parametrize(
    ("one", "other", "is_reversed"),
    [
        (Lesson("rename", "a", "b"), Lesson("rename", "b", "a"), True),
        (Lesson("rename", "a", "b"), Lesson("rename", "a", "b"), False),
        (Lesson("role", "developer", "system"), Lesson("role", "system", "developer"), True),
        (Lesson("role", "developer", "system"), Lesson("role", "system", "user"), False),
        (Lesson("stream", "synth"), Lesson("stream", "aggregate"), True),
        (Lesson("stream", "synth"), Lesson("stream", "synth"), False),
        (Lesson("set", "a", "true"), Lesson("set", "a", "false"), True),
        (Lesson("set", "a", "true"), Lesson("set", "b", "false"), False),
        (Lesson("set", "a", '"x"'), Lesson("set", "a", '"x"'), False),
        (Lesson("drop", "a"), Lesson("set", "a", "true"), False),
        (Lesson("content", "text"), Lesson("content", "empty"), False),
    ],
)
def test_lessons_that_undo_each_other_are_known(one, other, is_reversed):
    assert one.reverses(other) is is_reversed
    assert other.reverses(one) is is_reversed


def test_one_lesson_about_streams_takes_the_place_of_the_other():
    assert Lesson("stream", "synth").key == Lesson("stream", "aggregate").key
    assert Lesson("role", "system", "user").key != Lesson("role", "system", "developer").key
    assert Lesson("split", "input", "5").key == Lesson("split", "input", "9").key


OURS = Subject("chat", "o3-mini", "chat", "corp")
SYNTH = Lesson("stream", "synth")
LEARNED_AT, EXPIRES_AT = 1_800_000_000.0, 1_800_003_600.0
LEARNED = Learned(OURS.plain, SYNTH, "learned", "no stream", LEARNED_AT, EXPIRES_AT, uses=1)
ROW = {
    "upstream": "chat",
    "model": "o3-mini",
    "operation": "chat",
    "credential": "",
    "adapted": "stream=synth",
    "state": "learned",
    "evidence": "no stream",
    "learned_at": LEARNED_AT,
    "expires_at": EXPIRES_AT,
    "uses": 1,
    "lesson": {"rule": "stream", "field": "synth", "to": None, "ttl_s": HOUR_S, "by_credential": False},
}


def test_a_subject_keeps_its_credential_only_where_that_matters():
    assert OURS.plain == Subject("chat", "o3-mini", "chat")
    assert (plain := OURS.plain).plain is plain
    assert OURS.of(SYNTH) == OURS.plain
    assert OURS.of(Lesson("stream", "synth", by_credential=True)) == OURS


def test_a_lesson_is_plain_json_for_people_and_processes():
    assert json.loads(json.dumps(LEARNED.as_row())) == ROW
    assert Learned.of_row(ROW) == LEARNED


PROMPT = "my neighbour's diagnosis is a secret that I tell to nobody"


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Unsupported value: 'stream' does not support true with this model.",
        "It doesn't know the user's `seed`, and can't.",
        'Input should be "system", “user” or ‘tool’',
        f"'{'x' * QUOTED_CHARS}'",
    ],
)
def test_names_and_short_values_stay(said):
    assert evidence_of(said) == said


@pytest.mark.parametrize("quotes", ["''", '""', "``", "“”", "‘’"])
def test_what_is_quoted_at_length_is_left_out(quotes):
    begin, end = quotes
    assert (
        evidence_of(f"Invalid value: {begin}{PROMPT}{end}. Use 'user'.") == f"Invalid value: {begin}…{end}. Use 'user'."
    )
    assert evidence_of(f"Invalid value: {begin}{PROMPT}") == f"Invalid value: {begin}…"


def test_a_quotation_in_json_ends_at_its_own_end():
    said = '{"input":"he said \\"no\\" and that ' + PROMPT + '","type":"x"}'
    assert evidence_of(said) == '{"input":"…","type":"x"}'


def test_a_long_sentence_is_cut():
    assert evidence_of("x" * 500) == "x" * EVIDENCE_CHARS


def test_a_sentence_of_quotes_is_read_in_one_pass():
    assert len(evidence_of("'a " * 100_000)) <= EVIDENCE_CHARS
    assert len(evidence_of('"\\' * 100_000)) <= EVIDENCE_CHARS
