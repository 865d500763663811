"""One attempt at one target, again for as long as its refusals teach."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

from gatepass.adapt.chain import adapt
from gatepass.adapt.changes.streams import STREAMED
from gatepass.adapt.profile import Prepared
from gatepass.attempt import accepted, renew, send
from gatepass.call import Call, Complaint, Request, Surface, Target, header
from gatepass.errors import UpstreamError, UpstreamRefusal
from gatepass.gate import Gate, Hop
from gatepass.heartbeat import HOLD_S, STREAM_HOLD_S, Heartbeat
from gatepass.lessons import Pupil
from gatepass.observe.exchange import Exchange
from gatepass.parts import embedded
from gatepass.ranking import ranked, rules_at
from gatepass.relay.sign import sign_of
from gatepass.upload import Form, Outgoing
from gatepass.upstream.hints import of_model, sentence
from gatepass.upstream.raw import passed_on
from gatepass.verdict import Answer, Begun, judge


async def try_at(
    gate: Gate,
    call: Call,
    target: Target,
    exchange: Exchange,
    profile: Prepared,
    heartbeat: Heartbeat | None = None,
    form: Form | None = None,
) -> Answer:
    """adapt ─► encode ─► authorize ─► send ─► judge, at one target; again for as long as a refusal teaches.

    `call` is that of a client of `profile`; where one waits for it, `heartbeat` tells him that it is still under way.
    `form` is the body of a call that is a form. Raises what the answer really is, in the end.
    """
    hop = gate.hops[target.upstream]
    exchange.upstream, exchange.upstream_model = hop.name, target.model
    base = adapt(call, target, rules_at(gate, hop, call, target, profile))
    if not call.body:
        adapted = adapt(base, target, hop.dialect.rules)
        upload = None if form is None else form.as_model(target.model)
        exchange.adapted = adapted.adapted if upload is None else (*adapted.adapted, *upload.adapted)
        try:
            answer = await _asked(gate, call, adapted, hop, target, exchange, profile, upload)
        except UpstreamError as error:
            raise _of_name(error, call, target) from error.__cause__
        if isinstance(answer, Begun):
            _keep_alive(gate, call, profile, heartbeat, STREAM_HOLD_S)
        accepted(hop, exchange)
        return answer
    is_streamed = call.stream and call.operation.surface in STREAMED
    if is_streamed:
        _keep_alive(gate, call, profile, heartbeat, STREAM_HOLD_S)
    with Pupil(gate, hop, target, base, exchange) as pupil:
        await pupil.my_turn()
        while True:
            adapted = adapt(pupil.plan(), target, hop.dialect.rules)
            exchange.adapted = adapted.adapted
            if is_streamed and not adapted.stream:
                _keep_alive(gate, call, profile, heartbeat, HOLD_S)
            try:
                answer = await _asked(gate, call, adapted, hop, target, exchange, profile)
            except UpstreamError as error:
                if pupil.taught(error):
                    continue
                raise _of_name(pupil.given_up(adapted, error), call, target) from error.__cause__
            pupil.succeeded()
            accepted(hop, exchange)
            return answer


def _of_name(error: UpstreamError, call: Call, target: Target) -> UpstreamError:
    """`error`, with advice where the upstream does not know the client's name of the model, which went up as it was."""
    said: Complaint | None = error.complaint if isinstance(error, UpstreamRefusal) else None
    if said is None or not call.model or target.model not in (None, call.model):
        return error
    told = of_model(call.model, target.upstream, error.http_status, said.code, said.message)
    error.message = error.message if told is None else f"{sentence(error.message)} {told}"
    return error


def _keep_alive(gate: Gate, call: Call, profile: Prepared, heartbeat: Heartbeat | None, hold_s: float) -> None:
    """Signs of life for a client that waits for a stream, in the form that it reads, if there is one."""
    if heartbeat is None:
        return
    sign = sign_of(profile.settings, call, gate.clock.wall)
    if sign is not None:
        heartbeat.start(sign, hold_s)


def _asked(
    gate: Gate,
    call: Call,
    adapted: Call,
    hop: Hop,
    target: Target,
    exchange: Exchange,
    profile: Prepared,
    upload: Outgoing | None = None,
) -> Awaitable[Answer]:
    """The judged answer to `adapted`, with `upload` as its body, which is what `hop` is sent for the client's own
    `call`."""
    surface = call.operation.surface
    if surface is Surface.EMBEDDINGS:
        return _embedded(gate, call, adapted, hop, target, exchange, profile)
    request = _encoded(adapted, hop, target)
    if surface is Surface.RERANK:
        return ranked(call, hop.name, partial(_ask, gate, call, hop, request, exchange, profile))
    if surface is Surface.RAW:
        request = passed_on(request, call.headers, exchange.inbound.query, upload)
    return _ask(gate, call, hop, request, exchange, profile)


def _embedded(
    gate: Gate, call: Call, adapted: Call, hop: Hop, target: Target, exchange: Exchange, profile: Prepared
) -> Awaitable[Answer]:
    def ask(part: Call, share: Exchange) -> Awaitable[Answer]:
        return _ask(gate, call, hop, _encoded(part, hop, target), share, profile)

    return embedded(call, adapted, hop.name, exchange, ask)


def _encoded(call: Call, hop: Hop, target: Target) -> Request:
    settings, timeouts = hop.settings, target.timeouts or hop.timeouts
    return hop.dialect.encode(call, target, settings.base_url, timeouts, settings.forward_headers)


async def _ask(gate: Gate, call: Call, hop: Hop, request: Request, exchange: Exchange, profile: Prepared) -> Answer:
    """A judged answer; where it turned out to be a rejection of the token, the next one, to a new token."""
    try:
        response = await send(gate, hop, request, exchange)
        said_id = header(response.headers, b"x-request-id")
        exchange.upstream_request_id = said_id.decode("latin-1")[:100] if said_id is not None else None
        return await judge(gate, call, hop, response, exchange, profile.settings)
    except UpstreamError as error:
        await renew(gate, hop, error, exchange, request)
    return await _ask(gate, call, hop, request, exchange, profile)
