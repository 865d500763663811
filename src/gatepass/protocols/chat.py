"""Chat completions: choices with messages, streamed as chunks; and completions of a text, the API before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from gatepass.config.access import Profile
from gatepass.dialects.reply_check import fault_of_list
from gatepass.errors import CallerError, InvalidRequest
from gatepass.json_body import TopLevel, opened
from gatepass.protocols.client_protocol import COMMENT, SAMPLE_TOKENS, ClientProtocol, ReplyContext
from gatepass.protocols.request import decode
from gatepass.replies.error_body import Mask
from gatepass.sse.aggregate import CompletionAggregator
from gatepass.sse.choice_repair import FAILED, RepairOptions, chat_reason
from gatepass.sse.chunk import AnswerFault, EnvelopeDefaults, Object, StreamSource, finish_reason
from gatepass.sse.client_transforms import make_client_transform, transform_reply
from gatepass.sse.event import LARGE_EVENT_BYTES, EventTransform
from gatepass.sse.event_stream import EventStream
from gatepass.sse.repair import StreamRepair, synthesize_stream
from gatepass.sse.whole_reply import GoodReply, is_empty_answer, read_good, repair_reply
from gatepass.types import Call, ClientRequest, Operation


class Chat(ClientProtocol):
    """Choices. gatepass repairs them, and makes streams of whole replies and the reverse."""

    __slots__ = ()

    name = family = "chat"
    members = ClientProtocol.members | {
        *("messages", "images", "stream", "stream_options", "tools", "tool_choice", "response_format", "max_tokens")
    }
    generates = True
    requires_model = prefers_one_target = True
    entries, entry = "choices", "choice"
    takes_transforms = True
    read_good: Callable[[bytes], GoodReply | None] | None = staticmethod(read_good)

    def parse(self, client_request: ClientRequest, operation: Operation, body: bytes, caller: str) -> Call:
        """Return the call in a body. Raises the errors of `decode`, and InvalidRequest for the body of a response.

        Cursor sends such a body for models that it knows by name (Soju06/codex-lb#833).
        """
        call = decode(client_request, operation, body, caller)
        top = call.top  # that of `decode`
        if top is not None and "input" in top.values and "messages" not in top.values:
            raise InvalidRequest(
                "The body has `input` instead of `messages`: it is a request of the Responses API. Send it to"
                " /v1/responses. Cursor sends it here for models that it knows by name, such as gpt-5. Add the model"
                ' to `models` under another name, beside `"*"` for all others, and select that one.',
                param="messages",
            )
        return call

    def keep_alive(self, profile: Profile, call: Call, events: EventStream | None) -> bytes:
        # without the blank line Dify would drop the next event; with `plain_events` a client gets no `id:`
        return COMMENT if profile.plain_events else super().keep_alive(profile, call, events)

    def error_places(self, document: Any) -> Iterator[Any]:
        """Yield the document, and the error of its choices if each one has an error. OpenRouter reports them there."""
        yield document
        choices = document.get("choices") if isinstance(document, dict) else None
        choices = choices if isinstance(choices, list) else []
        if choices and all(isinstance(choice, dict) and choice.get("error") for choice in choices):
            yield {"error": choices[0]["error"]}

    def fault(self, document: Any, mask: Mask) -> str | None:
        if (fault := fault_of_list(document, self.entries, mask)) is not None:
            return fault
        choice = next(iter(document["choices"]), None)
        # the client would show a choice without a message as an empty answer, and a delta as a complete one
        if choice is None or (choice.get("message") and isinstance(choice["message"], dict)):
            return None
        if isinstance(choice.get("text"), str):
            return None
        if not choice.get("delta") or not isinstance(choice["delta"], dict):
            end = finish_reason(choice)  # Gemini sends it alone if all tokens went into thoughts
            is_cut = chat_reason(end, has_tools=False) in ("length", "content_filter") and end.lower() not in FAILED
            return None if is_cut else "with a choice that has neither a message nor a text"
        return None if choice.get("finish_reason") else "with a part of a stream instead of a whole answer"

    def repair(
        self, body: bytes, defaults: Callable[[], EnvelopeDefaults], upstream: str
    ) -> tuple[bytes, tuple[str, ...], bool]:
        try:
            body, adapted = repair_reply(body, defaults, is_text=self.is_text)
        except AnswerFault as fault:
            raise fault.error_of(upstream) from None
        return body, adapted, is_empty_answer(body)

    def last_change(self, body: bytes, profile: Profile, model: str) -> tuple[bytes, tuple[str, ...]]:
        return transform_reply(body, profile, model)

    def last_transform(self, profile: Profile) -> EventTransform | None:
        return make_client_transform(profile)

    def event_stream(self, source: StreamSource, defaults: EnvelopeDefaults, reply: ReplyContext) -> EventStream:
        call, profile, transforms = reply.call, reply.profile, reply.transforms
        requested = include_usage = requested_usage(call.opened() if call.top is None else call.top)
        drops_usage = False
        if requested is False and profile.places_usage:
            place = place_for_ragflow(call)
            include_usage, drops_usage = place == "alone", place == "drop"
        options = RepairOptions(include_usage, profile, reply.is_cumulative, drops_usage)
        wants_usage, sent = requested is not False, reply.sent
        if sent.body is not call.body:
            wants_usage = b"stream_options" in sent.body and requested_usage(sent.opened()) is not False
        return EventStream(
            source,
            choices=call.choices,
            dialect_transform=None if transforms is None else transforms.stream(defaults),
            repair=StreamRepair(options, defaults),
            client_transform=None if reply.last is None else reply.last.last_transform(profile),
            wants_usage=wants_usage,
        )

    def synthesize(self, document: Object, defaults: EnvelopeDefaults, reply: ReplyContext) -> Iterator[bytes]:
        include_usage = requested_usage(reply.call.opened())
        if include_usage is False and reply.profile.places_usage:
            include_usage = place_for_ragflow(reply.call) == "alone"
        return synthesize_stream(document, include_usage is not False, defaults, reply.profile)

    def aggregator(
        self, source: StreamSource, event_bytes: int, defaults: EnvelopeDefaults, reply: ReplyContext
    ) -> CompletionAggregator:
        transform = None
        if reply.transforms is not None:
            transform = reply.transforms.stream(defaults)
            event_bytes = min(event_bytes, LARGE_EVENT_BYTES)  # a larger event would take too long to convert
        return CompletionAggregator(
            source,
            event_bytes,
            defaults,
            choices=reply.call.choices,
            cumulative=reply.is_cumulative,
            transform=transform,
        )


def has_messages(body: bytes) -> bool:
    """Whether `body`, which may be no JSON, is that of a chat."""
    try:
        return "messages" in opened(body)
    except (msgspec.DecodeError, RecursionError, CallerError):
        return False


_OPTIONS = ("include_usage", "continuous_usage_stats")


def requested_usage(top: TopLevel) -> bool | None:
    """Return whether a request requests a usage chunk at the end of the stream.

    Returns None for usage in every chunk (vLLM's `continuous_usage_stats`), and for malformed `stream_options`, which
    the upstream rejects.
    """
    options = top.get("stream_options") if "stream_options" in top.values else None
    if options is None:
        return False
    texts = [bytes(options.get(name, b"false")) for name in _OPTIONS] if isinstance(options, dict) else [b""]
    if any(text not in (b"true", b"false") for text in texts) or texts[1] == b"true":
        return None
    return texts[0] == b"true"


_SENT_BY_VISION = frozenset({"model", "messages", "stream", "enable_thinking", "provider"})


def place_for_ragflow(call: Call) -> Literal["alone", "finish", "drop"]:
    """Return where to put the usage in the stream that answers `call`, if RAGFlow did not request usage.

    RAGFlow must not count the tokens twice. Its two client classes differ:

    * The chat class (rag/llm/chat_model.py) estimates the tokens of each chunk with choices and adds the chunk's usage.
      Its tool loop reads the usage in a chunk without choices (`alone`).
    * The vision class (cv_model.py) fails at a chunk without choices. It ignores usage next to an empty text
      (`finish`).

    The vision class sends no settings. A request without images and settings may come from either class (`drop`).
    """
    if b'"image_url"' in call.body:
        return "finish"
    return "alone" if set(call.opened().names) - _SENT_BY_VISION else "drop"


class Completions(Chat):
    """Choices with a text instead of a message."""

    __slots__ = ()

    name = "completions"
    is_text = True
    read_good = None  # of chats
    parse = staticmethod(decode)
    sample: Mapping[str, Any] = {"prompt": "ping", "max_tokens": SAMPLE_TOKENS}


CHAT, COMPLETIONS = Chat(), Completions()
