"""One attempt at one target, again for as long as its refusals teach."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial

from msgspec.structs import replace

from gatepass.dialects.base import passed_on
from gatepass.dialects.hints import of_model, sentence
from gatepass.errors import UpstreamError, UpstreamInvalid, UpstreamRefusal
from gatepass.json_scan import ScannedBody, place_of
from gatepass.normalize.built_in import BUILT_IN, MODEL, NAMING, adapt, applied, concerning
from gatepass.normalize.profiles import Prepared
from gatepass.normalize.rerank import Asked, Shaped, Unfit, answer
from gatepass.normalize.rule import Revision, Rule
from gatepass.normalize.streams import STREAMED
from gatepass.proxy.answer import Answer, Begun, Whole
from gatepass.proxy.app_state import Gate, Hop
from gatepass.proxy.attempt import Pupil
from gatepass.proxy.batches import embedded
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.heartbeat import HOLD_S, STREAM_HOLD_S, Heartbeat
from gatepass.proxy.keepalive import sign_of
from gatepass.proxy.large_body import INLINE_BYTES, apart, is_heavy, reread
from gatepass.proxy.response import judge
from gatepass.proxy.upload import Outgoing
from gatepass.proxy.upstream_call import accepted, renew, send
from gatepass.types import Call, Complaint, Request, Surface, Target, header


async def try_at(context: RequestContext, call: Call, target: Target, heartbeat: Heartbeat | None = None) -> Answer:
    """adapt ─► encode ─► authorize ─► send ─► judge, at one target; again for as long as a refusal teaches.

    `call` is as the client sent it. Where a client waits for it, `heartbeat` tells him that it is still under way.
    Raises what the answer really is, in the end.
    """
    attempt = context.attempt(call, target)
    gate, hop = attempt.gate, attempt.hop
    rules = rules_at(gate, hop, call, target, context.profile)
    is_small = len(call.body) <= INLINE_BYTES
    base = adapt(call, target, rules) if is_small else await adapted_apart(call, target, rules)
    if not call.body:
        adapted = adapt(base, target, hop.dialect.rules)
        upload = None if context.form is None else context.form.as_model(target.model)
        attempt.adapted = adapted.adapted if upload is None else (*adapted.adapted, *upload.adapted)
        try:
            answer = await _asked(attempt, adapted, context.inbound.query, upload)
        except UpstreamError as error:
            raise _of_name(attempt, error) from error.__cause__
        if isinstance(answer, Begun):
            _keep_alive(attempt, heartbeat, STREAM_HOLD_S)
        accepted(attempt)
        return answer
    is_streamed = call.stream and call.operation.surface in STREAMED
    if is_streamed:
        _keep_alive(attempt, heartbeat, STREAM_HOLD_S)
    with Pupil(attempt, base) as pupil:
        await pupil.my_turn()
        while True:
            adapted, rules = await pupil.plan(), hop.dialect.rules
            if rules:
                is_small = len(adapted.body) <= INLINE_BYTES
                adapted = adapt(adapted, target, rules) if is_small else await adapted_apart(adapted, target, rules)
            attempt.adapted = adapted.adapted
            if is_streamed and not adapted.stream:
                _keep_alive(attempt, heartbeat, HOLD_S)
            try:
                answer = await _asked(attempt, adapted, context.inbound.query)
            except UpstreamError as error:
                if await pupil.taught(error):
                    continue
                raise _of_name(attempt, await pupil.given_up(adapted, error)) from error.__cause__
            pupil.succeeded()
            accepted(attempt)
            return answer


async def adapted_apart(call: Call, target: Target, rules: Sequence[Rule]) -> Call:
    """As `adapt`, beside the loop where the rules step over many values.

    Where the body is scanned, a rule's new body is scanned before the next rule.
    """
    rules = concerning(call, rules)
    is_scanned = type(call.body) is ScannedBody
    if (rules is NAMING and (is_scanned or place_of(call.body, MODEL) >= 0)) or not is_heavy(call.body):
        return applied(call, target, rules)
    if not is_scanned and rules is BUILT_IN:  # the last one alone: at the peak one copy of the body less is alive
        call = await apart(call.body, partial(applied, call, target, rules[:-1]))
        rules = NAMING
        if place_of(call.body, MODEL) >= 0:
            return applied(call, target, rules)
    if not is_scanned:
        return await apart(call.body, partial(applied, call, target, rules))
    for rule in rules:
        call = await reread(call)
        call = await apart(call.body, partial(rule.apply, call, target))
    return call


def rules_at(gate: Gate, hop: Hop, call: Call, target: Target, profile: Prepared) -> tuple[Rule, ...]:
    """The rules that `call` goes through at `hop` before any lesson: those of its caller's profile, of a reranker's
    shape, then the gate's. A call without a body goes as it is."""
    if not call.body:
        return ()
    rules, own = gate.rules_for(call), profile.rules[hop.settings.dialect]
    if call.operation.surface is Surface.RERANK:
        rules = (Revision("rerank", (Shaped(hop.settings.rerank_shape, call.model or target.model),)), *rules)
    return (*own, *rules) if own else rules


def _of_name(attempt: Attempt, error: UpstreamError) -> UpstreamError:
    """`error`, with advice where the upstream does not know the client's name of the model, which went up as it was."""
    call, target = attempt.call, attempt.target
    said: Complaint | None = error.complaint if isinstance(error, UpstreamRefusal) else None
    if said is None or not call.model or target.model not in (None, call.model):
        return error
    told = of_model(call.model, target.upstream, error.http_status, said.code, said.message)
    error.message = error.message if told is None else f"{sentence(error.message)} {told}"
    return error


def _keep_alive(attempt: Attempt, heartbeat: Heartbeat | None, hold_s: float) -> None:
    """Signs of life for a client that waits for a stream, in the form that it reads, if there is one."""
    if heartbeat is None:
        return
    sign = sign_of(attempt.profile, attempt.call, attempt.gate.clock.wall)
    if sign is not None:
        heartbeat.start(sign, hold_s)


def _asked(attempt: Attempt, adapted: Call, query: bytes, upload: Outgoing | None = None) -> Awaitable[Answer]:
    """The judged answer to `adapted`, with `upload` as its body: what the upstream is sent for the client's call."""
    surface = adapted.operation.surface
    if surface is Surface.EMBEDDINGS:
        return embedded(attempt, adapted, _ask_part)
    request = _encoded(attempt, adapted)
    if surface is Surface.RERANK:
        return _ranked(attempt, request)
    if surface is Surface.RAW:
        request = passed_on(request, attempt.call.headers, query, upload)
    return _ask(attempt, request)


def _ask_part(attempt: Attempt, part: Call) -> Awaitable[Answer]:
    return _ask(attempt, _encoded(attempt, part))


def _encoded(attempt: Attempt, call: Call) -> Request:
    hop, target = attempt.hop, attempt.target
    settings, timeouts = hop.settings, target.timeouts or hop.timeouts
    return hop.dialect.encode(call, target, settings.base_url, timeouts, settings.forward_headers)


async def _ranked(attempt: Attempt, request: Request) -> Whole:
    """The ranking that the client's own call asked for, out of the upstream's reply to `request`.

    Raises UpstreamInvalid for a reply that ranks nothing: clients take what they cannot read for zeros.
    """
    asked = await apart(attempt.call.body, partial(Asked.of, attempt.call.body))
    held = await _ask(attempt, request)
    if not isinstance(held, Whole):
        raise TypeError("only chats are streamed")
    body = answer(held.body, asked)
    if isinstance(body, Unfit):
        raise UpstreamInvalid(f"The upstream's answer is no ranking: {body.reason}.", upstream=attempt.hop.name)
    return held if body is held.body else replace(held, body=body)


async def _ask(attempt: Attempt, request: Request) -> Answer:
    """A judged answer; where it turned out to be a rejection of the token, the next one, to a new token."""
    while True:
        try:
            response = await send(attempt, request)
            said_id = header(response.headers, b"x-request-id")
            attempt.upstream_request_id = said_id.decode("latin-1")[:100] if said_id is not None else None
            return await judge(attempt, response)
        except UpstreamError as error:
            await renew(attempt, error, request)
