"""A stream was asked for: judged by its beginning, before a byte of it reaches the client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gatepass.attempt import broken
from gatepass.call import Surface, header
from gatepass.errors import TransportFault, UpstreamInvalid
from gatepass.relay.client_transforms import after_of
from gatepass.relay.event import read_json
from gatepass.relay.opening import Kind, Opening
from gatepass.relay.repair.choices import Wishes
from gatepass.relay.repair.repair import Repair
from gatepass.relay.responses.aggregator import LAST_EVENTS
from gatepass.relay.responses.synthesis import Unfinished, synthesise_response
from gatepass.relay.stream import EventStream
from gatepass.relay.synthesis import synthesise
from gatepass.relay.usage import usage_wish
from gatepass.verdict.answer import Answer, Begun, Made, Whole
from gatepass.verdict.case import Case
from gatepass.verdict.holding import hold

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
                return _made(case, await hold(case, piece))
            held += _judged(case, piece, events.feed(piece), events)
            is_over = events.done or events.failure is not None
            if is_over or (held and not _may_wait(held, held_until_s - case.gate.clock.now())):
                return Begun(case.hop, case.response, events, held)
    except TransportFault as fault:
        raise broken(case.attempt, fault) from fault
    if opening.kind is not Kind.STREAM:
        return _made(case, await hold(case, b"".join(pieces)))
    held += _judged(case, b"", events.finish(), events)
    return Begun(case.hop, case.response, events, held, whole=True)


def _may_wait(held: bytes, left_s: float) -> bool:
    """Whether there is nothing in it but some comments, such as OpenRouter's `: OPENROUTER PROCESSING`, and they are
    not too old to be held."""
    is_comment = all(not line or line.startswith(b":") for line in held.splitlines())
    return is_comment and len(held) <= HELD_BYTES and left_s > 0


def _made(case: Case, reply: Whole) -> Answer:
    if case.call.operation.surface is Surface.RAW:
        return reply
    events, adapted = _synthesised(case, reply.body), reply.adapted
    if case.is_chat and (after := after_of(case.profile)) is not None:
        events, adapted = after.feed(events), (*adapted, *after.adapted)
    headers = tuple(field for field in reply.headers if field[0] != b"content-type")
    return Made(headers, events, reply.body, (SYNTHESISED, *adapted))


def _synthesised(case: Case, body: bytes) -> bytes:
    try:
        return b"".join(_events(case, read_json(body)))
    except Unfinished:
        unfinished = "The upstream answered with a response that is not finished and has no output."
        raise UpstreamInvalid(unfinished, upstream=case.hop.name) from None
    except ValueError:  # UTF-8 that is none, a number of thousands of digits: a judge does not read so closely
        raise UpstreamInvalid("The upstream answered with JSON that cannot be read.", upstream=case.hop.name) from None


def _events(case: Case, document: Any) -> Iterable[bytes]:
    if case.is_response:
        return synthesise_response(document, case.origin())
    return synthesise(document, usage_wish(case.call.body) is not False, case.origin())


def _event_stream(case: Case) -> EventStream:
    if not case.is_chat:
        return _stream_of_others(case)
    origin, wish = case.origin(), usage_wish(case.call.body)
    return EventStream(
        case.hop.name,
        case.gate.config.limits.event_bytes,
        case.reader(),
        choices=case.call.choices,
        before=case.hop.shaping.stream(origin, wants_usage=bool(wish)),
        repair=Repair(_wishes(case, wish), origin),
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


def _wishes(case: Case, include_usage: bool | None) -> Wishes:
    wanted, profile = case.hop.settings.repair, case.profile
    return Wishes(
        include_usage,
        wanted.without_choices if profile.without_choices == "move" else profile.without_choices,
        profile.splits_finish,
        wanted.cumulative,
        wanted.one_id,
    )


def _judged(case: Case, piece: bytes, ready: bytes, events: EventStream) -> bytes:
    """`ready`, unless the stream failed before any event of an answer: the client still gets its true status."""
    case.attempt.keep_reply(piece if events.failure is not None else b"")
    if events.failure is not None and not events.has_answered:
        case.attempt.add_changes(events.adapted)
        raise events.failure
    return ready
