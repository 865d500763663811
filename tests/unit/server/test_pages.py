"""The pages of learned rules: the rows of several processes as one list."""

from dataclasses import replace

from gatepass.learning.learned_rule import HOUR_S, LearnedRule, LearnedRuleRecord, RuleScope
from gatepass.server.pages import shown

WALL_S = 1_800_000_000.0
ONE = LearnedRuleRecord(
    RuleScope("chat", "o3", "chat"),
    LearnedRule("stream", "synth"),
    "learned",
    "no stream",
    WALL_S - 100,
    WALL_S + HOUR_S,
    4,
)
FAILED = replace(ONE, state="failed", rule=LearnedRule("drop", "seed"))


def test_a_rule_that_has_expired_has_no_time_left_and_one_that_failed_no_setting():
    assert (shown(ONE, WALL_S).expires_in_s, shown(ONE, WALL_S + 2 * HOUR_S).expires_in_s) == (3600, 0)
    assert (shown(ONE, WALL_S).setting, shown(FAILED, WALL_S).setting) == ('stream: "emulate"', "")
