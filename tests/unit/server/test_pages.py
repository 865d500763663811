"""The pages of learned rules: the rows of several processes as one list."""

from dataclasses import replace

import msgspec

from gatepass import documents
from gatepass.config.model import Config
from gatepass.learning.learned_rule import HOUR_S, LearnedRule, LearnedRuleRecord, RuleScope, setting_lines
from gatepass.normalize.rules import DeclaredModels
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
NEW = "max_completion_tokens"
CONFIG = Config.model_validate({"upstreams": {"chat": {"base_url": "https://h/v1"}}})


def row_of(record: LearnedRuleRecord, wall_s: float = WALL_S) -> documents.LearnedRule:
    (lines,) = setting_lines([record], CONFIG, DeclaredModels(CONFIG))
    return shown(record, lines, wall_s)


def test_people_are_shown_ages():
    row = row_of(ONE)
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
        "settings": ['o3: {upstream: "chat", stream: "emulate"}'],
    }
    assert row_of(ONE, wall_s=WALL_S + 2 * HOUR_S).expires_in_s == 0
    assert row_of(FAILED).settings == []
