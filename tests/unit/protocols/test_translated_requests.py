"""What a request becomes as a chat, member by member: carried, dropped with a note, or refused by name."""

import json
import re
import sys
import time
from typing import Any

import msgspec
import pytest

from gatepass.errors import BodyTooComplex, InvalidRequest
from gatepass.json_body import MOST_OPENED, SMALL_BYTES, members
from gatepass.normalize.messages import client_id
from gatepass.protocols.operations import CHAT_OPERATION
from gatepass.protocols.translation.chat_request import (
    MOST_NAME_CHARS,
    Dropped,
    Names,
    chosen,
    client_tool,
    in_turns,
    refused_part,
)
from gatepass.protocols.translation.message_translation import chat_of_message
from gatepass.protocols.translation.response_translation import (
    MOST_NAMESPACE_CHARS,
    MOST_REPEATED_BYTES,
    ResponseAnswer,
    chat_of_response,
)
from gatepass.protocols.translation.translation import MESSAGES as MESSAGES_OVER_CHAT
from gatepass.protocols.translation.translation import RESPONSES as RESPONSES_OVER_CHAT
from gatepass.sse.chunk import EnvelopeDefaults, encode_event, json_text
from tests.unit.normalize.calls import a_call
from tests.unit.protocols.json_texts import chat_of

Body = dict[str, Any]
HI: Body = {"role": "user", "content": "Hi"}
LONG = "mcp__corp-platform__" + "x" * 90
PNG = "data:image/png;base64,AA"


def chat_text(role: str, content: Any) -> Body:
    return {"role": role, "content": content}


def called(*calls: tuple[str, str, str], content: Any = None, **more: Any) -> Body:
    """An answer of a chat with calls: their ids, names and arguments."""
    found = [
        {"id": one, "type": "function", "function": {"name": two, "arguments": three}} for one, two, three in calls
    ]
    return {"role": "assistant", "content": content, "tool_calls": found, **more}


def result(call_id: str, content: Any) -> Body:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def function(name: str, **more: Any) -> Body:
    return {"type": "function", "function": {"name": name, **more}}


def image(url: str, **more: Any) -> Body:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def text(words: str) -> Body:
    return {"type": "text", "text": words}


# --- messages -------------------------------------------------------------------------------------

USE = {"type": "tool_use", "id": "a", "name": "look", "input": {"x": 1}}
USE_B = {"type": "tool_use", "id": "b", "name": "look", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "seen"}
RESULT_B = {"type": "tool_result", "tool_use_id": "b", "content": [text("two")]}
NOTHING = {"type": "object", "properties": {}}
LOOK = {"name": "look", "input_schema": {"type": "object"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}
OWN = {"type": "thinking", "thinking": "Hm.", "signature": "gatepass_thought"}
CALLED = called(("a", "look", '{"x":1}'))
MARK = {"cache_control": {"type": "ephemeral"}}
BILLING = "x-anthropic-billing-header: cc_version=2.1.330.7b4; cc_entrypoint=cli; cch=eb6c6;"
PLAIN: Body = {"type": "document"}


def turns(*contents: Any) -> Body:
    """Turns of a user and an assistant, the user's first."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[at % 2], "content": content} for at, content in enumerate(contents)]}


# by the name of a row: the members of the request, those of the chat or only its messages, and what is noted
MESSAGES: dict[str, tuple[Any, ...]] = {
    "system as blocks": (
        {"system": [text("Be kind."), {**text("Be short."), **MARK}]},
        [chat_text("system", "Be kind.\n\nBe short."), HI],
    ),
    **{
        f"the first line of Claude Code in {shape}": (
            {"system": given, "temperature": None},
            [chat_text("system", "Be kind."), HI],
            "x-anthropic-billing-header",
        )
        for shape, given in (("a block", [text(BILLING), text("Be kind.")]), ("a text", f"{BILLING}\nBe kind."))
    },
    "a later message of the system": (
        {"system": "Be kind.", "messages": [HI, {"role": "system", "content": "It is noon."}]},
        [chat_text("system", "Be kind."), chat_text("user", "Hi\n\nIt is noon.")],
        "system_role",
    ),
    "images": (
        turns([text("See"), IMAGE, {"type": "image", "source": {"type": "url", "url": "https://a.example/b"}}]),
        [chat_text("user", [text("See"), image(PNG), image("https://a.example/b")])],
    ),
    "a result that is an error": (
        turns("Hi", [USE], [{**RESULT, "is_error": True}]),
        [HI, CALLED, result("a", "Error:\n\nseen")],
    ),
    "a result after a later call": (
        turns("Hi", [USE], "Wait", [USE_B], [RESULT_B, RESULT]),
        [HI, CALLED, result("a", "seen"), chat_text("user", "Wait"), called(("b", "look", "{}")), result("b", "two")],
    ),
    "an image in a result": (
        turns("Hi", [USE], [{**RESULT, "content": [text("seen"), IMAGE]}]),
        [HI, CALLED, result("a", "seen"), chat_text("user", [text("Images of a:"), image(PNG)])],
    ),
    **{
        f"a text of the type {block['type']}": (turns([block]), [chat_text("user", words)])
        for block, words in (
            (
                {**PLAIN, "title": "Log", "source": {"type": "text", "media_type": "text/plain", "data": "42"}},
                "Log\n42",
            ),
            ({**PLAIN, "source": {"type": "content", "content": [text("4"), text("2")]}}, "4\n2"),
            ({**PLAIN, "source": {"type": "content", "content": "42"}}, "42"),
            ({"type": "search_result", "title": "T", "source": "s", "content": [text("42")]}, "T\ns\n42"),
            ({"type": "tool_reference", "tool_name": "look"}, "The tool look is available now."),
            ({"type": "compaction", "content": "So far."}, "So far."),
        )
    },
    "an id that is used again": (
        turns("Hi", [USE], [RESULT], [USE], [{**RESULT, "content": "again"}]),
        [HI, CALLED, result("a", "seen"), CALLED, result("a", "again")],
    ),
    "own thoughts": (
        turns("Hi", [OWN, text("Yes."), {**OWN, "thinking": "And?"}], "x"),
        [HI, {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm.\n\nAnd?"}, chat_text("user", "x")],
    ),
    "other thoughts": (
        turns("Hi", [{**OWN, "signature": "real"}, {"type": "redacted_thinking", "data": "x"}, text("Yes.")], "x"),
        [HI, chat_text("assistant", "Yes."), chat_text("user", "x")],
        "thinking",
        "redacted_thinking",
    ),
    "an answer of which a chat has nothing": (
        turns("Hi", [{**OWN, "signature": "real"}], [text("you")]),
        [chat_text("user", "Hi\n\nyou")],
        "thinking",
    ),
    "an answer of own thoughts alone": (
        turns("Hi", [OWN], "x"),
        [HI, {"role": "assistant", "content": "", "reasoning_content": "Hm."}, chat_text("user", "x")],
    ),
    "blocks of tools of the server": (
        turns(
            "Hi",
            [
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                {"type": "mcp_tool_result", "tool_use_id": "m", "content": []},
                text("Yes."),
            ],
            "x",
        ),
        [HI, chat_text("assistant", "Yes."), chat_text("user", "x")],
        "server_tool_use",
        "mcp_tool_result",
    ),
    "members of the same name": (
        {"max_completion_tokens": 9, "temperature": 0.5, "top_p": 0.1, "stream": False},
        {"max_completion_tokens": 9, "temperature": 0.5, "top_p": 0.1, "stream": False},
    ),
    "a stream asks for its usage": ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    "stop sequences": ({"stop_sequences": ["END"]}, {"stop": ["END"]}),
    "tools": (
        {"tools": [{**LOOK, "description": "d", "strict": True, **MARK}, {"name": "bare"}]},
        {
            "tools": [
                function("look", parameters=NOTHING, description="d", strict=True),
                function("bare", parameters=NOTHING),
            ]
        },
    ),
    "tools of the server": (
        {"tools": [LOOK, SEARCH]},
        {"tools": [function("look", parameters=NOTHING)]},
        "web_search_20250305",
    ),
    "tools of the server alone": ({"tools": [SEARCH], "tool_choice": {"type": "auto"}}, {}, "web_search_20250305"),
    "disable_parallel_tool_use": (
        {"tools": [LOOK], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        {
            "tools": [function("look", parameters=NOTHING)],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
        },
    ),
    "thinking and context_management": (
        {"thinking": {"type": "enabled", "budget_tokens": 9}, "context_management": {"edits": [1]}, "top_k": 3},
        {},
        "thinking",
        "context_management",
        "top_k",
    ),
    "a short user id": ({"metadata": {"user_id": "u", "team": "t"}}, {"user": "u"}),
    "a long user id": ({"metadata": {"user_id": "u" * 65}}, {}, "metadata.user_id"),
    **{
        f"a schema in {member}": (
            {member: given},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
                }
            },
        )
        for member, given in (
            ("output_config", {"format": {"type": "json_schema", "schema": {"type": "object"}}}),
            ("output_format", {"type": "json_schema", "schema": {"type": "object"}}),
        )
    },
    "another format": (
        {"output_config": {"format": {"type": "xml"}, "effort": "high"}},
        {"reasoning_effort": "high"},
        "output_config.format",
    ),
    **{
        f"the effort {effort}": ({"output_config": {"effort": effort}}, {"reasoning_effort": sent})
        for effort, sent in (("low", "low"), ("max", "xhigh"))
    },
    "an unknown member of a turn": ({"messages": [{**HI, "mood": "good"}]}, {}),
}


def expected(chat: Any, notes: list[str]) -> tuple[Body, set[str]]:
    return {"messages": [HI], **({"messages": chat} if isinstance(chat, list) else chat)}, {*notes}


def translated(translate: Any, request: Body) -> tuple[Body, set[str]]:
    dropped = Dropped()
    chat, _ = chat_of(translate, request, dropped)
    assert chat.pop("model") == "m"
    return chat, {entry.removeprefix("untranslated=") for entry in dropped.entries}


@pytest.mark.parametrize("row", MESSAGES.values(), ids=MESSAGES)
def test_each_member_of_a_message_request(row):
    given, chat, *notes = row
    request = {"model": "m", "messages": [HI], **given}
    assert translated(chat_of_message, request) == expected(chat, notes)


DOCUMENT = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"}}
MESSAGES_REFUSED: dict[str, tuple[Body, str, str]] = {
    "a document": (turns([DOCUMENT]), "messages.0.content.0", "document"),
    "a stored file": (
        turns([{"type": "image", "source": {"type": "file", "file_id": "f"}}]),
        "messages.0.content.0",
        "image",
    ),
    "a call without a result": (turns("Hi", [USE, USE_B], [RESULT]), "messages", "'b' has no result"),
    "a result without a call": (turns([RESULT]), "messages", "'a' has no tool call"),
    "a result without an id": (
        turns([{**RESULT, "tool_use_id": 5}]),
        "messages.0.content.0",
        "with the id of its call",
    ),
    "a second result": (turns("Hi", [USE], [RESULT, RESULT]), "messages", "its second one"),
    "a forced tool of the server": (
        {"tools": [LOOK, SEARCH], "tool_choice": {"type": "tool", "name": "web_search"}},
        "tool_choice",
        "'web_search'",
    ),
    "any of the server's tools": ({"tools": [SEARCH], "tool_choice": {"type": "any"}}, "tool_choice", "'any'"),
    "an unknown role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0", "user, assistant or system"),
    "messages that are null": ({"messages": None, "system": "Be kind."}, "messages", "no message with content"),
    "messages without content": (turns([], [{**OWN, "signature": "real"}]), "messages", "no message with content"),
    "a block that is a text": (turns(["Hi"]), "messages.0.content.0", "an object"),
    "a text behind a document": (turns([DOCUMENT, "Hi"]), "messages.0.content.1", "an object"),
    "a block of several types": (turns([{**text("Hi"), "type": ["text"]}]), "messages.0.content.0", "has no type"),
    "a document in a result": (
        turns("Hi", [USE], [{**RESULT, "content": [text("seen"), DOCUMENT]}]),
        "messages.2.content.0.content.1",
        "document",
    ),
    "a schema that is a text": ({"output_config": {"format": "json"}}, "output_config.format", "an object"),
    "an image without data": (
        turns([{"type": "image", "source": {"type": "base64", "media_type": "image/png"}}]),
        "messages.0.content.0",
        "'image'",
    ),
    "a call without an id": (turns("Hi", [{**USE, "id": None}], [RESULT]), "messages.1.content.0", "with an id"),
    "input that is a text": (turns("Hi", [{**USE, "input": "x"}], [RESULT]), "messages.1.content.0.input", "an object"),
    "a system that is a number": ({"system": 5}, "system", "a text or a list"),
    "a begun answer": (turns("Hi", "{"), "messages", "end with a user message"),
    "a tool that is a text": ({"tools": ["look"]}, "tools.0", "an object"),
    **{
        f"the tool {kind}": ({"tools": [{"type": kind, "name": "x"}]}, "tools.0", f"'{kind}', which the client runs")
        for kind in (
            "bash_20250124",
            "text_editor_20250728",
            "memory_20250818",
            "computer_20250124",
            "browser_toolset_20260801",
        )
    },
    "a tool without a name": ({"tools": [{"input_schema": {}}]}, "tools.0", "its own name"),
    "output_config that is a text": ({"output_config": "json"}, "output_config", "an object"),
}


@pytest.mark.parametrize(("given", "param", "words"), MESSAGES_REFUSED.values(), ids=MESSAGES_REFUSED)
def test_what_a_message_request_cannot_have_is_refused_by_name(given, param, words):
    with pytest.raises(InvalidRequest) as refused:
        chat_of(chat_of_message, {"model": "m", "messages": [HI], **given})
    assert (refused.value.param, words in refused.value.message) == (param, True)


# --- responses ------------------------------------------------------------------------------------

PATCH = {"type": "custom", "name": "apply_patch", "description": "Edits."}
FIND = {"type": "function", "name": "find", "parameters": {"type": "object"}, "strict": False}
SPACE = {"type": "namespace", "name": "maps", "tools": [FIND, {"type": "custom", "name": "note"}, {"type": "mcp"}]}
HOSTED = {"type": "web_search"}
SEARCH_TOOLS = {"type": "tool_search", "execution": "client", "description": "s", "parameters": {"type": "object"}}
SEARCHED = {"type": "tool_search_call", "call_id": "s", "execution": "client", "arguments": {"query": "q"}}
FOUND_TOOLS = {**SEARCHED, "type": "tool_search_output", "tools": [{**SPACE, "tools": [FIND]}]}
CALL = {"type": "function_call", "id": "fc", "call_id": "a", "name": "find", "arguments": '{"x":1}', "status": "x"}
OUTPUT = {"type": "function_call_output", "call_id": "a", "output": "seen"}
CUSTOM = {"type": "custom_tool_call", "call_id": "b", "name": "apply_patch", "input": "p"}
CUSTOM_OUTPUT = {"type": "custom_tool_call_output", "call_id": "b", "output": "done"}
FOUND = called(("a", "find", '{"x":1}'))
PLACED = {"parameters": NOTHING, "strict": False}
INPUT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def thought(*texts: str, **more: Any) -> Body:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": one} for one in texts], **more}


def said(*parts: Body, role: str = "user") -> Body:
    return {"type": "message", "role": role, "content": [*parts]}


def told(words: str) -> Body:
    return {"type": "input_text", "text": words}


def secret(words: str) -> Body:
    return {"type": "encrypted_content", "encrypted_content": words}


def inputs(*items: Body) -> Body:
    return {"input": [*items]}


HOSTED_ITEMS = [
    *("web_search_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response"),
    *("tool_search_call", "tool_search_output", "local_shell_call", "local_shell_call_output"),
]
RESPONSES: dict[str, tuple[Any, ...]] = {
    "items": (inputs(said(told("Hi"))), {}),
    "instructions": ({"instructions": "Be kind."}, [chat_text("system", "Be kind."), HI]),
    "a developer": (
        inputs(said(told("Rules."), role="developer"), HI),
        [chat_text("system", "Rules."), HI],
    ),
    "a later developer": (
        inputs(HI, said(told("Rules."), role="developer")),
        [chat_text("user", "Hi\n\nRules.")],
        "system_role",
    ),
    "an image": (
        inputs(said({"type": "input_image", "image_url": PNG, "detail": "low"})),
        [chat_text("user", [image(PNG, detail="low")])],
    ),
    "an answer and a refusal": (
        inputs(
            HI,
            said({"type": "output_text", "text": "Yes.", "annotations": []}, role="assistant"),
            said({"type": "refusal", "refusal": "No."}, role="assistant"),
            HI,
        ),
        [HI, chat_text("assistant", "Yes.\n\nNo."), HI],
    ),
    "an answer without a text": (inputs(HI, said(role="assistant")), {}),
    "an output after a later call": (
        inputs(HI, CALL, HI, CUSTOM, CUSTOM_OUTPUT, OUTPUT),
        [HI, FOUND, result("a", "seen"), HI, called(("b", "apply_patch", '{"input":"p"}')), result("b", "done")],
    ),
    "an image in an output": (
        inputs(HI, CALL, {**OUTPUT, "output": [{"type": "input_image", "image_url": PNG}]}),
        [HI, FOUND, result("a", ""), chat_text("user", [text("Images of a:"), image(PNG)])],
    ),
    "arguments that are an object": (
        inputs(HI, {**CALL, "arguments": {"x": 1}}, OUTPUT),
        [HI, FOUND, result("a", "seen")],
    ),
    "reasoning": (
        inputs(HI, thought("Hm."), thought("And?", encrypted_content="gatepass_thought"), CALL, OUTPUT),
        [HI, {**FOUND, "reasoning_content": "Hm.\n\nAnd?"}, result("a", "seen")],
    ),
    "reasoning before each part of an answer": (
        inputs(
            HI,
            thought("Hm."),
            said({"type": "output_text", "text": "I look."}, role="assistant"),
            thought("So."),
            CALL,
            OUTPUT,
        ),
        [HI, {**FOUND, "content": "I look.", "reasoning_content": "Hm.\n\nSo."}, result("a", "seen")],
    ),
    "reasoning of another server": (
        inputs(HI, thought(encrypted_content="x"), HI),
        [chat_text("user", "Hi\n\nHi")],
        "encrypted_content",
    ),
    "reasoning without an answer": (inputs(thought("Hm."), HI, thought("So.")), {}, "reasoning"),
    **{
        f"a compaction with a {member}": (
            inputs({"type": "compaction", "encrypted_content": "x", member: given}, HI),
            [chat_text("user", "So far.\n\nHi")],
            "encrypted_content",
        )
        for member, given in (("summary", [{"type": "summary_text", "text": "So far."}]), ("content", "So far."))
    },
    "a member of an item": (inputs({**HI, "phase": "final"}), {}),
    "a message of another agent": (
        inputs({"type": "agent_message", "author": "/a", "recipient": "/b", "content": [told("Task:"), secret("Go.")]}),
        [chat_text("user", "Task:\n\nGo.")],
    ),
    "items of hosted tools": (inputs(HI, *({"type": kind} for kind in HOSTED_ITEMS)), {}, *HOSTED_ITEMS),
    "custom tools": ({"tools": [PATCH]}, {"tools": [function("apply_patch", description="Edits.", parameters=INPUT)]}),
    "a grammar": (
        {"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "lark", "definition": "g"}}]},
        {
            "tools": [
                function("apply_patch", description="Edits.\n\n`input` follows this lark grammar:\ng", parameters=INPUT)
            ]
        },
    ),
    "a namespace": (
        {"tools": [{**SPACE, "description": "Maps."}]},
        {"tools": [function("maps__find", **PLACED), function("maps__note", parameters=INPUT)]},
        "mcp",
    ),
    "tools in an item": (
        {**inputs({"type": "additional_tools", "role": "developer", "tools": [SPACE]}, HI), "tools": [FIND]},
        {
            "tools": [
                function("find", **PLACED),
                function("maps__find", **PLACED),
                function("maps__note", parameters=INPUT),
            ]
        },
        "mcp",
    ),
    "a search for tools by the client": (
        {
            **inputs(HI, SEARCHED, FOUND_TOOLS, {**SEARCHED, "call_id": "t"}, {**FOUND_TOOLS, "call_id": "t"}),
            "tools": [SEARCH_TOOLS],
        },
        {
            "tools": [function("tool_search", description="s", parameters=NOTHING), function("maps__find", **PLACED)],
            "messages": [
                HI,
                *(
                    one
                    for name in "st"
                    for one in (
                        called((name, "tool_search", '{"query":"q"}')),
                        result(name, "Tools that are available now: maps__find."),
                    )
                ),
            ],
        },
    ),
    "a shell of the server": ({"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, {}, "shell"),
    "hosted tools": ({"tools": [HOSTED, FIND]}, {"tools": [function("find", **PLACED)]}, "web_search"),
    "hosted tools alone": ({"tools": [HOSTED], "tool_choice": "auto", "parallel_tool_calls": True}, {}, "web_search"),
    "members of the same name": (
        {"temperature": 0.5, "top_p": 0.1, "metadata": {"a": "b"}, "service_tier": "flex", "user": "u"},
        {"temperature": 0.5, "top_p": 0.1, "metadata": {"a": "b"}, "service_tier": "flex", "user": "u"},
    ),
    "parallel calls": (
        {"tools": [FIND], "parallel_tool_calls": False},
        {"tools": [function("find", **PLACED)], "parallel_tool_calls": False},
    ),
    "limit and effort": (
        {"max_output_tokens": 9, "reasoning": {"effort": "high", "summary": "auto"}},
        {"max_tokens": 9, "reasoning_effort": "high"},
    ),
    "a schema": (
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}, "verbosity": "low"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}}},
    ),
    "JSON": ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
    "plain text": ({"text": {"format": {"type": "text"}}}, {}),
    "another format": ({"text": {"format": {"type": "xml"}}}, {}, "text.format"),
    "store": ({"store": True}, {}),
    "a stream asks for its usage": ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    "what no chat has": (
        {"include": ["reasoning.encrypted_content"], "prompt_cache_key": "k", "truncation": "auto"},
        {},
        "include",
        "prompt_cache_key",
        "truncation",
    ),
}


@pytest.mark.parametrize("row", RESPONSES.values(), ids=RESPONSES)
def test_each_member_of_a_response_request(row):
    given, chat, *notes = row
    request = {"model": "m", "input": "Hi", **given}
    assert translated(chat_of_response, request) == expected(chat, notes)


RESPONSES_REFUSED: dict[str, tuple[Body, str, str]] = {
    **{
        f"the tool {kind}": ({"tools": [{"type": kind}]}, "tools.0", f"'{kind}', which the client runs")
        for kind in ("shell", "local_shell", "apply_patch", "computer_use_preview")
    },
    "previous_response_id": ({"previous_response_id": "r"}, "previous_response_id", "send the whole conversation"),
    "conversation": ({"conversation": {"id": "c"}}, "conversation", "send the whole conversation"),
    "prompt": ({"prompt": {"id": "p"}}, "prompt", "send the whole conversation"),
    "background": ({"background": True}, "background", "`background`"),
    "a file": (inputs(said({"type": "input_file", "file_id": "f"})), "input.0.content.0", "input_file"),
    "a stored image": (inputs(said({"type": "input_image", "file_id": "f"})), "input.0.content.0", "stored file"),
    "an encrypted message of another agent": (
        inputs({"type": "agent_message", "content": [secret("gAAAAABx")]}),
        *("input.0.content.0", "encrypted_content"),
    ),
    "a stored item": (inputs({"type": "item_reference", "id": "x"}), "input.0", "`input.0` names what a server stores"),
    "a text among later tools": (
        inputs({"type": "additional_tools", "tools": ["find"]}),
        *("input.0.tools.0", "an object"),
    ),
    "a text in a namespace": (
        {"tools": [{"type": "namespace", "name": "n", "tools": [FIND, "find"]}]},
        *("tools.0.tools.1", "an object"),
    ),
    "an output that is an object": (inputs(CALL, {**OUTPUT, "output": {"a": 1}}), "input.1.output", "a text or a list"),
    "an output without an id": (inputs({**OUTPUT, "call_id": []}), "input.0", "with the id of its call"),
    "an id that is no text": (inputs({**CALL, "call_id": []}, OUTPUT), "input.0", "with an id"),
    "a forced hosted tool": ({"tools": [HOSTED, FIND], "tool_choice": HOSTED}, "tool_choice", "'web_search'"),
    "no input": ({"input": None, "instructions": "Be kind."}, "input", "no message with content"),
    "an input that is a number": ({"input": 5}, "input", "a text or a list"),
    "an encrypted compaction": (
        inputs(HI, {"type": "compaction", "encrypted_content": "x"}),
        "input.1",
        "begin a new conversation",
    ),
    "a request to compact": (inputs(HI, {"type": "compaction_trigger"}), "input.1", "another name than OpenAI"),
    "a second tool in a namespace": (
        {"tools": [{**SPACE, "tools": [FIND, FIND]}]},
        "tools.0.tools.1",
        "its own name",
    ),
    "a namespace with a long name": (
        {"tools": [{**SPACE, "name": "x" * (MOST_NAMESPACE_CHARS + 1)}]},
        "tools.0",
        f"at most {MOST_NAMESPACE_CHARS} characters",
    ),
    "text that is a text": ({"text": "json"}, "text", "an object"),
    "a forced function of an earlier call": (
        {**inputs(HI, CALL, OUTPUT), "tools": [PATCH], "tool_choice": {"type": "function", "name": "find"}},
        "tool_choice",
        "'find'",
    ),
}


@pytest.mark.parametrize(("given", "param", "words"), RESPONSES_REFUSED.values(), ids=RESPONSES_REFUSED)
def test_what_a_response_request_cannot_have_is_refused_by_name(given, param, words):
    with pytest.raises(InvalidRequest) as refused:
        chat_of(chat_of_response, {"model": "m", "input": "Hi", **given})
    assert (refused.value.param, words in refused.value.message) == (param, True)


# --- tools ----------------------------------------------------------------------------------------

TRANSLATIONS = pytest.mark.parametrize(
    ("translate", "request_"),
    [
        (chat_of_message, {"messages": [HI], "tools": [LOOK, {"name": "find"}]}),
        (chat_of_response, {"input": "Hi", "tools": [{**FIND, "name": "look"}, FIND]}),
    ],
    ids=["messages", "responses"],
)


@TRANSLATIONS
@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        *((shape, one) for one in ("auto", "none", "required") for shape in (one, {"type": one})),
        *((shape, "required") for shape in ("any", {"type": "any"})),
        *(
            (shape, function("look"))
            for shape in ({"type": "tool", "name": "look"}, {"type": "function", "name": "look"}, function("look"))
        ),
    ],
)
def test_tool_choice_is_carried_in_the_form_of_each_api(translate, request_, choice, expected):
    chat, _ = chat_of(translate, {"model": "m", **request_, "tool_choice": choice})
    assert chat["tool_choice"] == expected


@pytest.mark.parametrize(
    ("choice", "repeated"),
    [
        *((one, one) for one in ("auto", "none", "required", None)),
        *((one, {"type": "function", "name": "find"}) for one in (function("find"), {"type": "tool", "name": "find"})),
        *((one, {"type": "custom", "name": "apply_patch"}) for one in ({"type": "custom", "name": "apply_patch"},)),
        *((one, "required") for one in ("any", {"type": "any"})),
        ({"type": "auto"}, "auto"),
        *((one, {**one, "namespace": "maps"}) for one in ({"type": "function", "name": "far", "namespace": "maps"},)),
    ],
)
def test_a_response_has_the_tool_choice_in_its_own_form(choice, repeated):
    tools = [FIND, PATCH, {"type": "namespace", "name": "maps", "tools": [{"type": "function", "name": "far"}]}]
    request = {"model": "m", "input": "Hi", "tools": tools, "tool_choice": choice, "truncation": "auto"}
    _, about = chat_of(chat_of_response, request)
    assert about.repeated["tool_choice"] == repeated
    assert "truncation" not in about.repeated  # the chat truncates nothing: "disabled" is the default


def test_a_response_without_a_tool_has_the_choice_of_the_request():
    for choice, repeated in (("none", "none"), ({"type": "none"}, None), (None, None)):
        _, about = chat_of(chat_of_response, {"model": "m", "input": "Hi", "tool_choice": choice})
        assert about.repeated["tool_choice"] == repeated


@TRANSLATIONS
@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        ("look", "'look'"),
        *((choice, "('')") for choice in (5, {}, ["look"], {"name": {"look": 1}})),
        ({"name": "look"}, "'look'"),
        ({"type": "function"}, "'function'"),
        (function("missing"), "'missing'"),
        ({"type": "allowed_tools", "tools": [{"type": "function", "name": "find"}]}, "'allowed_tools'"),
    ],
)
def test_another_tool_choice_is_refused(translate, request_, choice, shown):
    with pytest.raises(InvalidRequest, match="selects no tool of the chat") as refused:
        chat_of(translate, {"model": "m", **request_, "tool_choice": choice})
    assert (refused.value.param, shown in refused.value.message) == ("tool_choice", True)


@pytest.mark.parametrize("name", ["find", LONG, "server.find", "查找 x"])
@pytest.mark.parametrize("in_namespace", [False, True])
def test_a_function_and_a_custom_tool_of_one_name_are_two(name, in_namespace):
    tools = [{"type": "function", "name": name}, {"type": "custom", "name": name}]
    place = {"namespace": "maps"} if in_namespace else {}
    request = {
        "model": "m",
        **inputs(HI, {**CALL, "name": name, **place}, OUTPUT, {**CUSTOM, "name": name, **place}, CUSTOM_OUTPUT),
        "tools": [{"type": "namespace", "name": "maps", "tools": tools}] if in_namespace else tools,
    }
    chat, about = chat_of(chat_of_response, request)
    names = [tool["function"]["name"] for tool in chat["tools"]]
    assert [(about.tools[one].name, about.tools[one].is_custom) for one in names] == [(name, False), (name, True)]
    made = [call["function"]["name"] for one in chat["messages"] for call in one.get("tool_calls", ())]
    assert made == names
    assert all(re.fullmatch(rf"[\w-]{{1,{MOST_NAME_CHARS}}}", one, re.ASCII) for one in names)
    if not in_namespace:
        for kind, chosen in zip(("function", "custom"), names, strict=True):
            chat, _ = chat_of(chat_of_response, {**request, "tool_choice": {"type": kind, "name": name}})
            assert chat["tool_choice"]["function"]["name"] == chosen


def test_a_response_does_not_repeat_a_long_member():
    """The event loop writes what a response repeats three times for each stream."""
    long = {"instructions": "x" * MOST_REPEATED_BYTES, "tools": [FIND], "input": "Hi"}
    _, about = chat_of(chat_of_response, {"model": "m", **long})
    assert about.repeated["instructions"] is None
    (tool,) = json.loads(bytes(about.repeated["tools"]))
    assert tool["name"] == FIND["name"]


def test_a_response_repeats_its_tools_beside_half_a_character():
    """The tools are JSON already. The name of the model cannot be written as UTF-8."""
    _, about = chat_of(chat_of_response, {"model": "m", "tools": [FIND], "input": "Hi"})
    answer = ResponseAnswer(EnvelopeDefaults(lambda prefix: f"{prefix}1", 7, "m"), "up", about)
    end = {"index": 0, "delta": {"content": "é"}, "finish_reason": "stop"}
    events = answer.feed(encode_event({"model": "up\ud83d", "choices": [end]}) + b"data: [DONE]\n\n")
    *_, last = (json.loads(line[6:]) for line in events.splitlines() if line.startswith(b"data: "))
    made = last["response"]
    assert (made["model"], made["tools"][0]["name"]) == ("up\ud83d", FIND["name"])
    assert made["output"][0]["content"][0]["text"] == "é"


class Long(str):
    """A text whose `repr` would hold the interpreter's lock for long."""

    __slots__ = ()

    def __repr__(self) -> str:
        raise AssertionError


LONG_TEXT = Long("x" * 99)


@pytest.mark.parametrize(
    "refuse",
    [
        lambda: chosen({"type": "function", "name": LONG_TEXT}, [], Names()),
        lambda: in_turns([], [HI, result(LONG_TEXT, "seen")], "messages", Dropped()),
        lambda: in_turns([], [HI, called((LONG_TEXT, "look", "{}")), HI], "messages", Dropped()),
    ],
    ids=["a choice", "a result", "a call"],
)
def test_an_error_shows_the_beginning_of_a_long_text(refuse):
    with pytest.raises(InvalidRequest) as refused:
        refuse()
    assert ("'xxx" in refused.value.message, len(refused.value.message) < 250) == (True, True)


@pytest.mark.parametrize("refused", [client_tool, refused_part])
def test_an_error_shows_the_beginning_of_a_long_type(refused):
    assert "'xxx" in (message := refused(LONG_TEXT, "tools.0").message)
    assert len(message) < 250


def test_a_type_that_is_no_text_is_none():
    with pytest.raises(InvalidRequest, match="has no type"):
        chat_of(chat_of_response, {"model": "m", **inputs({"role": ["user"], "content": "Hi"})})


def written(json_of_value: str) -> Any:
    return msgspec.Raw(json_of_value.encode())


WORDS, ANSWER, ABOUT = (written(one) for one in (r'"a\u0062"', r'"\/x"', r'"\u0064"'))
GIVEN, SCHEMA = written('{ "x" : [1.0, 1e2] }'), written('{"properties":{ "x" : {}},"type":"object"}')


@pytest.mark.parametrize(
    ("translation", "request_"),
    [
        (
            MESSAGES_OVER_CHAT,
            {
                **turns([text(WORDS)], [{**USE, "input": GIVEN}], [{**RESULT, "content": ANSWER}]),
                "tools": [{"name": "look", "description": ABOUT, "input_schema": SCHEMA}],
            },
        ),
        (
            RESPONSES_OVER_CHAT,
            {
                **inputs(
                    {"role": "user", "content": [{"type": "input_text", "text": WORDS}]},
                    {**CALL, "arguments": bytes(GIVEN).decode()},
                    {**OUTPUT, "output": ANSWER},
                ),
                "tools": [{"type": "function", "name": "find", "description": ABOUT, "parameters": SCHEMA}],
            },
        ),
    ],
    ids=["messages", "responses"],
)
def test_texts_inputs_results_and_schemas_reach_the_chat_as_they_are_written(translation, request_):
    """To read and write each one took three quarters of the translation of a turn."""
    chat = translation.chat_call(a_call(json_text({"model": "m", **request_})), CHAT_OPERATION).call
    (tool,) = msgspec.json.decode(chat.body, type=dict[str, Any])["tools"]
    for value in (WORDS, ANSWER, ABOUT, SCHEMA, json_text(bytes(GIVEN).decode())):
        assert bytes(value) in chat.body
    assert tool["function"]["parameters"] == {"properties": {"x": {}}, "type": "object"}


def functions(number: int) -> list[Body]:
    return [{"type": "function", "name": f"f{one}"} for one in range(number)]


@pytest.mark.parametrize(
    ("translate", "request_of"),
    [
        (chat_of_message, lambda number: {"messages": [HI] * number}),
        (chat_of_response, lambda number: inputs(*[HI] * number)),
        (chat_of_response, lambda number: inputs(*[thought("x" * 100)] * number, HI)),
        (chat_of_response, lambda number: {**inputs(HI), "tools": functions(number)}),
    ],
    ids=["messages", "items", "thoughts", "tools"],
)
def test_many_members_are_translated_in_linear_time(translate, request_of):
    """Eight times the members take about eight times the CPU time: quadratic work would take 64 times as long."""

    def cpu_s(number: int) -> float:
        request = {"model": "m", **request_of(number)}
        began_s = time.thread_time()
        chat_of(translate, request)
        return time.thread_time() - began_s

    assert cpu_s(40_000) < 24 * cpu_s(5_000)


def test_a_body_of_too_many_values_becomes_no_chat():
    """Its decoding would hold the loop, although the member is left out."""
    call = a_call(b'{"model":"m","messages":[],"x":[' + b"[]," * (MOST_OPENED // 2) + b"[]]}")
    with pytest.raises(BodyTooComplex, match="500000 commas and brackets"):
        MESSAGES_OVER_CHAT.chat_call(call, CHAT_OPERATION)


def test_the_rules_of_the_chat_find_its_members_open():
    """Each rule would read the body again."""
    sent = MESSAGES_OVER_CHAT.chat_call(
        a_call(b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'), CHAT_OPERATION
    )
    assert sent.call.top is not None
    assert sent.call.top.text == sent.call.body
    assert sent.call.opened() is sent.call.top


@pytest.mark.parametrize("call_id", ["c", client_id("\ud83d\ude00")], ids=["plain", "two halves of a pair"])
def test_the_known_members_of_a_large_chat_are_those_of_its_body(call_id: str):
    """They are known from the parts that were written, and nothing reads the body."""
    used = {"type": "tool_use", "id": call_id, "name": "读", "input": {"path": "é" * SMALL_BYTES}}
    result = {"type": "tool_result", "tool_use_id": call_id, "content": [{"type": "text", "text": '"tools":[]'}]}
    turns = [HI, {"role": "assistant", "content": [used]}, {"role": "user", "content": [result]}]
    body = {"model": "m", "max_tokens": 5, "tools": [{"name": "读"}], "messages": turns}
    sent = MESSAGES_OVER_CHAT.chat_call(a_call(json.dumps(body).encode()), CHAT_OPERATION).call
    assert sent.top is not None
    assert [(name, bytes(text)) for name, text in sent.top.listed] == [
        (name, bytes(text)) for name, text in members(sent.body)
    ]
    assert sent.top.text == sent.body


def test_what_a_response_repeats_of_a_body_with_line_breaks_stands_on_one_line():
    """Each line of an event would be one of its own."""
    request = {"input": "Hi", "instructions": "Be\nkind.", "metadata": {"a": "1"}, "tools": [FIND, PATCH]}
    written = json.dumps({"model": "m", **request}, indent=1).replace("\n", "\r\n").encode()
    about = RESPONSES_OVER_CHAT.chat_call(a_call(written), CHAT_OPERATION).about
    text_ = json_text(about.repeated)
    assert (b"\n" in text_, b"\r" in text_) == (False, False)
    assert {name: value for name, value in json.loads(text_).items() if name in request} == {
        **{name: value for name, value in request.items() if name != "input"},
        "tools": [{"description": None, **FIND}, PATCH],
    }


def test_what_a_response_repeats_does_not_keep_the_body():
    """A stream would hold megabytes until its end."""
    members_ = {"instructions": "Be kind.", "tools": [FIND], "tool_choice": "auto", "metadata": {"a": "1"}, "user": "u"}
    body = json.dumps({"model": "m", "input": "Hi", **members_}).encode()
    before = sys.getrefcount(body)
    about = RESPONSES_OVER_CHAT.chat_call(a_call(body), CHAT_OPERATION).about
    assert (sys.getrefcount(body), about.repeated["user"]) == (before, msgspec.Raw(b'"u"'))


def test_a_response_repeats_the_schema_of_a_function_as_it_was_sent():
    """The chat has the same text, with what servers require in front."""
    schemas: list[Any] = [{"type": "object", "properties": {"a": {}}}, {"properties": {}, "type": "object"}, {}, None]
    schemas += [{"type": "object", "properties": None}, {"type": None, "properties": {}}]
    tools = [{"type": "function", "name": f"t{at}", "parameters": one} for at, one in enumerate(schemas)]
    custom = {"type": "custom", "name": "c", "parameters": {"type": 1, "properties": 2, "required": 3}}
    request = json.loads(json.dumps({"input": "Hi", "tools": [*tools, custom]}))
    chat, about = chat_of(chat_of_response, request)
    sent, repeated = json.loads(json_text(chat["tools"])), json.loads(json_text(about.repeated["tools"]))
    assert [one["parameters"] for one in repeated] == [*schemas, custom["parameters"]]
    assert [one["function"]["parameters"] for one in sent[:-1]] == [
        {"type": "object", "properties": {}} | {name: value for name, value in (one or {}).items() if value is not None}
        for one in schemas
    ]
    assert sent[-1]["function"]["parameters"]["required"] == ["input"]
