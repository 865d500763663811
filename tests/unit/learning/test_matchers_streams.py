"""Rejections of streams, of streams together with something else, and messages that only quote one."""

import pytest

from gatepass.learning.learned_rule import LearnedRule, LearningPolicy
from gatepass.learning.matchers import next_rules, relevant_rules, suggested_rules
from gatepass.learning.rejection import UpstreamRejection
from gatepass.normalize.rules import would_change
from tests.unit.learning.rejections import STREAMS, TOOLS, Case, openai


def rejection_of(body, request=STREAMS):
    case = Case("", body, request, {}, ())
    rejection = UpstreamRejection.of(case.call.operation.members, 400, case.error_body, case.call.body)
    assert rejection is not None
    return rejection, case.call


def rules(body, request=STREAMS):
    rejection, call = rejection_of(body, request)
    return next_rules(rejection, relevant_rules(rejection, call), LearningPolicy(), lambda rule: False)


@pytest.mark.parametrize(
    "body",
    [
        openai("Invalid value: 'this does not support streaming'.", "messages[0].role", "invalid_value"),
        openai("Invalid value: 'this does not support streaming'. Supported values are: 'user'."),
        openai("Invalid value: 'x'. Supported values are: false."),
        openai("This model does not support streaming.", "messages[0].role"),
        openai("This model does not support streaming.", None, "invalid_value"),
        openai("No role 'Streaming is not supported' here."),
        openai("No role 'x must be verified to stream' here."),
        openai("No role 'x\nThis model does not support streaming.' here."),
    ],
    ids=str,
)
def test_a_quotation_causes_no_rule(body):
    assert rules(body) == ()


@pytest.mark.parametrize(
    "text", ["No role 'this only supports streaming' here.", "'x enable_thinking must be set to false"]
)
def test_a_quotation_causes_no_rule_for_a_whole_request(text):
    assert rules(openai(text), {"enable_thinking": True}) == ()


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
    rejection, whole = rejection_of(openai(words, code="invalid_parameter_error"), {"enable_thinking": True})
    _, stream = rejection_of(openai(words), {"enable_thinking": True, "stream": True})
    (rule,) = (one for step in suggested_rules(rejection) for one in step if one.action == "set")
    assert would_change(rule.change(), whole)
    assert not would_change(rule.change(), stream)
