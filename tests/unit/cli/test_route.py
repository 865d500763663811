import json
from typing import get_args

import pytest
from msgspec.structs import replace

from gatepass.cli.options import CALL_OPERATIONS, OPERATION_OF_KIND, ROUTED_OPERATIONS, operation_by_name
from gatepass.cli.route import DIALECT_CHANGES, report_targets, target_lines
from gatepass.config.model import Config
from gatepass.config.routes import ModelKind, OfModel
from gatepass.config.upstream import DialectName
from gatepass.normalize.rules import BUILT_IN_RULES
from gatepass.operations.table import sample
from gatepass.proxy.app_state import create_app_state
from gatepass.proxy.attempt import rules_for
from gatepass.types import Target

URL = "https://llm.example/v1"


@pytest.mark.parametrize("operation", ["chat", "completions", "embeddings", "responses", "speech"])
def test_a_built_in_rule_that_is_not_shown_changes_no_sample(operation):
    """The sample with all the members that the rules look for."""
    config = Config.model_validate({"upstreams": {"up": {"base_url": URL}}})
    shown = "\n".join(target_lines(report_targets(config, operation, "m", None)))
    call = sample(operation, "m")
    members = json.loads(call.body) | {"images": [], "drop_params": True, "stream_options": {}}
    asked = replace(call, body=json.dumps(members | {"encoding_format": "base64"}).encode())
    for rule in BUILT_IN_RULES:
        changed = rule.apply(asked, Target("up")) is not asked
        assert changed <= (f"built-in {rule.name}:" in shown), rule.name


def test_the_steps_are_reported_in_the_order_in_which_a_request_takes_them():
    places = {"profile": "profile ", "rerank": "rerank_shape", "rules": "rules of models.m"}
    blocks = {
        "upstreams": {"up": {"base_url": URL, "rerank_shape": "tei"}},
        "models": {"m": {"upstream": "up", "name": "deployed", "rules": {"drop": ["user"]}}},
        "profiles": {"mine": {"drop": ["top_n"]}},
    }
    config = Config.model_validate(blocks)
    state = create_app_state(config)
    call, (target,) = sample("rerank", "m"), state.routes.resolve("rerank", "m")
    rules = rules_for(state, state.upstreams["up"], call, target, state.profiles["mine"])
    begins = [places.get(rule.name, f"built-in {rule.name}") for rule in rules]
    lines = [line.removeprefix("   - ") for line in list(target_lines(report_targets(config, "rerank", "m", None)))[1:]]
    of_rules = [begin for line in lines for begin in begins if line.startswith(begin)]
    assert of_rules == [begin for begin in begins if begin in of_rules]
    assert set(begins) - set(of_rules) == {f"built-in {name}" for name in ("images", "stream_options", "vectors")}
    rest = lines[len(of_rules) :]
    assert [line.split()[0] for line in rest] == ["learning:", "dialect", "POST"]


def test_each_dialect_states_what_it_changes():
    assert set(DIALECT_CHANGES) == set(get_args(DialectName))


def test_route_supports_every_operation_with_a_model_and_every_kind():
    assert get_args(OfModel) == ROUTED_OPERATIONS
    assert set(OPERATION_OF_KIND) == {None, *get_args(ModelKind)}
    assert set(CALL_OPERATIONS) < set(ROUTED_OPERATIONS) >= set(OPERATION_OF_KIND.values())


@pytest.mark.parametrize(
    ("model", "operation"),
    [
        ("gpt-4o", "chat"),
        ("bge-m3", "embeddings"),
        ("multilingual-e5-large", "embeddings"),
        ("bge-reranker-v2", "rerank"),
        ("whisper-1", "transcriptions"),
    ],
)
def test_a_model_without_a_declared_kind_has_the_operation_of_its_name(model, operation):
    assert operation_by_name(model) == operation
