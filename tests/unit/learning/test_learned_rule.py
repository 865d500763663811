"""Learned rules: their changes, which of them are allowed, and rules as configuration."""

import json

import pytest

from gatepass.config.model import Config
from gatepass.config.yaml_file import parse_yaml
from gatepass.learning.learned_rule import QUOTE_CHARS, LearnedRule, LearningPolicy, evidence_of, flow_style
from gatepass.learning.memory import Memory
from gatepass.normalize.rules import DeclaredModels, apply_changes, normalize
from tests.rows import CHAT, EMBEDDINGS
from tests.unit.learning.insisting import Insisting
from tests.unit.learning.rejections import ROWS, Case
from tests.unit.learning.upstreams import ask
from tests.unit.normalize.calls import TARGET, a_call

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


def test_evidence_about_a_person_has_no_quotes():
    assert evidence_of("Invalid user: 'jane'", "user") == "Invalid user: …"


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


def learned(case: Case) -> list[LearnedRule]:
    """Return the rules that an upstream teaches that accepts only the expected body of `case`."""
    memory = Memory()
    outcome = ask(memory, Insisting(case), case.call)
    return memory.of(outcome.learning.scope, 0.0)


RULES = [(case, rules) for case in ROWS if (rules := learned(case))]


@pytest.mark.parametrize(("case", "rules"), RULES, ids=[case.name for case, _ in RULES])
def test_a_setting_does_what_its_rules_do(case, rules):
    by_setting = case.call
    for rule in rules:
        if rule.setting():
            by_setting = normalize(by_setting, TARGET, DeclaredModels(read(rule)).rules(case.operation.name, "m"))
    own = [rule.change for rule in rules if rule.setting()]
    by_rule, _ = apply_changes(case.call, own)
    assert json.loads(by_setting.body) == json.loads(by_rule.body)
    assert (by_setting.stream, by_setting.max_inputs) == (by_rule.stream, by_rule.max_inputs)


def test_nearly_all_rules_of_real_refusals_have_a_setting():
    assert {rule.entry for _, rules in RULES for rule in rules if not rule.setting()} <= {
        "tool_ids=short",
        "content=empty",
        "stream=aggregate",
    }


@pytest.mark.parametrize(
    "rule",
    [
        LearnedRule("drop", "output_config"),
        LearnedRule("drop", "messages[].audio"),
        LearnedRule("drop", "max_tokens", values=frozenset(("-1",))),
        LearnedRule("drop", "stop", values=frozenset(("null",))),
        LearnedRule("drop", "seed", beside="tools"),
        LearnedRule("betas", "claude-code-20250219+b-1", "claude-code-20250219"),
        LearnedRule("roles", "user"),
        LearnedRule("split", "input", "50%", is_once=True),
    ],
)
def test_a_rule_that_no_setting_has_is_without_one(rule):
    assert rule.setting() == {}


def test_the_setting_of_a_type_of_tools_drops_it():
    rule = LearnedRule("tools", "web_search")
    body = b'{"tools":[{"type":"web_search"},{"type":"function"}]}'
    by_rule, _ = apply_changes(a_call(body), [rule.change])
    by_setting = normalize(a_call(body), TARGET, DeclaredModels(read(rule)).rules("chat", "m"))
    assert by_rule.body == by_setting.body == b'{"tools":[{"type":"function"}]}'


@pytest.mark.parametrize(
    ("rule", "body", "is_changed"),
    [
        (LearnedRule("drop", "seed", values=frozenset(("7",))), b'{"seed":7}', True),
        (LearnedRule("drop", "seed", values=frozenset(("7",))), b'{"seed":8}', False),
        (LearnedRule("drop", "seed", values=frozenset(('{"a":1}',))), b'{"seed": {"a": 1}}', True),
        (LearnedRule("drop", "seed", beside="tools"), b'{"seed":7}', False),
        (LearnedRule("drop", "seed", beside="tools"), b'{"seed":7,"tools":[{}]}', True),
        (LearnedRule("drop", "seed", beside="tools"), b'{"seed":7,"tools":[]}', False),
        (LearnedRule("drop", "n"), b'{"n":1}', True),
        (LearnedRule("drop", "n"), b'{"n":2}', False),
        (LearnedRule("set", "store", "false", values=frozenset(("true",))), b'{"store":true}', True),
        (LearnedRule("set", "store", "false", values=frozenset(("true",))), b"{}", False),
    ],
)
def test_a_rule_concerns_requests_with_its_values_and_beside_its_member(rule, body, is_changed):
    call = a_call(body)
    assert (apply_changes(call, [rule.change])[0] is not call) is is_changed


@pytest.mark.parametrize(
    ("rule", "is_allowed"),
    [
        (LearnedRule("drop", "seed"), True),
        (LearnedRule("drop", "stop"), False),
        (LearnedRule("drop", "stop", values=frozenset(("null", "[]"))), True),
        (LearnedRule("drop", "model", values=frozenset(("null",))), False),
        (LearnedRule("drop", "messages[].role"), False),
        (LearnedRule("drop", "prediction.content"), False),
        (LearnedRule("drop", "max_tokens"), False),
        (LearnedRule("drop", "max_tokens", beside="max_completion_tokens"), True),
        (LearnedRule("drop", "n", values=frozenset(("1",))), True),
        (LearnedRule("drop", "n", values=frozenset(("3",))), False),
        (LearnedRule("drop", "warp_factor", values=frozenset(("3",))), True),
        (LearnedRule("drop", "warp_factor", values=frozenset(('"3"',))), False),
        (LearnedRule("drop", "dimensions", values=frozenset(("3",))), False),
        (LearnedRule("set", "tool_choice", '"auto"'), False),
        (LearnedRule("rename", "seed", "seeds"), False),
        (LearnedRule("roles", "merged"), False),
        (LearnedRule("role", "system", "user"), False),
        (LearnedRule("roles", "system"), True),
    ],
)
def test_what_carries_meaning_is_not_allowed(rule, is_allowed):
    assert LearningPolicy().allows(rule, CHAT.members) is is_allowed
    if rule.field == "dimensions":
        assert LearningPolicy().allows(rule, EMBEDDINGS.members)
