"""Turn a request for a response into one for a chat: what is carried, dropped with a note, or refused by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import Any

from gatepass.errors import InvalidRequest
from gatepass.normalize.messages import OWN_THOUGHT
from gatepass.protocols.client_protocol import event_kind
from gatepass.protocols.translation.chat_request import (
    About,
    Dropped,
    Tool,
    content_of,
    image_part,
    in_turns,
    members_of,
    refused_part,
    result_messages,
    text_part,
)
from gatepass.sse.chunk import Object, json_text

_SAME = ("model", "temperature", "top_p", "stream", "parallel_tool_calls", "metadata", "service_tier", "user")
_CARRIED = (*_SAME, "input", "instructions", "max_output_tokens", "text", "reasoning", "tools", "tool_choice", "store")
_STORED = ("previous_response_id", "conversation", "prompt")
"""Members that name what a server stored."""
_TEXTS = frozenset(("input_text", "output_text", "text", "summary_text", "reasoning_text"))
_ROLES = MappingProxyType({"user": "user", "assistant": "assistant", "system": "system", "developer": "system"})
"""Strict servers reject the role `developer`, which means the same."""
_CALLS = MappingProxyType({"function_call": "arguments", "custom_tool_call": "input"})
_RESULTS = frozenset(("function_call_output", "custom_tool_call_output"))
_OF_SERVER_TOOLS = ("_call", "_call_output", "_approval_request", "_approval_response", "_list_tools")
"""How the types of items end that a hosted tool wrote."""
MOST_NAME_CHARS = 64
"""OpenAI rejects a longer name of a function."""


def chat_of_response(request: Object, dropped: Dropped) -> tuple[Object, About]:
    """Return the body of the chat that answers `request`, and what its answer repeats of the request.

    `dropped` notes what the chat leaves out. Raises InvalidRequest for what it cannot express: stored objects, files,
    a response in the background, a forced hosted tool, a call without its result.
    """
    for name in _STORED:
        if request.get(name):
            raise InvalidRequest(
                f"`{name}` names what a server stores. The upstream has chat completions alone, which store nothing:"
                " send the whole conversation in `input`.",
                param=name,
            )
    if request.get("background"):
        raise InvalidRequest("The upstream has chat completions alone, and no `background`.", param="background")
    chat: Object = {name: request[name] for name in _SAME if request.get(name) is not None}
    tools, names = _tools(request, dropped)
    messages: list[Object] = []
    if request.get("instructions"):
        messages.append({"role": "system", "content": request["instructions"]})
    given = request.get("input")
    items = given if isinstance(given, list) else [{"role": "user", "content": given}] if given else []
    chat["messages"] = in_turns([*messages, *_messages(items, names, dropped)])
    if request.get("max_output_tokens") is not None:
        chat["max_tokens"] = request["max_output_tokens"]
    if request.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    if (effort := members_of(request, "reasoning").get("effort")) is not None:
        chat["reasoning_effort"] = effort
    chat |= _response_format(members_of(request, "text"), dropped)
    if tools:
        chat |= {"tools": tools, **_choice(request, names)}
    else:
        chat.pop("parallel_tool_calls", None)
    dropped.note_others(members_of(request, "reasoning"), ("effort",), "reasoning.")
    dropped.note_others(request, _CARRIED)
    return chat, About(names.by_chat_name, {name: request.get(name) for name in _REPEATED})


_REPEATED = (
    *("instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "temperature", "tool_choice", "tools"),
    *("top_p", "text", "reasoning", "truncation", "service_tier", "user"),
)
"""Members of a request that its response repeats."""


def _response_format(text: Object, dropped: Dropped) -> Object:
    wanted = members_of(text, "format")
    dropped.note_others(text, ("format",), "text.")
    kind = event_kind(wanted)
    if kind == "json_schema":
        schema = {name: wanted[name] for name in ("name", "description", "schema", "strict") if name in wanted}
        return {"response_format": {"type": kind, kind: schema}}
    return {"response_format": {"type": kind}} if kind == "json_object" else {}


# --- the conversation -----------------------------------------------------------------------------


def _messages(items: Iterable[Any], names: _Names, dropped: Dropped) -> Iterator[Object]:
    """Yield the messages of a chat. A thought belongs to the answer after it."""
    thought: Object = {}
    for number, item in enumerate(items):
        fields, where = item if isinstance(item, dict) else {}, f"input.{number}"
        kind = event_kind(fields)
        if kind == "reasoning":
            thought = _thought(fields, dropped)
            continue
        found = [*_of_item(kind, fields, where, names, dropped)]
        if found and found[0]["role"] == "assistant":
            found[0] |= thought
        thought = {} if found else thought
        yield from found


def _of_item(kind: str, item: Object, where: str, names: _Names, dropped: Dropped) -> list[Object]:
    if kind in _CALLS:
        text = item.get(_CALLS[kind])
        arguments = text if kind == "function_call" else json_text({"input": text}).decode()
        function = {"name": names.of_call(kind, item), "arguments": arguments}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return [{"role": "assistant", "content": None, "tool_calls": [call]}]
    if kind in _RESULTS:
        return result_messages(item.get("call_id"), _parts(item.get("output"), f"{where}.output", dropped))
    role = _ROLES.get(str(item.get("role")))
    if kind in ("message", "") and role is not None:
        return [{"role": role, "content": content_of(_parts(item.get("content"), f"{where}.content", dropped))}]
    if kind.endswith(_OF_SERVER_TOOLS) or kind == "compaction":
        dropped.note(kind)
        return []
    raise refused_part(kind, where)


def _thought(item: Object, dropped: Dropped) -> Object:
    """Return the text of a thought as a member of the answer after it. What is encrypted is for its server alone."""
    if item.get("encrypted_content") not in (None, "", OWN_THOUGHT):
        dropped.note("encrypted_content")
    for name in ("content", "summary"):
        parts = item.get(name)
        texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        if text := "\n\n".join(text for text in texts if isinstance(text, str)):
            return {"reasoning_content": text}
    return {}


def _parts(content: Any, where: str, dropped: Dropped) -> list[Object]:
    if isinstance(content, str):
        return [text_part(content)] if content else []
    found = content if isinstance(content, list) else []
    return [_part(part, f"{where}.{number}", dropped) for number, part in enumerate(found)]


def _part(part: Any, where: str, dropped: Dropped) -> Object:
    fields = part if isinstance(part, dict) else {}
    kind, url = event_kind(fields), fields.get("image_url")
    if kind in _TEXTS and isinstance(fields.get("text"), str):
        dropped.note_others(fields, ("type", "text", "logprobs"))
        return text_part(fields["text"])
    if kind == "refusal" and isinstance(fields.get("refusal"), str):
        return text_part(fields["refusal"])
    if kind == "input_image" and isinstance(url, str):
        image = image_part(url)
        if fields.get("detail"):
            image["image_url"]["detail"] = fields["detail"]
        return image
    raise refused_part(kind, where)


# --- the tools ------------------------------------------------------------------------------------


class _Names:
    """The names of tools in the chat, which knows functions alone: also for those in a namespace, and custom ones."""

    def __init__(self) -> None:
        self.by_chat_name: dict[str, Tool] = {}
        self._chat_names: dict[tuple[str, str], str] = {}

    def add(self, tool: Tool) -> str:
        """Return the name in the chat of `tool`: its own, after that of its namespace."""
        wanted = f"{tool.namespace}__{tool.name}" if tool.namespace else tool.name
        if len(wanted) > MOST_NAME_CHARS or wanted in self.by_chat_name:
            digest = hashlib.sha256(f"{tool.namespace}\0{tool.name}".encode()).hexdigest()[:8]
            wanted = f"{wanted[: MOST_NAME_CHARS - len(digest) - 1]}_{digest}"
        self.by_chat_name[wanted] = tool
        self._chat_names[tool.namespace, tool.name] = wanted
        return wanted

    def of(self, name: Any, namespace: Any = "") -> str | None:
        """Return the name in the chat of a tool that the request has, None if it has none of that name."""
        return self._chat_names.get((_text(namespace), _text(name)))

    def of_call(self, kind: str, item: Object) -> str:
        """Return the name in the chat of an earlier call, whose tool the request may lack by now."""
        name, namespace = _text(item.get("name")), _text(item.get("namespace"))
        return self.of(name, namespace) or self.add(Tool(name, namespace, is_custom=kind == "custom_tool_call"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _tools(request: Object, dropped: Dropped) -> tuple[list[Object], _Names]:
    """Return the functions of the chat, and their names. Hosted tools are dropped."""
    names = _Names()
    given = request.get("tools")
    found = [tool for tool in given if isinstance(tool, dict)] if isinstance(given, list) else []
    tools: list[Object] = []
    for tool in found:
        is_namespace = event_kind(tool) == "namespace" and isinstance(tool.get("tools"), list)
        for inner in tool["tools"] if is_namespace else (tool,):
            namespace = _text(tool.get("name")) if is_namespace else ""
            if isinstance(inner, dict) and event_kind(inner) in ("function", "custom"):
                tools.append(_function(inner, namespace, names, dropped))
            else:
                dropped.note(event_kind(inner if isinstance(inner, dict) else tool))
    return tools, names


_INPUT: Object = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def _function(tool: Object, namespace: str, names: _Names, dropped: Dropped) -> Object:
    is_custom = event_kind(tool) == "custom"
    function: Object = {"name": names.add(Tool(_text(tool.get("name")), namespace, is_custom=is_custom))}
    function |= {name: tool[name] for name in ("description", "parameters", "strict") if tool.get(name) is not None}
    if is_custom:
        function["parameters"] = _INPUT
        syntax = members_of(tool, "format")
        if definition := syntax.get("definition"):
            rule = f"`input` follows this {syntax.get('syntax')} grammar:\n{definition}"
            function["description"] = f"{tool.get('description', '')}\n\n{rule}".strip()
    dropped.note_others(tool, ("type", "name", "description", "parameters", "strict", "format"))
    return {"type": "function", "function": function}


def _choice(request: Object, names: _Names) -> Object:
    """Return the `tool_choice` of the chat. Raises InvalidRequest for a tool that a chat cannot call."""
    choice = request.get("tool_choice")
    if isinstance(choice, str):
        return {"tool_choice": choice}
    if not isinstance(choice, dict):
        return {}
    if event_kind(choice) == "allowed_tools":
        return {"tool_choice": choice.get("mode", "auto")}
    if event_kind(choice) in ("function", "custom"):
        name = names.of(choice.get("name"), choice.get("namespace"))
        if name is not None:
            return {"tool_choice": {"type": "function", "function": {"name": name}}}
    raise InvalidRequest(
        f"`tool_choice` forces {event_kind(choice)[:40]!r}, which is no tool of a chat.", param="tool_choice"
    )
