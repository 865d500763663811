"""Thirty-five refusals that no safe change of the request repairs, and two requests to run each of them with.

Each refusal has a second error, which also mentions by chance a member that both requests could do without.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """An upstream that always answers with `status`; `shape` puts a message into the upstream's error body."""

    name: str
    kind: str
    status: int
    shape: Callable[[str], Any]
    message: str
    by_chance: str

    @property
    def error(self) -> Any:
        return self.shape(self.message)

    @property
    def error_by_chance(self) -> Any:
        return self.shape(self.by_chance)

    def refuse(self, body: dict[str, Any]) -> tuple[int, Any]:
        return self.status, self.error

    def refuse_by_chance(self, body: dict[str, Any]) -> tuple[int, Any]:
        return self.status, self.error_by_chance


def openai(
    param: str | None = None, code: Any = None, kind: str | None = "invalid_request_error"
) -> Callable[[str], Any]:
    return lambda message: {"error": {"message": message, "type": kind, "param": param, "code": code}}


def anthropic(message: str) -> Any:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


def plain(message: str) -> Any:
    return {"error": message}


def flat(message: str) -> Any:
    return {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}


def coded(code: Any) -> Callable[[str], Any]:
    return lambda message: {"code": code, "message": message, "request_id": "5b1f-77"}


def ark(code: str, param: str = "") -> Callable[[str], Any]:
    return lambda message: {"error": {"code": code, "message": message, "param": param, "type": "BadRequest"}}


def fastapi(message: str) -> Any:
    return {"detail": message}


def missing(*loc: Any) -> Callable[[str], Any]:
    return lambda message: {"detail": [{"type": "missing", "loc": ["body", *loc], "msg": message}]}


def problem(message: str) -> Any:
    return {"type": "about:blank", "title": "Bad Request", "status": 400, "detail": message}


def bedrock(message: str) -> Any:
    return {"__type": "ValidationException", "message": message}


def azure_filter(message: str) -> Any:
    result = {"hate": {"filtered": True, "severity": "high"}, "violence": {"filtered": False, "severity": "safe"}}
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": result}
    return {
        "error": {
            "message": message,
            "type": None,
            "param": "prompt",
            "code": "content_filter",
            "status": 400,
            "innererror": inner,
        }
    }


def zhipu_filter(message: str) -> Any:
    return {"contentFilter": [{"level": 1, "role": "user"}], "error": {"code": "1301", "message": message}}


def llama_cpp(message: str) -> Any:
    kind = "exceed_context_size_error"
    return {"error": {"code": 400, "message": message, "type": kind, "n_prompt_tokens": 9412, "n_ctx": 8192}}


def wrapped(message: str) -> Any:
    raw = json.dumps({"error": {"message": message, "type": "invalid_request_error"}})
    return {"error": {"message": f"litellm.BadRequestError: HillException - {raw}", "type": None, "code": "400"}}


REFUSALS = (
    Refusal(
        "context_openai",
        "context",
        400,
        openai("messages", "context_length_exceeded"),
        "This model's context holds 128000 tokens. Your messages have 131210. Please shorten them.",
        "This model's context holds 128000 tokens. Yours have 131210, whatever temperature or store you set.",
    ),
    Refusal(
        "context_vllm",
        "context",
        400,
        flat,
        "The maximum context length is 8192 tokens, but 9120 are in the messages alone.",
        "The maximum context length is 8192 tokens, but 9120 are in the messages (max_tokens, metadata apart).",
    ),
    Refusal(
        "context_dashscope",
        "context",
        400,
        openai(code="invalid_parameter_error"),
        "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]",
        "<400> InternalError.Algo.InvalidParameter: Input length should be [1, 129024]; temperature, store: any",
    ),
    Refusal(
        "context_llama_cpp",
        "context",
        400,
        llama_cpp,
        "the request exceeds the available context size, try increasing it",
        "the request exceeds the available context size; neither top_p nor reasoning_effort changes that",
    ),
    Refusal(
        "model_openai",
        "model",
        404,
        openai(code="model_not_found"),
        "The model `corp-chat` does not exist or you do not have access to it.",
        "The model `corp-chat` does not exist for this user, or the metadata of your project is stale.",
    ),
    Refusal(
        "model_azure",
        "model",
        404,
        lambda message: {"error": {"code": "DeploymentNotFound", "message": message}},
        "There is no deployment of this name for the resource. If it is new, wait five minutes.",
        "There is no deployment of this name in the store of user deployments. If it is new, wait five minutes.",
    ),
    Refusal(
        "model_ark",
        "model",
        400,
        ark("InvalidEndpointOrModel.NotFound", "model"),
        "The model or endpoint corp-chat is unknown to your account. Request id: 0217f3",
        "The model or endpoint corp-chat is unknown to user 2100. Look it up in the model store. Request id: 0217f3",
    ),
    Refusal(
        "model_plain",
        "model",
        400,
        plain,
        "corp-chat is not loaded, pull it first",
        "corp-chat is not loaded, pull it from the store first (user: ollama)",
    ),
    Refusal(
        "filter_azure",
        "filter",
        400,
        azure_filter,
        "The prompt triggered the content management policy. Please change it and try again.",
        "The prompt triggered the content management policy. Please mind the temperature of the words you store in it.",
    ),
    Refusal(
        "filter_dashscope",
        "filter",
        400,
        coded("DataInspectionFailed"),
        "输入内容可能包含不当信息，请修改后重试。",
        "输入内容可能包含不当信息，与 temperature、store 等参数无关，请修改后重试。",
    ),
    Refusal(
        "filter_zhipu",
        "filter",
        400,
        zhipu_filter,
        "系统检测到输入或生成内容可能包含不安全或敏感内容，请您避免输入易产生敏感内容的提示语。",
        "系统检测到敏感内容（user 输入，metadata 已记录），请您避免输入易产生敏感内容的提示语。",
    ),
    Refusal(
        "filter_review",
        "filter",
        400,
        openai(code="content_review"),
        "内容未通过审核，请求已被拦截。",
        "内容未通过审核，请求已被拦截（user=已登记，store=审核库）。",
    ),
    Refusal(
        "filter_violation",
        "filter",
        422,
        coded(50013),
        "请求文本违规，请检查后再提交。",
        "请求文本违规，请检查后再提交。stream 连接已关闭，metadata 已留存。",
    ),
    Refusal(
        "filter_usage_policy",
        "filter",
        400,
        openai(code="invalid_prompt"),
        "Your prompt was flagged as a possible breach of our usage policy. Please try a different one.",
        "Your prompt was flagged as a possible breach of our usage policy. We store it with the user for 30 days.",
    ),
    Refusal(
        "json_openai",
        "json",
        400,
        openai(),
        "We could not parse the JSON body of your request. The API needs a JSON payload.",
        "We could not parse the JSON body of your request near 'temperature' or 'store'. The API needs a JSON payload.",
    ),
    Refusal(
        "json_go",
        "json",
        400,
        plain,
        "invalid character '}' looking for beginning of object key string",
        "invalid character '}' looking for beginning of object key string after top-level user, metadata",
    ),
    Refusal(
        "quota_openai",
        "credit",
        429,
        openai(code="insufficient_quota", kind="insufficient_quota"),
        "You used up your current quota. Please check your plan and billing details.",
        "You used up your current quota (user tier 1, store credit 0). Please check your plan and billing details.",
    ),
    Refusal(
        "balance_deepseek",
        "credit",
        402,
        openai(code="invalid_request_error", kind="unknown_error"),
        "Insufficient Balance",
        "Insufficient Balance for this user, see metadata",
    ),
    Refusal(
        "arrears_dashscope",
        "credit",
        400,
        coded("Arrearage"),
        "Access denied, please make sure your account is in good standing.",
        "Access denied, please make sure your account is in good standing: user blocked, store closed.",
    ),
    Refusal(
        "arrears_ark",
        "credit",
        403,
        ark("AccountOverdueError"),
        "您的账户已欠费，请充值后重试。",
        "您的账户已欠费（user 2100，service store），请充值后重试。",
    ),
    Refusal(
        "region",
        "region",
        403,
        openai(code="unsupported_country_region_territory", kind="request_forbidden"),
        "Country, region, or territory not supported",
        "Country, region, or territory not supported for this user and store",
    ),
    Refusal(
        "missing_messages",
        "missing",
        422,
        missing("messages"),
        "Field required",
        "Field required, next to temperature and metadata",
    ),
    Refusal(
        "missing_model",
        "missing",
        400,
        openai(),
        "you must provide a model parameter",
        "you must provide a model parameter, a user or a store is not enough",
    ),
    Refusal(
        "missing_tool_name",
        "missing",
        400,
        openai("tools[0].function.name", "missing_required_parameter"),
        "Missing required parameter: 'tools[0].function.name'.",
        "Missing required parameter: 'tools[0].function.name'. A user or metadata does not replace it.",
    ),
    Refusal(
        "tool_name_pattern",
        "tool_name",
        400,
        openai("tools[0].function.name", "invalid_value"),
        "Invalid 'tools[0].function.name': the text does not match '^[a-zA-Z0-9_-]+$'.",
        "Invalid 'tools[0].function.name': the text does not match '^[a-zA-Z0-9_-]+$', as user and metadata keys do.",
    ),
    Refusal(
        "tool_schema_openai",
        "tool_schema",
        400,
        openai("tools[1].function.parameters", "invalid_function_parameters"),
        "Invalid schema for function 'read_file': array schema missing items.",
        "Invalid schema for function 'read_file': array schema missing items, in a store that keeps temperature.",
    ),
    Refusal(
        "tool_schema_gemini",
        "tool_schema",
        400,
        lambda message: [{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}],
        "tools[0].function_declarations[1].parameters.properties[path].any_of: only allowed alone",
        "tools[0].function_declarations[1].parameters.properties[user].any_of: only allowed alone, see metadata",
    ),
    Refusal(
        "picture_unreadable",
        "picture",
        400,
        openai(code="invalid_image_format"),
        "You uploaded a picture that we cannot read. PNG, JPEG, GIF and WEBP are fine.",
        "The user uploaded a picture that we cannot read or store. PNG, JPEG, GIF and WEBP are fine.",
    ),
    Refusal(
        "picture_unreachable",
        "picture",
        400,
        wrapped,
        "Error while downloading https://hill.example/sign.png: connection refused.",
        "Error while downloading https://hill.example/user/store/sign.png: connection refused, no stream opened.",
    ),
    Refusal(
        "tool_call_without_result",
        "tool_result",
        400,
        openai("messages.[3].role"),
        "The tool calls of an assistant message must be followed by tool messages. Without one: call_a1",
        "The tool calls of an assistant message need tool messages behind them, not the user. Keep them in your store.",
    ),
    Refusal(
        "tool_result_without_call",
        "tool_result",
        400,
        anthropic,
        "messages.4.content.0: unexpected `tool_use_id`: call_b2. The message before has no such `tool_use` block.",
        "messages.4.content.0: unexpected `tool_use_id`: call_b2. Is it from another user, or another store?",
    ),
    Refusal(
        "roles_alternate",
        "roles",
        400,
        bedrock,
        "A conversation must alternate between its two sides. Start again with one question.",
        "A conversation must alternate between user and assistant. Please restore one, our store has none.",
    ),
    Refusal(
        "passed_back",
        "passed_back",
        400,
        openai(code="invalid_request_error"),
        "The `reasoning_content` in the thinking mode must be passed back to the API.",
        "The `reasoning_content` in the thinking mode must be passed back, whatever user or reasoning_effort.",
    ),
    Refusal(
        "temperature_of_discussion",
        "by_chance",
        400,
        fastapi,
        "At this temperature of discussion our moderators close the store.",
        "At this temperature of discussion our moderators close the store and send the user home.",
    ),
    Refusal(
        "seed_your_account",
        "by_chance",
        400,
        problem,
        "Seed your account first: no store of credit is attached.",
        "Seed your account first: no store of credit is attached to user 8812, so the stream stays shut.",
    ),
)

PLAIN = {
    "model": "corp-chat",
    "messages": [
        {
            "role": "system",
            "content": "You are an assistant. Answer from the knowledge base.\n\nKnowledge base:\n"
            "[ID:0] Travel costs are approved by the head of the department.\n[ID:1] Keep the receipts for six years.",
        },
        {"role": "assistant", "content": "Hi! How can I help?"},
        {"role": "user", "content": "Who approves travel costs, and how long do I keep receipts?"},
    ],
    "temperature": 0.1,
    "top_p": 0.3,
    "max_tokens": 512,
    "seed": 42,
    "stream": True,
    "user": "u-8812",
}


def function(name: str, description: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def call(call_id: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


AGENT = {
    "model": "corp-chat",
    "messages": [
        {
            "role": "system",
            "content": [
                {"type": "text", "text": "You are a coding agent. Work in small steps."},
                {"type": "text", "text": "The working directory is /repo. The shell is bash."},
            ],
        },
        {"role": "user", "content": [{"type": "text", "text": "The tests of the parser fail. Find out why."}]},
        {
            "role": "assistant",
            "content": "I run the tests first.",
            "tool_calls": [call("call_a1", "run_shell", command="pytest -q tests/test_parser.py")],
        },
        {
            "role": "tool",
            "tool_call_id": "call_a1",
            "content": "1 failed, 12 passed: test_parser.py:31 KeyError: 'end'",
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                call("call_b2", "read_file", path="src/parser.py"),
                call("call_b3", "read_file", path="tests/test_parser.py"),
            ],
        },
        {"role": "tool", "tool_call_id": "call_b2", "content": "def parse(text):\n    return TABLE[text]['end']\n"},
        {"role": "tool", "tool_call_id": "call_b3", "content": "def test_empty():\n    assert parse('') == 0\n"},
        {"role": "user", "content": [{"type": "text", "text": "Go on, and keep the fix small."}]},
    ],
    "tools": [
        function("run_shell", "Run a command", command={"type": "string"}),
        function("read_file", "Read a file", path={"type": "string"}),
        function("edit_file", "Replace text in a file", path={"type": "string"}, old={"type": "string"}),
        {
            "type": "custom",
            "custom": {"name": "apply_patch", "description": "Apply a patch", "format": {"type": "text"}},
        },
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "stream": True,
    "stream_options": {"include_usage": True},
    "reasoning_effort": "medium",
    "metadata": {"agent": "coder", "turn": "4"},
    "store": False,
    "prompt_cache_key": "repo-7f3a",
    "max_completion_tokens": 8192,
}
