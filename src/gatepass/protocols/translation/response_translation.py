"""Translate responses: a request into one for a chat, and the answer of the chat into the reply or its events.

What a chat cannot carry is dropped with a note, or refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from gatepass.auth.model_access import STORED
from gatepass.config.advice import Advice
from gatepass.errors import InvalidRequest, UpstreamInvalid
from gatepass.json_body import ONE_PASS_BYTES
from gatepass.normalize.messages import OWN_THOUGHT, carried_by, signature_of
from gatepass.protocols.translation import chat_request
from gatepass.protocols.translation.answer_blocks import CUT, AnswerBlock, AnswerBlocks
from gatepass.protocols.translation.chat_request import (
    NULL,
    About,
    ContentBlock,
    Dropped,
    Members,
    Names,
    Odd,
    Place,
    Text,
    Tool,
    read,
    text_of,
    unread,
)
from gatepass.sse.chunk import Object, event_kind, event_of, json_text
from gatepass.sse.event import read_json
from gatepass.types import Hidden, StreamedResponse

_SAME = ("model", "temperature", "top_p", "stream", "parallel_tool_calls", "metadata", "service_tier", "user")
_CARRIED = (
    *(*_SAME, "input", "instructions", "max_output_tokens", "text", "reasoning", "tools", "tool_choice"),
    *("store", "background"),
)
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_ROLES: Mapping[str, str] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
"""Strict servers reject the role `developer`, which means the same."""
_CALLS = frozenset(("function_call", "custom_tool_call"))
_RESULTS = frozenset(("function_call_output", "custom_tool_call_output"))
_SEARCH = Tool("tool_search", is_search=True)
_WITH_TOOLS = ("additional_tools", "tool_search_output")
"""Items that add tools to those of the request. Codex sends all of its tools in the first one for some models, and
loads those of MCP servers with the second."""
_ENCRYPTED = "gAAAA"
"""How a text that OpenAI encrypted begins."""
COMPACTION = Advice("server_compaction")
_COMPACTIONS = frozenset(("compaction", "compaction_summary", "context_compaction", "compaction_trigger"))
_OF_SERVER_TOOLS = ("_call", "_output", "_approval_request", "_approval_response", "_list_tools")
"""How the types of items end that a hosted tool wrote."""


class _ResponsePart(ContentBlock, gc=False):
    refusal: Any = None
    encrypted_content: Any = None
    image_url: Any = None
    detail: Any = None


_Content = list[_ResponsePart | Odd] | dict[str, msgspec.Raw] | str | int | float | bool | None
_CONTENT = msgspec.json.Decoder(_Content)


class _Item(Hidden, msgspec.Struct, gc=False):
    """An item of a conversation. Its members are those that any kind of one has."""

    type: Any = None
    role: Any = None
    content: _Content = None
    call_id: Any = None
    name: Any = None
    namespace: Any = None
    arguments: msgspec.Raw = NULL
    input: msgspec.Raw = NULL
    output: msgspec.Raw = NULL
    execution: Any = None
    tools: list[dict[str, msgspec.Raw] | Odd] | dict[str, msgspec.Raw] | str | int | float | bool | None = None
    summary: _Content = None
    encrypted_content: Any = None


_ITEMS = msgspec.json.Decoder(list[_Item | Odd] | dict[str, msgspec.Raw] | str | int | float | bool | None)


def chat_of_response(request: Members, dropped: Dropped) -> tuple[Object, About]:
    """Return the body of the chat that answers `request`, and what its answer repeats of the request.

    `dropped` notes what the chat leaves out. Raises InvalidRequest for what it cannot express: stored objects, files,
    a response in the background, a forced hosted tool, a call without its result.
    """
    for name in STORED:
        if read(request.get(name)):
            raise _stored(name)
    if read(request.get("background")):
        raise InvalidRequest("The upstream has chat completions alone, and no `background`.", param="background")
    chat: Object = {name: value for name in _SAME if (value := read(request.get(name))) is not None}
    given = _ITEMS.decode(request.get("input", NULL)) or []
    given = [_Item(role="user", content=given)] if isinstance(given, str) else given
    items: list[_Item] = chat_request.objects_of(given, "input", "a text or a list")
    declared = chat_request.OBJECTS.decode(request.get("tools", NULL))
    tools, names = _tools(declared, items, dropped)
    choice = read(request.get("tool_choice"))
    chat |= chat_request.chosen(choice, tools, names)
    system = _parts(_CONTENT.decode(request.get("instructions", NULL)) or [], "instructions")
    chat["messages"] = chat_request.in_turns(system, _messages(items, names, dropped), "input", dropped)
    if (most := read(request.get("max_output_tokens"))) is not None:
        chat["max_tokens"] = most
    if read(request.get("stream")):
        chat["stream_options"] = {"include_usage": True}
    reasoning = chat_request.object_of(request, "reasoning")
    if (effort := reasoning.get("effort")) is not None:
        chat["reasoning_effort"] = effort
    chat |= _response_format(chat_request.object_of(request, "text"), dropped)
    if "tools" not in chat:
        chat.pop("parallel_tool_calls", None)
    dropped.note_others(request, _CARRIED)
    return chat, About(names.by_chat_name, _repeated(request, declared, _choice(choice, chat, names)))


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


def _choice(given: Any, chat: Object, names: Names) -> Any:
    """Return the `tool_choice` of a request, which may be in the form of another API, in that of a response."""
    picked = chat.get("tool_choice")
    if not isinstance(picked, dict):
        return picked or text_of(given) or None
    tool = names.by_chat_name[picked["function"]["name"]]
    place = {"namespace": tool.namespace} if tool.namespace else {}
    return {"type": "custom" if tool.is_custom else "function", "name": tool.name, **place}


def _repeated(request: Members, tools: Any, choice: Any) -> Object:
    """Return what the response repeats. Tools are written once: a stream has them three times."""
    repeated: Object = {name: request.get(name) for name in _REPEATED}
    for name, value in repeated.items():
        if isinstance(value, msgspec.Raw) and name != "tools":
            text = unread(value)  # a view of the body would keep it until the answer ends
            repeated[name] = text.copy() if isinstance(text, msgspec.Raw) else read(value)
    for name in ("text", "reasoning"):
        if isinstance(value := repeated[name], dict):
            repeated[name] = {**_WHOLE[name], **value}
    repeated["tool_choice"] = choice
    repeated["tools"] = tools
    if isinstance(tools, list):
        whole = [_WHOLE["function"] | tool if text_of(tool.get("type")) == "function" else tool for tool in tools]
        repeated["tools"] = msgspec.Raw(_on_one_line(json_text(whole)))
    texts = {
        name: bytes(value) if isinstance(value, msgspec.Raw) else json_text(value) for name, value in repeated.items()
    }
    return repeated | dict.fromkeys(name for name, text in texts.items() if len(text) > MOST_REPEATED_BYTES)


def _on_one_line(text: bytes) -> bytes:
    """Return a JSON text without the line breaks that a client may write, and which would end an event."""
    return msgspec.json.format(text, indent=-1) if b"\n" in text or b"\r" in text else text


def _response_format(text: Object, dropped: Dropped) -> Object:
    wanted = chat_request.object_of(text, "format", "text")
    kind = event_kind(wanted)
    if kind == "json_schema":
        schema = {name: wanted[name] for name in ("name", "description", "schema", "strict") if name in wanted}
        return {"response_format": {"type": kind, kind: schema}}
    if kind not in ("", "text", "json_object"):
        dropped.note("text.format")
    return {"response_format": {"type": kind}} if kind == "json_object" else {}


# --- the conversation -----------------------------------------------------------------------------


def _messages(items: list[_Item], names: Names, dropped: Dropped) -> list[Object]:
    """Return the messages of a chat. A thought belongs to the answer after it."""
    messages: list[Object] = []
    thoughts: list[Any] = []
    for number, item in enumerate(items):
        kind = value if isinstance(value := item.type, str) else ""
        if kind == "reasoning":
            thoughts += _thoughts(item, dropped)
        elif found := _of_item(kind, item, ("input", number), names, dropped):
            if thoughts and found[0]["role"] == "assistant":
                found[0] |= chat_request.joined_thoughts(*thoughts, *found[0].get("reasoning_details", ()))
            elif thoughts and chat_request.joined_thoughts(*thoughts):
                dropped.note("reasoning")
            thoughts = []
            messages += found
    if chat_request.joined_thoughts(*thoughts):
        dropped.note("reasoning")
    return messages


def _of_item(kind: str, item: _Item, where: Place, names: Names, dropped: Dropped) -> list[Object]:
    if kind in ("message", "", "agent_message"):
        role = "user" if kind == "agent_message" else _ROLES.get(text_of(item.role))
        if role is not None:
            return [{"role": role, "content": _content(item.content, (where, "content"))}]
    if kind in _RESULTS:
        text, inside = unread(item.output), (where, "output")
        output = _content(_CONTENT.decode(item.output) or [], inside) if text is None else text
        return chat_request.result_messages(item.call_id, output, where)
    is_search = kind in ("tool_search_call", "tool_search_output") and item.execution == "client"
    if kind in _CALLS or (is_search and kind == "tool_search_call"):
        return [_call(kind, item, where, names)]
    if is_search:
        found = [names.of(tool) or "" for _, _, tool in _declared(item.tools, where, dropped)]
        available = f"Tools that are available now: {', '.join(found) or 'none'}."
        return chat_request.result_messages(item.call_id, available, where)
    if kind in _COMPACTIONS:
        if summary := chat_request.joined_thoughts(*_thoughts(item, dropped)).get("reasoning_content"):
            return [{"role": "user", "content": summary}]
        place = chat_request.place_text(where)
        cause = f"`{place}` ({kind}) is for a server that compacts. The upstream has chat completions alone."
        raise InvalidRequest(cause, param=place, case=COMPACTION.case, advice=str(COMPACTION))
    if kind.endswith(_OF_SERVER_TOOLS):
        dropped.note(kind)
    if kind.endswith(_OF_SERVER_TOOLS) or kind in _WITH_TOOLS:
        return []
    if kind == "item_reference":
        raise _stored(chat_request.place_text(where))
    raise chat_request.refused_part(kind, where)


def _call(kind: str, item: _Item, where: Place, names: Names) -> Object:
    if kind == "custom_tool_call":
        tool = chat_request.named_tool(item.name, item.namespace, is_custom=True)
        return names.call(item.call_id, tool, json_text({"input": item.input}).decode(), where)
    arguments = unread(item.arguments)
    if arguments is None:
        arguments = json_text(read(item.arguments) or {}).decode()
    if kind == "tool_search_call":
        return names.call(item.call_id, _SEARCH, arguments, where)
    tool = item.name if item.namespace is None else chat_request.named_tool(item.name, item.namespace)
    return names.call(item.call_id, tool, arguments, where)


def _thoughts(item: _Item, dropped: Dropped) -> list[Any]:
    """Return the texts and details of a reasoning or compaction item. What others encrypted only they can read."""
    signature, details = text_of(item.encrypted_content), list[Any]()
    if signature.startswith(OWN_THOUGHT):
        details += chat_request.carried_of(carried_by(signature)).reasoning_details
    elif signature:
        dropped.note("encrypted_content")
    for parts in (item.content, item.summary):
        if isinstance(parts, str):
            return [parts, *details]
        if isinstance(parts, list) and (texts := [text_of(one.text) for one in parts if isinstance(one, ContentBlock)]):
            return texts + details
    return details


def _content(content: Any, where: Place) -> Text | list[Object]:
    return content if isinstance(content, str) else chat_request.content_of(_parts(content, where))


def _parts(content: Any, where: Place) -> list[Text | Object]:
    return [_part(part, (where, at)) for at, part in enumerate(chat_request.blocks_of(content, where))]


def _part(part: _ResponsePart, where: Place) -> Text | Object:
    if part.type in _TEXTS and (text := unread(part.text)) is not None:
        return text
    kind = text_of(part.type)
    if kind == "refusal" and isinstance(part.refusal, str):
        return part.refusal
    # what agents of Codex tell each other is plain if the call that contained it came from a chat (openai/codex#33551)
    told = part.encrypted_content
    if kind == "encrypted_content" and isinstance(told, str) and not told.startswith(_ENCRYPTED):
        return told
    if kind == "input_image" and isinstance(url := part.image_url, str):
        image = chat_request.image_part(url)
        if part.detail:
            image["image_url"]["detail"] = "high" if part.detail == "original" else part.detail
        return image
    raise chat_request.refused_part(kind, where)


# --- the tools ------------------------------------------------------------------------------------


def _tools(declared: Any, items: list[_Item], dropped: Dropped) -> tuple[list[Object], Names]:
    """Return the functions of the chat, and their names. Hosted tools are dropped."""
    names, tools = Names(), list[Object]()
    owners: list[tuple[Place, Any]] = [("", declared)]
    owners += [(("input", at), item.tools) for at, item in enumerate(items) if item.type in _WITH_TOOLS]
    for where, given in owners:
        for place, one, tool in _declared(given, where, dropped):
            if not where or names.of(tool) is None:  # else a later item repeats it
                tools.append(_function(one, names.add(tool, place), is_custom=tool.is_custom))
    return tools, names


def _declared(tools: Any, where: Place, dropped: Dropped) -> Iterator[tuple[Place, Members, Tool]]:
    """Yield those of the `tools` at `where` that a chat can call, with their places: also those inside a namespace."""
    for number, outer in enumerate(chat_request.objects_of(tools or [], (where, "tools"))):
        at: Place = ((where, "tools"), number)
        namespace, inner = "", [(at, outer)]
        if text_of(outer.get("type")) == "namespace":
            namespace, given = text_of(outer.get("name")), chat_request.OBJECTS.decode(outer.get("tools", NULL))
            inside = chat_request.objects_of(given, (at, "tools"))
            inner = [(((at, "tools"), number), one) for number, one in enumerate(inside)]
            if len(namespace) > MOST_NAMESPACE_CHARS:
                wanted = f"a namespace with a name of at most {MOST_NAMESPACE_CHARS} characters"
                raise chat_request.malformed(at, wanted)
        for place, one in inner:
            kind = text_of(one.get("type"))
            environment = chat_request.members_of(one, "environment") if kind in _CLIENT_TOOLS else {}
            if kind in _CLIENT_TOOLS and not event_kind(environment).startswith("container"):
                raise chat_request.client_tool(kind, place)
            if kind in ("function", "custom"):
                yield place, one, Tool(text_of(one.get("name")), namespace, kind == "custom")
            elif kind == "tool_search" and text_of(one.get("execution")) == "client":
                yield place, one, _SEARCH
            else:
                dropped.note(kind)


_CLIENT_TOOLS = frozenset(("shell", "local_shell", "apply_patch", "computer", "computer_use_preview"))
"""Types of tools that the client runs, and whose calls are no functions."""
MOST_NAMESPACE_CHARS = 256
"""Each tool in it is named and hashed with it."""
_INPUT: Object = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def _function(tool: Members, name: str, *, is_custom: bool) -> Object:
    function: Object = {"name": name}
    function |= {name: tool[name] for name in ("description", "strict") if tool.get(name, NULL) != NULL}
    function["parameters"] = (
        _INPUT if is_custom else chat_request.schema_of(chat_request.OBJECT.decode(tool.get("parameters", NULL)))
    )
    if is_custom:
        syntax = chat_request.members_of(tool, "format")
        if definition := text_of(syntax.get("definition")):
            rule = f"`input` follows this {text_of(syntax.get('syntax'))} grammar:\n{definition}"
            function["description"] = f"{text_of(tool.get('description'))}\n\n{rule}".strip()
    return {"type": "function", "function": function}


_INCOMPLETE: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
_DEFAULTS: Object = {
    "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "truncation": "disabled", "metadata": {},
    "text": {"format": {"type": "text"}}, "temperature": 1.0, "top_p": 1.0, "top_logprobs": 0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0, "service_tier": "default",
    **dict.fromkeys(("max_tool_calls", "safety_identifier", "prompt_cache_key")),
}  # fmt: skip
"""What OpenAI's API takes if a request lacks the member. Open Responses requires each of them in a response."""
_PREFIXES: Mapping[str, str] = {"text": "msg_", "refusal": "msg_", "reasoning": "rs_", "call": "fc_"}
_PARTS: Mapping[str, str] = {"text": "output_text", "refusal": "refusal", "reasoning": "summary_text"}
_NAMES: Mapping[str, tuple[str, str, str]] = {
    "text": ("content_part", "output_text", "content_index"),
    "refusal": ("content_part", "refusal", "content_index"),
    "reasoning": ("reasoning_summary_part", "reasoning_summary_text", "summary_index"),
}
"""By the kind of a block: how the events of its part begin, those of its text, and the member with its place."""


class ResponseAnswer(AnswerBlocks):
    """The events of a response. The last one repeats all its items, because SDKs read the answer there."""

    repeats_texts = True

    def begun(self, chunk: Object) -> None:
        early = self.early.streamed
        repeated = {name: value for name, value in self.about.repeated.items() if value is not None}
        self.reply = {
            **dict.fromkeys(self.about.repeated),
            **_DEFAULTS,
            **repeated,
            "id": early.id or self.defaults.new_id("resp_"),
            "object": "response",
            "created_at": early.created_s or self.defaults.created_s,
            "completed_at": None,
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": chunk.get("model") or self.defaults.model,
            "service_tier": chunk.get("service_tier") or repeated.get("service_tier") or _DEFAULTS["service_tier"],
            "output": [],
            "previous_response_id": None,
            "store": False,
            "usage": None,
        }
        own = (self.reply["id"], self.reply["model"], self.reply["created_at"])
        self.named, self.next_number = StreamedResponse(*own, is_numbered=True), early.next_number
        for kind in ("response.created", "response.in_progress") if not early.id else ():
            self._add({"type": kind, "response": {**self.reply, "output": []}})

    def early_events(self) -> None:
        """Add the beginning, or a keep-alive if the client has it: no comment resets the timer of Codex."""
        self.named, self.next_number = self.early.streamed, self.early.streamed.next_number
        if self.named.id:
            self._add({"type": "keepalive"})
        else:
            self.begun({})
        self.early.offered = replace(self.named, next_number=self.next_number)

    def _add(self, event: Object) -> None:
        event["sequence_number"] = self.next_number
        self.next_number += 1
        self.events.append(event)

    def _place(self, block: AnswerBlock) -> Object:
        return {"item_id": block.item_id, "output_index": self.ended_blocks}

    def block_begun(self, block: AnswerBlock) -> None:
        tool = self.tool(block)
        prefix = "ctc_" if tool.is_custom else "tsc_" if tool.is_search else _PREFIXES[block.kind]
        block.item_id = self.defaults.new_id(prefix)
        item = self._item(block, "", "in_progress")
        self._add({"type": "response.output_item.added", "output_index": self.ended_blocks, "item": item})
        if block.kind != "call":
            self._add(self._event(block, "added", part=_content_part(block, "")))
            delta = self._event(block, "text.delta", delta="%b")
        elif tool.is_custom or tool.is_search:  # the text is inside the arguments; a search has no deltas
            return
        else:
            delta = {"type": "response.function_call_arguments.delta", **self._place(block), "delta": "%b"}
        block.delta = event_of({**delta, "sequence_number": msgspec.Raw(b"%d")})

    def block_ended(self, block: AnswerBlock) -> None:
        text, place, tool = msgspec.Raw(block.text), self._place(block), self.tool(block)
        if block.kind != "call":
            member = "refusal" if block.kind == "refusal" else "text"
            self._add(self._event(block, "text.done", **{member: text}))
            self._add(self._event(block, "done", part=_content_part(block, text)))
        elif (tool.is_custom or tool.is_search) and len(block.sent) > ONE_PASS_BYTES:
            most = f"more than {ONE_PASS_BYTES >> 20} MiB"
            raise UpstreamInvalid(f"The upstream sent {most} for the tool {block.name!r}.", upstream=self.upstream)
        elif tool.is_search:
            text = msgspec.Raw(json_text(_object_of(json.loads(block.text))))
        elif tool.is_custom:
            arguments = json.loads(block.text)
            given = _object_of(arguments).get("input")
            text = msgspec.Raw(json_text(given if isinstance(given, str) else arguments))
            self._add({"type": "response.custom_tool_call_input.delta", **place, "delta": text})
            self._add({"type": "response.custom_tool_call_input.done", **place, "input": text})
        else:
            text = text if block.sent else msgspec.Raw(b'"{}"')
            kind = "response.function_call_arguments.done"
            self._add({"type": kind, **place, "name": tool.name, "arguments": text})
        was_cut = self.reason in CUT and not self._waiting
        item = self._item(block, text, "incomplete" if was_cut else "completed")
        self.reply["output"].append(item)
        self._add({"type": "response.output_item.done", "output_index": self.ended_blocks, "item": item})

    def _event(self, block: AnswerBlock, what: str, **members: object) -> Object:
        """Return an event about the only part of a text or a thought. Codex shows and returns summaries alone."""
        part, text, index = _NAMES[block.kind]
        kind = what.replace("text", text) if "text" in what else f"{part}.{what}"
        logprobs: Object = {"logprobs": []} if kind.startswith("output_text") else {}  # openai-python requires them
        return {"type": f"response.{kind}", **self._place(block), index: 0, **members, **logprobs}

    def _item(self, block: AnswerBlock, text: str | msgspec.Raw, status: str) -> Object:
        parts = [_content_part(block, text)] if text and block.kind != "call" else []
        if block.kind in ("text", "refusal"):
            message = {"type": "message", "role": "assistant", "content": parts}
            return {"id": block.item_id, "status": status, **message}
        if block.kind == "reasoning":
            signature = signature_of(block.carried)
            return {"id": block.item_id, "type": "reasoning", "summary": parts, "encrypted_content": signature}
        tool = self.tool(block)
        if tool.is_search:
            search: Object = {"type": "tool_search_call", "execution": "client", "arguments": text or {}}
            return {"id": block.item_id, "call_id": block.id, "status": status, **search}
        kind, member = ("custom_tool_call", "input") if tool.is_custom else ("function_call", "arguments")
        place = {"namespace": tool.namespace} if tool.namespace else {}
        call = {"call_id": block.id, "name": tool.name, member: text}
        return {"id": block.item_id, "type": kind, "status": status, **call, **place}

    def ended(self, reason: str) -> None:
        counts = self.counts
        given, made = counts.prompt_tokens or 0, counts.completion_tokens or 0
        why = _INCOMPLETE.get(reason)
        status = "completed" if why is None else "incomplete"
        self.reply |= {
            "status": status,
            "completed_at": self.defaults.created_s if why is None else None,
            "incomplete_details": None if why is None else {"reason": why},
            "usage": {
                "input_tokens": given,
                "input_tokens_details": {
                    "cached_tokens": counts.cached_tokens or 0,
                    "cache_write_tokens": self.cache_write_tokens,
                },
                "output_tokens": made,
                "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens or 0},
                "total_tokens": given + made,
            },
        }
        self._add({"type": f"response.{status}", "response": self.reply})


def _content_part(block: AnswerBlock, text: str | msgspec.Raw) -> Object:
    more: Object = {"annotations": [], "logprobs": []} if block.kind == "text" else {}
    return {"type": _PARTS[block.kind], "refusal" if block.kind == "refusal" else "text": text, **more}


def _object_of(arguments: str) -> Object:
    try:
        value = read_json(arguments.encode())
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
