"""Rejections of members and of streams, and messages that only quote one."""

import pytest

from gatepass.learning.learned_rule import HOUR_S, LearnedRule, LearningPolicy
from gatepass.learning.matchers import suggested_rules
from gatepass.normalize.rules import would_change
from tests.unit.learning.rejections import STREAMS, TOOLS, Case, openai, pydantic, unsupported

WARM = {"temperature": 0.2, "seed": 1, "top_p": 0.3, "stream": True}
USERS = unsupported("temperature")
VALUES = "Unsupported value: 'minimal' is not supported with the 'gpt-5-codex' model. Supported values are: {}."


def rules(body, request=STREAMS):
    return Case("", body, request, {}, ()).rules()


@pytest.mark.parametrize(
    "body",
    [
        openai(f"Invalid value: '{USERS}'. Supported values are: 'user'.", "messages[0].role", "invalid_value"),
        openai(f"Invalid value: '{USERS}'. Supported values are: 'user'."),
        openai(f"Invalid value: {USERS} is no role."),
        openai(USERS, "messages[0].role", "invalid_value"),
        openai(USERS, None, "invalid_value"),
        openai(USERS, "messages[0].role"),
        openai(f"The role is odd.\n{USERS}"),
        openai(f"The role 'x; {USERS}' is odd."),
        openai("Unsupported value: 'temperature' is not supported with this model.", "reasoning_effort"),
        openai("Unsupported value: 'temperature' is not supported with this model."),
        openai("No role 'Unknown parameter: 'seed'' here."),
        openai("No role 'Unrecognized request argument supplied: seed' here."),
        openai("No role 'json: unknown field \"seed\"' here."),
        openai("No role 'Unknown name \"seed\": Cannot find field' here."),
        openai("No role 'property 'seed' is unsupported' here."),
        openai("No role 'invalid temperature: only 1' here."),
        openai("No role 'temperature参数非法' here."),
        openai("No role 'seed: Extra inputs are not permitted' here."),
        pydantic(["messages", 0, "role"], kind="literal_error", msg=f"Input should be 'user', not {USERS}"),
        {"error": {"message": "Refused", "code": 400, "metadata": {"raw": f"The role '{USERS}' is odd."}}},
        openai("Invalid value: 'this does not support streaming'.", "messages[0].role", "invalid_value"),
        openai("Invalid value: 'this does not support streaming'. Supported values are: 'user'."),
        openai("Invalid value: 'x'. Supported values are: false."),
        openai("This model does not support streaming.", "messages[0].role"),
        openai("This model does not support streaming.", None, "invalid_value"),
        openai("No role 'Streaming is not supported' here."),
        openai("No role 'x must be verified to stream' here."),
        openai("No role 'x\nThis model does not support streaming.' here."),
        openai("No role 'this only supports streaming' here."),
        openai("'x enable_thinking must be set to false"),
    ],
    ids=str,
)
def test_a_quotation_causes_no_rule(body):
    for request in (WARM, STREAMS, {"enable_thinking": True}):
        assert rules(body, request) == ()


@pytest.mark.parametrize(
    "before",
    [
        "litellm.BadRequestError: OpenAIException - ",
        "litellm.BadRequestError: AzureException BadRequestError - ",
        "Error code: 400 - {'error': {'message': \"",
        "<400> InternalError.Algo.InvalidParameter: ",
        "Provider returned error\n",
        "openai.BadRequestError: Error code: 400 - {'error': {'message': \"",
        "400 Bad Request: ",
        "[1214] ",
        "Upstream request failed: ",
        "[{'type': 'value_error', 'loc': ('body',), 'msg': 'Value error, ",
    ],
)
def test_prefixes_of_relays_do_not_hide_a_rejection(before):
    assert rules(openai(f"{before}Unknown parameter: 'seed'."), WARM) == (LearnedRule("drop", "seed"),)


UNSAYABLE = "does not support this with this model"


@pytest.mark.parametrize(
    "body",
    [
        openai("Unknown parameter: 'tools[0]'.", "tools[0]", "unknown_parameter"),
        openai("Unknown parameter: 'messages[0].content[1]'.", "messages[0].content[1]", "unknown_parameter"),
        openai(f"Unsupported value: 'messages[1]' {UNSAYABLE}.", "messages[1]", "unsupported_value"),
        openai(f"Unsupported value: 'FOO' {UNSAYABLE}."),
        openai("tools.0: Extra inputs are not permitted"),
        openai("Unrecognized request argument supplied: 2fast"),
        openai("Unrecognized request argument supplied: größe"),
        openai(f"Unknown parameter: '{'x' * 65}'.", "x" * 65, "unknown_parameter"),
        openai("Unknown parameter: ''.", "", "unknown_parameter"),
        pydantic(["tools", 0]),
        {"error": [{"code": "unrecognized_keys", "keys": ["x" * 65], "path": []}]},
    ],
    ids=str,
)
def test_invalid_member_paths_cause_no_rule(body):
    request = {"tools": [{"type": "function", "function": {"name": "f"}}], "2fast": 1, "größe": 2, "x" * 65: 3}
    assert rules(body, request) == ()


def test_invalid_member_path_does_not_hide_a_valid_one():
    sent_back = openai("Unrecognized request arguments supplied: 2fast, seed")
    assert rules(sent_back, {"2fast": 1, "seed": 1}) == (LearnedRule("drop", "seed"),)


@pytest.mark.parametrize(
    ("values", "ttl_s"), [("'low', 'medium', and 'high'", 0.0), ("'low' and 'medium'", 0.0), ("'medium'", HOUR_S)]
)
def test_a_refused_value_does_not_concern_the_other_values(values, ttl_s):
    body = openai(VALUES.format(values), "reasoning_effort", "unsupported_value")
    assert rules(body, {"reasoning_effort": "minimal"}) == (LearnedRule("drop", "reasoning_effort", ttl_s=ttl_s),)


def test_member_that_accepts_only_its_default_is_dropped_for_all():
    words = (
        "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is supported"
    )
    body = openai(words, "temperature", "unsupported_value")
    assert rules(body, {"temperature": 0.2}) == (LearnedRule("drop", "temperature", ttl_s=HOUR_S),)


DETAILS = [
    {"type": "extra_forbidden", "loc": ("body", name), "msg": "Extra inputs are not permitted", "input": 1}
    for name in ("seed", "top_p")
]
ROW = "{}\n  Extra inputs are not permitted [type=extra_forbidden, input_value=1, input_type=int]\n    For further help"


@pytest.mark.parametrize(
    "message",
    [
        str(DETAILS),
        f"2 validation errors:\n  {DETAILS[0]}\n  {DETAILS[1]}",
        f"litellm.BadRequestError: OpenAIException - {DETAILS}",
        "2 validation errors for ChatCompletionRequest\n" + "\n".join(map(ROW.format, ("seed", "top_p"))),
        "litellm.UnsupportedParamsError: groq does not support parameters: ['seed', 'top_p'], for model=m.",
    ],
)
def test_every_detail_of_a_text_is_read(message):
    assert rules(openai(message), WARM) == (LearnedRule("drop", "seed"), LearnedRule("drop", "top_p"))


def test_a_detail_inside_a_value_is_not_read():
    planted = "x', 'loc': ('body', 'seed'), 'msg': 'Extra inputs are not permitted'"
    message = str([{"type": "string_type", "loc": ("body", "user"), "msg": "Input should be short", "input": planted}])
    assert rules(openai(message), {**WARM, "user": planted}) == ()
    assert rules(openai(message), WARM) == (LearnedRule("drop", "seed"),)  # the upstream's own text


@pytest.mark.parametrize("name", ["metadata", "logit_bias"])
def test_object_with_client_chosen_names_is_dropped_as_a_whole(name):
    body = openai(f"Unknown parameter: '{name}.a7'.", f"{name}.a7", "unknown_parameter")
    assert rules(body, {name: {"a7": 1}}) == (LearnedRule("drop", name),)


STRICT = {"tools": [{"type": "function", "function": {"name": "f", "strict": False}}]}
FLAT = {"tools": [{"type": "function", "name": "f", "strict": True}]}


@pytest.mark.parametrize(
    ("body", "request_", "path"),
    [
        (openai("Unknown parameter: 'tools[0].function.strict'."), STRICT, "tools[].function.strict"),
        (
            openai("Unknown parameter: 'tools[0].strict'.", "tools[0].strict", "unknown_parameter"),
            FLAT,
            "tools[].strict",
        ),
        (pydantic(["body", "tools", 0, "function", "strict"]), STRICT, "tools[].function.strict"),
        ({"detail": "tools.0.function.strict: Extra inputs are not permitted"}, STRICT, "tools[].function.strict"),
        (openai("tools.0.strict: Extra inputs are not permitted"), STRICT, "tools[].function.strict"),
        (openai("tools.0.strict: Extra inputs are not permitted", "tools.0.strict"), STRICT, "tools[].function.strict"),
        (openai("tools.0.strict: Extra inputs are not permitted"), FLAT, "tools[].strict"),
    ],
    ids=str,
)
def test_strict_of_a_tool_is_dropped(body, request_, path):
    assert rules(body, request_) == (LearnedRule("drop", path),)


@pytest.mark.parametrize("path", ["tools[].function.hint", "messages[].hint", "input[].hint"])
def test_a_member_in_a_list_is_dropped_if_learn_also_names_it(path):
    drop = LearnedRule("drop", path)
    assert not LearningPolicy().allows(drop, frozenset())
    assert LearningPolicy(frozenset((path,))).allows(drop, frozenset())


@pytest.mark.parametrize(
    "text",
    [
        "This model does not support streaming with tools.",
        "Streaming is not supported when tools are used.",
        "Unsupported value: 'stream' does not support true with this combination of parameters.",
    ],
)
def test_rejected_combination_is_not_a_rejection_of_streams(text):
    assert rules(openai(text), STREAMS | TOOLS) == (LearnedRule("stream", "synth", ttl_s=0.0),)


def test_thinking_is_turned_off_only_without_a_stream():
    words = "parameter.enable_thinking must be set to false for non-streaming calls"
    whole = Case("", openai(words, code="invalid_parameter_error"), {"enable_thinking": True}, {}, ())
    stream = Case("", openai(words), {"enable_thinking": True, "stream": True}, {}, ())
    (rule,) = (one for step in suggested_rules(whole.rejection) for one in step if one.action == "set")
    assert would_change(rule.change(), whole.call)
    assert not would_change(rule.change(), stream.call)
