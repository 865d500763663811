"""Settings of a model and of an operation: how they are written, and which of them is used."""

from typing import Any

import pytest

from gatepass.config.model import Config
from gatepass.config.references import Reference
from gatepass.config.routes import Model, OperationRoute, Rules
from gatepass.learning.meaning import NEVER, SAFE, SAFE_IN_MESSAGES, SAFE_IN_TOOLS
from gatepass.normalize.members import JsonMemberPath


def model(**members: Any) -> Model:
    return Model.model_validate({"upstream": "a", **members})


def counts(entry: Model) -> dict[str, Any]:
    return entry.model_dump(exclude={"capabilities"}, exclude_defaults=True)


def test_the_rules_of_a_model_replace_those_of_its_operation_one_by_one():
    entry = model(name="x", stream="native", rules={"drop": ["seed"], "split": 4})
    route = OperationRoute.model_validate({"rules": {"drop": ["user"], "merge_roles": True, "split": 8}})
    assert entry.over(None) is entry
    assert counts(entry.over(route)) == {
        "upstream": "a",
        "name": "x",
        "stream": "native",
        "rules": {"drop": ["user", "seed"], "merge_roles": True, "split": 4},
    }
    assert counts(model().over(route)) == {"upstream": "a", **route.model_dump(exclude_unset=True)}


MOST, LESS = {"max": 100.0}, {"max": 10.0}


@pytest.mark.parametrize(
    ("above", "below", "found"),
    [
        ({"drop": ["t"]}, {"set": {"t": 1, "u": 2}, "default": {"t": 1}}, {"drop": ["t"], "set": {"u": 2}}),
        ({"set": {"t": 1}}, {"drop": ["t", "u"]}, {"drop": ["u"], "set": {"t": 1}}),
        ({"default": {"t": 1}}, {"set": {"t": 2}}, {"default": {"t": 1}}),
        ({"default": {"t": 1}}, {"default": {"t": 2, "u": 2}}, {"default": {"t": 1, "u": 2}}),
        ({"set": {"a.b": 1}}, {"drop": ["a"]}, {"drop": ["a"], "set": {"a.b": 1}}),
        ({"rename": {"t": "u"}}, {"drop": ["u", "seed"]}, {"rename": {"t": "u"}, "drop": ["seed"]}),
        ({"rename": {"t": "u"}}, {"set": {"u": 9, "n": 1}}, {"rename": {"t": "u"}, "set": {"n": 1}}),
        ({"rename": {"t": "u"}}, {"default": {"u": 9}, "rename": {"u": "n"}},
         {"rename": {"u": "n", "t": "u"}, "default": {"u": 9}}),
        ({"rename": {"t": "u", "u": "v"}}, {"drop": ["v"]}, {"rename": {"t": "u", "u": "v"}}),
        ({"rename": {"a.t": "u"}}, {"drop": ["a.u", "u"]}, {"rename": {"a.t": "u"}, "drop": ["u"]}),
        ({"roles": {"system": "user"}}, {"roles": {"developer": "system", "system": "developer"}},
         {"roles": {"developer": "system", "system": "user"}}),
        ({"text_content": False}, {"text_content": True, "merge_roles": True}, {"merge_roles": True}),
        ({}, {"split": 3}, {"split": 3}),
        ({"rename": {"t": "u"}}, {"clamp": {"t": MOST}}, {"rename": {"t": "u"}, "clamp": {"u": MOST}}),
        ({"rename": {"a.t": "u"}}, {"clamp": {"a.t": MOST, "t": LESS}}, {"rename": {"a.t": "u"},
                                                                         "clamp": {"a.u": MOST, "t": LESS}}),
        ({"rename": {"t": "u"}}, {"clamp": {"t": MOST, "u": LESS}}, {"rename": {"t": "u"}, "clamp": {"u": LESS}}),
        ({"rename": {"t": "u"}}, {"clamp": {"u": LESS, "t": MOST}}, {"rename": {"t": "u"}, "clamp": {"u": LESS}}),
        ({"rename": {"t": "u"}, "clamp": {"u": LESS}}, {"clamp": {"u": MOST, "t": MOST}},
         {"rename": {"t": "u"}, "clamp": {"u": LESS}}),
        ({"rename": {"t": "u", "u": "v"}}, {"clamp": {"t": MOST}}, {"rename": {"t": "u", "u": "v"},
                                                                    "clamp": {"v": MOST}}),
        ({"rename": {"t": "u"}, "clamp": {"u": LESS}}, {"clamp": {"t": MOST}},
         {"rename": {"t": "u"}, "clamp": {"u": LESS}}),
        ({"clamp": {"t": LESS}}, {"rename": {"t": "u"}, "clamp": {"u": MOST}},
         {"rename": {"t": "u"}, "clamp": {"u": LESS}}),
        ({"default": {"t": 500}}, {"rename": {"t": "u"}, "clamp": {"u": MOST}},
         {"default": {"t": 500}, "clamp": {"t": MOST, "u": MOST}}),
        ({"rename": {"a.t": "v"}}, {"rename": {"a.t": "u"}, "clamp": {"a.u": MOST}},
         {"rename": {"a.t": "v"}, "clamp": {"a.v": MOST, "a.u": MOST}}),
        ({"set": {"t": 500}}, {"rename": {"t": "u"}, "clamp": {"t": LESS, "u": MOST}},
         {"set": {"t": 500}, "clamp": {"t": LESS, "u": MOST}}),
        ({"default": {"t": 500}}, {"clamp": {"t": MOST}}, {"default": {"t": 500}, "clamp": {"t": MOST}}),
        ({"clamp": {"t": LESS}}, {"clamp": {"t": MOST, "u": MOST}}, {"clamp": {"t": LESS, "u": MOST}}),
    ],
)  # fmt: skip
def test_rules_for_the_same_path_replace_those_below_and_a_clamp_only_a_clamp(above, below, found):
    rules = Rules.model_validate(above).over(Rules.model_validate(below))
    assert rules.model_dump(exclude_defaults=True) == found


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
    rules = Rules.model_validate({"set": {"a": {"b": [secret, 1]}}, "default": {"c": secret}})
    assert rules.set == {"a": {"b": ["topsecret", 1]}}
    assert "topsecret" not in repr(rules.model_dump(mode="json"))
    assert rules.model_dump(mode="json")["set"] == {"a": {"b": ["(hidden)", 1]}}


@pytest.mark.parametrize("place", ["temperature", "a.b", "messages[].name", "messages[].tool_calls[].index", "X-y.z"])
def test_member_paths_of_the_configuration_are_those_of_normalize(place):
    assert Rules.model_validate({"drop": [place]}).drop == [JsonMemberPath.parse(place).dotted]


def test_what_may_be_learned_leaves_no_request_without_its_meaning():
    assert not (SAFE | SAFE_IN_MESSAGES | SAFE_IN_TOOLS) & NEVER
    for name in (*SAFE, *SAFE_IN_MESSAGES, *SAFE_IN_TOOLS):
        JsonMemberPath.parse(name)


def test_the_schema_knows_how_stream_is_written():
    schema = Config.model_json_schema()
    assert schema["$defs"]["Model"]["properties"]["stream"]["enum"] == [
        *("auto", "native", "emulate", "aggregate"),
        *(True, False),
    ]
