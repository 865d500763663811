"""Turn a request for a message into one for a chat: what is carried, dropped with a note, or refused by name."""

from __future__ import annotations

from collections.abc import Iterator
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
    content_of,
    image_part,
    in_turns,
    joined_thoughts,
    members_of,
    refused_part,
    result_messages,
    text_of,
    text_part,
)
from gatepass.sse.chunk import Object, json_text

_SAME = ("model", "max_tokens", "temperature", "top_p", "stream")
_CARRIED = (
    *(*_SAME, "system", "messages", "stop_sequences", "tools", "tool_choice", "metadata"),
    *("output_config", "output_format"),
)
_CHOICES = MappingProxyType({"auto": "auto", "any": "required", "none": "none"})
_OF_TOOLS = MappingProxyType({"input_schema": "parameters", "description": "description", "strict": "strict"})
MOST_USER_CHARS = 64
"""OpenAI rejects a longer `user`."""
_THOUGHTS = frozenset(("thinking", "redacted_thinking"))
_OF_SERVER_TOOLS = ("_tool_use", "_tool_result")
"""How the types of blocks end that a tool of the server wrote."""
KIND_SHOWN_CHARS = 40


def chat_of_message(request: Object, dropped: Dropped) -> tuple[Object, About]:
    """Return the body of the chat that answers `request`, and note in `dropped` what it leaves out.

    Raises InvalidRequest for what a chat cannot express: a document, a stored file, a forced tool of the server, a
    call without its result.
    """
    chat: Object = {name: request[name] for name in _SAME if name in request}
    names = Names()
    chat |= _tools(request, names, dropped)
    messages = [*_system(request.get("system"), dropped)]
    turns = request.get("messages")
    for number, turn in enumerate(turns if isinstance(turns, list) else ()):
        messages += _turn(turn, f"messages.{number}", names, dropped)
    chat["messages"] = in_turns(messages, "messages", dropped)
    if stops := request.get("stop_sequences"):
        chat["stop"] = stops
    if request.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    user = members_of(request, "metadata").get("user_id")
    if isinstance(user, str) and len(user) <= MOST_USER_CHARS:
        chat["user"] = user
    elif user:
        dropped.note("metadata.user_id")
    dropped.note_others(members_of(request, "metadata"), ("user_id",), "metadata.")
    output = members_of(request, "output_config")
    schema = members_of(output, "format") or members_of(request, "output_format")  # the second one was in beta
    if event_kind(schema) == "json_schema":
        named = {"name": "answer", "schema": schema.get("schema"), "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": named}
    elif schema:
        dropped.note("output_config.format")
    dropped.note_others(output, ("format",), "output_config.")
    dropped.note_others(request, _CARRIED)
    sequences = [one for one in stops if isinstance(one, str)] if isinstance(stops, list) else []
    return chat, About(names.by_chat_name, stop_sequences=sequences)


def _system(system: Any, dropped: Dropped) -> Iterator[Object]:
    blocks = system if isinstance(system, list) else [text_part(system)] if system else []
    if blocks:
        parts = [_part(block, f"system.{number}", dropped) for number, block in enumerate(blocks)]
        yield {"role": "system", "content": content_of(parts)}


def _turn(turn: Any, where: str, names: Names, dropped: Dropped) -> Iterator[Object]:
    """Yield the messages of a chat for one of a conversation."""
    role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
    if role not in ("user", "assistant", "system") or not isinstance(content, str | list):
        raise InvalidRequest(f"`{where}` is no message with a role and content.", param=where)
    dropped.note_others(turn, ("role", "content"))
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    blocks = [(f"{where}.content.{number}", block) for number, block in enumerate(content)]
    if role == "assistant":
        yield _answer(blocks, names, dropped)
        return
    parts: list[Object] = []
    for place, block in blocks:
        if isinstance(block, dict) and event_kind(block) == "tool_result":
            yield from _result(block, place, dropped)
        else:
            parts.append(_part(block, place, dropped))
    if parts:
        yield {"role": role, "content": content_of(parts)}


def _answer(blocks: list[tuple[str, Any]], names: Names, dropped: Dropped) -> Object:
    """Return what the model said: its texts, its calls, and the thoughts that gatepass made of a chat's reasoning."""
    parts, calls, thoughts = list[Object](), list[Object](), list[Any]()
    for place, block in blocks:
        kind = event_kind(block) if isinstance(block, dict) else ""
        if kind == "thinking" and block.get("signature") == OWN_THOUGHT:
            thoughts.append(block.get("thinking"))
        elif kind in _THOUGHTS or kind.endswith(_OF_SERVER_TOOLS):
            dropped.note(kind)
        elif kind == "tool_use":
            arguments = json_text(block.get("input") or {}).decode()
            function = {"name": names.of_call(block), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
            dropped.note_others(block, ("type", "id", "name", "input"))
        else:
            parts.append(_part(block, place, dropped))
    content = content_of(parts) if parts else None if calls else ""
    answer = {"role": "assistant", "content": content, **joined_thoughts(*thoughts)}
    return answer | ({"tool_calls": calls} if calls else {})


def _result(block: Object, where: str, dropped: Dropped) -> list[Object]:
    content = block.get("content")
    found = content if isinstance(content, list) else [text_part(content)] if content else []
    parts = [_part(part, f"{where}.content.{number}", dropped) for number, part in enumerate(found)]
    if block.get("is_error"):
        parts.insert(0, text_part("Error:"))
    dropped.note_others(block, ("type", "tool_use_id", "content", "is_error"))
    return result_messages(block.get("tool_use_id"), parts)


def _part(block: Any, where: str, dropped: Dropped) -> Object:
    """Return a text or an image as a part of a chat's message."""
    fields = block if isinstance(block, dict) else {}
    kind, source = event_kind(fields), members_of(fields, "source")
    if kind == "text" and isinstance(fields.get("text"), str):
        dropped.note_others(fields, ("type", "text"))
        return text_part(fields["text"])
    if kind == "image" and event_kind(source) in ("base64", "url"):
        dropped.note_others(fields, ("type", "source"))
        is_url = event_kind(source) == "url"
        data = f"data:{source.get('media_type')};base64,{source.get('data')}"
        return image_part(source.get("url") if is_url else data)
    raise refused_part(kind, where)


def _tools(request: Object, names: Names, dropped: Dropped) -> Object:
    """Return `tools`, `tool_choice` and `parallel_tool_calls`. Tools that the server runs are dropped."""
    tools: list[Object] = []
    given = request.get("tools")
    for tool in given if isinstance(given, list) else ():
        fields = tool if isinstance(tool, dict) else {}
        if event_kind(fields) not in ("", "custom"):
            dropped.note(event_kind(fields))
            continue
        function: Object = {"name": names.add(Tool(text_of(fields.get("name"))))}
        function |= {to: fields[name] for name, to in _OF_TOOLS.items() if fields.get(name) is not None}
        tools.append({"type": "function", "function": function})
        dropped.note_others(fields, ("type", "name", *_OF_TOOLS))
    choice = members_of(request, "tool_choice")
    kind, name = event_kind(choice), names.of(choice.get("name"))
    if (kind == "tool" and name is None) or (kind == "any" and not tools):
        shown = repr(choice.get("name", kind))[:KIND_SHOWN_CHARS]
        raise InvalidRequest(f"`tool_choice` forces {shown}, which is no tool of a chat.", param="tool_choice")
    if not tools:
        return {}
    chat: Object = {"tools": tools}
    if kind == "tool":
        chat["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif kind in _CHOICES:
        chat["tool_choice"] = _CHOICES[kind]
    if choice.get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
    return chat
