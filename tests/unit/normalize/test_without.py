"""Rules that one request leaves out, by the name of the rule or the entry of a change."""

import json
from typing import Any

import pytest

from gatepass.config.model import Config
from gatepass.normalize.rules import DeclaredModels, normalize
from gatepass.types import Target
from tests.unit.normalize.calls import a_call

RULES = {"drop": ["seed"], "default": {"top_p": 1}, "roles": {"developer": "system"}}
CONFIG = Config.model_validate(
    {"upstreams": {"u": {"base_url": "http://h/v1"}}, "models": {"m": {"upstream": "u", "rules": RULES}}}
)
IMAGE = "data:image/png;base64,iVBORw0KGgo="
BODY = {
    "model": "m",
    "messages": [{"role": "developer", "content": "x"}, {"role": "user", "content": "y", "images": [IMAGE]}],
    "seed": 1,
    "drop_params": True,
    "model_type": "chat",
}


def sent(*without: str) -> tuple[Any, tuple[str, ...]]:
    rules = DeclaredModels(CONFIG).configured_rules("chat", "m")
    call = normalize(a_call(json.dumps(BODY).encode(), without=without), Target("u", "deployed"), rules)
    return json.loads(call.body), call.adapted


def test_without_a_name_all_rules_apply():
    _, adapted = sent()
    assert {"images=1", "drop=drop_params", "drop=model_type", "drop=seed", "default=top_p"} < {*adapted}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("drop=seed", {"drop=seed"}),
        ("rules", {"drop=seed", "default=top_p", "role=developer>system"}),
        ("drop=drop_params", {"drop=drop_params"}),
        ("strays", {"drop=drop_params", "drop=model_type"}),
        ("images=1", {"images=1"}),
        ("images", {"images=1"}),
        ("unknown", set()),
    ],
)
def test_only_the_named_changes_are_left_out(name, kept):
    _, all_changes = sent()
    _, changes = sent(name)
    assert [entry for entry in all_changes if entry not in kept] == [*changes]
    assert kept <= {*all_changes}


def test_several_names_are_left_out_together():
    body, adapted = sent("rules", "strays", "images", "model")
    assert (body, adapted) == (BODY, ())
