"""judge: what an upstream's reply really is, before a byte of it reaches the client."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from gatepass.adapt.embeddings import Asked, is_right
from gatepass.attempt import broken, refused, whole
from gatepass.call import Call, Complaint, Headers, Response, Surface, header
from gatepass.config.profiles import PLAIN, Profile
from gatepass.errors import GatepassError, TransportFault, UpstreamError, UpstreamInvalid
from gatepass.gate import Gate, Hop
from gatepass.observe.exchange import Exchange
from gatepass.relay.aggregation.aggregator import Aggregator
from gatepass.relay.aggregation.assembly import Assembly
from gatepass.relay.chunk import Origin
from gatepass.relay.event import read_json
from gatepass.relay.opening import Kind, Opening
from gatepass.relay.profiled import after_of, mended_reply
from gatepass.relay.repair.repair import Repair
from gatepass.relay.repair.wishes import Wishes
from gatepass.relay.stream import EventStream
from gatepass.relay.synthesis import synthesise
from gatepass.relay.wish import usage_wish
from gatepass.upstream import form
from gatepass.upstream.rejection import named

LOWEST_ERROR = 400
TAIL_S = 1.0
"""How long an upstream may take to end its body after `[DONE]`, so that its connection can be used again."""
MENDED = (Surface.CHAT, Surface.EMBEDDINGS)
"""What a client's profile may change of a plain reply."""
SYNTHESISED, AGGREGATED, UNWRAPPED = "stream=synth", "stream=aggregate", "unwrap=data"
"""What `x-gatepass-adapted` calls a stream made of a whole reply, the reverse, and an answer out of its envelope."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A plain reply, held whole and judged; `adapted` names what was done to it."""

    status: int
    headers: Headers
    body: bytes
    adapted: tuple[str, ...] = ()
    is_right: bool = False
    """Its vectors are all that the client's own call asked for, in order: nobody has to look again."""


@dataclass(frozen=True, slots=True)
class Made:
    """A stream made of a whole reply: all of its events, `[DONE]` with them; `body` is what they were made of."""

    headers: Headers
    events: bytes
    body: bytes
    adapted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Begun:
    """A stream whose first event was judged; the holder closes `response`.

    `ready` may be written now; `whole` says that the body has already ended.
    """

    hop: Hop
    response: Response
    events: EventStream
    ready: bytes
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Passed:
    """A reply of which only the head was judged; the holder closes `response`."""

    hop: Hop
    response: Response


Answer = Whole | Made | Begun | Passed


async def judge(
    gate: Gate, call: Call, hop: Hop, response: Response, exchange: Exchange, profile: Profile = PLAIN
) -> Answer:
    """Turn a reply into what the client's own `call` asked for; raises the error that it really is, and closes it then.

    A stream where none was asked for becomes one reply, a whole reply where a stream was becomes a stream.
    `profile` is what the client needs beyond that.
    """
    case = _Case(gate, call, hop, response, exchange, profile)
    try:
        return await case.decide()
    except UpstreamError as error:
        await response.aclose()
        raise named(error, hop.settings.rejection) from error.__cause__
    except BaseException:
        await response.aclose()
        raise


class _Case(msgspec.Struct, frozen=True):
    """One reply before its judge."""

    gate: Gate
    call: Call
    hop: Hop
    response: Response
    exchange: Exchange
    profile: Profile

    async def decide(self) -> Answer:
        hop, response = self.hop, self.response
        error = hop.dialect.judge_head(hop.name, response.status, response.headers, host=hop.host)
        if error is None and response.status >= LOWEST_ERROR:
            error = await refused(self.gate, hop, response, self.exchange)
        if error is not None:
            raise error
        if not self._is_chat:
            return await self._of_no_chat()
        return await (self._begin() if self.call.stream else self._gather() if self._says_stream else self._hold())

    # --- what passes through --------------------------------------------------------------------

    async def _of_no_chat(self) -> Answer:
        if self.call.operation.surface is Surface.RAW:
            return await self._pass()
        is_stream = self.call.stream and self.call.operation.surface is Surface.RESPONSES
        return await (self._begin() if is_stream else self._hold())

    async def _pass(self) -> Answer:
        """JSON is held and judged, a page is an error, events are watched; whatever else passes as it comes."""
        kind = form.content_type(self.response.headers)
        if self.call.operation.is_download and kind != "text/html":
            return Passed(self.hop, self.response)
        if kind in ("text/html", "") or kind.endswith("json"):
            return await self._hold()
        return await self._begin() if kind == "text/event-stream" else Passed(self.hop, self.response)

    # --- a stream was asked for ---------------------------------------------------------------

    async def _begin(self) -> Answer:
        """Read until it is plain what came, and a stream until its first events can be written."""
        opening = Opening(header(self.response.headers, b"content-type"))
        events = self._event_stream()
        pieces: list[bytes] = []
        try:
            async for piece in self.response:
                if opening.kind is Kind.UNDECIDED:
                    pieces.append(piece)
                    if opening.feed(piece) is Kind.UNDECIDED:
                        continue
                    piece = b"".join(pieces)
                if opening.kind is not Kind.STREAM:
                    return self._made(await self._hold(piece))
                if ready := self._judged(piece, events.feed(piece), events):
                    return Begun(self.hop, self.response, events, ready)
        except TransportFault as fault:
            raise broken(self.gate, self.hop, fault) from fault
        if opening.kind is not Kind.STREAM:
            return self._made(await self._hold(b"".join(pieces)))
        return Begun(self.hop, self.response, events, self._judged(b"", events.finish(), events), whole=True)

    def _made(self, reply: Whole) -> Answer:
        if self.call.operation.surface is Surface.RAW:
            return reply
        if not self._is_chat:
            raise UpstreamInvalid("The upstream answered whole where a stream was asked for.", upstream=self.hop.name)
        wants_usage = usage_wish(self.call.body) is not False
        events = b"".join(synthesise(read_json(reply.body), wants_usage, self._origin()))
        headers = tuple(field for field in reply.headers if field[0] != b"content-type")
        return Made(headers, events, reply.body, (SYNTHESISED, *reply.adapted))

    def _event_stream(self) -> EventStream:
        if not self._is_chat:
            limit_bytes = self.gate.config.limits.event_bytes
            return EventStream(self.hop.name, limit_bytes, self._reader(), done_is_required=False)
        origin, wish = self._origin(), usage_wish(self.call.body)
        return EventStream(
            self.hop.name,
            self.gate.config.limits.event_bytes,
            self._reader(),
            choices=self.call.choices,
            before=self.hop.shaping.stream(origin, wants_usage=bool(wish)),
            repair=Repair(self._wishes(wish), origin),
            after=after_of(self.profile),
        )

    def _wishes(self, include_usage: bool | None) -> Wishes:
        wanted, profile = self.hop.settings.repair, self.profile
        return Wishes(
            include_usage,
            wanted.without_choices if profile.without_choices == "move" else profile.without_choices,
            profile.splits_finish,
            wanted.cumulative,
            wanted.one_id,
        )

    def _judged(self, piece: bytes, ready: bytes, events: EventStream) -> bytes:
        """`ready`, unless the stream failed before any event of an answer: the client still gets its true status."""
        self.exchange.keep_body("reply", piece if events.failure is not None else b"")
        if events.failure is not None and not events.has_answered:
            raise events.failure
        return ready

    # --- one reply was asked for --------------------------------------------------------------

    async def _hold(self, beginning: bytes = b"") -> Whole:
        body = await whole(self.gate, self.hop, self.response, self.gate.config.limits.reply_bytes, beginning)
        self.exchange.keep_body("reply", body)
        if self._is_stream(body):
            assembly = self._assembly()
            assembly.feed(body)
            return self._aggregated(assembly)
        if self.call.operation.surface is Surface.EMBEDDINGS and is_right(body, Asked.of(self.call.body)):
            return self._mended(Whole(self.response.status, self._headers(), body, is_right=True))
        adapted: tuple[str, ...] = ()
        if self._is_chat and not self.hop.shaping.is_plain:
            body, adapted = self.hop.shaping.document(body, self._origin())
        judged = self._judged_document(body)
        if isinstance(judged, GatepassError):
            raise judged
        if judged is not body:
            adapted = (*adapted, UNWRAPPED)
        return self._mended(Whole(self.response.status, self._headers(), judged, adapted))

    def _mended(self, reply: Whole) -> Whole:
        """`reply` as the client's profile wants it."""
        if self.call.operation.surface not in MENDED:
            return reply
        body, more = mended_reply(reply.body, self.profile)
        return replace(reply, body=body, adapted=(*reply.adapted, *more)) if more else reply

    def _judged_document(self, body: bytes) -> bytes | GatepassError:
        hop, response = self.hop, self.response
        return hop.dialect.judge_document(
            hop.name,
            self.call.operation.surface,
            response.status,
            response.headers,
            body,
            host=hop.host,
            wall_s=self.gate.clock.wall(),
            mask=self.gate.redactor.mask,
        )

    def _is_stream(self, body: bytes) -> bool:
        return self._is_chat and body[:1] != b"{" and form.is_event_stream(self.response.headers, body)

    @property
    def _says_stream(self) -> bool:
        kind = header(self.response.headers, b"content-type")
        return kind != b"application/json" and form.content_type(self.response.headers) == "text/event-stream"

    async def _gather(self) -> Whole:
        """One reply out of a stream, read as far as it says something. A document that is only labelled so is held."""
        opening, assembly = Opening(b"text/event-stream"), self._assembly()
        try:
            async for piece in self.response:
                if opening.kind is Kind.UNDECIDED and opening.feed(piece) is Kind.UNDECIDED:
                    continue
                if opening.kind is not Kind.STREAM:
                    return await self._hold(opening.held)
                opening.held, run = b"", opening.held or piece
                self.exchange.keep_body("reply", run)
                if not assembly.feed(run):
                    await read_tail(self.response)
                    break
        except TransportFault as fault:
            raise broken(self.gate, self.hop, fault) from fault
        finally:
            await self.response.aclose()
        assembly.feed(opening.held)
        return self._aggregated(assembly)

    def _assembly(self) -> Assembly:
        hop, origin, limits = self.hop, self._origin(), self.gate.config.limits
        shaper = hop.shaping.stream(origin, wants_usage=True)
        shapers = [] if shaper is None else [shaper]
        if hop.settings.repair.cumulative:  # the rest of what a repair mends is no matter to an aggregator
            shapers.append(Repair(Wishes(None, "keep", cumulative=True), origin))
        aggregator = Aggregator(hop.name, limits.reply_bytes, self._reader(), origin, choices=self.call.choices)
        return Assembly(hop.name, aggregator, limits.event_bytes, shapers)

    def _aggregated(self, assembly: Assembly) -> Whole:
        body = assembly.finish()
        headers = tuple(field for field in self._headers() if field[0] != b"content-type")
        headers = (*headers, (b"content-type", b"application/json"))
        return self._mended(Whole(self.response.status, headers, body, (AGGREGATED,)))

    # --- what both need -----------------------------------------------------------------------

    @property
    def _is_chat(self) -> bool:
        return self.call.operation.surface is Surface.CHAT

    def _headers(self) -> Headers:
        return tuple(self.hop.dialect.relay_headers(self.response.headers))

    def _reader(self) -> partial[Complaint | None]:
        return partial(self.hop.dialect.read_complaint, mask=self.gate.redactor.mask)

    def _origin(self) -> Origin:
        return Origin(lambda prefix: f"{prefix}{self.call.id}", int(self.gate.clock.wall()), self.call.model)


async def read_tail(response: Response) -> None:
    """Nothing but the body's own end is expected after `[DONE]`; a connection read to it can be used again."""
    try:
        async with asyncio.timeout(TAIL_S):
            async for _ in response:
                pass
    except (TimeoutError, TransportFault):
        return  # then it is closed instead
