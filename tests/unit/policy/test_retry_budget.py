"""The budget of repeats against its promise, and the pause before a repeat."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.policy import retry_budget
from gatepass.policy.retry_budget import MOST_PAUSE_S, MOST_REPEATS, RetryBudget, pause_s

STEPS = st.tuples(st.integers(0, 44).map(lambda quarters: quarters / 4), st.integers(0, 400), st.integers(0, 150))
"""Seconds that pass, then requests, then tries to repeat."""


@given(st.lists(STEPS, max_size=30))
def test_any_time_has_at_most_thirty_repeats_and_what_its_requests_and_seconds_allow(steps):
    budget, now_s, sent = RetryBudget(), 1_000.0, list[tuple[float, float]]()
    for passed_s, requests, tries in steps:
        now_s += passed_s
        for _ in range(requests):
            budget.add(is_repeat=False)
        repeats = 0
        for _ in range(tries):
            if budget.allows_repeat(now_s):
                budget.add(is_repeat=True)
                repeats += 1
        sent.append((3 * passed_s + requests / 5, repeats))
    for at in range(len(sent)):
        for end in range(at + 1, len(sent) + 1):
            allowed, repeats = map(sum, zip(*sent[at:end], strict=True))
            assert repeats <= MOST_REPEATS + allowed + 1e-6


@pytest.mark.parametrize(
    ("passed_s", "requests", "repeats"), [(0, 0, 0), (1, 0, 3), (0, 200, 10), (1, 200, 10), (10, 0, 30), (1, 1_000, 30)]
)
def test_an_empty_budget_gets_a_fifth_of_the_requests_or_three_a_second(passed_s, requests, repeats):
    """The 30 repeats before count against both shares."""
    budget = RetryBudget()

    def taken(now_s: float) -> int:
        count = 0
        while budget.allows_repeat(now_s):
            budget.add(is_repeat=True)
            count += 1
        return count

    assert taken(1_000.0) == MOST_REPEATS
    for _ in range(requests):
        budget.add(is_repeat=False)
    assert taken(1_000.0 + passed_s) == repeats


@pytest.mark.parametrize("per_s", [1, 5, 15, 20, 30, 100])
def test_an_outage_of_a_minute_costs_a_fifth_of_its_requests_more_or_three_calls_a_second(per_s: int) -> None:
    rng, budget, repeats = random.Random(per_s), RetryBudget(), 0
    arrivals_s = sorted(1_000.0 + rng.uniform(0, 60) for _ in range(60 * per_s))
    for now_s in arrivals_s:
        budget.add(is_repeat=False)
        while budget.allows_repeat(now_s):  # each request, and each repeat, fails
            budget.add(is_repeat=True)
            repeats += 1
    share = max(60 * per_s / 5, 60 * 3)
    assert 0.9 * share - 10 <= repeats <= 1.06 * share + MOST_REPEATS


def test_a_pause_is_anything_up_to_its_bound(monkeypatch):
    monkeypatch.setattr(retry_budget, "random", random.Random(1795182408))
    for repeats, most_s in enumerate([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]):
        pauses_s = [pause_s(repeats) for _ in range(500)]
        assert 0.0 <= min(pauses_s) < most_s * 0.05
        assert most_s * 0.95 < max(pauses_s) <= most_s <= MOST_PAUSE_S
