"""Advice that is added to a rejection."""

import pytest
from ruamel.yaml import YAML

from gatepass.learning.learned_rule import LearningPolicy
from gatepass.learning.matchers import REASONING_ADVICE, LearningSettings, advice, relevant_rules
from gatepass.learning.session import Mode
from tests.unit.learning.rejections import CHOICE, PICTURE, STREAM, Case, chat, never, openai, unsupported


def advised(case: Case, *, learn: Mode = "on", also: tuple[str, ...] = (), stream: str = "auto") -> str:
    policy = LearningPolicy(frozenset(also), may_stream=stream == "auto")
    settings = LearningSettings("chat", policy, learn, stream)
    return advice(case.rejection, case.call, settings, relevant_rules(case.rejection, case.call))


NO_STREAM = never("", openai(STREAM, "stream", "unsupported_value"))
NO_TOOLS = never("", openai(unsupported("tools"), "tools", "unsupported_parameter"))


def test_advice_names_learn_if_learning_is_off():
    assert advised(NO_STREAM, learn="off") == (
        "To adapt such requests (stream=synth), set upstreams.chat.learn: on, or stream: emulate in the model's"
        " entry under models."
    )
    assert advised(NO_STREAM) == ""


def test_advice_names_learn_and_learn_also_if_both_are_missing():
    assert advised(NO_TOOLS, learn="off") == ("To drop tools, set upstreams.chat.learn: on and learn_also: [tools].")


def test_the_stream_setting_of_the_model_is_named_as_what_to_change():
    only_stream = never("", openai("This model only support stream mode"), request={"stream": False})
    for stream in ("native", "emulate"):
        assert advised(only_stream, stream=stream) == (
            f"The model's entry sets stream: {stream}. Set it to auto or aggregate."
        )
    assert advised(NO_STREAM, stream="native") == "The model's entry sets stream: native. Set it to auto or emulate."


def test_tools_and_what_belongs_to_them_are_one_name():
    no_tools = never("", openai("m does not support tools"), request={"tools": [], "tool_choice": "auto"})
    assert advised(no_tools) == "To drop tools and tool_choice, set upstreams.chat.learn_also: [tools]."


def test_reasoning_that_is_missed_is_for_the_client_to_send():
    missed = never("", openai("The `reasoning_content` in the thinking mode must be passed back to the API."))
    assert advised(missed) == REASONING_ADVICE


USER_MESSAGE = {"role": "user", "content": "a"}
OPTIONAL = {
    "tools": NO_TOOLS,
    "merge_roles": never("", openai("Conversation roles must alternate"), request=chat(USER_MESSAGE, USER_MESSAGE)),
    "system_into_user": never("", openai("System role not supported")),
    "tool_choice": never("", openai(CHOICE), request={"tool_choice": "required"}),
    "own_field": never("", openai(unsupported("own_field")), request={"own_field": 1}),
}


@pytest.mark.parametrize(("name", "case"), OPTIONAL.items())
def test_advice_names_the_rule_for_learn_also(name, case):
    assert advised(case).endswith(f", set upstreams.chat.learn_also: [{name}].")
    assert advised(case, also=(name,)) == ""


def test_advice_names_a_member_in_a_list_as_yaml_reads_it():
    tools = {"tools": [{"type": "function", "function": {"name": "f", "hint": 1}}]}
    case = never("", openai("Unknown parameter: 'tools[0].function.hint'."), request=tools)
    setting = advised(case).partition("upstreams.chat.")[2].removesuffix(".")
    assert YAML(typ="safe").load(setting) == {"learn_also": ["tools[].function.hint"]}


def test_advice_does_not_offer_protected_members():
    assert advised(never("", openai(unsupported("messages"), "messages", "unknown_parameter"))) == ""


def test_pictures_that_a_model_cannot_read_are_shown():
    case = never("", openai("messages[0]: invalid type: sequence, expected a string"), request=chat(PICTURE))
    assert advised(case) == "This model accepts text only, and the request contains images."
