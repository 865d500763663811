import pytest

from gatepass.tokens.failure import (
    FailureKind,
    FailureState,
    FetchFailure,
    next_failure_state,
    quick_wait_s,
    retry_now,
    shared_pause_s,
)

DOWN = FetchFailure("down")
REFUSED = FetchFailure("no", FailureKind.REFUSED)


def received(kind: FailureKind = FailureKind.OUTAGE) -> FetchFailure:
    return FetchFailure("?", kind, from_other_process=True, retry_after_s=1.8)


@pytest.mark.parametrize(
    ("failure", "jitter", "waits"),
    [
        (DOWN, 0.0, [0.2, 0.5, 1.0, None]),
        (DOWN, 1.0, [0.25, 0.625, 1.25, None]),
        (received(), 0.0, [0.2, 0.5, 1.0, None]),
        (FetchFailure("busy", retry_after_s=0.8), 0.0, [0.8, 0.8, 1.0, None]),
        (FetchFailure("busy", retry_after_s=1.5), 0.0, [None] * 4),
        (FetchFailure("?", FailureKind.LIMITED), 0.0, [None] * 4),
        (REFUSED, 0.0, [None] * 4),
        (received(FailureKind.REFUSED), 0.0, [None] * 4),
    ],
)
def test_only_a_short_outage_has_quick_retries(failure, jitter, waits):
    assert [quick_wait_s(tries, failure, jitter) for tries in (1, 2, 3, 4)] == waits


@pytest.mark.parametrize(
    ("now", "jitter", "next_s"), [(10.5, 0.0, 12.0), (10.5, 1.0, 13.0), (12.5, 0.0, 12.5), (20.0, 0.0, 20.0)]
)
def test_tries_of_an_outage_are_2_to_3_seconds_apart_unless_one_took_longer(now, jitter, next_s):
    assert next_failure_state(None, DOWN, 10.0, now, jitter) == FailureState(DOWN, 0, next_s)


def test_an_outage_after_refusals_is_probed_fast_and_forgets_none_of_them():
    state = next_failure_state(next_failure_state(None, REFUSED, 0.0, 0.0, 0.0), DOWN, 30.0, 31.0, 0.0)
    assert state == FailureState(DOWN, 1, 32.0)
    assert next_failure_state(state, REFUSED, 33.0, 33.0, 0.0).next_try_s == 93.0


def test_changed_secret_is_tried_at_once_without_a_history():
    state = next_failure_state(next_failure_state(None, REFUSED, 0.0, 0.0, 0.0), REFUSED, 30.0, 30.0, 0.0)
    assert retry_now(state, 35.0) == FailureState(REFUSED, 0, 35.0)


@pytest.mark.parametrize("kind", FailureKind)
def test_a_failure_of_another_process_ends_with_that_processs_pause(kind):
    assert next_failure_state(None, received(kind), 10.0, 10.2, 1.0).next_try_s == 12.0


@pytest.mark.parametrize(
    ("failure", "refusals", "held_s"),
    [
        (FetchFailure("oh"), 0, 0.0),
        (FetchFailure("oh", retry_after_s=20.0), 0, 20.0),
        (FetchFailure("oh", retry_after_s=1e9), 0, 3600.0),
        (FetchFailure("no", FailureKind.REFUSED), 1, 30.0),
        (FetchFailure("no", FailureKind.REFUSED), 2, 60.0),
        (FetchFailure("no", FailureKind.REFUSED), 5, 300.0),
        (FetchFailure("no", FailureKind.REFUSED), 10_000, 300.0),
        (FetchFailure("no", FailureKind.REFUSED, retry_after_s=50.0), 1, 50.0),
        (FetchFailure("?", FailureKind.LIMITED), 1, 30.0),
        (FetchFailure("?", FailureKind.LIMITED, retry_after_s=5.0), 1, 5.0),
    ],
)
def test_processes_together_pause_as_one_would(failure, refusals, held_s):
    assert shared_pause_s(failure, refusals) == held_s
    if not refusals:
        assert next_failure_state(None, failure, 10.0, 10.0, 0.0).next_try_s == 10.0 + max(2.0, held_s)
