"""Sixty ways to say that one member is refused. `{m}` is its name, `{p}` its place as the upstream writes it."""

from typing import Any


def openai(message: str, **more: Any) -> Any:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **more}}


def of_param(message: str, code: str | None = None) -> Any:
    return openai(message, param="{p}", code=code)


def detail(msg: str, kind: str, *loc: str) -> Any:
    return {"detail": [{"type": kind, "loc": ["body", *(loc or ("{p}",))], "msg": msg}]}


def anthropic(message: str) -> Any:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


def vllm(message: str) -> Any:
    return {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}


def google(message: str) -> Any:
    return {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}


def flat(message: str, code: Any = 400) -> Any:
    return {"code": code, "message": message}


WORDINGS: tuple[Any, ...] = (
    # OpenAI
    of_param("Unsupported parameter: '{p}' is not supported with this model.", "unsupported_parameter"),
    of_param("Unknown parameter: '{p}'.", "unknown_parameter"),
    openai("Unsupported parameter: '{p}' is not supported with this model."),
    openai("'{p}' is not supported with this model."),
    of_param("This option cannot be used with this model."),
    openai("Unrecognized request argument supplied: {m}"),
    of_param("Unsupported value: '{p}' does not support this with this model.", "unsupported_value"),
    # Azure
    openai("The parameter `{p}` is not supported by this deployment.", code="BadRequest"),
    {"error": {"code": "400", "message": "{m} is not available for this API version."}},
    {"error": {"code": "UnsupportedParameter", "message": "Parameter '{p}' isn't supported in this region."}},
    {"error": {"message": "Argument not supported on this model: {m}", "innererror": {"code": "InvalidArgument"}}},
    # Anthropic
    anthropic("{p}: Extra inputs are not permitted"),
    anthropic("`{p}` is deprecated for this model."),
    anthropic("{m} is no longer supported on this model. Please remove it."),
    anthropic("The model returned the following errors: `{p}` is not allowed here."),
    # Bedrock
    {"message": "Malformed input request: extraneous key [{m}] is not permitted, please reformat it."},
    {"message": "The model returned the following errors: {p}: Extra inputs are not permitted"},
    {"message": "ValidationException: This model doesn't support the {m} field. Remove {m} and try again."},
    {"Message": "", "message": "operation error Converse, ValidationException: {m} is disabled for this model"},
    # Vertex AI
    [google("{m} is not enabled for models/gemini-9")],
    [google('Invalid JSON payload received. Unknown name "{m}": Cannot find field.')],
    google("Unable to submit request because {m} isn't supported by this model."),
    # vLLM
    vllm("{m} is not currently supported"),
    vllm("[{{'type': 'extra_forbidden', 'loc': ('body', '{m}'), 'msg': 'Extra inputs are not permitted'}}]"),
    vllm("1 validation error for ChatCompletionRequest\n{m}\n  Extra inputs are not permitted [type=extra_forbidden]"),
    openai("got an unexpected keyword argument '{m}'", code=400),
    # SGLang
    vllm("The {m} option is disabled on this server."),
    vllm("ChatCompletionRequest.__init__() got an unexpected keyword argument '{m}'"),
    # llama.cpp
    {"error": {"code": 400, "message": "Unsupported param: {m}", "type": "invalid_request_error"}},
    {"error": {"code": 400, "message": "this server does not support {m}", "type": "not_supported_error"}},
    # LiteLLM
    openai("litellm.UnsupportedParamsError: groq does not support parameters: ['{m}'], for model=m. Received Model"),
    openai("litellm.BadRequestError: OpenAIException - {m} is not supported.. Received Model Group=m\nFallbacks=None"),
    openai('litellm.BadRequestError: {{"error": {{"message": "unknown field `{m}`"}}}}. Received Model Group=m'),
    openai("{{'error': {{'message': \"Invalid request: {m} is unsupported\", 'code': 'x'}}}}"),
    # new-api
    openai("{m} is not supported (request id: 202611280101)", type="new_api_error"),
    openai('bad response: json: unknown field "{m}" (request id: 1)', type="upstream_error", code="bad_response"),
    openai("参数 {m} 不被支持 (request id: 2)", type="new_api_error"),
    openai("上游错误：不支持的参数: {m}", type="upstream_error"),
    # DashScope
    openai("<400> InternalError.Algo.InvalidParameter: {m} is not supported.", code="invalid_parameter_error"),
    {"code": "InvalidParameter", "message": "parameter {m} not supported", "request_id": "r"},
    {"code": "InvalidParameter", "message": "该模型不支持 {m} 参数", "request_id": "r"},
    # Chinese gateways
    flat("不支持参数{m}"),
    flat("参数`{m}`已弃用，请移除后重试。", 20015),
    flat("当前模型暂不支持{m}"),
    flat("未知参数：{m}", "1210"),
    {"code": 400, "msg": "无法识别的字段 “{m}”", "data": None},
    {"error": {"message": "模型服务调用失败", "cause": '{{"error": {{"message": "`{m}` 不允许使用"}}}}'}},
    # FastAPI and pydantic
    detail("Extra inputs are not permitted", "extra_forbidden"),
    detail("extra fields not permitted", "value_error.extra"),
    {"detail": "Additional properties are not allowed ('{m}' was unexpected)"},
    {"detail": "Unexpected field {m}"},
    {"detail": {"error": {"reason": "{m} is prohibited for you"}}},
    {"title": "Unprocessable", "detail": "body -> {m}\n  Extra inputs are not permitted (type=value_error.extra)"},
    # others
    openai("property '{m}' is unsupported"),
    {"error": [{"code": "unrecognized_keys", "keys": ["{m}"], "path": [], "message": "Unrecognized"}]},
    {"message": "Validation: Unsupported parameter(s): `{m}`", "code": 400},
    {"error_code": "BAD_REQUEST", "message": 'Bad request: json: unknown field "{m}"\n'},
    {"success": False, "errors": [{"code": 5006, "message": "'/{m}' must not be sent to this model"}]},
    {"error": "invalid request: {m} cannot be set for this model"},
    openai("This model does not support {m}."),
)
OTHER_WORDINGS: tuple[Any, ...] = tuple(
    openai(text)
    for text in (
        "This deployment ignores sampling controls; please omit {m}.",
        "{m} is meaningless for this model, remove it from your request",
        "Object literal may only specify known properties, and {m} is none of them",
        "该接口尚未支持 {m} 字段",
        "参数校验失败: {m} 不在允许的参数列表内",
    )
)


def filled(wording: Any, member: str, place: str) -> Any:
    """Return the error about `member`, which is at `place` in the request."""
    if isinstance(wording, str):
        return wording.format(m=member, p=place)
    if isinstance(wording, list):
        return [filled(one, member, place) for one in wording]
    if isinstance(wording, dict):
        return {name: filled(one, member, place) for name, one in wording.items()}
    return wording
