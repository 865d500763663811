"""The budget of repeats against its promise, and the pause before a repeat."""

import random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gatepass.policy import retry_budget
from gatepass.policy.retry_budget import LEAST_REPEATS, MOST_PAUSE_S, PARTS, WINDOW_S, RetryBudget, pause_s

CERTAIN_S = WINDOW_S * (1 - 1 / PARTS)
"""Events of this age are counted. Older ones of the window may be forgotten."""


class Machine(RuleBasedStateMachine):
    """Requests and repeats, of which as many are sent as the budget allows."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s, self.budget = 1_000.0, RetryBudget()
        self.requests: list[float] = []
        self.repeats: list[float] = []

    def recent(self, times: list[float], window_s: float) -> int:
        return sum(self.now_s - at_s < window_s for at_s in times)

    @rule(times=st.sampled_from((1, 10, 50, 200, 400)))
    def request(self, times: int) -> None:
        for _ in range(times):
            self.budget.add(self.now_s, is_repeat=False)
        self.requests += [self.now_s] * times

    @rule(times=st.sampled_from((1, 5, 29, 31, 150)))
    def repeat(self, times: int) -> None:
        for _ in range(times):
            if self.budget.allows_repeat(self.now_s):
                self.budget.add(self.now_s, is_repeat=True)
                self.repeats.append(self.now_s)
            else:  # it refuses only what the window forbids
                repeats = self.recent(self.repeats, WINDOW_S)
                assert repeats >= LEAST_REPEATS
                assert repeats + 1 > 0.2 * self.recent(self.requests, CERTAIN_S)

    @rule(quarters=st.integers(0, 44))
    def wait(self, quarters: int) -> None:
        self.now_s += quarters / 4

    @invariant()
    def keeps_no_more_than_the_parts_of_the_window(self) -> None:
        assert len(self.budget._parts) <= PARTS

    @invariant()
    def has_no_more_repeats_than_a_fifth_of_the_requests_or_thirty(self) -> None:
        allowed = max(LEAST_REPEATS, 0.2 * self.recent(self.requests, WINDOW_S + CERTAIN_S))
        assert self.recent(self.repeats, CERTAIN_S) <= allowed


TestRetryBudget = Machine.TestCase


@pytest.mark.parametrize(("requests", "repeats"), [(0, 30), (149, 30), (155, 31), (154, 30), (1_000, 200)])
def test_a_budget_allows_a_fifth_of_the_requests_or_thirty(requests, repeats):
    budget, sent = RetryBudget(), 0
    for _ in range(requests):
        budget.add(1_000.0, is_repeat=False)
    while budget.allows_repeat(1_000.0):
        budget.add(1_000.0, is_repeat=True)
        sent += 1
    assert sent == repeats
    assert not budget.allows_repeat(1_009.75)
    assert budget.allows_repeat(1_010.0)


def test_a_pause_is_anything_up_to_its_bound(monkeypatch):
    monkeypatch.setattr(retry_budget, "random", random.Random(1795182408))
    for repeats, most_s in enumerate([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]):
        pauses_s = [pause_s(repeats) for _ in range(500)]
        assert 0.0 <= min(pauses_s) < most_s * 0.05
        assert most_s * 0.95 < max(pauses_s) <= most_s <= MOST_PAUSE_S
