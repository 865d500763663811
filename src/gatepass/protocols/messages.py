"""Anthropic's Messages API, which Claude Code speaks: messages, token counts and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from gatepass.config.access import Profile
from gatepass.dialects.hints import is_about_model
from gatepass.dialects.reply_check import shown_members
from gatepass.errors import GatepassError, ModelNotFound, UpstreamErrorReply
from gatepass.normalize.betas import BETA_FIELD
from gatepass.normalize.messages import OWN_THOUGHT
from gatepass.protocols import message_events
from gatepass.protocols.client_protocol import SAMPLE_TOKENS, ClientProtocol, ReplyContext
from gatepass.protocols.error_objects import error_text, stream_message
from gatepass.protocols.translation import translation
from gatepass.replies.error_body import Mask, public_object
from gatepass.sse import chunk
from gatepass.sse.chunk import EnvelopeDefaults, Object, event_of
from gatepass.sse.event import read_json
from gatepass.sse.event_stream import EventStream
from gatepass.types import Call, StreamedResponse

REQUEST_HEADERS = (
    # https://docs.claude.com/en/api/versioning, beta-headers; the third is of Anthropic's SDK for browsers
    *("anthropic-version", BETA_FIELD, "anthropic-dangerous-direct-browser-access"),
    # https://code.claude.com/docs/en/llm-gateway
    *("x-claude-code-session-id", "x-claude-code-agent-id", "x-claude-code-parent-agent-id", "x-app"),
    # the SDKs that Stainless generates (anthropic-sdk-python, `_base_client.py`)
    *("x-stainless-lang", "x-stainless-package-version", "x-stainless-os", "x-stainless-arch", "x-stainless-runtime"),
    *("x-stainless-runtime-version", "x-stainless-async", "x-stainless-retry-count", "x-stainless-timeout"),
    *("x-stainless-read-timeout", "x-stainless-helper", "x-stainless-helper-method", "x-stainless-raw-response"),
)
"""Anthropic's request fields. They are forwarded unchanged."""

BETA = frozenset((b"beta",))
"""The query parameter that Claude Code and the SDKs' beta methods send."""

TYPES: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""The `type` of an error by its status (https://docs.claude.com/en/api/errors)."""
_OWN_TYPES = frozenset((*TYPES.values(), "invalid_request_error", "api_error"))
"""Those that Anthropic's SDKs know. vLLM sends the names of its classes."""

TOO_LONG = "capability_rejected: prompt_too_long"
"""Claude Code compacts the conversation if an error has this text (https://code.claude.com/docs/en/llm-gateway)."""
NO_ROOM = "input length and `max_tokens` exceed context limit"
"""Anthropic's text for a prompt that fits, but not with its answer. Claude Code then asks for a shorter answer."""
_KNOWN_AS_TOO_LONG = ("prompt is too long", NO_ROOM, TOO_LONG)
"""Anthropic's own texts, which Claude Code recognizes too."""

PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def error_of(error: GatepassError, status: int, message: str, request_id: str) -> Object:
    """Return Anthropic's error object for an error that is sent with `status`."""
    kind = error.kind if isinstance(error, UpstreamErrorReply) else None
    if kind not in TYPES.values():
        kind = TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    inner = {"type": kind, "message": message, "code": error.public_code, "hop": error.hop}
    return {"type": "error", "error": inner, "request_id": request_id}


class _OfAnthropic(ClientProtocol):
    """What all operations of the API share: the errors and the fields of requests."""

    family = "messages"
    __slots__ = ()

    prefers_one_target = True
    request_headers = REQUEST_HEADERS
    sample_headers = ((b"anthropic-version", b"2023-06-01"),)
    parameters = BETA

    def error_body(self, error: GatepassError, request_id: str) -> bytes:
        if isinstance(error, UpstreamErrorReply) and error.original:
            return error.original
        return error_text(error_of(error, self.error_status(error), error.message, request_id))

    def own_error(self, body: bytes, mask: Mask) -> bytes:
        document = public_object(body, mask) or {}
        inner = document.get("error") if document.get("type") == "error" else None
        is_own = (
            isinstance(inner, dict) and isinstance(inner.get("message"), str) and str(inner.get("type")) in _OWN_TYPES
        )
        return body if is_own else b""

    def stream_error(self, error: GatepassError, streamed: StreamedResponse, *, rewords: bool) -> bytes:
        message = stream_message(error) if rewords else error.message
        return event_of(error_of(error, self.error_status(error), message, streamed.request_id))


class Messages(_OfAnthropic):
    """A message. gatepass makes streams of whole messages and the reverse."""

    __slots__ = ()

    name = "messages"
    translation = translation.MESSAGES
    members = frozenset({"messages", "stream", BETA_FIELD, OWN_THOUGHT})
    generates = True
    requires_model, fits_answers = True, False
    progress, event_repair = message_events.MessageProgress, message_events.MessageRepair
    aggregate = message_events.MessageAggregator
    end_mark = b'"message_stop"'
    sample: Mapping[str, Any] = {"max_tokens": SAMPLE_TOKENS, "messages": [{"role": "user", "content": "ping"}]}

    def error_status(self, error: GatepassError) -> int:
        """Return the status of the error, but 404 only if the model is unknown.

        At any 404 Claude Code reports an unknown model instead of the message.
        """
        if error.http_status != 404 or isinstance(error, ModelNotFound):
            return error.http_status
        if not isinstance(error, UpstreamErrorReply):
            return 400
        said = error.message if error.error_body is None else error.error_body.message
        is_of_model = error.case in ("unknown_model", "renamed_model") or is_about_model(error.upstream_code, said)
        return 404 if error.original or is_of_model else 400

    def overflow_mark(self, message: str, room: tuple[int, int, int] | None) -> str:
        if any(known in message for known in _KNOWN_AS_TOO_LONG):
            return ""
        return TOO_LONG if room is None else f"{NO_ROOM}: {room[0]} + {room[1]} > {room[2]}"

    def keep_alive(self, profile: Profile, call: Call, events: EventStream | None) -> bytes:
        return PING

    def error_places(self, document: Any) -> Iterator[Any]:
        yield document
        if isinstance(document, dict) and document.get("type") == "error":
            yield {"error": document}

    def fault(self, document: Any, mask: Mask) -> str | None:
        if not isinstance(document, dict):
            return "with JSON that is not an object"
        is_message = document.get("type") == "message" and isinstance(document.get("content"), list)
        return None if is_message else f"with JSON that is not a message ({shown_members(document, mask)})"

    def repair(
        self, body: bytes, defaults: Callable[[], EnvelopeDefaults], upstream: str
    ) -> tuple[bytes, tuple[str, ...], bool]:
        with suppress(msgspec.DecodeError, RecursionError):
            whole = _WHOLE.decode(body)
            if whole.stop_reason != "tool_use" or any(block.type == "tool_use" for block in whole.content):
                return body, (), whole.stop_reason == "end_turn" and not whole.content
        document, adapted = read_json(body), []
        is_empty = document.get("stop_reason") == "end_turn" and not document["content"]
        try:
            if message_events.complete_inputs(document, defaults().asked):
                adapted.append(message_events.INPUT)
        except chunk.AnswerFault as fault:
            raise fault.error_of(upstream) from None
        if message_events.complete_usage(document):
            adapted.append(message_events.USAGE)
        if document.get("stop_reason") is None:
            has_calls = any(map(message_events.calls_tool, document["content"]))
            document["stop_reason"] = message_events.stop_reason(calls_tool=has_calls)
            adapted.append(message_events.STOP_REASON)
        return chunk.json_text(document), tuple(adapted), is_empty

    def synthesize(self, document: Object, defaults: EnvelopeDefaults, reply: ReplyContext) -> Iterator[bytes]:
        return map(event_of, message_events.message_events(document, defaults))


class CountTokens(_OfAnthropic):
    """The number of input tokens of a message, which not every upstream can count."""

    __slots__ = ()

    name = "count_tokens"
    uses_tokens = False
    members = frozenset({"messages", BETA_FIELD, OWN_THOUGHT})
    requires_model = True
    sample: Mapping[str, Any] = {"messages": [{"role": "user", "content": "ping"}]}

    def error_status(self, error: GatepassError) -> int:
        """Return 404 if the upstream cannot count. Claude Code then estimates."""
        is_absent = isinstance(error, UpstreamErrorReply) and error.http_status in (404, 405, 501)
        return 404 if is_absent else error.http_status

    def fault(self, document: Any, mask: Mask) -> str | None:
        if not isinstance(document, dict):
            return "with JSON that is not an object"
        is_count = type(document.get("input_tokens")) is int
        return None if is_count else f"with JSON that is not a count of tokens ({shown_members(document, mask)})"


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int
    output_tokens: int


class _Block(msgspec.Struct, gc=False):
    type: str = ""
    input: dict[str, msgspec.Raw] = {}


class _Whole(msgspec.Struct, gc=False):
    """A message that needs no repair."""

    content: list[_Block]
    stop_reason: str
    usage: _Usage


_WHOLE = msgspec.json.Decoder(_Whole)
MESSAGES, COUNT_TOKENS = Messages(), CountTokens()
