"""Translate messages: a request into one for a chat, and the answer of the chat into the reply or its events.

What a chat cannot carry is dropped with a note, or refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from gatepass.errors import InvalidRequest, UpstreamInvalid
from gatepass.normalize.messages import OWN_THOUGHT, carried_by, signature_of
from gatepass.protocols.translation import chat_request
from gatepass.protocols.translation.answer_blocks import CUT, AnswerBlock, AnswerBlocks
from gatepass.protocols.translation.chat_request import NULL, ContentBlock, Members, Odd, Place, Text, read, text_of
from gatepass.sse.chunk import Object, event_kind, event_of
from gatepass.sse.event import read_json
from gatepass.sse.usage import Usage
from gatepass.types import Hidden

_SAME = ("model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stream")
"""`max_completion_tokens` is that of a `rename` for the chats of the same model."""
_CARRIED = (
    *(*_SAME, "system", "messages", "stop_sequences", "tools", "tool_choice", "metadata"),
    *("output_config", "output_format"),
)
MOST_USER_CHARS = 64
"""OpenAI rejects a longer `user`."""
_ROLES = ("user", "assistant", "system")
_THOUGHTS = frozenset(("thinking", "redacted_thinking"))
_CLIENT_TOOLS = frozenset(("bash", "browser", "computer", "memory", "text_editor"))
"""Types of tools that the client runs, without their date."""
_OF_SERVER_TOOLS = ("_tool_use", "_tool_result")
"""How the types of blocks end that a tool of the server wrote."""
_BILLING = re.compile(r"\A(x-anthropic-billing-header):[^\n]*\n?")
"""Claude Code's first line of the system, for Anthropic alone. It differs in each request, so that no server would find
the conversation in its cache of prompts (https://github.com/sgl-project/sglang/pull/29169)."""


class _MessageBlock(ContentBlock, gc=False):
    content: msgspec.Raw = NULL
    id: Any = None
    name: Any = None
    input: msgspec.Raw = NULL
    tool_use_id: Any = None
    is_error: Any = None
    thinking: Any = None
    signature: Any = None
    source: Any = None
    title: Any = None
    context: Any = None
    tool_name: Any = None


_Content = list[_MessageBlock | Odd] | dict[str, msgspec.Raw] | str | int | float | bool | None


class _Turn(Hidden, msgspec.Struct, gc=False):
    role: Any = None
    content: _Content = None


class _MessageTool(Hidden, msgspec.Struct, gc=False):
    type: Any = None
    name: Any = None
    description: msgspec.Raw = NULL
    strict: msgspec.Raw = NULL
    input_schema: dict[str, msgspec.Raw] | Odd = None


_CONTENT = msgspec.json.Decoder(_Content)
_TURNS = msgspec.json.Decoder(list[_Turn | Odd] | dict[str, msgspec.Raw] | str | int | float | bool | None)
_TOOLS = msgspec.json.Decoder(list[_MessageTool | Odd] | dict[str, msgspec.Raw] | str | int | float | bool | None)


def chat_of_message(request: Members, dropped: chat_request.Dropped) -> tuple[Object, chat_request.About]:
    """Return the body of the chat that answers `request`, and note in `dropped` what it leaves out.

    Raises InvalidRequest for what a chat cannot express: a document without a text, a stored file, a forced tool of the
    server, a call without its result, the beginning of the answer.
    """
    chat: Object = {name: value for name in _SAME if (value := read(request.get(name))) is not None}
    names = chat_request.Names()
    chat |= _tools(request, names, dropped)
    system = list[Text | Object]()
    given = _CONTENT.decode(request.get("system", NULL)) or []
    for number, block in enumerate(chat_request.blocks_of(given, "system")):
        part = _part(block, ("system", number))
        if found := _BILLING.match(text := text_of(part)):
            dropped.note(found[1])
            part = text[found.end() :]
        system += [part] if part else []
    turns = _TURNS.decode(request.get("messages", NULL)) or []
    messages = _messages(chat_request.objects_of(turns, "messages"), names, dropped)
    chat["messages"] = chat_request.in_turns(system, messages, "messages", dropped)
    if chat["messages"][-1]["role"] == "assistant":  # most servers begin a new answer, and some refuse it
        reason = "`messages` must end with a user message: chat completions do not continue a begun answer (prefill)."
        raise InvalidRequest(reason, param="messages")
    if stops := read(request.get("stop_sequences")):
        chat["stop"] = stops
    if read(request.get("stream")):
        chat["stream_options"] = {"include_usage": True}
    metadata = chat_request.object_of(request, "metadata")
    user = metadata.get("user_id")
    if isinstance(user, str) and len(user) <= MOST_USER_CHARS:
        chat["user"] = user
    elif user:
        dropped.note("metadata.user_id")
    output = chat_request.object_of(request, "output_config")
    schema = chat_request.object_of(output, "format", "output_config") or chat_request.object_of(
        request, "output_format"
    )  # the old name
    if event_kind(schema) == "json_schema":
        named = {"name": "answer", "schema": schema.get("schema"), "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": named}
    elif schema:
        dropped.note("output_config.format")
    if effort := output.get("effort"):
        chat["reasoning_effort"] = "xhigh" if effort == "max" else effort
    dropped.note_others(request, _CARRIED)
    sequences = [one for one in stops if isinstance(one, str)] if isinstance(stops, list) else []
    return chat, chat_request.About(names.by_chat_name, stop_sequences=sequences)


def _messages(turns: list[_Turn], names: chat_request.Names, dropped: chat_request.Dropped) -> list[Object]:
    messages: list[Object] = []
    for number, turn in enumerate(turns):
        role, content, where = turn.role, turn.content, ("messages", number, "content")
        if role == "assistant" and isinstance(content, list):
            messages.append(_answer(content, where, names, dropped))
            continue
        if role not in _ROLES:
            raise chat_request.malformed(("messages", number), "a message of user, assistant or system")
        if isinstance(content, str):
            messages.append({"role": role, "content": content})
            continue
        parts: list[Text | Object] = []
        for at, block in enumerate(chat_request.objects_of(content, where, "a text or a list")):
            place = (where, at)
            if block.type != "tool_result":
                parts.append(_part(block, place))
                continue
            text = None if block.is_error else chat_request.unread(block.content)
            result = _result(block, (place, "content")) if text is None else text
            messages += chat_request.result_messages(block.tool_use_id, result, place)
        if parts:
            messages.append({"role": role, "content": chat_request.content_of(parts)})
    return messages


def _result(block: _MessageBlock, where: Place) -> Text | list[Object]:
    given = chat_request.blocks_of(_CONTENT.decode(block.content) or [], where)
    parts = [_part(one, (where, number)) for number, one in enumerate(given)]
    return chat_request.content_of(["Error:", *parts] if block.is_error else parts)


def _answer(blocks: list[Any], where: Place, names: chat_request.Names, dropped: chat_request.Dropped) -> Object:
    """Return what the model said: its texts, its calls, and the thoughts that gatepass made of a chat's reasoning."""
    parts: list[Text | Object] = []  # `list[Object]()` costs 40 times as much (CPython 3.11)
    calls: list[Object] = []
    thoughts: list[Any] = []
    for number, block in enumerate(chat_request.objects_of(blocks, where)):
        place, kind = (where, number), block.type
        if kind == "tool_use":
            if (given := str(block.input, "utf-8")) == "null":
                given = "{}"
            elif given[0] != "{":
                raise chat_request.malformed((place, "input"), "an object")
            calls.append(names.call(block.id, block.name, given, place))
        elif kind == "thinking" and (signature := text_of(block.signature)).startswith(OWN_THOUGHT):
            thoughts += (block.thinking, *chat_request.carried_of(carried_by(signature)).reasoning_details)
        elif (kind := text_of(kind)) in _THOUGHTS or kind.endswith(_OF_SERVER_TOOLS):
            dropped.note(kind)
        else:
            parts.append(_part(block, place))
    if len(calls) == 1 and not parts and not thoughts:
        return calls[0]
    content = chat_request.content_of(parts) if parts else None if calls else ""
    answer = {"role": "assistant", "content": content, **chat_request.joined_thoughts(*thoughts)}
    return chat_request.joined([answer, *calls]) if calls else answer


def _part(block: _MessageBlock, where: Place) -> Text | Object:
    if block.type == "text" and (text := chat_request.unread(block.text)) is not None:
        return text
    kind, source = text_of(block.type), block.source if isinstance(block.source, dict) else {}
    if (texts := _texts(kind, block, source)) and all(isinstance(text, str) for text in texts):
        return "\n".join(texts)
    media, data, url = (text_of(source.get(name)) for name in ("media_type", "data", "url"))
    found = {"base64": media and data and f"data:{media};base64,{data}", "url": url}.get(event_kind(source))
    if kind == "image" and found:
        return chat_request.image_part(found)
    raise chat_request.refused_part(kind, where)


def _texts(kind: str, block: _MessageBlock, source: Object) -> list[Any]:
    """Return what `block` says in plain text, beginning with its titles; an empty list if it is not a text."""
    content = source.get("content") if kind == "document" else read(block.content)
    blocks = content if isinstance(content, list) else [content]
    inside = [one.get("text") if isinstance(one, dict) else one for one in blocks]
    if kind == "tool_reference":
        return [f"The tool {text_of(block.tool_name)} is available now."]
    if kind == "search_result":
        return [block.title, block.source, *inside]
    if kind == "document" and event_kind(source) in ("text", "content"):
        titles = [title for title in (block.title, block.context) if title]
        return [*titles, *([source.get("data")] if event_kind(source) == "text" else inside)]
    return inside if kind == "compaction" else []


def _tools(request: Members, names: chat_request.Names, dropped: chat_request.Dropped) -> Object:
    """Return `tools`, `tool_choice` and `parallel_tool_calls`. Tools that the server runs are dropped."""
    tools: list[Object] = []
    given = _TOOLS.decode(request.get("tools", NULL)) or []
    for number, tool in enumerate(chat_request.objects_of(given, "tools")):
        where = ("tools", number)
        if (kind := text_of(tool.type)) not in ("", "custom"):
            name, _, version = kind.rpartition("_")
            if name.removesuffix("_toolset") in _CLIENT_TOOLS and version.isdigit():
                raise chat_request.client_tool(kind, where)
            dropped.note(kind)
            continue
        function: Object = {"name": names.add(chat_request.Tool(text_of(tool.name)), where)}
        if tool.description != NULL:
            function["description"] = tool.description
        if tool.strict != NULL:
            function["strict"] = tool.strict
        function["parameters"] = chat_request.schema_of(tool.input_schema)
        tools.append({"type": "function", "function": function})
    chat = chat_request.chosen(read(request.get("tool_choice")), tools, names)
    if tools and chat_request.members_of(request, "tool_choice").get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
    return chat


_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use", "content_filter": "refusal"}


class MessageAnswer(AnswerBlocks):
    """The events of a message. The true usage stands in `message_delta`, because a chat sends it at its end."""

    def begun(self, chunk: Object) -> None:
        self.reply = {
            "id": self.defaults.new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": chunk.get("model") or self.defaults.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(Usage()),
        }
        self.events.append({"type": "message_start", "message": {**self.reply}})

    def block_begun(self, block: AnswerBlock) -> None:
        content, (kind, name) = self._content(block, ""), _DELTAS[block.kind]
        self.events.append({"type": "content_block_start", "index": self.ended_blocks, "content_block": content})
        delta = {"type": kind, name: "%b"}
        block.delta = event_of({"type": "content_block_delta", "index": self.ended_blocks, "delta": delta})

    def block_ended(self, block: AnswerBlock) -> None:
        if block.kind == "reasoning":
            delta = {"type": "signature_delta", "signature": signature_of(block.carried)}
            self.events.append({"type": "content_block_delta", "index": self.ended_blocks, "delta": delta})
        self.events.append({"type": "content_block_stop", "index": self.ended_blocks})
        if self.keeps_texts and (content := self._whole(block)) is not None:
            self.reply["content"].append(content)

    def _whole(self, block: AnswerBlock) -> Object | None:
        """Return `block` with its content; None for a call that the limit of tokens cut."""
        content = self._content(block, msgspec.Raw(block.text))
        if block.kind == "reasoning":
            content["signature"] = signature_of(block.carried)
        elif block.kind == "call" and block.sent:
            try:
                content["input"] = read_json(json.loads(block.text).encode())
            except ValueError:
                content["input"] = None
            if not isinstance(content["input"], dict):
                if self.reason in CUT:
                    return None
                tool = f"the tool {self.tool(block).name!r}" if block.name in self.about.tools else "a tool"
                reason = f"The upstream sent arguments of {tool} that are not a JSON object."
                raise UpstreamInvalid(reason, upstream=self.upstream)
        return content

    def _content(self, block: AnswerBlock, text: str | msgspec.Raw) -> Object:
        if block.kind == "call":
            return {"type": "tool_use", "id": block.id, "name": self.tool(block).name, "input": {}}
        if block.kind == "reasoning":
            return {"type": "thinking", "thinking": text, "signature": ""}
        return {"type": "text", "text": text}

    def ended(self, reason: str) -> None:
        matched = self.choice_end.get("stop_reason")
        # vLLM names the sequence that it met; the member may have another meaning elsewhere
        is_sequence = reason == "stop" and matched in self.about.stop_sequences
        end = "refusal" if reason == "stop" and "refusal" in self.kinds else _REASONS.get(reason, "end_turn")
        ends = {
            "stop_reason": "stop_sequence" if is_sequence else end,
            "stop_sequence": matched if is_sequence else None,
        }
        usage = _usage(self.counts, self.cache_write_tokens)
        self.reply |= {**ends, "usage": usage}
        self.events += ({"type": "message_delta", "delta": ends, "usage": usage}, {"type": "message_stop"})


_DELTAS: Mapping[str, tuple[str, str]] = {
    "text": ("text_delta", "text"),
    "refusal": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}


def _usage(counts: Usage, written: int = 0) -> Object:
    cached = counts.cached_tokens or 0
    return {
        "input_tokens": max(0, (counts.prompt_tokens or 0) - cached - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": counts.completion_tokens or 0,
    }
