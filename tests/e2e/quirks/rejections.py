"""Rows 5, 6, 8, 9, 11 to 16, 22 to 28 and 39 to 43: strict upstreams, which refuse a part of the request."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from tests.e2e.quirks.replies import USAGE, Asked, Reply, Serve, error, honest, plain, refusing
from tests.e2e.quirks.row import GREETING, PLAIN, Answer, Failure, Row
from tests.e2e.quirks.tools import ANSWERED, ASKED, CALL, CONVERSATION, TOLD, TOOLS

VALUE, PARAMETER, UNKNOWN = "unsupported_value", "unsupported_parameter", "unknown_parameter"
NO_STREAM = "Unsupported value: 'stream' does not support true with this model."
UNVERIFIED = (
    "Your organization must be verified to stream this model. Please go to:"
    " https://platform.openai.com/settings/organization/general and click on Verify Organization. If you just"
    " verified, it can take up to 15 minutes for access to propagate."
)
USED = "Your organization must be verified to use the model `canned`."


def is_set(*names: str) -> Callable[[Asked], bool]:
    return lambda asked: asked.has(*names)


def streams(asked: Asked) -> bool:
    return asked.stream


def in_turn(*rules: tuple[Callable[[Asked], bool], Any]) -> Serve:
    """The first refusal that applies."""

    def serve(asked: Asked) -> Reply:
        refused = (document for when, document in rules if when(asked))
        document = next(refused, None)
        return honest(asked) if document is None else plain(document, 400)

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
    Row(5, "no-stream", "refuses `stream: true` (Azure o3-mini)", refusing(streams, NO_TRUE)),
    Row(5, "no-stream-values", "the same in other words",
        refusing(streams, error(f"{NO_STREAM} Supported values are: false.", "stream", VALUE))),
    Row(5, "no-stream-tools", "the same, answering with tool calls", refusing(streams, NO_TRUE), ANSWERED, body=TOOLS),
    Row(5, "no-stream-usage", "the same, asked for usage", refusing(streams, NO_TRUE),
        Answer(total_tokens=USAGE["total_tokens"]), ways=("raw", "helper"),
        body={"stream_options": {"include_usage": True}}),
    Row(5, "o3-mini", "refuses `stream`, `max_tokens` and `temperature`, one after the other",
        in_turn((streams, NO_TRUE), (is_set("max_tokens"), NO_MAX_TOKENS), (is_set("temperature"), ONLY_ONE)),
        body={"max_tokens": 50, "temperature": 0.2}),
    Row(6, "unverified", "refuses to stream to an unverified organisation",
        refusing(streams, error(UNVERIFIED, "stream", VALUE))),
    Row(6, "unverified-use", "refuses the model to an unverified organisation",
        refusing(lambda asked: True, error(USED, "model", "model_not_found"), 404),
        Failure((404,), words="must be verified to use")),
    Row(8, "stream-only", "refuses all but streams (DashScope)", refusing(
        lambda asked: not asked.stream, error("This model only support stream mode, please enable the stream parameter"
                                              " to access the model. ", code="invalid_parameter_error"))),
    Row(8, "stream-only-tools", "the same, answering with tool calls", refusing(
        lambda asked: not asked.stream, error("This model only support stream mode, please enable the stream parameter"
                                              " to access the model. ", code="invalid_parameter_error")),
        ANSWERED, body=TOOLS),
    Row(9, "thinks-in-streams", "thinks in streams alone (DashScope)", refusing(
        lambda asked: not asked.stream and asked.body.get("enable_thinking") is not False,
        error("parameter.enable_thinking must be set to false for non-streaming calls",
              code="invalid_parameter_error"))),
    Row(9, "thinks-always", "refuses `enable_thinking: false`", refusing(
        lambda asked: asked.body.get("enable_thinking") is False,
        error("The value of the enable_thinking parameter is restricted to True.", code="invalid_parameter_error")),
        body={"enable_thinking": False}),
)  # fmt: skip

LENGTH = {"max_tokens": 50}
LENGTHS = (
    Row(11, "max-tokens", "wants `max_completion_tokens`", refusing(is_set("max_tokens"), NO_MAX_TOKENS), body=LENGTH),
    Row(11, "max-tokens-copilot", "the same without a param (Copilot)", refusing(is_set("max_tokens"), {
        "error": {"message": NO_MAX_TOKENS["error"]["message"], "code": "invalid_request_body"}}), body=LENGTH),
    Row(12, "max-completion-tokens", "wants `max_tokens` (Azure, an old api-version)",
        refusing(is_set("max_completion_tokens"),
                 error("Unrecognized request argument supplied: max_completion_tokens")),
        body={"max_completion_tokens": 50}),
    Row(12, "max-completion-tokens-422", "the same as Mistral's 422", refusing(is_set("max_completion_tokens"), {
        "object": "error", "type": "invalid_request_error", "param": None, "code": "3001",
        "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"],
                                "msg": "Extra inputs are not permitted", "input": 50}]}}, 422),
        body={"max_completion_tokens": 50}),
)  # fmt: skip

WARM = {"temperature": 0.2}
TEMPERATURES = (
    Row(13, "temperature", "takes its own temperature only (gpt-5)", refusing(is_set("temperature"), ONLY_ONE),
        body=WARM),
    Row(13, "temperature-parameter", "takes no temperature (o3-mini)", refusing(is_set("temperature"), error(
        "Unsupported parameter: 'temperature' is not supported with this model.", "temperature", PARAMETER)),
        body=WARM),
    Row(13, "temperature-kimi", "takes 1 only (Kimi)", refusing(is_set("temperature"), {"error": {
        "message": "invalid temperature: only 1 is allowed for this model", "type": "invalid_request_error"}}),
        body=WARM),
    Row(13, "temperature-glm", "`temperature参数非法` (GLM)", refusing(is_set("temperature"), {"error": {
        "code": "1214", "message": "temperature参数非法"}}), body=WARM),
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

USAGE_WISH = {"stream_options": {"include_usage": True}}
WITH_USAGE = is_set("stream_options")
NESTED = FORBIDDEN | {"loc": ["body", "stream_options", "include_usage"], "input": True}
OPTIONS = (
    Row(15, "options-unstreamed", "refuses `stream_options` beside `stream: false`",
        refusing(lambda asked: not asked.stream and asked.has("stream_options"), error(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")),
        body=USAGE_WISH, ways=PLAIN),
    Row(15, "options-unstreamed-vllm", "the same as vLLM says it",
        refusing(lambda asked: not asked.stream and asked.has("stream_options"), {
            "object": "error",
            "message": "[{'msg': 'Value error, Stream options can only be defined when stream=True'}]",
            "type": "BadRequestError", "param": None, "code": 400}), body=USAGE_WISH, ways=PLAIN),
    Row(16, "options-databricks", "knows no `stream_options` (Databricks)", refusing(WITH_USAGE, {
        "error_code": "BAD_REQUEST", "message": 'Bad request: json: unknown field "stream_options"\n'}),
        body=USAGE_WISH, ways=("raw", "helper")),
    Row(16, "options-foundry", "the same (Azure Foundry)", refusing(WITH_USAGE, {"error": {
        "code": "Invalid input", "message": json.dumps({"detail": [NESTED]}), "status": 422}}, 422),
        body=USAGE_WISH, ways=("raw", "helper")),
    Row(16, "options-venice", "the same (Venice)", refusing(WITH_USAGE, {"error": [
        {"code": "unrecognized_keys", "keys": ["stream_options"], "path": [], "message": "Unrecognized key(s)"}]}),
        body=USAGE_WISH, ways=("raw", "helper")),
)  # fmt: skip


def role(*names: str) -> Callable[[Asked], bool]:
    return lambda asked: any(said.get("role") in names for said in asked.messages)


RULED = ({"role": "developer", "content": "Be brief."}, *GREETING)
GOVERNED = ({"role": "system", "content": "Be brief."}, *GREETING)
TWICE = (*GREETING, {"role": "user", "content": "And the sea?"})
LITERAL = {"type": "literal_error", "loc": ["body", "messages", 0, "role"], "input": "developer",
           "msg": "Input should be 'system', 'user', 'assistant' or 'tool'"}  # fmt: skip
NO_SYSTEM = error(
    "Unsupported value: 'messages[0].role' does not support 'system' with this model.", "messages[0].role", VALUE
)
NO_DEVELOPER = error(
    "Unsupported value: 'messages[0].role' does not support 'developer' with this model.", "messages[0].role", VALUE
)
ALTERNATE = "Conversation roles must alternate user/assistant/user/assistant/..."


def repeats_a_role(asked: Asked) -> bool:
    return any(one.get("role") == other.get("role") for one, other in pairwise(asked.messages))


ROLES = (
    Row(22, "developer", "knows no role `developer`", refusing(role("developer"), error(
        "developer is not one of ['system', 'assistant', 'user', 'tool', 'function'] - 'messages.[0].role'")),
        messages=RULED),
    Row(22, "developer-deepseek", "the same (DeepSeek)", refusing(role("developer"), error(
        "Failed to deserialize the JSON body into the target type: messages[0].role: unknown variant `developer`,"
        " expected one of `system`, `user`, `assistant`, `tool`, `latest_reminder` at line 1 column 60")),
        messages=RULED),
    Row(22, "developer-template", "the same (a chat template of vLLM)", refusing(role("developer"), {
        "object": "error", "message": "Unexpected message role.", "type": "BadRequestError", "param": None,
        "code": 400}), messages=RULED),
    Row(22, "developer-422", "the same (FastAPI)", refusing(role("developer"), {"detail": [LITERAL]}, 422),
        messages=RULED),
    Row(22, "developer-glm", "the same (GLM)", refusing(role("developer"), {"error": {
        "code": "1214", "message": "Incorrect role information"}}), messages=RULED),
    Row(23, "system", "refuses the role `system`", refusing(role("system"), NO_SYSTEM), messages=GOVERNED),
    Row(23, "system-and-developer", "refuses `developer` as well (o1-mini)", in_turn(
        (role("system"), NO_SYSTEM), (role("developer"), NO_DEVELOPER)), messages=GOVERNED, route="opted"),
    Row(24, "alternate", "wants roles that alternate", refusing(repeats_a_role, {
        "error": {"message": ALTERNATE, "type": "BadRequestError", "param": None, "code": 400}}), messages=TWICE,
        route="opted"),
    Row(24, "alternate-flat", "the same (vLLM before 0.10.1)", refusing(repeats_a_role, {
        "object": "error", "message": ALTERNATE, "type": "BadRequestError", "param": None, "code": 400}),
        messages=TWICE, route="opted"),
)  # fmt: skip

PARTS = (
    {"role": "user", "content": [{"type": "text", "text": "What colour"}, {"type": "text", "text": "is the sky?"}]},
)
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
PICTURED = ({"role": "user", "content": [{"type": "text", "text": "What is this?"}, PICTURE]},)


def has_parts(asked: Asked) -> bool:
    return any(isinstance(said.get("content"), list) for said in asked.messages)


DEEPSEEK_PARTS = error(
    "Failed to deserialize the JSON body into the target type: messages[0]: invalid type: sequence, expected a string"
    " at line 1 column 99"
)
CONTENTS = (
    Row(25, "parts-deepseek", "takes strings alone as content (DeepSeek)", refusing(has_parts, DEEPSEEK_PARTS),
        messages=PARTS),
    Row(25, "parts-groq", "the same (Groq)", refusing(has_parts, error(
        "'messages.0' : for 'role:user' the following must be satisfied[('messages.0.content' : value must be a"
        " string)]")), messages=PARTS),
    Row(25, "parts-ollama", "the same (Ollama)", refusing(has_parts, error(
        "json: cannot unmarshal array into Go struct field Message.messages.content of type string")), messages=PARTS),
    Row(25, "parts-cloudflare", "the same (Cloudflare)", refusing(has_parts, {"success": False, "result": None,
        "errors": [{"code": 5006, "message": "Type mismatch of '/messages/0/content', 'array' not in 'string'"}]}),
        messages=PARTS),
    Row(25, "parts-picture", "the same, asked about a picture", refusing(has_parts, DEEPSEEK_PARTS),
        Failure((400,), words="expected a string"), messages=PICTURED),
)  # fmt: skip


def has_null(asked: Asked) -> bool:
    return any(said.get("role") == "assistant" and said.get("content", "") is None for said in asked.messages)


WITHOUT = (ASKED, {"role": "assistant", "tool_calls": [CALL]}, TOLD)
REPLAYED = (*GREETING, {"role": "assistant", "content": "Blue.", "reasoning_content": "I looked."},
            {"role": "user", "content": "And now?"})  # fmt: skip


def replays(asked: Asked) -> bool:
    return any("reasoning_content" in said for said in asked.messages)


HISTORY = (
    Row(26, "null-lmstudio", "takes no `content: null` beside tool calls (LM Studio)", refusing(has_null, {
        "error": "Invalid 'content': 'content' field must be a string or an array of objects."}),
        messages=CONVERSATION),
    Row(26, "null-ollama", "the same (Ollama)", refusing(has_null, error("invalid message content type: <nil>")),
        messages=CONVERSATION),
    Row(26, "content-missing", "wants a `content` beside tool calls (vLLM)", refusing(
        lambda asked: any("content" not in said for said in asked.messages), {"detail": [
            {"type": "missing", "loc": ["body", "messages", 1, "content"], "msg": "Field required"}]}, 422),
        messages=WITHOUT),
    Row(27, "replayed-mistral", "takes no reasoning back (Mistral)", refusing(replays, {
        "object": "error", "type": "invalid_request_error", "param": None, "code": "3001", "message": {"detail": [
            {"type": "extra_forbidden", "loc": ["body", "messages", 1, "assistant", "reasoning_content"],
             "msg": "Extra inputs are not permitted", "input": "I looked."}]}}, 422), messages=REPLAYED),
    Row(27, "replayed-groq", "the same (Groq)", refusing(replays, error(
        "'messages.1' : for 'role:assistant' the following must be satisfied[('messages.1' : property"
        " 'reasoning_content' is unsupported)]")), messages=REPLAYED),
    Row(27, "replayed-cerebras", "the same (Cerebras)", refusing(replays, {
        "message": "messages.1.assistant.reasoning_content: property 'messages.1.assistant.reasoning_content' is"
                   " unsupported", "type": "invalid_request_error", "param": "validation_error",
        "code": "wrong_api_format"}), messages=REPLAYED),
    Row(27, "replayed-wanted", "wants the reasoning back (DeepSeek)", refusing(lambda asked: not replays(asked), error(
        "The `reasoning_content` in the thinking mode must be passed back to the API.")),
        Failure((400,), words="must be passed back"), messages=CONVERSATION),
    Row(39, "short-ids", "wants tool ids of nine letters and digits (Mistral)", refusing(
        lambda asked: not has_short_ids(asked), {"object": "error", "type": "invalid_function_call", "param": None,
        "message": "Tool call id was call_abc-1 but must be a-z, A-Z, 0-9, with a length of 9.", "code": "3280"}),
        messages=CONVERSATION),
)  # fmt: skip


def has_short_ids(asked: Asked) -> bool:
    called = [call["id"] for said in asked.messages for call in said.get("tool_calls") or ()]
    told = [said["tool_call_id"] for said in asked.messages if said.get("role") == "tool"]
    return called == told and all(re.fullmatch("[a-zA-Z0-9]{9}", known) for known in called)


def shows(asked: Asked, *schemes: str) -> bool:
    """Whether a picture stands in the conversation, as a part, by a URL of one of these schemes."""
    parts = [part for said in asked.messages if isinstance(said["content"], list) for part in said["content"]]
    urls = [part["image_url"]["url"] for part in parts if part.get("type") == "image_url"]
    return bool(urls) and all(url.startswith(schemes) for url in urls)


def sees(asked: Asked) -> Reply:
    if asked.has("images") or any("images" in said for said in asked.messages):
        return plain(error("Unrecognized request argument supplied: images"), 400)
    return honest(asked) if shows(asked, "data:image/png;base64,") else plain(error("invalid image input"), 400)


IMAGES = (
    Row(28, "images", "knows no `images` beside the conversation", sees,
        body={"images": [f"data:image/png;base64,{PIXEL}"]}),
    Row(28, "images-bare", "the same, as bare base64 (Ollama)", sees, body={"images": [PIXEL]}),
    Row(28, "images-message", "the same, in a message", sees,
        messages=({"role": "user", "content": "What is this?", "images": [PIXEL]},)),
)  # fmt: skip

THINKING = "The tool_choice parameter does not support being set to required or object in thinking mode"
SCHEMA = {"type": "json_schema", "json_schema": {"name": "sky", "schema": {"type": "object"}}}
CLAMPED = (
    "This model's maximum context length is 6048 tokens. However, you requested 6616 tokens (568 in the messages, 6048"
    " in the completion). Please reduce the length of the messages or completion."
)
CHOICES = (
    Row(40, "tool-choice", "takes no forced tool while it thinks", refusing(
        lambda asked: asked.body.get("tool_choice", "auto") != "auto", error(
        f"<400> InternalError.Algo.InvalidParameter: {THINKING}", code="invalid_parameter_error")), ANSWERED,
        body=TOOLS | {"tool_choice": "required"}, route="opted", is_lasting=False),
    Row(41, "json-object", "knows `json_schema` and `text` alone (LM Studio)", refusing(
        lambda asked: asked.body.get("response_format", {}).get("type") == "json_object",
        {"error": "'response_format.type' must be 'json_schema' or 'text'"}),
        body={"response_format": {"type": "json_object"}}, route="opted"),
    Row(41, "json-schema", "knows no `json_schema` (DeepSeek)", refusing(
        lambda asked: asked.body.get("response_format", {}).get("type") == "json_schema",
        error("This response_format type is unavailable now")), body={"response_format": SCHEMA}, route="opted"),
    Row(42, "parallel", "knows no `parallel_tool_calls` (o3-mini)", refusing(is_set("parallel_tool_calls"), error(
        "Unsupported parameter: 'parallel_tool_calls' is not supported with this model.", "parallel_tool_calls",
        PARAMETER)), ANSWERED, body=TOOLS | {"parallel_tool_calls": True}),
    Row(43, "room", "has less room than `max_tokens` (vLLM)", refusing(
        lambda asked: asked.body.get("max_tokens", 0) > 5480, {
            "object": "error", "message": CLAMPED, "type": "BadRequestError", "param": None, "code": 400}),
        body={"max_tokens": 6048}, route="opted", is_lasting=False),
)  # fmt: skip

ROWS = (
    *STREAM_ROWS,
    *LENGTHS,
    *TEMPERATURES,
    *(Row(14, f"field-{name}", f"an unknown field (`seed`), in the words of {who}",
          refusing(is_set("seed"), document, status), body={"seed": 7})
      for name, (who, document, status) in FIELDS.items()),
    *OPTIONS,
    *ROLES,
    *CONTENTS,
    *HISTORY,
    *IMAGES,
    *CHOICES,
)  # fmt: skip
