"""Forty errors about one request's odd value, odd type or odd path.

Another caller's ordinary request with the same member is accepted, so nothing may be learned about the member as such.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Refuse = Callable[[dict[str, Any]], tuple[int, Any] | None]


@dataclass(frozen=True)
class Row:
    """`refuse` refuses `request_a` for its value, and accepts `request_b`, which another caller sends."""

    name: str
    request_a: dict[str, Any]
    request_b: dict[str, Any]
    refuse: Refuse


class RefuseOnce:
    """An upstream that refuses its first call and accepts all later ones. It has state: use a deep copy."""

    def __init__(self, status: int, error: Any) -> None:
        self._error = (status, error)
        self._has_refused = False

    def __call__(self, body: dict[str, Any]) -> tuple[int, Any] | None:
        if self._has_refused:
            return None
        self._has_refused = True
        return self._error


def chat(**members: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "Answer from the handbook."},
        {"role": "user", "content": "Who approves travel costs?"},
    ]
    return {"model": "corp-chat", "messages": messages, **members}


def picture(url: str) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": "What does this sign say?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return {**chat(), "messages": [{"role": "system", "content": "Read signs."}, {"role": "user", "content": parts}]}


def tool(name: str, **schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **schema}}}


def openai(
    message: str, param: str | None = None, code: Any = None, kind: str | None = "invalid_request_error"
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def pydantic(kind: str, loc: list[Any], text: str, value: Any) -> dict[str, Any]:
    return {"detail": [{"type": kind, "loc": ["body", *loc], "msg": text, "input": value}]}


def row(
    name: str,
    bad: dict[str, Any],
    good: dict[str, Any],
    is_bad: Callable[[dict[str, Any]], bool],
    error: Any,
    status: int = 400,
    **both: Any,
) -> Row:
    """Return a row of two chats that differ in one member; `both` is in both of them."""
    return of_bodies(name, chat(**both, **bad), chat(**both, **good), is_bad, error, status)


def of_bodies(
    name: str,
    bad: dict[str, Any],
    good: dict[str, Any],
    is_bad: Callable[[dict[str, Any]], bool],
    error: Any,
    status: int = 400,
) -> Row:
    return Row(name, bad, good, lambda body: (status, error) if is_bad(body) else None)


def above(member: str, bound: float) -> Callable[[dict[str, Any]], bool]:
    return lambda body: member in body and body[member] > bound


def below(member: str, bound: float) -> Callable[[dict[str, Any]], bool]:
    return lambda body: member in body and body[member] < bound


def is_not(member: str, *types: type) -> Callable[[dict[str, Any]], bool]:
    return lambda body: member in body and type(body[member]) not in types


def is_none_of(member: str, *values: Any) -> Callable[[dict[str, Any]], bool]:
    return lambda body: member in body and body[member] not in values


def is_longer(member: str, bound: int) -> Callable[[dict[str, Any]], bool]:
    return lambda body: member in body and len(body[member]) > bound


def has_a_number_in_metadata(body: dict[str, Any]) -> bool:
    return any(not isinstance(one, str) for one in body.get("metadata", {}).values())


def has_unknown_token(body: dict[str, Any]) -> bool:
    return any(int(one) > 150000 for one in body.get("logit_bias", {}))


def has_heavy_bias(body: dict[str, Any]) -> bool:
    return any(abs(one) > 100 for one in body.get("logit_bias", {}).values())


def streams_twice(body: dict[str, Any]) -> bool:
    return bool(body.get("stream")) and body.get("n", 1) > 1


def has_ftp_picture(body: dict[str, Any]) -> bool:
    parts = (one for message in body["messages"] if isinstance(message["content"], list) for one in message["content"])
    return any(one["type"] == "image_url" and one["image_url"]["url"].startswith("ftp:") for one in parts)


def has_a_list_as_properties(body: dict[str, Any]) -> bool:
    return any(isinstance(one["function"]["parameters"].get("properties"), list) for one in body.get("tools", ()))


BEDROCK = (
    "1 validation error detected: Value '7' at 'inferenceConfig.temperature' failed to satisfy constraint: "
    "Member must have value less than or equal to 1"
)
JACKSON = (
    'Cannot deserialize value of type `java.lang.Boolean` from String "no": only "true" or "false" recognized '
    '(through reference chain: ai.hill.gateway.ChatRequest["parallel_tool_calls"])'
)
PROBLEM = {
    "type": "https://errors.hill.example/value",
    "title": "A value was not understood",
    "status": 422,
    "detail": "The value does not match its schema.",
    "errors": [{"pointer": "#/prompt_cache_key", "detail": "longer than 64 characters"}],
}
ZOD = {
    "success": False,
    "error": [
        {
            "code": "invalid_type",
            "expected": "number",
            "received": "string",
            "path": ["frequency_penalty"],
            "message": "Expected number, received string",
        }
    ],
}
ULTRA = (
    "Unsupported value: 'ultra' is not supported with this model. Supported values are: 'low', 'medium', and 'high'."
)
WARM, COOL = {"temperature": 7}, {"temperature": 0.7}

ROWS = (
    row("temperature_not_valid", WARM, COOL, above("temperature", 2), openai("temperature is not valid")),
    row(
        "temperature_range",
        WARM,
        COOL,
        above("temperature", 2),
        openai("temperature must be between 0 and 2", "temperature", "decimal_above_max_value"),
    ),
    row("temperature_bad", WARM, COOL, above("temperature", 2), {"error": "bad temperature"}),
    row(
        "temperature_like_the_member",
        WARM,
        COOL,
        above("temperature", 2),
        openai("temperature is not supported", "temperature", "unsupported_value"),
    ),
    row(
        "temperature_text",
        {"temperature": "warm"},
        {"temperature": 0},
        is_not("temperature", int, float),
        pydantic("float_parsing", ["temperature"], "Input should be a valid number", "warm"),
        422,
    ),
    row(
        "temperature_chinese",
        {"temperature": 0},
        {"temperature": 0.5},
        lambda body: body.get("temperature") == 0,
        {"error": {"code": "1214", "message": "temperature参数非法"}},
    ),
    row("temperature_bedrock", WARM, {"temperature": 1}, above("temperature", 1), {"message": BEDROCK}),
    row(
        "top_p_negative",
        {"top_p": -1},
        {"top_p": 0.9},
        below("top_p", 0),
        {"object": "error", "message": "top_p must be in (0, 1], got -1.", "type": "BadRequestError", "code": 400},
    ),
    row(
        "top_p_of_one",
        {"top_p": 1.0},
        {"top_p": 0.9},
        above("top_p", 0.999),
        {"error": "Input validation error: `top_p` must be > 0.0 and < 1.0", "error_type": "validation"},
        422,
    ),
    row(
        "store_text",
        {"store": "x"},
        {"store": False},
        is_not("store", bool),
        {"error": "json: cannot unmarshal string into Go struct field ChatRequest.store of type bool"},
    ),
    row(
        "max_tokens_text",
        {"max_tokens": "abc"},
        {"max_tokens": 100},
        is_not("max_tokens", int),
        pydantic("int_parsing", ["max_tokens"], "Input should be a valid integer", "abc"),
        422,
    ),
    row(
        "seed_fraction",
        {"seed": 1.5},
        {"seed": 3},
        is_not("seed", int),
        openai("[{'type': 'int_from_float', 'loc': ('body', 'seed'), 'msg': 'No fractions', 'input': 1.5}]", code=400),
    ),
    row(
        "seed_negative",
        {"seed": -1},
        {"seed": 3},
        below("seed", 0),
        openai(
            "<400> InternalError.Algo.InvalidParameter: Range of seed should be [0, 2147483647]", code="invalid_value"
        ),
    ),
    row(
        "seed_like_the_member",
        {"seed": "abc"},
        {"seed": 12},
        is_not("seed", int),
        {"error": {"message": "This endpoint does not support seed.", "code": "BadRequest"}},
    ),
    row(
        "stream_text",
        {"stream": "yes"},
        {"stream": True},
        is_not("stream", bool),
        {"error": 'invalid type: string "yes", expected a boolean at line 1 column 141'},
        422,
    ),
    row(
        "parallel_tool_calls_text",
        {"parallel_tool_calls": "no"},
        {"parallel_tool_calls": False},
        is_not("parallel_tool_calls", bool),
        {"status": 400, "error": "Bad Request", "message": JACKSON, "path": "/v1/chat/completions"},
        tools=[tool("find_page")],
    ),
    row(
        "user_too_long",
        {"user": "u" * 90},
        {"user": "u-17"},
        is_longer("user", 64),
        openai(
            "Invalid 'user': string too long. At most 64 characters, but it has 90.", "user", "string_above_max_length"
        ),
    ),
    row(
        "user_number",
        {"user": 42},
        {"user": "42"},
        is_not("user", str),
        {"error": {"message": "json: cannot unmarshal number into Go struct field .user of type string"}},
    ),
    row(
        "metadata_number",
        {"metadata": {"run": 5}},
        {"metadata": {"run": "5"}},
        has_a_number_in_metadata,
        openai(
            "Invalid type for 'metadata.run': a string is expected, not an integer.", "metadata.run", "invalid_type"
        ),
    ),
    row(
        "metadata_too_many",
        {"metadata": {f"k{number}": "v" for number in range(17)}},
        {"metadata": {"k1": "v"}},
        is_longer("metadata", 16),
        openai(
            "Too many properties in 'metadata': 17, where 16 are allowed.", "metadata", "object_above_max_properties"
        ),
    ),
    row(
        "logit_bias_unknown_token",
        {"logit_bias": {"999999": -100}},
        {"logit_bias": {"1734": -100}},
        has_unknown_token,
        {"error": {"message": "token_id 999999 in logit_bias is outside of the vocabulary", "code": 400}},
    ),
    row(
        "logit_bias_too_heavy",
        {"logit_bias": {"1734": 500}},
        {"logit_bias": {"1734": 5}},
        has_heavy_bias,
        openai("logit_bias['1734'] ought to stay between -100 and 100", "logit_bias"),
    ),
    row(
        "stop_too_many",
        {"stop": list("abcdefghi")},
        {"stop": ["END"]},
        is_longer("stop", 4),
        openai("Invalid 'stop': array too long. 4 are allowed, you gave 9.", "stop", "array_above_max_length"),
    ),
    row(
        "stop_number",
        {"stop": 5},
        {"stop": "\n\n"},
        is_not("stop", str, list),
        openai(
            "The parameter `stop` in the request is not valid. Request id: 0217f3",
            "stop",
            "InvalidParameter",
            "BadRequest",
        ),
    ),
    row(
        "reasoning_effort_ultra",
        {"reasoning_effort": "ultra"},
        {"reasoning_effort": "low"},
        is_none_of("reasoning_effort", "low", "medium", "high"),
        openai(ULTRA, "reasoning_effort", "unsupported_value"),
    ),
    row(
        "reasoning_effort_like_the_member",
        {"reasoning_effort": "none"},
        {"reasoning_effort": "medium"},
        is_none_of("reasoning_effort", "low", "medium", "high"),
        {"detail": "Reasoning effort cannot be used with corp-chat"},
    ),
    row(
        "stream_options_without_stream",
        {},
        {"stream": True},
        lambda body: "stream_options" in body and not body.get("stream"),
        openai("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options"),
        stream_options={"include_usage": True},
    ),
    row(
        "stream_options_text",
        {"stream_options": {"include_usage": "always"}},
        {"stream_options": {"include_usage": True}},
        lambda body: not isinstance(body.get("stream_options", {}).get("include_usage", True), bool),
        pydantic("bool_parsing", ["stream_options", "include_usage"], "Input should be a valid boolean", "always"),
        422,
        stream=True,
    ),
    row(
        "service_tier_unknown",
        {"service_tier": "turbo"},
        {"service_tier": "auto"},
        is_none_of("service_tier", "auto", "default"),
        openai("Invalid value: 'turbo'. Supported values are: 'auto' and 'default'.", "service_tier", "invalid_value"),
    ),
    row(
        "service_tier_like_the_member",
        {"service_tier": "flex"},
        {"service_tier": "default"},
        is_none_of("service_tier", "auto", "default"),
        openai("serviceTier is not something we offer", kind=None),
    ),
    row(
        "presence_penalty_range",
        {"presence_penalty": 5},
        {"presence_penalty": 0.5},
        above("presence_penalty", 2),
        {"error": "presence_penalty 5 is out of range [-2, 2]"},
    ),
    row(
        "frequency_penalty_text",
        {"frequency_penalty": "high"},
        {"frequency_penalty": 1},
        is_not("frequency_penalty", int),
        ZOD,
    ),
    row(
        "n_with_stream", {"n": 2}, {"n": 1}, streams_twice, openai("streaming is not available with n > 1"), stream=True
    ),
    row(
        "n_too_many",
        {"n": 200},
        {"n": 2},
        above("n", 8),
        openai("Only 1 to 8 choices per call, you wished for 200", "n"),
    ),
    row(
        "top_logprobs_too_many",
        {"top_logprobs": 50},
        {"top_logprobs": 5},
        above("top_logprobs", 20),
        {"code": 20015, "message": "The parameter is invalid: top_logprobs goes up to 20", "data": None},
        logprobs=True,
    ),
    row(
        "response_format_unknown",
        {"response_format": {"type": "yaml"}},
        {"response_format": {"type": "json_object"}},
        lambda body: body.get("response_format", {}).get("type") == "yaml",
        {"error": {"message": "response_format: unknown variant `yaml`, expected `text` or `json_object`"}},
        422,
    ),
    row(
        "prompt_cache_key_too_long",
        {"prompt_cache_key": "k" * 80},
        {"prompt_cache_key": "k-1"},
        is_longer("prompt_cache_key", 64),
        PROBLEM,
        422,
    ),
    of_bodies(
        "path_of_picture",
        picture("ftp://old.hill.example/sign.png"),
        picture("https://hill.example/sign.png"),
        has_ftp_picture,
        openai(
            "messages[1].content[1].image_url.url: we do not fetch from there", "messages[1].content[1].image_url.url"
        ),
    ),
    row(
        "path_of_tool_schema",
        {"tools": [tool("find_page"), tool("open_page", properties=["page"])]},
        {"tools": [tool("find_page"), tool("open_page", properties={"page": {"type": "string"}})]},
        has_a_list_as_properties,
        openai("tools[1].function.parameters.properties: not an object", "tools[1].function.parameters"),
    ),
    Row(
        "page_not_found_once",
        chat(temperature=0.3, user="u-1"),
        chat(temperature=0.3, user="u-2"),
        RefuseOnce(404, {"error": "404 page not found: no route for this user"}),
    ),
)
