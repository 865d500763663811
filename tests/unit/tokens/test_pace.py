from __future__ import annotations

from dataclasses import replace

from gatepass.call import Secret
from gatepass.tokens.backoff import PROBE_S
from gatepass.tokens.life import Token
from gatepass.tokens.pace import Pace

SLOW = Token(Secret("abc"), 100.0, 300.0, took_s=6.0)
CAME_S = 106.0


def usual_s(*told: tuple[Token, bool]) -> float:
    pace = Pace(10.5)
    for token, alone in told:
        pace.minted(token, alone=alone)
    return pace.usual_s


def test_it_is_as_the_last_fetch_that_was_alone():
    assert usual_s((SLOW, True)) == 6.0
    assert usual_s((SLOW, True), (replace(SLOW, took_s=0.1), True)) == 0.1


def test_what_came_after_an_outage_or_from_elsewhere_or_over_a_suspend_tells_nothing():
    quick = (replace(SLOW, took_s=0.1), True)
    for other in ((SLOW, False), (replace(SLOW, shared=True), True), (replace(SLOW, took_s=7200.0), True)):
        assert usual_s(quick, other) == 0.1


def test_a_token_that_another_fetch_may_have_ended_was_made_by_an_issuer_that_is_slow():
    for shared in (False, True):
        pace = Pace(10.5)
        pace.refused(replace(SLOW, shared=shared), CAME_S + PROBE_S - 0.1)
        assert pace.usual_s == 0.0
        pace.refused(replace(SLOW, shared=shared), CAME_S + PROBE_S)
        assert pace.usual_s == 6.0
        pace.refused(replace(SLOW, took_s=1.0), CAME_S + 100.0)
        assert pace.usual_s == 6.0


def test_a_suspend_is_not_learned_from_a_refusal_either():
    pace = Pace(10.5)
    pace.refused(replace(SLOW, took_s=7200.0), 1e6)
    assert pace.usual_s == 0.0
