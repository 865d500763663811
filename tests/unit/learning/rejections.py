"""Refusals that upstreams really sent: status, body, the refused request, and the request that is accepted in the end.

The bodies come from docs and issue threads; each row names its source.
"""

import json
from dataclasses import dataclass
from typing import Any

from gatepass.replies.error_body import read_error_body
from gatepass.types import Call, Operation, UpstreamErrorBody
from tests.rows import CHAT, EMBEDDINGS
from tests.unit.normalize.calls import a_call

USER = {"role": "user", "content": "hi"}
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
CALLS = [{"id": "call_abc", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
ASKED = {"role": "assistant", "content": None, "tool_calls": CALLS}


@dataclass(frozen=True)
class Case:
    """`becomes` holds the members of the body that differ afterwards, with None for removed ones. `calls` is how many
    the request costs; a refusal that no change repairs has one more for each change that is tried in vain.
    """

    name: str
    body: Any
    request: dict[str, Any]
    becomes: dict[str, Any]
    adapted: tuple[str, ...]
    status: int = 400
    max_inputs: int | None = None
    operation: Operation = CHAT
    calls: int = 2

    @property
    def call(self) -> Call:
        usual: Any = {CHAT: {"messages": [USER]}, EMBEDDINGS: {"input": ["a", "b", "c"]}}.get(self.operation, {})
        body = {"model": "m", **usual, **self.request}
        return a_call(json.dumps(body).encode(), self.operation, stream=bool(body.get("stream")))

    @property
    def error_body(self) -> UpstreamErrorBody:
        error_body = read_error_body(self.body, refused=True)
        assert error_body is not None
        return error_body

    @property
    def expected(self) -> dict[str, Any]:
        """The body after the change, by value."""
        whole = {**json.loads(self.call.body), **self.becomes}
        return {name: value for name, value in whole.items() if value is not None}


def openai(message: str, param: str | None = None, code: Any = None, kind: str = "invalid_request_error") -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def vllm(message: str) -> Any:
    return {"object": "error", "message": message, "code": 400}


def gemini(message: str) -> Any:
    return [{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}]


def no_role(name: str) -> Any:
    text = f"Unsupported value: 'messages[0].role' does not support '{name}' with this model."
    return openai(text, "messages[0].role", "unsupported_value")


def unsupported(name: str, hint: str = "") -> str:
    return f"Unsupported parameter: '{name}' is not supported with this model.{hint}"


def pydantic(*locs: list[Any], kind: str = "extra_forbidden", msg: str = "Extra inputs are not permitted") -> Any:
    return {"detail": [{"type": kind, "loc": ["body", *loc], "msg": msg, "input": 1} for loc in locs]}


STREAM = (
    "Unsupported value: 'stream' does not support true with this model. Only the default (false) value is supported."
)
VERIFY = (
    "Your organization must be verified to stream this model. Please go to: "
    "https://platform.openai.com/settings/organization/general and click on Verify Organization. "
    "If you just verified, it can take up to 15 minutes for access to propagate."
)
USE = " Use 'max_completion_tokens' instead."
STREAMS = {"stream": True, "stream_options": {"include_usage": True}}
UNSTREAMS = {"stream": False, "stream_options": None}
DASHSCOPE_BATCH = (
    "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should not be larger than 2.:"
    " input.contents"
)
OPENAI_ROLES = "['system','assistant','user','tool','function']"


def synth(name: str, body: Any) -> Case:
    return Case(name, body, STREAMS, UNSTREAMS, ("stream=synth",))


def relayed(raw: str) -> Any:
    return {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw}}}


def dropped(name: str, body: Any, member: str, value: Any, **more: Any) -> Case:
    return Case(name, body, {member: value}, {member: None}, (f"drop={member}",), **more)


def renamed(name: str, body: Any, member: str, to: str, **more: Any) -> Case:
    return Case(name, body, {member: 5}, {member: None, to: 5}, (f"rename={member}>{to}",), **more)


ONLY_FALSE = "Unsupported value: 'stream' does not support true with this model. Supported values are: false."
STREAM_ROWS = (
    synth("5 OpenAI", openai(STREAM, "stream", "unsupported_value")),
    synth("5 Azure's other ending", openai(ONLY_FALSE)),
    synth("5 in words", {"error": "This model does not support streaming."}),
    synth("6 OpenAI", openai(VERIFY, "stream", "unsupported_value")),
    synth("6 OpenRouter nests it", relayed(json.dumps(openai(VERIFY, "stream", "unsupported_value")))),
    synth("6 quoted without JSON", relayed(VERIFY)),
    Case(
        "8 DashScope",
        openai(
            "This model only support stream mode, please enable the stream parameter to access the model. ",
            code="invalid_parameter_error",
        ),
        {},
        STREAMS,
        ("stream=aggregate",),
    ),
    Case(
        "9 DashScope's thinking",
        openai(
            "parameter.enable_thinking must be set to false for non-streaming calls", code="invalid_parameter_error"
        ),
        {"stream": False, "enable_thinking": True},
        STREAMS,
        ("stream=aggregate",),
    ),
    Case(
        "9 the reverse",
        openai(
            "<400> InternalError.Algo.InvalidParameter: The value of the enable_thinking parameter is restricted to"
            " True.",
            code="invalid_parameter_error",
        ),
        {"enable_thinking": False},
        {"enable_thinking": True},
        ("set=enable_thinking>true",),
    ),
)

MAX, MAX_NEW = "max_tokens", "max_completion_tokens"
MEMBER_ROWS = (
    renamed("11 OpenAI", openai(unsupported(MAX, USE), MAX, "unsupported_parameter"), MAX, MAX_NEW),
    Case(
        "11 both are there",
        openai(unsupported(MAX, USE), MAX, "unsupported_parameter"),
        {MAX: 5, MAX_NEW: 7},
        {MAX: None},
        ("rename=max_tokens>max_completion_tokens",),
    ),
    renamed("12 Azure", openai(f"Unrecognized request argument supplied: {MAX_NEW}"), MAX_NEW, MAX),
    renamed("12 Mistral", {"object": "error", "message": pydantic([MAX_NEW])}, MAX_NEW, MAX, status=422),
    *(
        dropped(f"13 {name}", body, "temperature", 0.2)
        for name, body in {
            "OpenAI's value": openai(
                "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is"
                " supported.",
                "temperature",
                "unsupported_value",
            ),
            "in words alone": openai("Unsupported value: 'temperature' does not support 1E-8 with this model."),
            "OpenAI's parameter": openai(unsupported("temperature"), "temperature", "unsupported_parameter"),
            "Kimi": openai("invalid temperature: only 1 is allowed for this model"),
            "GLM": {"error": {"code": "1214", "message": "temperature参数非法。请检查文档。"}},
        }.items()
    ),
    *(
        dropped(f"14 {name}", body, "seed", 1, status=status)
        for name, status, body in (
            ("OpenAI's words", 400, openai("Unknown parameter: 'seed'.")),
            ("Azure", 400, openai("Unrecognized request argument supplied: seed. Please contact us through Azure.")),
            ("Mistral", 422, pydantic(["seed"])),
            (
                "Azure Foundry",
                422,
                {"error": {"code": "Invalid input", "message": json.dumps(pydantic(["seed"])), "status": 422}},
            ),
            ("Cerebras", 400, {"message": "seed: property 'seed' is unsupported", "param": "validation_error"}),
            ("zod in words", 400, {"error": "Unrecognized key(s) in object: 'seed'"}),
            ("OpenCode", 400, openai("Extra inputs are not permitted, field: 'seed'")),
        )
    ),
    Case(
        "14 Gemini lists those of the top level",
        gemini(
            'Invalid JSON payload received. Unknown name "store": Cannot find field.\n'
            "Invalid JSON payload received. Unknown name \"seed\" at 'seed': Cannot find field.\n"
            "Invalid JSON payload received. Unknown name \"x\" at 'messages[0]': Cannot find field."
        ),
        {"store": False, "seed": 1, "x": 1},
        {"store": None, "seed": None},
        ("drop=store", "drop=seed"),
    ),
    Case(
        "14 one inside",
        pydantic(["chat_template_kwargs", "enable_thinking"]),
        {"chat_template_kwargs": {"enable_thinking": False, "x": 1}},
        {"chat_template_kwargs": {"x": 1}},
        ("drop=chat_template_kwargs.enable_thinking",),
        status=422,
    ),
    Case(
        "16 Azure Foundry's Mistral",
        pydantic(["stream_options", "include_usage"]),
        STREAMS,
        {"stream_options": None},
        ("drop=stream_options",),
        status=422,
    ),
)


def zod(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "path": ["messages", 0, "role"], "message": message}


def chat(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


REPLAYED = {"role": "assistant", "content": "x", "reasoning_content": "y"}
REPLAYED_RULES = ("drop=messages[].reasoning_content",)
DEVELOPER = {"role": "developer", "content": "d"}
VALUE, VALUES = (
    "Invalid value: 'developer'.",
    "Supported values are: 'system', 'assistant', 'user', 'function', and 'tool'",
)
ZOD_ROLES = "Invalid enum value. Expected 'system' | 'user' | 'assistant' | 'tool', received 'developer'"
ZOD_4_ROLES = 'Invalid option: expected one of "system"|"user"|"assistant"|"tool"'
TAG = "Input tag 'developer' found using 'role' does not match any of the expected tags"
SYSTEM = {"role": "system", "content": "d"}

MESSAGE_ROWS = (
    *(
        Case(f"22 {name}", body, chat(DEVELOPER, USER), chat(SYSTEM, USER), ("role=developer>system",), status=status)
        for name, status, body in (
            ("a clone", 400, openai(f"developer is not one of {OPENAI_ROLES} - 'messages.[0].role'")),
            (
                "DeepSeek",
                422,
                openai(
                    "Failed to deserialize the JSON body into the target type: messages[0].role: unknown variant"
                    " `developer`, expected one of `system`, `user`, `assistant`, `tool`"
                ),
            ),
            ("a template", 400, vllm("Unexpected message role.")),
            ("GLM", 400, {"error": {"code": "1214", "message": "[1214] Incorrect role information"}}),
            ("OpenAI, the value", 400, openai(f"{VALUE} {VALUES}.", "messages[0].role", "invalid_value")),
            (
                "Volcengine",
                400,
                openai(
                    "The parameter `messages.role` specified in the request are not valid: invalid value: `developer`,"
                    " supported values are: `system`, `assistant`, `user`, `tool`. Request id: 02177",
                    code="InvalidParameter",
                ),
            ),
            ("Vercel", 400, openai(ZOD_ROLES, "messages.0.role", "invalid_request_error")),
            ("zod", 400, {"error": [zod("invalid_enum_value", ZOD_ROLES)]}),
            ("zod 4", 400, {"error": [zod("invalid_value", ZOD_4_ROLES)]}),
            (
                "a gateway",
                400,
                openai(
                    "invalid parameter 'messages[0].role': invalid role 'developer', must be one of: system, user,"
                    " assistant, tool",
                    "",
                    "400002",
                    "gateway_error",
                ),
            ),
            ("no list", 400, openai("messages[0].role: unsupported role: developer")),
            *(
                (f"Pydantic's {kind}", 422, pydantic(["messages", 0, *branch, "role"], kind=kind, msg=msg))
                for kind, branch, msg in (
                    ("literal_error", [], "Input should be 'system', 'user' or 'assistant'"),
                    ("literal_error of a union", ["ChatCompletionSystemMessageParam"], "Input should be 'system'"),
                    ("enum", [], "Input should be 'system', 'user' or 'assistant'"),
                    ("value_error.const", [], "unexpected value; permitted: 'system', 'user'"),
                    ("type_error.enum", [], "value is not a valid enumeration member; permitted: 'system', 'user'"),
                )
            ),
            ("Mistral", 422, pydantic(["messages", 0], kind="union_tag_invalid", msg=TAG)),
            ("SiliconFlow", 400, {"code": 20015, "message": f"{TAG}: 'system', 'user'", "data": None}),
            (
                "vLLM's list",
                400,
                openai(
                    "[{'type': 'literal_error', 'loc': ('body', 'messages', 0, 'role'), 'msg': \"Input should be"
                    " 'system', 'user' or 'assistant'\", 'input': 'developer'}]"
                ),
            ),
            (
                "pydantic's text",
                400,
                openai(
                    "1 validation error for ChatRequest\nmessages.0.role\n  Input should be 'system' or 'user'"
                    " [type=literal_error, input_value='developer', input_type=str]"
                ),
            ),
            ("Groq", 400, openai("'messages.0' : discriminator property 'role' has invalid value")),
            ("OpenAI", 400, no_role("developer")),
        )
    ),
    Case("23", no_role("system"), chat(SYSTEM, USER), chat(DEVELOPER, USER), ("role=system>developer",)),
    *(
        Case(
            f"25 {name}",
            body,
            chat({"role": "system", "content": PARTS}, USER),
            chat({"role": "system", "content": "a\n\nb"}, USER),
            ("content=text",),
            status=status,
        )
        for name, status, body in (
            ("DeepSeek", 422, openai("messages[2]: invalid type: sequence, expected a string at line 1 column 9")),
            (
                "Groq",
                400,
                openai(
                    "'messages.0' : for 'role:system' the following must be satisfied[('messages.0.content' : value"
                    " must be a string)]"
                ),
            ),
            (
                "Ollama",
                400,
                openai("json: cannot unmarshal array into Go struct field Message.messages.content of type string"),
            ),
            (
                "Cloudflare",
                400,
                {
                    "success": False,
                    "errors": [
                        {"code": 5006, "message": "Type mismatch of '/messages/0/content', 'array' not in 'string'"}
                    ],
                },
            ),
            (
                "FastAPI",
                422,
                pydantic(["messages", 0, "content"], kind="string_type", msg="Input should be a valid string"),
            ),
        )
    ),
    *(
        Case(
            f"26 {name}",
            body,
            chat(USER, ASKED),
            chat(USER, {**ASKED, "content": ""}),
            ("content=empty",),
            status=status,
        )
        for name, status, body in (
            (
                "LM Studio",
                400,
                {"error": "Invalid 'content': 'content' field must be a string or an array of objects."},
            ),
            ("Ollama", 400, openai("invalid message content type: <nil>")),
            (
                "OpenAI",
                400,
                openai("Invalid value for 'content': expected a string, got null.", "messages.[1].content"),
            ),
            ("FastAPI", 422, pydantic(["messages", 1, "content"], kind="missing", msg="Field required")),
        )
    ),
    *(
        Case(
            f"27 {name}",
            body,
            chat(USER, REPLAYED),
            chat(USER, {"role": "assistant", "content": "x"}),
            REPLAYED_RULES,
            status=status,
        )
        for name, status, body in (
            (
                "Mistral",
                422,
                {"object": "error", "message": pydantic(["messages", 1, "assistant", "reasoning_content"])},
            ),
            ("Groq", 400, openai("'messages.1' : property 'reasoning_content' is unsupported")),
            (
                "Cerebras",
                400,
                {
                    "message": "messages.1.assistant.reasoning_content: property"
                    " 'messages.1.assistant.reasoning_content' is unsupported",
                    "type": "invalid_request_error",
                    "param": "validation_error",
                    "code": "wrong_api_format",
                },
            ),
        )
    ),
    Case(
        "27 RAGFlow's index of a tool call",
        pydantic(["messages", 1, "assistant", "tool_calls", 0, "index"]),
        chat(USER, {**ASKED, "tool_calls": [{**CALLS[0], "index": 0}]}),
        chat(USER, ASKED),
        ("drop=messages[].tool_calls[].index",),
        status=422,
    ),
    Case(
        "39",
        openai(
            "Tool call id was call_abc but must be a-z, A-Z, 0-9, with a length of 9.",
            kind="invalid_function_call",
            code="3280",
        ),
        chat(USER, ASKED, {"role": "tool", "tool_call_id": "call_abc", "content": "r"}),
        chat(
            USER,
            {**ASKED, "tool_calls": [{**CALLS[0], "id": "uCUSbrUmq"}]},
            {"role": "tool", "tool_call_id": "uCUSbrUmq", "content": "r"},
        ),
        ("tool_ids=short",),
    ),
)

TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"}


def batch(name: str, body: Any, limit: int, status: int = 400, entry: str | None = None) -> Case:
    return Case(name, body, {}, {}, (entry or f"split={limit}",), status, limit, EMBEDDINGS)


EMBEDDING_ROWS = (
    batch("18 DashScope", openai(DASHSCOPE_BATCH, kind="InvalidParameter", code="InvalidParameter"), 2),
    batch("18 a gateway", openai("The batch size must not exceed 2."), 2),
    batch("18 TEI", {"error": "batch size 3 > maximum allowed batch size 2", "error_type": "Validation"}, 2, 413),
    batch("18 SiliconFlow", {"code": 20042, "message": "input batch size 3 > maximum allowed batch size 2"}, 2),
    batch("18 Azure of old", openai("Too many inputs. The max number of inputs is 1. We hope to increase it soon."), 1),
    batch("18 Gemini", gemini("* BatchEmbedContentsRequest.requests: at most 2 requests can be in one batch\n"), 2),
    batch(
        "18 OpenAI's inputs",
        openai(
            "Invalid 'input': array too long. Expected an array with maximum length 2, but got an array with length 3"
            " instead.",
            "input",
            "array_above_max_length",
        ),
        2,
    ),
    batch(
        "18 OpenAI's tokens",
        openai(
            "Requested 416,735 tokens, max 300,000 tokens per request",
            code="max_tokens_per_request",
            kind="max_tokens_per_request",
        ),
        1,
        entry="split=64%",
    ),
    *(
        dropped(f"19 {name}", vllm(message), "dimensions", 256, operation=EMBEDDINGS)
        for name, message in (
            ("vLLM of old", "dimensions is currently not supported"),
            ("vLLM", 'Model "bge-m3" does not support matryoshka representation, changing output dimensions'),
        )
    ),
    batch("21 Zhipu of old", {"error": {"code": "1214", "message": "prompt 参数非法。请检查文档。"}}, 1),
)

ROWS = (*STREAM_ROWS, *MEMBER_ROWS, *MESSAGE_ROWS, *EMBEDDING_ROWS)

FILTERED = (
    "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Unsupported"
    " parameter: 'temperature'"
)
EVERYTHING = {
    **STREAMS,
    "temperature": 0.2,
    "tools": TOOLS["tools"],
    "stop": ["x"],
    **chat(SYSTEM, DEVELOPER, USER, REPLAYED),
}


PICTURE = {"role": "user", "content": [*PARTS, {"type": "image_url", "image_url": {"url": "https://h/a.png"}}]}
AUDIO = {"role": "assistant", "audio": {"id": "a"}}
SPEECH = {"modalities": ["text", "audio"]}
REFUSED = "property 'reasoning_content' is unsupported."
WANTED = "The `reasoning_content` in the thinking mode must be passed back to the API."
MISSED = "Missing `reasoning_content` field in the assistant message at message index 2"


def never(name: str, body: Any, status: int = 400, request: Any = None, calls: int = 1) -> Case:
    return Case(name, body, EVERYTHING if request is None else request, {}, (), status, calls=calls)


NOTHING_ROWS = (
    *(
        never(f"status {status}", openai(STREAM, "stream", "unsupported_value"), status)
        for status in (401, 403, 404, 408, 409, 413, 429, 500, 502, 503)
    ),
    never("38 content filter", openai(FILTERED, "prompt", "content_filter")),
    never("38 without its code", openai(FILTERED)),
    never("6 must be verified to use", openai(VERIFY.replace("to stream", "to use"), "stream", "unsupported_value")),
    *(
        never(f"code {code}", openai(unsupported("temperature"), "temperature", code))
        for code in (
            *("context_length_exceeded", "ContextWindowExceededError", "insufficient_quota", "insufficient_user_quota"),
            *("invalid_api_key", "model_not_found", "data_inspection_failed", "DataInspectionFailed"),
            *("invalid_prompt", "moderation_blocked"),
        )
    ),
    never("type instead of code", openai(unsupported("temperature"), kind="insufficient_quota")),
    never("24 advised only", openai("Conversation roles must alternate user/assistant"), request=chat(USER, USER)),
    *(
        never(f"opt-in {name}", openai(unsupported(name), name, "unsupported_parameter"))
        for name in ("tools", "stop", "model", "messages")
    ),
    never("the form of a content", openai(unsupported("messages[0].content"), "messages[0].content"), calls=3),
    never("one of several is opt-in", {"message": "Unsupported parameter(s): temperature, tools"}, calls=2),
    never("a member that is not there", openai(unsupported("seed"), "seed", "unsupported_parameter")),
    never("27 DeepSeek wants it back", openai(f"'messages.3' : {REFUSED} {WANTED}")),
    never("27 DeepSeek misses it", openai(f"'messages.3' : {REFUSED} {MISSED}")),
    never("a filter by its words", openai("The prompt was blocked.", code="content_filter")),
    never("25 pictures stay", openai("messages[0]: invalid type: sequence, expected a string"), request=chat(PICTURE)),
    never("an audio answer that is referred to", pydantic(["messages", 1, "assistant", "audio"]), 422, chat(AUDIO)),
    *(
        never(f"{name} that matters", openai(text, name, code), request={name: value})
        for name, value in {
            "modalities": ["text", "audio"],
            "tool_choice": "required",
            "n": 3,
            "response_format": {"type": "json_object"},
        }.items()
        for text, code in ((unsupported(name), "unknown_parameter"), (f"No {name} here.", None))
    ),
    never("calls that matter", openai("messages[1].tool_calls is not supported"), request=chat(USER, ASKED)),
    never("a value of another member", openai(VALUE, "metadata.for", "invalid_value"), request=chat(DEVELOPER, USER)),
    never("a value that is a role too", openai(VALUE), request=chat(DEVELOPER, USER), calls=2),
    never("a relay that quotes the client", openai('Your request {"error":"no"} is odd')),
    never("nothing known", openai("Something else.")),
)
