"""Classify a reply before a byte of it reaches the client: whole, a stream, made into the other, or an error.

The kinds of a classified reply, and what classifying one needs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from secrets import token_hex
from typing import Any

import msgspec
from msgspec.structs import replace

from gatepass.cancel import Tasks, timeout
from gatepass.clock import Clock
from gatepass.config.access import Profile
from gatepass.dialects import content
from gatepass.dialects.content import ContentKind, ContentSniffer
from gatepass.dialects.error_body import is_error
from gatepass.dialects.reply_check import should_retry
from gatepass.errors import BodyTooComplex, GatepassError, InvalidJson, TransportFault, UpstreamError, UpstreamInvalid
from gatepass.json_scan import ScannedBody, occurrences
from gatepass.normalize.embeddings_reply import is_right
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.context import Attempt
from gatepass.proxy.large_body import run_off_loop, scanned
from gatepass.proxy.upstream_call import connection_error, named, read_body, read_error, received_reply
from gatepass.sse.aggregate import BodyAggregator, CompletionAggregator
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import EnvelopeDefaults
from gatepass.sse.client_transforms import make_client_transform, transform_reply
from gatepass.sse.event import read_json
from gatepass.sse.event_stream import EventStream
from gatepass.sse.repair import StreamRepair
from gatepass.sse.responses_api import LAST_EVENTS, ResponseAggregator, Unfinished, synthesise_response
from gatepass.sse.synthesize import synthesise
from gatepass.sse.usage import Usage, place_for_ragflow, requested_usage
from gatepass.sse.whole_reply import (
    BUILT_BYTES,
    ONE_PASS_BYTES,
    is_empty_answer,
    mended_whole,
    read_around_large,
    read_good,
)
from gatepass.types import Call, ClientProtocol, Headers, Response, UpstreamErrorBody, header


class BufferedReply(msgspec.Struct, frozen=True):
    """A plain reply, held whole and judged; `adapted` names what was done to it."""

    status: int
    headers: Headers
    body: bytes
    adapted: tuple[str, ...] = ()
    is_validated: bool = False
    """Its vectors are all that the client's own call asked for, in order: nobody has to look again."""
    usage: Usage | None = None
    """As `usage_of` finds it in `body`; None: not known, ask that."""
    is_empty: bool = False
    """It is a chat's answer that says nothing, for all that its finish reason is `stop`."""


class SynthesizedStream(msgspec.Struct, frozen=True):
    """A stream made of a whole reply: all of its events, `[DONE]` with them; `body` is what they were made of."""

    headers: Headers
    events: bytes
    body: bytes
    adapted: tuple[str, ...] = ()
    is_empty: bool = False


class StreamingReply(msgspec.Struct, frozen=True):
    """A stream whose first event was judged; the holder closes `response`.

    `ready` may be written now; `read_body` says that the body has already ended.
    """

    upstream: Upstream
    response: Response
    events: EventStream
    ready: bytes
    body_ended: bool = False


class RawReply(msgspec.Struct, frozen=True):
    """A reply of which only the head was judged; the holder closes `response`."""

    upstream: Upstream
    response: Response


ClassifiedReply = BufferedReply | SynthesizedStream | StreamingReply | RawReply


NAME_BYTES = 12
"""Of chance, in twice as many digits: an id of a tool call may have 40 characters when it comes back to OpenAI or Azure
(Portkey-AI/gateway#1062)."""


class Ids:
    """Makes ids for one reply: each another one, for two tool calls of one id are one to a client.

    They are random and not the request's own id: a client may send one `x-request-id` for a whole conversation, in
    which the ids of every turn come back. Nothing is drawn for a reply that lacks none.
    """

    __slots__ = ("_made", "_name")

    def __init__(self) -> None:
        self._name = ""
        self._made = 0

    def __call__(self, prefix: str) -> str:
        self._name = self._name or token_hex(NAME_BYTES)
        self._made += 1
        return f"{prefix}{self._name}" if self._made == 1 else f"{prefix}{self._name}-{self._made}"


class ReplyContext(msgspec.Struct, frozen=True):
    """One reply, the client's own `call` that it shall answer, and what the client needs beyond that."""

    state: AppState
    call: Call
    upstream: Upstream
    response: Response
    attempt: Attempt
    profile: Profile

    @property
    def is_chat(self) -> bool:
        return self.call.operation.protocol is ClientProtocol.CHAT

    @property
    def is_response(self) -> bool:
        return self.call.operation.protocol is ClientProtocol.RESPONSES

    @property
    def may_stream(self) -> bool:
        """Whether its answers come whole or as a stream, as the client asks, and each is made of the other."""
        protocol = self.call.operation.protocol
        return protocol is ClientProtocol.CHAT or protocol is ClientProtocol.RESPONSES

    def headers(self) -> Headers:
        """The reply's headers, as far as the client gets them."""
        return tuple(self.upstream.response_headers.select(self.response.headers))

    def reader(self) -> partial[UpstreamErrorBody | None]:
        """Reads the complaint that an event may be, in the upstream's dialect."""
        return partial(self.upstream.dialect.read_error_body, mask=self.state.redactor.mask)

    def origin(self) -> EnvelopeDefaults:
        """What chunks that gatepass makes itself say of where they come from."""
        return EnvelopeDefaults(Ids(), int(self.state.clock.wall()), self.call.model)


OK = 200


async def classify(attempt: Attempt, response: Response) -> ClassifiedReply:
    """Turn a reply into what the client's own call asked for; raises the error that it really is, and closes it then.

    A stream where none was asked for becomes one reply, a whole reply where a stream was becomes a stream.
    """
    hop = attempt.upstream
    context = ReplyContext(attempt.state, attempt.call, hop, response, attempt, attempt.profile)
    try:
        if response.status != OK:
            await _check(context)
        return await _answer(context)
    except UpstreamError as error:
        await response.aclose()
        error.should_retry = should_retry(response.headers)
        raise named(error, hop.settings.rejection) from error.__cause__
    except BaseException:  # a client that leaves meanwhile comes as a cancellation
        await response.aclose()
        raise


async def _check(context: ReplyContext) -> None:
    """Raises the error that a status tells of."""
    hop, response, mask = context.upstream, context.response, context.state.redactor.mask
    error = hop.dialect.classify_head(hop.name, response.status, response.headers, host=hop.host, mask=mask)
    if error is None and is_error(response.status):
        error = await read_error(context.attempt, response)
    if error is not None:
        raise error


def _answer(context: ReplyContext) -> Awaitable[ClassifiedReply]:
    """Reads it in the way that the call and the reply's content type ask for."""
    if context.may_stream:
        return (
            begin_stream(context)
            if context.call.stream
            else aggregate_reply(context)
            if says_stream(context)
            else buffer_reply(context)
        )
    return _pass(context) if context.call.operation.protocol is ClientProtocol.RAW else buffer_reply(context)


async def _pass(context: ReplyContext) -> ClassifiedReply:
    """JSON is held and judged, a page is an error, events are watched; whatever else passes as it comes."""
    kind = content.content_type(context.response.headers)
    if context.call.operation.is_download and kind != "text/html":
        return RawReply(context.upstream, context.response)
    if not kind:
        return await classify_unlabelled(context)
    if kind == "text/html" or kind.endswith("json"):
        return await buffer_reply(context)
    return await begin_stream(context) if kind == "text/event-stream" else RawReply(context.upstream, context.response)


TAIL_S = 1.0
"""How long an upstream may take to end its body after `[DONE]`, so that its connection can be used again."""


async def close_finished_stream(response: Response, tasks: Tasks, clock: Clock) -> None:
    """Be done with a stream of which the last event is here, and close it.

    Nothing but the body's own end is expected behind it, and a connection read to that can be used again: it is
    waited for in one of `tasks`, behind the answer, which is whole without it.
    """
    if response.ended:
        await response.aclose()
    else:
        tasks.spawn(_read_out(response, clock), "tail of a stream")


async def _read_out(response: Response, clock: Clock) -> None:
    try:
        with suppress(TimeoutError, TransportFault):  # then it is closed instead
            await timeout(clock, TAIL_S, response.stream_to(lambda _: True), TimeoutError())
    finally:
        await response.aclose()


OPENING_BYTES = 1024
"""White space beyond is taken for the beginning of a file."""

_TEXT = re.compile(rb"""(?:\xef\xbb\xbf)?\s*+(?:\{\s*+["}]|\[\s*+[\[{"\]0-9tfn-]|<[!?A-Za-z])""")
_MAY_BECOME = re.compile(rb"(?:\xef(?:\xbb\xbf?+)?+)?+\s*+(?:[{\[]\s*+|<)?+\Z")


async def classify_unlabelled(context: ReplyContext) -> ClassifiedReply:
    """Sound and pictures pass; what begins like JSON or a page is held and judged, and so is what is empty."""
    beginning = b""
    try:
        async for piece in context.response:
            beginning += piece
            if len(beginning) > OPENING_BYTES or _MAY_BECOME.match(beginning) is None:
                break
    except TransportFault as fault:
        raise connection_error(context.attempt, fault) from fault
    if not beginning.strip() or _TEXT.match(beginning) is not None:
        return await buffer_reply(context, beginning)
    return RawReply(context.upstream, _Resumed(context.response, beginning))


class _Resumed:
    """A Response of which `beginning` was read already: it comes first once more."""

    def __init__(self, response: Response, beginning: bytes) -> None:
        self._response = response
        self._beginning = beginning

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Headers:
        return self._response.headers

    @property
    def ended(self) -> bool:
        return self._response.ended

    async def __aiter__(self) -> AsyncIterator[bytes]:
        beginning, self._beginning = self._beginning, b""
        if beginning:
            yield beginning
        async for piece in self._response:
            yield piece

    async def stream_to(self, write: Callable[[bytes], bool]) -> bool:
        beginning, self._beginning = self._beginning, b""
        if beginning and not write(beginning):
            return False
        return await self._response.stream_to(write)

    async def aclose(self) -> None:
        await self._response.aclose()


MENDED = (ClientProtocol.CHAT, ClientProtocol.EMBEDDINGS)
"""What may be changed of a plain reply, for a client's sake."""
AGGREGATED, UNWRAPPED = "stream=aggregate", "unwrap=data"
"""What `x-gatepass-adapted` calls a reply made of a stream, and an answer out of its envelope."""


async def buffer_reply(context: ReplyContext, beginning: bytes = b"") -> BufferedReply:
    """The reply held whole, of which `beginning` was read already. Raises the error that it really is."""
    body = await read_body(context.attempt, context.response, context.state.config.limits.reply_bytes, beginning)
    context.attempt.capture_reply(body)
    protocol = context.call.operation.protocol
    is_plain_chat = protocol is ClientProtocol.CHAT and context.upstream.transforms.is_plain
    may_be_good = is_plain_chat and (len(body) <= BUILT_BYTES or not context.call.stream)  # a stream is made in slices
    if may_be_good and (good := read_good(body)) is not None:  # no need to judge and to mend it
        if len(body) > SLICE_BYTES:
            await asyncio.sleep(0)
        return _profiled(context, BufferedReply(context.response.status, context.headers(), body, usage=good.usage))
    most_bytes = BUILT_BYTES if protocol is ClientProtocol.CHAT else ONE_PASS_BYTES
    if protocol is not ClientProtocol.EMBEDDINGS and len(body) > most_bytes and content.first_bytes(body)[:1] == b"{":
        body = await _scanned(body)
    if len(body) > MOST_VALUES and type(body) is not ScannedBody:  # a value takes a byte at least
        await _bound_values(context, body)
    if _is_stream(context, body):
        assembly = _assembly(context)
        await _fed(assembly, body)
        return _aggregated(context, assembly)
    await _turn(body)
    if protocol is ClientProtocol.EMBEDDINGS and is_right(body, context.call.embeddings_options()):
        return _mended(context, BufferedReply(context.response.status, context.headers(), body, is_validated=True))
    adapted: tuple[str, ...] = ()
    if protocol is ClientProtocol.CHAT and not is_plain_chat:
        body, adapted = context.upstream.transforms.document(body, context.origin())
    await _turn(body)
    reply = received_reply(context.attempt, context.response, body)
    judged = context.upstream.dialect.classify_document(reply, protocol)
    if isinstance(judged, GatepassError):
        context.attempt.add_changes(adapted)
        raise judged
    if judged is not body:
        adapted = (*adapted, UNWRAPPED)
    await _turn(body)
    return _mended(context, BufferedReply(context.response.status, context.headers(), judged, adapted))


SLICE_BYTES = 512 * 1024
MOST_VALUES = 8_000_000
"""Of a whole reply: a pass over them takes 40 ms. 2,048 vectors of 3,072 numbers have 6.3 million."""


MOST_SCANNED_VALUES = 24_000_000
"""Of one that is read in slices. A chat of 128,000 tokens with 20 alternatives for each has 19 million."""


async def _scanned(body: bytes) -> bytes:
    """`body` with what is found in it, read in slices. As it is, if only a judge who is less strict can read it."""
    try:
        return await scanned(body, most_values=MOST_SCANNED_VALUES)
    except (InvalidJson, BodyTooComplex):
        return body


async def _bound_values(context: ReplyContext, body: bytes) -> None:
    """Raise UpstreamInvalid if `body` has more values than can be read in one piece. Signs in its texts count too."""
    values = 0
    for at in range(0, len(body), SLICE_BYTES):
        part = body[at : at + SLICE_BYTES]
        values += part.count(b",") + occurrences(part, b"[{", MOST_VALUES)
        if values > MOST_VALUES:
            raise UpstreamInvalid(
                f"The upstream's reply is invalid: it has more than {MOST_VALUES} values.",
                upstream=context.upstream.name,
            )
        await asyncio.sleep(0)


async def _turn(body: bytes) -> None:
    """Let the event loop run between two passes over a large reply."""
    if len(body) > SLICE_BYTES:
        await asyncio.sleep(0)


async def aggregate_reply(context: ReplyContext) -> BufferedReply:
    """One reply out of a stream, read as far as it says something. A document that is only labelled so is held."""
    opening, assembly = ContentSniffer(b"text/event-stream"), _assembly(context)
    try:
        async for piece in context.response:
            if opening.kind is ContentKind.UNDECIDED and opening.feed(piece) is ContentKind.UNDECIDED:
                continue
            if opening.kind is not ContentKind.STREAM:
                return await buffer_reply(context, opening.held)
            opening.held, run = b"", opening.held or piece
            context.attempt.capture_reply(run)
            if not await _fed(assembly, run):
                break
            if (memory := context.attempt.memory) is not None:
                memory.add(len(run))
                await memory.wait_for_room()
    except TransportFault as fault:
        raise connection_error(context.attempt, fault) from fault
    await _fed(assembly, opening.held)
    reply = _aggregated(context, assembly)
    await close_finished_stream(context.response, context.state.in_flight.tasks, context.state.clock)
    return reply


def says_stream(context: ReplyContext) -> bool:
    """Whether the head calls the body a stream of events."""
    headers = context.response.headers
    for name, kind in headers:
        if name == b"content-type":
            return kind != b"application/json" and content.content_type(headers) == "text/event-stream"
    return False


def _mended(context: ReplyContext, reply: BufferedReply) -> BufferedReply:
    """`reply` as clients read it, and as the profile of this one wants it."""
    if context.call.operation.protocol not in MENDED:
        return reply
    if context.is_chat:
        body, adapted = mended_whole(reply.body, context.origin)
        reply = _changed(reply, body, adapted) if adapted else reply
        reply = replace(reply, is_empty=True) if is_empty_answer(body) else reply
    return _profiled(context, reply)


def _profiled(context: ReplyContext, reply: BufferedReply) -> BufferedReply:
    body, adapted = transform_reply(reply.body, context.profile, context.call.model)
    return _changed(reply, body, adapted) if adapted else reply


def _changed(reply: BufferedReply, body: bytes, adapted: tuple[str, ...]) -> BufferedReply:
    return replace(reply, body=body, adapted=tuple(dict.fromkeys((*reply.adapted, *adapted))), usage=None)


def _is_stream(context: ReplyContext, body: bytes) -> bool:
    return context.may_stream and body[:1] != b"{" and content.is_event_stream(context.response.headers, body)


def _assembly(context: ReplyContext) -> BodyAggregator:
    hop, defaults, limits = context.upstream, context.origin(), context.state.config.limits
    if context.is_response:
        return BodyAggregator(
            hop.name, ResponseAggregator(hop.name, limits.reply_bytes, context.reader()), limits.event_bytes
        )
    transform = hop.transforms.stream(defaults, wants_usage=True)
    shapers = [] if transform is None else [transform]
    if hop.settings.repair.cumulative:  # the rest of what a repair mends is no matter to an aggregator
        shapers.append(StreamRepair(RepairOptions(None, "keep", cumulative=True), defaults))
    aggregator = CompletionAggregator(
        hop.name, limits.reply_bytes, context.reader(), defaults, choices=context.call.choices
    )
    return BodyAggregator(hop.name, aggregator, limits.event_bytes, shapers)


TURN_BYTES = 4 * 1024
"""As much of a stream is aggregated before the event loop runs: it may be blank lines, which take up to 6 µs each."""


async def _fed(assembly: BodyAggregator, run: bytes) -> bool:
    """Feed `run` in pieces, between which the event loop runs. Return whether more is wanted."""
    wants_more = True
    for at in range(0, len(run), TURN_BYTES):
        if at:
            await asyncio.sleep(0)
        wants_more = assembly.feed(run[at : at + TURN_BYTES])
        if not wants_more:
            break
    return wants_more


def _aggregated(context: ReplyContext, assembly: BodyAggregator) -> BufferedReply:
    try:
        body = assembly.finish()
    except GatepassError:
        context.attempt.add_changes(assembly.adapted)
        raise
    headers = tuple(field for field in context.headers() if field[0] != b"content-type")
    headers = (*headers, (b"content-type", b"application/json"))
    return _mended(context, BufferedReply(context.response.status, headers, body, (AGGREGATED,)))


SYNTHESISED = "stream=synth"
"""What `x-gatepass-adapted` calls a stream made of a whole reply."""
HOLD_S = 5.0
HELD_BYTES = 4096
"""So long, and so much of them, an upstream's comments wait for the first event: the answer may yet be an error."""


async def begin_stream(context: ReplyContext) -> ClassifiedReply:
    """Read until it is plain what came, and a stream until its first events can be written."""
    opening = ContentSniffer(header(context.response.headers, b"content-type"))
    events = _event_stream(context)
    pieces: list[bytes] = []
    held, held_until_s = b"", context.state.clock.now() + HOLD_S
    try:
        async for piece in context.response:
            if opening.kind is ContentKind.UNDECIDED:
                pieces.append(piece)
                if opening.feed(piece) is ContentKind.UNDECIDED:
                    continue
                piece = b"".join(pieces)
            if opening.kind is not ContentKind.STREAM:
                return await _made(context, await buffer_reply(context, piece))
            held += _judged(context, piece, events.feed(piece), events)
            while events.waiting and (not held or _may_wait(held, held_until_s - context.state.clock.now())):
                await asyncio.sleep(0)
                held += _judged(context, piece, events.feed(), events)
            is_over = events.done or events.failure is not None
            if is_over or (held and not _may_wait(held, held_until_s - context.state.clock.now())):
                return StreamingReply(context.upstream, context.response, events, held)
    except TransportFault as fault:
        raise connection_error(context.attempt, fault) from fault
    if opening.kind is not ContentKind.STREAM:
        return await _made(context, await buffer_reply(context, b"".join(pieces)))
    held += _judged(context, b"", events.finish(), events)
    return StreamingReply(context.upstream, context.response, events, held, body_ended=True)


def _may_wait(held: bytes, left_s: float) -> bool:
    """Whether there is nothing in it but some comments, such as OpenRouter's `: OPENROUTER PROCESSING`, and they are
    not too old to be held."""
    if not held.startswith((b":", b"\n", b"\r")):  # nearly always
        return False
    is_short = len(held) <= HELD_BYTES and left_s > 0
    return is_short and all(not line or line.startswith(b":") for line in held.splitlines())


async def _made(context: ReplyContext, reply: BufferedReply) -> ClassifiedReply:
    if context.call.operation.protocol is ClientProtocol.RAW:
        return reply
    events = await run_off_loop(reply.body, partial(_synthesised, context, reply.body))
    adapted = reply.adapted
    if context.is_chat and (client_transform := make_client_transform(context.profile)) is not None:
        events, adapted = client_transform.feed(events), (*adapted, *client_transform.adapted)
    headers = tuple(field for field in reply.headers if field[0] != b"content-type")
    return SynthesizedStream(headers, events, reply.body, (SYNTHESISED, *adapted), reply.is_empty)


def _synthesised(context: ReplyContext, body: bytes) -> bytes:
    try:
        if context.is_chat and isinstance(body, ScannedBody):
            return b"".join(_events(context, read_around_large(body)))
        return b"".join(_events(context, read_json(body)))
    except Unfinished:
        unfinished = "The upstream answered with a response that is not finished and has no output."
        raise UpstreamInvalid(unfinished, upstream=context.upstream.name) from None
    except ValueError:  # UTF-8 that is none, a number of thousands of digits: a judge does not read so closely
        raise UpstreamInvalid(
            "The upstream answered with JSON that cannot be read.", upstream=context.upstream.name
        ) from None


def _events(context: ReplyContext, document: Any) -> Iterable[bytes]:
    if context.is_response:
        return synthesise_response(document, context.origin())
    return synthesise(
        document, _usage_wish(context, requested_usage(context.call.body))[0] is not False, context.origin()
    )


def _event_stream(context: ReplyContext) -> EventStream:
    if not context.is_chat:
        return _stream_of_others(context)
    defaults, asked = context.origin(), requested_usage(context.call.body)
    wish, drops_usage = _usage_wish(context, asked)
    return EventStream(
        context.upstream.name,
        context.state.config.limits.event_bytes,
        context.reader(),
        choices=context.call.choices,
        dialect_transform=context.upstream.transforms.stream(defaults, wants_usage=bool(asked)),
        repair=StreamRepair(_wishes(context, wish, drops_usage=drops_usage), defaults),
        client_transform=make_client_transform(context.profile),
    )


def _stream_of_others(context: ReplyContext) -> EventStream:
    """Of a response, or of what passes through."""
    is_response = context.call.operation.name == ClientProtocol.RESPONSES  # or one that was kept
    return EventStream(
        context.upstream.name,
        context.state.config.limits.event_bytes,
        context.reader(),
        done_is_required=False,
        last_types=LAST_EVENTS if is_response else frozenset(),
        client_transform=make_client_transform(context.profile, is_chat=False),
    )


def _usage_wish(context: ReplyContext, asked: bool | None) -> tuple[bool | None, bool]:
    """What the client's stream is to have of usage: as `RepairOptions.include_usage`, and `RepairOptions.drops_usage`.

    `asked`: as `requested_usage` reads it.
    """
    if asked is not False or not context.profile.places_usage:
        return asked, False
    place = place_for_ragflow(context.call.body)
    return place == "alone", place == "drop"


def _wishes(context: ReplyContext, include_usage: bool | None, *, drops_usage: bool) -> RepairOptions:
    wanted, profile = context.upstream.settings.repair, context.profile
    return RepairOptions(
        include_usage,
        wanted.without_choices if profile.without_choices == "move" else profile.without_choices,
        profile.splits_finish,
        wanted.cumulative,
        wanted.one_id,
        drops_usage,
    )


def _judged(context: ReplyContext, piece: bytes, ready: bytes, events: EventStream) -> bytes:
    """`ready`, unless the stream failed before any event of an answer: the client still gets its true status."""
    context.attempt.capture_reply(piece if events.failure is not None else b"")
    if events.failure is not None and not events.has_answered:
        context.attempt.add_changes(events.adapted)
        raise events.failure
    return ready
