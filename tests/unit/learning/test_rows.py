"""The steps that a refusal leads to, and the advice if there are none."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from gatepass.config.routes import Rules
from gatepass.learning.learned_rule import LearnedRule, LearningPolicy
from gatepass.learning.memory import Memory
from gatepass.learning.pointing import Refusal
from gatepass.learning.rows import REASONING_ADVICE, THOUGHTS_ADVICE, LearningSettings, advice, concerns, steps
from gatepass.learning.session import Mode
from gatepass.replies.error_body import read_error_body
from gatepass.types import UpstreamErrorBody
from tests.rows import CHAT, EMBEDDINGS, RESPONSES
from tests.unit.learning.rejections import PICTURE, STREAM, USER, Case, chat, never, openai, unsupported
from tests.unit.learning.upstreams import Upstream, always, ask
from tests.unit.normalize.calls import a_call


def refusal_of(case: Case) -> Refusal:
    found = Refusal.of(case.operation.members, case.status, read_error_body(case.body, refused=True), case.call.body)
    assert found is not None
    return found


def entries(case: Case) -> list[tuple[str, ...]]:
    return [tuple(rule.entry for rule in step) for step in steps(refusal_of(case), case.call)]


def of(text: str, **sent: Any) -> Case:
    return never("", openai(text), request=sent)


def test_steps_come_in_the_order_of_what_is_lost():
    case = of("stop, seed or stream, or content", stop=None, seed=1, **chat({**USER, "content": [{"type": "text"}]}))
    assert entries(case) == [("drop=stop",), ("stream=aggregate",), ("drop=seed",)]
    assert entries(of("No thinking.type", thinking={"type": "a", "b": 1})) == [
        ("drop=thinking.type",),
        ("drop=thinking",),
    ]


def test_two_members_of_one_sentence_are_tried_one_by_one_and_then_both():
    case = of("temperature and top_p do not go together", temperature=1, top_p=1)
    assert entries(case) == [("drop=top_p",), ("drop=temperature",), ("drop=top_p", "drop=temperature")]
    assert {rule.beside for rule in steps(refusal_of(case), case.call)[0]} == {"temperature"}


def test_members_of_a_list_are_tried_at_once_and_then_one_by_one():
    names = ("seed", "user", "top_p")
    assert entries(of(", ".join(names), seed=1, user="u", top_p=1)) == [
        ("drop=seed", "drop=user", "drop=top_p"),
        *((f"drop={name}",) for name in names),
    ]


@pytest.mark.parametrize("count", [20, 21])
def test_an_error_that_names_too_many_members_only_advises(count):
    names = [f"n{at}" for at in range(count)]
    case = of(f"Unsupported parameter(s): {', '.join(names)}", **dict.fromkeys(names, 1))
    assert len(entries(case)) == (1 if count == 20 else 0)  # one by one they would take too many calls
    assert ('rules: {drop: ["n0"]}' in advised(case)) is (count > 20)
    tools = [{"type": "function"}, *({"type": f"t{at}"} for at in range(count))]
    assert len(entries(of("No tools here", tools=tools))) == (1 if count == 20 else 0)


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("dimensions is not supported", {"dimensions": 5}),
        ("No temperature here", {"temperature": "hot"}),
        ("No store here", {"store": "x"}),
        ("No max_tokens here", {"max_tokens": "abc"}),
        ("Unknown parameter: 'tools[0]'.", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        (f"Unknown parameter: '{'x' * 65}'.", {"x" * 65: 1}),
        ("Unrecognized request argument supplied: größe", {"größe": 1}),
        ("Property '_' is not supported", {"_": 1}),
    ],
)
def test_there_is_no_step(text, sent):
    assert entries(of(text, **sent)) == []


def test_a_member_that_a_client_names_is_left_out_with_its_object():
    assert entries(of("Unknown parameter: 'logit_bias.a7'.", logit_bias={"a7": 1})) == [("drop=logit_bias",)]


def test_an_entry_of_tools_is_known_by_its_name():
    editor = {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"}
    case = of("No str_replace_based_edit_tool here", tools=[editor, {"type": "bash_20250124", "name": "bash"}])
    assert entries(case)[0] == ("drop=tools[text_editor_20250728]",)


@pytest.mark.parametrize(("count", "values"), [(8, 8), (9, 0), (12, 0)])
def test_a_rule_of_a_long_chat_holds_for_each_value(count, values):
    case = of("No messages[0].name here", **chat(*({**USER, "name": f"n{at}"} for at in range(count))))
    assert [len(rule.values) for step in steps(refusal_of(case), case.call) for rule in step] == [values]


@pytest.mark.parametrize(("digits", "bounds"), [(9, [4096, 4095]), (10, [])])
def test_a_limit_of_ten_digits_is_not_compared(digits, bounds):
    case = of("max_tokens: at most 4096", max_tokens=10 ** (digits - 1))
    listed = [rule for step in steps(refusal_of(case), case.call) for rule in step]
    assert [int(rule.to or 0) for rule in listed if rule.entry == "clamp=max_tokens"] == bounds


def test_a_client_that_shortens_its_answers_does_it_itself():
    call = a_call(json.dumps({"model": "m", "messages": [], "max_tokens": 32000}).encode(), CHAT)
    upstream = Upstream([always(openai("max_tokens: 262144 < 230462 + 32000"))])
    assert ask(Memory(), upstream, call, policy=LearningPolicy(fits_answers=False)).learning.tried == ()


@pytest.mark.parametrize(
    ("text", "rule", "is_concerned"),
    [
        (unsupported("max_completion_tokens"), LearnedRule("rename", "max_tokens", "max_completion_tokens"), True),
        (unsupported("temperature"), LearnedRule("rename", "max_tokens", "max_completion_tokens"), False),
        ("This model only support stream mode", LearnedRule("stream", "synth"), True),
        ("Unexpected message role.", LearnedRule("role", "system", "developer"), True),
        ("Missing `reasoning_content` field", LearnedRule("drop", "messages[].reasoning_content"), True),
        ("Missing `reasoning_content` field", LearnedRule("drop", "temperature"), False),
    ],
)
def test_a_refusal_of_what_a_rule_made_concerns_it(text, rule, is_concerned):
    assert concerns(refusal_of(of(text, max_completion_tokens=5, temperature=1)), rule) is is_concerned


NAMES = st.one_of(
    st.text("abx_ZÜ09.[]-$/* '\"\\\n,:>", max_size=12),
    st.integers(1, 130).map("x".__mul__),
    st.lists(
        st.sampled_from(["messages", "tools", "temperature", "content", "body", "stream", "0", "*", "[1]", "", "Foo"]),
        max_size=12,
    ).map(".".join),
    st.sampled_from(["tools[0]", "messages[0].content[1]", "max_tokens", "input", "größe", "٣", "stream", "role"]),
)
SENTENCES = st.sampled_from(
    [
        "Unsupported value: '{}' does not support {} with this model. Use '{}' instead.",
        "body -> {} -> {}\n  Extra inputs are not permitted",
        "Invalid JSON payload received. Unknown name \"{}\" at '{}': Cannot find field.",
        "{} must be {}, or '{}'; {}参数非法",
        "batch size is invalid, it should not be larger than {}: {} tokens",
        "This model's maximum context length is {} tokens. However, you requested {} tokens",
        "tools[0]: {} {} {}",
        "{}",
    ]
)


@given(st.data())
def test_every_rule_of_every_step_is_a_change_whatever_an_upstream_returns(data):
    sentence, own = data.draw(SENTENCES), data.draw(NAMES | st.text("_-", min_size=1, max_size=3))
    named = st.sampled_from((own, "temperature", "seed")) | NAMES
    text = sentence.format(*(data.draw(named) for _ in range(sentence.count("{}"))))
    codes = ("", "unknown_parameter", "unsupported_value", "extra_forbidden", "1214")
    tools = [{"type": "function", "function": {"strict": data.draw(NAMES)}}, {"type": data.draw(NAMES)}]
    sent = {"seed": 1, "temperature": None, "max_tokens": 99, "tools": tools, "input": ["a", "b"]}
    body = json.dumps({**sent, own: data.draw(st.sampled_from(([], None, 1)))}).encode()
    call = a_call(body, data.draw(st.sampled_from([CHAT, EMBEDDINGS, RESPONSES])))
    error = UpstreamErrorBody(text, code=data.draw(st.sampled_from(codes)), param=data.draw(st.none() | NAMES))
    refusal = Refusal.of(call.operation.members, 400, error, body)
    assume(refusal is not None)
    assert refusal is not None
    for step in steps(refusal, call):
        assert step
        assert [rule.change.entry for rule in step] == [rule.entry for rule in step]
    advice(refusal, call, LearningSettings("chat", LearningPolicy()), ())


# --- advice


def advised(case: Case, *, learn: Mode = "on", stream: str = "auto") -> str:
    settings = LearningSettings("chat", LearningPolicy(may_stream=stream == "auto"), learn, stream)
    return advice(refusal_of(case), case.call, settings, steps(refusal_of(case), case.call))


NO_STREAM = never("", openai(STREAM, "stream", "unsupported_value"))


def test_advice_names_learn_if_learning_is_off():
    assert advised(NO_STREAM, learn="off") == (
        'To adapt such requests (stream=synth), set upstreams.chat.learn: on, or stream: "emulate" in the model\'s'
        " entry under models."
    )
    assert advised(of("No seed", seed=1), learn="off") == (
        'To drop seed, set upstreams.chat.learn: on, or rules: {drop: ["seed"]} in the model\'s entry under models.'
    )
    assert advised(NO_STREAM) == ""


@pytest.mark.parametrize("stream", ["native", "emulate"])
def test_the_stream_setting_of_the_model_is_named_as_what_to_change(stream):
    assert advised(of("This model only support stream mode", stream=False), stream=stream) == (
        f"The model's entry sets stream: {stream}. Set it to auto or aggregate."
    )


@pytest.mark.parametrize(
    ("text", "sent", "sentence"),
    [
        ("The `reasoning_content` in the thinking mode must be passed back to the API.", {"a": 1}, REASONING_ADVICE),
        (
            "messages[0].content: expected a string",
            chat(PICTURE),
            "This model accepts text only, and the request contains images.",
        ),
        (
            "Thinking mode does not support this tool_choice",
            {"tool_choice": "required"},
            f"To force a tool, turn thoughts off: set {THOUGHTS_ADVICE} in the model's entry under models.",
        ),
        ("'messages' is unsupported", {"a": 1}, ""),
        ("Unknown parameter: 'tools[0].function.hint'.", {"tools": [{"function": {"name": "f", "hint": "x"}}]}, ""),
        ("'tools' is unsupported", {"tools": [{"type": "function", "function": {"name": "f"}}]}, ""),
    ],
)
def test_advice_about_what_no_step_solves(text, sent, sentence):
    assert advised(of(text, **sent)) == sentence


OPTIONAL = {
    'drop: ["stop"]': of("Unsupported parameters: stop, own_field", stop=["x"], own_field="x"),
    'drop: ["messages[].hint"]': of("Unknown parameter: 'messages[0].hint'.", **chat({**USER, "hint": "x"})),
}


@pytest.mark.parametrize("learn", ["on", "off"])
@pytest.mark.parametrize(("setting", "case"), OPTIONAL.items(), ids=OPTIONAL)
def test_what_is_not_tried_is_advised_as_rules(setting, case, learn):
    assert advised(case, learn=learn).endswith(f", set rules: {{{setting}}} in the model's entry under models.")
    Rules.model_validate(YAML(typ="safe").load(f"{{{setting}}}"))
