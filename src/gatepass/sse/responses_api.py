"""The stream of the Responses API, made of one whole response: for an upstream that did not stream.

The events and their order are those of https://platform.openai.com/docs/api-reference/responses-streaming. Clients put
an answer together from the deltas, from the items that are done, or take the response of the last event: each way gives
the same.

The document of the Responses API, with all that its strict clients require.

One response made of a stream of the Responses API: for an upstream that only streams, or did without being asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

from gatepass.errors import GatepassError, UpstreamInvalid
from gatepass.sse import chunk
from gatepass.sse.chunk import MAX_ENTRIES, EnvelopeDefaults, Object, json_text, text_of_id
from gatepass.sse.event import parse_event, read_json, split_events
from gatepass.types import UpstreamErrorBody

STATUSES = frozenset(("completed", "failed", "incomplete", "cancelled", "queued", "in_progress"))

UNFINISHED = frozenset(("queued", "in_progress"))
"""The statuses of a response that goes on behind the request, which it only does with `background`."""

_REQUIRED: Object = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": ()}
"""What openai-python's `Response` requires beside id, time, model and output; the values are the API's own defaults."""
_PREFIXES = MappingProxyType(
    {"message": "msg_", "reasoning": "rs_", "function_call": "fc_", "custom_tool_call": "ctc_", "mcp_call": "mcp_"}
)
_ARGUMENTS = MappingProxyType({"function_call": "arguments", "mcp_call": "arguments", "custom_tool_call": "input"})


def response_of(document: Object, defaults: EnvelopeDefaults) -> Object:
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
        "id": text_of_id(document.get("id")) or defaults.new_id("resp_"),
        "object": "response",
        "created_at": created if is_time else defaults.created_s,
        "model": model if isinstance(model, str) and model else defaults.model,
        "status": status_of(document),
        "output": [_document_item(item, defaults) for item in items],
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


def kind_of(payload: Object) -> str:
    """The `type` of an event, an item or a part; "" for what is none."""
    kind = payload.get("type")
    return kind if isinstance(kind, str) else ""


def _document_item(item: Object, defaults: EnvelopeDefaults) -> Object:
    kind = kind_of(item)
    whole = {**item, "id": text_of_id(item.get("id")) or defaults.new_id(_PREFIXES.get(kind, "item_"))}
    if kind == "message":
        own = {"role": item.get("role") or "assistant", "status": item.get("status") or "completed"}
        return {**whole, **own, "content": _content(item.get("content"))}
    if kind == "reasoning":
        return _reasoning(whole)
    if kind in _ARGUMENTS:
        return _call(whole, _ARGUMENTS[kind], defaults)
    return whole


def _content(content: Any) -> list[Any]:
    """The parts of a message; some gateways write a text in their place."""
    if isinstance(content, str):
        content = [{"type": "output_text", "text": content}]
    return [_document_part(part) for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _document_part(part: Object) -> Object:
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


def _call(item: Object, name: str, defaults: EnvelopeDefaults) -> Object:
    """A tool call with its arguments as the text that clients parse."""
    whole = {**item, "name": _text(item.get("name")), name: _text(item.get(name))}
    if item["type"] != "mcp_call":
        whole["call_id"] = text_of_id(item.get("call_id")) or defaults.new_id("call_")
    return whole


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json_text(value).decode()


LAST_EVENTS = frozenset(("response.completed", "response.failed", "response.incomplete"))
"""How the stream of a response ends: its clients wait for one of these, and find the whole response in it."""

_SAYING = ("delta", "text", "arguments")
"""The members in which an event tells a part of an item."""


class ResponseAggregator:
    """Takes the events of one stream, gives the response of its last event.

    Where that has no output (a gateway that keeps nothing sends it so) it is made of the items that were done:
    those with an `output_index` in its order, then those without one. An empty output after a text or the arguments of
    an item that was never done is `upstream_invalid`: the whole of that item nobody told.

    `failure` is set as soon as there will be no answer: an error event, a response that failed with an error, in the
    upstream's own words, an event that is no JSON, more than `limit_bytes` of events. `finish` raises it, and
    `upstream_closed` for a stream that was cut.

    `read_error` reads an upstream's error out of a JSON value, or returns None.
    """

    __slots__ = (
        "_bytes_left",
        "_has_begun",
        "_is_done",
        "_items",
        "_read_error",
        "_response",
        "_told",
        "_unplaced",
        "_upstream",
        "failure",
    )

    def __init__(self, upstream: str, limit_bytes: int, read_error: Callable[[Any], UpstreamErrorBody | None]) -> None:
        self.failure: GatepassError | None = None
        self._upstream = upstream
        self._bytes_left = limit_bytes
        self._read_error = read_error
        self._items: dict[int, Object] = {}
        self._unplaced: list[Object] = []
        self._told: set[int] = set()
        self._response: Object | None = None
        self._has_begun = self._is_done = False

    @property
    def is_over(self) -> bool:
        """Whether nothing that may come matters any more."""
        return self._is_done or self.failure is not None

    def feed(self, run: bytes) -> None:
        """Take a run of whole events, of any line ends."""
        for block in split_events(run):
            if self.is_over:
                return
            self._bytes_left -= len(block)
            if self._bytes_left < 0:
                self.fail(chunk.reply_too_large(self._upstream))
                return
            self._take(block)

    def fail(self, error: GatepassError) -> None:
        """There will be no answer: `error` says why."""
        self.failure = error
        self._items, self._unplaced = {}, []

    def finish(self) -> bytes:
        """The response as JSON; raises `failure`, or that there was none or only a part of one."""
        if self.failure is None and self._response is None:
            self.failure = (chunk.stream_closed if self._has_begun else chunk.stream_empty)(self._upstream)
        if self.failure is not None:
            raise self.failure
        try:
            return json_text(self._response)
        except ValueError:
            raise chunk.event_not_json(self._upstream) from None

    def _take(self, block: bytes) -> None:
        event = parse_event(block)
        data = (event.data or b"").strip()
        if not data or data.startswith(b":"):
            return
        if data == b"[DONE]":
            self._is_done = True
            return
        try:
            payload = read_json(data)
        except ValueError:
            if event.name != b"error":
                self.fail(chunk.event_not_json(self._upstream))
                return
            payload = data.decode("utf-8", "replace")
        self._add(payload, event.name)

    def _add(self, payload: Any, name: bytes) -> None:
        fields = payload if isinstance(payload, dict) else {}
        kind = kind_of(fields)
        is_error = name == b"error" or kind == "error"
        error_body = self._read_error(payload) or (self._read_error({"error": payload}) if is_error else None)
        if error_body is not None or is_error:
            self.fail(chunk.upstream_error_event(self._upstream, error_body or chunk.UNREADABLE))
            return
        self._has_begun = True
        if kind == "response.output_item.done":
            self._keep(fields.get("output_index"), fields.get("item"))
        elif kind in LAST_EVENTS and isinstance(fields.get("response"), dict):
            self._end(fields["response"])
        elif any(fields.get(name) for name in _SAYING):
            index = fields.get("output_index")
            self._told.add(index if type(index) is int else 0)

    def _keep(self, index: Any, item: Any) -> None:
        if not isinstance(item, dict):
            return
        if type(index) is int:
            self._items[index] = item
        else:
            self._unplaced.append(item)

    def _end(self, response: Object) -> None:
        error = response.get("error")
        if error:
            self.fail(
                chunk.upstream_error_event(self._upstream, self._read_error({"error": error}) or chunk.UNREADABLE)
            )
            return
        if not response.get("output"):
            if len(self._told - self._items.keys()) > len(self._unplaced):
                lost = "The upstream's last event has no output, though its stream had told of some."
                self.fail(UpstreamInvalid(lost, upstream=self._upstream))
                return
            if items := [*(item for _, item in sorted(self._items.items())), *self._unplaced]:
                response = {**response, "output": items}
        self._response, self._is_done = response, True


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


def synthesise_response(document: Object, defaults: EnvelopeDefaults) -> Iterator[bytes]:
    """The events of a stream that says what `document`, a parsed and judged response, says.

    What strict clients require and `document` lacks is filled in. There is no `[DONE]`: the API has none. One that
    calls itself unfinished, without `background`, is completed if it has output: SDKs wait for a last event. Raises
    `Unfinished` if it has none, ValueError for what is nested too deep to be written or has more than MAX_ENTRIES.
    """
    for number, payload in enumerate(events(document, defaults)):
        yield b"event: %b\ndata: %b\n\n" % (payload["type"].encode(), json_text({**payload, "sequence_number": number}))


def events(document: Object, defaults: EnvelopeDefaults) -> Iterator[Object]:
    """The events of that stream without their numbers."""
    if _size(document) > MAX_ENTRIES:
        raise ValueError("too many items, parts and annotations")
    response = response_of(document, defaults)
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


def _size(payload: Any) -> int:
    """How many items, parts and annotations a response has."""
    lists = (payload.get(name) for name in _LISTS) if isinstance(payload, dict) else ()
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
