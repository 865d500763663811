"""Refusals of entries of `tools` and of shapes of messages, with the request that each upstream accepts.

`TOOLS` has 14 rows: the refused entry of `tools` is neither a function nor a custom tool. `SHAPES` has rows about
messages, blocks of content, limits of tokens and streams.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Refuse = Callable[[dict[str, Any]], tuple[int, Any] | None]


@dataclass(frozen=True)
class Row:
    """An upstream that refuses `request` and accepts `accepted`.

    `protocol` is "chat", "messages", "responses" or "embeddings". `accepted` holds the bodies that are sent in the end:
    one, or the parts of a batch. `learns` describes the change that the next request needs.
    """

    name: str
    protocol: str
    request: dict[str, Any]
    refuse: Refuse
    accepted: tuple[dict[str, Any], ...]
    learns: str
    new_ids: bool = False

    def is_accepted(self, body: dict[str, Any]) -> bool:
        """Return whether `body` is one of the expected bodies, and not refused. An absent `stream` equals False.

        With `new_ids`, tool calls may have any ids that the upstream accepts, if each result still has its call's id.
        """
        return self.refuse(body) is None and any(
            comparable(body, self.new_ids) == comparable(one, self.new_ids) for one in self.accepted
        )


def comparable(body: dict[str, Any], new_ids: bool) -> dict[str, Any]:
    one = copy.deepcopy(body)
    if one.get("stream") is False:
        del one["stream"]
    if new_ids:
        numbers: dict[str, str] = {}
        for message in one["messages"]:
            for call in message.get("tool_calls", ()):
                call["id"] = numbers.setdefault(call["id"], f"id {len(numbers)}")
            if "tool_call_id" in message:
                message["tool_call_id"] = numbers.setdefault(message["tool_call_id"], f"id {len(numbers)}")
    return one


def openai(
    message: str, param: str | None = None, code: Any = None, kind: str | None = "invalid_request_error"
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def anthropic(message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message}, "request_id": "req_011"}


def pydantic(kind: str, loc: list[Any], text: str, value: Any = None) -> dict[str, Any]:
    return {"detail": [{"type": kind, "loc": ["body", *loc], "msg": text, "input": value}]}


def when(is_refused: Callable[[dict[str, Any]], Any], error: Any, status: int = 400) -> Refuse:
    return lambda body: (status, error) if is_refused(body) else None


NO_BUDGET = "thinking.adaptive.budget_tokens: Extra inputs are not permitted"

# Entries of `tools`.

ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-4-6"}
SEARCH_2025 = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
COMPUTER = {"type": "computer_20250124", "name": "computer", "display_width_px": 1280, "display_height_px": 800}
IMAGE = {"type": "image_generation", "output_format": "png"}
SEARCH = {"type": "web_search", "external_web_access": False}
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
READ = {"name": "Read", "description": "Read a file", "input_schema": SCHEMA}
EDIT = {"name": "Edit", "description": "Edit a file", "input_schema": SCHEMA}
GLOB = {"name": "Glob", "description": "Find files", "input_schema": SCHEMA}
SHELL = {
    "type": "function",
    "name": "exec_command",
    "description": "Run a command",
    "strict": False,
    "parameters": SCHEMA,
}
PLAN = {
    "type": "function",
    "name": "update_plan",
    "description": "Update the plan",
    "strict": False,
    "parameters": SCHEMA,
}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Apply a patch", "format": {"type": "text"}}
FUNCTION = {"type": "function", "function": {"name": "read_file", "description": "Read a file", "parameters": SCHEMA}}


def claude(*tools: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": "claude-sonnet-4-6",
        "max_tokens": 8000,
        "system": [{"type": "text", "text": "You are a coding agent."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Find the bug in parser.py."}]}],
        "tools": list(tools),
        "stream": True,
    }


def codex(*tools: dict[str, Any]) -> dict[str, Any]:
    question = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Find the bug."}]}
    return {
        "model": "gpt-5.3-codex",
        "instructions": "You are a coding agent.",
        "input": [question],
        "tools": list(tools),
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
    }


def chat(*tools: dict[str, Any]) -> dict[str, Any]:
    return {"model": "corp-chat", "messages": [{"role": "user", "content": "Read a.py."}], "tools": list(tools)}


def typed(*kinds: str) -> Callable[[dict[str, Any]], bool]:
    return lambda body: any(one.get("type") in kinds for one in body.get("tools", ()))


def refuse_codex_tools(body: dict[str, Any]) -> tuple[int, Any] | None:
    for index, one in enumerate(body["tools"]):
        if one["type"] in ("image_generation", "web_search"):
            return 400, openai(
                f"tools[{index}] is of a kind that this cluster never learnt to serve", f"tools[{index}]"
            )
    return None


JACKSON_TOOLS = (
    "Could not resolve type id 'mcp' as a subtype of `ai.hill.gateway.Tool`: known type ids = [function] "
    '(through reference chain: ai.hill.gateway.ChatRequest["tools"]->java.util.ArrayList[1])'
)
MCP = {"type": "mcp", "server_label": "wiki", "server_url": "https://wiki.hill.example/mcp"}
POINTER = {
    "type": "https://errors.hill.example/schema",
    "title": "Schema violation",
    "status": 422,
    "detail": "One entry fits no schema that we know.",
    "errors": [{"pointer": "#/tools/2", "detail": "fits none of 2 schemas"}],
}
ADVISOR_TAG = (
    "tools.2: Input tag 'advisor_20260301' found using 'type' does not match any of the expected tags: "
    "'bash_20250124', 'custom', 'text_editor_20250728'"
)
DROPS = "removes the entries of this type from tools, and keeps all others"

TOOLS = (
    Row(
        "advisor_by_index",
        "messages",
        claude(READ, EDIT, ADVISOR),
        when(typed("advisor_20260301"), anthropic(ADVISOR_TAG)),
        (claude(READ, EDIT),),
        DROPS,
    ),
    Row(
        "advisor_by_type",
        "messages",
        claude(ADVISOR, READ),
        when(
            typed("advisor_20260301"),
            {"message": "We know of no advisor_20260301 here", "__type": "ValidationException"},
        ),
        (claude(READ),),
        DROPS,
    ),
    Row(
        "advisor_by_name",
        "messages",
        claude(READ, ADVISOR, GLOB),
        when(typed("advisor_20260301"), anthropic("'advisor': this tool is for the vendor's own machines only")),
        (claude(READ, GLOB),),
        DROPS,
    ),
    Row(
        "search_in_pydantic_union",
        "messages",
        claude(READ, EDIT, GLOB, SEARCH_2025),
        when(
            typed("web_search_20250305"),
            pydantic(
                "extra_forbidden", ["tools", 3, "web_search_20250305", "max_uses"], "Extra inputs are not permitted", 8
            ),
            422,
        ),
        (claude(READ, EDIT, GLOB),),
        DROPS + " (or, as a smaller first try, the entry's max_uses)",
    ),
    Row(
        "computer_by_pointer",
        "messages",
        claude(READ, EDIT, COMPUTER),
        when(typed("computer_20250124"), POINTER, 422),
        (claude(READ, EDIT),),
        DROPS,
    ),
    Row(
        "search_by_dotted_type",
        "messages",
        claude(SEARCH_2025, READ),
        when(typed("web_search_20250305"), anthropic("tools.0.type: only home-made tools are served")),
        (claude(READ),),
        DROPS,
    ),
    Row(
        "image_serde",
        "responses",
        codex(SHELL, PATCH, IMAGE),
        when(
            typed("image_generation"),
            {"error": "tools: unknown variant `image_generation`, expected one of `function`, `custom`, `namespace`"},
            422,
        ),
        (codex(SHELL, PATCH),),
        DROPS,
    ),
    Row(
        "search_supported_values",
        "responses",
        codex(SHELL, PLAN, PATCH, SEARCH),
        when(
            typed("web_search"),
            openai(
                "Invalid value: 'web_search'. Supported values are: 'function' and 'custom'.",
                "tools[3].type",
                "invalid_value",
            ),
        ),
        (codex(SHELL, PLAN, PATCH),),
        DROPS,
    ),
    Row(
        "image_chinese",
        "responses",
        codex(SHELL, IMAGE, PLAN),
        when(typed("image_generation"), {"error": {"code": "1210", "message": "不支持的工具类型：image_generation"}}),
        (codex(SHELL, PLAN),),
        DROPS,
    ),
    Row(
        "search_japanese",
        "responses",
        codex(SEARCH, SHELL),
        when(typed("web_search"), {"error": {"message": "web_searchツールはご利用いただけません。", "code": "E-204"}}),
        (codex(SHELL),),
        DROPS,
    ),
    Row(
        "both_one_after_the_other",
        "responses",
        codex(SHELL, SEARCH, PATCH, IMAGE),
        refuse_codex_tools,
        (codex(SHELL, PATCH),),
        "removes both types, one per call; the second index counts without the first entry",
    ),
    Row(
        "search_everyday_words",
        "responses",
        codex(SHELL, PATCH, SEARCH),
        when(typed("web_search"), {"error": "sorry, our engine has no web search, it lives in a cellar"}),
        (codex(SHELL, PATCH),),
        DROPS,
    ),
    Row(
        "search_in_chat_loc",
        "chat",
        chat(FUNCTION, {"type": "web_search", "web_search": {"enable": True}}),
        when(typed("web_search"), pydantic("missing", ["tools", 1, "function"], "Field required"), 422),
        (chat(FUNCTION),),
        DROPS,
    ),
    Row(
        "mcp_jackson",
        "chat",
        chat(FUNCTION, MCP),
        when(typed("mcp"), {"status": 400, "error": "Bad Request", "message": JACKSON_TOOLS}),
        (chat(FUNCTION),),
        DROPS,
    ),
)

# Messages and blocks.


def talk(*messages: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"model": "corp-chat", "messages": list(messages), **members}


def message(role: str, content: Any, **members: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **members}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def called(call_id: str, path: str = "a.py") -> dict[str, Any]:
    function = {"name": "read_file", "arguments": json.dumps({"path": path})}
    return {"id": call_id, "type": "function", "function": function}


def used(call_id: str, content: Any = "") -> list[dict[str, Any]]:
    """Return an assistant's message with a call, and the result of the call."""
    return [message("assistant", content, tool_calls=[called(call_id)]), message("tool", "x = 1", tool_call_id=call_id)]


def contents(body: dict[str, Any]) -> Iterator[Any]:
    return (one.get("content") for one in body["messages"])


def roles(body: dict[str, Any]) -> list[str]:
    return [one["role"] for one in body["messages"]]


def call_ids(body: dict[str, Any]) -> Iterator[str]:
    return (call["id"] for one in body["messages"] for call in one.get("tool_calls", ()))


def blocks(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (block for one in contents(body) if isinstance(one, list) for block in one)


def bad_limit(body: dict[str, Any]) -> bool:
    return "max_tokens" in body and (body["max_tokens"] is None or body["max_tokens"] < 1)


def has_system_later(body: dict[str, Any]) -> bool:
    return "system" in roles(body)[1:]


def picture(**members: Any) -> dict[str, Any]:
    url = {"url": "https://hill.example/sign.png", **members}
    return talk(message("user", [text("What is on it?"), {"type": "image_url", "image_url": url}]))


def texts(first: int, last: int) -> dict[str, Any]:
    return {"model": "corp-embed", "input": [f"paragraph {number}" for number in range(first, last)]}


def thinking(**members: Any) -> dict[str, Any]:
    question = message("user", "Prove that the sum of two odd numbers is even.")
    return {"model": "claude-opus-4-7", "max_tokens": 16000, "messages": [question], **members}


def thought(*parts: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": "claude-sonnet-4-6",
        "max_tokens": 4000,
        "messages": [
            message("user", "Is 91 a prime?"),
            message("assistant", "No."),
            message("user", "Why?"),
            message("assistant", [*parts, text("It is 7 times 13.")]),
            message("user", "And 97?"),
        ],
        "thinking": {"type": "enabled", "budget_tokens": 2000},
    }


def reasoned(*items: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": "gpt-5.3-codex",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List the files."}]},
            *items,
            {"type": "function_call", "call_id": "call_1", "name": "exec_command", "arguments": '{"path": "."}'},
            {"type": "function_call_output", "call_id": "call_1", "output": "a.py"},
        ],
        "tools": [SHELL],
        "store": False,
        "include": ["reasoning.encrypted_content"],
    }


HELLO = message("user", "Hello")
RULES = message("system", "Answer briefly.")
THOUGHT = {"type": "thinking", "thinking": "91 = 7 * 13", "signature": "RXJzYXR6"}
REASONING = {"type": "reasoning", "id": "rs_77", "summary": [], "encrypted_content": "gAAAAABforeign"}
STREAMED = talk(RULES, HELLO, stream=True, stream_options={"include_usage": True}, temperature=0.2)
WHOLE = talk(RULES, HELLO, stream=False, temperature=0.2)
SYNTH = "asks for a whole reply and makes the stream itself"
LONG_ID = "call_" + "a1b2c3d4" * 8
ADAPTIVE = (
    '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
    '"output_config.effort" to control thinking behavior.'
)
RENAME = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."


def has_parts(body: dict[str, Any]) -> bool:
    return any(isinstance(one, list) for one in contents(body))


def streams(body: dict[str, Any]) -> bool:
    return bool(body.get("stream"))


SHAPES = (
    Row(
        "parts_go",
        "chat",
        talk(message("system", [text("Answer briefly.")]), message("user", [text("Hello"), text("Who are you?")])),
        when(
            has_parts,
            {"error": "json: cannot unmarshal array into Go struct field Message.messages.content of type string"},
        ),
        (talk(RULES, message("user", "Hello\n\nWho are you?")),),
        "joins parts that are all text to one string",
    ),
    Row(
        "parts_serde",
        "chat",
        talk(RULES, HELLO, message("assistant", "Hi"), message("user", [text("Who are you?")])),
        when(has_parts, openai("messages[3]: invalid type: sequence, expected a string at line 1 column 170"), 422),
        (talk(RULES, HELLO, message("assistant", "Hi"), message("user", "Who are you?")),),
        "joins parts that are all text to one string",
    ),
    Row(
        "null_content",
        "chat",
        talk(HELLO, *used("call_1", None)),
        when(
            lambda body: None in contents(body),
            openai("Invalid value for 'content': expected a string, got null.", "messages.[1].content"),
        ),
        (talk(HELLO, *used("call_1", "")),),
        "sends an empty string instead of null content of an assistant",
    ),
    Row(
        "empty_text",
        "messages",
        {"model": "claude-sonnet-4-6", "max_tokens": 500, "messages": [message("user", [text(""), text("Hello")])]},
        when(
            lambda body: any(one.get("text") == "" for one in blocks(body)),
            anthropic("messages.0.content.0: text content blocks must be non-empty"),
        ),
        ({"model": "claude-sonnet-4-6", "max_tokens": 500, "messages": [message("user", [text("Hello")])]},),
        "removes empty text blocks next to other blocks",
    ),
    Row(
        "developer_role",
        "chat",
        talk(message("developer", "Answer briefly."), HELLO),
        when(
            lambda body: "developer" in roles(body),
            openai("developer is not one of ['system', 'assistant', 'user', 'tool'] - 'messages.[0].role'"),
        ),
        (talk(RULES, HELLO),),
        "sends developer messages as system messages",
    ),
    Row(
        "developer_role_serde",
        "chat",
        talk(message("developer", "Answer briefly."), HELLO),
        when(
            lambda body: "developer" in roles(body),
            {"error": "unknown variant `developer`, expected one of `system`, `user`, `assistant`, `tool`"},
            422,
        ),
        (talk(RULES, HELLO),),
        "sends developer messages as system messages",
    ),
    Row(
        "system_not_first",
        "chat",
        talk(HELLO, message("assistant", "Hi"), RULES, message("user", "Who are you?")),
        when(has_system_later, {"object": "error", "message": "System message must be at the beginning.", "code": 400}),
        (talk(RULES, HELLO, message("assistant", "Hi"), message("user", "Who are you?")),),
        "moves system messages to the front",
    ),
    Row(
        "several_system_messages",
        "chat",
        talk(RULES, message("system", "Speak French."), HELLO),
        when(
            lambda body: roles(body).count("system") > 1,
            {"error": {"code": 500, "message": "Only one message may have the role system", "type": "server_error"}},
        ),
        (talk(message("system", "Answer briefly.\n\nSpeak French."), HELLO),),
        "joins system messages to one at the front",
    ),
    Row(
        "no_user_message",
        "chat",
        talk(message("system", "Write a title for: trip to Rome")),
        when(lambda body: "user" not in roles(body), openai("No user query found in messages.", code=400)),
        (talk(message("user", "Write a title for: trip to Rome")),),
        "sends the only system message as a user message",
    ),
    Row(
        "tool_call_id_too_long",
        "chat",
        talk(HELLO, *used(LONG_ID)),
        when(
            lambda body: any(len(one) > 40 for one in call_ids(body)),
            openai(
                "Invalid 'messages[1].tool_calls[0].id': string too long. At most 40 characters are allowed.",
                "messages[1].tool_calls[0].id",
                "string_above_max_length",
            ),
        ),
        (talk(HELLO, *used("a1b2c3d4e")),),
        "replaces ids of tool calls with short ones, in calls and results alike",
        new_ids=True,
    ),
    Row(
        "tool_call_id_pattern",
        "chat",
        talk(HELLO, *used("call_abc-1")),
        when(
            lambda body: any(not re.fullmatch(r"[a-zA-Z0-9]{9}", one) for one in call_ids(body)),
            {
                "object": "error",
                "message": "Tool call id was call_abc-1 but has to match ^[a-zA-Z0-9]{9}$",
                "code": "3280",
            },
        ),
        (talk(HELLO, *used("a1b2c3d4e")),),
        "replaces ids of tool calls with nine letters and digits",
        new_ids=True,
    ),
    Row(
        "foreign_signature",
        "messages",
        thought(THOUGHT),
        when(
            lambda body: any(one["type"] == "thinking" for one in blocks(body)),
            anthropic("messages.3.content.0: Invalid `signature` in `thinking` block"),
        ),
        (thought(),),
        "removes thinking blocks of other servers from earlier turns; the member thinking stays",
    ),
    Row(
        "foreign_reasoning",
        "responses",
        reasoned(REASONING),
        when(
            lambda body: any(one["type"] == "reasoning" for one in body["input"]),
            openai(
                "The encrypted content of item rs_77 could not be verified.", "input[1]", "invalid_encrypted_content"
            ),
        ),
        (reasoned(),),
        "removes reasoning items of other servers; nothing may be learned for callers with items of this server",
    ),
    Row(
        "picture_detail",
        "chat",
        picture(detail="high"),
        when(
            lambda body: any("detail" in one.get("image_url", {}) for one in blocks(body)),
            pydantic(
                "extra_forbidden",
                ["messages", 0, "user", "content", 1, "image_url", "detail"],
                "Extra inputs are not permitted",
                "high",
            ),
            422,
        ),
        (picture(),),
        "removes detail from pictures",
    ),
    Row(
        "max_tokens_minus_one",
        "chat",
        talk(HELLO, max_tokens=-1),
        when(bad_limit, openai("max_tokens must be at least 1, got -1.", "max_tokens", 400)),
        (talk(HELLO),),
        "removes max_tokens of -1 only",
    ),
    Row(
        "max_tokens_zero",
        "chat",
        talk(HELLO, max_tokens=0),
        when(bad_limit, {"error": "Input validation error: `max_tokens` must be strictly positive"}, 422),
        (talk(HELLO),),
        "removes max_tokens of 0 only",
    ),
    Row(
        "max_tokens_null",
        "chat",
        talk(HELLO, max_tokens=None),
        when(bad_limit, openai("Invalid type for 'max_tokens': an integer is expected, but got null.", "max_tokens")),
        (talk(HELLO),),
        "removes max_tokens of null only",
    ),
    Row(
        "stop_empty_text",
        "chat",
        talk(HELLO, stop=""),
        when(lambda body: body.get("stop") == "", openai("stop cannot be an empty string", "stop")),
        (talk(HELLO),),
        "removes an empty stop only",
    ),
    Row(
        "stop_empty_list",
        "chat",
        talk(HELLO, stop=[]),
        when(
            lambda body: body.get("stop") == [],
            pydantic("too_short", ["stop"], "List should have at least 1 item", []),
            422,
        ),
        (talk(HELLO),),
        "removes an empty stop only",
    ),
    Row(
        "tools_empty",
        "chat",
        talk(HELLO, tools=[]),
        when(lambda body: body.get("tools") == [], openai("[] is too short - 'tools'")),
        (talk(HELLO),),
        "removes empty tools only",
    ),
    Row(
        "tool_calls_empty",
        "chat",
        talk(HELLO, message("assistant", "Hi", tool_calls=[]), message("user", "Who are you?")),
        when(
            lambda body: any(one.get("tool_calls") == [] for one in body["messages"]),
            openai("Invalid 'messages[1].tool_calls': empty array.", "messages[1].tool_calls", "empty_array"),
        ),
        (talk(HELLO, message("assistant", "Hi"), message("user", "Who are you?")),),
        "removes empty tool_calls from messages",
    ),
    Row(
        "batch_too_large",
        "embeddings",
        texts(0, 20),
        when(
            lambda body: len(body["input"]) > 10,
            openai("batch size is invalid, it should not be larger than 10.: input.contents", code="InvalidParameter"),
        ),
        (texts(0, 10), texts(10, 20)),
        "sends parts of at most 10 inputs",
    ),
    Row(
        "stream_refused",
        "chat",
        STREAMED,
        when(
            streams,
            openai(
                "Unsupported value: 'stream' does not support true with this model. Supported values are: false.",
                "stream",
                "unsupported_value",
            ),
        ),
        (WHOLE,),
        SYNTH,
    ),
    Row(
        "stream_refused_everyday_words",
        "chat",
        STREAMED,
        when(streams, {"error": "corp-chat hands over its reply in one piece, so leave stream alone"}),
        (WHOLE,),
        SYNTH,
    ),
    Row(
        "stream_refused_chinese",
        "chat",
        STREAMED,
        when(streams, {"error": {"code": "1213", "message": "当前模型仅支持同步调用，请将stream设置为false"}}),
        (WHOLE,),
        SYNTH,
    ),
    Row(
        "stream_refused_german",
        "chat",
        STREAMED,
        when(streams, {"detail": "Für dieses Modell ist „stream“ abgeschaltet."}, 422),
        (WHOLE,),
        SYNTH,
    ),
    Row(
        "stream_required",
        "chat",
        talk(HELLO, stream=False),
        when(lambda body: not streams(body), openai("This model only supports streaming, please enable stream.")),
        (talk(HELLO, stream=True), talk(HELLO, stream=True, stream_options={"include_usage": True})),
        "asks for a stream and makes a whole reply of it; either accepted body will do",
    ),
    Row(
        "stream_required_chinese",
        "chat",
        talk(HELLO),
        when(
            lambda body: not streams(body),
            {"code": "InvalidParameter", "message": "该模型仅支持流式输出（stream=true）"},
        ),
        (talk(HELLO, stream=True), talk(HELLO, stream=True, stream_options={"include_usage": True})),
        "asks for a stream and makes a whole reply of it; either accepted body will do",
    ),
    Row(
        "max_tokens_above_bound",
        "chat",
        talk(HELLO, max_tokens=100000),
        when(
            lambda body: body.get("max_tokens", 1) > 16384,
            openai(
                "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.",
                "max_tokens",
                "invalid_value",
            ),
        ),
        (talk(HELLO, max_tokens=16384),),
        "lowers max_tokens to 16384 where it is larger",
    ),
    Row(
        "max_tokens_above_range",
        "chat",
        talk(HELLO, max_tokens=32000),
        when(
            lambda body: body.get("max_tokens", 1) > 8192,
            openai("<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 8192]"),
        ),
        (talk(HELLO, max_tokens=8192),),
        "lowers max_tokens to 8192 where it is larger",
    ),
    Row(
        "max_tokens_renamed",
        "chat",
        talk(HELLO, max_tokens=300),
        when(lambda body: "max_tokens" in body, openai(RENAME, "max_tokens", "unsupported_parameter")),
        (talk(HELLO, max_completion_tokens=300),),
        "renames max_tokens to max_completion_tokens",
    ),
    Row(
        "max_completion_tokens_renamed",
        "chat",
        talk(HELLO, max_completion_tokens=300),
        when(
            lambda body: "max_completion_tokens" in body,
            openai("Unrecognized request argument supplied: max_completion_tokens"),
        ),
        (talk(HELLO, max_tokens=300),),
        "renames max_completion_tokens to max_tokens",
    ),
    Row(
        "thinking_adaptive",
        "messages",
        thinking(thinking={"type": "enabled", "budget_tokens": 8000}),
        lambda body: (
            when(lambda body: body.get("thinking", {}).get("type") == "enabled", anthropic(ADAPTIVE))(body)
            or when(lambda body: "budget_tokens" in body.get("thinking", {}), anthropic(NO_BUDGET))(body)
        ),
        (thinking(thinking={"type": "adaptive"}),),
        "sets thinking to adaptive, without a budget",
    ),
)
