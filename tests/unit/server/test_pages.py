"""The rows of learned rules: whose rules are one row, and which values other callers may see."""

import pytest
from msgspec.structs import replace

from gatepass.learning.learned_rule import LearnedRule, LearnedRuleRecord, RuleScope
from gatepass.server.pages import rule_rows

WALL_S = 1_800_000_000.0


def record(rule: LearnedRule, owner: str = "local", evidence: str = "", age_s: float = 100.0) -> LearnedRuleRecord:
    scope = RuleScope(owner, "chat", "o3", "chat")
    return LearnedRuleRecord(scope, rule, evidence, WALL_S - age_s, WALL_S + 60.0 - age_s, uses=2)


def drop(field: str, *values: str) -> LearnedRule:
    return LearnedRule("drop", field, values=frozenset(values))


def reach(field: str, *values: str, evidence: str = "") -> tuple[list[str], int]:
    (row,) = rule_rows([record(drop(field, *values), evidence=evidence)], WALL_S)
    return row.values, row.hidden_values


def test_a_rule_of_many_callers_is_one_row():
    rule = LearnedRule("stream", "synth")
    records = [
        record(rule, "ragflow", "no stream", age_s=50.0),
        record(rule, "claude", "no streams", age_s=10.0),
        record(rule, "aider", "stream?", age_s=20.0),
    ]
    (row,) = rule_rows(records, WALL_S)
    assert (row.upstream, row.model, row.operation, row.adapted) == ("chat", "o3", "chat", "stream=synth")
    assert (row.callers, row.uses) == (["aider", "claude", "ragflow"], 6)
    assert (row.evidence, row.age_s, row.expires_in_s) == ("no streams", 50, 50)
    assert (row.values, row.hidden_values, row.beside, row.setting) == ([], 0, "", 'stream: "emulate"')


def test_rules_that_differ_in_what_is_shown_are_rows_of_their_own():
    rules = [
        drop("seed"),
        drop("seed", "1"),
        drop("seed", "2"),
        drop("seed", '"x"'),
        replace(drop("seed"), beside="top_p"),
        drop("store"),
    ]
    rows = rule_rows([record(rule) for rule in rules], WALL_S)
    assert [(row.adapted, row.beside, row.values, row.hidden_values) for row in rows] == [
        ("drop=seed", "", [], 1),
        ("drop=seed", "", ["1"], 0),
        ("drop=seed", "", ["2"], 0),
        ("drop=seed", "", [], 0),
        ("drop=seed", "top_p", [], 0),
        ("drop=store", "", [], 0),
    ]


def test_hidden_values_of_several_callers_are_counted_once_each():
    records = [record(drop("metadata", value), owner) for owner, value in (("a", "{}"), ("b", "{}"), ("c", '{"x":1}'))]
    (row,) = rule_rows(records, WALL_S)
    assert (row.callers, row.values, row.hidden_values) == (["a", "b", "c"], [], 2)


@pytest.mark.parametrize("value", ["0.3", "-1", "1e-7", "2E+10", "true", "false", "null", "[]", '""'])
def test_a_number_a_truth_value_and_nothing_are_shown(value: str):
    assert reach("seed", value) == ([value], 0)


@pytest.mark.parametrize("value", ['"low"', '"secret words"', '{"a":1}', "sha256:0f", '"a\\nb"'])
def test_another_value_is_hidden(value: str):
    assert reach("reasoning_effort", value) == ([], 1)


@pytest.mark.parametrize(
    ("value", "evidence", "is_shown"),
    [
        ('"low"', "effort low is not supported", True),
        ('"low"', "Expected 'high', got 'low'.", True),
        ('"low"', "a slow model", False),
        ('"low"', "lower it", False),
        ('"a b"', "got a b", False),
        ('"gpt-4.1"', "gpt-4.1: unknown", True),
        ('"gpt-4.1"', "gpt-471: unknown", False),
    ],
)
def test_a_text_is_shown_if_it_is_a_word_of_the_error(value: str, evidence: str, is_shown: bool):
    assert reach("reasoning_effort", value, evidence=evidence) == (([value], 0) if is_shown else ([], 1))


@pytest.mark.parametrize("value", ['"alice"', "4711", "null"])
def test_a_user_is_never_shown(value: str):
    assert reach("user", value, evidence="no user alice 4711 null") == ([], 1)


def test_a_rule_that_has_expired_has_no_time_left():
    (row,) = rule_rows([record(LearnedRule("stream", "synth"), age_s=3600.0)], WALL_S)
    assert (row.age_s, row.expires_in_s) == (3600, 0)
