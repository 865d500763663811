"""Learned rules as configuration."""

import json
from typing import Any

import pytest

from gatepass.config.model import Config
from gatepass.config.yaml_file import parse_yaml
from gatepass.learning.learned_rule import LearnedRule, LearnedRuleRecord, RuleScope, as_config
from gatepass.normalize.rules import DeclaredModels, apply_changes, normalize
from gatepass.proxy.routing import RouteTable
from tests.unit.learning.rejections import ROWS
from tests.unit.learning.test_learned_rule import RULES_OF_TABLE
from tests.unit.normalize.calls import TARGET

UPSTREAMS = {"upstreams": {"chat": {"base_url": "https://h/v1"}}}


def learned(*learned_rules: Any, model: str = "o3-mini", evidence: str = "no") -> list[LearnedRuleRecord]:
    return [
        LearnedRuleRecord(RuleScope("chat", model, "chat"), learned_rule, "learned", evidence, 0.0, 1.0)
        for learned_rule in learned_rules
    ]


def config(**models: Any) -> Config:
    return Config.model_validate({**UPSTREAMS, "models": models})


def read(text: str) -> Config:
    return Config.model_validate({**UPSTREAMS, **parse_yaml("pins", text).tree})


def yaml(rows: list[LearnedRuleRecord], known: Config | None = None) -> str:
    return as_config(rows, known or config())


def test_exported_yaml_is_readable():
    rows = learned(
        RULES_OF_TABLE[0], RULES_OF_TABLE[2], *RULES_OF_TABLE[3:5], evidence="Unsupported value:\n 'stream' …"
    )
    assert yaml(rows) == (
        "models:\n"
        "  # o3-mini: stream=synth: Unsupported value:  'stream' …\n"
        "  # o3-mini: rename=max_tokens>max_completion_tokens: Unsupported value:  'stream' …\n"
        "  # o3-mini: drop=messages[].name: Unsupported value:  'stream' …\n"
        "  # o3-mini: not pinned, because no setting does the same: set=enable_thinking>false: Unsupported value:"
        "  'stream' …\n"
        "  o3-mini:\n"
        "    upstream: chat\n"
        "    stream: emulate\n"
        "    rules:\n"
        "      rename: {max_tokens: max_completion_tokens}\n"
        "      drop: ['messages[].name']\n"
        "  # *: all other models\n"
        "  '*': {upstream: chat}\n"
    )


def test_other_models_keep_their_upstream_if_the_file_has_no_models():
    text = yaml(learned(RULES_OF_TABLE[0]), config())
    assert DeclaredModels(read(text)).entry("chat", "o3-mini") == "o3-mini"
    assert [target.upstream for target in RouteTable(read(text)).resolve("chat", "gpt-4o")] == ["chat"]
    assert "'*'" not in yaml(learned(RULES_OF_TABLE[0]), config(other={"upstream": "chat"}))


def test_models_have_their_public_names():
    known = config(
        mini={"upstream": "chat", "name": "o3-mini"},
        best={"targets": [{"upstream": "chat", "name": "o3-mini"}]},
        other={"upstream": "chat"},
    )
    text = yaml(learned(RULES_OF_TABLE[0]), known)
    assert text == (
        "models:\n"
        "  # mini: add these members to the existing entry\n"
        "  # mini: stream=synth: no\n"
        "  mini: {stream: emulate}\n"
        "  # best: add these members to the existing entry\n"
        "  # best: stream=synth: no\n"
        "  best: {stream: emulate}\n"
    )
    assert "  o3-mini: {upstream: chat, stream: emulate}\n" in yaml(
        learned(RULES_OF_TABLE[0]), config(other={"upstream": "chat"})
    )


def test_evidence_cannot_leave_its_comment():
    text = yaml(learned(RULES_OF_TABLE[0], evidence="a\n  evil: true\r\n\u2028b" + "x" * 500))
    assert set(read(text).models) == {"o3-mini", "*"}
    assert max(map(len, text.splitlines())) < 120


PINNED = [case for case in ROWS if case.rules()[0].ttl_s and case.rules()[0].action != "set"]


@pytest.mark.parametrize("case", PINNED, ids=lambda case: case.name)
def test_a_pin_does_what_its_rule_does(case):
    learned_rules = case.rules()
    pinned = read(yaml(learned(*learned_rules, model="m")))
    rules = DeclaredModels(pinned).rules(case.call.operation.name, "m")
    by_rule, _ = apply_changes(case.call, [learned_rule.change() for learned_rule in learned_rules])
    by_pin = normalize(case.call, TARGET, rules)
    assert json.loads(by_pin.body) == json.loads(by_rule.body)
    assert (by_pin.stream, by_pin.max_inputs) == (by_rule.stream, by_rule.max_inputs)


@pytest.mark.parametrize("name", ["audio", "function_call", "tool_calls"])
def test_members_dropped_only_if_empty_are_pinned_as_replayed(name):
    learned_rule = LearnedRule("drop", f"messages[].{name}")
    rules = read(yaml(learned(learned_rule))).models["o3-mini"].rules
    assert rules is not None
    assert (rules.drop, rules.replayed) == ([], "drop_but_reasoning")


@pytest.mark.parametrize(
    "rule",
    [LearnedRule("drop", "output_config"), LearnedRule("betas", "claude-code-20250219+b-1", "claude-code-20250219")],
)
def test_a_rule_that_no_setting_has_is_explained(rule):
    text = yaml(learned(rule))
    assert text.startswith("# Nothing can be pinned.")
    assert "# o3-mini: not pinned, because" in text


def test_pinned_entry_copies_the_settings_of_its_glob():
    glob = {
        "upstream": "chat",
        "stream": "emulate",
        "timeouts": {"first_byte_s": 1},
        "rules": {"drop": ["top_p"], "rename": {"a": "b"}, "merge_roles": True},
    }
    learned_rules = (
        LearnedRule("drop", "seed"),
        LearnedRule("drop", "top_p"),
        RULES_OF_TABLE[2],
    )
    pin = read(yaml(learned(*learned_rules), config(**{"*": glob, "other": {"upstream": "chat"}}))).models["o3-mini"]
    assert pin.model_dump(mode="json", exclude_unset=True) == {
        **glob,
        "rules": {
            "drop": ["top_p", "seed"],
            "rename": {"a": "b", "max_tokens": "max_completion_tokens"},
            "merge_roles": True,
        },
    }


def test_rule_of_one_of_several_targets_is_shown_as_a_comment():
    two = {"targets": [{"upstream": "chat", "name": "x"}, {"upstream": "chat", "name": "o3-mini"}]}
    text = yaml(learned(RULES_OF_TABLE[0], evidence="no stream"), config(best=two))
    assert text == (
        "# Nothing can be pinned.\n"
        "  # best: not pinned, because rules apply to all targets, and this one to chat only:"
        " stream=synth: no stream\n"
    )


def test_pinned_entry_has_the_operations_upstream_and_nothing_else():
    route = {"upstream": "chat", "timeouts": {"idle_s": 3.0}, "rules": {"drop": ["user"], "set": {"x": "mine"}}}
    known = Config.model_validate({**UPSTREAMS, "operations": {"chat": route}})
    text = yaml(learned(LearnedRule("drop", "seed")), known)
    pin = read(text).models["o3-mini"]
    assert pin.model_dump(mode="json", exclude_unset=True) == {"upstream": "chat", "rules": {"drop": ["seed"]}}
    assert "mine" not in text


def test_a_pin_shows_no_value_that_an_operator_sets():
    rules = {"drop": ["user"], "set": {"x": "mine"}}
    glob = {"upstream": "chat", "timeouts": {"idle_s": 3.0}, "rules": rules}
    text = yaml(learned(LearnedRule("drop", "seed")), config(**{"o3-*": glob}))
    assert read(text).models["o3-mini"].model_dump(mode="json", exclude_unset=True) == {
        "upstream": "chat",
        "timeouts": {"idle_s": 3.0},
        "rules": {"drop": ["user", "seed"]},
    }
    assert "# o3-mini: add by hand, because values are not shown: set\n" in text
    assert "mine" not in text
