"""The pages of learned rules: the rows of several processes as one list."""

from dataclasses import replace

import msgspec

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


def test_people_are_shown_ages():
    row = shown(ONE, WALL_S)
    assert msgspec.to_builtins(row) == {
        "upstream": "chat",
        "model": "o3",
        "operation": "chat",
        "adapted": "stream=synth",
        "beside": "",
        "state": "learned",
        "evidence": "no stream",
        "age_s": 100,
        "expires_in_s": 3600,
        "uses": 4,
        "setting": 'stream: "emulate"',
    }
    assert shown(ONE, WALL_S + 2 * HOUR_S).expires_in_s == 0
    assert shown(FAILED, WALL_S).setting == ""
