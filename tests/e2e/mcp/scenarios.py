"""What the conformance suite of the protocol wants to find on a server, by its own descriptions of the scenarios."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

Ctx: TypeAlias = ServerRequestContext[Any, Any]
Content = dict[str, Any]


def titled(kind: str) -> list[Content]:
    return [{"const": f"value{number}", "title": f"{name} {kind}"} for number, name in ((1, "First"), (2, "Second"))]


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="
MANY_TYPES = "Multiple content types test:"
ADDRESS = {"type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}
SCHEMA_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": ADDRESS},
    "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"}},
    "additionalProperties": False,
}


def text(value: str) -> Content:
    return {"type": "text", "text": value}


def resource(uri: str, mime_type: str, value: str) -> Content:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": value}}


IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}
FIXED: Mapping[str, list[Content]] = {
    "test_simple_text": [text("This is a simple text response for testing.")],
    "test_image_content": [IMAGE],
    "test_audio_content": [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}],
    "test_embedded_resource": [
        resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    ],
    "test_multiple_content_types": [
        text(MANY_TYPES),
        IMAGE,
        resource("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ],
    "json_schema_2020_12_tool": [text("valid")],
}
"""The tools with a constant answer."""

FORMS: Mapping[str, dict[str, Any]] = {
    "test_elicitation": {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    },
    "test_elicitation_sep1034_defaults": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    },
    "test_elicitation_sep1330_enums": {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {"type": "string", "oneOf": titled("Option")},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled("Choice")}},
    },
}
"""The properties that these tools ask the client for."""

OTHER_TOOLS = (
    "test_tool_with_logging",
    "test_tool_with_progress",
    "test_error_handling",
    "test_sampling",
    "test_reconnection",
)
RESOURCES = {
    "test://static-text": ("text/plain", {"text": "This is the content of the static text resource."}),
    "test://static-binary": ("image/png", {"blob": PNG}),
    "test://watched-resource": ("text/plain", {"text": "Watched."}),
}
TEMPLATE = "test://template/{id}/data"
PROMPTS: Mapping[str, tuple[str, ...]] = {
    "test_simple_prompt": (),
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
    "test_prompt_with_image": (),
}


async def list_tools(ctx: Ctx, params: object) -> types.ListToolsResult:
    def schema(name: str) -> dict[str, Any]:
        return SCHEMA_2020_12 if name == "json_schema_2020_12_tool" else {"type": "object"}

    names = (*FIXED, *FORMS, *OTHER_TOOLS)
    tools = [{"name": name, "description": f"The scenario {name}", "inputSchema": schema(name)} for name in names]
    return types.ListToolsResult.model_validate({"tools": tools})


async def call_tool(ctx: Ctx, params: types.CallToolRequestParams) -> types.CallToolResult:
    arguments = params.arguments or {}
    content = FIXED.get(params.name)
    if content is None:
        content = [text(await ask(ctx, params.name, arguments))]
    failed = params.name == "test_error_handling"
    return types.CallToolResult.model_validate({"content": content, "isError": failed})


async def ask(ctx: Ctx, name: str, arguments: dict[str, Any]) -> str:
    """Do what the tool does beside its answer, and return its text."""
    if name in FORMS:
        form: dict[str, Any] = {"type": "object", "properties": FORMS[name]}
        if name == "test_elicitation":
            form["required"] = ["username", "email"]
        answer = await ctx.session.elicit_form(arguments.get("message", "Please answer"), form, ctx.request_id)
        begin = "User response" if name == "test_elicitation" else "Elicitation completed"
        return f"{begin}: action={answer.action}, content={json.dumps(answer.content)}"
    match name:
        case "test_tool_with_logging":
            for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
                await ctx.session.send_log_message("info", words, related_request_id=ctx.request_id)
                await asyncio.sleep(0.05)
        case "test_tool_with_progress":
            for done in (0, 50, 100):
                await ctx.session.report_progress(done, 100)
                await asyncio.sleep(0.05)
        case "test_error_handling":
            return "This tool intentionally returns an error for testing"
        case "test_sampling":
            message = types.SamplingMessage(role="user", content=types.TextContent(text=arguments["prompt"]))
            said = await ctx.session.create_message([message], max_tokens=100, related_request_id=ctx.request_id)
            return f"LLM response: {getattr(said.content, 'text', said.content)}"
        case "test_reconnection":
            if ctx.close_sse_stream is not None:
                await ctx.close_sse_stream()
            await asyncio.sleep(0.1)
        case _:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {name}")
    return f"{name} has ended"


async def list_resources(ctx: Ctx, params: object) -> types.ListResourcesResult:
    found = [
        {"uri": uri, "name": uri.partition("://")[2], "description": f"The resource {uri}", "mimeType": kind}
        for uri, (kind, _) in RESOURCES.items()
    ]
    return types.ListResourcesResult.model_validate({"resources": found})


async def list_templates(ctx: Ctx, params: object) -> types.ListResourceTemplatesResult:
    template = {"uriTemplate": TEMPLATE, "name": "template", "description": "A template"}
    return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": [template]})


async def read_resource(ctx: Ctx, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    uri = str(params.uri)
    before, after = TEMPLATE.split("{id}")
    if uri in RESOURCES:
        kind, value = RESOURCES[uri]
    elif uri.startswith(before) and uri.endswith(after):
        number = uri.removeprefix(before).removesuffix(after)
        document = {"id": number, "templateTest": True, "data": f"Data for ID: {number}"}
        kind, value = "application/json", {"text": json.dumps(document)}
    else:
        raise MCPError(types.INVALID_PARAMS, f"Unknown resource: {uri}")
    return types.ReadResourceResult.model_validate({"contents": [{"uri": uri, "mimeType": kind, **value}]})


async def list_prompts(ctx: Ctx, params: object) -> types.ListPromptsResult:
    prompts = [
        {
            "name": name,
            "description": f"The scenario {name}",
            "arguments": [{"name": argument, "description": "An argument", "required": True} for argument in arguments],
        }
        for name, arguments in PROMPTS.items()
    ]
    return types.ListPromptsResult.model_validate({"prompts": prompts})


async def get_prompt(ctx: Ctx, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    given = params.arguments or {}
    match params.name:
        case "test_simple_prompt":
            contents = [text("This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            contents = [text(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'")]
        case "test_prompt_with_embedded_resource":
            embedded = resource(given["resourceUri"], "text/plain", "Embedded resource content for testing.")
            contents = [embedded, text("Please process the embedded resource above.")]
        case "test_prompt_with_image":
            contents = [IMAGE, text("Please analyze the image above.")]
        case _:
            raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")
    return types.GetPromptResult.model_validate(
        {"messages": [{"role": "user", "content": content} for content in contents]}
    )


async def complete(ctx: Ctx, params: types.CompleteRequestParams) -> types.CompleteResult:
    begin = params.argument.value
    values = [word for word in ("paris", "park", "party") if word.startswith(begin)]
    return types.CompleteResult.model_validate({"completion": {"values": values, "total": len(values)}})


async def accept(ctx: Ctx, params: object) -> types.EmptyResult:
    return types.EmptyResult()


def scenario_server() -> Server[Any]:
    return Server(
        "gatepass-e2e-scenarios",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=accept,
        on_unsubscribe_resource=accept,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=complete,
        on_set_logging_level=accept,
    )
