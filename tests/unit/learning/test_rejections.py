"""Each refusal, run to the end: the upstream refuses with the same error until it gets the body that it accepts.

The words of an error are not read, so the sentences here differ in what they point at.
"""

import json
from typing import Any

import pytest

from gatepass.learning.memory import Memory
from gatepass.types import Call
from tests.rows import CHAT, EMBEDDINGS, MESSAGES, RESPONSES
from tests.unit.learning.insisting import Insisting, ending
from tests.unit.learning.rejections import DEVELOPER, NOTHING_ROWS, ROWS, SYSTEM, Case, chat, openai
from tests.unit.learning.upstreams import Refusal, ask


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.name)
def test_a_refusal_leads_to_the_body_that_is_accepted(case):
    outcome = ending(case)
    assert outcome.error is None, outcome.error
    assert (outcome.call.adapted, outcome.calls) == (case.adapted, case.calls)


@pytest.mark.parametrize("case", NOTHING_ROWS, ids=lambda case: case.name)
def test_a_refusal_that_no_change_repairs_stays_with_few_calls(case):
    outcome = ending(case, accepts=False)
    assert outcome.error is not None
    assert (outcome.error.http_status, outcome.calls) == (case.status, case.calls)


TOOLS = [{"type": "function", "function": {"name": "f"}}]
HI = {"role": "user", "content": "hi"}
EFFORT = (
    "Function tools with reasoning_effort are not supported for gpt-x in /v1/chat/completions. To use function tools,"
    " use /v1/responses or set reasoning_effort to 'none'."
)
OPENROUTER = (
    "This endpoint's maximum context length is 99 tokens. However, you requested about 100 tokens (20 of text input,"
    " 80 in the output)."
)
MANY, MOST, MAX = {"max_tokens": 32000}, {"max_tokens": 80}, {"reasoning_effort": "max"}
NO_EFFORT, NO_THOUGHTS = {"reasoning_effort": "none"}, {"reasoning_effort": None}
WARM = {"temperature": 1, "top_p": 1}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
NULLS = {"temperature": None, "seed": 1, "stop": None}
THINKS = {"thinking": {"type": "enabled", "budget_tokens": 99}}
ADAPTIVE = {"thinking": {"type": "adaptive", "budget_tokens": 99}}
PLAIN_SCHEMA = {"type": "object", "properties": {"$schema": {"anyOf": [{"enum": ["$schema"]}, {"type": "null"}]}}}
SCHEMA = {
    "$schema": "draft-07",
    "type": "object",
    "properties": {"$schema": {"$schema": "x", "anyOf": [{"$schema": 1, "enum": ["$schema"]}, {"type": "null"}]}},
}


def gone(*names: str) -> dict[str, None]:
    return dict.fromkeys(names)


def most(tokens: int) -> dict[str, int]:
    return {"max_tokens": tokens}


def tools(schema: Any) -> dict[str, Any]:
    return {"tools": [{"function": {"name": "f", "parameters": schema}}]}


SENTENCES: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    # two members together: the rarer one goes first
    ("`temperature` and `top_p` cannot both be specified.", WARM, gone("top_p")),
    ("temperature 与 top_p 不能同时设置", WARM, gone("top_p")),
    ("Only one of thinking and verbosity may be set", {**THINKS, "verbosity": "low"}, gone("verbosity")),
    ("top_k can not be used together with tools", {"top_k": 4, "tools": TOOLS}, gone("top_k")),
    ("`top_k` must be unset when thinking is on", {"top_k": 4, **THINKS}, gone("top_k")),
    (
        "'max_tokens' and 'max_completion_tokens' exclude each other.",
        {**MOST, "max_completion_tokens": 80},
        gone(*MOST),
    ),
    # several: all at once
    (
        "temperature, top_p and frequency_penalty are not supported with this model",
        {**WARM, "frequency_penalty": 1, "seed": 1},
        gone("temperature", "top_p", "frequency_penalty"),
    ),
    # the value that the error names
    (EFFORT, {"tools": TOOLS}, NO_EFFORT),
    (EFFORT, {"tools": TOOLS, "reasoning_effort": "low"}, NO_EFFORT),
    ("enable_thinking 必须为 false", {}, {"enable_thinking": False}),
    ("Store must be set to false", {"store": True}, {"store": False}),
    ('"thinking.type.enabled" is not supported. Use "thinking.type.adaptive" and "x.effort".', THINKS, ADAPTIVE),
    # a value that is none: digits and letters that only look like ASCII ones
    ("temperature must be １", {"temperature": 0.2}, gone("temperature")),
    ("think must be fal\u017fe", {"think": True}, gone("think")),
    # an empty value means absent
    ("`tools` must not be an empty array.", {"tools": []}, gone("tools")),
    ("[] is too short - 'tools'", {"tools": [], "stop": []}, gone("tools")),
    ("type must be number, but is null", NULLS, gone("temperature", "stop")),
    ("seed: Input should be a valid integer", {"seed": None, "top_p": 1}, gone("seed")),
    ("stop参数非法", {"stop": []}, gone("stop")),
    ("seed and foo are mutually exclusive", {"seed": 1, "foo": None}, gone("foo")),
    # limits
    ("max_tokens is too large: 32000. At most 16384 are supported.", MANY, most(16384)),
    ("Range of max_tokens should be [1, 8192]", MANY, most(8192)),
    ("max_tokens 不能超过 4096", MANY, most(4096)),
    ("#/max_tokens: 32000 is not less or equal to 2048", MANY, most(2048)),
    ("max_tokens too high: 262144 < 230462 + 32000", MANY, most(31682)),
    (OPENROUTER, MOST, most(79)),
    ("`max_new_tokens` must be <= 99. Given: 20 `inputs` tokens and 80 `max_new_tokens`", MOST, most(79)),
    ("输入 50 tokens 与 max_tokens 80 之和超过上下文长度 99", MOST, most(49)),
    # thoughts, by any of their names
    ('"m" does not support thinking', {"reasoning_effort": "low"}, NO_THOUGHTS),
    ("Reasoning cannot be disabled here.", NO_EFFORT, NO_THOUGHTS),
    ("To avoid this, disable `thinking`.", THINKS, gone("thinking")),
    (
        "Invalid combination of reasoning_effort and thinking type: high + disabled",
        {"reasoning_effort": "high", "thinking": {"type": "disabled"}},
        NO_THOUGHTS,
    ),
    ("No tools with reasoning.effort 'low'.", {"tools": TOOLS, "reasoning": {"effort": "low"}}, {"reasoning": {}}),
    ('level "max" not supported, valid levels: low, medium, high', MAX, NO_THOUGHTS),
    ("Thinking level MAX is not supported for this model. Please retry with other thinking level.", MAX, NO_THOUGHTS),
    # a member in other spellings and places
    ("Setting 'promptCacheKey' is not allowed", {"promptCacheKey": "k 1"}, gone("promptCacheKey")),
    ("Field validation for 'Body.Seed' failed on the 'lte' tag", {"seed": 9}, gone("seed")),
    ("Invalid 'user': string too long.", {"user": "u" * 90}, gone("user")),
    ("tool_choice is only allowed with tools", {"tool_choice": "auto"}, gone("tool_choice")),
    ("Unrecognized request arguments supplied: 2fast, seed", {"2fast": 1, "seed": 1}, gone("seed")),
    ("流式选项 stream_options 暂未开放", STREAMED, gone("stream_options")),
    ("metadata.user_id: String should have at most 256 characters", {"metadata": {"user_id": "u"}}, gone("metadata")),
    (
        "Unknown name \"$schema\" at 'tools[0].function_declarations[0].parameters': Cannot find field.",
        tools(SCHEMA),
        tools(PLAIN_SCHEMA),
    ),
    # messages and streams
    ("系统消息必须放在第一条", chat(HI, SYSTEM), chat(SYSTEM, HI)),
    ("该模型不支持流式输出", STREAMED, {"stream": False, **gone("stream_options")}),
    ("Only streaming requests are accepted", {}, STREAMED),
    ("messages 中 role 不合法：developer，仅支持 system、user", chat(DEVELOPER, HI), chat(SYSTEM, HI)),
    (
        "'messages.1' : for 'role:tool' ... property 'name' is unsupported",
        chat({"role": "tool", "tool_call_id": "a", "content": "x", "name": "n"}),
        chat({"role": "tool", "tool_call_id": "a", "content": "x"}),
    ),
)


@pytest.mark.parametrize(("text", "sent", "becomes"), SENTENCES, ids=[row[0] for row in SENTENCES])
def test_a_sentence_leads_to_the_body_that_is_accepted(text, sent, becomes):
    outcome = ending(Case("", openai(text), sent, becomes, ()))
    assert outcome.error is None, outcome.error
    assert outcome.calls == 2


@pytest.mark.parametrize(
    ("text", "sent", "becomes", "calls"),
    [
        ("Use 'thinking.type[0]'", THINKS, gone("thinking"), 3),
        ("verbosity and seed exclude each other", {"seed": 1, "verbosity": "low"}, gone("seed"), 3),
        ("groq does not support parameters: ['seed', 'user']", {"seed": 1, "user": "u"}, gone("seed", "user"), 4),
    ],
)
def test_what_was_tried_in_vain_is_taken_back(text, sent, becomes, calls):
    outcome = ending(Case("", openai(text), sent, becomes, ()))
    assert (outcome.error, outcome.calls) == (None, calls)


LONG = "call_" + "x" * 70
LATE = {"messages": [HI, {"role": "system", "content": "A"}]}
EMPTY = {"messages": [HI, {"role": "assistant", "content": ""}]}
PARTED = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}
CALLED = {"role": "assistant", "tool_calls": [{"id": LONG, "type": "function", "function": {"name": "f"}}]}
USED = {"role": "assistant", "content": [{"type": "tool_use", "id": "functions.f:0", "name": "f", "input": {}}]}
INPUT = {"input": [{"type": "function_call", "call_id": LONG, "status": "completed"}], "store": True}


@pytest.mark.parametrize(
    ("text", "sent", "operation", "entry"),
    [
        ("Too many inputs in request, split into more batches.", {"input": [*"abcdefgh"]}, EMBEDDINGS, "split=25%"),
        ("input数组最大不得超过64条", {"input": ["a"] * 65}, EMBEDDINGS, "split=64"),
        ("messages: text content blocks must be non-empty", EMPTY, CHAT, "content=filled"),
        ("messages[1].content[0].text:text cannot be empty.", EMPTY, CHAT, "content=filled"),
        ("The text field in the object at messages.1.content.0 is blank.", EMPTY, MESSAGES, "content=filled"),
        ("Assistant message must have either content or tool_calls, but not none.", EMPTY, CHAT, "content=filled"),
        ("the message at position 1 with role 'assistant' must not be empty", EMPTY, CHAT, "content=filled"),
        ("消息的 content 不能为空", {"messages": [{"role": "assistant", "content": None}]}, CHAT, "content=empty"),
        ("messages[0].content 类型错误，应为 string", PARTED, CHAT, "content=text"),
        ('Cannot read value of type `String` from Array value: Message["content"]', PARTED, CHAT, "content=text"),
        ("data did not match any variant of untagged enum ChatRequestContent", PARTED, CHAT, "content=text"),
        ("role 'system' is not supported on this model", LATE, MESSAGES, "roles=system"),
        ("messages[1].role: unknown variant `system`, expected `user` or `assistant`", LATE, MESSAGES, "roles=system"),
        ("messages.1.content.0.tool_use.id: no match", {"messages": [HI, USED]}, MESSAGES, "tool_ids=short"),
        ("Invalid 'messages[1].tool_calls[0].id': string too long.", chat(HI, CALLED), CHAT, "tool_ids=short"),
        ("Invalid 'input[0].call_id': string too long.", INPUT, RESPONSES, "tool_ids=short"),
        ("Unknown parameter: 'input[0].status'.", INPUT, RESPONSES, "drop=input[].status"),
        ("store=true is not supported", INPUT, RESPONSES, "drop=store"),
        ("maxOutputTokens: the range is from 1 to 8193 (exclusive)", {**chat(HI), **MANY}, CHAT, "clamp=max_tokens"),
    ],
)  # fmt: skip
def test_a_sentence_about_another_part_leads_to_its_change(text, sent, operation, entry):
    case = Case("", openai(text), sent, {}, (), operation=operation)

    class Accepting(Insisting):
        def answer(self, call: Call) -> Refusal | None:
            return None if call.adapted == (entry,) else super().answer(call)

    outcome = ask(Memory(), Accepting(case, accepts=False), case.call)
    assert (outcome.error, outcome.call.adapted, outcome.calls) == (None, (entry,), 2)


FORMS: tuple[Any, ...] = (
    {"title": "Validation errors occurred.", "status": 400, "errors": {"$.seed": ["It could not be mapped."]}},
    {
        "message": "body must NOT have additional properties",
        "details": [{"params": {"additionalProperty": "seed"}, "message": "must NOT have additional properties"}],
    },
    {"error": {"message": "Invalid", "violations": [{"propertyPath": "seed", "message": "must be null"}]}},
    {"error": {"message": "Bad", "details": [{"fieldViolations": [{"field": "seed", "description": "Not enabled"}]}]}},
    {"error": "Bad", "errors": [{"field": "seed", "defaultMessage": "must be less than or equal to 1"}]},
    {"error": {"message": "Unsupported parameter", "param": {"name": "seed"}, "code": "unsupported_parameter"}},
    {"error": {"message": "Unsupported", "param": ["body", "seed"], "code": "unsupported_parameter"}},
    {"seed": ["Unexpected field."], "model": ["Also bad."]},
    {"message": "invalid input error", "details": "Extra parameters ['seed'] are not allowed."},
    {"base_resp": {"status_code": 2013, "status_msg": "invalid params, unknown field: seed"}},
    *(
        openai(f"{before}Unknown parameter: 'seed'.")
        for before in (
            "litellm.BadRequestError: AzureException BadRequestError - ",
            "Error code: 400 - {'error': {'message': \"",
            "<400> InternalError.Algo.InvalidParameter: ",
            "[{'type': 'value_error', 'loc': ('body',), 'msg': 'Value error, ",
        )
    ),
)


@pytest.mark.parametrize("error", FORMS, ids=range(len(FORMS)))
def test_a_member_is_found_where_validators_and_relays_name_it(error):
    outcome = ending(Case("", error, {"seed": 1, "top_p": 1, "user": "u"}, gone("seed"), ()))
    assert (outcome.error, outcome.calls) == (None, 2)


DETAILS = [
    {"type": "extra_forbidden", "loc": ("body", name), "msg": "Extra inputs are not permitted", "input": 1}
    for name in ("seed", "top_p")
]
DETAIL = "{}\n  Extra inputs are not permitted [type=extra_forbidden, input_value=1, input_type=int]\n    For further"


@pytest.mark.parametrize(
    "text",
    [
        str(DETAILS),
        f"2 validation errors:\n  {DETAILS[0]}\n  {DETAILS[1]}",
        f"litellm.BadRequestError: OpenAIException - {DETAILS}",
        "2 validation errors for ChatCompletionRequest\n" + "\n".join(map(DETAIL.format, ("seed", "top_p"))),
    ],
)
def test_every_detail_of_a_text_counts(text):
    outcome = ending(Case("", openai(text), {"seed": 1, "top_p": 1, "user": "u"}, gone("seed", "top_p"), ()))
    assert (outcome.error, outcome.calls) == (None, 2)


STRICT = {"tools": [{"type": "function", "function": {"name": "f", "strict": False}}]}
FLAT = {"tools": [{"type": "function", "name": "f", "strict": True}]}


@pytest.mark.parametrize(
    ("text", "sent", "param"),
    [
        ("Unknown parameter: 'tools[0].function.strict'.", STRICT, None),
        ("Unknown parameter: 'tools[0].strict'.", FLAT, "tools[0].strict"),
        ("tools.0.strict: Extra inputs are not permitted", STRICT, "tools.0.strict"),
        ("tools.0.strict: Extra inputs are not permitted", FLAT, None),
    ],
)
def test_strict_of_a_tool_is_left_out(text, sent, param):
    plain = json.loads(json.dumps(sent).replace(', "strict": false', "").replace(', "strict": true', ""))
    outcome = ending(Case("", openai(text, param), sent, plain, ()))
    assert (outcome.error, outcome.calls) == (None, 2)


@pytest.mark.parametrize(
    ("text", "sent", "others"),
    [
        ("`temperature` and `top_p` cannot both be specified.", WARM, [{"top_p": 1}]),
        (EFFORT, {"tools": TOOLS, "reasoning_effort": "low"}, [{"reasoning_effort": "low"}, {"tools": []}]),
        ("Invalid parameter: seed", {"seed": 7}, [{"seed": 8}]),
        ('Use "thinking.type.adaptive".', THINKS, [{}]),
        ("`tools` must not be empty.", {"tools": []}, [{"tools": TOOLS}]),
        ("Validation error for `reasoning_effort`: expected one of 'low', 'high'", MAX, [{"reasoning_effort": "low"}]),
        ("'parallel_tool_calls' is only for 'tools'", {"parallel_tool_calls": True}, [{"parallel_tool_calls": False}]),
    ],
)
def test_a_change_does_not_concern_requests_that_the_error_is_not_about(text, sent, others):
    memory, first = Memory(), Case("", openai(text), sent, {}, ()).call
    refusal = Refusal(lambda body: body == json.loads(first.body), openai(text))

    class Strict:
        def answer(self, call: Call) -> Refusal | None:
            return refusal if refusal.concerns(json.loads(call.body)) else None

    assert ask(memory, Strict(), first).calls == 2
    for members in others:
        other = Case("", {}, members, {}, ()).call
        assert ask(memory, Strict(), other).call is other
