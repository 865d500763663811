"""Rows 5, 6, 8, 9, 11 to 16, 22 to 28 and 39 to 43: upstreams that reject a part of the request."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from tests.e2e.quirks.replies import USAGE, Reply, Request, Serve, compliant, error, json_reply, rejecting
from tests.e2e.quirks.row import GREETING, PLAIN, Answer, Failure, Row
from tests.e2e.quirks.tools import CALL, CONVERSATION, TOOL_ANSWER, TOOL_QUESTION, TOOL_RESULT, TOOLS

VALUE, PARAMETER, UNKNOWN = "unsupported_value", "unsupported_parameter", "unknown_parameter"
NO_STREAM = "Unsupported value: 'stream' does not support true with this model."
UNVERIFIED = (
    "Your organization must be verified to stream this model. Please go to:"
    " https://platform.openai.com/settings/organization/general and click on Verify Organization. If you just"
    " verified, it can take up to 15 minutes for access to propagate."
)
USED = "Your organization must be verified to use the model `canned`."


def is_set(*names: str) -> Callable[[Request], bool]:
    return lambda request: request.has(*names)


def streams(request: Request) -> bool:
    return request.stream


def rejecting_first(*rules: tuple[Callable[[Request], bool], Any]) -> Serve:
    """Return the first error whose condition holds, otherwise a standard reply."""

    def serve(request: Request) -> Reply:
        rejections = (document for when, document in rules if when(request))
        document = next(rejections, None)
        return compliant(request) if document is None else json_reply(document, 400)

    return serve


def no_temperature(text: str) -> Any:
    return error(f"Unsupported value: 'temperature' {text}", "temperature", VALUE)


NO_MAX_TOKENS = error(
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "max_tokens",
    PARAMETER,
)
ONLY_ONE = no_temperature("does not support 0.2 with this model. Only the default (1) value is supported.")
NO_TRUE = error(f"{NO_STREAM} Only the default (false) value is supported.", "stream", VALUE)

STREAM_ROWS = (
    Row(5, "no-stream", "rejects `stream: true` (Azure o3-mini)", rejecting(streams, NO_TRUE)),
    Row(5, "no-stream-values", "the same in other words",
        rejecting(streams, error(f"{NO_STREAM} Supported values are: false.", "stream", VALUE))),
    Row(5, "no-stream-tools", "the same, answering with tool calls", rejecting(streams, NO_TRUE), TOOL_ANSWER,
        body=TOOLS),
    Row(5, "no-stream-usage", "the same, with usage", rejecting(streams, NO_TRUE),
        Answer(total_tokens=USAGE["total_tokens"]), modes=("raw", "helper"),
        body={"stream_options": {"include_usage": True}}),
    Row(5, "o3-mini", "rejects `stream`, `max_tokens` and `temperature`, one after the other",
        rejecting_first((streams, NO_TRUE), (is_set("max_tokens"), NO_MAX_TOKENS), (is_set("temperature"), ONLY_ONE)),
        body={"max_tokens": 50, "temperature": 0.2}),
    Row(6, "unverified", "rejects to stream to an unverified organisation",
        rejecting(streams, error(UNVERIFIED, "stream", VALUE))),
    Row(6, "unverified-use", "rejects the model to an unverified organisation",
        rejecting(lambda request: True, error(USED, "model", "model_not_found"), 404),
        Failure((404,), words="must be verified to use")),
    Row(8, "stream-only", "rejects all but streams (DashScope)", rejecting(
        lambda request: not request.stream,
        error("This model only support stream mode, please enable the stream parameter"
                                              " to access the model. ", code="invalid_parameter_error"))),
    Row(8, "stream-only-tools", "the same, answering with tool calls", rejecting(
        lambda request: not request.stream,
        error("This model only support stream mode, please enable the stream parameter"
                                              " to access the model. ", code="invalid_parameter_error")),
        TOOL_ANSWER, body=TOOLS),
    Row(9, "thinks-in-streams", "thinks in streams alone (DashScope)", rejecting(
        lambda request: not request.stream and request.body.get("enable_thinking") is not False,
        error("parameter.enable_thinking must be set to false for non-streaming calls",
              code="invalid_parameter_error"))),
    Row(9, "thinks-always", "rejects `enable_thinking: false`", rejecting(
        lambda request: request.body.get("enable_thinking") is False,
        error("The value of the enable_thinking parameter is restricted to True.", code="invalid_parameter_error")),
        body={"enable_thinking": False}),
)  # fmt: skip

LENGTH = {"max_tokens": 50}
LENGTHS = (
    Row(11, "max-tokens", "requires `max_completion_tokens`", rejecting(is_set("max_tokens"), NO_MAX_TOKENS),
        body=LENGTH),
    Row(11, "max-tokens-copilot", "the same without a param (Copilot)", rejecting(is_set("max_tokens"), {
        "error": {"message": NO_MAX_TOKENS["error"]["message"], "code": "invalid_request_body"}}), body=LENGTH),
    Row(12, "max-completion-tokens", "requires `max_tokens` (Azure, an old api-version)",
        rejecting(is_set("max_completion_tokens"),
                 error("Unrecognized request argument supplied: max_completion_tokens")),
        body={"max_completion_tokens": 50}),
    Row(12, "max-completion-tokens-422", "the same as Mistral's 422", rejecting(is_set("max_completion_tokens"), {
        "object": "error", "type": "invalid_request_error", "param": None, "code": "3001",
        "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"],
                                "msg": "Extra inputs are not permitted", "input": 50}]}}, 422),
        body={"max_completion_tokens": 50}),
)  # fmt: skip

LOW_TEMPERATURE = {"temperature": 0.2}
TEMPERATURES = (
    Row(13, "temperature", "accepts only its default temperature (gpt-5)", rejecting(is_set("temperature"), ONLY_ONE),
        body=LOW_TEMPERATURE),
    Row(13, "temperature-parameter", "rejects temperature (o3-mini)", rejecting(is_set("temperature"), error(
        "Unsupported parameter: 'temperature' is not supported with this model.", "temperature", PARAMETER)),
        body=LOW_TEMPERATURE),
    Row(13, "temperature-kimi", "accepts only 1 (Kimi)", rejecting(is_set("temperature"), {"error": {
        "message": "invalid temperature: only 1 is allowed for this model", "type": "invalid_request_error"}}),
        body=LOW_TEMPERATURE),
    Row(13, "temperature-glm", "`temperature参数非法` (GLM)", rejecting(is_set("temperature"), {"error": {
        "code": "1214", "message": "temperature参数非法"}}),
        body=LOW_TEMPERATURE, is_lasting=False),  # GLM accepts other values, so one client's value teaches nothing
)  # fmt: skip

FORBIDDEN = {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 7}
UNKNOWN_SEED = error("Unknown parameter: 'seed'.", "seed", UNKNOWN)
FIELDS: Mapping[str, tuple[str, Any, int]] = {
    "openai": ("OpenAI", UNKNOWN_SEED, 400),
    "azure": ("Azure", error("Unrecognized request argument supplied: seed"), 400),
    "mistral": ("Mistral", {"object": "error", "message": {"detail": [FORBIDDEN]}, "type": "invalid_request_error",
                            "param": None, "code": "3001"}, 422),
    "fastapi": ("FastAPI, vLLM", {"detail": [FORBIDDEN]}, 422),
    "foundry": ("Azure Foundry", {"error": {"code": "Invalid input", "message": json.dumps({"detail": [FORBIDDEN]}),
                                            "status": 422}}, 422),
    "databricks": ("Databricks", {"error_code": "BAD_REQUEST",
                                  "message": 'Bad request: json: unknown field "seed"\n'}, 400),
    "gemini": ("Gemini", [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message":
               'Invalid JSON payload received. Unknown name "seed": Cannot find field.'}}], 400),
    "groq": ("Groq", error("property 'seed' is unsupported"), 400),
    "cerebras": ("Cerebras", {"message": "seed: property 'seed' is unsupported", "type": "invalid_request_error",
                              "param": "validation_error", "code": "wrong_api_format"}, 400),
    "nvidia": ("NVIDIA", error("Unsupported parameter(s): seed"), 400),
    "venice": ("Venice", {"error": [{"code": "unrecognized_keys", "keys": ["seed"], "path": [],
                                     "message": "Unrecognized key(s) in object: 'seed'"}]}, 400),
    "opencode": ("OpenCode", error("Extra inputs are not permitted, field: 'seed'"), 400),
    "litellm": ("LiteLLM, an error in an error", {"error": {
        "message": f"litellm.BadRequestError: OpenAIException - {json.dumps(UNKNOWN_SEED)}", "type": None,
        "param": None, "code": "400"}}, 400),
    "openrouter": ("OpenRouter, an error in an error", {"error": {
        "message": "Provider returned error", "code": 400, "metadata": {"raw": json.dumps(UNKNOWN_SEED)}}}, 400),
}  # fmt: skip

INCLUDE_USAGE = {"stream_options": {"include_usage": True}}
WITH_USAGE = is_set("stream_options")
NESTED = FORBIDDEN | {"loc": ["body", "stream_options", "include_usage"], "input": True}
OPTIONS = (
    Row(15, "options-unstreamed", "rejects `stream_options` with `stream: false`",
        rejecting(lambda request: not request.stream and request.has("stream_options"), error(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")),
        body=INCLUDE_USAGE, modes=PLAIN),
    Row(15, "options-unstreamed-vllm", "the same (vLLM)",
        rejecting(lambda request: not request.stream and request.has("stream_options"), {
            "object": "error",
            "message": "[{'msg': 'Value error, Stream options can only be defined when stream=True'}]",
            "type": "BadRequestError", "param": None, "code": 400}), body=INCLUDE_USAGE, modes=PLAIN),
    Row(16, "options-databricks", "does not support `stream_options` (Databricks)", rejecting(WITH_USAGE, {
        "error_code": "BAD_REQUEST", "message": 'Bad request: json: unknown field "stream_options"\n'}),
        body=INCLUDE_USAGE, modes=("raw", "helper")),
    Row(16, "options-foundry", "the same (Azure Foundry)", rejecting(WITH_USAGE, {"error": {
        "code": "Invalid input", "message": json.dumps({"detail": [NESTED]}), "status": 422}}, 422),
        body=INCLUDE_USAGE, modes=("raw", "helper")),
    Row(16, "options-venice", "the same (Venice)", rejecting(WITH_USAGE, {"error": [
        {"code": "unrecognized_keys", "keys": ["stream_options"], "path": [], "message": "Unrecognized key(s)"}]}),
        body=INCLUDE_USAGE, modes=("raw", "helper")),
)  # fmt: skip


def role(*names: str) -> Callable[[Request], bool]:
    return lambda request: any(message.get("role") in names for message in request.messages)


WITH_DEVELOPER = ({"role": "developer", "content": "Be brief."}, *GREETING)
WITH_SYSTEM = ({"role": "system", "content": "Be brief."}, *GREETING)
TWO_USER_MESSAGES = (*GREETING, {"role": "user", "content": "And the sea?"})
LITERAL = {"type": "literal_error", "loc": ["body", "messages", 0, "role"], "input": "developer",
           "msg": "Input should be 'system', 'user', 'assistant' or 'tool'"}  # fmt: skip
NO_SYSTEM = error(
    "Unsupported value: 'messages[0].role' does not support 'system' with this model.", "messages[0].role", VALUE
)
NO_DEVELOPER = error(
    "Unsupported value: 'messages[0].role' does not support 'developer' with this model.", "messages[0].role", VALUE
)
ALTERNATE = "Conversation roles must alternate user/assistant/user/assistant/..."


def repeats_a_role(request: Request) -> bool:
    return any(one.get("role") == other.get("role") for one, other in pairwise(request.messages))


ROLES = (
    Row(22, "developer", "does not support role `developer`", rejecting(role("developer"), error(
        "developer is not one of ['system', 'assistant', 'user', 'tool', 'function'] - 'messages.[0].role'")),
        messages=WITH_DEVELOPER),
    Row(22, "developer-deepseek", "the same (DeepSeek)", rejecting(role("developer"), error(
        "Failed to deserialize the JSON body into the target type: messages[0].role: unknown variant `developer`,"
        " expected one of `system`, `user`, `assistant`, `tool`, `latest_reminder` at line 1 column 60")),
        messages=WITH_DEVELOPER),
    Row(22, "developer-template", "the same (a chat template of vLLM)", rejecting(role("developer"), {
        "object": "error", "message": "Unexpected message role.", "type": "BadRequestError", "param": None,
        "code": 400}), messages=WITH_DEVELOPER),
    Row(22, "developer-422", "the same (FastAPI)", rejecting(role("developer"), {"detail": [LITERAL]}, 422),
        messages=WITH_DEVELOPER),
    Row(22, "developer-glm", "the same (GLM)", rejecting(role("developer"), {"error": {
        "code": "1214", "message": "Incorrect role information"}}), messages=WITH_DEVELOPER),
    Row(23, "system", "rejects the role `system`", rejecting(role("system"), NO_SYSTEM), messages=WITH_SYSTEM),
    Row(23, "system-and-developer", "rejects `developer` as well (o1-mini)", rejecting_first(
        (role("system"), NO_SYSTEM), (role("developer"), NO_DEVELOPER)), messages=WITH_SYSTEM, route="opted"),
    Row(24, "alternate", "requires roles that alternate", rejecting(repeats_a_role, {
        "error": {"message": ALTERNATE, "type": "BadRequestError", "param": None, "code": 400}}),
        messages=TWO_USER_MESSAGES,
        route="opted"),
    Row(24, "alternate-flat", "the same (vLLM before 0.10.1)", rejecting(repeats_a_role, {
        "object": "error", "message": ALTERNATE, "type": "BadRequestError", "param": None, "code": 400}),
        messages=TWO_USER_MESSAGES, route="opted"),
)  # fmt: skip

PARTS = (
    {"role": "user", "content": [{"type": "text", "text": "What colour"}, {"type": "text", "text": "is the sky?"}]},
)
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
PICTURED = ({"role": "user", "content": [{"type": "text", "text": "What is this?"}, PICTURE]},)


def has_parts(request: Request) -> bool:
    return any(isinstance(message.get("content"), list) for message in request.messages)


DEEPSEEK_PARTS = error(
    "Failed to deserialize the JSON body into the target type: messages[0]: invalid type: sequence, expected a string"
    " at line 1 column 99"
)
CONTENTS = (
    Row(25, "parts-deepseek", "accepts only strings as content (DeepSeek)", rejecting(has_parts, DEEPSEEK_PARTS),
        messages=PARTS),
    Row(25, "parts-groq", "the same (Groq)", rejecting(has_parts, error(
        "'messages.0' : for 'role:user' the following must be satisfied[('messages.0.content' : value must be a"
        " string)]")), messages=PARTS),
    Row(25, "parts-ollama", "the same (Ollama)", rejecting(has_parts, error(
        "json: cannot unmarshal array into Go struct field Message.messages.content of type string")), messages=PARTS),
    Row(25, "parts-cloudflare", "the same (Cloudflare)", rejecting(has_parts, {"success": False, "result": None,
        "errors": [{"code": 5006, "message": "Type mismatch of '/messages/0/content', 'array' not in 'string'"}]}),
        messages=PARTS),
    Row(25, "parts-picture", "the same, with a picture", rejecting(has_parts, DEEPSEEK_PARTS),
        Failure((400,), words="expected a string"), messages=PICTURED),
)  # fmt: skip


def has_null(request: Request) -> bool:
    return any(
        message.get("role") == "assistant" and message.get("content", "") is None for message in request.messages
    )


CONTENT_MISSING = (TOOL_QUESTION, {"role": "assistant", "tool_calls": [CALL]}, TOOL_RESULT)
WITH_REASONING = (*GREETING, {"role": "assistant", "content": "Blue.", "reasoning_content": "I looked."},
            {"role": "user", "content": "And now?"})  # fmt: skip


def replays(request: Request) -> bool:
    return any("reasoning_content" in message for message in request.messages)


HISTORY = (
    Row(26, "null-lmstudio", "rejects `content: null` with tool calls (LM Studio)", rejecting(has_null, {
        "error": "Invalid 'content': 'content' field must be a string or an array of objects."}),
        messages=CONVERSATION),
    Row(26, "null-ollama", "the same (Ollama)", rejecting(has_null, error("invalid message content type: <nil>")),
        messages=CONVERSATION),
    Row(26, "content-missing", "requires a `content` with tool calls (vLLM)", rejecting(
        lambda request: any("content" not in message for message in request.messages), {"detail": [
            {"type": "missing", "loc": ["body", "messages", 1, "content"], "msg": "Field required"}]}, 422),
        messages=CONTENT_MISSING),
    Row(27, "replayed-mistral", "rejects reasoning back (Mistral)", rejecting(replays, {
        "object": "error", "type": "invalid_request_error", "param": None, "code": "3001", "message": {"detail": [
            {"type": "extra_forbidden", "loc": ["body", "messages", 1, "assistant", "reasoning_content"],
             "msg": "Extra inputs are not permitted", "input": "I looked."}]}}, 422), messages=WITH_REASONING),
    Row(27, "replayed-groq", "the same (Groq)", rejecting(replays, error(
        "'messages.1' : for 'role:assistant' the following must be satisfied[('messages.1' : property"
        " 'reasoning_content' is unsupported)]")), messages=WITH_REASONING),
    Row(27, "replayed-cerebras", "the same (Cerebras)", rejecting(replays, {
        "message": "messages.1.assistant.reasoning_content: property 'messages.1.assistant.reasoning_content' is"
                   " unsupported", "type": "invalid_request_error", "param": "validation_error",
        "code": "wrong_api_format"}), messages=WITH_REASONING),
    Row(27, "replayed-wanted", "requires the reasoning back (DeepSeek)", rejecting(lambda request: not replays(request),
        error(
        "The `reasoning_content` in the thinking mode must be passed back to the API.")),
        Failure((400,), words="must be passed back"), messages=CONVERSATION),
    Row(39, "short-ids", "requires tool ids of nine letters and digits (Mistral)", rejecting(
        lambda request: not has_short_ids(request), {"object": "error", "type": "invalid_function_call", "param": None,
        "message": "Tool call id was call_abc-1 but must be a-z, A-Z, 0-9, with a length of 9.", "code": "3280"}),
        messages=CONVERSATION),
)  # fmt: skip


def has_short_ids(request: Request) -> bool:
    called_ids = [call["id"] for message in request.messages for call in message.get("tool_calls") or ()]
    answered_ids = [message["tool_call_id"] for message in request.messages if message.get("role") == "tool"]
    return called_ids == answered_ids and all(re.fullmatch("[a-zA-Z0-9]{9}", known) for known in called_ids)


def has_image(request: Request, *schemes: str) -> bool:
    """Return whether the conversation has image parts, and all their URLs have one of these schemes."""
    parts = [
        part for message in request.messages if isinstance(message["content"], list) for part in message["content"]
    ]
    urls = [part["image_url"]["url"] for part in parts if part.get("type") == "image_url"]
    return bool(urls) and all(url.startswith(schemes) for url in urls)


def requires_image(request: Request) -> Reply:
    if request.has("images") or any("images" in message for message in request.messages):
        return json_reply(error("Unrecognized request argument supplied: images"), 400)
    return (
        compliant(request)
        if has_image(request, "data:image/png;base64,")
        else json_reply(error("invalid image input"), 400)
    )


IMAGES = (
    Row(28, "images", "does not support `images` outside the messages", requires_image,
        body={"images": [f"data:image/png;base64,{PIXEL}"]}),
    Row(28, "images-bare", "the same, as bare base64 (Ollama)", requires_image, body={"images": [PIXEL]}),
    Row(28, "images-message", "the same, in a message", requires_image,
        messages=({"role": "user", "content": "What is this?", "images": [PIXEL]},)),
)  # fmt: skip

THINKING = "The tool_choice parameter does not support being set to required or object in thinking mode"
SCHEMA = {"type": "json_schema", "json_schema": {"name": "sky", "schema": {"type": "object"}}}
CLAMPED = (
    "This model's maximum context length is 6048 tokens. However, you requested 6616 tokens (568 in the messages, 6048"
    " in the completion). Please reduce the length of the messages or completion."
)
CHOICES = (
    Row(40, "tool-choice", "rejects forced tool while it thinks", rejecting(
        lambda request: request.body.get("tool_choice", "auto") != "auto", error(
        f"<400> InternalError.Algo.InvalidParameter: {THINKING}", code="invalid_parameter_error")), TOOL_ANSWER,
        body=TOOLS | {"tool_choice": "required"}, route="opted", is_lasting=False),
    Row(41, "json-object", "supports `json_schema` and `text` alone (LM Studio)", rejecting(
        lambda request: request.body.get("response_format", {}).get("type") == "json_object",
        {"error": "'response_format.type' must be 'json_schema' or 'text'"}),
        body={"response_format": {"type": "json_object"}}, route="opted"),
    Row(41, "json-schema", "does not support `json_schema` (DeepSeek)", rejecting(
        lambda request: request.body.get("response_format", {}).get("type") == "json_schema",
        error("This response_format type is unavailable now")), body={"response_format": SCHEMA}, route="opted"),
    Row(42, "parallel", "does not support `parallel_tool_calls` (o3-mini)", rejecting(is_set("parallel_tool_calls"),
        error(
        "Unsupported parameter: 'parallel_tool_calls' is not supported with this model.", "parallel_tool_calls",
        PARAMETER)), TOOL_ANSWER, body=TOOLS | {"parallel_tool_calls": True}),
    Row(43, "room", "has a smaller context than `max_tokens` (vLLM)", rejecting(
        lambda request: request.body.get("max_tokens", 0) > 5480, {
            "object": "error", "message": CLAMPED, "type": "BadRequestError", "param": None, "code": 400}),
        body={"max_tokens": 6048}, route="opted", is_lasting=False),
)  # fmt: skip

ROWS = (
    *STREAM_ROWS,
    *LENGTHS,
    *TEMPERATURES,
    *(Row(14, f"field-{name}", f"an unknown field (`seed`), in the format of {who}",
          rejecting(is_set("seed"), document, status), body={"seed": 7})
      for name, (who, document, status) in FIELDS.items()),
    *OPTIONS,
    *ROLES,
    *CONTENTS,
    *HISTORY,
    *IMAGES,
    *CHOICES,
)  # fmt: skip
