"""A limit of the answer that is below what the upstream accepts is raised, and nothing else is."""

import json
from typing import Any

import pytest

from gatepass.learning.learned_rule import LearnedRule, LearningPolicy, RuleScope
from gatepass.learning.memory import HOUR_S, Memory
from gatepass.types import Call, Operation
from tests.rows import CHAT, MESSAGES, RESPONSES
from tests.unit.learning.rejections import openai
from tests.unit.learning.upstreams import Body, Refusal, Upstream, ask
from tests.unit.normalize.calls import a_call

NAMES = ("max_tokens", "max_completion_tokens", "max_output_tokens")
SCOPE = RuleScope("a", "chat", "m", "chat")
HI = {"role": "user", "content": "hi"}
BELOW = "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 5 instead."
PYDANTIC = {
    "type": "greater_than_equal",
    "loc": ["body", "max_tokens"],
    "msg": "Input should be greater than or equal to 16",
}


def a_request(operation: Operation = CHAT, **members: Any) -> Call:
    return a_call(json.dumps({"model": "m", "messages": [HI], **members}).encode(), operation)


def asking(body: Body) -> int:
    return min((body[name] for name in NAMES if name in body), default=99)


def below(error: Any, least: int = 16) -> Upstream:
    return Upstream([Refusal(lambda body: asking(body) < least, error)])


WORDINGS: tuple[Any, ...] = (
    openai(BELOW, "max_output_tokens", "integer_below_min_value"),
    openai(f"Error code: 400 - {{'error': {{'message': \"{BELOW}\", 'type': 'invalid_request_error'}}}}"),
    openai("max_tokens must be at least 16"),
    {"detail": [{**PYDANTIC, "input": 5, "ctx": {"ge": 16}}]},
    openai("Range of max_tokens should be [16, 8192]"),
    openai("Range of max_tokens should be [16,512]"),
    openai("max_tokens should be between 16 and 8192"),
    openai("max_tokens out of range, allowed 16-4096"),
    openai("maxOutputTokens: 5 is out of the supported range from 16 (inclusive) to 65537 (exclusive)"),
    openai("max_completion_tokens is too small: 5. The minimum is 16."),
    openai("Minimum output length is 16 tokens."),
    openai("max_tokens too low; 16 or more required"),
    openai("#/max_tokens: 5 is not greater or equal to 16"),
    openai("limit of generated tokens ≥ 16 required, 5 given"),
    {"code": 400, "message": "num_predict must be >= 16"},
    {"message": "Value 5 at 'inferenceConfig.maxTokens' failed: Member must have value greater than or equal to 16"},
    openai("max_tokens 不能小于 16"),
    openai("参数 max_tokens 取值范围为 16 到 8192"),
    openai("max_tokens 最小值为16"),
    openai("max_tokens 应大于等于 16"),
    openai("max_tokens(5)过小，不足下限 16"),
    openai("输出 token 数至少为 16"),
    openai("最大输出 token 数不得低于16"),
    # further ones, written after the code
    openai("The value of max_completion_tokens (5) is lower than the allowed minimum, 16"),
    openai("<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [16, 65536]"),
    openai("16 <= max_output_tokens <= 4096"),
    openai("It must be 16 or higher: max_output_tokens"),
    openai("max_tokens=5 is insufficient: use 16 or more"),
    openai("ensure this value is greater than or equal to 16", "max_tokens"),
    openai("max_tokens 参数不在有效区间 (16, 131072]"),
    openai("生成长度 max_new_tokens 至少要 16"),
    openai("max_tokens 需不小于十六（16）"),
    openai("Input validation error: `max_new_tokens` must be at least 16. Given: 5"),
    openai("Unsupported value: max_tokens 5, min 16"),
    openai("max_tokens must be from 16 through 8192"),
)


@pytest.mark.parametrize("error", WORDINGS, ids=range(len(WORDINGS)))
def test_the_limit_becomes_the_least_that_the_error_names(error):
    outcome = ask(Memory(), below(error), a_request(max_tokens=5))
    assert outcome.error is None, outcome.error
    assert (json.loads(outcome.call.body)["max_tokens"], outcome.call.adapted, outcome.calls) == (
        16,
        ("clamp=max_tokens",),
        2,
    )


def test_more_than_a_number_is_the_next_one():
    outcome = ask(Memory(), below(openai("`max_new_tokens` must be strictly greater than 15")), a_request(max_tokens=5))
    assert (outcome.error, asking(json.loads(outcome.call.body)), outcome.calls) == (None, 16, 3)


@pytest.mark.parametrize(
    ("operation", "name"), [(CHAT, "max_completion_tokens"), (MESSAGES, "max_tokens"), (RESPONSES, "max_output_tokens")]
)
def test_each_protocols_name_of_the_limit_is_raised(operation, name):
    outcome = ask(Memory(), below(openai(BELOW)), a_request(operation, **{name: 5}))
    assert (outcome.error, json.loads(outcome.call.body)[name], outcome.calls) == (None, 16, 2)


def test_both_names_in_one_request_are_raised_together():
    request = a_request(max_tokens=5, max_completion_tokens=5)
    outcome = ask(Memory(), below(openai(BELOW)), request)
    assert (outcome.error, outcome.calls) == (None, 2)
    assert outcome.call.adapted == ("clamp=max_tokens", "clamp=max_completion_tokens")


def test_what_one_name_taught_holds_for_the_other_and_larger_limits_stay():
    memory, upstream = Memory(), below(openai(BELOW))
    assert ask(memory, upstream, a_request(max_tokens=5)).calls == 2
    other, large = a_request(max_completion_tokens=9), a_request(max_tokens=500)
    assert ask(memory, upstream, other).call.adapted == ("clamp=max_completion_tokens",)
    assert ask(memory, upstream, large).call is large
    settings = [rule.setting() for rule in memory.of(SCOPE, 0.0)]
    assert settings == [{"rules": {"clamp": {name: {"min": 16}}}} for name in NAMES[:2]]
    assert memory.of(SCOPE, HOUR_S) == []


@pytest.mark.parametrize("least", [401, 512])
def test_a_status_in_the_text_is_no_bound(least):
    for text in ("<400> InvalidParameter: max_tokens must be at least {}", "Error code: 400 - max_tokens at least {}"):
        outcome = ask(Memory(), below(openai(text.format(least)), least), a_request(max_tokens=5))
        assert (outcome.error, asking(json.loads(outcome.call.body)), outcome.calls) == (None, least, 2)


@pytest.mark.parametrize("unlimited", [-1, 0])
def test_a_value_that_means_no_limit_is_not_raised(unlimited):
    memory, upstream = Memory(), below(openai(BELOW))
    upstream.refusals[0].concerns = lambda body: 0 < asking(body) < 16
    assert ask(memory, upstream, a_request(max_tokens=5)).calls == 2
    request = a_request(max_tokens=unlimited)
    assert ask(memory, upstream, request).call is request


def test_a_bound_from_above_is_kept_beside_it():
    memory, text = Memory(), openai("Range of max_tokens should be [16, 8192]")
    upstream = Upstream([Refusal(lambda body: not 16 <= asking(body) <= 8192, text)])
    for tokens, becomes in ((5, 16), (32_000, 8192), (5, 16), (32_000, 8192)):
        outcome = ask(memory, upstream, a_request(max_tokens=tokens))
        assert (outcome.error, asking(json.loads(outcome.call.body))) == (None, becomes)
    assert outcome.calls == 1


BUDGET = {"thinking": {"type": "enabled", "budget_tokens": 9}}
NOTHING: tuple[tuple[str, Body], ...] = (
    ("Could not finish the message because max_tokens or model output limit was reached.", {"max_tokens": 5}),
    ("max_tokens is too small", {"max_tokens": 5}),
    ("max_tokens must be at least 4096", {"max_tokens": 5}),
    ("This model's maximum context length is 512 tokens, with max_tokens at least 16.", {"max_tokens": 5}),
    ("The prompt has 600 tokens: at least 610 are needed beside max_tokens.", {"max_tokens": 5}),
    ("thinking.budget_tokens: Input should be greater than or equal to 1024", {"max_tokens": 800, **BUDGET}),
    ("thinking.budget_tokens must be at least 1024 tokens", {"max_tokens": 800, **BUDGET}),
    ("reasoning.max_tokens must be at least 1024", {"max_tokens": 800, "reasoning": {"max_tokens": 9}}),
    ("n must be at least 16", {"max_tokens": 5, "n": 1}),
    ("top_k must be at least 16 tokens", {"max_tokens": 5, "top_k": 3}),
    ("Your balance of 3 tokens is below the minimum of 100 tokens.", {"max_tokens": 5}),
    ("max_tokens is not supported by m-16k-0613 of 2024", {"max_tokens": 5}),
)  # fmt: skip


@pytest.mark.parametrize(("text", "members"), NOTHING, ids=[text for text, _ in NOTHING])
def test_no_other_limit_and_no_other_number_raises_it(text, members):
    outcome = ask(Memory(), Upstream([Refusal(lambda _: True, openai(text))]), a_request(**members))
    assert outcome.error is not None
    assert not any(entry.startswith("clamp") for entry in outcome.learning.tried)


def test_the_operators_bound_is_never_exceeded():
    rule = LearnedRule("clamp", "max_tokens", ">=16")
    allowed = [LearningPolicy(most_tokens=most).allows(rule, CHAT.members) for most in (None, 16, 15)]
    assert allowed == [True, True, False]


@pytest.mark.parametrize("to", [">=", ">=0", ">=-1", ">=1.5", ">= 16", "<=16"])
def test_no_other_form_is_a_bound(to):
    with pytest.raises(ValueError, match="no rule"):
        LearnedRule("clamp", "max_tokens", to)


@pytest.mark.parametrize(
    "text", ["max_tokens at least " + "[1 " * 700, "max_tokens minim " + "9" * 2000, "tool call " * 6000]
)
def test_a_hostile_text_is_read_in_linear_time_and_bounds_nothing(text):
    outcome = ask(Memory(), Upstream([Refusal(lambda _: True, openai(text))]), a_request(max_tokens=5))
    assert (outcome.error is not None, outcome.calls) == (True, 1)
