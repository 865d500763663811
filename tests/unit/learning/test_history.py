"""Faults of calls in the history, which a client sends in each turn: tried like a 400, if the request has the fault."""

import json
import re
from typing import Any

import pytest

from gatepass.errors import UpstreamErrorReply
from gatepass.learning.memory import Memory
from gatepass.types import Call
from tests.rows import CHAT, MESSAGES, RESPONSES
from tests.unit.learning.rejections import openai
from tests.unit.learning.upstreams import Body, Outcome, Refusal, Upstream, ask
from tests.unit.normalize.calls import a_call

HI = {"role": "user", "content": "hi"}
CUT = '{"city": "Par'
NLOHMANN = "[json.exception.parse_error.101] parse error at line 1, column 14: syntax error while parsing value"


def called(arguments: Any = "{}", call_id: str = "abcdefgh1") -> Call:
    call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    messages = [HI, answer, {"role": "tool", "tool_call_id": call_id, "content": "It was sunny."}]
    return a_call(json.dumps({"model": "m", "messages": messages}).encode(), CHAT)


def is_cut(body: Body) -> bool:
    try:
        json.loads(body["messages"][1]["tool_calls"][0]["function"]["arguments"])
    except (TypeError, ValueError):
        return True
    return False


def always(_: Body) -> bool:
    return True


def sent(call: Call, error: Any, status: int, concerns: Any = always, memory: Memory | None = None) -> Outcome:
    return ask(memory or Memory(), Upstream([Refusal(concerns, error, status)]), call)


ARGUMENTS: tuple[tuple[int, Any], ...] = (
    (500, openai(f'Failed to parse tool call arguments as JSON: {NLOHMANN}; last read: \'"city": "Par\'')),
    (404, {"error": "Unterminated string starting at: line 1 column 10 (char 9)"}),
    (404, {"error": "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"}),
    (500, {"detail": "Tool arguments must be valid JSON"}),
    (500, openai("tool_calls[0].function.arguments is malformed: EOF while parsing a string at line 1 column 13")),
    (500, openai("invalid function call: unexpected end of JSON input")),
    (500, {"message": "工具调用参数解析失败：JSON 不完整"}),
    (500, openai("json: cannot unmarshal: invalid character '}' looking for beginning of object key string")),
    (500, {"error": "failed to convert messages: tool_calls[0].function.arguments: unexpected EOF"}),
    (500, {"message": "JSONDecodeError: Expecting value"}),
    (500, openai("Can only get item pairs from a mapping.")),
    (500, {"msg": "历史消息中的函数参数不是合法的 JSON"}),
    (500, openai("JsonEOFException: Unexpected end-of-input in VALUE_STRING at line: 1, column: 14")),
    (500, openai("'str' object has no attribute 'items'")),
    (500, openai("body.messages.1.tool_calls.0.function.arguments: Input should be valid JSON")),
    (400, openai("messages[1].tool_calls[0].function.arguments: invalid JSON")),
    (400, openai("Invalid value", "messages[1].tool_calls[0].function.arguments")),
)


FAILURES = [one for one in ARGUMENTS if one[0] in (404, 500)]


@pytest.mark.parametrize("arguments", [CUT, "", "{}{}", '{"a": 1,}', None])
@pytest.mark.parametrize(("status", "error"), ARGUMENTS, ids=range(len(ARGUMENTS)))
def test_arguments_that_are_no_json_become_an_empty_object(status, error, arguments):
    memory = Memory()
    for calls in (2, 1):
        outcome = sent(called(arguments), error, status, is_cut, memory)
        assert (outcome.error, outcome.call.adapted, outcome.calls) == (None, ("arguments=empty",), calls)
        assert json.loads(outcome.call.body)["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"


def test_the_evidence_of_a_rule_has_no_part_of_the_arguments():
    memory = Memory()
    assert sent(called(CUT), ARGUMENTS[0][1], 500, is_cut, memory).error is None
    (record,) = memory.records(0.0, 0.0)
    assert record.evidence.startswith("Failed to parse tool call arguments as JSON")
    assert "Par" not in record.evidence


OBJECTS: tuple[tuple[int, str], ...] = (
    (500, "[json.exception.type_error.302] type must be string, but is object"),
    (500, "the JSON object must be str, bytes or bytearray, not dict"),
    (400, "the JSON object must be str, bytes or bytearray, not dict"),
    (400, "unhashable type: 'dict' in function call arguments"),
    (400, "tool arguments should be text"),
)


@pytest.mark.parametrize(("status", "text"), OBJECTS)
def test_arguments_that_are_an_object_become_its_text(status, text):
    def is_object(body: Body) -> bool:
        return isinstance(body["messages"][1]["tool_calls"][0]["function"]["arguments"], dict)

    outcome = sent(called({"city": "Paris"}), openai(text), status, is_object)
    assert (outcome.error, outcome.call.adapted, outcome.calls) == (None, ("arguments=text",), 2)


IDS: tuple[tuple[int, Any, str, str], ...] = (
    (500, {"detail": "Tool call IDs should be alphanumeric strings with length 9!"}, "call_abc", r"\w{9}"),
    (500, {"error": "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9."}, "call_1", r"\w{9}"),
    (404, openai("Invalid 'messages[1].tool_calls[0].id': string too long."), "call_" + "x" * 60, ".{1,40}"),
    (500, {"message": "tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"}, "functions.f:0", r"[\w-]+"),
    (500, {"message": "tool_call_id 格式错误，长度应为9位"}, "call_1", r"\w{9}"),
    (500, {"error": "Invalid id for a tool call: must be nine letters or digits"}, "call_abc", r"\w{9}"),
    (500, openai("The toolUseId must be at most 64 characters long, of a-zA-Z0-9_-"), "x" * 70, ".{1,64}"),
    (500, {"error": "调用ID只能包含字母和数字，长度为9"}, "call_1", r"\w{9}"),
    (500, {"message": "toolCallId has characters other than letters"}, "f:0", r"[\w-]+"),
)


@pytest.mark.parametrize(("status", "error", "call_id", "form"), IDS, ids=range(len(IDS)))
def test_ids_of_another_form_become_short(status, error, call_id, form):
    def is_odd(body: Body) -> bool:
        return re.fullmatch(form, body["messages"][1]["tool_calls"][0]["id"]) is None

    outcome = sent(called(call_id=call_id), error, status, is_odd)
    assert (outcome.error, outcome.call.adapted, outcome.calls) == (None, ("tool_ids=short",), 2)


ELSEWHERE: tuple[tuple[int, str], ...] = (
    (500, "Internal server error"),
    (500, "CUDA error: device-side assert triggered"),
    (500, "Failed to parse the upstream response as JSON: line 1 column 1 (char 0)"),
    (500, "Failed to parse tool call arguments in the model's output"),
    (500, "Failed to parse the request body: unexpected end of JSON input"),
    (500, "`temperature` is not supported"),
    (500, "arguments of the tool were refused by our content policy: no JSON"),
    (404, "The model `m` does not exist"),
    (404, "Not Found"),
    (502, f"Failed to parse tool call arguments as JSON: {NLOHMANN}"),
    (503, f"Failed to parse tool call arguments as JSON: {NLOHMANN}"),
    (429, f"Failed to parse tool call arguments as JSON: {NLOHMANN}"),
)


@pytest.mark.parametrize(("status", "text"), ELSEWHERE)
def test_an_error_about_something_else_is_sent_no_more_often(status, text):
    outcome = sent(called(CUT, "call_1"), openai(text), status)
    assert isinstance(outcome.error, UpstreamErrorReply)
    assert (outcome.error.http_status, outcome.error.should_retry, outcome.calls) == (status, None, 1)


@pytest.mark.parametrize(("status", "error"), [*FAILURES, *((status, error) for status, error, *_ in IDS)])
def test_a_request_without_the_fault_is_sent_once(status, error):
    outcome = sent(called(), error, status)
    assert isinstance(outcome.error, UpstreamErrorReply)
    assert (outcome.error.http_status, outcome.error.should_retry, outcome.calls) == (status, None, 1)


@pytest.mark.parametrize(
    ("call", "status", "error"),
    [*((called(CUT), *one) for one in FAILURES), *((called(call_id=one[2]), *one[:2]) for one in IDS)],
)
def test_if_nothing_helps_the_status_stays_and_no_client_repeats_it(call, status, error):
    memory = Memory()
    for calls in (2, 1):  # the next turn of the minute tries nothing
        outcome = sent(call, error, status, memory=memory)
        assert isinstance(outcome.error, UpstreamErrorReply)
        assert (outcome.error.http_status, outcome.error.should_retry, outcome.calls) == (status, False, calls)


def test_another_error_after_the_change_is_the_clients():
    busy = Refusal(lambda body: not is_cut(body), openai("Slow down."), 429)
    upstream = Upstream([Refusal(is_cut, *reversed(ARGUMENTS[0])), busy])
    outcome = ask(Memory(), upstream, called(CUT))
    assert isinstance(outcome.error, UpstreamErrorReply)
    assert (outcome.error.http_status, outcome.error.should_retry, outcome.calls) == (429, None, 2)


OTHERS = (
    (CHAT, {"messages": [HI, {"role": "assistant", "function_call": {"name": "f", "arguments": CUT}}]}),
    (RESPONSES, {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": CUT}]}),
)


@pytest.mark.parametrize(("operation", "members"), OTHERS)
def test_every_place_of_arguments_is_repaired(operation, members):
    call = a_call(json.dumps({"model": "m", **members}).encode(), operation)
    concerns = Refusal(lambda body: json.dumps(CUT) in json.dumps(body), *reversed(ARGUMENTS[0]))
    outcome = ask(Memory(), Upstream([concerns]), call)
    assert (outcome.error, outcome.call.adapted) == (None, ("arguments=empty",))


def test_arguments_of_messages_are_objects_and_stay():
    used = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    call = a_call(json.dumps({"messages": [HI, {"role": "assistant", "content": [used]}]}).encode(), MESSAGES)
    assert sent(call, ARGUMENTS[0][1], 500).calls == 1
