"""Chunks of a streamed completion: read them, complete their envelope, write them, and build the errors of a stream.

A chunk is the JSON value of one event. The same functions read a whole completion, which has the same envelope.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping
from itertools import islice
from typing import Any

import msgspec

from gatepass.config.advice import with_variable
from gatepass.errors import UpstreamClosed, UpstreamEmpty, UpstreamError, UpstreamErrorReply, UpstreamInvalid
from gatepass.replies import content
from gatepass.replies.error_body import Mask
from gatepass.sse.asked import NOTHING, Asked
from gatepass.sse.event import read_json
from gatepass.types import UpstreamErrorBody

Object = dict[str, Any]

CHAT, CHAT_CHUNK, LEGACY = "chat.completion", "chat.completion.chunk", "text_completion"
"""The `object` of a chat reply, of a chat chunk, and of both kinds for `/v1/completions`."""

REQUIRED = ("id", "object", "created", "model")
"""The members of the envelope that SDKs require."""
ENVELOPE = (*REQUIRED, "system_fingerprint", "service_tier")


# --- write a chunk --------------------------------------------------------------------------------


class EnvelopeDefaults(msgspec.Struct, frozen=True):
    """Values for the envelope members that an upstream left out.

    `new_id("call_")` returns a new id with that prefix. Ids differ between replies too, because clients send the ids
    of tool calls back with the conversation. `created_s` is in seconds since the epoch. `model` is the name that the
    client requested. `asked` decides whether an answer is complete, and what the names of its calls are.
    """

    new_id: Callable[[str], str]
    created_s: int
    model: str
    asked: Asked = NOTHING
    is_chat: bool | None = None
    """The client requested messages, or else texts: a choice of the other kind becomes one. None for either."""

    def __repr__(self) -> str:
        return f"EnvelopeDefaults(created_s={self.created_s}, model={self.model!r})"


def encode_event(payload: Any) -> bytes:
    """Return `payload` as one event with one data line; raise ValueError as `json_text` does."""
    return b"data: %b\n\n" % json_text(payload)


def json_text(payload: Any) -> bytes:
    """Return compact JSON in UTF-8 on one line; raise ValueError if `payload` is nested too deep."""
    try:
        return msgspec.json.encode(payload)
    except UnicodeEncodeError:
        # Upstreams send half a surrogate pair if their tokens cut a character in two. It stays an escape, and
        # clients join the halves.
        return json.dumps(payload, separators=(",", ":"), default=lambda raw: read_json(bytes(raw))).encode()
    except RecursionError:
        raise ValueError("nested too deep") from None


def event_kind(payload: Object) -> str:
    """Return the `type` of an event or a part of it; "" if it has none."""
    kind = payload.get("type")
    return kind if isinstance(kind, str) else ""


def event_of(payload: Object) -> bytes:
    """Return `payload` as one event with the name of its type. Raises ValueError if it is nested too deep."""
    return b"event: %b\ndata: %b\n\n" % (payload["type"].encode(), json_text(payload))


def complete_envelope(payload: Object, defaults: EnvelopeDefaults, object_name: str, id_prefix: str) -> Object:
    """Return the envelope of `payload`. `defaults` fills in the members that SDKs require."""
    created: Any = payload.get("created")
    # not a bool; 1e15 keeps int() from a float such as 1e400
    is_time = type(created) in (int, float) and abs(created) < 1e15
    optional = {name: payload[name] for name in ENVELOPE[len(REQUIRED) :] if name in payload}
    return {
        "id": text_of_id(payload.get("id")) or defaults.new_id(id_prefix),
        "object": object_name,
        "created": int(created) if is_time and created else defaults.created_s,
        "model": payload["model"] if isinstance(payload.get("model"), str) and payload["model"] else defaults.model,
        **optional,
    }


def split_end(chunk: Object, ends: list[Object]) -> tuple[Object, Object]:
    """Return `chunk` without finish reasons and usage, and a chunk with the choices `ends` and the usage."""
    opened = [{**choice, "finish_reason": None} if isinstance(choice, dict) else choice for choice in chunk["choices"]]
    first: Object = {**chunk, "choices": opened}
    last: Object = {**{name: chunk[name] for name in ENVELOPE if name in chunk}, "choices": ends}
    if "usage" in chunk:
        first["usage"], last["usage"] = None, chunk["usage"]
    return first, last


def empty_choice(index: int, *, is_text: bool) -> Object:
    """Return a choice of a chunk without output. `is_text` selects the form of `/v1/completions`."""
    payload: Object = {"text": "", "logprobs": None} if is_text else {"delta": {"content": ""}}
    return {"index": index, **payload, "finish_reason": None}


MAX_ENVELOPE_CHARS = 256


def is_short(value: Any) -> bool:
    """Return whether a member of the envelope may be repeated in other chunks: a short text, or a number."""
    if isinstance(value, str):
        return len(value) <= MAX_ENVELOPE_CHARS
    return not isinstance(value, list | dict)


# --- read a chunk ---------------------------------------------------------------------------------


def text_of_id(value: Any) -> str:
    """Return an id as text, "" if `value` is not an id. Some upstreams send numbers."""
    if type(value) is int:
        return str(value)
    return value if isinstance(value, str) else ""


def unwrap(payload: Object) -> Object:
    """Return the chunk or completion inside `{"code": 0, "data": {…}}`, else `payload` itself.

    One without choices that has a `finish_reason` gets a choice with it.
    """
    if payload.get("choices"):
        return payload
    inside = payload.get("data")
    if isinstance(inside, dict) and ("choices" in inside or finish_reason(inside)):
        payload = inside
    if not payload.get("choices") and (end := finish_reason(payload)):
        rest = {name: value for name, value in payload.items() if name != "finish_reason"}
        return {**rest, "choices": [{"index": 0, "delta": {}, "finish_reason": end}]}
    return payload


def is_chunk(payload: Object) -> bool:
    name = payload.get("object")
    is_named = isinstance(name, str) and name.startswith((CHAT, LEGACY))
    return is_named or "choices" in payload or isinstance(payload.get("usage"), dict)


ReadError = Callable[[Any], UpstreamErrorBody | None]
"""Reads an upstream's error from a JSON value, and returns None if the value is not an error."""

KeepOriginal = Callable[[UpstreamErrorReply, bytes], None]
"""Sets `original` of an upstream's error if the client may receive its data: the JSON text of the event."""


class StreamSource(msgspec.Struct, frozen=True, gc=False):
    """The upstream of a stream. `limit_bytes` limits one relayed event, or all events of an aggregated reply."""

    upstream: str
    limit_bytes: int
    read_error: ReadError
    keep_original: KeepOriginal = lambda _error, _data: None  # of a protocol that writes each error anew
    mask: Mask = str


UNREADABLE = UpstreamErrorBody("The upstream sent an error event without a message.")


def error_in_event(payload: Any, name: bytes, read_error: ReadError) -> UpstreamErrorBody | None:
    """Return the error in the event with the JSON value `payload` and the event name `name`; None without one."""
    fields = payload if isinstance(payload, dict) else {}
    choices = fields.get("choices")
    # OpenRouter sends a chunk with choices and a top-level `error`, vLLM and SGLang `object: error`
    if name == b"error" or not choices or fields.get("error") or fields.get("object") == "error":
        error_body = read_error(payload)
        if error_body is None and (name == b"error" or fields.get("type") == "error"):
            # only its name or its type marks it as an error: read it as `{"error": …}`, so that `read_error` masks all
            # its texts
            return read_error({"error": payload}) or UNREADABLE
        return error_body
    # OpenRouter reports the error of a provider in the choices: it ends the stream only if every choice has one
    first = choices[0] if isinstance(choices, list) else None
    if not isinstance(first, dict) or not first.get("error"):  # the usual case, before the loop
        return None
    if not all(isinstance(choice, dict) and choice.get("error") for choice in choices):
        return None
    return read_error({"error": first["error"]}) or UNREADABLE


ERROR_BYTES = 64 * 1024
"""So much is read of an error event that is not JSON, and of each text of a large one."""


_LEVELS, _MOST_SHOWN = 3, 32


def beginning_of_error(value: Any, levels: int = _LEVELS) -> Any:
    """Return the JSON value of a large event with the beginning of each text and list: all that an error shows."""
    if isinstance(value, str):
        return value[:ERROR_BYTES]
    if isinstance(value, list):
        return [beginning_of_error(one, levels - 1) for one in value[:_MOST_SHOWN]] if levels else None
    if isinstance(value, dict):
        shown = islice(value.items(), _MOST_SHOWN)
        return {name: beginning_of_error(one, levels - 1) for name, one in shown} if levels else None
    return value


def event_value(data: bytes, name: bytes) -> Any:
    """Return the JSON value of an event, or the text of an error event; raise ValueError for other data."""
    try:
        return read_json(data)
    except ValueError:
        if name != b"error":
            raise
        return content.words(data[:ERROR_BYTES])


def plain_text(data: bytes) -> str:
    """Return the data of an event that is no JSON if it is a sentence, which then tells why the upstream failed."""
    text = data[:ERROR_BYTES].decode("utf-8", "replace")
    return text if text[:1].isalpha() and " " in text and text.isprintable() else ""


MAX_ENTRIES = 1024
"""Limit of the choices and the tool calls of one chunk, of the choices of one stream, and of the calls of one choice.

OpenAI accepts an `n` of at most 128. Each of them costs memory, and up to 40 µs to relay.
"""
MAX_ENTRIES_MIN_BYTES = 2 * MAX_ENTRIES
"""A smaller text cannot hold more than MAX_ENTRIES entries."""

MEMBERS_OF_ENTRY = 16


def has_too_many_entries(choices: Any) -> bool:
    """Return whether choices and their tool calls are more than MAX_ENTRIES.

    MEMBERS_OF_ENTRY members of choices and deltas count as one more.
    """
    if not isinstance(choices, list):
        return False
    count = len(choices)
    if count > MAX_ENTRIES:
        return True
    for choice in choices:  # a loop that makes no lists is three times as fast
        if not isinstance(choice, dict):
            continue
        count += len(choice) // MEMBERS_OF_ENTRY
        for name in ("delta", "message"):
            payload = choice.get(name)
            if isinstance(payload, dict):
                calls = payload.get("tool_calls")
                count += len(payload) // MEMBERS_OF_ENTRY + (len(calls) if isinstance(calls, list) else 0)
    return count > MAX_ENTRIES


def messages_of(choice: Any) -> list[Object]:
    """Return the delta and the message of a choice, each only if it is an object."""
    found = [choice.get("delta"), choice.get("message")] if isinstance(choice, dict) else []
    return [message for message in found if isinstance(message, dict)]


def calls_of(message: Object) -> list[Any]:
    """Return the entries of `tool_calls`, which may be no objects."""
    calls = message.get("tool_calls")
    return calls if isinstance(calls, list) else []


class ArgumentsTooLarge(Exception):
    """The open calls of an answer have more arguments than are held to find out whether they are complete."""


ErrorOf = Callable[[str], UpstreamError]
"""Makes an error of the upstream that it is given."""


class AnswerFault(Exception):
    """An answer is unusable, although the upstream calls it complete. `error_of` makes the error for the client."""

    def __init__(self, error_of: ErrorOf) -> None:
        super().__init__()
        self.error_of = error_of


ARGUMENTS: Mapping[str, str] = {"custom": "input", "function": "arguments"}
"""The member with the arguments, by the type of a tool call. A call has a member with the name of its type."""


MOST_COMPARED_CHARS = 512 * 1024


def argument_text(value: Any) -> str:
    """Return arguments or another text as text. Some upstreams send an object."""
    if value is None or isinstance(value, str):
        return value or ""
    text = json_text(value).decode()
    # NaN and infinite numbers became null: the tool gets them unchanged, but for arguments that take long to compare
    is_long = len(text) > MOST_COMPARED_CHARS
    return text if is_long or "null" not in text or read_json(text.encode()) == value else json.dumps(value)


def text_and_thought(parts: list[Any]) -> tuple[str, str] | None:
    """Return the text and the reasoning of a content in parts; None if it has other contents, such as images."""
    texts = {"text": "", "thinking": ""}
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        inner = part.get(kind) if isinstance(part, dict) and isinstance(kind, str) else part
        if isinstance(inner, list):  # a thought of Mistral's has parts too
            inner = "".join(argument_text(one.get("text")) for one in inner if isinstance(one, dict))
        # a reference of Mistral's has no content of its own
        if inner is not None and not (isinstance(inner, str) and kind in texts):
            return None
        if inner:
            texts[kind] += inner
    return texts["text"], texts["thinking"]


def move_texts(top: Object, choices: list[Any], place: str) -> bool:
    """Move the reasoning of `choices`, whose text is in `place`, to `reasoning_content`, and drop an empty `error`.

    Return whether that changes something.
    """
    has_moved = "error" in top and not top["error"] and top.pop("error") is not None
    for choice in choices:
        message = choice.get(place) if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            continue
        if isinstance(message.get("reasoning"), str) and not message.get("reasoning_content"):
            message["reasoning_content"] = message.pop("reasoning")
            has_moved = True
        has_other = message.get("tool_calls") or message.get("function_call")
        if place == "message" and message.get("content") is None and not has_other:
            message["content"] = ""
            has_moved = True
    return has_moved


def finish_reason(choice: Object) -> str:
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) else ""


def completed_reason(reason: str, *, has_tools: bool, has_function: bool) -> str:
    """Return the finish reason of a complete chat choice: `reason`, or one that fits its content (`function_call`)."""
    if not reason:
        return "tool_calls" if has_tools else "function_call" if has_function else "stop"
    # Gemini and Ollama end tool calls with `stop`
    return "tool_calls" if has_tools and reason == "stop" else reason


ROLE_ALONE = frozenset({"role"})
"""The member of a delta that is no output by itself."""
REASONING = ("reasoning_content", "reasoning")
"""The members with the text of the reasoning. An upstream uses one of them."""
REASONING_MEMBERS = frozenset({"role", *REASONING, "reasoning_details"})
"""The members of a delta that are not content: a choice with only these has not answered yet."""

# A tuple, because `str | list | dict` makes a new object each time. Numbers are not output: one that is too large for
# a float (`1e400`) would be null after the chunk is written again.
_OUTPUT_TYPES = (str, list, dict)


def has_content(choice: Object, excluded: Container[str] = REASONING_MEMBERS) -> bool:
    """Return whether a choice has a text, a refusal, audio or a tool call. The members `excluded` do not count."""
    text, message = choice.get("text"), choice.get("delta") or choice.get("message")
    if text and isinstance(text, _OUTPUT_TYPES):
        return True
    if isinstance(message, dict):
        for name, value in message.items():
            if value and name not in excluded and isinstance(value, _OUTPUT_TYPES):
                return True
    return False


# --- the errors that end a stream -----------------------------------------------------------------
#
# RAGFlow searches an error for words and numbers such as "server" and "503", and repeats the whole answer with all
# tool calls if it finds one (see REPLAYED in protocols/error_objects.py). These messages contain none of them, and
# no figures.


def _error(kind: type[UpstreamError], message: str, *, of_request: bool = False, case: str = "") -> ErrorOf:
    return lambda upstream: kind(message, upstream=upstream, of_request=of_request, case=case)


stream_closed = _error(UpstreamClosed, "The upstream ended its stream before the answer was complete.")
arguments_cut = _error(UpstreamClosed, "The upstream ended its answer inside the arguments of a tool call.")
arguments_joined = _error(
    UpstreamInvalid, "The upstream sent several JSON values as the arguments of one tool call.", case="tool_calls"
)
without_call = _error(
    UpstreamInvalid,
    "The upstream ended its answer as one with tool calls (`tool_calls`, `tool_use`), but sent none.",
    case="tool_calls",
)
arguments_too_large = _error(
    UpstreamInvalid,
    "The tool calls of the upstream's stream have more than 4 MiB of arguments. Request a whole reply.",
    of_request=True,
    case="too_large",
)
stream_empty = _error(UpstreamEmpty, "The upstream's stream ended without an answer.")
without_message = _error(UpstreamInvalid, "The upstream's answer has a choice with neither a message nor a text.")
event_not_json = _error(UpstreamInvalid, "The upstream sent an event that is not JSON.")
too_many_choices = _error(
    UpstreamInvalid, "The upstream's answer has more choices, tool calls and members than any request asks for."
)
answer_too_large = _error(
    UpstreamInvalid,
    "The upstream's stream is too large to make a whole reply from it. Request it with `stream: true`.",
    of_request=True,
    case="too_large",
)
line_too_long = _error(
    UpstreamInvalid,
    "The upstream sent an event that is larger than 1 MiB, which applies because the profile of the client splits long"
    " lines.",
    case="long_lines",
)


def reply_too_large(upstream: str) -> UpstreamInvalid:
    limit = with_variable("limits.reply_bytes")
    what = f"The upstream's answer is larger than {limit}."
    return UpstreamInvalid(what, upstream=upstream, of_request=True, case="too_large")


def event_too_large(upstream: str) -> UpstreamInvalid:
    limit = with_variable("limits.event_bytes")
    what = f"The upstream sent an event that is larger than {limit}, or than 1 MiB where gatepass converts the stream,"
    return UpstreamInvalid(
        f"{what} or that has too many lines, values or escapes.", upstream=upstream, case="too_large"
    )


def upstream_error_event(upstream: str, error_body: UpstreamErrorBody) -> UpstreamErrorReply:
    return UpstreamErrorReply(
        error_body.message,
        upstream=upstream,
        status=error_body.status or UpstreamErrorReply.status,
        kind=error_body.kind,
        upstream_code=error_body.code,
        param=error_body.param,
        error_body=error_body,
        of_request=error_body.status is None,
    )
