"""Learned rules: their changes, their order, rules that reverse each other, and rules as configuration."""

import json
from typing import Any

import msgspec
import pytest

from gatepass.config.model import Config
from gatepass.config.yaml_file import parse_yaml
from gatepass.learning.learned_rule import (
    EVIDENCE_CHARS,
    QUOTED_CHARS,
    LearnedRule,
    LearnedRuleRecord,
    RuleScope,
    as_config,
    evidence_of,
)
from gatepass.normalize.rules import DeclaredModels, apply_changes, normalize
from gatepass.proxy.routing import RouteTable
from tests.unit.learning.rejections import ROWS
from tests.unit.normalize.calls import TARGET

WITHOUT_A_CHANGE = (
    ("drop", "tools[]", None),
    ("drop", "messages[].content[]", None),
    ("drop", "messages.0.name", None),
    ("drop", "2fast", None),
    ("drop", "x" * 65, None),
    ("drop", "", None),
    ("drop", "seed", "7"),
    ("rename", "max_tokens", "a b"),
    ("set", "seed", "{}"),
    ("clamp", "max_tokens", "much"),
    ("split", "input", "0"),
    ("stream", "sideways", None),
    ("explode", "seed", None),
)
RULES_OF_TABLE = (
    LearnedRule("stream", "synth", ttl_s=900),
    LearnedRule("stream", "aggregate"),
    LearnedRule("rename", "max_tokens", "max_completion_tokens"),
    LearnedRule("drop", "messages[].name"),
    LearnedRule("set", "enable_thinking", "false"),
    LearnedRule("clamp", "max_tokens", "5"),
    LearnedRule("response_format", "json_object"),
    LearnedRule("role", "developer", "system"),
    LearnedRule("role", "system", "user"),
    LearnedRule("roles", "merged"),
    LearnedRule("content", "text"),
    LearnedRule("content", "empty"),
    LearnedRule("tool_ids", "short"),
    LearnedRule("split", "input", "16"),
    LearnedRule("betas", "claude-code-20250219+a-1+b-1", "claude-code-20250219"),
    LearnedRule("beta", "effort-2025-11-24"),
)
UPSTREAMS = {"upstreams": {"chat": {"base_url": "https://h/v1"}}}


def test_rules_are_made_in_an_order_in_which_each_sees_what_it_needs():
    shuffled = [*RULES_OF_TABLE[8:], *RULES_OF_TABLE[:8]]
    assert [learned_rule.rank for learned_rule in sorted(shuffled, key=lambda learned_rule: learned_rule.rank)] == [
        learned_rule.rank for learned_rule in RULES_OF_TABLE
    ]


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
        (LearnedRule("role", "developer", "system"), LearnedRule("role", "system", "user"), False),
        (LearnedRule("stream", "synth"), LearnedRule("stream", "aggregate"), True),
        (LearnedRule("stream", "synth"), LearnedRule("stream", "synth"), False),
        (LearnedRule("set", "a", "true"), LearnedRule("set", "a", "false"), True),
        (LearnedRule("set", "a", "true"), LearnedRule("set", "b", "false"), False),
        (LearnedRule("set", "a", '"x"'), LearnedRule("set", "a", '"x"'), False),
        (LearnedRule("drop", "a"), LearnedRule("set", "a", "true"), False),
        (LearnedRule("content", "text"), LearnedRule("content", "empty"), False),
    ],
)
def test_rules_that_undo_each_other_are_known(one, other, is_reversed):
    assert one.reverses(other) is is_reversed
    assert other.reverses(one) is is_reversed


O3 = RuleScope("chat", "o3-mini", "chat")
SYNTH = LearnedRule("stream", "synth")
LEARNED_AT, EXPIRES_AT = 1_800_000_000.0, 1_800_003_600.0
LEARNED = LearnedRuleRecord(O3, SYNTH, "learned", "no stream", LEARNED_AT, EXPIRES_AT, uses=1)


def test_a_record_is_plain_json_for_other_processes():
    sent = json.dumps(msgspec.to_builtins(LEARNED))
    assert msgspec.convert(json.loads(sent), LearnedRuleRecord) == LEARNED


PROMPT = "my neighbour's diagnosis is a secret that I tell to nobody"


@pytest.mark.parametrize(
    "message",
    [
        "",
        "Unsupported value: 'stream' does not support true with this model.",
        "It doesn't know the user's `seed`, and can't.",
        'Input should be "system", “user” or ‘tool’',
        f"'{'x' * QUOTED_CHARS}'",
    ],
)
def test_names_and_short_values_stay(message):
    assert evidence_of(message) == message


@pytest.mark.parametrize("quotes", ["''", '""', "``", "“”", "‘’"])
def test_evidence_omits_long_quotes(quotes):
    begin, end = quotes
    assert (
        evidence_of(f"Invalid value: {begin}{PROMPT}{end}. Use 'user'.") == f"Invalid value: {begin}…{end}. Use 'user'."
    )
    assert evidence_of(f"Invalid value: {begin}{PROMPT}") == f"Invalid value: {begin}…"


def test_a_quotation_in_json_ends_at_its_own_end():
    message = '{"input":"he said \\"no\\" and that ' + PROMPT + '","type":"x"}'
    assert evidence_of(message) == '{"input":"…","type":"x"}'


def test_a_sentence_of_quotes_is_read_in_one_pass():
    assert len(evidence_of("'a " * 100_000)) <= EVIDENCE_CHARS
    assert len(evidence_of('"\\' * 100_000)) <= EVIDENCE_CHARS


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
