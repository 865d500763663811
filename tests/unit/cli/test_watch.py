"""The lines of `gatepass token --watch`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gatepass.call import Secret
from gatepass.cli.watch import Look, Story
from gatepass.tokens import Token
from gatepass.tokens.life import Freshness, Kind, ToldBy
from tests.unit.tokens.statuses import FRESH

FIRST = Token(Secret("token-1"), 0.0, 300.0)
HELD = Look(FRESH, FIRST, 0.0)
NOTHING = Look(
    replace(FRESH, state="none", kind=None, told_by=None, age_s=None, left_s=None, fetches=0, next_try_in_s=None),
    None,
    0.0,
)
DOWN = "sso.corp.example answered 503"


def told(*looks: Look) -> list[str]:
    """What is said of all looks after the first."""
    first, *others = looks
    story = Story(first)
    return [line for look in others for line in story.since(look)]


def failed(look: Look, age_s: float, reason: str = DOWN, next_s: float | None = 2.6, now: float = 0.0) -> Look:
    """`look`, `age_s` after an error."""
    failing = next_s is not None
    told = replace(look.status, failing=failing, last_error=reason, last_error_age_s=age_s, next_try_in_s=next_s)
    return replace(look, status=told, now=now)


def test_nothing_new_is_no_line():
    later = replace(HELD, status=replace(FRESH, age_s=200.0, left_s=85.0, next_try_in_s=32.0))
    assert told(HELD, HELD, later) == []
    assert told(NOTHING, NOTHING) == []


def test_a_new_token_is_a_line_with_its_kind_its_life_and_the_number_of_its_fetch():
    token = Token(Secret("token-2"), 240.0, 299.4, Kind.JWT, ToldBy.JWT)
    newer = Look(replace(FRESH, kind=Kind.JWT, age_s=0.1, fetches=2, next_try_in_s=240.0), token, 240.1)
    assert told(HELD, newer, newer) == ["new token (fetch 2): jwt, lives 299 s; next try in 240 s"]
    assert told(NOTHING, newer) == ["new token (fetch 2): jwt, lives 299 s; next try in 240 s"]


def test_a_key_that_was_replaced_tells_no_life():
    key = Token(Secret("key-2"), 1.0, None, Kind.KEY, ToldBy.NOBODY)
    newer = Look(replace(FRESH, kind=Kind.KEY, left_s=None, fetches=2, next_try_in_s=None), key, 1.0)
    assert told(HELD, newer) == ["new token (fetch 2): key, no end told"]


def test_a_token_that_comes_again_is_called_the_same():
    again = Look(replace(FRESH, fetches=2, next_try_in_s=30.0), replace(FIRST, born_s=100.0, life_s=200.0), 100.0)
    assert told(HELD, again) == ["the same token again (fetch 2); next try in 30 s"]


def test_a_token_that_another_gatepass_fetched_is_no_fetch_of_this_one():
    found = Look(FRESH, Token(Secret("token-2"), 240.0, 300.0, shared=True), 240.0)
    assert told(HELD, found) == [
        "new token (found: another gatepass fetched it): opaque, lives 300 s; next try in 232 s"
    ]


def test_a_failure_is_told_at_once_and_then_once_a_minute_with_the_number_of_times():
    looks = [failed(HELD, 0.0, now=now) for now in (1.0, 1.4, 3.6, 60.9, 61.0, 63.4)]
    looks = [
        replace(look, status=replace(look.status, last_error_age_s=1.0 / (place + 1)))
        for place, look in enumerate(looks)
    ]
    assert told(HELD, *looks) == [
        f"failed: {DOWN}; next try in 3 s",
        f"failed 4 times more: {DOWN}; next try in 3 s",
    ]


def test_two_reasons_by_turns_are_told_once_each():
    looks = [
        failed(HELD, 1.0 / age, reason) for age, reason in enumerate([DOWN, "no connection", DOWN, "no connection"], 1)
    ]
    assert told(HELD, *looks) == [f"failed: {DOWN}; next try in 3 s", "failed: no connection; next try in 3 s"]


@pytest.mark.parametrize("told_first", [True, False])
def test_a_reason_that_was_told_before_the_watch_is_not_told_again_but_after_a_token(told_first):
    before = failed(NOTHING, 0.5) if told_first else NOTHING
    recovered = failed(Look(replace(FRESH, fetches=3), FIRST, 1.0), 1.0, next_s=232.4)
    recovered = replace(recovered, status=replace(recovered.status, failing=False))
    lines = told(before, failed(NOTHING, 0.1), recovered, failed(recovered, 0.1))
    assert lines[0 if told_first else 1 :] == [
        "new token (fetch 3): opaque, lives 300 s; next try in 232 s",
        f"failed: {DOWN}; next try in 3 s",
    ]
    assert lines[:-2] == ([] if told_first else [f"failed: {DOWN}; next try in 3 s"])


def test_a_quick_failure_and_the_token_after_it_are_told_in_their_order():
    token = Token(Secret("token-2"), 240.0, 300.0)
    both = failed(Look(replace(FRESH, age_s=0.0, fetches=3), token, 240.0), 0.05, next_s=None)
    assert told(HELD, both) == [f"failed: {DOWN}", "new token (fetch 3): opaque, lives 300 s"]


def test_the_end_of_a_token_is_a_line_once():
    ended = Look(replace(FRESH, state=Freshness.EXPIRED, left_s=0.0), None, 300.0)
    assert told(HELD, ended, ended) == ["expired: requests wait for the next token, or fail"]
