"""The pages of learned rules: the rows of several processes as one list."""

from dataclasses import replace
from functools import partial

import msgspec
import pytest

from gatepass import documents
from gatepass.auth.authenticator import LOCAL
from gatepass.auth.model_access import may_use
from gatepass.config.access import AccessKey
from gatepass.config.model import Config
from gatepass.learning.learned_rule import HOUR_S, LearnedRule, LearnedRuleRecord, RuleScope, setting_lines
from gatepass.normalize.rules import DeclaredModels
from gatepass.proxy.routing import RouteTable
from gatepass.server.pages import marked, shown, visible

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


def row_of(
    record: LearnedRuleRecord, config: Config = CONFIG, caller: AccessKey = LOCAL, wall_s: float = WALL_S
) -> documents.LearnedRule:
    (lines,) = setting_lines([record], config, DeclaredModels(config), partial(may_use, caller))
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


def of_mini(**models: dict[str, object]) -> Config:
    upstreams = {"chat": {"base_url": "https://h/v1"}}
    mini = {name: {"upstream": "chat", "name": "o3", **entry} for name, entry in models.items()}
    return Config.model_validate({"upstreams": upstreams, "models": mini})


@pytest.mark.parametrize(
    ("rule", "entry"),
    [
        (LearnedRule("stream", "synth"), {"stream": "emulate"}),
        (LearnedRule("stream", "aggregate"), {"stream": "aggregate"}),
        (LearnedRule("drop", "seed"), {"rules": {"drop": ["seed"]}}),
        (LearnedRule("rename", "max_tokens", "max_completion_tokens"), {"rules": {"rename": {"max_tokens": NEW}}}),
        (LearnedRule("set", "temperature", "1"), {"rules": {"set": {"temperature": 1}}}),
        (LearnedRule("role", "developer", "system"), {"rules": {"roles": {"developer": "system"}}}),
        (LearnedRule("split", "input", "8"), {"rules": {"split": 8}}),
        (LearnedRule("roles", "merged"), {"rules": {"merge_roles": True}}),
        (LearnedRule("content", "text"), {"rules": {"text_content": True}}),
    ],
)
def test_a_rule_that_the_configuration_makes_under_every_name_is_configured_and_has_no_setting_to_add(rule, entry):
    learned = replace(ONE, rule=rule)
    for models, state in (
        ({"mini": entry}, "configured"),
        ({"mini": entry, "small": entry}, "configured"),
        ({"mini": entry, "small": {}}, "learned"),
        ({"mini": {}}, "learned"),
    ):
        config = of_mini(**models)
        found = marked(learned, config, DeclaredModels(config))
        assert found == replace(learned, state=state), models
        has_line = state == "learned" and bool(rule.setting())
        assert bool(row_of(found, config).settings) == has_line


def test_another_value_in_the_configuration_leaves_a_rule_learned():
    cases: tuple[tuple[LearnedRule, dict[str, object]], ...] = (
        (LearnedRule("split", "input", "8"), {"rules": {"split": 16}}),
        (LearnedRule("set", "temperature", "1"), {"rules": {"set": {"temperature": 0.5}}}),
        (LearnedRule("drop", "seed"), {"rules": {"drop": ["user"]}}),
    )
    for rule, entry in cases:
        config, learned = of_mini(mini=entry), replace(ONE, rule=rule)
        assert marked(learned, config, DeclaredModels(config)) == learned
    failed = of_mini(mini={"rules": {"drop": ["seed"]}})
    assert marked(FAILED, failed, DeclaredModels(failed)) == FAILED


ROUTED = Config.model_validate(
    {
        "upstreams": {"chat": {"base_url": "https://h/v1"}, "other": {"base_url": "https://o/v1"}},
        "models": {
            "mini": {"upstream": "chat", "name": "o3"},
            "secret": {"upstream": "chat", "name": "o3"},
            "gpt-*": {"upstream": "other"},
            "one-*": {"upstream": "other", "name": "the-one"},
        },
    }
)


def key_for(*models: str) -> AccessKey:
    return AccessKey.model_construct(name="k", hash=None, key=None, models=list(models), profile=None)


def seen_by(caller: AccessKey) -> list[str]:
    there = [("chat", "o3"), ("other", "gpt-5"), ("other", "the-one"), ("chat", "gpt-5"), ("chat", "")]
    known = [replace(ONE, scope=RuleScope(upstream, model, "chat")) for upstream, model in there]
    seen = visible(known, caller, RouteTable(ROUTED), ROUTED)
    return [f"{one.scope.upstream}/{one.scope.model}" for one in seen]


def test_a_key_is_shown_only_the_models_that_it_may_use():
    assert seen_by(key_for("mini")) == ["chat/o3"]
    assert seen_by(key_for("gpt-5")) == seen_by(key_for("gpt-*")) == ["other/gpt-5"]
    assert seen_by(key_for("one-a")) == seen_by(key_for("one-*")) == ["other/the-one"]
    assert seen_by(key_for("o3", "gpt-4", "absent")) == []
    assert len(seen_by(LOCAL)) == 5


def test_a_setting_names_only_the_models_that_the_key_may_use():
    lines = ['mini: {stream: "emulate"}', 'secret: {stream: "emulate"}']
    assert row_of(ONE, ROUTED).settings == lines
    assert row_of(ONE, ROUTED, key_for("mini")).settings == lines[:1]
