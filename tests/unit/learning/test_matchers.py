"""Each rejection from docs and issue threads, and the one change that it suggests."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.config.routes import LEARN_ALSO
from gatepass.learning.learned_rule import DAY_S, HOUR_S, QUARTER_S, LearnedRule, LearningPolicy
from gatepass.learning.matchers import contradicts, is_same_rejection, next_rules, relevant_rules, suggested_rules
from gatepass.learning.rejection import UpstreamRejection
from gatepass.normalize.rules import Change, apply_changes
from tests.rows import CHAT, EMBEDDINGS, RESPONSES
from tests.unit.learning.rejections import (
    CHOICE_ROWS,
    EMBEDDING_ROWS,
    EVERYTHING,
    ROWS,
    STREAM_ROWS,
    VERIFY,
    Case,
    never,
    openai,
    unsupported,
)
from tests.unit.learning.test_matchers_advice import advised


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.name)
def test_a_rejection_causes_its_rule_once_and_only_with_permission(case):
    found = case.rules()
    changed, _ = apply_changes(case.call, [rule.change() for rule in found])
    assert json.loads(changed.body) == case.expected
    assert (changed.adapted, changed.max_inputs) == (case.adapted, case.max_inputs)
    assert tuple(rule.entry for rule in found) == case.adapted
    relevant, policy = relevant_rules(case.rejection, changed), LearningPolicy(frozenset(case.also))
    assert next_rules(case.rejection, relevant, policy, lambda rule: rule.entry not in case.adapted) == ()
    assert not case.also or case.rules(LearningPolicy()) == ()
    assert "stream=" not in "".join(rule.entry for rule in case.rules(LearningPolicy(may_stream=False)))
    assert advised(case, also=case.also) == ""


def test_a_rule_holds_as_long_as_its_kind_does():
    stream = {case.name: case.rules()[0] for case in STREAM_ROWS}
    assert stream["5 OpenAI"].ttl_s == HOUR_S
    for name in ("6 OpenAI", "6 OpenRouter nests it", "6 quoted without JSON"):
        assert stream[name].ttl_s == QUARTER_S
    batches = {case.name: case.rules()[0].ttl_s for case in EMBEDDING_ROWS if "split" in case.adapted[0]}
    assert batches.pop("18 OpenAI's tokens") == 0.0
    assert set(batches.values()) == {DAY_S}
    assert [case.rules()[0].ttl_s for case in CHOICE_ROWS if case.name == "43"] == [0.0]


def test_next_suggested_rule_is_used_if_the_first_is_excluded():
    (case,) = [case for case in STREAM_ROWS if case.name == "9 DashScope's thinking"]
    relevant = relevant_rules(case.rejection, case.call)
    (second,) = next_rules(case.rejection, relevant, LearningPolicy(), lambda rule: rule.action == "stream")
    assert second.entry == "set=enable_thinking>false"


def test_a_stream_that_needs_a_verified_account_has_one_reading_only():
    rejected = never("", openai(VERIFY, "stream", "unsupported_value")).rejection
    assert next([rule.ttl_s for rule in step] for step in suggested_rules(rejected)) == [QUARTER_S]
    assert all(rule.action != "stream" for step in list(suggested_rules(rejected))[1:] for rule in step)


def test_dimensions_are_dropped_from_embeddings_only():
    case = Case("", openai(unsupported("dimensions"), "dimensions", "unsupported_parameter"), {"dimensions": 5}, {}, ())
    assert case.rules() == ()


def test_names_beyond_a_handful_are_not_listened_to():
    names = ", ".join(f"n{at}" for at in range(40))
    (step,) = suggested_rules(never("", openai(f"Unsupported parameter(s): {names}")).rejection)
    assert len(step) == 8


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
    assert contradicts(never("", openai(text), request=EVERYTHING).rejection, rule) is is_contradicted


BATCH = "batch size is invalid, it should not be larger than 10.: input.contents"
AGAIN = [
    (LearnedRule("split", "input", "10"), BATCH, BATCH.replace("10", "5"), None, EMBEDDINGS),
    (LearnedRule("drop", "temperature"), "a", "Temperature is required.", None, CHAT),
    (LearnedRule("drop", "user"), "a", "'user' is required.", None, CHAT),
    (LearnedRule("drop", "user"), "a", "A field is missing.", "user", CHAT),
    (LearnedRule("rename", "max_tokens", "max_completion_tokens"), "a", "No max_completion_tokens here.", None, CHAT),
    (LearnedRule("stream", "synth"), "a", "Streaming is off.", None, CHAT),
    (LearnedRule("stream", "synth"), "a", "This model only support stream mode", None, CHAT),
    (LearnedRule("content", "text"), "line 3 is wrong", "line 4 is wrong", None, CHAT),
]
ELSE = [
    (LearnedRule("split", "input", "10"), BATCH, "Range of input length should be [1, 8192]", None, EMBEDDINGS),
    (LearnedRule("drop", "user"), "a", "The last message is not the user's.", None, CHAT),
    (LearnedRule("rename", "max_tokens", "max_completion_tokens"), "a", "Unsupported parameter: 'stop'", "stop", CHAT),
    (LearnedRule("stream", "synth"), "a", "stream_options are unknown to the upstream", None, CHAT),
    (LearnedRule("content", "text"), "a", "Nothing of the kind.", None, CHAT),
]


@pytest.mark.parametrize(
    ("rule", "evidence", "text", "param", "operation", "is_again"),
    [*((*row, True) for row in AGAIN), *((*row, False) for row in ELSE)],
)
def test_a_rejection_is_the_same_again_or_another_one(rule, evidence, text, param, operation, is_again):
    rejection = UpstreamRejection(operation.members, text, param=param)
    assert is_same_rejection(rejection, rule, evidence) is is_again


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
    sentence = draw(SENTENCES)
    text = sentence.format(*(draw(NAMES) for _ in range(sentence.count("{}"))))
    codes = ["", "unknown_parameter", "unsupported_parameter", "unsupported_value", "extra_forbidden", "1214"]
    issue = {"code": "unrecognized_keys", "path": draw(st.lists(NAMES, max_size=3)), "keys": [draw(NAMES)]}
    return UpstreamRejection(
        draw(st.sampled_from([CHAT.members, EMBEDDINGS.members, RESPONSES.members])),
        text,
        code=draw(st.sampled_from(codes)),
        param=draw(st.none() | NAMES),
        raw=draw(st.sampled_from([None, [issue], {"metadata": {"raw": text}}])),
    )


@given(rejections())
def test_every_rule_of_every_step_is_a_change_whatever_an_upstream_returns(rejected):
    for step in suggested_rules(rejected, LEARN_ALSO):
        changes: list[Change] = [rule.change() for rule in step]
        assert [change.entry for change in changes] == [rule.entry for rule in step]
        assert all(rule.change().entry == rule.entry for rule in step)
