from __future__ import annotations

import pytest

from gatepass.tokens.backoff import Setback
from gatepass.tokens.patience import Patience

PATIENCE = Patience("corp", "sso.example", 10.5)


@pytest.mark.parametrize(
    ("budget_s", "trouble", "wait_s"),
    [
        (10.5, None, 10.75),
        (10.5, Setback("down", False, 0, 5.0), 1.0),
        (0.5, Setback("down", False, 0, 5.0), 0.75),
    ],
)
def test_it_waits_its_budget_and_a_second_in_trouble(budget_s, trouble, wait_s):
    assert Patience("corp", "sso.example", budget_s).wait_s(trouble) == wait_s


@pytest.mark.parametrize(
    ("trouble", "reason", "retry_s"),
    [
        (None, "no answer from sso.example within 10.5 s (credentials.corp.timeout_s and a moment more)", 1.0),
        (Setback("it is down", False, 0, 9.0), "it is down", 4.0),
        (Setback("it is down", False, 0, 5.2), "it is down", 1.0),
        (Setback("no. Never.", True, 1, 34.5), "no. Never; tried again in 30 s or so", 29.5),
    ],
)
def test_it_says_what_is_wrong_and_when_to_come_again(trouble, reason, retry_s):
    error = PATIENCE.over(trouble, 5.0, " or so")
    assert error.message == f"no token for credential corp: {reason}"
    assert (error.hop, error.retry_after_s) == ("credential:corp", retry_s)
