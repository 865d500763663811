"""Two accounts of what was learned, brought together."""

import json
from dataclasses import replace

import pytest

from gatepass.adapt.learned import Learned, Subject
from gatepass.adapt.ledger import GRACE_S, SAME_S, Ledger, Settlement, settle
from gatepass.adapt.lesson import HOUR_S, Lesson
from gatepass.adapt.memory import LIMIT

AT_S = 5_000.0
ONE = Learned(Subject("chat", "o3-mini", "chat"), Lesson("stream", "synth"), "learned", "no", AT_S, AT_S + HOUR_S)
OTHER = replace(ONE, lesson=Lesson("drop", "seed"))
LATER = replace(ONE, expires_at=ONE.expires_at + 600)
DUE = replace(ONE, expires_at=AT_S - 1)
OVER = replace(ONE, expires_at=AT_S - GRACE_S)


def entries(*learned: Learned):
    return {one.key: one for one in learned}


def settled(own=(), last=(), there=()):
    return settle(entries(*own), entries(*last), entries(*there), AT_S)


def test_what_was_learned_here_goes_there_and_what_was_learned_there_comes_here():
    assert settled([ONE], [], [OTHER]) == Settlement(entries(ONE, OTHER), [OTHER], [])


def test_what_both_know_is_left_as_it_lies_there():
    nearly = replace(ONE, expires_at=ONE.expires_at + SAME_S)
    found = settled([nearly], [ONE], [ONE])
    assert found == Settlement(entries(ONE), [], [])
    assert found.entries[ONE.key] is not nearly


def test_what_one_side_forgot_the_other_forgets():
    assert settled([ONE, OTHER], [ONE, OTHER], [OTHER]) == Settlement(entries(OTHER), [], [ONE.key])
    assert settled([OTHER], [ONE, OTHER], [ONE, OTHER]) == Settlement(entries(OTHER), [], [])


def test_what_was_learned_anew_since_is_not_forgotten():
    assert settled([LATER], [ONE], []) == Settlement(entries(LATER), [], [])
    assert settled([], [ONE], [LATER]) == Settlement(entries(LATER), [LATER], [])


def test_of_two_accounts_the_one_that_ends_later_counts():
    assert settled([LATER], [ONE], [ONE]) == Settlement(entries(LATER), [], [])
    assert settled([ONE], [ONE], [LATER]) == Settlement(entries(LATER), [LATER], [])


def test_what_is_past_its_time_is_neither_taken_over_nor_dropped_at_once():
    assert settled([], [], [DUE]) == Settlement(entries(DUE), [], [])
    assert settled([DUE], [DUE], []) == Settlement({}, [], [DUE.key])


def test_what_has_left_the_ledger_by_its_age_is_not_forgotten():
    assert settled([OVER], [OVER], []) == Settlement({}, [], [])
    assert settled([], [], [OVER]) == Settlement({}, [], [])


def many(count: int) -> list[Learned]:
    subject = ONE.subject
    return [
        replace(ONE, subject=subject._replace(model=f"m{number}"), expires_at=ONE.expires_at + number)
        for number in range(count)
    ]


def test_a_ledger_keeps_those_that_end_last():
    rows = many(LIMIT + 3)
    assert list(settled(rows[: LIMIT + 1], [], rows[LIMIT + 1 :]).entries.values()) == rows[:2:-1]


def test_a_ledger_reads_what_it_wrote():
    ledger = Ledger("e", entries(ONE, OTHER))
    assert Ledger.decoded(ledger.encoded(), "chat") == ledger


def test_a_ledger_about_another_upstream_says_nothing():
    assert Ledger.decoded(Ledger("e", entries(ONE)).encoded(), "azure") == Ledger("e", {})


def test_a_ledger_that_was_written_too_long_is_read_to_its_bound():
    ledger = Ledger.decoded(Ledger("e", entries(*many(LIMIT + 5))).encoded(), "chat")
    assert ledger is not None
    assert len(ledger.entries) == LIMIT


@pytest.mark.parametrize("data", [None, b"", b"{", b"[]", b"3", b"{}", b'{"epoch": 5}', b'"\xff"'])
def test_what_is_no_ledger_is_none(data):
    assert Ledger.decoded(data, "chat") is None


@pytest.mark.parametrize("rows", [None, 5, {}, [], [3], [{}], [{**OTHER.as_row(), "state": "observed"}]])
def test_strange_rows_are_passed_over(rows):
    written = json.dumps({"epoch": "e", "rows": rows}).encode()
    assert Ledger.decoded(written, "chat") == Ledger("e", {})
    if isinstance(rows, list):
        written = json.dumps({"epoch": "e", "rows": [*rows, ONE.as_row()]}).encode()
        assert Ledger.decoded(written, "chat") == Ledger("e", entries(ONE))


def test_a_ledger_lasts_as_long_as_it_has_something_to_tell():
    assert Ledger("e", entries(ONE, LATER)).left_s(AT_S) == HOUR_S + 600 + GRACE_S
    assert Ledger("e", {}).left_s(AT_S) == GRACE_S
