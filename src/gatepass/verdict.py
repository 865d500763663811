"""judge: what an upstream's reply really is, before a byte of it reaches the client."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from gatepass.attempt import broken, refused, whole
from gatepass.call import Call, Headers, Response, header
from gatepass.errors import TransportFault, UpstreamError
from gatepass.gate import Gate, Hop
from gatepass.observe.exchange import Exchange
from gatepass.relay.opening import Kind, Opening
from gatepass.relay.stream import EventStream
from gatepass.upstream.rejection import named

LOWEST_ERROR = 400


@dataclass(frozen=True, slots=True)
class Whole:
    """A plain reply, held whole and judged."""

    status: int
    headers: Headers
    body: bytes


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


async def judge(gate: Gate, call: Call, hop: Hop, response: Response, exchange: Exchange) -> Whole | Begun:
    """Turn a reply into what may be relayed; raises the error that it really is, and closes it then."""
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

    async def decide(self) -> Whole | Begun:
        hop, response = self.hop, self.response
        error = hop.dialect.judge_head(hop.name, response.status, response.headers, host=hop.host)
        if error is None and response.status >= LOWEST_ERROR:
            error = await refused(self.gate, hop, response, self.exchange)
        if error is not None:
            raise error
        return await (self._begin() if self.call.stream else self._hold())

    async def _hold(self, beginning: bytes = b"") -> Whole:
        hop, response = self.hop, self.response
        body = await whole(self.gate, hop, response, self.gate.config.limits.reply_bytes, beginning)
        self.exchange.keep_body("reply", body)
        error = hop.dialect.judge_document(
            hop.name,
            self.call.operation.surface,
            self.call.stream,
            response.status,
            response.headers,
            body,
            host=hop.host,
            wall_s=self.gate.clock.wall(),
            mask=self.gate.redactor.mask,
        )
        if error is not None:
            raise error
        return Whole(response.status, tuple(hop.dialect.relay_headers(response.headers)), body)

    async def _begin(self) -> Whole | Begun:
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
                    return await self._hold(piece)
                if ready := self._judged(piece, events.feed(piece), events):
                    return Begun(self.hop, self.response, events, ready)
        except TransportFault as fault:
            raise broken(self.gate, self.hop, fault) from fault
        if opening.kind is not Kind.STREAM:
            return await self._hold(b"".join(pieces))
        return Begun(self.hop, self.response, events, self._judged(b"", events.finish(), events), whole=True)

    def _event_stream(self) -> EventStream:
        read_error = partial(self.hop.dialect.read_complaint, mask=self.gate.redactor.mask)
        limit_bytes = self.gate.config.limits.event_bytes
        return EventStream(self.hop.name, limit_bytes, read_error, choices=self.call.choices)

    def _judged(self, piece: bytes, ready: bytes, events: EventStream) -> bytes:
        """`ready`, unless the stream failed before any event of an answer: the client still gets its true status."""
        self.exchange.keep_body("reply", piece if events.failure is not None else b"")
        if events.failure is not None and not events.has_answered:
            raise events.failure
        return ready
