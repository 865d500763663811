"""What upstreams answer that lack `/v1/responses` or `/v1/messages`, and what they answer that have them.

`PATH` stands for the path of the operation, `NAME` for its last part, `MODEL` for the model.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from tests.integration.scripted import reply


class Case(NamedTuple):
    """One reply. `more` are members of the request that it answers, by operation, or of both."""

    status: int
    body: Any
    more: Mapping[str, Any] = MappingProxyType({})
    operations: tuple[str, ...] = ("responses", "messages")
    kind: str = "application/json"


def an_error(message: str, **members: Any) -> Any:
    return {"error": {"message": message, "type": "invalid_request_error", **members}}


def bytes_of(case: Case, operation: str, model: str = "") -> bytes:
    if isinstance(case.body, str):
        return reply(_named(case.body, operation, model).encode(), case.status, content_type=case.kind)
    return reply(_named(case.body, operation, model), case.status)


def _named(value: Any, operation: str, model: str) -> Any:
    if isinstance(value, str):
        return value.replace("PATH", f"/v1/{operation}").replace("NAME", operation).replace("MODEL", model)
    return {name: _named(one, operation, model) for name, one in value.items()} if isinstance(value, dict) else value


LACKING = [
    Case(404, {"detail": "Not Found"}),  # FastAPI
    Case(404, {"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}),  # llama.cpp
    Case(404, an_error("openai error: Invalid URL (POST PATH)", code=None, param=None)),  # Portkey
    Case(404, {"html-message": "404 page not found", "provider": "openai"}),  # Portkey before a Go server
    Case(500, {"status": "failure", "message": "NAME is not supported by openai"}),  # Portkey
    Case(404, "404 page not found\n", kind="text/plain"),  # Go
    Case(404, "<html><head><title>404 Not Found</title></head><body>nginx</body></html>", kind="text/html"),
    Case(404, {"timestamp": "2026-11-30", "status": 404, "error": "Not Found", "path": "PATH"}),  # Spring Boot
    Case(404, {"message": "no Route matched with those values", "request_id": "9b1d"}),  # Kong
    Case(404, an_error("Unknown request URL: POST PATH. Please check the URL for typos.", code="unknown_url")),
    Case(405, {"type": "about:blank", "title": "Method Not Allowed", "status": 405, "instance": "PATH"}),  # RFC 9457
    Case(501, an_error("This operation is not implemented")),
]
"""Twelve forms of an absent path."""

_LITELLM = "litellm.NotFoundError: NotFoundError: OpenAIException - "
_GROUP = "\n\nLiteLLM: model group 'MODEL' failed with the error above. No fallback was attempted."

MORE = [
    Case(404, an_error(f'{_LITELLM}{{"detail": "Not Found"}}{_GROUP}', code="404")),
    Case(404, an_error(f"{_LITELLM}Invalid URL (POST PATH){_GROUP}", code="404")),
    Case(404, an_error(f"{_LITELLM}nothing is here. Received Model Group=MODEL\nAvailable Model Group Fallbacks=None")),
    Case(404, {"code": 404, "message": "HTTP 404 Not Found"}),  # JAX-RS
    Case(400, an_error("The NAME API is not supported by this server.")),
    Case(404, {"code": 40400, "message": "请求的接口不存在"}),
    Case(400, {"code": 400, "msg": "该服务暂不支持 NAME 接口"}),
    Case(404, {"message": "Route POST:PATH not found", "error": "Not Found", "statusCode": 404}),  # Fastify
    Case(404, "", kind="text/plain"),
    Case(404, {"error": "RESTEASY003210: Could not find a handler at http://10.0.0.1:8080PATH"}),
    Case(404, {"message": "Sorry, nothing lives here. Ask the people who run this gateway."}),
    Case(400, an_error("Provider `bedrock` does not support NAME")),
]

PICTURE = {
    "responses": {
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://a.example/b.png"}]}]
    },
    "messages": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image", "source": {"type": "url", "url": "https://a.example/b.png"}}],
            }
        ]
    },
}
TOOLS = {
    "responses": {"tools": [{"type": "function", "name": "look_up", "parameters": {"type": "object"}}]},
    "messages": {"tools": [{"name": "look_up", "input_schema": {"type": "object"}}]},
}
SAID = "Invalid URL (POST /v1/nothing) in the list of my notes"
ASKED = {"responses": {"input": SAID}, "messages": {"messages": [{"role": "user", "content": SAID}]}}
R, M = ("responses",), ("messages",)

HAVING = [
    # a model
    Case(404, an_error("The model `MODEL` does not exist or you do not have access to it.", code="model_not_found")),
    Case(404, an_error("No healthy deployment at MODEL")),
    Case(404, {"error": "model 'x' not found, try pulling it first"}),
    Case(404, {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}),
    Case(404, {"message": "模型不存在，请检查模型代码"}),
    Case(404, an_error("MODEL has no NAME here")),
    Case(400, an_error("The NAME API is not supported for model MODEL")),
    # an object of the request
    Case(404, {"detail": "Not Found"}, {"previous_response_id": "resp_1"}, R),
    Case(404, an_error("Previous response with id 'resp_1' not found."), {"previous_response_id": "resp_1"}, R),
    Case(404, {"detail": "Not Found"}, {"conversation": "conv_1"}, R),
    Case(404, {"detail": "Not Found"}, {"prompt": {"id": "pmpt_1"}}, R),
    Case(404, {"detail": "Not Found"}, {"container": "container_1"}, M),
    Case(
        404,
        {"detail": "File Not Found"},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
        R,
    ),
    Case(
        404,
        {"detail": "File Not Found"},
        {
            "messages": {
                "messages": [
                    {"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}
                ]
            }
        },
        M,
    ),
    Case(404, an_error("Item with id 'rs_1' not found."), {"input": [{"type": "item_reference", "id": "rs_1"}]}, R),
    # a picture
    Case(404, {"detail": "Not Found"}, PICTURE),
    Case(404, an_error("Failed to download the picture")),
    Case(400, an_error("Invalid URL in image_url")),
    Case(404, an_error("No endpoints found that support image input")),
    # a part of the request
    Case(404, an_error("No endpoints found that support tool use"), TOOLS),
    Case(404, an_error("Function look_up was not found"), TOOLS),
    Case(404, an_error("messages.0: nothing found"), {}, M),
    Case(404, an_error("messages[0] is unknown"), {}, M),
    Case(404, an_error("Items are not persisted when `store` is false"), {"store": False}, R),
    Case(404, an_error("not found", param="tools"), TOOLS),
    Case(404, an_error("Streaming is not available here"), {"stream": True}),
    # a text that quotes the client
    Case(404, an_error(f"Cannot read this: {SAID}"), ASKED),
    Case(400, an_error(f"Cannot read this: {SAID}"), ASKED),
    Case(400, an_error("Invalid value: 'PATH'. Supported values are: 'x'.")),
    Case(500, an_error("echo: POST PATH")),
    # a context, a policy, a limit, a credential
    Case(400, an_error("This model's maximum context length is 8192 tokens", code="context_length_exceeded")),
    Case(404, an_error("No endpoints found matching your data policy")),
    Case(404, an_error("The request was blocked by a guardrail: not found")),
    Case(404, an_error("Not found", code="content_filter")),
    Case(404, an_error("Your API key has expired")),
    Case(404, "<title>Request Rejected</title>Your support ID is: 4711-0815-123", kind="text/html"),
    # a crashed worker, a proxy, members that name the path
    Case(500, an_error("worker died while serving PATH")),
    Case(500, {"detail": "Not Found"}),
    Case(500, an_error("PATH answered with an unknown error")),
    Case(502, "<title>502 Proxy Error</title>The proxy could not handle the request POST PATH", kind="text/html"),
    Case(503, an_error("NAME is not supported by openai")),
    Case(500, "<title>500</title>NAME is not supported by openai", kind="text/html"),
    Case(400, {"type": "about:blank", "title": "Bad Request", "detail": "Malformed", "instance": "PATH"}),
    Case(500, {"status": 500, "error": "Internal Server Error", "path": "PATH"}),
    Case(500, {"message": "no handler is free", "url": "http://10.0.0.1PATH"}),
]
"""Other errors."""
