"""Rejections as the matchers read them."""

import json
import time

import pytest

from gatepass.learning.matchers import suggested_rules
from gatepass.learning.rejection import MOST_SEPARATORS, UpstreamRejection, is_too_long, texts_of
from gatepass.types import UpstreamErrorBody
from tests.rows import CHAT
from tests.unit.learning.rejections import FILTERED, openai
from tests.unit.learning.upstreams import always, refused


@pytest.mark.parametrize("param", ["messages.[6].role", "body.messages.2.role", "/messages/*/content", None, "0", "…"])
def test_param_may_be_about_a_member_in_every_spelling(param):
    rejection = UpstreamRejection.read(CHAT.members, "no", param=param)
    assert rejection.is_about("messages")
    assert rejection.is_about("stream") is (param in (None, "0", "…"))


@pytest.mark.parametrize(
    "unit",
    [
        "a.",
        "messages.1.",
        "x: ",
        "property '",
        "body -> a -> ",
        "参数",
        "'a' ",
        "a:b",
        "a's ",
        'Unknown name "',
    ],
)
def test_long_texts_are_read_in_linear_time(unit):
    """Eight times the text takes about eight times the CPU time: quadratic work would take 64 times as long."""

    def cpu_s(size: int) -> float:
        text = (unit * size)[:size]
        raw = {"metadata": {"raw": text * 2}}
        began_s = time.thread_time()
        error_body = UpstreamErrorBody(f"{text}\n{text * 2}", param=text[:100], raw=raw)
        rejection = UpstreamRejection.of(CHAT.members, 400, error_body, b'{"a":1,"messages":[],"x":"y"}')
        assert rejection is not None
        list(suggested_rules(rejection))
        return time.thread_time() - began_s

    assert cpu_s(20_000) < 24 * cpu_s(2_500)


@pytest.mark.parametrize(
    "code",
    [
        "data_inspection_failed",
        "DataInspectionFailed",
        "invalid_prompt",
        "moderation_blocked",
        "ContextWindowExceededError",
        "insufficient_user_quota",
    ],
)
def test_errors_that_no_changed_request_solves_are_not_parsed(code):
    words = "Unsupported parameter: 'temperature' is not supported with this model."
    assert UpstreamRejection.of(CHAT.members, 400, UpstreamErrorBody(words, code=code), b"{}") is None
    assert UpstreamRejection.of(CHAT.members, 400, UpstreamErrorBody(words, kind=code), b"{}") is None


def test_a_filtered_prompt_is_not_too_long():
    assert not is_too_long(refused(always(openai(FILTERED, "prompt", "content_filter"))))


SENTENCE = UpstreamErrorBody("Unsupported parameter: 'temperature' is not supported with this model.")


def test_a_body_is_read_up_to_its_bound_of_separators():
    assert texts_of(b"[%b1]" % (b"1," * (MOST_SEPARATORS - 1))) == ([], [], {})
    assert texts_of(b"[%b1]" % (b"1," * MOST_SEPARATORS)) is None


def test_a_sentence_in_a_header_is_quoted():
    sent = b'{"model":"m","temperature":1}'
    for values, is_read in (((), True), (["OpenAI/Python 1.2", "application/json"], True), ([SENTENCE.message], False)):
        rejection = UpstreamRejection.of(CHAT.members, 400, SENTENCE, sent, (), values)
        assert rejection is not None
        assert ("Unsupported" in rejection.text) is is_read


def test_a_tool_that_describes_itself_by_the_name_of_a_member_keeps_no_error_from_being_read():
    schema = {
        "effort": {
            "description": "Reasoning effort for this agent. Set it only when the user asks for it, or a task needs it."
            * 3
        }
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": schema}}}]
    body = {"model": "m", "tools": tools, "parallel_tool_calls": True, "reasoning_effort": "high"}
    refusal = UpstreamErrorBody("Unrecognized request argument supplied: reasoning_effort")
    rejection = UpstreamRejection.of(CHAT.members, 400, refusal, json.dumps(body).encode())
    assert rejection is not None
    assert [one.path for one in rejection.findings] == ["reasoning_effort"]
