"""Other forms of the same request: the shape of a ranking, `strict` of tools, a chat without a user's message."""

import json
from typing import Any

import pytest

from gatepass.learning.learned_rule import LearningPolicy
from gatepass.learning.memory import Memory
from gatepass.learning.pointing import Refusal as Read
from gatepass.learning.rows import LearningSettings, advice, steps
from gatepass.replies.error_body import read_error_body
from tests.rows import CHAT, MESSAGES, RERANK, RESPONSES
from tests.unit.learning.rejections import openai
from tests.unit.learning.upstreams import Body, Refusal, Upstream, ask
from tests.unit.normalize.calls import a_call


def tried(error: Any, body: Body, operation: Any = CHAT) -> list[list[str]]:
    call = a_call(json.dumps(body).encode(), operation)
    refusal = Read.of(operation.members, 400, read_error_body(error, refused=True), call.body)
    assert refusal is not None
    return [[rule.entry for rule in step] for step in steps(refusal, call)]


RANKED: Body = {"model": "m", "query": "a wet city", "documents": ["Rain.", "Sun."]}
LENGTHS = (
    "This model's maximum context length is 2048 tokens. Your request has 9000 input tokens in its documents.",
    "The texts are too long: 9000 tokens, 512 allowed.",
    "documents[3] exceeds the limit of this model",
    "Each of the documents must have at most 4096 characters.",
    "too many documents: 2000 > 1000",
    "documents 超过长度限制",
    "第 3 个 documents 文本过长",
    "The documents are bigger than the model accepts",
    "number of documents must be less than 100",
    "documents 个数上限为 64",
    "max 64 documents",
)


@pytest.mark.parametrize("text", LENGTHS)
def test_a_refusal_about_a_length_is_no_reason_for_another_shape(text: str):
    assert tried(openai(text), RANKED, RERANK) == []


@pytest.mark.parametrize("text", ["missing field `texts` at line 1", "documents: Extra inputs are not permitted"])
def test_a_refusal_about_the_shape_leads_to_the_other_one(text: str):
    assert tried(openai(text), RANKED, RERANK) == [["rerank=tei"]]


def missing(name: str) -> Any:
    detail = {"type": "missing", "loc": f"body.{name}", "msg": "Field required", "input": "<dict of 3 items>"}
    return openai(f"1 validation error:\n  {detail}", f"body.{name}", code=400)


def test_after_a_shape_that_failed_none_is_tried_for_a_minute():
    """vLLM refuses documents that are objects with `text`."""
    detail = {"type": "string_type", "loc": "body.documents.str", "msg": "Input should be a valid string"}
    objects = openai(f"1 validation error:\n  {detail}", "body.documents.str", code=400)
    upstream = Upstream(
        [
            Refusal(lambda body: "documents" not in body, missing("documents")),
            Refusal(lambda body: isinstance(body["documents"][0], dict), objects),
            Refusal(lambda body: len(body["documents"][0]) > 100, openai(LENGTHS[0])),
            Refusal(lambda body: body.get("top_n") == 0, openai("documents: this top_n is not allowed")),
        ]
    )
    memory, call = Memory(), lambda **more: a_call(json.dumps({**RANKED, **more}).encode(), RERANK)
    first = ask(memory, upstream, call(documents=[{"text": "Rain."}]))
    assert (first.calls, "documents.str" in (first.message or ""), first.learning.tried) == (2, True, ("rerank=tei",))
    for more, at_s, calls in (
        ({"documents": ["rain " * 99]}, 1, 1),
        ({"documents": [{"text": "Sun."}]}, 2, 1),
        ({"top_n": 0}, 3, 1),
        ({}, 4, 1),
        ({"top_n": 0}, 90, 2),
    ):
        assert ask(memory, upstream, call(**more), at_s).calls == calls


@pytest.mark.parametrize("text", ["texts[0] is too long", "texts[0] has more than 100 words", "a long text"])
def test_a_length_does_not_undo_a_shape_that_was_learned(text: str):
    long = Refusal(lambda body: len(body["texts"][0]) > 100, openai(text), 422)
    upstream, memory = Upstream([Refusal(lambda body: "texts" not in body, missing("texts")), long]), Memory()
    for documents, calls in ((["Rain."], 2), (["Sun."], 1), (["rain " * 99], 1), (["Snow."], 1)):
        call = a_call(json.dumps({**RANKED, "documents": documents}).encode(), RERANK)
        assert ask(memory, upstream, call).calls == calls


def with_strict(*, flat: bool = False) -> Body:
    function = {"name": "f", "strict": True, "parameters": {"type": "object", "additionalProperties": False}}
    tool = {"type": "function", **function} if flat else {"type": "function", "function": function}
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "tools": [tool]}


STRICT, SCHEMA = "tools[].function.strict", "schema=additionalProperties"
OF_CONTEXT = "In context=('properties', 'a'), 'additionalProperties' is required to be supplied and to be false."


@pytest.mark.parametrize(
    ("error", "first"),
    [
        (openai(f"Invalid schema for function 'f': {OF_CONTEXT}"), f"drop={STRICT}"),
        (openai(OF_CONTEXT), f"drop={STRICT}"),
        (openai("Bad schema", "tools[0].function.parameters.additionalProperties"), SCHEMA),
        (openai("tools.0.custom.input_schema: 'additionalProperties' must be explicitly false"), f"drop={STRICT}"),
        (openai("工具 f 的 schema 缺少 `additionalProperties`"), f"drop={STRICT}"),
        (openai("Unknown name \"additionalProperties\" at 'tools[0].parameters': Cannot find field."), SCHEMA),
    ],
)
def test_strict_is_left_out_where_an_error_names_additional_properties(error: Any, first: str):
    steps = tried(error, with_strict())
    assert steps[0] == [first]
    assert [f"drop={STRICT}"] in steps


def test_strict_beside_the_name_of_a_tool_is_left_out_too():
    assert tried(openai(OF_CONTEXT), with_strict(flat=True))[0] == ["drop=tools[].strict"]


def test_the_schema_of_an_answer_does_not_concern_strict_of_tools():
    body = {**with_strict(), "response_format": {"type": "json_schema", "json_schema": {"name": "r"}}}
    found = tried(openai(f"Invalid schema for response_format 'r': {OF_CONTEXT}"), body)
    assert [f"drop={STRICT}"] not in found


CALLED: Body = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
COMPACTED = [{"role": "system", "content": "Be brief."}, CALLED, {"role": "tool", "tool_call_id": "a", "content": "x"}]
SAYS = "No user query found in messages."


@pytest.mark.parametrize(
    "error",
    [
        {"error": f'Error rendering prompt with jinja template: "{SAYS}".\n\nThis is usually an issue with the model.'},
        openai(f"Failed to apply the chat template: '{SAYS}'"),
        openai(SAYS),
        openai("At least one user message is required."),
        openai("No user prompt found in the conversation"),
        openai("a question of the user is needed"),
        openai("Conversation roles must alternate user/assistant/user/assistant/..."),
        openai("the first turn must be that of the user"),
        openai("请求中缺少用户消息"),
    ],
)
def test_the_last_instructions_of_a_chat_without_a_user_become_the_users_message(error: Any):
    body = {"model": "m", "messages": COMPACTED}
    has_user = Refusal(lambda body: all(one["role"] != "user" for one in body["messages"]), error)
    outcome = ask(Memory(), Upstream([has_user]), a_call(json.dumps(body).encode(), CHAT))
    assert (outcome.error, outcome.call.adapted, outcome.calls) == (None, ("roles=user",), 2)
    assert ["roles=user"] not in tried(error, {**body, "messages": [{"role": "user", "content": "Hi"}, *COMPACTED]})


def history(arguments: Any, text: str = "ok") -> Body:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    return {"model": "m", "messages": [*said, {"role": "tool", "tool_call_id": "a", "content": text}]}


def in_vllm() -> Any:
    """vLLM 0.32 loses the place of a call."""
    param = "body.0.ChatCompletionMessageFunctionToolCallParam.function"
    detail = {
        "type": "string_type",
        "loc": param,
        "msg": "Input should be a valid string",
        "input": "<dict of 1 items>",
    }
    return openai(f"1 validation error:\n  {detail}", param, code=400)


OF_ARGUMENTS = (
    in_vllm(),
    openai("Invalid type for 'messages[1].tool_calls[0].function.arguments': expected a string, but got an object."),
    openai("messages[1]: invalid type: map, expected a string at line 1 column 150"),
    openai("json: cannot unmarshal object into Go struct field .messages.tool_calls.function.arguments of type string"),
    openai("messages.1.tool_calls.0.function.arguments 必须是字符串"),
    {"detail": [{"type": "string_type", "loc": ["body", "messages", 1, "tool_calls", 0], "msg": "not a valid string"}]},
)


@pytest.mark.parametrize("error", OF_ARGUMENTS, ids=range(len(OF_ARGUMENTS)))
def test_arguments_that_are_an_object_become_a_text(error: Any):
    def is_object(body: Body) -> bool:
        return isinstance(body["messages"][1]["tool_calls"][0]["function"]["arguments"], dict)

    call = a_call(json.dumps(history({"city": "Zürich", "days": [1, 2]})).encode(), CHAT)
    outcome = ask(Memory(), Upstream([Refusal(is_object, error)]), call)
    assert outcome.error is None
    assert outcome.call.adapted[-1:] == ("arguments=text",)
    sent = json.loads(outcome.call.body)["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(sent) == {"city": "Zürich", "days": [1, 2]}
    assert "arguments=text" not in [one for step in tried(error, history('{"a": 1}')) for one in step]


USED = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": "ok"}
ITEMS = [
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "ok"},
]
MADE_OF: tuple[tuple[Any, Body, tuple[str, ...]], ...] = (
    (CHAT, history("{}"), ("messages[2].tool_call_id", "messages[2].content")),
    (CHAT, history("{}"), tuple(f"messages[1].tool_calls[0].{one}" for one in ("id", "function.name"))),
    (CHAT, history("{}"), ("messages[1].tool_calls[0].function.arguments",)),
    (MESSAGES, {"messages": [{"role": "assistant", "content": [USED]}]}, ("messages.0.content.0.id",)),
    (MESSAGES, {"messages": [{"role": "user", "content": [RESULT]}]}, ("messages.0.content.0.tool_use_id",)),
    (RESPONSES, {"input": ITEMS}, ("input[0].call_id", "input[0].name", "input[0].arguments", "input[1].output")),
)


@pytest.mark.parametrize(
    ("operation", "body", "path"), [(operation, body, path) for operation, body, paths in MADE_OF for path in paths]
)
def test_no_error_advises_to_drop_what_a_call_or_its_result_is_made_of(operation: Any, body: Body, path: str):
    call = a_call(json.dumps(body).encode(), operation)
    error = openai(f"{path} is not supported", path)
    refusal = Read.of(operation.members, 400, read_error_body(error, refused=True), call.body)
    assert refusal is not None
    assert advice(refusal, call, LearningSettings("u", LearningPolicy()), steps(refusal, call)) == ""
