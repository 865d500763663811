"""Rules and capabilities of a model, as people write them."""

import pytest

from gatepass.config.model import Config
from gatepass.config.references import Reference
from gatepass.config.routes import LEARN_ALSO, NOT_LEARNED
from gatepass.learning.learned_rule import NEVER, SAFE, SAFE_IN_MESSAGES, SAFE_IN_TOOLS
from gatepass.normalize.members import JsonMemberPath

BASE = {"upstreams": {"u": {"base_url": "https://x"}}}


def tree(**members):
    return {**BASE, "models": {"m": {"upstream": "u", **members}}}


def model(**members):
    return Config.model_validate(tree(**members)).models["m"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (True, "native"),
        (False, "emulate"),
        ("aggregate", "aggregate"),
    ],
)
def test_stream_is_written_in_words_or_as_true_and_false(written, meant):
    assert model(stream=written).stream == meant


def test_a_value_by_reference_is_sent_and_not_printed():
    secret = Reference.to_variable("S", "topsecret")
    rules = model(rules={"set": {"a": {"b": [secret, 1]}}, "default": {"c": secret}}).rules
    assert rules.set == {"a": {"b": ["topsecret", 1]}}
    assert "topsecret" not in repr(rules.model_dump(mode="json"))
    assert rules.model_dump(mode="json")["set"] == {"a": {"b": ["(hidden)", 1]}}


@pytest.mark.parametrize("place", ["temperature", "a.b", "messages[].name", "messages[].tool_calls[].index", "X-y.z"])
def test_member_paths_of_the_configuration_are_those_of_normalize(place):
    assert model(rules={"drop": [place]}).rules.drop == [str(JsonMemberPath.parse(place))]


def test_learn_also_accepts_each_known_name():
    names = sorted(LEARN_ALSO)
    upstream = {"base_url": "https://x", "learn": "on", "learn_also": [*names, "my_own", "messages[].own"]}
    assert Config.model_validate({"upstreams": {"u": upstream}}).upstreams["u"].learn_also[:-2] == names


def test_the_lists_of_what_may_be_learned_do_not_meet():
    assert NOT_LEARNED == NEVER
    assert not (SAFE | SAFE_IN_MESSAGES | SAFE_IN_TOOLS | LEARN_ALSO) & NEVER
    assert not SAFE & LEARN_ALSO
    for name in (*SAFE, *SAFE_IN_MESSAGES, *SAFE_IN_TOOLS, *LEARN_ALSO):
        JsonMemberPath.parse(name)


def test_the_schema_knows_how_stream_is_written():
    schema = Config.model_json_schema()
    assert schema["$defs"]["Model"]["properties"]["stream"]["enum"] == [
        *("auto", "native", "emulate", "aggregate"),
        *(True, False),
    ]
