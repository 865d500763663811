"""The document of the Responses API, with all that its strict clients require."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from gatepass.sse.chunk import Object, Origin, json_text, text_of_id

STATUSES = frozenset(("completed", "failed", "incomplete", "cancelled", "queued", "in_progress"))

UNFINISHED = frozenset(("queued", "in_progress"))
"""The statuses of a response that goes on behind the request, which it only does with `background`."""

_REQUIRED: Object = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": ()}
"""What openai-python's `Response` requires beside id, time, model and output; the values are the API's own defaults."""
_PREFIXES = MappingProxyType(
    {"message": "msg_", "reasoning": "rs_", "function_call": "fc_", "custom_tool_call": "ctc_", "mcp_call": "mcp_"}
)
_ARGUMENTS = MappingProxyType({"function_call": "arguments", "mcp_call": "arguments", "custom_tool_call": "input"})


def response_of(document: Object, origin: Origin) -> Object:
    """`document` complete: ids, texts and lists are there and are what they should be, and its status is set.

    An output that is a text becomes the message that says it.
    """
    output = document.get("output")
    if isinstance(output, str) and output:
        output = [{"type": "message", "content": output}]
    items = [entry for entry in output if isinstance(entry, dict)] if isinstance(output, list) else []
    created = document.get("created_at")
    is_time = isinstance(created, int | float) and not isinstance(created, bool)
    missing = {name: value for name, value in _REQUIRED.items() if document.get(name) is None}
    model = document.get("model")
    return {
        **document,
        **missing,
        "id": text_of_id(document.get("id")) or origin.new_id("resp_"),
        "object": "response",
        "created_at": created if is_time else origin.created_s,
        "model": model if isinstance(model, str) and model else origin.model,
        "status": status_of(document),
        "output": [_item(item, origin) for item in items],
    }


def status_of(document: Object) -> str:
    """Its own status, or what else it says of its end: where that is none, or unfinished without `background`."""
    status = document.get("status")
    if (
        isinstance(status, str)
        and status in STATUSES
        and (status not in UNFINISHED or document.get("background") is True)
    ):
        return status
    if document.get("error"):
        return "failed"
    return "incomplete" if document.get("incomplete_details") else "completed"


def kind_of(said: Object) -> str:
    """The `type` of an event, an item or a part; "" for what is none."""
    kind = said.get("type")
    return kind if isinstance(kind, str) else ""


def _item(item: Object, origin: Origin) -> Object:
    kind = kind_of(item)
    whole = {**item, "id": text_of_id(item.get("id")) or origin.new_id(_PREFIXES.get(kind, "item_"))}
    if kind == "message":
        own = {"role": item.get("role") or "assistant", "status": item.get("status") or "completed"}
        return {**whole, **own, "content": _content(item.get("content"))}
    if kind == "reasoning":
        return _reasoning(whole)
    if kind in _ARGUMENTS:
        return _call(whole, _ARGUMENTS[kind], origin)
    return whole


def _content(content: Any) -> list[Any]:
    """The parts of a message; some gateways write a text in their place."""
    if isinstance(content, str):
        content = [{"type": "output_text", "text": content}]
    return [_part(part) for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _part(part: Object) -> Object:
    kind = kind_of(part)
    if kind == "output_text":
        annotations = part.get("annotations")
        annotations = annotations if isinstance(annotations, list) else []
        return {**part, "text": _text(part.get("text")), "annotations": annotations}
    if kind in ("reasoning_text", "refusal"):
        name = "refusal" if kind == "refusal" else "text"
        return {**part, name: _text(part.get(name))}
    return part


def _reasoning(item: Object) -> Object:
    summary = item.get("summary")
    parts = [part for part in summary if isinstance(part, dict)] if isinstance(summary, list) else []
    whole = {**item, "summary": [{"type": "summary_text", **part, "text": _text(part.get("text"))} for part in parts]}
    return {**whole, "content": _content(item["content"])} if isinstance(item.get("content"), list) else whole


def _call(item: Object, name: str, origin: Origin) -> Object:
    """A tool call with its arguments as the text that clients parse."""
    whole = {**item, "name": _text(item.get("name")), name: _text(item.get(name))}
    if item["type"] != "mcp_call":
        whole["call_id"] = text_of_id(item.get("call_id")) or origin.new_id("call_")
    return whole


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json_text(value).decode()
