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
from gatepass.dialects import content as form
from gatepass.dialects.content import Kind, Opening
from gatepass.dialects.error_body import is_error
from gatepass.dialects.reply_check import should_retry
from gatepass.errors import BodyTooComplex, GatepassError, InvalidJson, TransportFault, UpstreamError, UpstreamInvalid
from gatepass.json_scan import ScannedBody, occurrences
from gatepass.normalize.embeddings_reply import is_right
from gatepass.proxy.app_state import Gate, Hop
from gatepass.proxy.context import Attempt
from gatepass.proxy.large_body import apart, scanned
from gatepass.proxy.upstream_call import broken, heard, named, refused, whole
from gatepass.sse.aggregate import Aggregator, Assembly
from gatepass.sse.choice_repair import Wishes
from gatepass.sse.chunk import Origin
from gatepass.sse.client_transforms import after_of, mended_reply
from gatepass.sse.event import read_json
from gatepass.sse.event_stream import EventStream
from gatepass.sse.repair import Repair
from gatepass.sse.responses_api import LAST_EVENTS, ResponseAggregator, Unfinished, synthesise_response
from gatepass.sse.synthesize import synthesise
from gatepass.sse.usage import Usage, place_for_ragflow, usage_wish
from gatepass.sse.whole_reply import (
    BUILT_BYTES,
    ONE_PASS_BYTES,
    is_empty_answer,
    mended_whole,
    read_around_large,
    read_good,
)
from gatepass.types import Call, Complaint, Headers, Response, Surface, header


class Whole(msgspec.Struct, frozen=True):
    """A plain reply, held whole and judged; `adapted` names what was done to it."""

    status: int
    headers: Headers
    body: bytes
    adapted: tuple[str, ...] = ()
    is_right: bool = False
    """Its vectors are all that the client's own call asked for, in order: nobody has to look again."""
    usage: Usage | None = None
    """As `usage_of` finds it in `body`; None: not known, ask that."""
    is_empty: bool = False
    """It is a chat's answer that says nothing, for all that its finish reason is `stop`."""


class Made(msgspec.Struct, frozen=True):
    """A stream made of a whole reply: all of its events, `[DONE]` with them; `body` is what they were made of."""

    headers: Headers
    events: bytes
    body: bytes
    adapted: tuple[str, ...] = ()
    is_empty: bool = False


class Begun(msgspec.Struct, frozen=True):
    """A stream whose first event was judged; the holder closes `response`.

    `ready` may be written now; `whole` says that the body has already ended.
    """

    hop: Hop
    response: Response
    events: EventStream
    ready: bytes
    whole: bool = False


class Passed(msgspec.Struct, frozen=True):
    """A reply of which only the head was judged; the holder closes `response`."""

    hop: Hop
    response: Response


Answer = Whole | Made | Begun | Passed


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


class Case(msgspec.Struct, frozen=True):
    """One reply, the client's own `call` that it shall answer, and what the client needs beyond that."""

    gate: Gate
    call: Call
    hop: Hop
    response: Response
    attempt: Attempt
    profile: Profile

    @property
    def is_chat(self) -> bool:
        return self.call.operation.surface is Surface.CHAT

    @property
    def is_response(self) -> bool:
        return self.call.operation.surface is Surface.RESPONSES

    @property
    def may_stream(self) -> bool:
        """Whether its answers come whole or as a stream, as the client asks, and each is made of the other."""
        surface = self.call.operation.surface
        return surface is Surface.CHAT or surface is Surface.RESPONSES

    def headers(self) -> Headers:
        """The reply's headers, as far as the client gets them."""
        return tuple(self.hop.response_headers.relayed(self.response.headers))

    def reader(self) -> partial[Complaint | None]:
        """Reads the complaint that an event may be, in the upstream's dialect."""
        return partial(self.hop.dialect.read_complaint, mask=self.gate.redactor.mask)

    def origin(self) -> Origin:
        """What chunks that gatepass makes itself say of where they come from."""
        return Origin(Ids(), int(self.gate.clock.wall()), self.call.model)


OK = 200


async def judge(attempt: Attempt, response: Response) -> Answer:
    """Turn a reply into what the client's own call asked for; raises the error that it really is, and closes it then.

    A stream where none was asked for becomes one reply, a whole reply where a stream was becomes a stream.
    """
    hop = attempt.hop
    case = Case(attempt.gate, attempt.call, hop, response, attempt, attempt.profile)
    try:
        if response.status != OK:
            await _check(case)
        return await _answer(case)
    except UpstreamError as error:
        await response.aclose()
        error.should_retry = should_retry(response.headers)
        raise named(error, hop.settings.rejection) from error.__cause__
    except BaseException:  # a client that leaves meanwhile comes as a cancellation
        await response.aclose()
        raise


async def _check(case: Case) -> None:
    """Raises the error that a status tells of."""
    hop, response, mask = case.hop, case.response, case.gate.redactor.mask
    error = hop.dialect.judge_head(hop.name, response.status, response.headers, host=hop.host, mask=mask)
    if error is None and is_error(response.status):
        error = await refused(case.attempt, response)
    if error is not None:
        raise error


def _answer(case: Case) -> Awaitable[Answer]:
    """Reads it in the way that the call and the reply's content type ask for."""
    if case.may_stream:
        return begin(case) if case.call.stream else gather(case) if says_stream(case) else hold(case)
    return _pass(case) if case.call.operation.surface is Surface.RAW else hold(case)


async def _pass(case: Case) -> Answer:
    """JSON is held and judged, a page is an error, events are watched; whatever else passes as it comes."""
    kind = form.content_type(case.response.headers)
    if case.call.operation.is_download and kind != "text/html":
        return Passed(case.hop, case.response)
    if not kind:
        return await pass_unlabelled(case)
    if kind == "text/html" or kind.endswith("json"):
        return await hold(case)
    return await begin(case) if kind == "text/event-stream" else Passed(case.hop, case.response)


TAIL_S = 1.0
"""How long an upstream may take to end its body after `[DONE]`, so that its connection can be used again."""


async def let_go(response: Response, tasks: Tasks, clock: Clock) -> None:
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
            await timeout(clock, TAIL_S, response.pour(lambda _: True), TimeoutError())
    finally:
        await response.aclose()


OPENING_BYTES = 1024
"""White space beyond is taken for the beginning of a file."""

_TEXT = re.compile(rb"""(?:\xef\xbb\xbf)?\s*+(?:\{\s*+["}]|\[\s*+[\[{"\]0-9tfn-]|<[!?A-Za-z])""")
_MAY_BECOME = re.compile(rb"(?:\xef(?:\xbb\xbf?+)?+)?+\s*+(?:[{\[]\s*+|<)?+\Z")


async def pass_unlabelled(case: Case) -> Answer:
    """Sound and pictures pass; what begins like JSON or a page is held and judged, and so is what is empty."""
    beginning = b""
    try:
        async for piece in case.response:
            beginning += piece
            if len(beginning) > OPENING_BYTES or _MAY_BECOME.match(beginning) is None:
                break
    except TransportFault as fault:
        raise broken(case.attempt, fault) from fault
    if not beginning.strip() or _TEXT.match(beginning) is not None:
        return await hold(case, beginning)
    return Passed(case.hop, _Resumed(case.response, beginning))


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

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        beginning, self._beginning = self._beginning, b""
        if beginning and not take(beginning):
            return False
        return await self._response.pour(take)

    async def aclose(self) -> None:
        await self._response.aclose()


MENDED = (Surface.CHAT, Surface.EMBEDDINGS)
"""What may be changed of a plain reply, for a client's sake."""
AGGREGATED, UNWRAPPED = "stream=aggregate", "unwrap=data"
"""What `x-gatepass-adapted` calls a reply made of a stream, and an answer out of its envelope."""


async def hold(case: Case, beginning: bytes = b"") -> Whole:
    """The reply held whole, of which `beginning` was read already. Raises the error that it really is."""
    body = await whole(case.attempt, case.response, case.gate.config.limits.reply_bytes, beginning)
    case.attempt.keep_reply(body)
    surface = case.call.operation.surface
    is_plain_chat = surface is Surface.CHAT and case.hop.shaping.is_plain
    may_be_good = is_plain_chat and (len(body) <= BUILT_BYTES or not case.call.stream)  # a stream is made in slices
    if may_be_good and (good := read_good(body)) is not None:  # no need to judge and to mend it
        if len(body) > SLICE_BYTES:
            await asyncio.sleep(0)
        return _profiled(case, Whole(case.response.status, case.headers(), body, usage=good.usage))
    most_bytes = BUILT_BYTES if surface is Surface.CHAT else ONE_PASS_BYTES
    if surface is not Surface.EMBEDDINGS and len(body) > most_bytes and form.start_of(body)[:1] == b"{":
        body = await _scanned(body)
    if len(body) > MOST_VALUES and type(body) is not ScannedBody:  # a value takes a byte at least
        await _bound_values(case, body)
    if _is_stream(case, body):
        assembly = _assembly(case)
        await _fed(assembly, body)
        return _aggregated(case, assembly)
    await _turn(body)
    if surface is Surface.EMBEDDINGS and is_right(body, case.call.wishes()):
        return _mended(case, Whole(case.response.status, case.headers(), body, is_right=True))
    adapted: tuple[str, ...] = ()
    if surface is Surface.CHAT and not is_plain_chat:
        body, adapted = case.hop.shaping.document(body, case.origin())
    await _turn(body)
    reply = heard(case.attempt, case.response, body)
    judged = case.hop.dialect.judge_document(reply, surface)
    if isinstance(judged, GatepassError):
        case.attempt.add_changes(adapted)
        raise judged
    if judged is not body:
        adapted = (*adapted, UNWRAPPED)
    await _turn(body)
    return _mended(case, Whole(case.response.status, case.headers(), judged, adapted))


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


async def _bound_values(case: Case, body: bytes) -> None:
    """Raise UpstreamInvalid if `body` has more values than can be read in one piece. Signs in its texts count too."""
    values = 0
    for at in range(0, len(body), SLICE_BYTES):
        part = body[at : at + SLICE_BYTES]
        values += part.count(b",") + occurrences(part, b"[{", MOST_VALUES)
        if values > MOST_VALUES:
            raise UpstreamInvalid(
                f"The upstream's reply is invalid: it has more than {MOST_VALUES} values.", upstream=case.hop.name
            )
        await asyncio.sleep(0)


async def _turn(body: bytes) -> None:
    """Let the event loop run between two passes over a large reply."""
    if len(body) > SLICE_BYTES:
        await asyncio.sleep(0)


async def gather(case: Case) -> Whole:
    """One reply out of a stream, read as far as it says something. A document that is only labelled so is held."""
    opening, assembly = Opening(b"text/event-stream"), _assembly(case)
    try:
        async for piece in case.response:
            if opening.kind is Kind.UNDECIDED and opening.feed(piece) is Kind.UNDECIDED:
                continue
            if opening.kind is not Kind.STREAM:
                return await hold(case, opening.held)
            opening.held, run = b"", opening.held or piece
            case.attempt.keep_reply(run)
            if not await _fed(assembly, run):
                break
            if (holding := case.attempt.holding) is not None:
                holding.add(len(run))
                await holding.room()
    except TransportFault as fault:
        raise broken(case.attempt, fault) from fault
    await _fed(assembly, opening.held)
    reply = _aggregated(case, assembly)
    await let_go(case.response, case.gate.live.tasks, case.gate.clock)
    return reply


def says_stream(case: Case) -> bool:
    """Whether the head calls the body a stream of events."""
    headers = case.response.headers
    for name, kind in headers:
        if name == b"content-type":
            return kind != b"application/json" and form.content_type(headers) == "text/event-stream"
    return False


def _mended(case: Case, reply: Whole) -> Whole:
    """`reply` as clients read it, and as the profile of this one wants it."""
    if case.call.operation.surface not in MENDED:
        return reply
    if case.is_chat:
        body, adapted = mended_whole(reply.body, case.origin)
        reply = _changed(reply, body, adapted) if adapted else reply
        reply = replace(reply, is_empty=True) if is_empty_answer(body) else reply
    return _profiled(case, reply)


def _profiled(case: Case, reply: Whole) -> Whole:
    body, adapted = mended_reply(reply.body, case.profile, case.call.model)
    return _changed(reply, body, adapted) if adapted else reply


def _changed(reply: Whole, body: bytes, adapted: tuple[str, ...]) -> Whole:
    return replace(reply, body=body, adapted=tuple(dict.fromkeys((*reply.adapted, *adapted))), usage=None)


def _is_stream(case: Case, body: bytes) -> bool:
    return case.may_stream and body[:1] != b"{" and form.is_event_stream(case.response.headers, body)


def _assembly(case: Case) -> Assembly:
    hop, origin, limits = case.hop, case.origin(), case.gate.config.limits
    if case.is_response:
        return Assembly(hop.name, ResponseAggregator(hop.name, limits.reply_bytes, case.reader()), limits.event_bytes)
    shaper = hop.shaping.stream(origin, wants_usage=True)
    shapers = [] if shaper is None else [shaper]
    if hop.settings.repair.cumulative:  # the rest of what a repair mends is no matter to an aggregator
        shapers.append(Repair(Wishes(None, "keep", cumulative=True), origin))
    aggregator = Aggregator(hop.name, limits.reply_bytes, case.reader(), origin, choices=case.call.choices)
    return Assembly(hop.name, aggregator, limits.event_bytes, shapers)


TURN_BYTES = 4 * 1024
"""As much of a stream is aggregated before the event loop runs: it may be blank lines, which take up to 6 µs each."""


async def _fed(assembly: Assembly, run: bytes) -> bool:
    """Feed `run` in pieces, between which the event loop runs. Return whether more is wanted."""
    wants_more = True
    for at in range(0, len(run), TURN_BYTES):
        if at:
            await asyncio.sleep(0)
        wants_more = assembly.feed(run[at : at + TURN_BYTES])
        if not wants_more:
            break
    return wants_more


def _aggregated(case: Case, assembly: Assembly) -> Whole:
    try:
        body = assembly.finish()
    except GatepassError:
        case.attempt.add_changes(assembly.adapted)
        raise
    headers = tuple(field for field in case.headers() if field[0] != b"content-type")
    headers = (*headers, (b"content-type", b"application/json"))
    return _mended(case, Whole(case.response.status, headers, body, (AGGREGATED,)))


SYNTHESISED = "stream=synth"
"""What `x-gatepass-adapted` calls a stream made of a whole reply."""
HOLD_S = 5.0
HELD_BYTES = 4096
"""So long, and so much of them, an upstream's comments wait for the first event: the answer may yet be an error."""


async def begin(case: Case) -> Answer:
    """Read until it is plain what came, and a stream until its first events can be written."""
    opening = Opening(header(case.response.headers, b"content-type"))
    events = _event_stream(case)
    pieces: list[bytes] = []
    held, held_until_s = b"", case.gate.clock.now() + HOLD_S
    try:
        async for piece in case.response:
            if opening.kind is Kind.UNDECIDED:
                pieces.append(piece)
                if opening.feed(piece) is Kind.UNDECIDED:
                    continue
                piece = b"".join(pieces)
            if opening.kind is not Kind.STREAM:
                return await _made(case, await hold(case, piece))
            held += _judged(case, piece, events.feed(piece), events)
            while events.waiting and (not held or _may_wait(held, held_until_s - case.gate.clock.now())):
                await asyncio.sleep(0)
                held += _judged(case, piece, events.feed(), events)
            is_over = events.done or events.failure is not None
            if is_over or (held and not _may_wait(held, held_until_s - case.gate.clock.now())):
                return Begun(case.hop, case.response, events, held)
    except TransportFault as fault:
        raise broken(case.attempt, fault) from fault
    if opening.kind is not Kind.STREAM:
        return await _made(case, await hold(case, b"".join(pieces)))
    held += _judged(case, b"", events.finish(), events)
    return Begun(case.hop, case.response, events, held, whole=True)


def _may_wait(held: bytes, left_s: float) -> bool:
    """Whether there is nothing in it but some comments, such as OpenRouter's `: OPENROUTER PROCESSING`, and they are
    not too old to be held."""
    if not held.startswith((b":", b"\n", b"\r")):  # nearly always
        return False
    is_short = len(held) <= HELD_BYTES and left_s > 0
    return is_short and all(not line or line.startswith(b":") for line in held.splitlines())


async def _made(case: Case, reply: Whole) -> Answer:
    if case.call.operation.surface is Surface.RAW:
        return reply
    events = await apart(reply.body, partial(_synthesised, case, reply.body))
    adapted = reply.adapted
    if case.is_chat and (after := after_of(case.profile)) is not None:
        events, adapted = after.feed(events), (*adapted, *after.adapted)
    headers = tuple(field for field in reply.headers if field[0] != b"content-type")
    return Made(headers, events, reply.body, (SYNTHESISED, *adapted), reply.is_empty)


def _synthesised(case: Case, body: bytes) -> bytes:
    try:
        if case.is_chat and isinstance(body, ScannedBody):
            return b"".join(_events(case, read_around_large(body)))
        return b"".join(_events(case, read_json(body)))
    except Unfinished:
        unfinished = "The upstream answered with a response that is not finished and has no output."
        raise UpstreamInvalid(unfinished, upstream=case.hop.name) from None
    except ValueError:  # UTF-8 that is none, a number of thousands of digits: a judge does not read so closely
        raise UpstreamInvalid("The upstream answered with JSON that cannot be read.", upstream=case.hop.name) from None


def _events(case: Case, document: Any) -> Iterable[bytes]:
    if case.is_response:
        return synthesise_response(document, case.origin())
    return synthesise(document, _usage_wish(case, usage_wish(case.call.body))[0] is not False, case.origin())


def _event_stream(case: Case) -> EventStream:
    if not case.is_chat:
        return _stream_of_others(case)
    origin, asked = case.origin(), usage_wish(case.call.body)
    wish, drops_usage = _usage_wish(case, asked)
    return EventStream(
        case.hop.name,
        case.gate.config.limits.event_bytes,
        case.reader(),
        choices=case.call.choices,
        before=case.hop.shaping.stream(origin, wants_usage=bool(asked)),
        repair=Repair(_wishes(case, wish, drops_usage=drops_usage), origin),
        after=after_of(case.profile),
    )


def _stream_of_others(case: Case) -> EventStream:
    """Of a response, or of what passes through."""
    is_response = case.call.operation.name == Surface.RESPONSES  # or one that was kept
    return EventStream(
        case.hop.name,
        case.gate.config.limits.event_bytes,
        case.reader(),
        done_is_required=False,
        last_types=LAST_EVENTS if is_response else frozenset(),
        after=after_of(case.profile, is_chat=False),
    )


def _usage_wish(case: Case, asked: bool | None) -> tuple[bool | None, bool]:
    """What the client's stream is to have of usage: as `Wishes.include_usage`, and `Wishes.drops_usage`.

    `asked`: as `usage_wish` reads it.
    """
    if asked is not False or not case.profile.places_usage:
        return asked, False
    place = place_for_ragflow(case.call.body)
    return place == "alone", place == "drop"


def _wishes(case: Case, include_usage: bool | None, *, drops_usage: bool) -> Wishes:
    wanted, profile = case.hop.settings.repair, case.profile
    return Wishes(
        include_usage,
        wanted.without_choices if profile.without_choices == "move" else profile.without_choices,
        profile.splits_finish,
        wanted.cumulative,
        wanted.one_id,
        drops_usage,
    )


def _judged(case: Case, piece: bytes, ready: bytes, events: EventStream) -> bytes:
    """`ready`, unless the stream failed before any event of an answer: the client still gets its true status."""
    case.attempt.keep_reply(piece if events.failure is not None else b"")
    if events.failure is not None and not events.has_answered:
        case.attempt.add_changes(events.adapted)
        raise events.failure
    return ready
