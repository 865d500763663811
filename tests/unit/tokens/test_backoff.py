from __future__ import annotations

import math

import pytest

from gatepass.tokens.backoff import Setback, at_once, probing, quick_wait_s, setback, silence, silent_s
from gatepass.tokens.failure import FetchFailure

DOWN = FetchFailure("down")
REFUSED = FetchFailure("no", definite=True)


def test_quick_tries_wait_a_fifth_half_and_one_second():
    assert [quick_wait_s(tries, DOWN, 0.0) for tries in (1, 2, 3, 4)] == [0.2, 0.5, 1.0, None]


def test_jitter_lengthens_quick_waits_by_a_quarter():
    assert [quick_wait_s(tries, DOWN, 1.0) for tries in (1, 2, 3)] == [0.25, 0.625, 1.25]


@pytest.mark.parametrize(
    "failure", [REFUSED, FetchFailure("dead", quick=False), FetchFailure("busy", retry_after_s=1.5)]
)
def test_what_will_not_pass_within_a_second_has_no_quick_try(failure):
    assert quick_wait_s(1, failure, 0.0) is None


def test_a_short_retry_after_is_waited_for():
    assert quick_wait_s(1, FetchFailure("busy", retry_after_s=0.8), 0.0) == 0.8


@pytest.mark.parametrize(("jitter", "next_s"), [(0.0, 12.0), (1.0, 13.0)])
def test_tries_of_an_outage_are_2_to_3_seconds_apart(jitter, next_s):
    assert setback(None, DOWN, 10.0, jitter) == Setback("down", False, 0, next_s)


def test_a_try_plans_the_one_after_it_and_its_failure_does_not_postpone_that():
    under_way = probing(Setback("down", False, 0, 12.0), 12.0, 0.0)
    assert under_way.next_try_s == 14.0
    assert setback(under_way, DOWN, 13.5, 1.0).next_try_s == 14.0


def test_a_try_that_is_due_already_stays_due():
    assert setback(Setback("down", False, 0, 12.0), DOWN, 12.0, 1.0).next_try_s == 12.0


def test_refusals_back_off_30_seconds_doubling_to_5_minutes():
    state, now, waits = None, 0.0, []
    for _ in range(6):
        state = setback(state, REFUSED, now, 1.0)
        waits.append(state.next_try_s - now)
        now = state.next_try_s
        assert probing(state, now, 1.0).next_try_s == now + waits[-1]
    assert waits == [30, 60, 120, 240, 300, 300]
    assert state is not None
    assert state.refusals == 6


def test_an_outage_after_refusals_is_probed_fast_and_forgets_none_of_them():
    state = probing(setback(None, REFUSED, 0.0, 0.0), 30.0, 0.0)
    state = setback(state, DOWN, 31.0, 0.0)
    assert state == Setback("down", False, 1, 33.0)
    assert setback(state, REFUSED, 33.0, 0.0).next_try_s == 93.0


def test_a_changed_secret_is_tried_at_once_with_a_clean_slate():
    state = setback(setback(None, REFUSED, 0.0, 0.0), REFUSED, 30.0, 0.0)
    assert at_once(state, 35.0) == Setback("no", True, 0, 35.0)


@pytest.mark.parametrize(("wish_s", "next_s"), [(0.0, 12.0), (1.0, 12.0), (45.0, 55.0), (1e9, 3610.0)])
def test_retry_after_is_obeyed_up_to_an_hour(wish_s, next_s):
    assert setback(None, FetchFailure("busy", retry_after_s=wish_s), 10.0, 0.0).next_try_s == next_s


def test_refusals_without_end_do_not_overflow():
    assert setback(Setback("no", True, 10**6, 0.0), REFUSED, 0.0, 0.0).next_try_s == 300.0


UNCLEAR = FetchFailure("?", unclear=True)


def test_an_unclear_error_is_tried_once_soon_and_then_as_rarely_as_a_refusal_up_to_a_minute():
    state, now, waits = None, 0.0, []
    for _ in range(5):
        state = setback(state, UNCLEAR, now, 0.0)
        waits.append(state.next_try_s - now)
        now = state.next_try_s
        assert probing(state, now, 0.0).next_try_s == now + waits[-1]
    assert waits == [2, 30, 60, 60, 60]


def test_free_tries_are_spent_as_in_an_outage():
    state, now, waits = None, 0.0, []
    for _ in range(5):
        state = setback(state, FetchFailure("?", unclear=True, free_tries=3), now, 0.0)
        waits.append(state.next_try_s - now)
        now = state.next_try_s
        state = probing(state, now, 0.0)
    assert waits == [2, 2, 2, 30, 60]


def test_an_unclear_error_is_no_quick_try():
    assert quick_wait_s(1, UNCLEAR, 0.0) is None


def test_an_outage_between_two_unclear_errors_does_not_make_the_second_the_first():
    state = setback(setback(None, UNCLEAR, 0.0, 0.0), DOWN, 2.0, 0.0)
    assert not state.definite
    assert setback(state, UNCLEAR, 4.0, 0.0).next_try_s == 34.0


def test_a_changed_secret_ends_the_doubt_too():
    state = at_once(setback(setback(None, UNCLEAR, 0.0, 0.0), UNCLEAR, 2.0, 0.0), 5.0)
    assert setback(state, UNCLEAR, 5.0, 0.0).next_try_s <= 8.0


@pytest.mark.parametrize(
    ("usual_s", "without_s", "at_s"),
    [(0.0, -math.inf, 13.0), (1.5, 10.0, 13.0), (4.0, -math.inf, 18.0), (0.0, 55.0, 55.0), (4.0, 55.0, 55.0)],
)
def test_a_fetch_is_silent_after_three_seconds_or_twice_its_usual_time_once_somebody_has_no_token(
    usual_s, without_s, at_s
):
    assert silent_s(10.0, usual_s, without_s) == at_s


def test_silence_is_an_outage_that_is_probed_at_once_and_an_end_of_the_silent_one_postpones_nothing():
    state = probing(silence(13.0), 13.0, 0.0)
    assert (state.definite, state.refusals, state.next_try_s) == (False, 0, 15.0)
    assert setback(state, DOWN, 14.0, 1.0) == Setback("down", False, 0, 15.0)


@pytest.mark.parametrize(("failure", "first_hour", "later"), [(REFUSED, 15, 12), (UNCLEAR, 62, 60)])
def test_an_hour_of_no_is_as_many_tries_as_docs_tokens_md_says(failure, first_hour, later):
    state, now, tries = None, 0.0, []
    while now < 7200.0:
        tries.append(now)
        state = setback(state, failure, now, 0.0)
        now = state.next_try_s
    assert (sum(moment < 3600 for moment in tries), sum(moment >= 3600 for moment in tries)) == (first_hour, later)
