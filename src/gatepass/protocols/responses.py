"""The Responses API: its errors, a stream made from a whole response, and a whole response made from a stream.

The events and their order follow https://platform.openai.com/docs/api-reference/responses-streaming. Clients read the
answer from the deltas, from the finished items, or from the response in the last event: all three are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from gatepass import json_body
from gatepass.config.access import Profile
from gatepass.dialects.reply_check import shown_members
from gatepass.errors import GatepassError, UpstreamErrorReply, UpstreamInvalid, sentence
from gatepass.json_body import OBJECT
from gatepass.normalize.messages import OWN_THOUGHT
from gatepass.protocols import client_protocol
from gatepass.protocols.error_objects import error_headers, error_object, error_text, retry_after, stream_error
from gatepass.protocols.translation import translation
from gatepass.replies.error_body import Mask, public_object
from gatepass.sse import chunk
from gatepass.sse.aggregate import StreamAggregator
from gatepass.sse.asked import NOTHING, Asked
from gatepass.sse.choice_aggregate import MAX_REPLY_ENTRIES
from gatepass.sse.chunk import EnvelopeDefaults, ErrorOf, Object, StreamSource
from gatepass.sse.event import LARGE_EVENT_BYTES, read_json
from gatepass.sse.event_stream import EventStream
from gatepass.sse.fast_path import NumberedPath
from gatepass.sse.progress import Progress
from gatepass.sse.repair import EventRepair
from gatepass.sse.tool_calls import arguments_fault, is_at_limit
from gatepass.sse.usage import Usage
from gatepass.types import OVER_QUOTA, TOO_LONG, Call, StreamedResponse

_ENDED, _UNFINISHED = ("completed", "failed", "incomplete", "cancelled"), ("queued", "in_progress")
COMPLETED, FAILED, INCOMPLETE = "response.completed", "response.failed", "response.incomplete"
LAST_EVENTS = frozenset((COMPLETED, FAILED, INCOMPLETE))
"""The events that end a stream. Clients wait for one of them and read the whole response from it."""

# --- a stream from a response ---------------------------------------------------------------------


def synthesize_response(document: Object, defaults: EnvelopeDefaults, upstream: str) -> Iterator[bytes]:
    """Yield the events of a stream with the content of `document`, a parsed and validated response.

    Items are sent as they came, with an id. The Responses API has no `[DONE]`. An unfinished response with
    output is sent as completed, because SDKs wait for a last event.

    Raises UpstreamInvalid for one without output, and ValueError if it is nested too deep or has more than MAX_ENTRIES.
    """
    for number, payload in enumerate(events(document, defaults, upstream)):
        yield chunk.event_of({**payload, "sequence_number": number})


_PARTIAL = ("incomplete", "cancelled")
_LAST: Mapping[str, str] = {"failed": FAILED, **dict.fromkeys(_PARTIAL, INCOMPLETE)}


def events(document: Object, defaults: EnvelopeDefaults, upstream: str) -> Iterator[Object]:
    """Yield the events of that stream without their numbers."""
    if _count_entries(document) > chunk.MAX_ENTRIES:
        raise ValueError("too many items, parts and annotations")
    response = complete_response(document, defaults)
    status = response["status"]
    if document.get("status") in _UNFINISHED and status == "completed" and not response["output"]:
        # its stream would have no end
        reason = "The upstream returned a response that is not finished and has no output."
        raise UpstreamInvalid(reason, upstream=upstream)
    unset: Object = {
        name: None for name in ("error", "incomplete_details", "usage", "completed_at") if name in response
    }
    begun = {**response, "status": "in_progress", "output": [], **unset}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(response["output"]):
        yield from _item_events(item, index)
    yield {"type": _LAST.get(status, COMPLETED), "response": response}


def _count_entries(payload: Any) -> int:
    names = ("output", "content", "summary", "annotations")
    lists = (payload.get(name) for name in names) if isinstance(payload, dict) else ()
    return sum(len(found) + sum(map(_count_entries, found)) for found in lists if isinstance(found, list))


_CALLS: Mapping[str, tuple[str, str]] = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
}
"""By item type: the member that holds the arguments, and the stem of their events."""
_TEXTS: Mapping[str, tuple[str, str]] = {
    "output_text": ("text", "response.output_text"),
    "reasoning_text": ("text", "response.reasoning_text"),
    "summary_text": ("text", "response.reasoning_summary_text"),
    "refusal": ("refusal", "response.refusal"),
}
"""By part type: the member that holds the text, and the stem of its events."""
_PARTS = {"summary": ("reasoning_summary_part", "summary_index"), "content": ("content_part", "content_index")}
"""By member of a message or reasoning: the stem of the events of its parts, and the member with their place."""


def _item_events(item: Object, index: int) -> Iterator[Object]:
    kind, begun = chunk.event_kind(item), dict(item)  # of an item of unknown type only the status changes
    if isinstance(item.get("status"), str):
        begun["status"] = "in_progress"
    name, stem = _CALLS.get(kind, ("", ""))
    if isinstance(item.get(name), str):
        begun[name] = ""
    lists = [member for member in _PARTS if kind in ("message", "reasoning") and isinstance(item.get(member), list)]
    begun |= {member: [] for member in lists}
    if kind == "reasoning":
        begun.pop("encrypted_content", None)  # OpenAI sends it with the finished item
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    place = {"item_id": item["id"], "output_index": index}
    for member in lists:
        stem, index_name = _PARTS[member]
        for number, part in enumerate(part for part in item[member] if isinstance(part, dict)):
            yield from _part_events(part, f"response.{stem}", {**place, index_name: number})
    if isinstance(arguments := item.get(name), str):
        yield from _text_events(stem, name, arguments, place)
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _part_events(part: Object, of_part: str, place: Object) -> Iterator[Object]:
    kind = chunk.event_kind(part)
    name, stem = _TEXTS.get(kind, ("", ""))
    text = part.get(name)
    yield {"type": f"{of_part}.added", **place, "part": {**part, name: ""} if isinstance(text, str) else part}
    if isinstance(text, str):
        # openai-python's type of these events requires it
        logprobs: Object = {"logprobs": part.get("logprobs") or []} if kind == "output_text" else {}
        yield from _text_events(stem, name, text, {**place, **logprobs})
    yield {"type": f"{of_part}.done", **place, "part": part}


def _text_events(stem: str, name: str, text: str, place: Object) -> list[Object]:
    """Return the events of a text: one delta, or none for an empty text, and the end. The end repeats the text."""
    deltas = [{"type": f"{stem}.delta", **place, "delta": text}] if text else []
    return [*deltas, {"type": f"{stem}.done", **place, name: text}]


# --- complete a response --------------------------------------------------------------------------

# The members that openai-python's `Response` requires beyond id, time, model and output, with the defaults of the API
_REQUIRED: Object = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": ()}
_ID_PREFIXES = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_", "custom_tool_call": "ctc_"}


def complete_response(document: Object, defaults: EnvelopeDefaults) -> Object:
    """Return `document` with a status, with the members that clients require, and with the ids of its items."""

    def new_id(item: Object) -> str:
        return defaults.new_id(_ID_PREFIXES.get(chunk.event_kind(item), "item_"))

    output = document.get("output")
    items = [entry for entry in output if isinstance(entry, dict)] if isinstance(output, list) else []
    created = document.get("created_at")
    is_time = isinstance(created, int | float) and not isinstance(created, bool)
    missing = {name: value for name, value in _REQUIRED.items() if document.get(name) is None}
    model, status = document.get("model"), document.get("status")
    if status not in _ENDED:
        status = "failed" if document.get("error") else "completed"
        status = "incomplete" if status == "completed" and document.get("incomplete_details") else status
    return {
        **document,
        **missing,
        "id": chunk.text_of_id(document.get("id")) or defaults.new_id("resp_"),
        "object": "response",
        "created_at": created if is_time else defaults.created_s,
        "model": model if isinstance(model, str) and model else defaults.model,
        "status": status,
        "output": [{**item, "id": chunk.text_of_id(item.get("id")) or new_id(item)} for item in items],
    }


# --- a response from a stream ---------------------------------------------------------------------


class ResponseAggregator(StreamAggregator):
    """Returns the response in the last event of a stream.

    Gateways that store nothing send it without output. Then the output is made of the finished items: first those with
    an `output_index` in its order, then those without one. If an item had output but was never finished, the response
    is `upstream_invalid`. A failed response is a failure too. `finish` raises `upstream_closed` for a stream that was
    cut.
    """

    def __init__(self, source: StreamSource, event_bytes: int, asked: Asked = NOTHING) -> None:
        super().__init__(source, event_bytes, done_is_required=False, progress=ResponseProgress(asked))
        self._items: dict[int, Object] = {}
        self._started_items: set[int] = set()
        self._response: Object | None = None

    def fail(self, error: GatepassError) -> None:
        super().fail(error)
        self._items = {}

    def _collected(self) -> Any:
        return self._response or [*self._items.values()]

    def _reply(self) -> Object:
        return self._response or {}

    def _add(self, fields: Object) -> None:
        kind = chunk.event_kind(fields)
        index = fields.get("output_index")
        if kind == "response.output_item.done":
            keep_item(self._items, fields)
        elif kind in LAST_EVENTS:
            if not isinstance(response := fields.get("response"), dict):
                self.fail(chunk.stream_closed(self._source.upstream))
                return
            settle(fields, response)
            if not response.get("output"):
                if len(self._started_items - self._items.keys()) > sum(at >= MAX_REPLY_ENTRIES for at in self._items):
                    reason = "The upstream's last event has no output, although its stream contained some."
                    self.fail(UpstreamInvalid(reason, upstream=self._source.upstream))
                    return
                if self._items:
                    response = {**response, "output": in_order(self._items)}
            self._response = response
        elif any(fields.get(name) for name in ("delta", "text", "arguments")):
            self._started_items.add(index if type(index) is int else 0)  # without an index: the first item
            if len(self._started_items) > MAX_REPLY_ENTRIES:
                self.fail(chunk.too_many_choices(self._source.upstream))


def keep_item(items: dict[int, Object], fields: Object) -> None:
    """Keep the finished item of an event: by its `output_index`, or behind all others."""
    index = fields.get("output_index")
    if isinstance(item := fields.get("item"), dict):
        items[index if type(index) is int else MAX_REPLY_ENTRIES + len(items)] = item


def in_order(items: dict[int, Object]) -> list[Object]:
    return [item for _, item in sorted(items.items())]


# --- a relayed stream -----------------------------------------------------------------------------

OUTPUT, CUT = "repair=output", "repair=incomplete"
NAMES = (OUTPUT, CUT)
"""The repairs.

- OUTPUT: It adds the finished items of a stream to a last event that has none: SDKs read the answer there.
- CUT: It marks a response as incomplete whose last call was cut by the limit of tokens. A call that was cut otherwise
  makes the response an error. It also settles whether an answer is whole if an event and its response differ.
"""


def settle(event: Object, response: Object) -> bool:
    """Make a last event and its response state both that the answer is not whole. Return whether only one did."""
    kind, status = event["type"], response.get("status")
    if kind == COMPLETED and status in _PARTIAL:
        event["type"] = INCOMPLETE
    elif kind == INCOMPLETE and status == "completed":
        response["status"] = "incomplete"
    else:
        return False
    return True


def call_fault(item: Any) -> ErrorOf | None:
    """Return the error of a call of a function whose arguments are no JSON, unless it is marked as incomplete."""
    if not isinstance(item, dict) or item.get("type") != "function_call" or item.get("status") == "incomplete":
        return None
    arguments = item.get("arguments")
    return arguments_fault(arguments) if isinstance(arguments, str) and arguments.strip() else None


def _text_fault(item: msgspec.Raw) -> ErrorOf | None:
    """Return `call_fault` of an item of a whole response of any size."""
    members = json_body.opened(item) if json_body.kind(item) == "{" else {}
    arguments = members.get("arguments", b"null")
    if bytes(members.get("type", b"")) != b'"function_call"' or json_body.kind(arguments) != '"':
        return None
    try:
        text = json_body.string(arguments)
    except msgspec.DecodeError:  # half of a pair of surrogates
        text = json.loads(bytes(arguments))
    status = read_json(bytes(members.get("status", b"null")))
    return call_fault({"type": "function_call", "status": status, "arguments": text})


def items_of(response: Any) -> list[Any]:
    output = response.get("output") if isinstance(response, dict) else None
    return output if isinstance(output, list) else []


def call_faults(response: Any) -> list[ErrorOf | None]:
    return [call_fault(item) for item in items_of(response)]


def _incomplete(item: Object | msgspec.Raw) -> Object:
    return {**(OBJECT.decode(item) if type(item) is msgspec.Raw else item), "status": "incomplete"}


def make_incomplete(response: Object, faults: list[ErrorOf | None]) -> Object:
    """Return a response whose calls have `faults` as one that the limit of tokens cut, unless it states another reason.

    Its members may be texts.
    """
    output = [_incomplete(item) if fault else item for item, fault in zip(items_of(response), faults, strict=True)]
    details = response.get("incomplete_details")
    if not details or details == msgspec.Raw(b"null"):
        details = {"reason": "max_output_tokens"}
    return {**response, "status": "incomplete", "incomplete_details": details, "output": output}


MAX_NAME_CHARS = 256
"""A longer id or model of a response is not kept."""


class ResponseProgress(Progress):
    """The response that the events named, the number of the next event, and the usage of the last one."""

    __slots__ = ("is_limited",)

    requires_last_event = True
    fails_by_event = True  # Codex reads its code only in an event
    fast_path = NumberedPath

    def __init__(self, asked: Asked = NOTHING) -> None:
        super().__init__(asked)
        self.is_limited = False

    def is_complete(self, choices: int) -> bool:
        return self.fault is None or self.is_limited  # the last event holds the whole response

    def note(self, fields: dict[str, Any], choices: list[Any]) -> bool:
        number, response = fields.get("sequence_number"), fields.get("response")
        after = (number if type(number) is int else self.streamed.next_number) + 1
        is_numbered = type(number) is int
        if isinstance(response, dict):
            name, model, created = response.get("id"), response.get("model"), response.get("created_at")
            self.streamed = StreamedResponse(
                name if isinstance(name, str) and len(name) <= MAX_NAME_CHARS else "",
                model if isinstance(model, str) and len(model) <= MAX_NAME_CHARS else "",
                created if isinstance(created, int | float) else 0,
                after,
                is_numbered,
            )
        else:
            self.streamed = replace(self.streamed, next_number=after, is_numbered=is_numbered)
        kind = chunk.event_kind(fields)
        if kind in LAST_EVENTS:
            self.has_last_event = True
            usage = response.get("usage") if isinstance(response, dict) else None
            if isinstance(usage, dict):
                self.usage = Usage.read(usage)
            self._check(*items_of(response))
            states_whole = kind == COMPLETED and not (isinstance(response, dict) and response.get("status") in _PARTIAL)
            self.fault = self.fault if states_whole else None
            self.is_limited = self.fault is not None and is_at_limit(self.asked, self.usage)
        elif kind == "response.output_item.done":
            self._check(fields.get("item"))
        super().note(fields, choices)
        is_plain = kind.endswith(".delta") and isinstance(fields.get("delta"), str) and not fields.get("usage")
        self.has_answer = self.has_answer or is_plain
        return is_plain

    def _check(self, *items: Any) -> None:
        self.fault = self.fault or next(filter(None, map(call_fault, items)), None)


class ResponseRepair(EventRepair):
    """Makes the repairs of NAMES. A repaired event is written again and loses its `id:` and its comments."""

    __slots__ = ("_bytes_left", "_items", "_progress")

    def __init__(self, progress: ResponseProgress) -> None:
        super().__init__()
        self._progress = progress
        self._items: dict[int, Object] = {}
        self._bytes_left = LARGE_EVENT_BYTES

    def repair_event(self, block: bytes, payload: Object) -> bytes:
        kind, before = payload.get("type"), len(self._adapted)
        if kind == "response.output_item.done" and isinstance(item := payload.get("item"), dict):
            self._bytes_left -= len(block)
            if self._bytes_left >= 0:  # else nothing is added
                keep_item(self._items, payload)
            if call_fault(item):  # clients run it otherwise; the last event decides
                item["status"] = "incomplete"
                self._adapted.append(CUT)
        elif kind in LAST_EVENTS and isinstance(response := payload.get("response"), dict):
            if not response.get("output") and self._items and self._bytes_left >= 0:
                response["output"] = in_order(self._items)
                self._adapted.append(OUTPUT)
            has_settled, faults = settle(payload, response), call_faults(response)
            if self._progress.is_limited or (payload["type"] == INCOMPLETE and any(faults)):
                payload |= {"type": INCOMPLETE, "response": make_incomplete(response, faults)}
                has_settled = True
            if has_settled:
                self._adapted.append(CUT)
        return chunk.event_of(payload) if len(self._adapted) > before else block


# --- errors ---------------------------------------------------------------------------------------

RATE_LIMITED, LONG_LIMITED, TOO_MANY_REQUESTS = "rate_limit_exceeded", "usage_limit_reached", 429
_OVERFLOW = "context_length_exceeded"
LONGEST_TEXT = 500
"""The most characters of an error's message in a header."""
_MEANINGS: Mapping[str, str] = {**dict.fromkeys(TOO_LONG, _OVERFLOW), **dict.fromkeys(OVER_QUOTA, "insufficient_quota")}
_NAMES_WAIT = r"(?i)try again in\s*\d"


def code_of(error: GatepassError) -> str:
    """Return OpenAI's code for the error if one means the same, else its own.

    Codex compacts the conversation at the first of _MEANINGS and stops at the second. It retries after all others
    (codex-rs/codex-api/src/sse/responses.rs). A 429 that other clients report at once is LONG_LIMITED: Codex ignores
    `x-should-retry` and waits as long as `retry-after` states.
    """
    named = (error.public_code, (error.kind or "") if isinstance(error, UpstreamErrorReply) else "")
    meant = next((_MEANINGS[name.lower()] for name in named if name.lower() in _MEANINGS), None)
    if meant is None and error.case == "too_long":
        meant = _OVERFLOW  # many servers send no code
    if meant is None and error.http_status == TOO_MANY_REQUESTS:
        meant = LONG_LIMITED if (b"x-should-retry", b"false") in error_headers(error) else RATE_LIMITED
    return meant or error.public_code


def response_error(error: GatepassError, streamed: StreamedResponse, *, rewords: bool = False) -> bytes:
    """Return the `error` and `response.failed` events that end a stream of the Responses API, in OpenAI's order.

    openai-python and openai-node raise at the first, because of its `error` object. openai-python would accept no
    `response.failed` before a `response.created`. Codex reads only the second: `code_of`, and the text in which it
    searches for the wait before the next request.
    """
    document = json.loads(stream_error(error, streamed.request_id, rewords=rewords).removeprefix(b"data: "))
    own, message, number = document["error"]["code"], document["error"]["message"], streamed.next_number
    members = {"code": own, "message": message, "param": document["error"]["param"], "sequence_number": number}
    code = code_of(error).replace(LONG_LIMITED, "insufficient_quota")
    if code == RATE_LIMITED and (after_s := retry_after(error)) is not None and not re.search(_NAMES_WAIT, message):
        message = f"{sentence(message)} Please try again in {after_s} s."
    failure = {"code": code, "message": message}
    if code != own:
        failure["own_code"] = own
    response = {
        "id": streamed.id,
        "object": "response",
        "created_at": streamed.created_s,
        "status": "failed",
        "error": failure,
        "incomplete_details": None,
        "model": streamed.model,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    failed = {"type": "response.failed", "sequence_number": number + 1, "response": response}
    error_event = error_text({"type": "error", **members, **document})
    return b"event: error\ndata: %b\n\nevent: response.failed\ndata: %b\n\n" % (error_event, error_text(failed))


# --- the protocol ---------------------------------------------------------------------------------


def event_keep_alive(events: EventStream | None) -> bytes:
    """Return the event that OpenAI itself sends in a silence, or a comment before `response.created`.

    A comment does not reset the timer of Codex. The helpers of openai-python and openai-node accept no event before
    `response.created`. The one of openai-node 6 fails at a second `response.in_progress`.
    """
    streamed = StreamedResponse() if events is None else events.streamed
    # what is read but not sent yet would follow with lower numbers
    if events is None or not streamed.id or events.done or events.failure is not None or events.waiting:
        return client_protocol.comment_keep_alive(events)
    number = b',"sequence_number":%d' % streamed.next_number if streamed.is_numbered else b""
    return b'event: keepalive\ndata: {"type":"keepalive"%b}\n\n' % number


def error_places(document: Any) -> Iterator[Any]:
    """Yield the document, and the error of a response that failed, whatever its event is called."""
    yield document
    kind = document.get("type") if isinstance(document, dict) else None
    is_other = type(kind) is str and kind not in LAST_EVENTS and document.get("object") != "response"
    if not isinstance(document, dict) or is_other:
        return
    response = document.get("response", document)
    stated = response if isinstance(response, dict) else {}
    if kind == FAILED or str(stated.get("status")).lower() == "failed" or stated.get("error"):
        reason = stated.get("error") or stated.get("incomplete_details")
        yield {"error": reason or "The response failed, and the upstream states no reason."}


class Responses(client_protocol.ClientProtocol):
    """A response. gatepass makes streams of whole responses and the reverse."""

    __slots__ = ()

    name = family = "responses"
    translation = translation.RESPONSES
    sample: Mapping[str, Any] = {"input": "ping", "max_output_tokens": client_protocol.SAMPLE_TOKENS}
    members = client_protocol.ClientProtocol.members | {"stream", OWN_THOUGHT}
    generates = True
    requires_model = True
    names_stored = prefers_one_target = stores = True
    progress, event_repair, aggregate = ResponseProgress, ResponseRepair, ResponseAggregator

    stream_error, error_places = staticmethod(response_error), staticmethod(error_places)

    def keep_alive(self, profile: Profile, call: Call, events: EventStream | None) -> bytes:
        """Return an event, or a comment for a response in the background.

        The client may fetch the stream of that one again from a number on: the numbers must be the upstream's.
        """
        is_background = b'"background"' in call.body
        return super().keep_alive(profile, call, events) if is_background else event_keep_alive(events)

    def error_headers(self, error: GatepassError) -> list[tuple[bytes, bytes]]:
        """Return the usual fields, and the text that Codex prints with LONG_LIMITED."""
        headers = error_headers(error)
        if code_of(error) == LONG_LIMITED:
            text = " ".join(error.message.split())[:LONGEST_TEXT].rstrip(".")
            headers.append((b"x-codex-promo-message", re.sub(r"[^ -~]", "?", text).encode()))
        return headers

    def error_body(self, error: GatepassError, request_id: str) -> bytes:
        """Return OpenAI's error object. About too long a context it has OpenAI's code, at which Codex compacts.

        With the type LONG_LIMITED Codex stops at once (codex-rs/codex-api/src/api_bridge.rs).
        """
        document, code = error_object(error, request_id), code_of(error)
        if code == _OVERFLOW:
            document["error"]["code"] = _OVERFLOW
        elif code == LONG_LIMITED:
            document["error"]["type"] = LONG_LIMITED
        return error_text(document)

    def own_error(self, body: bytes, mask: Mask) -> bytes:
        """Return `body` if it is the data of a `response.failed`. An `error` event alone would not end the stream."""
        return body if (public_object(body, mask) or {}).get("type") == FAILED else b""

    def fault(self, document: Any, mask: Mask) -> str | None:
        if not isinstance(document, dict):
            return "with JSON that is not an object"
        is_response = document.get("object") == "response" or "output" in document
        return None if is_response else f"with JSON that is not a response ({shown_members(document, mask)})"

    def repair(
        self, body: bytes, defaults: Callable[[], EnvelopeDefaults], upstream: str
    ) -> tuple[bytes, tuple[str, ...], bool]:
        document, faults = Object(), list[ErrorOf | None]()
        with suppress(GatepassError, ValueError, RecursionError):  # a part alone is read: all may take long
            document = {**json_body.opened(body if b'"function_call"' in body else b"{}")}
            document["output"] = json_body.LIST.decode(document.get("output", b"[]"))
            faults = [_text_fault(item) for item in document["output"]]
        status, usage = (read_json(bytes(document.get(name, b"null"))) for name in ("status", "usage"))
        if (fault := next(filter(None, faults), None)) is None:
            return body, (), False
        made = Usage.read(usage) if isinstance(usage, dict) else None
        if status not in _PARTIAL and not is_at_limit(defaults().asked, made):
            raise fault(upstream)
        return chunk.json_text(make_incomplete(document, faults)), (CUT,), False

    def synthesize(
        self, document: Object, defaults: EnvelopeDefaults, reply: client_protocol.ReplyContext
    ) -> Iterator[bytes]:
        return synthesize_response(document, defaults, reply.upstream_name)


class Compact(client_protocol.ClientProtocol):
    """A conversation to shorten: the body of a request for a response, and a reply that is never streamed."""

    __slots__ = ()

    name, family = "compact", Responses.family
    error_places = staticmethod(error_places)
    members = client_protocol.ClientProtocol.members | {OWN_THOUGHT}
    generates = True
    requires_model = True
    names_stored = prefers_one_target = True


class InputTokens(Compact):
    """The number of input tokens of a response, which not every upstream can count."""

    __slots__ = ()

    name, uses_tokens = "input_tokens", False


class StoredResponses(client_protocol.Raw):
    """Responses that the upstream stores. They pass unchanged, and their streams have the events of the API."""

    __slots__ = ()

    name, family = "stored_responses", Responses.family
    prefers_one_target = True
    progress = ResponseProgress

    stream_error = staticmethod(response_error)

    def error_places(self, document: Any) -> Iterable[Any]:
        """Yield the document, unless it is a response: its error belongs to the request that created it."""
        return () if isinstance(document, dict) and document.get("object") == "response" else (document,)


RESPONSES, COMPACT, INPUT_TOKENS, STORED_RESPONSES = Responses(), Compact(), InputTokens(), StoredResponses()
