"""Classify an upstream's reply before a byte of it reaches the client.

A reply is a whole reply, a stream, a raw body or an error. Where the client asked for the other form, a whole reply
becomes a stream and a stream becomes a whole reply. `classify` is the entry point; `relay` writes its result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from secrets import token_hex
from typing import Any

import msgspec
from msgspec.structs import replace

from gatepass.config.access import PLAIN
from gatepass.dialects.hints import case_of
from gatepass.dialects.reply_check import WITHOUT_CONTENT
from gatepass.errors import GatepassError, TransportFault, UpstreamError, UpstreamErrorReply, UpstreamInvalid
from gatepass.http_client.loop_turns import LoopTurns
from gatepass.json_body import BOM, ONE_PASS_BYTES, UNCOUNTED_BYTES, has_more
from gatepass.protocols import PROTOCOLS
from gatepass.protocols.client_protocol import ClientProtocol, ReplyContext
from gatepass.protocols.translation.translation import TranslatedReply
from gatepass.proxy import upstream_call
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.body_threads import Result
from gatepass.proxy.context import Attempt
from gatepass.replies.content import ContentKind, content_kind, content_type, first_bytes, is_event_stream
from gatepass.replies.error_body import is_error
from gatepass.replies.retry_after import rejects_token, should_retry
from gatepass.sse.aggregate import StreamAggregator
from gatepass.sse.asked import Asked
from gatepass.sse.choice_repair import TEXTS
from gatepass.sse.chunk import EnvelopeDefaults, StreamSource, json_text
from gatepass.sse.event import DONE, LARGE_EVENT_BYTES, EventTransform, is_json
from gatepass.sse.event_stream import BYTE_ORDER_MARK, EventStream
from gatepass.sse.synthesize import SYNTHESIZED, read_document
from gatepass.sse.usage import Usage, usage_of
from gatepass.types import OK, Headers, Hidden, Response, UpstreamErrorBody


class BufferedReply(Hidden, msgspec.Struct, frozen=True):
    """A whole reply that was classified; `adapted` lists the changes made to it."""

    status: int
    headers: Headers
    body: bytes
    adapted: tuple[str, ...] = ()
    is_validated: bool = False
    """Its vectors match the request in number and order, so no later step checks them again."""
    usage: Usage | None = None
    """What the upstream reported. The usage in `body` may be completed for the client."""
    events: int = 0
    is_empty: bool = False
    """A chat reply without content although its finish reason is `stop`."""
    text: msgspec.Raw = msgspec.Raw()
    """The JSON of its first content, if a check of the whole reply found it."""


class SynthesizedStream(Hidden, msgspec.Struct, frozen=True):
    """A stream made from a whole reply: `body` is all of its events and `[DONE]`, `events` their number without it.

    The reply itself is not kept: it is as large as its events.
    """

    headers: Headers
    body: bytes
    events: int
    usage: Usage | None
    adapted: tuple[str, ...] = ()
    is_empty: bool = False


class StreamingReply(Hidden, msgspec.Struct, frozen=True):
    """A stream whose first events were classified; the holder closes `response`.

    `ready` contains the bytes of these events, which are not written yet. `body_ended`: the body was read to its end.
    """

    response: Response
    events: EventStream
    ready: bytes
    body_ended: bool = False


class RawReply(Hidden, msgspec.Struct, frozen=True):
    """A reply of which only the head and the `beginning` were read; the holder closes `response`."""

    response: Response
    beginning: bytes = b""


ClassifiedReply = BufferedReply | SynthesizedStream | StreamingReply | RawReply

ID_BYTES = 12
"""Random bytes in a generated id, written as twice as many hex digits. OpenAI and Azure accept at most 40 characters
in the id of a tool call that a client sends back (Portkey-AI/gateway#1062)."""


class IdGenerator(msgspec.Struct, gc=False):
    """Generate the ids that one reply lacks, each different: clients treat two tool calls with one id as one call."""

    _name: str = ""
    _count: int = 0

    def __call__(self, prefix: str) -> str:
        # Drawn late: most replies have all their ids. Not derived from the request id, because a client may send one
        # `x-request-id` in all requests of a conversation, whose ids would then collide.
        self._name = self._name or token_hex(ID_BYTES)
        self._count += 1
        return f"{prefix}{self._name}" if self._count == 1 else f"{prefix}{self._name}-{self._count}"


class AttemptReply(ReplyContext, frozen=True):
    """The reply that an attempt received."""

    state: AppState
    upstream: Upstream
    response: Response
    attempt: Attempt
    protocol: ClientProtocol
    content_type: bytes | None

    def headers(self) -> Headers:
        return tuple(self.upstream.response_headers.select(self.response.headers))

    def source(self, limit_bytes: int) -> StreamSource:
        mask = self.state.redactor.mask
        return StreamSource(self.upstream.name, limit_bytes, self._read_error, self.keep_original, mask)

    def _read_error(self, payload: Any) -> UpstreamErrorBody | None:
        for place in self.protocol.error_places(payload):
            error_body = self.upstream.dialect.read_error_body(place, mask=self.state.redactor.mask)
            if error_body is not None:
                return error_body
        return None

    def keep_original(self, error: UpstreamErrorReply, data: bytes) -> None:
        """As in upstream_call.py, for the protocol of the client."""
        protocol = PROTOCOLS[self.attempt.call.operation.protocol]
        if error.error_body is not None and not error.case:
            error.case = case_of(error.error_body, error.http_status, self.upstream.name, self.attempt.call.model)
        upstream_call.keep_original(error, data, protocol, self.state.redactor.mask)

    @property
    def is_translated(self) -> bool:
        return isinstance(self.last, TranslatedReply)

    async def work_on(self, body: bytes, work: Callable[[], Result]) -> Result:
        """Return the result of `work`, which reads `body`, as `BodyThreads.run` does. A translation takes longer."""
        threads, caller = self.state.body_threads, self.attempt.call.caller
        if self.is_translated and len(body) > UNCOUNTED_BYTES:
            return await threads.run_heavy(caller, work)
        return await threads.run(caller, body, work)


def envelope_defaults(attempt: Attempt) -> EnvelopeDefaults:
    """Return the id, time and model for chunks that gatepass generates, and what they answer."""
    call = attempt.call if attempt.chat is None else attempt.chat.call
    asked = Asked(b"" if attempt.normalized is None else attempt.normalized.body, call.top)
    is_chat = not PROTOCOLS[attempt.call.operation.protocol].is_text
    return EnvelopeDefaults(IdGenerator(), int(attempt.state.clock.wall()), attempt.call.model, asked, is_chat)


ID_LOG_CHARS = 100


async def classify(attempt: Attempt, response: Response) -> ClassifiedReply:
    """Return the reply in the form that the client's call asked for, and keep the upstream's request id.

    Raises the error that the reply contains, after closing `response`.
    """
    upstream = attempt.upstream
    call = attempt.call if attempt.chat is None else attempt.chat.call
    protocol, profile = PROTOCOLS[call.operation.protocol], attempt.profile
    last: ClientProtocol | TranslatedReply | None = None if profile is PLAIN else protocol
    if attempt.chat is not None:
        last = TranslatedReply(attempt.chat, envelope_defaults(attempt), upstream.name, attempt.early)
    kind = request_id = None
    for name, value in response.headers:
        if name == b"content-type":
            kind = kind or value
        elif name == b"x-request-id":
            request_id = request_id or value
    if request_id is not None:
        attempt.record.upstream_request_id = request_id.decode("latin-1")[:ID_LOG_CHARS]
    context = AttemptReply(
        *(call, attempt.normalized or call, profile, last, upstream.name, upstream.dialect_name, upstream.transforms),
        *(upstream.is_cumulative, attempt.state, upstream, response, attempt, protocol, kind),
    )
    try:
        if response.status != OK:
            await _check_status(context)
        # The operation, the call's `stream` and the reply's content type decide how the body is read.
        if "stream" in protocol.members:
            if call.stream:
                return await classify_stream(context)
            # the most frequent values first: they need no parsing
            if kind in (None, b"application/json") or content_type(response.headers) != "text/event-stream":
                return await buffer_reply(context)
            return await aggregate_reply(context)
        return await (_classify_raw(context) if protocol.is_raw else buffer_reply(context))
    except (UpstreamError, TransportFault) as error:
        attempt.add_upstream_wait()
        await response.aclose()
        raise _error_of(context, error) from error if isinstance(error, TransportFault) else error.__cause__
    except BaseException:  # a client that disconnects arrives here as a cancellation
        attempt.add_upstream_wait()
        await response.aclose()
        raise


def _error_of(context: AttemptReply, raised: UpstreamError | TransportFault) -> UpstreamError:
    """Return the error of a reply that `raised` ended, with what the head of the reply says of a retry."""
    attempt, response = context.attempt, context.response
    error = upstream_call.connection_error(attempt, raised) if isinstance(raised, TransportFault) else raised
    error.should_retry = should_retry(response.headers)
    error.relayed = upstream_call.relayed_fields(response, context.state.redactor.mask)
    upstream_call.read_in_200(attempt, error)
    return upstream_call.as_rejection(error, context.upstream.settings.rejection, response.status)


async def _check_status(context: AttemptReply) -> None:
    """Raise the error that the reply's status stands for, with the reason that its body gives."""
    upstream, response, mask = context.upstream, context.response, context.state.redactor.mask
    attempt = context.attempt
    is_rejection = response.status in upstream.rejection_statuses or rejects_token(response.status, response.headers)
    if is_rejection and attempt.token is not None:
        attempt.is_rejected = True
        if not attempt.renewed:
            raise await upstream_call.read_error(attempt, response, within_s=upstream_call.REJECTION_S)
    error = upstream.dialect.classify_head(
        upstream.name, response.status, response.headers, host=upstream.host, mask=mask
    )
    if error is None and is_error(response.status):
        error = await upstream_call.read_error(attempt, response)
    if error is not None:
        raise error


async def _classify_raw(context: AttemptReply) -> ClassifiedReply:
    """Buffer JSON and HTML, which may be errors, watch event streams, and relay other files by their beginning."""
    context.attempt.add_upstream_wait()
    if context.response.status in WITHOUT_CONTENT:
        await context.response.aclose()
        return _without_body(context)
    kind = content_type(context.response.headers)
    if context.call.operation.is_download and kind != "text/html":
        return RawReply(context.response)
    if kind == "text/html" or kind.endswith("json"):
        return await buffer_reply(context)
    if kind == "text/event-stream":
        return await classify_stream(context)
    return await _classify_file(context, kind)


HEARD = ("transcriptions", "translations")


def _without_body(context: AttemptReply) -> BufferedReply:
    # SDKs parse an empty body as JSON if the content type is that of JSON
    return BufferedReply(context.response.status, _unlabelled(context.headers()), b"")


def _unlabelled(headers: Headers) -> Headers:
    return tuple(field for field in headers if field[0] != b"content-type")


async def _classify_file(context: AttemptReply, kind: str) -> ClassifiedReply:
    """Relay audio and other files; buffer small JSON, which may be an error, and without a label a page or nothing."""
    beginning, is_whole, begins = b"", True, (b"", b"{") if kind else (b"", b"{", b"[", b"<")
    async for piece in context.response:
        beginning += piece
        if first_bytes(beginning)[:1] not in begins or len(beginning) > upstream_call.ERROR_BYTES:
            is_whole = False
            break
    if is_whole and (is_json(beginning) or (not kind and first_bytes(beginning)[:1] in (b"", b"<"))):
        return await buffer_reply(context, beginning)
    if kind == "text/plain" and context.profile.plain_texts and context.call.operation.name in HEARD:
        body = await upstream_call.read_body(context.attempt, context.response, context.attempt.limit_bytes, beginning)
        document = json_text({"text": body.decode("utf-8", "replace").strip()})
        return BufferedReply(context.response.status, _labelled_json(context.headers()), document, (TEXTS,))
    return RawReply(context.response, beginning)


COMMENT_HOLD_S = 5.0
HELD_BYTES = 4096
"""An upstream's comments are held back before the first event for this time and up to this size, because an error may
follow and then still gets its HTTP status."""

EVENT_COPIES = 3
"""A large event is held this many times while it is validated."""


async def classify_stream(context: AttemptReply) -> ClassifiedReply:
    """Read until the kind of body is known and, if it is a stream, until its first events can be written."""
    events: EventStream | None = None
    beginning = held = b""
    held_until_s = context.state.clock.now() + COMMENT_HOLD_S
    async for piece in context.response:
        context.attempt.add_upstream_wait()
        if events is None:
            beginning += piece
            is_stream = beginning.startswith(b"data:")  # nearly always: saves a call
            kind = ContentKind.STREAM if is_stream else content_kind(beginning, context.content_type)
            if kind is ContentKind.UNDECIDED:
                continue
            piece = beginning
            if kind is not ContentKind.STREAM:
                return await _synthesized(context, await buffer_reply(context, piece))
        context.attempt.note_read(context.state.clock.now())
        if events is None:
            limit_bytes, defaults = context.state.limits.event_bytes, envelope_defaults(context.attempt)
            compares_texts = context.is_cumulative and context.protocol.takes_transforms
            if context.transforms is not None or context.attempt.chat is not None or compares_texts:
                limit_bytes = min(limit_bytes, LARGE_EVENT_BYTES)  # a larger event would take too long to convert
            events = context.protocol.event_stream(context.source(limit_bytes), defaults, context)
        held += _checked(context, events.feed(piece), events.adapted, events)
        # a large piece is parsed in turns, so that other requests run in between
        while events.waiting and (not held or _may_wait(held, held_until_s - context.state.clock.now())):
            await context.state.turns.wait()
            held += _checked(context, events.feed(), events.adapted, events)
        is_over = events.done or events.failure is not None
        if is_over or (held and not _may_wait(held, held_until_s - context.state.clock.now())):
            return StreamingReply(context.response, events, held)
        if not held and (memory := context.attempt.memory) is not None:
            memory.hold_of_stream(EVENT_COPIES * events.unfinished_bytes + events.kept_bytes)
            await memory.wait_for_room()
    if events is None:
        return await _synthesized(context, await buffer_reply(context, beginning))
    held += _checked(context, await last_events(events, context.state.turns), events.adapted, events)
    return StreamingReply(context.response, events, held, body_ended=True)


async def last_events(events: EventStream, turns: LoopTurns) -> bytes:
    """Return the last bytes of a stream whose body ended. The event loop runs between the turns of waiting events."""
    runs = []
    while events.waiting:
        await turns.wait()
        runs.append(events.feed())
    runs.append(events.finish())
    return b"".join(filter(None, runs))  # a single run is not copied


def _checked(context: AttemptReply, ready: bytes, adapted: tuple[str, ...], events: EventStream) -> bytes:
    """Return `ready`, and note the changes of the stream so far, `adapted`.

    Raises the stream's error if it came before any answer: the client then gets its HTTP status.
    """
    context.attempt.add_changes(adapted)
    if events.failure is not None and not events.has_answered:
        context.attempt.note_usage(events.usage)
        raise events.failure
    return ready


def _may_wait(held: bytes, left_s: float) -> bool:
    """Whether `held` contains only comments, such as OpenRouter's `: OPENROUTER PROCESSING`, and may be held longer."""
    if not held.startswith((b":", b"\n", b"\r")):  # nearly always
        return False
    is_short = len(held) <= HELD_BYTES and left_s > 0
    return is_short and all(not line or line.startswith(b":") for line in held.splitlines())


async def _synthesized(context: AttemptReply, reply: BufferedReply) -> ClassifiedReply:
    """Make a stream from a whole reply, except for raw operations."""
    if "stream" not in context.protocol.members:
        return reply
    client_transform = None if context.last is None else context.last.last_transform(context.profile)
    work = partial(_synthesized_events, context, reply, client_transform)
    events, run = await context.work_on(reply.body, work)
    adapted = reply.adapted if client_transform is None else (*reply.adapted, *client_transform.adapted)
    return SynthesizedStream(
        _unlabelled(reply.headers), run, events, reply.usage, (SYNTHESIZED, *adapted), reply.is_empty
    )


def _synthesized_events(
    context: AttemptReply, reply: BufferedReply, client_transform: EventTransform | None
) -> tuple[int, bytes]:
    try:
        text = reply.text if context.profile is PLAIN else msgspec.Raw()  # a profile changes texts
        document = read_document(reply.body, text)
        events: Iterable[bytes] = context.protocol.synthesize(document, envelope_defaults(context.attempt), context)
        if (after := client_transform) is not None:
            events = (piece for event in events for piece in (after.feed(event), *iter(after.take, b"")))
        run = b"".join(pieces := [*events])
    except ValueError:  # invalid UTF-8, a number of thousands of digits: earlier checks do not read so closely
        raise UpstreamInvalid(
            "The upstream returned JSON that cannot be parsed, or that has too many values for a stream, such as the"
            " `top_logprobs` of a long answer. Request it with `stream: false`.",
            upstream=context.upstream.name,
            of_request=True,
        ) from None
    # A profile and a translation join events. `[DONE]` is not counted as an event.
    return (len(pieces) if context.last is None else run.count(b"\n\n")) - run.endswith(DONE), run


LARGE_REPLY_BYTES = 512 * 1024
"""The event loop runs between two passes over a larger reply."""
MOST_CHECKED_BYTES, MOST_CHECKED_VALUES = 16 * 1024 * 1024, 2_000_000
"""A larger reply is relayed unchecked, because each pass over it may hold the interpreter's lock for 50 ms. An answer
of 10,000 tokens with 20 alternatives for each has 2,000,000 commas and brackets."""
UNCHECKED_REPLY = "reply=unchecked"
"""The entry of `x-gatepass-adapted` for a reply that was relayed without being checked or repaired."""


async def buffer_reply(context: AttemptReply, beginning: bytes = b"") -> BufferedReply:
    """Read and classify a whole reply; `beginning` was already read. Raises the error that the reply contains."""
    attempt, response = context.attempt, context.response
    limit_bytes = attempt.limit_bytes
    body = None if beginning else response.take_whole(limit_bytes)
    if body is None:
        body = await upstream_call.read_body(attempt, response, limit_bytes, beginning)
    else:
        attempt.add_upstream_wait()
        if (memory := attempt.memory) is not None:
            attempt.held_bytes += len(body)
            memory.add(len(body))
            if memory.is_full():
                await memory.wait_for_room()
    read_good = context.protocol.read_good if context.transforms is None else None
    if read_good is not None:
        good = read_good(body)
        if len(body) > LARGE_REPLY_BYTES:  # then the event loop runs between two passes
            await asyncio.sleep(0)
        if good is not None:  # needs neither classification nor repair
            reply = BufferedReply(response.status, context.headers(), body, usage=good.usage, text=good.text)
            if context.last is None:
                return reply
            work = partial(_for_client, context, context.last, reply)
            return await context.work_on(body, work)
    return await _classify_whole(context, body)


async def _classify_whole(context: AttemptReply, body: bytes) -> BufferedReply:
    """Classify and repair a whole reply that is not known to be good; raise the error that it contains."""
    call, response, protocol = context.call, context.response, context.protocol
    if not body and protocol.may_be_empty(call.operation, response.status, response.headers):
        return _without_body(context)
    if len(body) > LARGE_REPLY_BYTES:
        await asyncio.sleep(0)
    if found := protocol.usage_of_valid(call, body):
        validated = BufferedReply(response.status, context.headers(), body, is_validated=True, usage=usage_of(found))
        return await _repaired(context, validated)
    if "stream" in protocol.members and body[:1] != b"{" and is_event_stream(response.headers, body):
        aggregator = _aggregator(context)
        await _feed_slices(context, aggregator, body)
        return await _aggregated(context, aggregator)
    if len(body) > LARGE_REPLY_BYTES:
        await asyncio.sleep(0)
    return await context.work_on(body, partial(_classified, context, body))


def _classified(context: AttemptReply, body: bytes) -> BufferedReply:
    """Classify and repair a reply of JSON. Raises the error that it contains."""
    has_mark = body.startswith(BOM)  # Go's clients refuse it
    body, adapted = body.removeprefix(BOM), (BYTE_ORDER_MARK,) if has_mark else tuple[str, ...]()
    transforms = context.transforms if context.protocol.takes_transforms else None
    is_object = first_bytes(body)[:1] == b"{"  # anything else is an error, which its first bytes show
    if transforms is None and is_object and _is_beyond_checks(body):
        return _unchecked(context, body)
    if transforms is not None:
        if len(body) > ONE_PASS_BYTES:
            raise UpstreamInvalid(
                f"The answer is too large to convert from {context.dialect}. Request it with `stream: true`.",
                upstream=context.upstream.name,
                of_request=True,
                case="too_large",
            )
        body, changed = transforms.document(body, envelope_defaults(context.attempt))
        adapted += changed
    received = upstream_call.received_reply(context.attempt, context.response, body)
    document = context.upstream.dialect.classify_document(received, context.protocol)
    usage = usage_of(body if isinstance(document, GatepassError) else document)
    context.attempt.note_usage(usage)  # a later check may refuse the reply
    if isinstance(document, GatepassError):
        if isinstance(document, UpstreamErrorReply):
            context.keep_original(document, body)
        context.attempt.add_changes(adapted)
        raise document
    if document is not body:
        adapted = (*adapted, context.upstream.dialect.converted)
    reply = BufferedReply(context.response.status, context.headers(), document, adapted, usage=usage)
    return _repair(context, reply)


def _is_beyond_checks(body: bytes) -> bool:
    """Return whether to check the JSON `body` would hold the interpreter's lock for too long."""
    if len(body) > MOST_CHECKED_BYTES:
        return True
    return len(body) > MOST_CHECKED_VALUES and has_more(body, b",[]{}", MOST_CHECKED_VALUES)


def _unchecked(context: AttemptReply, body: bytes) -> BufferedReply:
    """Return a reply that is too large to check. Raises UpstreamInvalid if gatepass must change it.

    `join_replies` checks the vectors of an embeddings call one by one.
    """
    protocol, call = context.protocol, context.call
    if context.is_translated or (call.stream and "stream" in protocol.members):
        raise _too_large_to_convert(context)
    return BufferedReply(
        context.response.status,
        context.headers(),
        body,
        () if protocol.has_parts else (UNCHECKED_REPLY,),
        usage=usage_of(body),
    )


def _too_large_to_convert(context: AttemptReply) -> UpstreamInvalid:
    return UpstreamInvalid(
        f"The upstream's reply is too large to convert: it has more than {MOST_CHECKED_BYTES >> 20} MiB or"
        f" {MOST_CHECKED_VALUES} values. Request it with `stream: false` and without a profile.",
        upstream=context.upstream.name,
        of_request=True,
        case="too_large",
    )


async def _repaired(context: AttemptReply, reply: BufferedReply) -> BufferedReply:
    work = partial(_repair, context, reply)
    if context.protocol.repair is None:
        return work()
    return await context.work_on(reply.body, work)


def _repair(context: AttemptReply, reply: BufferedReply) -> BufferedReply:
    if context.protocol.repair is not None:
        repair = context.protocol.repair
        body, adapted, is_empty = repair(reply.body, partial(envelope_defaults, context.attempt), context.upstream.name)
        reply = _changed(reply, body, adapted) if adapted else reply
        reply = replace(reply, is_empty=True) if is_empty else reply
    return reply if context.last is None else _for_client(context, context.last, reply)


def _for_client(context: AttemptReply, last: ClientProtocol | TranslatedReply, reply: BufferedReply) -> BufferedReply:
    if len(reply.body) > MOST_CHECKED_BYTES:
        if context.is_translated:
            raise _too_large_to_convert(context)
        return _changed(reply, reply.body, (UNCHECKED_REPLY,))
    if context.is_translated and context.call.stream:
        return reply  # the stream that is made of it is translated
    body, adapted = last.last_change(reply.body, context.profile, context.call.model)
    return reply if body is reply.body else _changed(reply, body, adapted)


def _changed(reply: BufferedReply, body: bytes, adapted: tuple[str, ...]) -> BufferedReply:
    entries = tuple(dict.fromkeys((*reply.adapted, *adapted)))
    return replace(reply, body=body, adapted=entries, text=msgspec.Raw())  # which keeps the body before in memory


AGGREGATED = "stream=aggregate"
"""The entry of `x-gatepass-adapted` for a whole reply made from a stream."""
AGGREGATED_BYTES = 4 * 1024
"""Bytes of a stream that are aggregated before the event loop runs. They may be blank lines of up to 6 µs each."""


async def aggregate_reply(context: AttemptReply) -> BufferedReply:
    """Make a whole reply from a stream, read up to its last event. A document labelled as a stream is buffered."""
    aggregator = _aggregator(context)
    kind, beginning = ContentKind.UNDECIDED, b""
    async for piece in context.response:
        if kind is ContentKind.UNDECIDED:
            beginning += piece
            kind = content_kind(beginning, b"text/event-stream")
            if kind is ContentKind.UNDECIDED:
                continue
            if kind is not ContentKind.STREAM:
                whole = await buffer_reply(context, beginning)
                return replace(whole, headers=_labelled_json(whole.headers))
            piece, beginning = beginning, b""
        if not await _feed_slices(context, aggregator, piece):
            break
        context.attempt.add(len(piece))  # the aggregated reply is held in memory
        await context.attempt.wait_for_room()
    context.attempt.add_upstream_wait()
    await _feed_slices(context, aggregator, beginning)
    reply = await _aggregated(context, aggregator)
    context.response.finish()
    return reply


def _aggregator(context: AttemptReply) -> StreamAggregator:
    limits = context.state.limits
    source, defaults = context.source(limits.reply_bytes), envelope_defaults(context.attempt)
    return context.protocol.aggregator(source, limits.event_bytes, defaults, context)


async def _feed_slices(context: AttemptReply, aggregator: StreamAggregator, run: bytes) -> bool:
    """Feed `run` in slices and take a turn of the event loop for each. Return whether the aggregator needs more."""
    for at in range(0, len(run), AGGREGATED_BYTES):
        if at:
            await context.state.turns.wait()
        aggregator.feed(run[at : at + AGGREGATED_BYTES])
        while aggregator.is_heavy:
            await context.state.body_threads.run_heavy(context.attempt.call.caller, aggregator.feed)
        if aggregator.is_over:
            break
    return not aggregator.is_over


async def _aggregated(context: AttemptReply, aggregator: StreamAggregator) -> BufferedReply:
    try:
        threads, finish = context.state.body_threads, aggregator.finish
        body = await threads.run_heavy(context.attempt.call.caller, finish) if aggregator.is_large else finish()
    except GatepassError:
        context.attempt.has_answered = aggregator.has_answered
        context.attempt.add_changes(aggregator.adapted)
        context.attempt.note_usage(aggregator.usage)
        raise
    if len(body) > LARGE_REPLY_BYTES:
        await asyncio.sleep(0)
    adapted = (AGGREGATED, *aggregator.adapted)
    reply = BufferedReply(
        context.response.status, _labelled_json(context.headers()), body, adapted, usage=aggregator.usage
    )
    return await _repaired(context, reply)


def _labelled_json(headers: Headers) -> Headers:
    """`headers` of an upstream that labelled the reply as a stream: SDKs for Node would return its text unparsed."""
    return (*_unlabelled(headers), (b"content-type", b"application/json"))
