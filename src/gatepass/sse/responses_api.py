"""The stream of the Responses API, made of one whole response: for an upstream that did not stream.

The events and their order are those of https://platform.openai.com/docs/api-reference/responses-streaming. Clients put
an answer together from the deltas, from the items that are done, or take the response of the last event: each way gives
the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

from gatepass.sse.chunk import MOST_PIECES, Object, Origin, json_text
from gatepass.sse.document import UNFINISHED, kind_of, response_of

_IN_PROGRESS = "in_progress"
_LAST = MappingProxyType(
    {"failed": "response.failed", "incomplete": "response.incomplete", "cancelled": "response.incomplete"}
)
_UNFINISHED = MappingProxyType({"queued": "response.queued", _IN_PROGRESS: "response.in_progress"})
"""A response that goes on behind the request (`background`): its stream has no last event yet."""
_CALLS = MappingProxyType(
    {
        "function_call": ("arguments", "response.function_call_arguments"),
        "mcp_call": ("arguments", "response.mcp_call_arguments"),
        "custom_tool_call": ("input", "response.custom_tool_call_input"),
    }
)
_TEXTS = MappingProxyType(
    {
        "output_text": ("text", "response.output_text"),
        "reasoning_text": ("text", "response.reasoning_text"),
        "refusal": ("refusal", "response.refusal"),
    }
)
"""By the type of a part: the member that holds its text, and the stem of the events that tell it."""
_SPOKEN = ("message", "reasoning")
"""What has content parts of its own: messages, and thoughts that are shown."""
_LISTS = ("output", "content", "summary", "annotations")
_SUMMARY, _SUMMARY_PART = "response.reasoning_summary_text", "response.reasoning_summary_part"


class Unfinished(ValueError):
    """A response that is not finished, says nothing and does not go on in the background: its stream has no end."""


def synthesise_response(document: Object, origin: Origin) -> Iterator[bytes]:
    """The events of a stream that says what `document`, a parsed and judged response, says.

    What strict clients require and `document` lacks is filled in. There is no `[DONE]`: the API has none. One that
    calls itself unfinished, without `background`, is completed if it has output: SDKs wait for a last event. Raises
    `Unfinished` if it has none, ValueError for what is nested too deep to be written or has more than MOST_PIECES.
    """
    for number, said in enumerate(events(document, origin)):
        yield b"event: %b\ndata: %b\n\n" % (said["type"].encode(), json_text({**said, "sequence_number": number}))


def events(document: Object, origin: Origin) -> Iterator[Object]:
    """The events of that stream without their numbers."""
    if _size(document) > MOST_PIECES:
        raise ValueError("too many items, parts and annotations")
    response = response_of(document, origin)
    status = response["status"]
    if _is_unfinished(document) and status == "completed" and not response["output"]:
        raise Unfinished(document["status"])
    yield {"type": "response.created", "response": _begun(response, status)}
    if status in _UNFINISHED:
        yield {"type": _UNFINISHED[status], "response": response}
        return
    yield {"type": "response.in_progress", "response": _begun(response, status)}
    for index, item in enumerate(response["output"]):
        yield from _item(item, index)
    yield {"type": _LAST.get(status, "response.completed"), "response": response}


def _size(said: Any) -> int:
    """How many items, parts and annotations a response has."""
    lists = (said.get(name) for name in _LISTS) if isinstance(said, dict) else ()
    return sum(len(found) + sum(map(_size, found)) for found in lists if isinstance(found, list))


def _is_unfinished(document: Object) -> bool:
    status = document.get("status")
    return isinstance(status, str) and status in UNFINISHED


def _begun(response: Object, status: str) -> Object:
    """The response before it has said anything."""
    unsaid: Object = {
        name: None for name in ("error", "incomplete_details", "usage", "completed_at") if name in response
    }
    return {**response, "status": "queued" if status == "queued" else _IN_PROGRESS, "output": [], **unsaid}


def _item(item: Object, index: int) -> Iterator[Object]:
    yield {"type": "response.output_item.added", "output_index": index, "item": _unsaid(item)}
    place = {"item_id": item["id"], "output_index": index}
    if kind_of(item) == "reasoning":
        for number, part in enumerate(item["summary"]):
            yield from _summary(part, {**place, "summary_index": number})
    for number, part in enumerate(_parts(item)):
        yield from _part(part, {**place, "content_index": number})
    if (kind := kind_of(item)) in _CALLS:
        name, stem = _CALLS[kind]
        first, last = _told(stem, name, item[name], place)
        yield from (*first, last)
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _unsaid(item: Object) -> Object:
    """The item before it has said anything; of one that nobody knows only the status is taken back."""
    begun = dict(item)
    if isinstance(item.get("status"), str):
        begun["status"] = _IN_PROGRESS
    if (kind := kind_of(item)) in _CALLS:
        begun[_CALLS[kind][0]] = ""
    for name in ("content", "summary") if kind in _SPOKEN else ():
        if isinstance(item.get(name), list):
            begun[name] = []
    if kind == "reasoning":
        begun.pop("encrypted_content", None)
    return begun


def _parts(item: Object) -> list[Object]:
    if kind_of(item) not in _SPOKEN:
        return []
    parts = item.get("content")
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _part(part: Object, place: Object) -> Iterator[Object]:
    kind = kind_of(part)
    name, stem = _TEXTS.get(kind, ("", ""))
    emptied = {name: ""} if name else {}
    unsaid: Object = {more: [] for more in ("annotations", "logprobs") if isinstance(part.get(more), list)}
    yield {"type": "response.content_part.added", **place, "part": {**part, **emptied, **unsaid}}
    if name:
        logprobs: Object = {"logprobs": part.get("logprobs") or []} if kind == "output_text" else {}
        first, last = _told(stem, name, part[name], {**place, **logprobs})
        yield from first
        for number, annotation in enumerate(part["annotations"] if kind == "output_text" else ()):
            told = {"annotation_index": number, "annotation": annotation}
            yield {"type": "response.output_text.annotation.added", **place, **told}
        yield last
    yield {"type": "response.content_part.done", **place, "part": part}


def _summary(part: Object, place: Object) -> Iterator[Object]:
    yield {"type": f"{_SUMMARY_PART}.added", **place, "part": {**part, "text": ""}}
    first, last = _told(_SUMMARY, "text", part["text"], place)
    yield from (*first, last)
    yield {"type": f"{_SUMMARY_PART}.done", **place, "part": part}


def _told(stem: str, name: str, text: str, place: Object) -> tuple[list[Object], Object]:
    """The events of a text: one delta, for what follows repeats it whole anyway, none for an empty one; and its end."""
    deltas = [{"type": f"{stem}.delta", **place, "delta": text}] if text else []
    return deltas, {"type": f"{stem}.done", **place, name: text}
