"""judge: what an upstream's reply really is, before a byte of it reaches the client."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from gatepass.attempt import broken, refused, whole
from gatepass.call import Call, Complaint, Headers, Response, Surface, header
from gatepass.errors import GatepassError, TransportFault, UpstreamError
from gatepass.gate import Gate, Hop
from gatepass.observe.exchange import Exchange
from gatepass.relay.aggregation.aggregator import Aggregator
from gatepass.relay.chunk import Origin
from gatepass.relay.event import read_json
from gatepass.relay.opening import Kind, Opening
from gatepass.relay.repair.repair import Repair
from gatepass.relay.repair.wishes import Wishes
from gatepass.relay.shaper import Shaper
from gatepass.relay.stream import EventStream
from gatepass.relay.synthesis import synthesise
from gatepass.relay.wish import usage_wish
from gatepass.upstream import form
from gatepass.upstream.rejection import named

LOWEST_ERROR = 400
SYNTHESISED, AGGREGATED, UNWRAPPED = "stream=synth", "stream=aggregate", "unwrap=data"
"""What `x-gatepass-adapted` calls a stream made of a whole reply, the reverse, and an answer out of its envelope."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A plain reply, held whole and judged; `adapted` names what was done to it."""

    status: int
    headers: Headers
    body: bytes
    adapted: tuple[str, ...] = ()


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


Answer = Whole | Made | Begun


async def judge(gate: Gate, call: Call, hop: Hop, response: Response, exchange: Exchange) -> Answer:
    """Turn a reply into what the client's own `call` asked for; raises the error that it really is, and closes it then.

    A stream where none was asked for becomes one reply, a whole reply where a stream was becomes a stream.
    """
    case = _Case(gate, call, hop, response, exchange)
    try:
        return await case.decide()
    except UpstreamError as error:
        await response.aclose()
        raise named(error, hop.settings.rejection) from error.__cause__
    except BaseException:
        await response.aclose()
        raise


@dataclass(frozen=True, slots=True)
class _Case:
    """One reply before its judge."""

    gate: Gate
    call: Call
    hop: Hop
    response: Response
    exchange: Exchange

    async def decide(self) -> Answer:
        hop, response = self.hop, self.response
        error = hop.dialect.judge_head(hop.name, response.status, response.headers, host=hop.host)
        if error is None and response.status >= LOWEST_ERROR:
            error = await refused(self.gate, hop, response, self.exchange)
        if error is not None:
            raise error
        return await (self._begin() if self.call.stream and self._is_chat else self._hold())

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

    def _made(self, reply: Whole) -> Made:
        wants_usage = usage_wish(self.call.body) is not False
        events = b"".join(synthesise(read_json(reply.body), wants_usage, self._origin()))
        headers = tuple(field for field in reply.headers if field[0] != b"content-type")
        return Made(headers, events, reply.body, (SYNTHESISED, *reply.adapted))

    def _event_stream(self) -> EventStream:
        origin, wish = self._origin(), usage_wish(self.call.body)
        return EventStream(
            self.hop.name,
            self.gate.config.limits.event_bytes,
            self._reader(),
            choices=self.call.choices,
            before=self.hop.shaping.stream(origin, wants_usage=bool(wish)),
            repair=Repair(Wishes(include_usage=wish), origin),
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
            return self._aggregated(body)
        body, adapted = self.hop.shaping.document(body, self._origin()) if self._is_chat else (body, ())
        judged = self._judged_document(body)
        if isinstance(judged, GatepassError):
            raise judged
        if judged is not body:
            adapted = (*adapted, UNWRAPPED)
        return Whole(self.response.status, self._headers(), judged, adapted)

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

    def _aggregated(self, body: bytes) -> Whole:
        origin = self._origin()
        limit_bytes = self.gate.config.limits.reply_bytes
        aggregator = Aggregator(self.hop.name, limit_bytes, self._reader(), origin, choices=self.call.choices)
        aggregator.feed(_shaped(self.hop.shaping.stream(origin, wants_usage=True), body + b"\n\n"))
        headers = tuple(field for field in self._headers() if field[0] != b"content-type")
        return Whole(
            self.response.status, (*headers, (b"content-type", b"application/json")), aggregator.finish(), (AGGREGATED,)
        )

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


def _shaped(shaper: Shaper | None, run: bytes) -> bytes:
    return run if shaper is None else shaper.feed(run) + shaper.finish()
