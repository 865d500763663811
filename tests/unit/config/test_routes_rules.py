"""Rules and capabilities of a model, as people write them."""

import pytest
from pydantic import ValidationError

from gatepass.config.document import dotted
from gatepass.config.model import Config
from gatepass.config.references import Reference
from gatepass.config.routes import LEARN_ALSO, NOT_LEARNED
from gatepass.config.wording import explained_errors
from gatepass.learning.learned_rule import NEVER, SAFE, SAFE_IN_MESSAGES, SAFE_IN_TOOLS
from gatepass.normalize.members import JsonMemberPath

BASE = {"upstreams": {"u": {"base_url": "https://x"}}}


def tree(**members):
    return {**BASE, "models": {"m": {"upstream": "u", **members}}}


def model(**members):
    return Config.model_validate(tree(**members)).models["m"]


def errors_of(whole):
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(whole)
    return {dotted(place): text for place, text in explained_errors(caught.value, whole)}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (True, "native"),
        (False, "emulate"),
        ("auto", "auto"),
        ("native", "native"),
        ("emulate", "emulate"),
        ("aggregate", "aggregate"),
    ],
)
def test_stream_is_written_in_words_or_as_true_and_false(written, meant):
    assert model(stream=written).stream == meant


def test_stream_is_nothing_else():
    assert errors_of(tree(stream="nativ")) == {"models.m.stream": "'nativ' is not known here; did you mean native?"}
    assert errors_of(tree(stream=None)) == {"models.m.stream": "is empty: set it, or remove the line"}
    assert model().stream == "auto"


@pytest.mark.parametrize(
    ("rules", "wanted_text"),
    [
        ({"drop": ["a b"]}, {"drop[0]": "expects the name of a member, such as temperature, metadata.user or"}),
        ({"drop": ["messages"]}, {"drop[0]": "cannot be changed by a rule: gatepass never removes the conversation"}),
        ({"set": {"stream": True}}, {"set.stream": "cannot be changed by a rule: set `stream` in the model's entry"}),
        ({"set": {"model": "x"}}, {"set.model": "cannot be changed by a rule: set `name` in the model's entry"}),
        ({"drop": ["messages[].content"]}, {"drop[0]": "cannot be changed by a rule: use `text_content`"}),
        ({"rename": {"a": "b.c"}}, {"rename.a": "expects the new name alone"}),
        ({"rename": {"a": "model"}}, {"rename.a": "cannot be changed by a rule: set `name`"}),
        ({"clamp": {"a": {}}}, {"clamp.a": "expects min, max or both"}),
        ({"clamp": {"a": {"min": 2, "max": 1}}}, {"clamp.a": "expects a min that is not above max"}),
        ({"split": 0}, {"split": "expects more than 0"}),
        ({"roles": {"developer": "sytem"}}, {"roles.developer": "'sytem' is not known here; did you mean system?"}),
        ({"replayed": "dorp"}, {"replayed": "'dorp' is not known here; did you mean drop?"}),
        ({"dorp": []}, {"dorp": "is not a setting; did you mean drop?"}),
    ],
)
def test_an_impossible_rule_is_reported_at_its_path(rules, wanted_text):
    ((place, text),) = errors_of(tree(rules=rules)).items()
    ((expected, beginning),) = wanted_text.items()
    assert place == f"models.m.rules.{expected}"
    assert text.startswith(beginning)


def test_values_are_any_json():
    rules = model(rules={"set": {"a": {"b": [1, None]}}, "default": {"c.d": "x"}}).rules
    assert (rules.set, rules.default) == ({"a": {"b": [1, None]}}, {"c.d": "x"})


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
    for name in ("model", "messages", "input", "stream", "messages[].content", "messages[].role", "a b"):
        reported = errors_of({"upstreams": {"u": {**upstream, "learn_also": [name]}}})
        assert reported["upstreams.u.learn_also[0]"].startswith("cannot be learned")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("max_token", "is not known; did you mean max_tokens?"),
        ("Max_Tokens", "is not known; did you mean max_tokens?"),
        ("tool_choices", "is not known; did you mean tool_choice?"),
    ],
)
def test_a_word_that_would_do_nothing_is_not_to_be_learned(name, why):
    reported = errors_of({"upstreams": {"u": {"base_url": "https://x", "learn_also": [name]}}})
    assert reported["upstreams.u.learn_also[0]"].startswith(why)


def test_the_lists_of_what_may_be_learned_do_not_meet():
    assert NOT_LEARNED == NEVER
    assert not (SAFE | SAFE_IN_MESSAGES | SAFE_IN_TOOLS | LEARN_ALSO) & NEVER
    assert not SAFE & LEARN_ALSO
    for name in (*SAFE, *SAFE_IN_MESSAGES, *SAFE_IN_TOOLS, *LEARN_ALSO):
        JsonMemberPath.parse(name)


def test_capabilities_are_declared_or_unknown():
    declared = model(capabilities={"vision": False, "context_length": 128_000}).capabilities
    assert declared.model_dump(exclude_none=True) == {"vision": False, "context_length": 128_000}
    assert model().capabilities.model_dump(exclude_none=True) == {}


def test_the_schema_knows_how_stream_is_written():
    schema = Config.model_json_schema()
    assert schema["$defs"]["Model"]["properties"]["stream"]["enum"] == [
        *("auto", "native", "emulate", "aggregate"),
        *(True, False),
    ]
