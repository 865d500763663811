"""Learned rules: their changes, rules that reverse each other, and rules as configuration."""

import json

import pytest

from gatepass.config.model import Config
from gatepass.config.yaml_file import parse_yaml
from gatepass.learning.learned_rule import QUOTE_CHARS, LearnedRule, evidence_of, flow_style
from gatepass.normalize.rules import DeclaredModels, apply_changes, normalize
from tests.unit.learning.rejections import ROWS
from tests.unit.normalize.calls import TARGET

WITHOUT_A_CHANGE = (
    ("drop", "tools[]", None),
    ("drop", "seed", "a b"),
    ("rename", "max_tokens", "a b"),
    ("set", "seed", "{}"),
    ("split", "input", "0"),
    ("stream", "sideways", None),
    ("explode", "seed", None),
)
UPSTREAMS = {"upstreams": {"chat": {"base_url": "https://h/v1"}}}


@pytest.mark.parametrize(("rule", "field", "to"), WITHOUT_A_CHANGE)
def test_there_is_no_rule_without_a_change(rule, field, to):
    with pytest.raises(ValueError, match=r"."):
        LearnedRule(rule, field, to)


@pytest.mark.parametrize(
    ("one", "other", "is_reversed"),
    [
        (LearnedRule("rename", "a", "b"), LearnedRule("rename", "b", "a"), True),
        (LearnedRule("rename", "a", "b"), LearnedRule("rename", "a", "b"), False),
        (LearnedRule("role", "developer", "system"), LearnedRule("role", "system", "developer"), True),
        (LearnedRule("stream", "synth"), LearnedRule("stream", "aggregate"), True),
        (LearnedRule("set", "a", "true"), LearnedRule("set", "a", "false"), True),
        (LearnedRule("set", "a", "true"), LearnedRule("set", "b", "false"), False),
        (LearnedRule("drop", "a"), LearnedRule("set", "a", "true"), False),
        (LearnedRule("content", "text"), LearnedRule("content", "empty"), False),
    ],
)
def test_rules_that_undo_each_other_are_known(one, other, is_reversed):
    assert one.reverses(other) is is_reversed
    assert other.reverses(one) is is_reversed


PROMPT = "my neighbour's diagnosis is a secret that I tell to nobody"


@pytest.mark.parametrize(
    "message",
    [
        "",
        "Unsupported value: 'stream' does not support true with this model.",
        "It doesn't know the user's `seed`, and can't.",
        'Input should be "system", “user” or ‘tool’',
        f"'{'x' * (QUOTE_CHARS - 2)}'",
    ],
)
def test_names_and_short_values_stay(message):
    assert evidence_of(message) == message


@pytest.mark.parametrize("quotes", ["''", '""', "``", "“”", "‘’"])
def test_evidence_omits_long_quotes(quotes):
    begin, end = quotes
    assert evidence_of(f"Invalid value: {begin}{PROMPT}{end}. Use 'user'.") == "Invalid value: …. Use 'user'."
    assert evidence_of(f"Invalid value: {begin}{PROMPT * 9}") == "Invalid value: …"


def test_a_quotation_in_json_ends_at_its_own_end():
    message = '{"input":"he said \\"no\\" and that ' + PROMPT + '","type":"x"}'
    assert evidence_of(message) == '{"input":…,"type":"x"}'


def read(rule: LearnedRule) -> Config:
    """Return the configuration with the setting of `rule` for the model `m`."""
    tree = parse_yaml("settings", f"m: {flow_style({'upstream': 'chat', **rule.setting()})}").tree
    return Config.model_validate({**UPSTREAMS, "models": tree})


WITH_SETTING = [case for case in ROWS if all(rule.ttl_s and rule.setting() for rule in case.rules())]


@pytest.mark.parametrize("case", WITH_SETTING, ids=lambda case: case.name)
def test_a_setting_does_what_its_rule_does(case):
    learned_rules, by_setting = case.rules(), case.call
    for rule in learned_rules:
        rules = DeclaredModels(read(rule)).rules(case.call.operation.name, "m")
        by_setting = normalize(by_setting, TARGET, rules)
    by_rule, _ = apply_changes(case.call, [learned_rule.change() for learned_rule in learned_rules])
    assert json.loads(by_setting.body) == json.loads(by_rule.body)
    assert (by_setting.stream, by_setting.max_inputs) == (by_rule.stream, by_rule.max_inputs)


@pytest.mark.parametrize(
    "rule",
    [
        LearnedRule("drop", "output_config"),
        LearnedRule("drop", "messages[].audio"),
        LearnedRule("betas", "claude-code-20250219+b-1", "claude-code-20250219"),
    ],
)
def test_a_rule_that_no_setting_has_is_without_one(rule):
    assert rule.setting() == {}
