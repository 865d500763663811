"""Each rejection from docs and issue threads, the one change that it suggests or none, and the advice beside it."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from gatepass.config.routes import Rules
from gatepass.draft import Change
from gatepass.learning.learned_rule import DAY_S, HOUR_S, LearnedRule, LearningPolicy
from gatepass.learning.matchers import (
    REASONING_ADVICE,
    LearningSettings,
    advice,
    contradicts,
    next_rules,
    relevant_rules,
    suggested_rules,
)
from gatepass.learning.rejection import UpstreamRejection
from gatepass.learning.session import Mode
from gatepass.normalize.rules import apply_changes, effective
from gatepass.types import UpstreamErrorBody
from tests.rows import CHAT, EMBEDDINGS, RESPONSES
from tests.unit.learning.rejections import (
    EMBEDDING_ROWS,
    EVERYTHING,
    MEMBER_ROWS,
    PICTURE,
    ROWS,
    STREAM,
    STREAM_ROWS,
    STREAMS,
    TOOLS,
    Case,
    chat,
    never,
    openai,
    pydantic,
    unsupported,
)

WARM = {"temperature": 0.2, "seed": 1, "top_p": 0.3, "stream": True}
USERS = unsupported("temperature")
VALUES = "Unsupported value: 'minimal' is not supported with the 'gpt-5-codex' model. Supported values are: {}."


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.name)
def test_a_rejection_causes_its_rule_once_and_only_with_permission(case):
    found = case.rules()
    changed, _ = apply_changes(case.call, [rule.change() for rule in found])
    assert json.loads(changed.body) == case.expected
    assert (changed.adapted, changed.max_inputs) == (case.adapted, case.max_inputs)
    assert tuple(rule.entry for rule in found) == case.adapted
    relevant, policy = relevant_rules(case.rejection, changed), LearningPolicy()
    assert next_rules(case.rejection, relevant, policy, lambda rule: rule.entry not in case.adapted) == ()
    assert "stream=" not in "".join(rule.entry for rule in case.rules(LearningPolicy(may_stream=False)))
    assert advised(case) == ""


def test_a_rule_holds_as_long_as_its_kind_does():
    assert {case.rules()[0].ttl_s for case in STREAM_ROWS} == {HOUR_S}
    batches = {case.name: case.rules()[0].ttl_s for case in EMBEDDING_ROWS if "split" in case.adapted[0]}
    assert batches.pop("18 OpenAI's tokens") == 0.0
    assert set(batches.values()) == {DAY_S}
    assert [case.rules()[0].ttl_s for case in MEMBER_ROWS if case.name == "13 OpenAI's value"] == [HOUR_S]


def test_next_suggested_rule_is_used_if_the_first_is_excluded():
    (case,) = [case for case in STREAM_ROWS if case.name == "9 DashScope's thinking"]
    relevant = relevant_rules(case.rejection, case.call)
    (second,) = next_rules(case.rejection, relevant, LearningPolicy(), lambda rule: rule.action == "stream")
    assert second.entry == "set=enable_thinking>false"


def test_dimensions_are_dropped_from_embeddings_only():
    case = Case("", openai(unsupported("dimensions"), "dimensions", "unsupported_parameter"), {"dimensions": 5}, {}, ())
    assert case.rules() == ()


@pytest.mark.parametrize("count", [20, 21, 900])
def test_an_error_that_names_more_members_than_a_model_has_rules_only_advises(count):
    names = [f"n{at}" for at in range(count)]
    case = never("", openai(f"Unsupported parameter(s): {', '.join(names)}"), request=dict.fromkeys(names, 1))
    assert [rule.field for rule in case.rules()] == (names if count == 20 else [])
    assert ("rules: {drop: [" in advised(case)) is (count > 20)


@pytest.mark.parametrize(
    ("text", "rule", "is_contradicted"),
    [
        (unsupported("max_completion_tokens"), LearnedRule("rename", "max_tokens", "max_completion_tokens"), True),
        (unsupported("temperature"), LearnedRule("rename", "max_tokens", "max_completion_tokens"), False),
        ("This model only support stream mode", LearnedRule("stream", "synth"), True),
        ("Unexpected message role.", LearnedRule("role", "system", "developer"), True),
        ("Missing `reasoning_content` field", LearnedRule("drop", "messages[].reasoning_content"), True),
        ("Missing `reasoning_content` field", LearnedRule("drop", "temperature"), False),
    ],
)
def test_a_rejection_of_what_a_rule_made_contradicts_it(text, rule, is_contradicted):
    request = {**EVERYTHING, "max_completion_tokens": 5}
    assert contradicts(never("", openai(text), request=request).rejection, rule) is is_contradicted


NAMES = st.one_of(
    st.text("abx_ZÜ09.[]-$/* '\"\\\n,:>", max_size=12),
    st.integers(1, 130).map("x".__mul__),
    st.lists(
        st.sampled_from(["messages", "tools", "temperature", "content", "body", "stream", "0", "*", "[1]", "", "Foo"]),
        max_size=12,
    ).map(".".join),
    st.sampled_from(["tools[0]", "messages[0].content[1]", "messages[1]", "max_tokens", "input", "größe", "٣"]),
)
SENTENCES = st.sampled_from(
    [
        "Unknown parameter: '{}'.",
        "Unsupported parameter: '{}' is not supported with this model. Use '{}' instead.",
        "Unsupported value: '{}' does not support {} with this model. Supported values are: {}.",
        "Unrecognized request arguments supplied: {}, {}",
        "Unsupported parameter(s): `{}`, `{}`",
        "Unrecognized keys: '{}', '{}'",
        "{}: Extra inputs are not permitted",
        "body.{}: Extra inputs are not permitted; body.{}: Extra inputs are not permitted",
        "body -> {} -> {}\n  Extra inputs are not permitted",
        "Extra inputs are not permitted, field: '{}', value: 1",
        'json: unknown field "{}"',
        "Invalid JSON payload received. Unknown name \"{}\" at '{}': Cannot find field.",
        "'messages.0' : property '{}' is unsupported",
        "{} : property '{}' is unsupported",
        "invalid {}: only 1 is allowed for this model",
        "{}参数非法",
        "batch size is invalid, it should not be larger than {}",
        "Requested {} tokens, max {} tokens per request",
        "This model's maximum context length is {} tokens. However, you requested {} tokens",
        "{}",
    ]
)


@st.composite
def rejections(draw: st.DrawFn) -> UpstreamRejection:
    sentence, own = draw(SENTENCES), draw(NAMES | st.text("_-", min_size=1, max_size=3))
    named = st.sampled_from((own, "temperature", "seed")) | NAMES
    text = sentence.format(*(draw(named) for _ in range(sentence.count("{}"))))
    codes = ["", "unknown_parameter", "unsupported_parameter", "unsupported_value", "extra_forbidden", "1214"]
    sent = {
        "seed": 1,
        "temperature": None,
        own: draw(st.sampled_from(([], None, 1))),
        "tools": [{"strict": draw(NAMES)}],
    }
    found = UpstreamRejection.of(
        draw(st.sampled_from([CHAT.members, EMBEDDINGS.members, RESPONSES.members])),
        400,
        UpstreamErrorBody(text, code=draw(st.sampled_from(codes)), param=draw(st.none() | NAMES)),
        json.dumps(sent).encode(),
    )
    assume(found is not None)
    assert found is not None
    return found


@given(rejections())
def test_every_rule_of_every_step_is_a_change_whatever_an_upstream_returns(rejected):
    for step in suggested_rules(rejected):
        changes: list[Change] = [rule.change() for rule in step]
        assert [change.entry for change in changes] == [rule.entry for rule in step]
        assert all(rule.change().entry == rule.entry for rule in step)


def rules(body, request=STREAMS):
    return Case("", body, request, {}, ()).rules()


@pytest.mark.parametrize(
    "body",
    [
        openai(f"Invalid value: '{USERS}'. Supported values are: 'user'.", "messages[0].role", "invalid_value"),
        openai(f"Invalid value: '{USERS}'. Supported values are: 'user'."),
        openai(USERS, "messages[0].role", "invalid_value"),
        openai(USERS, None, "invalid_value"),
        openai(USERS, "messages[0].role"),
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
        openai(f"Unsupported value: 'messages[1]' {UNSAYABLE}.", "messages[1]", "unsupported_value"),
        openai(f"Unsupported value: 'FOO' {UNSAYABLE}."),
        openai("tools.0: Extra inputs are not permitted"),
        openai("Unrecognized request argument supplied: größe"),
        openai(f"Unknown parameter: '{'x' * 65}'.", "x" * 65, "unknown_parameter"),
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
    ("values", "value"),
    [("'low', 'medium', and 'high'", '"minimal"'), ("'low' and 'medium'", '"minimal"'), ("'medium'", None)],
)
def test_a_refused_value_does_not_concern_the_other_values(values, value):
    body = openai(VALUES.format(values), "reasoning_effort", "unsupported_value")
    assert rules(body, {"reasoning_effort": "minimal"}) == (LearnedRule("drop", "reasoning_effort", value),)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"top_k": -5}, "top_k must be 0 (disable), or at least 1, got -5."),
        ({"top_p": 0}, "<400> InternalError.Algo.InvalidParameter: Range of top_p should be (0.0, 1.0]"),
        ({"temperature": 3}, "不支持 temperature 大于 2"),
        ({"top_p": -1}, "top_p cannot be negative"),
        ({"service_tier": "flex"}, "service_tier `flex` is not available for this model"),
        ({"reasoning_effort": "none"}, "Model m does not support reasoning effort none"),
        ({"think": "high"}, 'think value "high" is not supported for this model'),
        ({"max_tool_calls": 0}, "max_tool_calls 0 is not allowed"),
        ({"samplers": ["foo"]}, "samplers: unknown sampler foo"),
        ({"stream_options": {"foo": True}}, "Unknown parameter: 'stream_options.foo'."),
        ({"chat_template_kwargs": {"zz": 1}}, "chat_template_kwargs: unexpected key 'zz' is not supported"),
        ({"parallel_tool_calls": False}, "'parallel_tool_calls' is only allowed when 'tools' are specified."),
        ({"metadata": {"a": "b"}}, "The 'metadata' parameter is only allowed when 'store' is enabled."),
    ],
)
def test_a_refused_value_or_condition_changes_no_request_without_it(sent, message):
    (rule,) = rules(openai(message), sent)
    (value,) = sent.values()
    assert rule.ttl_s == 0 or rule.to == json.dumps(value), rule


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (
            {"temperature": 0.7},
            "'temperature' does not support 0.7 with this model. Only the default (1) is supported.",
        ),
        ({"seed": 7}, "Extra inputs are not permitted: seed"),
        ({"metadata": {"a": "b"}}, "Unrecognized keys: `metadata`"),
        ({"stream_options": {"include_usage": True}}, "Unknown parameter: 'stream_options.include_usage'."),
    ],
)
def test_a_refused_member_is_dropped_from_all_requests(sent, message):
    (member,) = sent
    assert rules(openai(message), sent) == (LearnedRule("drop", member),)


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
    assert rules(openai(message), WARM) == ()


@pytest.mark.parametrize("name", ["metadata", "logit_bias"])
def test_object_with_client_chosen_names_is_dropped_as_a_whole(name):
    body = openai(f"Unknown parameter: '{name}.a7'.", f"{name}.a7", "unknown_parameter")
    assert rules(body, {name: {"a7": 1}}) == (LearnedRule("drop", name, ttl_s=0.0),)  # other callers have other names


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
    assert effective([rule.change()], whole.call)
    assert not effective([rule.change()], stream.call)


def advised(case: Case, *, learn: Mode = "on", stream: str = "auto") -> str:
    policy = LearningPolicy(may_stream=stream == "auto")
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


def test_the_stream_setting_of_the_model_is_named_as_what_to_change():
    only_stream = never("", openai("This model only support stream mode"), request={"stream": False})
    for stream in ("native", "emulate"):
        assert advised(only_stream, stream=stream) == (
            f"The model's entry sets stream: {stream}. Set it to auto or aggregate."
        )
    assert advised(NO_STREAM, stream="native") == "The model's entry sets stream: native. Set it to auto or emulate."


def test_reasoning_that_is_missed_is_for_the_client_to_send():
    missed = never("", openai("The `reasoning_content` in the thinking mode must be passed back to the API."))
    assert advised(missed) == REASONING_ADVICE


USER_MESSAGE = {"role": "user", "content": "a"}
OPTIONAL = {
    'drop: ["tools"]': NO_TOOLS,
    "merge_roles: true": never(
        "", openai("user messages should alternate with assistant messages"), request=chat(USER_MESSAGE, USER_MESSAGE)
    ),
    'roles: {system: "user"}': never("", openai("System role not supported")),
    'drop: ["stop", "own_field"]': never(
        "", openai("Unsupported parameter(s): stop, own_field"), request={"stop": ["x"], "own_field": 1}
    ),
    'drop: ["tools[].function.hint"]': never(
        "",
        openai("Unknown parameter: 'tools[0].function.hint'."),
        request={"tools": [{"type": "function", "function": {"name": "f", "hint": 1}}]},
    ),
}


@pytest.mark.parametrize("learn", ["on", "off"])
@pytest.mark.parametrize(("setting", "case"), OPTIONAL.items())
def test_what_is_not_learned_is_advised_as_rules(setting, case, learn):
    assert case.rules() == ()
    assert advised(case, learn=learn).endswith(f", set rules: {{{setting}}} in the model's entry under models.")
    Rules.model_validate(YAML(typ="safe").load(f"{{{setting}}}"))


def test_advice_does_not_offer_protected_members():
    assert advised(never("", openai(unsupported("messages"), "messages", "unknown_parameter"))) == ""


def test_pictures_that_a_model_cannot_read_are_shown():
    case = never("", openai("messages[0]: invalid type: sequence, expected a string"), request=chat(PICTURE))
    assert advised(case) == "This model accepts text only, and the request contains images."
