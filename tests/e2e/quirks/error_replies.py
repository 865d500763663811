"""Rows 34 to 38, 43, 45, 47 and 49: error formats of upstreams, before and during a stream."""

from typing import Any

from tests.e2e.quirks.replies import (
    EVENTS,
    FIRST,
    JSON,
    Reply,
    Request,
    Serve,
    always,
    chunk,
    encoded,
    error,
    first_chunk,
    json_reply,
    streaming,
    text_chunks,
)
from tests.e2e.quirks.row import STREAM, Answer, Failure, Row

ERROR_TEXT = "The gnomes are on strike."
BUSY = "Rate limit reached (429): the server is unavailable, try again."
"""Its own words, which only the profile of RAGFlow changes in a stream. gatepass says behind them whose limit it is."""

SHAPES: dict[str, tuple[str, Any]] = {
    "openai": ("OpenAI", error(ERROR_TEXT)),
    "fastapi-list": ("FastAPI, a list", {"detail": [{"type": "value_error", "loc": ["body", "n"], "msg": ERROR_TEXT}]}),
    "gemini": ("Gemini, a list", [{"error": {"code": 400, "message": ERROR_TEXT, "status": "INVALID_ARGUMENT"}}]),
    "iflytek": ("iFlytek", {"header": {"code": 11200, "message": ERROR_TEXT, "sid": "s"}}),
    "envelope": ("`code` and `msg`", {"code": 40001, "msg": ERROR_TEXT, "data": None}),
}
EVENT_IN_400 = Reply(400, JSON, (b"data: " + encoded(error(ERROR_TEXT)) + b"\n\n",))

FRAMES: dict[str, tuple[str, Any]] = {
    "nested": ("`error` object", error(ERROR_TEXT, code="busy", kind="api_error")),
    "string": ("`error` as a text", {"error": ERROR_TEXT}),
    "openrouter": ("a chunk with an `error` member", FIRST | {
        "error": {"code": 502, "message": ERROR_TEXT},
        "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}),
}  # fmt: skip


def error_midstream(frame: Any) -> Serve:
    return streaming(lambda request: [first_chunk(), *text_chunks(), frame])


def disconnected(request: Request) -> Reply:
    framed = [b"data: " + encoded(document) + b"\n\n" for document in (first_chunk(), *text_chunks())]
    return Reply(200, EVENTS, tuple(framed), cut=True)


def unfinished(request: Request) -> list[Any]:
    return [first_chunk(), *text_chunks()]


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
TOO_LONG = "This model's maximum context length is 6048 tokens. However, your messages resulted in 9000 tokens."
NO_TOOL_PARSER = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
EXCEEDED = {
    "error": {
        "code": 400,
        "message": "the request exceeds the available context size",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 9000,
        "n_ctx": 6048,
    }
}


def filtered(request: Request) -> list[Any]:
    return [*unfinished(request), chunk(finish="content_filter")]


ROWS = (
    *(Row(34, f"error-{name}", f"an error of {who}", always(json_reply(shape, 400)), Failure((400,), words=ERROR_TEXT))
      for name, (who, shape) in SHAPES.items()),
    Row(34, "error-event", "an event as the body of a 400", always(EVENT_IN_400), Failure((400,), words=ERROR_TEXT)),
    *(Row(34, f"midway-{name}", f"during a stream: {who}", error_midstream(frame), Failure(words=ERROR_TEXT),
        modes=STREAM)
      for name, (who, frame) in FRAMES.items()),
    Row(34, "midway-busy", "during a stream: a rate limit, in the upstream's words",
        error_midstream(error(BUSY, code="429", kind="requests")),
        Failure(message=f"{BUSY} The upstream 'main' sets this limit, not gatepass."), modes=STREAM),
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
    Row(37, "kong-401", "401 of Kong: no API key", always(json_reply({"message": "No API key found in request"}, 401)),
        Failure((401,), "upstream_auth", "No API key found", should_retry="false")),
    Row(38, "filtered", "400 of the content filter", always(json_reply(FILTERED, 400)),
        Failure((400,), "content_filter", "content management policy")),
    Row(38, "filtered-finish", "`finish_reason: content_filter`", streaming(filtered), Answer(finish="content_filter"),
        modes=("raw",)),
    Row(43, "context-length", "400: the prompt is too long",
        always(json_reply(error(TOO_LONG, "messages", "context_length_exceeded"), 400)),
        Failure((400,), "context_length_exceeded", "maximum context length")),
    Row(45, "no-tool-parser", "vLLM: tools are not switched on",
        always(json_reply(error(NO_TOOL_PARSER, kind="BadRequestError"), 400)),
        Failure((400,), words="tool choice requires")),
    Row(49, "llamacpp-context-200", "llama.cpp: context exceeded, with 200", always(json_reply(EXCEEDED)),
        Failure((400,), words="available context size")),
    Row(47, "cut-off", "the connection closes during a stream", disconnected, Failure(), modes=STREAM),
    Row(47, "truncated", "a stream that ends without finish and `[DONE]`",
        streaming(unfinished, done=False), Failure(), modes=STREAM),
)  # fmt: skip
