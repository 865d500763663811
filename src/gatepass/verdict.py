"""judge: what an upstream's reply really is, before a byte of it reaches the client."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from gatepass.attempt import refused, whole
from gatepass.call import Call, Headers, Response, header
from gatepass.errors import GatepassError, TransportFault
from gatepass.gate import Gate, Hop
from gatepass.relay.opening import Kind, Opening
from gatepass.relay.stream import EventStream
from gatepass.upstream.fault import upstream_error

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


async def judge(gate: Gate, call: Call, hop: Hop, response: Response) -> Whole | Begun:
    """Turn a reply into what may be relayed; raises the error that it really is, and closes it then."""
    try:
        return await _judged(gate, call, hop, response)
    except BaseException:
        await response.aclose()
        raise


async def _judged(gate: Gate, call: Call, hop: Hop, response: Response) -> Whole | Begun:
    error = hop.dialect.judge_head(hop.name, response.status, response.headers, host=hop.host)
    if error is None and response.status >= LOWEST_ERROR:
        error = await refused(gate, hop, response)
    if error is not None:
        raise error
    if call.stream:
        return await _begin(gate, call, hop, response)
    return await _hold(gate, call, hop, response, b"")


async def _hold(gate: Gate, call: Call, hop: Hop, response: Response, beginning: bytes) -> Whole:
    body = await whole(hop, response, gate.config.limits.reply_bytes, beginning)
    error = hop.dialect.judge_document(
        hop.name,
        call.operation.surface,
        call.stream,
        response.status,
        response.headers,
        body,
        host=hop.host,
        wall_s=gate.clock.wall(),
        mask=gate.redactor.mask,
    )
    if error is not None:
        raise error
    return Whole(response.status, tuple(hop.dialect.relay_headers(response.headers)), body)


async def _begin(gate: Gate, call: Call, hop: Hop, response: Response) -> Whole | Begun:
    """Read until it is plain what came, and a stream until its first events can be written."""
    opening = Opening(header(response.headers, b"content-type"))
    read_error = partial(hop.dialect.read_complaint, mask=gate.redactor.mask)
    events = EventStream(hop.name, gate.config.limits.event_bytes, read_error, choices=call.choices)
    pieces: list[bytes] = []
    try:
        async for piece in response:
            if opening.kind is Kind.UNDECIDED:
                pieces.append(piece)
                if opening.feed(piece) is Kind.UNDECIDED:
                    continue
                piece = b"".join(pieces)
            if opening.kind is not Kind.STREAM:
                return await _hold(gate, call, hop, response, piece)
            ready = events.feed(piece)
            if (failure := _failed_at_once(events)) is not None:
                raise failure
            if ready:
                return Begun(hop, response, events, ready)
    except TransportFault as fault:
        raise upstream_error(fault, hop.name, hop.settings.base_url) from fault
    if opening.kind is not Kind.STREAM:
        return await _hold(gate, call, hop, response, b"".join(pieces))
    ready = events.finish()
    if (failure := _failed_at_once(events)) is not None:
        raise failure
    return Begun(hop, response, events, ready, whole=True)


def _failed_at_once(events: EventStream) -> GatepassError | None:
    """A failure before any event of the answer: the client can still get its true status."""
    return events.failure if not events.has_answered else None
