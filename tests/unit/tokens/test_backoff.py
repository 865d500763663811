from __future__ import annotations

import pytest

from gatepass.tokens.backoff import Setback, at_once, quick_wait_s, setback
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
    assert setback(None, DOWN, 10.0, 10.5, jitter) == Setback("down", False, 0, next_s)


@pytest.mark.parametrize("now", [12.5, 20.0])
def test_a_try_that_took_longer_than_the_pause_is_followed_by_the_next_at_once(now):
    assert setback(None, DOWN, 10.0, now, 0.0).next_try_s == now


def test_refusals_back_off_30_seconds_doubling_to_5_minutes():
    state, now, waits = None, 0.0, []
    for _ in range(6):
        state = setback(state, REFUSED, now, now, 1.0)
        waits.append(state.next_try_s - now)
        now = state.next_try_s
    assert waits == [30, 60, 120, 240, 300, 300]
    assert state is not None
    assert state.refusals == 6


def test_an_outage_after_refusals_is_probed_fast_and_forgets_none_of_them():
    state = setback(setback(None, REFUSED, 0.0, 0.0, 0.0), DOWN, 30.0, 31.0, 0.0)
    assert state == Setback("down", False, 1, 32.0)
    assert setback(state, REFUSED, 33.0, 33.0, 0.0).next_try_s == 93.0


def test_a_changed_secret_is_tried_at_once_with_a_clean_slate():
    state = setback(setback(None, REFUSED, 0.0, 0.0, 0.0), REFUSED, 30.0, 30.0, 0.0)
    assert at_once(state, 35.0) == Setback("no", True, 0, 35.0)


@pytest.mark.parametrize(("wish_s", "next_s"), [(0.0, 12.0), (1.0, 12.0), (45.0, 55.0), (1e9, 3610.0)])
def test_retry_after_is_obeyed_up_to_an_hour(wish_s, next_s):
    assert setback(None, FetchFailure("busy", retry_after_s=wish_s), 10.0, 10.0, 0.0).next_try_s == next_s


def test_refusals_without_end_do_not_overflow():
    assert setback(Setback("no", True, 10**6, 0.0), REFUSED, 0.0, 0.0, 0.0).next_try_s == 300.0


UNCLEAR = FetchFailure("?", unclear=True)


@pytest.mark.parametrize(("free_tries", "expected"), [(1, [2, 30, 60, 60, 60]), (3, [2, 2, 2, 30, 60])])
def test_an_unclear_error_has_its_free_tries_and_is_then_tried_as_rarely_as_a_refusal_up_to_a_minute(
    free_tries, expected
):
    state, now, waits = None, 0.0, []
    for _ in range(5):
        state = setback(state, FetchFailure("?", unclear=True, free_tries=free_tries), now, now, 0.0)
        waits.append(state.next_try_s - now)
        now = state.next_try_s
    assert waits == expected


def test_an_unclear_error_is_no_quick_try():
    assert quick_wait_s(1, UNCLEAR, 0.0) is None


def test_an_outage_between_two_unclear_errors_does_not_make_the_second_the_first():
    state = setback(setback(None, UNCLEAR, 0.0, 0.0, 0.0), DOWN, 2.0, 2.0, 0.0)
    assert not state.definite
    assert setback(state, UNCLEAR, 4.0, 4.0, 0.0).next_try_s == 34.0


def test_a_changed_secret_ends_the_doubt_too():
    state = at_once(setback(setback(None, UNCLEAR, 0.0, 0.0, 0.0), UNCLEAR, 2.0, 2.0, 0.0), 5.0)
    assert setback(state, UNCLEAR, 5.0, 5.0, 0.0).next_try_s <= 8.0


def heard(**kind: bool) -> FetchFailure:
    return FetchFailure("?", heard=True, retry_after_s=1.8, **kind)


@pytest.mark.parametrize("kind", ["definite", "unclear", "quick"])
def test_a_failure_of_another_process_ends_with_that_processs_pause(kind):
    assert setback(None, heard(**{kind: True}), 10.0, 10.2, 1.0).next_try_s == 12.0


def test_a_failure_of_another_process_is_looked_at_again_quickly_where_it_may_pass():
    assert [quick_wait_s(tries, heard(), 0.0) for tries in (1, 2, 3, 4)] == [0.2, 0.5, 1.0, None]
    assert quick_wait_s(1, heard(definite=True), 0.0) is None


@pytest.mark.parametrize(("failure", "first_hour", "later"), [(REFUSED, 15, 12), (UNCLEAR, 62, 60)])
def test_an_hour_of_no_is_as_many_tries_as_docs_tokens_md_says(failure, first_hour, later):
    state, now, tries = None, 0.0, []
    while now < 7200.0:
        tries.append(now)
        state = setback(state, failure, now, now, 0.0)
        now = state.next_try_s
    assert (sum(moment < 3600 for moment in tries), sum(moment >= 3600 for moment in tries)) == (first_hour, later)
