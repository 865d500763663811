"""What the reader finds in an error, the changes that follow, and texts that teach nothing."""

import json
from typing import Any

import pytest

from gatepass.dialects.error_body import read_error_body
from gatepass.learning.learned_rule import LearningPolicy
from gatepass.learning.matchers import relevant_rules
from gatepass.learning.reader import no_room
from gatepass.learning.rejection import UpstreamRejection
from gatepass.normalize.rules import apply_changes
from gatepass.types import Call
from tests.rows import CHAT, EMBEDDINGS, MESSAGES, RESPONSES
from tests.unit.learning.rejections import chat, openai, rules
from tests.unit.normalize.calls import a_call

TOOLS = [{"type": "function", "function": {"name": "f"}}]
HI = {"role": "user", "content": "hi"}


def request(**members: Any) -> Call:
    body = json.dumps({"model": "m", "messages": [HI], **members}).encode()
    return a_call(body, CHAT, stream=bool(members.get("stream")))


EFFORT = (
    "Function tools with reasoning_effort are not supported for gpt-x in /v1/chat/completions. To use function tools,"
    " use /v1/responses or set reasoning_effort to 'none'."
)
MANY, LOW, MAX = {"max_tokens": 32000}, {"reasoning_effort": "low"}, {"reasoning_effort": "max"}
WARM = {"temperature": 1, "top_p": 1}
CHATTY = {"reasoning": {}, "verbosity": "low"}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
NULLS = {"temperature": None, "seed": 1, "stop": None}


THINKS = {"thinking": {"type": "enabled", "budget_tokens": 99}}
NO_EFFORT = {"reasoning_effort": "none"}
PLAIN_SCHEMA = {"type": "object", "properties": {"$schema": {"anyOf": [{"enum": ["$schema"]}, {"type": "null"}]}}}
SCHEMA = {
    "$schema": "draft-07",
    "type": "object",
    "properties": {"$schema": {"$schema": "x", "anyOf": [{"$schema": 1, "enum": ["$schema"]}, {"type": "null"}]}},
}
CAMEL, CLAMP, MOST = "drop=promptCacheKey", "clamp=max_tokens", {"max_tokens": 80}


def most(tokens: int) -> dict[str, int]:
    return {"max_tokens": tokens}


@pytest.mark.parametrize(
    ("text", "sent", "becomes", "entries"),
    [
        # exclusive
        ("`temperature` and `top_p` cannot both be specified.", WARM, {"top_p": None}, "drop=top_p"),
        ("temperature 与 top_p 不能同时设置", WARM, {"top_p": None}, "drop=top_p"),
        ("Only one of reasoning and verbosity may be set", CHATTY, {"verbosity": None}, "drop=verbosity"),
        ("top_k can not be used together with tools", {"top_k": 4, "tools": TOOLS}, {"top_k": None}, "drop=top_k"),
        (
            "'max_tokens' and 'max_completion_tokens' are mutually exclusive.",
            {"max_tokens": 9, "max_completion_tokens": 9},
            {"max_tokens": None},
            "drop=max_tokens",
        ),
        # one right value
        (EFFORT, {"tools": TOOLS}, {"reasoning_effort": "none"}, "set=reasoning_effort>none"),
        (EFFORT, {"tools": TOOLS, **LOW}, {"reasoning_effort": "none"}, "set=reasoning_effort>none"),
        ("temperature must be 1 if thinking is on", {"temperature": 0.1}, {"temperature": None}, "drop=temperature"),
        ("This model only supports top_p=1.", {"top_p": 0.3}, {"top_p": None}, "drop=top_p"),
        ("You may not set seed for this model.", {"seed": 1}, {"seed": None}, "drop=seed"),
        ("top_p 只能设置为 1", {"top_p": 0.3}, {"top_p": None}, "drop=top_p"),
        ("enable_thinking 必须为 false", {}, {"enable_thinking": False}, "set=enable_thinking>false"),
        # empty
        ("`tools` must not be an empty array.", {"tools": []}, {"tools": None}, "drop=tools"),
        ("[] is too short - 'tools'", {"tools": [], "stop": []}, {"tools": None}, "drop=tools"),
        ("type must be number, but is null", NULLS, {"temperature": None, "stop": None}, "drop=temperature, drop=stop"),
        ("seed: Input should be a valid integer", {"seed": None, "top_p": None}, {"seed": None}, "drop=seed"),
        # too large
        ("max_tokens is too large: 32000. At most 16384 are supported.", MANY, most(16384), "clamp=max_tokens"),
        ("Range of max_tokens should be [1, 8192]", MANY, most(8192), "clamp=max_tokens"),
        ("maxOutputTokens: the range is from 1 (inclusive) to 8193 (exclusive)", MANY, most(8192), "clamp=max_tokens"),
        ("max_tokens 不能超过 4096", MANY, most(4096), "clamp=max_tokens"),
        ("max_tokens too high: 262144 < 230462 + 32000", MANY, most(31682), "clamp=max_tokens"),
        ("context length is 99. You requested 20 of text input, 80 in the output", MOST, most(79), CLAMP),
        ("`max_new_tokens` must be <= 99. Given: 20 `inputs` tokens and 80 `max_new_tokens`", MOST, most(79), CLAMP),
        # order, streams
        (
            "系统消息必须放在第一条",
            chat({"role": "system", "content": "A"}, HI, {"role": "system", "content": "B"}),
            chat({"role": "system", "content": "A\n\nB"}, HI),
            "roles=system",
        ),
        ("该模型不支持流式输出", {"stream": True}, {"stream": False}, "stream=synth"),
        ("Only streaming requests are accepted", {}, STREAMED, "stream=aggregate"),
        # several at once
        (
            "temperature, top_p and frequency_penalty are not supported with this model",
            {"temperature": 1, "top_p": 1, "frequency_penalty": 1, "seed": 1},
            {"temperature": None, "top_p": None, "frequency_penalty": None},
            "drop=temperature, drop=top_p, drop=frequency_penalty",
        ),
        ("tool_choice is only allowed with tools", {"tool_choice": "auto"}, {"tool_choice": None}, "drop=tool_choice"),
        ("`top_k` must be unset when thinking is on", {"top_k": 4, **THINKS}, {"top_k": None}, "drop=top_k"),
        ("Setting 'promptCacheKey' is not allowed", {"promptCacheKey": "k 1"}, {"promptCacheKey": None}, CAMEL),
        (
            "The tool_choice parameter does not support being set to required in thinking mode",
            {"tools": TOOLS, "tool_choice": "required", "enable_thinking": True},
            {"enable_thinking": None},
            "drop=enable_thinking",
        ),
        (
            "`max_tokens` must be greater than `thinking.budget_tokens`.",
            {"max_tokens": 9, **THINKS},
            {"thinking": None},
            "drop=thinking",
        ),
        ("Invalid 'user': string too long.", {"user": "u" * 90}, {"user": None}, "drop=user"),
        # thoughts, by any of their names
        ('"m" does not support thinking', LOW, {"reasoning_effort": None}, "drop=reasoning_effort"),
        ("Reasoning cannot be disabled here.", NO_EFFORT, {"reasoning_effort": None}, "drop=reasoning_effort"),
        ("To avoid this, disable `thinking`.", THINKS, {"thinking": None}, "drop=thinking"),
        (
            '"thinking.type.enabled" is not supported. Use "thinking.type.adaptive" and "x.effort" for thinking.',
            THINKS,
            {"thinking": {"type": "adaptive", "budget_tokens": 99}},
            "set=thinking.type>adaptive",
        ),
        (
            "Invalid combination of reasoning_effort and thinking type: high + disabled",
            {"reasoning_effort": "high", "thinking": {"type": "disabled"}},
            {"reasoning_effort": None},
            "drop=reasoning_effort",
        ),
        (
            "These tools cannot be used with reasoning.effort 'low': search.",
            {"tools": TOOLS, "reasoning": {"effort": "low"}},
            {"reasoning": {}},
            "drop=reasoning.effort",
        ),
        # more words
        ("seed is not allowed when extra is not set", {"seed": 1}, {"seed": None}, "drop=seed"),
        ("Field validation for 'Body.Seed' failed on the 'lte' tag", {"seed": 9}, {"seed": None}, "drop=seed"),
        ("top_p 参数应在 [0.01,1] 之间", {"top_p": 0}, {"top_p": None}, "drop=top_p"),
        ("Store must be set to false", {"store": True}, {"store": False}, "set=store>false"),
        ("the top_p field is required to be within (0, 1.0]", {"top_p": 0}, {"top_p": None}, "drop=top_p"),
        ("Parameter 'user' exceeds max length 32", {"user": "u" * 40}, {"user": None}, "drop=user"),
        ("字段 seed 不合法", {"seed": 1}, {"seed": None}, "drop=seed"),
        ("#/max_tokens: 32000 is not less or equal to 2048", MANY, most(2048), CLAMP),
        ("输入 50 tokens 与 max_tokens 80 之和超过上下文长度 99", MOST, most(49), CLAMP),
        (
            "Unknown name \"$schema\" at 'tools[0].function_declarations[0].parameters': Cannot find field.",
            {"tools": [{"function": {"name": "f", "parameters": SCHEMA}}]},
            {"tools": [{"function": {"name": "f", "parameters": PLAIN_SCHEMA}}]},
            "schema=$schema",
        ),
        # a value that means absent, refused like any other
        ("stop参数非法", {"stop": []}, {"stop": None}, "drop=stop"),
        ("tags参数非法", {"tags": []}, {"tags": None}, "drop=tags"),
        ("Illegal parameter: stop", {"stop": None}, {"stop": None}, "drop=stop"),
        ("seed exceeds the limit", {"seed": None}, {"seed": None}, "drop=seed"),
        ("seed and foo are mutually exclusive", {"seed": 1, "foo": None}, {"foo": None}, "drop=foo"),
        # a value that is none: digits and letters that only look like ASCII ones, an element of a list
        ("temperature must be １", {"temperature": 0.2}, {"temperature": None}, "drop=temperature"),
        ("think must be fal\u017fe", {"think": True}, {"think": None}, "drop=think"),
        ("Use 'thinking.type.adaptive[0]'", THINKS, {}, ""),
        ("Use 'thinking.type[0]'", THINKS, {}, ""),
        # a name without letters
        ("Property '_' is not supported", {"_": 1}, {}, ""),
        ("Unknown parameters: '__', 'seed'", {"__": None, "seed": 1}, {"seed": None}, "drop=seed"),
        ("x._-: Extra inputs are not permitted", {"x": {"_-": 1}}, {}, ""),
        ("messages[0]._: Extra inputs are not permitted", chat({**HI, "_": 1}), {}, ""),
        # nothing
        ("Missing required parameter: 'seed'.", {"seed": 1}, {}, ""),
        ("The user is not allowed to use this model", {"user": "u"}, {}, ""),
        ("Unknown parameter 'foo'. Supported parameters: temperature, seed", {"temperature": 1, "seed": 1}, {}, ""),
        ("top_p must be below 1", {"top_k": 5}, {}, ""),
        ("tool_choice is not supported", {"tool_choice": "required", "tools": TOOLS}, {}, ""),
    ],
    ids=str,
)  # fmt: skip
def test_a_text_leads_to_its_change(text: str, sent: dict[str, Any], becomes: dict[str, Any], entries: str) -> None:
    call = request(**sent)
    changed = apply_changes(call, [rule.change() for rule in rules(openai(text), call)])[0]
    whole = {**json.loads(call.body), **becomes}
    gone = {name for name, value in becomes.items() if value is None}
    assert json.loads(changed.body) == {name: value for name, value in whole.items() if name not in gone}
    assert ", ".join(changed.adapted) == entries


LATE = [HI, {"role": "system", "content": "A"}]
EMPTY = [HI, {"role": "assistant", "content": ""}]
ODD_ID = [{"role": "tool", "tool_call_id": "functions.f:0", "content": "x"}]
INPUT = {"input": [{"type": "function_call", "call_id": "c" * 70, "status": "completed"}], "store": True}
DEVELOPER = [{"role": "developer", "content": "A"}]
NAMED = [{"role": "tool", "tool_call_id": "a", "content": "x", "name": "n"}]
PARTED = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]


@pytest.mark.parametrize(
    ("text", "messages", "operation", "rule"),
    [
        ("Too many inputs in request, split into more batches.", list("abcdefgh"), EMBEDDINGS, "split=25%"),
        ("input数组最大不得超过64条", ["a"] * 65, EMBEDDINGS, "split=64"),
        ("messages: text content blocks must be non-empty", EMPTY, CHAT, "content=filled"),
        ("messages[1].content[0].text:text cannot be empty.", EMPTY, CHAT, "content=filled"),
        (
            "The text field in the ContentBlock object at messages.1.content.0 is blank.",
            EMPTY,
            MESSAGES,
            "content=filled",
        ),
        ("消息的 content 不能为空", EMPTY, CHAT, "content=filled"),
        ("Assistant message must have either content or tool_calls, but not none.", EMPTY, CHAT, "content=filled"),
        ("消息的 content 不能为空", [{"role": "assistant", "content": None}], CHAT, "content=empty"),
        ("role 'system' is not supported on this model", LATE, MESSAGES, "roles=system"),
        ("body.messages.1.role: Input should be 'user' or 'assistant'", LATE, MESSAGES, "roles=system"),
        ("messages[1].role: unknown variant `system`, expected `user` or `assistant`", LATE, MESSAGES, "roles=system"),
        ("messages.0.content.0.tool_use.id: String should match pattern '^[a-z]+$'", ODD_ID, CHAT, "tool_ids=short"),
        ("Invalid 'messages[2].tool_calls[0].id': string too long.", ODD_ID, CHAT, "tool_ids=short"),
        ("the message at position 1 with role 'assistant' must not be empty", EMPTY, CHAT, "content=filled"),
        ("Invalid 'input[1].call_id': string too long.", [], RESPONSES, "tool_ids=short"),
        ("Unknown parameter: 'input[1].status'.", [], RESPONSES, "drop=input[].status"),
        ("store=true is not supported", [], RESPONSES, "drop=store"),
        ("messages 中 role 不合法：developer，仅支持 system、user", DEVELOPER, CHAT, "role=developer>system"),
        ("messages[0].content 类型错误，应为 string", PARTED, CHAT, "content=text"),
        ('Cannot read value of type `String` from Array value: Message["content"]', PARTED, CHAT, "content=text"),
        ("'messages.1' : for 'role:tool' ... property 'name' is unsupported", NAMED, CHAT, "drop=messages[].name"),
        ("data did not match any variant of untagged enum ChatRequestContent", PARTED, CHAT, "content=text"),
    ],
)
def test_what_an_error_says_of_messages(text: str, messages: Any, operation: Any, rule: str) -> None:
    members = {EMBEDDINGS: {"input": messages}, RESPONSES: INPUT}.get(operation, {"messages": messages})
    call = a_call(json.dumps({"model": "m", **members}).encode(), operation)
    assert [one.entry for one in rules(openai(text), call)] == [rule]


@pytest.mark.parametrize(
    ("text", "learned"), [("Jinja Exception: System message must be first", 1), ("Out of memory", 0)]
)
def test_a_500_teaches_what_a_template_rejects_alone(text: str, learned: int) -> None:
    call = request(messages=LATE)
    rejection = UpstreamRejection.of(call.operation.members, 500, read_error_body(openai(text)), call.body)
    assert len(relevant_rules(rejection, call) if rejection else ()) == learned


@pytest.mark.parametrize(
    ("text", "sent", "others"),
    [
        ("`temperature` and `top_p` cannot both be specified.", WARM, [{"top_p": 1}]),
        (EFFORT, {"tools": TOOLS, **LOW}, [LOW, {"tools": []}]),
        ("Invalid parameter: seed", {"seed": 7}, [{"seed": 8}]),
        ("Reasoning is mandatory and cannot be disabled.", NO_EFFORT, [LOW]),
        ('Use "thinking.type.adaptive".', THINKS, [{}]),
        ("`tools` must not be empty.", {"tools": []}, [{"tools": TOOLS}]),
        ("temperature is outside the allowed range", {"temperature": 5}, [{"temperature": 1}]),
        ("seed 不要超过 5", {"seed": 7}, [{"seed": 1}]),
        ("'temperature' must be Float", {"temperature": 2}, [{"temperature": 0.2}]),
        (
            "The thinking budget (52) is invalid. Choose 128 or more.",
            {"thinking_budget": 52},
            [{"thinking_budget": 99}],
        ),
        ("Validation error for `reasoning_effort`: expected one of 'low', 'high'", MAX, [LOW]),
        ('level "max" not supported, valid levels: low, medium, high', MAX, [LOW]),
        ("Thinking level MAX is not supported for this model. Please retry with other thinking level.", MAX, [LOW]),
        ("presence_penalty 取值范围应为 [-2.0, 2.0]", {"presence_penalty": 3}, [{"presence_penalty": 1}]),
        ("metadata.user_id: String should have at most 256 characters", {"metadata": {"user_id": "u"}}, [{}]),
    ],
)
def test_a_rule_does_not_concern_requests_that_the_error_is_not_about(
    text: str, sent: dict[str, Any], others: list[dict[str, Any]]
) -> None:
    found = [rule.change() for rule in rules(openai(text), request(**sent))]
    assert found
    for other in [request(**members) for members in others]:
        assert apply_changes(other, found)[0] is other


@pytest.mark.parametrize(
    "error",
    [
        {"title": "Validation errors occurred.", "status": 400, "errors": {"$.seed": ["It could not be mapped."]}},
        {
            "message": "body must NOT have additional properties",
            "details": [{"params": {"additionalProperty": "seed"}, "message": "must NOT have additional properties"}],
        },
        {"error": {"message": "Invalid", "violations": [{"propertyPath": "seed", "message": "must be null"}]}},
        {
            "error": {
                "message": "Bad",
                "details": [{"fieldViolations": [{"field": "seed", "description": "Not enabled"}]}],
            }
        },
        {"error": "Bad", "errors": [{"field": "seed", "defaultMessage": "must be less than or equal to 1"}]},
        {"error": {"message": "Unsupported parameter", "param": {"name": "seed"}, "code": "unsupported_parameter"}},
        {"error": {"message": "Unsupported", "param": ["body", "seed"], "code": "unsupported_parameter"}},
        {"seed": ["Unexpected field."], "model": ["Also bad."]},
        {"message": "invalid input error", "details": "Extra parameters ['seed'] are not allowed."},
        {"base_resp": {"status_code": 2013, "status_msg": "invalid params, unknown field: seed"}},
    ],
)
def test_a_member_is_found_where_validators_name_it(error: Any) -> None:
    assert [one.entry for one in rules(error, request(seed=1))] == ["drop=seed"]


def test_a_client_that_shortens_its_answers_does_it_itself() -> None:
    call, error = request(max_tokens=32000), openai("max_tokens: 262144 < 230462 + 32000")
    assert rules(error, call, policy=LearningPolicy(fits_answers=False)) == ()


@pytest.mark.parametrize(
    ("text", "room"),
    [
        ("230,462 + 32,000 > 262,144", (230462, 32000, 262144)),
        ("max_tokens is too large: 32000 (32000 > 262144 - 230462)", (230462, 32000, 262144)),
        ("262144 < 230462 + 32000", (230462, 32000, 262144)),
        (
            "The context length is 6048 tokens. You requested 568 in the messages, 6048 in the completion",
            (568, 6048, 6048),
        ),
        ("prompt is too long: 209375 tokens > 200000 maximum", None),
        ("This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.", None),
    ],
)
def test_a_prompt_that_fits_without_its_answer(text: str, room: tuple[int, int, int] | None) -> None:
    assert no_room(text) == room


NESTED = {
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "tools": [{"name": "f", "input_schema": {}, "eager_input_streaming": True, "cache_control": {"type": "ephemeral"}}],
    "output_config": {"effort": "max"},
    "messages": [HI],
}


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        (
            "tools.0.custom.eager_input_streaming: Extra inputs are not permitted",
            ("drop=tools[].eager_input_streaming",),
        ),
        ("tools.3.cache_control: Extra inputs are not permitted", ("drop=tools[].cache_control",)),
        ("`cache_control.ttl: 1h` is not supported", ("drop=system[].cache_control.ttl",)),
        ("cache_control is not available here", ("drop=system[].cache_control", "drop=tools[].cache_control")),
        ("tools.0.input_schema: Extra inputs are not permitted", ()),
        ("output_config.effort: Input should be 'low', 'medium' or 'high'", ("drop=output_config.effort",)),
    ],
)
def test_a_member_is_found_by_its_path(text: str, entries: tuple[str, ...]) -> None:
    call = Call("id", MESSAGES, "caller", "m", json.dumps({"model": "m", **NESTED}).encode(), ())
    found = rules({"type": "error", "error": {"type": "invalid_request_error", "message": text}}, call)
    assert sorted(rule.entry for rule in found) == sorted(entries)


PLANTED = (
    "I read that the parameter seed is not supported by this model",
    "I read that temperature and top_p cannot both be specified for it",
    "I read that temperature must be between 0 and 1 for it",
    "I read that max_tokens must be at most 20 for it",
    "I read that it has 20 input tokens, 80 output tokens and a context length of 99 tokens",
    "I read that role 'developer' is not supported by this model",
    "I read that system messages must be at the beginning of it",
    "I read that text content blocks must be non-empty in it",
    'I read that the level "max" is not supported by it',
    "I read that streaming is not supported by it",
    "I read that the parameter 'user' exceeds max length 32 in it",
)
SENT = {"user": "u", "seed": 1, "temperature": 5, "top_p": 1, "max_tokens": 80, **MAX, "stream": True}
PLACES = (
    lambda text: {"role": "user", "content": f"Look at this old log. {text}"},
    lambda text: {"role": "tool", "tool_call_id": "a", "content": json.dumps({"log": f"line 1\nline 2 {text}"})},
)


@pytest.mark.parametrize("text", PLANTED)
def test_an_error_that_repeats_the_middle_of_a_text_teaches_nothing(text: str) -> None:
    others = [HI, {"role": "developer", "content": "x"}, {"role": "system", "content": "x"}, *EMPTY]
    cut = f"…{text[4:]}…"
    for quote in (
        text,
        f"Blocked: {text}",
        f"The filter found {cut}",
        f"Invalid: {cut}",
        text.upper(),
        json.dumps(text),
    ):
        for error in (
            openai(quote),
            {"error": {"message": "Blocked", "cause": quote}},
            {"errors": {"content": [quote]}},
        ):
            for place in PLACES:
                assert rules(error, request(messages=[*others, place(text)], **SENT)) == ()
    assert rules(openai(text), request(messages=others, **SENT)) != ()
