"""Turn a request for a response into one for a chat: what is carried, dropped with a note, or refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from gatepass.errors import InvalidRequest
from gatepass.normalize.messages import OWN_THOUGHT
from gatepass.protocols.client_protocol import event_kind
from gatepass.protocols.translation.chat_request import (
    About,
    Dropped,
    Names,
    Tool,
    blocks_of,
    chosen,
    content_of,
    image_part,
    in_turns,
    joined_thoughts,
    malformed,
    members_of,
    object_of,
    objects_of,
    refused_part,
    result_messages,
    text_of,
    text_part,
)
from gatepass.sse.chunk import Object, json_text

_SAME = ("model", "temperature", "top_p", "stream", "parallel_tool_calls", "metadata", "service_tier", "user")
_CARRIED = (
    *(*_SAME, "input", "instructions", "max_output_tokens", "text", "reasoning", "tools", "tool_choice"),
    *("store", "background"),
)
_STORED = ("previous_response_id", "conversation", "prompt")
"""Members that name what a server stored."""
_TEXTS = frozenset(("input_text", "output_text", "text", "summary_text", "reasoning_text"))
_ROLES = MappingProxyType({"user": "user", "assistant": "assistant", "system": "system", "developer": "system"})
"""Strict servers reject the role `developer`, which means the same."""
_CALLS = frozenset(("function_call", "custom_tool_call"))
_RESULTS = frozenset(("function_call_output", "custom_tool_call_output"))
_COMPACTIONS = frozenset(("compaction", "compaction_summary", "context_compaction"))
_OF_SERVER_TOOLS = ("_call", "_output", "_approval_request", "_approval_response", "_list_tools")
"""How the types of items end that a hosted tool wrote."""
_OF_ITEMS = (
    *("type", "id", "status", "role", "content", "summary", "call_id", "name", "namespace"),
    *("arguments", "input", "output"),
)
"""Members of an item that are carried, or that only its server needs."""


def chat_of_response(request: Object, dropped: Dropped) -> tuple[Object, About]:
    """Return the body of the chat that answers `request`, and what its answer repeats of the request.

    `dropped` notes what the chat leaves out. Raises InvalidRequest for what it cannot express: stored objects, files,
    a response in the background, a forced hosted tool, a call without its result.
    """
    for name in _STORED:
        if request.get(name):
            raise _stored(name)
    if request.get("background"):
        raise InvalidRequest("The upstream has chat completions alone, and no `background`.", param="background")
    chat: Object = {name: request[name] for name in _SAME if request.get(name) is not None}
    tools, names = _tools(request, dropped)
    chat |= chosen(request.get("tool_choice"), tools, names)
    system = _parts(request.get("instructions") or [], "instructions", dropped)
    given = request.get("input") or []
    items = blocks_of([{"role": "user", "content": given}] if isinstance(given, str) else given, "input")
    chat["messages"] = in_turns(system, [*_messages(items, names, dropped)], "input", dropped)
    if request.get("max_output_tokens") is not None:
        chat["max_tokens"] = request["max_output_tokens"]
    if request.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    reasoning = object_of(request, "reasoning")
    if (effort := reasoning.get("effort")) is not None:
        chat["reasoning_effort"] = effort
    chat |= _response_format(object_of(request, "text"), dropped)
    if "tools" not in chat:
        chat.pop("parallel_tool_calls", None)
    dropped.note_others(reasoning, ("effort",), "reasoning.")
    dropped.note_others(request, _CARRIED)
    return chat, About(names.by_chat_name, _repeated(request | {"tool_choice": _choice(request, chat, names)}))


def _stored(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"`{name}` names what a server stores. The upstream has chat completions alone, which store nothing: send the"
        " whole conversation in `input`, as SDKs do with `store: false`.",
        param=name,
    )


_REPEATED = (
    *("instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "temperature", "tool_choice", "tools"),
    *("top_p", "text", "reasoning", "service_tier", "user"),
    *("max_tool_calls", "safety_identifier", "prompt_cache_key"),
)
"""Members of a request that its response repeats."""
MOST_REPEATED_BYTES = 128 * 1024
"""A longer one is left out."""
_WHOLE: Mapping[str, Object] = {
    "text": {"format": {"type": "text"}},
    "reasoning": {"effort": None, "summary": None},
    "function": {"description": None, "parameters": None, "strict": None},
}
"""The members that an object has in a response, which a request may leave out."""


def _choice(request: Object, chat: Object, names: Names) -> Any:
    """Return the `tool_choice` of a request, which may be in the form of another API, in that of a response."""
    given, picked = request.get("tool_choice"), chat.get("tool_choice")
    if "tools" in members_of(request, "tool_choice"):  # `allowed_tools`, of which a chat has a mode
        return given
    if not isinstance(picked, dict):
        return picked or text_of(given) or None
    tool = names.by_chat_name[picked["function"]["name"]]
    place = {"namespace": tool.namespace} if tool.namespace else {}
    return {"type": "custom" if tool.is_custom else "function", "name": tool.name, **place}


def _repeated(request: Object) -> Object:
    repeated = {name: request.get(name) for name in _REPEATED}
    for name in ("text", "reasoning"):
        if isinstance(value := repeated[name], dict):
            repeated[name] = {**_WHOLE[name], **value}
    if isinstance(tools := repeated["tools"], list):
        repeated["tools"] = [
            {**_WHOLE["function"], **tool} if isinstance(tool, dict) and event_kind(tool) == "function" else tool
            for tool in tools
        ]
    # the event loop writes them three times for each stream
    sizes = {name: len(json_text(value)) for name, value in repeated.items()}
    return {name: value if sizes[name] <= MOST_REPEATED_BYTES else None for name, value in repeated.items()}


def _response_format(text: Object, dropped: Dropped) -> Object:
    wanted = object_of(text, "format", "text.")
    dropped.note_others(text, ("format",), "text.")
    kind = event_kind(wanted)
    if kind == "json_schema":
        schema = {name: wanted[name] for name in ("name", "description", "schema", "strict") if name in wanted}
        return {"response_format": {"type": kind, kind: schema}}
    if kind not in ("", "text", "json_object"):
        dropped.note("text.format")
    return {"response_format": {"type": kind}} if kind == "json_object" else {}


# --- the conversation -----------------------------------------------------------------------------


def _messages(items: Iterable[tuple[str, Object]], names: Names, dropped: Dropped) -> Iterator[Object]:
    """Yield the messages of a chat. A thought belongs to the answer after it."""
    thoughts: list[Any] = []
    for where, item in items:
        kind = event_kind(item)
        if kind == "reasoning":
            thoughts += _thoughts(item, dropped)
        elif found := _of_item(kind, item, where, names, dropped):
            dropped.note_others(item, _OF_ITEMS)
            thought = joined_thoughts(*thoughts)
            if found[0]["role"] == "assistant":
                found[0] |= thought
            elif thought:
                dropped.note("reasoning")
            thoughts = []
            yield from found
    if joined_thoughts(*thoughts):
        dropped.note("reasoning")


def _of_item(kind: str, item: Object, where: str, names: Names, dropped: Dropped) -> list[Object]:
    if kind in _CALLS:
        is_custom = kind == "custom_tool_call"
        text = {"input": item.get("input")} if is_custom else item.get("arguments")
        arguments = text if isinstance(text, str) else json_text(text or {}).decode()
        call = names.call(item.get("call_id"), item, arguments, where, is_custom=is_custom)
        return [{"role": "assistant", "content": None, "tool_calls": [call]}]
    if kind in _RESULTS:
        parts = _parts(item.get("output") or [], f"{where}.output", dropped)
        return result_messages(item.get("call_id"), parts, where)
    role = _ROLES.get(text_of(item.get("role")))
    if kind in ("message", "") and role is not None:
        return [{"role": role, "content": content_of(_parts(item.get("content"), f"{where}.content", dropped))}]
    if kind in _COMPACTIONS:
        if summary := joined_thoughts(*_thoughts(item, dropped)):
            return [{"role": "user", "content": summary["reasoning_content"]}]
        raise malformed(
            where, "a summary that a chat can read: only its server can decrypt it. Begin a new conversation"
        )
    if kind.endswith(_OF_SERVER_TOOLS):
        dropped.note(kind)
        return []
    if kind == "item_reference":
        raise _stored(where)
    raise refused_part(kind, where)


def _thoughts(item: Object, dropped: Dropped) -> list[Any]:
    """Return the texts of a reasoning or compaction item. What is encrypted is for its server alone."""
    if item.get("encrypted_content") not in (None, "", OWN_THOUGHT):
        dropped.note("encrypted_content")
    for name in ("content", "summary"):
        if isinstance(parts := item.get(name), str):
            return [parts]
        if texts := [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []:
            return texts
    return []


def _parts(content: Any, where: str, dropped: Dropped) -> list[Object]:
    return [_part(part, place, dropped) for place, part in blocks_of(content, where)]


def _part(part: Object, where: str, dropped: Dropped) -> Object:
    kind, url = event_kind(part), part.get("image_url")
    if kind in _TEXTS and isinstance(part.get("text"), str):
        dropped.note_others(part, ("type", "text", "logprobs"))
        return text_part(part["text"])
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return text_part(part["refusal"])
    if kind == "input_image" and isinstance(url, str):
        image = image_part(url)
        if part.get("detail"):
            image["image_url"]["detail"] = part["detail"]
        return image
    raise refused_part(kind, where)


# --- the tools ------------------------------------------------------------------------------------


def _tools(request: Object, dropped: Dropped) -> tuple[list[Object], Names]:
    """Return the functions of the chat, and their names. Hosted tools are dropped."""
    names, tools = Names(), list[Object]()
    for where, tool in objects_of(request.get("tools") or [], "tools"):
        namespace, inner = "", [(where, tool)]
        if event_kind(tool) == "namespace":
            dropped.note_others(tool, ("type", "name", "tools"), "namespace.")
            namespace, inner = text_of(tool.get("name")), objects_of(tool.get("tools"), f"{where}.tools")
            if len(namespace) > MOST_NAMESPACE_CHARS:
                raise malformed(where, f"a namespace with a name of at most {MOST_NAMESPACE_CHARS} characters")
        for place, one in inner:
            if event_kind(one) in ("function", "custom"):
                tools.append(_function(one, namespace, place, names, dropped))
            else:
                dropped.note(event_kind(one))
    return tools, names


MOST_NAMESPACE_CHARS = 256
"""Each tool in it is named and hashed with it."""
_INPUT: Object = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def _function(tool: Object, namespace: str, where: str, names: Names, dropped: Dropped) -> Object:
    is_custom = event_kind(tool) == "custom"
    function: Object = {"name": names.add(Tool(text_of(tool.get("name")), namespace, is_custom=is_custom), where)}
    function |= {name: tool[name] for name in ("description", "parameters", "strict") if tool.get(name) is not None}
    if is_custom:
        function["parameters"] = _INPUT
        syntax = members_of(tool, "format")
        if definition := text_of(syntax.get("definition")):
            rule = f"`input` follows this {text_of(syntax.get('syntax'))} grammar:\n{definition}"
            function["description"] = f"{text_of(tool.get('description'))}\n\n{rule}".strip()
    dropped.note_others(tool, ("type", "name", "description", "parameters", "strict", "format"))
    return {"type": "function", "function": function}
