"""Rows 5, 6, 8, 9, 11 to 16, 22 to 28 and 39 to 43: upstreams that reject a part of the request."""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from tests.e2e.quirks.replies import USAGE, Reply, Request, Serve, compliant, error, json_reply, rejecting
from tests.e2e.quirks.row import GREETING, PLAIN, Answer, Failure, Row
from tests.e2e.quirks.tools import CALL, CONVERSATION, TOOL_ANSWER, TOOL_QUESTION, TOOL_RESULT, TOOLS

VALUE, PARAMETER = "unsupported_value", "unsupported_parameter"
UNVERIFIED = (
    "Your organization must be verified to stream this model. Please go to:"
    " https://platform.openai.com/settings/organization/general and click on Verify Organization. If you just"
    " verified, it can take up to 15 minutes for access to propagate."
)


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


NO_MAX_TOKENS = error(
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "max_tokens",
    PARAMETER,
)
ONLY_ONE = error(
    "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is supported.",
    "temperature",
    VALUE,
)
NO_TRUE = error(
    "Unsupported value: 'stream' does not support true with this model. Only the default (false) value is supported.",
    "stream",
    VALUE,
)
NO_WHOLE = error(
    "This model only support stream mode, please enable the stream parameter to access the model. ",
    code="invalid_parameter_error",
)

STREAM_ROWS = (
    Row(5, "no-stream", "rejects `stream: true` (Azure o3-mini)", rejecting(streams, NO_TRUE)),
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
    Row(8, "stream-only", "rejects all but streams (DashScope)",
        rejecting(lambda request: not request.stream, NO_WHOLE)),
    Row(8, "stream-only-tools", "the same, answering with tool calls",
        rejecting(lambda request: not request.stream, NO_WHOLE), TOOL_ANSWER, body=TOOLS),
    Row(9, "thinks-in-streams", "thinks in streams alone (DashScope)", rejecting(
        lambda request: not request.stream and request.body.get("enable_thinking") is not False,
        error("parameter.enable_thinking must be set to false for non-streaming calls",
              code="invalid_parameter_error"))),
)  # fmt: skip

LENGTHS = (
    Row(11, "max-tokens", "requires `max_completion_tokens`", rejecting(is_set("max_tokens"), NO_MAX_TOKENS),
        body={"max_tokens": 50}),
    Row(12, "max-completion-tokens", "requires `max_tokens` (Azure, an old api-version)",
        rejecting(is_set("max_completion_tokens"),
                 error("Unrecognized request argument supplied: max_completion_tokens")),
        body={"max_completion_tokens": 50}),
)  # fmt: skip

OTHERS = (
    Row(13, "temperature", "accepts only its default temperature (gpt-5)", rejecting(is_set("temperature"), ONLY_ONE),
        body={"temperature": 0.2}),
    Row(14, "field", "rejects an unknown field", rejecting(is_set("seed"), error("Unknown parameter: 'seed'.", "seed")),
        body={"seed": 7}),
)  # fmt: skip

INCLUDE_USAGE = {"stream_options": {"include_usage": True}}
WITH_USAGE = is_set("stream_options")
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
)  # fmt: skip


def role(*names: str) -> Callable[[Request], bool]:
    return lambda request: any(message.get("role") in names for message in request.messages)


WITH_DEVELOPER = ({"role": "developer", "content": "Be brief."}, *GREETING)
WITH_SYSTEM = ({"role": "system", "content": "Be brief."}, *GREETING)
TWO_USER_MESSAGES = (*GREETING, {"role": "user", "content": "And the sea?"})
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
    Row(23, "system", "rejects the role `system`", rejecting(role("system"), NO_SYSTEM), messages=WITH_SYSTEM),
    Row(23, "system-and-developer", "rejects `developer` as well (o1-mini)", rejecting_first(
        (role("system"), NO_SYSTEM), (role("developer"), NO_DEVELOPER)), messages=WITH_SYSTEM),
    Row(24, "alternate", "requires roles that alternate", rejecting(repeats_a_role, {
        "error": {"message": ALTERNATE, "type": "BadRequestError", "param": None, "code": 400}}),
        messages=TWO_USER_MESSAGES),
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
    Row(26, "content-missing", "requires a `content` with tool calls (vLLM)", rejecting(
        lambda request: any("content" not in message for message in request.messages), {"detail": [
            {"type": "missing", "loc": ["body", "messages", 1, "content"], "msg": "Field required"}]}, 422),
        messages=CONTENT_MISSING),
    Row(27, "replayed-mistral", "rejects reasoning back (Mistral)", rejecting(replays, {
        "object": "error", "type": "invalid_request_error", "param": None, "code": "3001", "message": {"detail": [
            {"type": "extra_forbidden", "loc": ["body", "messages", 1, "assistant", "reasoning_content"],
             "msg": "Extra inputs are not permitted", "input": "I looked."}]}}, 422), messages=WITH_REASONING),
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
    Row(28, "images-message", "the same, in a message", requires_image,
        messages=({"role": "user", "content": "What is this?", "images": [PIXEL]},)),
)  # fmt: skip

CHOICES = (
    Row(42, "parallel", "does not support `parallel_tool_calls` (o3-mini)", rejecting(is_set("parallel_tool_calls"),
        error(
        "Unsupported parameter: 'parallel_tool_calls' is not supported with this model.", "parallel_tool_calls",
        PARAMETER)), TOOL_ANSWER, body=TOOLS | {"parallel_tool_calls": True}),
)  # fmt: skip

ROWS = (
    *STREAM_ROWS,
    *LENGTHS,
    *OTHERS,
    *OPTIONS,
    *ROLES,
    *CONTENTS,
    *HISTORY,
    *IMAGES,
    *CHOICES,
)
