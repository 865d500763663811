"""Rows 34 to 38, 43, 45, 47 and 49: error formats of upstreams, before and during a stream."""

from __future__ import annotations

from typing import Any

from tests.e2e.quirks.replies import (
    FIRST,
    JSON,
    Reply,
    Request,
    Serve,
    always,
    chunk,
    compliant,
    encoded,
    error,
    event_stream,
    first_chunk,
    json_reply,
    text_chunks,
)
from tests.e2e.quirks.row import STREAM, Answer, Failure, Row

ERROR_TEXT = "The gnomes are on strike."
BUSY = "Rate limit reached (429): the server is unavailable, try again."
"""A message that only the profile of RAGFlow changes in a stream."""

SHAPES: dict[str, tuple[str, Any]] = {
    "openai": ("OpenAI", error(ERROR_TEXT)),
    "vllm": ("vLLM before 0.10.1, SGLang", {"object": "error", "message": ERROR_TEXT, "type": "BadRequestError",
                                            "param": None, "code": 400}),
    "mistral": ("Mistral", {"object": "error", "message": ERROR_TEXT, "type": "invalid_request_error", "param": None,
                            "code": "1000"}),
    "fastapi": ("FastAPI", {"detail": ERROR_TEXT}),
    "fastapi-list": ("FastAPI, a list", {"detail": [{"type": "value_error", "loc": ["body", "n"], "msg": ERROR_TEXT}]}),
    "lmstudio": ("LM Studio, Ollama", {"error": ERROR_TEXT}),
    "gemini": ("Gemini, a list", [{"error": {"code": 400, "message": ERROR_TEXT, "status": "INVALID_ARGUMENT"}}]),
    "google": ("Google", {"error": {"code": 400, "message": ERROR_TEXT, "status": "FAILED_PRECONDITION"}}),
    "databricks": ("Databricks", {"error_code": "BAD_REQUEST", "message": ERROR_TEXT}),
    "apim": ("API Management", {"statusCode": 400, "message": ERROR_TEXT}),
    "kong": ("Kong", {"message": ERROR_TEXT}),
    "cloudflare": ("Cloudflare", {"success": False, "errors": [{"code": 7003, "message": ERROR_TEXT}], "result": None}),
    "cloudflare-error": ("Cloudflare, another", {"success": False, "error": [{"code": 7003, "message": ERROR_TEXT}]}),
    "dashscope": ("DashScope", {"code": "InvalidParameter", "message": ERROR_TEXT, "request_id": "r"}),
    "iflytek": ("iFlytek", {"header": {"code": 11200, "message": ERROR_TEXT, "sid": "s"}}),
    "llamacpp": ("llama.cpp", {"error": {"code": 400, "message": ERROR_TEXT, "type": "invalid_request_error"}}),
    "tgi": ("TGI", {"error": ERROR_TEXT, "error_type": "validation"}),
    "ollama": ("Ollama /v1", {"error": {"message": ERROR_TEXT, "type": "api_error", "param": None, "code": None}}),
    "sap": ("SAP", {"errorMessage": ERROR_TEXT, "errorCode": "X1", "statusCode": 400}),
    "rfc6749": ("RFC 6749", {"error": "invalid_client", "error_description": ERROR_TEXT}),
    "rfc9457": ("RFC 9457", {"title": "Bad Request", "detail": ERROR_TEXT, "status": 400}),
    "ark": ("Volcengine Ark", {"error": {"code": "InvalidParameter", "message": ERROR_TEXT, "param": "model",
                                         "type": "BadRequest"}}),
    "envelope": ("`code` and `msg`", {"code": 40001, "msg": ERROR_TEXT, "data": None}),
}  # fmt: skip
EVENT_IN_400 = Reply(400, JSON, (b"data: " + encoded(error(ERROR_TEXT)) + b"\n\n",))

FRAMES: dict[str, tuple[str, Any]] = {
    "nested": ("`error` object", error(ERROR_TEXT, code="busy", kind="api_error")),
    "flat": ('`{"object":"error"}`', {"object": "error", "message": ERROR_TEXT, "type": "X", "param": None,
    "code": 400}),
    "code": ("`code` and `message`", {"code": 1234, "message": ERROR_TEXT}),
    "string": ("`error` as a text", {"error": ERROR_TEXT}),
    "openrouter": ("a chunk with an `error` member", FIRST | {
        "error": {"code": 502, "message": ERROR_TEXT},
        "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}),
}  # fmt: skip


def error_midstream(frame: Any) -> Serve:
    def serve(request: Request) -> Reply:
        return event_stream([first_chunk(), *text_chunks(), frame]) if request.stream else compliant(request)

    return serve


def disconnected(request: Request) -> Reply:
    framed = [b"data: " + encoded(chunk_body) + b"\n\n" for chunk_body in (first_chunk(), *text_chunks())]
    return Reply(200, "text/event-stream", tuple(framed), cut=True) if request.stream else compliant(request)


def truncated(request: Request) -> Reply:
    made = [first_chunk(), *text_chunks()]
    return event_stream(made, done=False) if request.stream else compliant(request)


def rate_limited(text: str, **headers: str) -> Serve:
    return always(json_reply(error(text, code="429", kind="requests"), 429, **headers))


FILTERED = {
    "error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
    }
}
NO_DEPLOYMENT = "The API deployment for this resource does not exist."
NO_SUBSCRIPTION = (
    "Access denied due to missing subscription key. Make sure to include subscription key when making requests to an"
    " API."
)
TOO_LONG = "This model's maximum context length is 6048 tokens. However, your messages resulted in 9000 tokens."
NO_TOOL_PARSER = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'


def exceeded(status: int) -> Reply:
    text = "the request exceeds the available context size"
    about = {"code": 400, "message": text, "type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 6048}
    return json_reply({"error": about}, status)


def filtered_stream(request: Request) -> Reply:
    made = [first_chunk(), *text_chunks(), chunk(finish="content_filter")]
    return event_stream(made) if request.stream else json_reply(FILTERED, 400)


ROWS = (
    *(Row(34, f"error-{name}", f"an error of {who}", always(json_reply(shape, 400)), Failure((400,), words=ERROR_TEXT))
      for name, (who, shape) in SHAPES.items()),
    Row(34, "error-event", "an event as the body of a 400", always(EVENT_IN_400), Failure((400,), words=ERROR_TEXT)),
    *(Row(34, f"midway-{name}", f"during a stream: {who}", error_midstream(frame), Failure(words=ERROR_TEXT),
        modes=STREAM)
      for name, (who, frame) in FRAMES.items()),
    Row(34, "midway-busy", "during a stream: a rate limit, in the upstream's words",
        error_midstream(error(BUSY, code="429", kind="requests")), Failure(message=BUSY), modes=STREAM),
    Row(35, "limited-day", "429, `retry after 86400 seconds` in the text",
        rate_limited("Rate limit is exceeded. Please retry after 86400 seconds."),
        Failure((429,), words="86400", retry_after="86400", should_retry="false")),
    Row(35, "limited-seconds", "429, `Try again in 2 seconds.` in the text",
        rate_limited("Rate limit reached. Try again in 2 seconds."), Failure((429,), words="2 seconds",
        retry_after="2")),
    Row(35, "limited-header", "429 with `retry-after`", rate_limited("Too many gnomes.", retry_after="7"),
        Failure((429,), words="Too many gnomes", retry_after="7")),
    Row(35, "limited-forbidden", "429 with `x-should-retry: false`, a time in the text",
        rate_limited("Rate limit reached. Try again in 40 seconds.", x_should_retry="false"),
        Failure((429,), words="40 seconds", should_retry="false"), repeats=2),
    Row(36, "azure-deployment", "404 `DeploymentNotFound`",
        always(json_reply(error(NO_DEPLOYMENT, code="DeploymentNotFound"), 404)),
        Failure((404,), "DeploymentNotFound", NO_DEPLOYMENT)),
    Row(36, "azure-path", "404 `Resource not found`",
        always(json_reply({"error": {"code": "404", "message": "Resource not found"}}, 404)),
        Failure((404,), words="Resource not found")),
    Row(37, "apim-401", "401 of API Management: no subscription key",
        always(json_reply({"statusCode": 401, "message": NO_SUBSCRIPTION}, 401)),
        Failure((401,), "upstream_auth", "missing subscription key", should_retry="false")),
    Row(37, "kong-401", "401 of Kong: no API key", always(json_reply({"message": "No API key found in request"}, 401)),
        Failure((401,), "upstream_auth", "No API key found", should_retry="false")),
    Row(38, "filtered", "400 of the content filter", always(json_reply(FILTERED, 400)),
        Failure((400,), "content_filter", "content management policy")),
    Row(38, "filtered-finish", "`finish_reason: content_filter`", filtered_stream, Answer(finish="content_filter"),
        modes=("raw",)),
    Row(43, "context-length", "400: the prompt is too long",
        always(json_reply(error(TOO_LONG, "messages", "context_length_exceeded"), 400)),
        Failure((400,), "context_length_exceeded", "maximum context length")),
    Row(45, "no-tool-parser", "vLLM: tools are not switched on",
        always(json_reply(error(NO_TOOL_PARSER, kind="BadRequestError"), 400)),
        Failure((400,), words="tool choice requires")),
    Row(45, "no-tools", "Ollama: `does not support tools`",
        always(json_reply(error("canned:latest does not support tools", kind="api_error"), 400)),
        Failure((400,), words="does not support tools")),
    Row(49, "databricks-tools", "Databricks: `Multiple tool calls are not supported.`",
        always(json_reply({"error_code": "BAD_REQUEST", "message": "Multiple tool calls are not supported.\n"}, 400)),
        Failure((400,), words="Multiple tool calls are not supported.")),
    Row(49, "llamacpp-context-400", "llama.cpp: context exceeded, with 400", always(exceeded(400)),
        Failure((400,), words="available context size")),
    Row(49, "llamacpp-context-500", "the same with 500", always(exceeded(500)),
        Failure((400, 500), words="available context size")),
    Row(49, "llamacpp-context-200", "the same with 200", always(exceeded(200)),
        Failure((400,), words="available context size")),
    Row(47, "cut-off", "the connection closes during a stream", disconnected, Failure(), modes=STREAM),
    Row(47, "truncated", "a stream that ends without finish and `[DONE]`",
        truncated, Failure(), modes=STREAM),
)  # fmt: skip
