from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.tokens.failure import (
    MAX_REFUSAL_KINDS,
    TRANSIENT_TRIES,
    WORKED_TRIES,
    FailureState,
    FetchFailure,
    SecretHistory,
    next_failure_state,
    quick_wait_s,
    retry_now,
    shared_pause_s,
)

DOWN = FetchFailure("down")
REFUSED = FetchFailure("no", definite=True)


def test_quick_tries_wait_a_fifth_half_and_one_second():
    assert [quick_wait_s(tries, DOWN, 0.0) for tries in (1, 2, 3, 4)] == [0.2, 0.5, 1.0, None]


def test_jitter_lengthens_quick_waits_by_a_quarter():
    assert [quick_wait_s(tries, DOWN, 1.0) for tries in (1, 2, 3)] == [0.25, 0.625, 1.25]


@pytest.mark.parametrize(
    "failure", [REFUSED, FetchFailure("dead", quick=False), FetchFailure("busy", retry_after_s=1.5)]
)
def test_lasting_failure_has_no_quick_retry(failure):
    assert quick_wait_s(1, failure, 0.0) is None


def test_a_short_retry_after_is_waited_for():
    assert quick_wait_s(1, FetchFailure("busy", retry_after_s=0.8), 0.0) == 0.8


@pytest.mark.parametrize(("jitter", "next_s"), [(0.0, 12.0), (1.0, 13.0)])
def test_tries_of_an_outage_are_2_to_3_seconds_apart(jitter, next_s):
    assert next_failure_state(None, DOWN, 10.0, 10.5, jitter) == FailureState("down", False, 0, next_s)


@pytest.mark.parametrize("now", [12.5, 20.0])
def test_a_try_that_took_longer_than_the_pause_is_followed_by_the_next_at_once(now):
    assert next_failure_state(None, DOWN, 10.0, now, 0.0).next_try_s == now


def test_refusals_back_off_30_seconds_doubling_to_5_minutes():
    state, now, waits = None, 0.0, []
    for _ in range(6):
        state = next_failure_state(state, REFUSED, now, now, 1.0)
        waits.append(state.next_try_s - now)
        now = state.next_try_s
    assert waits == [30, 60, 120, 240, 300, 300]
    assert state is not None
    assert state.refusals == 6


def test_an_outage_after_refusals_is_probed_fast_and_forgets_none_of_them():
    state = next_failure_state(next_failure_state(None, REFUSED, 0.0, 0.0, 0.0), DOWN, 30.0, 31.0, 0.0)
    assert state == FailureState("down", False, 1, 32.0)
    assert next_failure_state(state, REFUSED, 33.0, 33.0, 0.0).next_try_s == 93.0


def test_changed_secret_is_tried_at_once_without_a_history():
    state = next_failure_state(next_failure_state(None, REFUSED, 0.0, 0.0, 0.0), REFUSED, 30.0, 30.0, 0.0)
    assert retry_now(state, 35.0) == FailureState("no", True, 0, 35.0)


@pytest.mark.parametrize(("wish_s", "next_s"), [(0.0, 12.0), (1.0, 12.0), (45.0, 55.0), (1e9, 3610.0)])
def test_retry_after_is_obeyed_up_to_an_hour(wish_s, next_s):
    assert next_failure_state(None, FetchFailure("busy", retry_after_s=wish_s), 10.0, 10.0, 0.0).next_try_s == next_s


def test_refusals_without_end_do_not_overflow():
    assert next_failure_state(FailureState("no", True, 10**6, 0.0), REFUSED, 0.0, 0.0, 0.0).next_try_s == 300.0


UNCLEAR = FetchFailure("?", unclear=True)


def waits_after(failure: FetchFailure, count: int) -> list[float]:
    """The pauses after so many of the same failure in a row."""
    state, now, waits = None, 0.0, []
    for _ in range(count):
        state = next_failure_state(state, failure, now, now, 0.0)
        waits.append(state.next_try_s - now)
        now = state.next_try_s
    return waits


@pytest.mark.parametrize(
    ("free_tries", "expected"), [(0, [30, 60, 120, 240, 300]), (2, [2, 2, 30, 60, 120]), (300, [2, 2, 2, 2, 2])]
)
def test_an_unclear_refusal_has_its_free_tries_and_is_then_tried_as_rarely_as_a_definite_one(free_tries, expected):
    assert waits_after(FetchFailure("?", unclear=True, free_tries=free_tries), 5) == expected


def test_unclear_error_has_no_quick_retry():
    assert quick_wait_s(1, UNCLEAR, 0.0) is None


def test_an_outage_between_two_refusals_does_not_make_the_second_the_first():
    state = next_failure_state(next_failure_state(None, UNCLEAR, 0.0, 0.0, 0.0), DOWN, 30.0, 30.0, 0.0)
    assert not state.definite
    assert next_failure_state(state, UNCLEAR, 32.0, 32.0, 0.0).next_try_s == 92.0


def test_a_changed_secret_ends_the_count_of_unclear_refusals_too():
    state = retry_now(
        next_failure_state(next_failure_state(None, UNCLEAR, 0.0, 0.0, 0.0), UNCLEAR, 30.0, 30.0, 0.0), 35.0
    )
    assert next_failure_state(state, UNCLEAR, 35.0, 35.0, 0.0).next_try_s == 65.0


OLD, NEW = 1, 2
"""Fingerprints of two secrets."""
BUSY = FetchFailure("sso answered 200 with an error: 10001: busy", unclear=True)
WRONG = FetchFailure("sso answered 200 with an error: 1001: no", unclear=True)


def history(*events: int | tuple[int, FetchFailure]) -> SecretHistory:
    """A number is a secret that returned a token, a pair is one that failed."""
    now = SecretHistory()
    for event in events:
        now = now.after_token(event) if isinstance(event, int) else now.after_failure(*event)
    return now


@pytest.mark.parametrize(
    ("before", "asked", "free_tries"),
    [
        ((), (OLD, BUSY), 0),
        (((OLD, BUSY), (OLD, BUSY)), (OLD, BUSY), 0),
        ((OLD,), (OLD, BUSY), WORKED_TRIES),
        ((OLD,), (NEW, BUSY), 0),
        ((OLD, (OLD, BUSY)), (OLD, BUSY), WORKED_TRIES),
        ((OLD, (OLD, BUSY), OLD), (OLD, BUSY), TRANSIENT_TRIES),
        ((OLD, (OLD, BUSY), OLD), (OLD, WRONG), WORKED_TRIES),
        ((OLD, (OLD, BUSY), OLD, OLD), (OLD, BUSY), TRANSIENT_TRIES),
        ((OLD, (OLD, WRONG), NEW), (NEW, WRONG), WORKED_TRIES),
        ((OLD, (NEW, WRONG), OLD), (OLD, WRONG), WORKED_TRIES),
        (((OLD, WRONG), OLD), (OLD, WRONG), WORKED_TRIES),
        ((OLD, (OLD, BUSY), OLD, NEW), (OLD, BUSY), 0),
        ((OLD, (OLD, DOWN), OLD), (OLD, DOWN), WORKED_TRIES),
    ],
)
def test_history_of_the_secret_decides_about_an_unclear_refusal(before, asked, free_tries):
    assert history(*before).free_tries(*asked) == free_tries


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("sso: 9: busy, id 4f5a6b7c8d9e", "sso: 9: busy, id 0a1b2c3d4e5f", True),
        ("sso: 9: busy at 2026-01-01 10:00:00", "sso: 9: busy at 2026-01-02 11:30:07", True),
        ("sso: 1001: no", "sso: 1002: no", False),
        ("sso: 9: busy", "sso: 9: locked", False),
    ],
)
def test_refusal_is_recognized_by_its_code_and_text(first, second, is_same):
    known = history(OLD, (OLD, FetchFailure(first, unclear=True)), OLD)
    assert known.free_tries(OLD, FetchFailure(second, unclear=True)) == (TRANSIENT_TRIES if is_same else WORKED_TRIES)


def test_issuer_with_varying_errors_needs_bounded_memory():
    now = history(OLD)
    for number in range(1000):
        now = now.after_failure(OLD, FetchFailure(f"word {number}", unclear=True))
        if number % 7 == 0:
            now = now.after_token(OLD)
    assert len(now.refused | now.transient) <= 2 * MAX_REFUSAL_KINDS


@given(
    has_worked=st.booleans(),
    failures=st.lists(st.sampled_from([BUSY, WRONG, DOWN, REFUSED]), min_size=1, max_size=40),
    jitter=st.floats(0.0, 1.0),
)
@example(has_worked=True, failures=[BUSY, WRONG], jitter=0.0)
def test_secret_is_refused_at_most_17_times_an_hour_in_any_mix(has_worked, failures, jitter):
    known, state, now, refused, number = history(*[OLD] * has_worked), None, 0.0, 0, 0
    while now < 3600.0:
        failure = failures[number % len(failures)].with_reason(failures[number % len(failures)].reason)
        failure.free_tries = known.free_tries(OLD, failure)
        known = known.after_failure(OLD, failure)
        state = next_failure_state(state, failure, now, now, jitter)
        now, number, refused = state.next_try_s, number + 1, refused + (failure.unclear or failure.definite)
    assert refused <= (17 if has_worked else 15)


def received(**kind: Any) -> FetchFailure:
    return FetchFailure("?", from_other_process=True, retry_after_s=1.8, **kind)


@pytest.mark.parametrize("kind", ["definite", "unclear", "quick"])
def test_a_failure_of_another_process_ends_with_that_processs_pause(kind):
    assert next_failure_state(None, received(**{kind: True}), 10.0, 10.2, 1.0).next_try_s == 12.0


def test_transient_failure_of_another_process_has_a_quick_retry():
    assert [quick_wait_s(tries, received(), 0.0) for tries in (1, 2, 3, 4)] == [0.2, 0.5, 1.0, None]
    assert quick_wait_s(1, received(definite=True), 0.0) is None


@pytest.mark.parametrize(
    ("failure", "first_hour", "later"),
    [
        (REFUSED, 15, 12),
        (UNCLEAR, 15, 12),
        (FetchFailure("?", unclear=True, free_tries=WORKED_TRIES), 17, 12),
    ],
)
def test_an_hour_of_refusals_has_the_attempts_that_docs_tokens_md_states(failure, first_hour, later):
    state, now, tries = None, 0.0, []
    while now < 7200.0:
        tries.append(now)
        state = next_failure_state(state, failure, now, now, 0.0)
        now = state.next_try_s
    assert (sum(moment < 3600 for moment in tries), sum(moment >= 3600 for moment in tries)) == (first_hour, later)


@pytest.mark.parametrize(
    ("failure", "refusals", "held_s"),
    [
        (FetchFailure("oh"), 0, 0.0),
        (FetchFailure("oh", retry_after_s=20.0), 0, 20.0),
        (FetchFailure("oh", retry_after_s=1e9), 0, 3600.0),
        (FetchFailure("no", definite=True), 1, 30.0),
        (FetchFailure("no", definite=True), 2, 60.0),
        (FetchFailure("no", definite=True), 4, 240.0),
        (FetchFailure("no", definite=True), 5, 300.0),
        (FetchFailure("no", definite=True), 10_000, 300.0),
        (FetchFailure("no", definite=True, retry_after_s=50.0), 1, 50.0),
        (FetchFailure("?", unclear=True), 1, 30.0),
        (FetchFailure("?", unclear=True), 9, 300.0),
        (FetchFailure("?", unclear=True, free_tries=2), 2, 0.0),
        (FetchFailure("?", unclear=True, free_tries=2), 3, 30.0),
    ],
)
def test_processes_together_pause_as_one_would(failure, refusals, held_s):
    assert shared_pause_s(failure, refusals) == held_s
