"""One attempt at one target, again for as long as its refusals teach."""

from __future__ import annotations

from gatepass.adapt.chain import adapt
from gatepass.adapt.changes.streams import STREAMED
from gatepass.attempt import accepted, renew, send
from gatepass.call import Call, Request, Surface, Target, header
from gatepass.errors import UpstreamError
from gatepass.gate import Hop
from gatepass.heartbeat import COMMENT, HOLD_S, STREAM_HOLD_S
from gatepass.lessons import Pupil
from gatepass.observe.exchange import Exchange
from gatepass.parts import embedded
from gatepass.ranking import ranked, rules_at
from gatepass.relay.chunk import Origin
from gatepass.relay.profiled import empty_delta
from gatepass.upstream.raw import passed_on
from gatepass.verdict import Answer, Begun, judge
from gatepass.visit import Visit


async def try_at(visit: Visit, call: Call, target: Target) -> Answer:
    """adapt ─► encode ─► authorize ─► send ─► judge, at one target; again for as long as a refusal teaches."""
    gate, exchange = visit.gate, visit.exchange
    hop = gate.hops[target.upstream]
    exchange.upstream, exchange.upstream_model = hop.name, target.model
    base = adapt(call, target, rules_at(gate, hop, call, target, visit.profile))
    if not call.body:
        answer = await _asked(visit, call, adapt(base, target, hop.dialect.rules), hop, target)
        if isinstance(answer, Begun):
            _keep_alive(visit, call, STREAM_HOLD_S)
        accepted(hop, exchange)
        return answer
    with Pupil(gate, hop, target, base, exchange) as pupil:
        await pupil.my_turn()
        while True:
            adapted = adapt(pupil.plan(), target, hop.dialect.rules)
            exchange.adapted = adapted.adapted
            if call.stream and call.operation.surface in STREAMED:
                _keep_alive(visit, call, STREAM_HOLD_S if adapted.stream else HOLD_S)
            try:
                answer = await _asked(visit, call, adapted, hop, target)
            except UpstreamError as error:
                if pupil.taught(error):
                    continue
                raise pupil.given_up(adapted, error) from error.__cause__
            pupil.succeeded()
            accepted(hop, exchange)
            return answer


def _keep_alive(visit: Visit, call: Call, hold_s: float) -> None:
    """Signs of life for a client that waits for a stream, in the form that it reads, if there is one."""
    form = visit.profile.settings.keep_alive
    if form == "empty-delta" and call.operation.surface is Surface.CHAT:
        origin = Origin(lambda prefix: f"{prefix}{call.id}", int(visit.gate.clock.wall()), call.model)
        visit.heartbeat.start(empty_delta(origin, is_text=call.operation.name == "completions"), hold_s)
    elif form == "comment":
        visit.heartbeat.start(COMMENT, hold_s)


async def _asked(visit: Visit, call: Call, adapted: Call, hop: Hop, target: Target) -> Answer:
    """The judged answer to `adapted`, which is what `hop` is sent for the client's own `call`."""
    surface = call.operation.surface
    if surface is Surface.RERANK:
        request = _encoded(adapted, hop, target)
        return await ranked(call, hop.name, lambda: _ask(visit, call, hop, request, visit.exchange))
    if surface is Surface.RAW:
        upload = None if visit.form is None else visit.form.as_model(target.model)
        request = passed_on(_encoded(adapted, hop, target), call.headers, visit.inbound.query, upload)
        return await _ask(visit, call, hop, request, visit.exchange)
    if surface is not Surface.EMBEDDINGS:
        return await _ask(visit, call, hop, _encoded(adapted, hop, target), visit.exchange)

    async def ask(part: Call, exchange: Exchange) -> Answer:
        return await _ask(visit, call, hop, _encoded(part, hop, target), exchange)

    return await embedded(call, adapted, hop.name, visit.exchange, ask)


def _encoded(call: Call, hop: Hop, target: Target) -> Request:
    settings, timeouts = hop.settings, target.timeouts or hop.timeouts
    return hop.dialect.encode(call, target, settings.base_url, timeouts, settings.forward_headers)


async def _ask(visit: Visit, call: Call, hop: Hop, request: Request, exchange: Exchange) -> Answer:
    """A judged answer; where it turned out to be a rejection of the token, the next one, to a new token."""
    gate = visit.gate
    try:
        response = await send(gate, hop, request, exchange)
        said_id = header(response.headers, b"x-request-id")
        exchange.upstream_request_id = said_id.decode("latin-1")[:100] if said_id is not None else None
        return await judge(gate, call, hop, response, exchange, visit.profile.settings)
    except UpstreamError as error:
        await renew(gate, hop, error, exchange, request)
    return await _ask(visit, call, hop, request, exchange)
