"""One reply was asked for: held whole, or put together out of a stream."""

from __future__ import annotations

from msgspec.structs import replace

from gatepass.adapt.embeddings_reply import is_right
from gatepass.attempt import broken, heard, whole
from gatepass.call import Surface
from gatepass.errors import GatepassError, TransportFault
from gatepass.relay.aggregation.aggregator import Aggregator, Assembly
from gatepass.relay.client_transforms import mended_reply
from gatepass.relay.opening import Kind, Opening
from gatepass.relay.repair.choices import Wishes
from gatepass.relay.repair.repair import Repair
from gatepass.relay.responses.aggregator import ResponseAggregator
from gatepass.relay.whole.mending import mended_whole
from gatepass.relay.whole.strict import read_good
from gatepass.upstream import form
from gatepass.verdict.answer import Whole
from gatepass.verdict.case import Case
from gatepass.verdict.tail import let_go

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
    if is_plain_chat and (good := read_good(body)) is not None:  # no need to judge and to mend it
        return _profiled(case, Whole(case.response.status, case.headers(), body, usage=good.usage))
    if _is_stream(case, body):
        assembly = _assembly(case)
        assembly.feed(body)
        return _aggregated(case, assembly)
    if surface is Surface.EMBEDDINGS and is_right(body, case.call.wishes()):
        return _mended(case, Whole(case.response.status, case.headers(), body, is_right=True))
    adapted: tuple[str, ...] = ()
    if surface is Surface.CHAT and not is_plain_chat:
        body, adapted = case.hop.shaping.document(body, case.origin())
    reply = heard(case.attempt, case.response, body)
    judged = case.hop.dialect.judge_document(reply, surface)
    if isinstance(judged, GatepassError):
        case.attempt.add_changes(adapted)
        raise judged
    if judged is not body:
        adapted = (*adapted, UNWRAPPED)
    return _mended(case, Whole(case.response.status, case.headers(), judged, adapted))


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
            if not assembly.feed(run):
                break
    except TransportFault as fault:
        raise broken(case.attempt, fault) from fault
    assembly.feed(opening.held)
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


def _aggregated(case: Case, assembly: Assembly) -> Whole:
    try:
        body = assembly.finish()
    except GatepassError:
        case.attempt.add_changes(assembly.adapted)
        raise
    headers = tuple(field for field in case.headers() if field[0] != b"content-type")
    headers = (*headers, (b"content-type", b"application/json"))
    return _mended(case, Whole(case.response.status, headers, body, (AGGREGATED,)))
