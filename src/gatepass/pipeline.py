"""The street: a request is a value that goes one way."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

from msgspec.structs import replace

from gatepass.adapt.chain import adapt
from gatepass.adapt.changes.change import Revision
from gatepass.adapt.profile import Prepared
from gatepass.adapt.rerank.question import is_question
from gatepass.adapt.rerank.shape import Shaped
from gatepass.adapt.rule import Rule
from gatepass.adapt.typed_ids import untyped
from gatepass.admission.cors import cors_headers, preflight
from gatepass.admission.doors import permit
from gatepass.attempt import accepted, renew, send
from gatepass.call import Call, Client, Inbound, Request, Surface, Target, header
from gatepass.catalog import Catalog
from gatepass.config.access import AccessKey
from gatepass.errors import (
    ClientGone,
    Draining,
    GatepassError,
    InternalError,
    Overloaded,
    TokenUnavailable,
    UnsupportedMediaType,
    UpstreamError,
    UpstreamTimeout,
)
from gatepass.gate import Gate, Hop
from gatepass.heartbeat import Heartbeat
from gatepass.lessons import Pupil
from gatepass.observe.exchange import BODY_LOG_CHARS, Exchange
from gatepass.observe.log import emit
from gatepass.parts import embedded
from gatepass.ranking import ranked
from gatepass.relay.chunk import Origin
from gatepass.relay.profiled import keep_alive
from gatepass.relaying import relay
from gatepass.reply import Reply
from gatepass.runtime import Leash, Timer
from gatepass.surface.decode import check_encoding, decode, without_body
from gatepass.surface.form_data import boundary_of
from gatepass.surface.openai_error import response_error
from gatepass.surface.operations import Match, match, nothing_at
from gatepass.surface.profile_path import chosen, split_profile
from gatepass.upload import Form
from gatepass.upstream.raw import passed_on
from gatepass.verdict import Answer, judge

ACCESS_LOG = logging.getLogger("gatepass.access")
BODY_LOG = logging.getLogger("gatepass.bodies")
SERVER_ERROR, NO_CONTENT = 500, 204
MODEL_IS_NEEDED = (Surface.CHAT, Surface.EMBEDDINGS, Surface.RESPONSES)
"""Without a model in their bodies these are no requests; others may go where their operation says."""
HOLD_S = 5.0
"""How long the head of a stream is held back for an upstream that answers whole: its errors keep their status."""
COMMENT_EVERY_S = 12.0
"""Proxies give up on a connection that is silent for 60 s, clients of few lines sooner (nginx: proxy_read_timeout)."""


@dataclass(slots=True)
class Visit:
    """One request on its way: what came, who sent it, and where its answer goes.

    `profile` is what the client needs beyond the plain API: known when the caller is, and set then.
    """

    inbound: Inbound
    gate: Gate
    catalog: Catalog
    client: Client
    reply: Reply
    exchange: Exchange
    leash: Leash
    heartbeat: Heartbeat
    profile: Prepared
    form: Form | None = None
    """The body, where it is a form that passes through."""


async def handle(inbound: Inbound, gate: Gate, catalog: Catalog, client: Client) -> None:
    """Serve one request, from its head to its access line.

    admit ─► decode ─► resolve ─► for each target: adapt ─► encode ─► authorize ─► send ─► judge,
    then relay ─► observe. The head alone admits: nobody unknown makes gatepass read a body.
    """
    exchange = Exchange(inbound, keeps_bodies=gate.config.log.bodies)
    reply = Reply(client, exchange, gate.clock)
    gate.metrics.opened()
    try:
        with gate.live.admit() as leash:
            heartbeat = Heartbeat(reply, gate.clock, HOLD_S, COMMENT_EVERY_S)
            plain = gate.profiles["plain"]
            await _serve(Visit(inbound, gate, catalog, client, reply, exchange, leash, heartbeat, plain))
    except ClientGone:
        exchange.client_gone = True
    except GatepassError as error:
        await _tell(reply, error)
    except asyncio.CancelledError:
        exchange.error = Draining("gatepass was stopped at once.")
        raise
    except Exception:
        await _tell(reply, InternalError("gatepass failed at this request. Its log tells more."))
        raise  # the server logs its trace
    finally:
        _observe(gate, exchange)


async def _serve(visit: Visit) -> None:
    gate, exchange, inbound = visit.gate, visit.exchange, visit.inbound
    in_path, path = split_profile(inbound.path, gate.config.server.base_path)
    if gate.has_pages and header(inbound.headers, b"origin") is not None and await _is_told_to_a_page(visit, in_path):
        return
    found = match(inbound.method, path, gate.config.server.base_path)
    exchange.operation = found.operation.name
    if found.operation.surface is Surface.RESPONSES:
        visit.reply.last_word = response_error
    caller = gate.doors.admit(inbound, in_path, takes_form=found.operation.takes_form)
    exchange.caller = caller.name
    if in_path is not None or caller.profile is not None:
        _adopt(visit, chosen(gate.profiles, in_path, caller.profile))
    if found.operation.takes_form:
        await _pass_form(visit, found, caller)
        return
    body = await visit.client.body(gate.config.limits.body_bytes)
    exchange.bytes_in = len(body)
    unwatch = visit.client.watch(lambda: _left(visit))
    try:
        if found.operation.surface is Surface.MODELS:
            await _show_models(visit, found, caller)
        else:
            await _converse(visit, _decoded(visit, found, caller, body), caller)
    finally:
        unwatch()


async def _pass_form(visit: Visit, found: Match, caller: AccessKey) -> None:
    inbound, limit_bytes = visit.inbound, visit.gate.config.limits.upload_bytes
    boundary = boundary_of(inbound.headers)
    check_encoding(inbound.headers)
    if boundary is None:
        raise UnsupportedMediaType("Send the body as `content-type: multipart/form-data` with its boundary.")
    length = header(inbound.headers, b"content-length") or b""
    visit.form = Form(visit.client, visit.exchange, limit_bytes, boundary, int(length) if length.isdigit() else None)
    unwatch = visit.client.watch(lambda: _left(visit))
    try:
        await visit.form.begin()
        model = visit.form.model
        if model is None:
            model = visit.gate.routes.model_without_name(found.operation.name)
        await _converse(visit, _typed(visit, without_body(inbound, found.operation, caller.name, model)), caller)
    finally:
        unwatch()


def _adopt(visit: Visit, profile: Prepared) -> None:
    visit.profile = profile
    visit.reply.more = cors_headers(visit.inbound.headers, profile.settings.cors_origins)


async def _is_told_to_a_page(visit: Visit, in_path: str | None) -> bool:
    """Whether a browser only asked if its page may call: it shows no key then, so the path alone can tell the profile.

    Raises UnknownPath, ForbiddenHost, ForbiddenOrigin.
    """
    inbound = visit.inbound
    visit.gate.doors.check_page(inbound)
    _adopt(visit, chosen(visit.gate.profiles, in_path, None))
    allowed = preflight(inbound.method, inbound.headers, visit.profile.settings.cors_origins)
    if allowed is None:
        return False
    visit.exchange.operation, visit.reply.more = "preflight", allowed
    await visit.reply.whole(NO_CONTENT, (), b"")
    return True


def _left(visit: Visit) -> None:
    if not visit.reply.ended:
        visit.leash.pull(ClientGone())


async def _show_models(visit: Visit, found: Match, caller: AccessKey) -> None:
    is_typed = visit.profile.settings.typed_ids
    if found.model is None:
        document = await visit.catalog.listing(caller, visit.exchange, is_typed=is_typed)
    else:
        document = await visit.catalog.entry(found.model, caller, visit.exchange, is_typed=is_typed)
    await visit.reply.whole(200, [(b"content-type", b"application/json")], document)


def _decoded(visit: Visit, found: Match, caller: AccessKey, body: bytes) -> Call:
    visit.exchange.keep_body("request", body)
    operation, inbound = found.operation, visit.inbound
    default = None if operation.surface in MODEL_IS_NEEDED else visit.gate.routes.model_without_name(operation.name)
    if operation.surface is Surface.RAW and (not body or operation.method != "POST"):
        call = without_body(inbound, operation, caller.name, default or "")
    else:
        call = decode(inbound, operation, body, caller.name, default)
    if found.at_root and not is_question(body):
        raise nothing_at(inbound.path, visit.gate.config.server.base_path)
    return _typed(visit, call)


def _typed(visit: Visit, call: Call) -> Call:
    """`call` under the name that the model really has, where the profile lists it under another."""
    if visit.profile.settings.typed_ids:
        call = replace(call, model=untyped(call.model))
    visit.exchange.model, visit.exchange.stream = call.model or None, call.stream
    return call


async def _converse(visit: Visit, call: Call, caller: AccessKey) -> None:
    """resolve, then the answer of the first target that gives one, relayed."""
    permit(caller, call.model)
    targets = visit.gate.routes.resolve(call.operation.name, call.model)
    bound = _bound_total(visit, targets[0])
    try:
        answer = await _answer(visit, call, targets)
        visit.heartbeat.stop()
        await relay(answer, visit.reply, visit.exchange)
    finally:
        visit.heartbeat.stop()
        if bound is not None:
            bound.cancel()


async def _answer(visit: Visit, call: Call, targets: tuple[Target, ...]) -> Answer:
    """Try the targets in order, as long as not one byte of the request was written to the last one."""
    for target in targets[:-1]:
        tried = visit.exchange.attempts
        try:
            return await _attempt(visit, call, target)
        except (UpstreamError, TokenUnavailable, Overloaded) as error:
            if not _nothing_sent(error, visit.exchange.attempts - tried):
                raise
    return await _attempt(visit, call, targets[-1])


async def _attempt(visit: Visit, call: Call, target: Target) -> Answer:
    """adapt ─► encode ─► authorize ─► send ─► judge, at one target; again for as long as a refusal teaches."""
    gate, exchange = visit.gate, visit.exchange
    hop = gate.hops[target.upstream]
    exchange.upstream, exchange.upstream_model = hop.name, target.model
    base = adapt(call, target, _rules(visit, call, hop, target))
    if not call.body:
        answer = await _asked(visit, call, adapt(base, target, hop.dialect.rules), hop, target)
        accepted(hop, exchange)
        return answer
    with Pupil(gate, hop, target, base, exchange) as pupil:
        await pupil.my_turn()
        while True:
            adapted = adapt(pupil.plan(), target, hop.dialect.rules)
            exchange.adapted = adapted.adapted
            if call.stream and not adapted.stream:
                _keep_alive(visit, call)
            try:
                answer = await _asked(visit, call, adapted, hop, target)
            except UpstreamError as error:
                if pupil.taught(error):
                    continue
                raise pupil.given_up(adapted, error) from error.__cause__
            pupil.succeeded()
            accepted(hop, exchange)
            return answer


def _rules(visit: Visit, call: Call, hop: Hop, target: Target) -> tuple[Rule, ...]:
    """The rules before any lesson: the profile's, those of a reranker's shape, the built-in ones, the model's."""
    if not call.body:
        return ()
    rules = visit.gate.rules_for(call)
    if call.operation.surface is Surface.RERANK:
        shaped = Shaped(hop.settings.rerank_shape, call.model or target.model)
        rules = (Revision("rerank", (shaped,)), *rules)
    own = visit.profile.rules[hop.settings.dialect]
    return (*own, *rules) if own else rules


def _keep_alive(visit: Visit, call: Call) -> None:
    origin = Origin(lambda prefix: f"{prefix}{call.id}", int(visit.gate.clock.wall()), call.model)
    sign = keep_alive(visit.profile.settings.keep_alive, origin, is_text=call.operation.name == "completions")
    if sign is not None:
        visit.heartbeat.start(sign)


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


def _nothing_sent(error: GatepassError, tries: int) -> bool:
    """Whether the `tries` at a target, which ended with `error`, wrote not one byte of the request.

    A second try means that the first was written: it follows a 401, or a connection that had gone stale.
    """
    if isinstance(error, UpstreamError) and error.sent:
        return False
    return tries == (0 if isinstance(error, TokenUnavailable) else 1)


def _bound_total(visit: Visit, target: Target) -> Timer | None:
    """Ends the whole conversation after `timeouts.total_s`, all attempts and the stream included."""
    hop = visit.gate.hops[target.upstream]
    total_s = (target.timeouts or hop.timeouts).total_s
    if total_s is None:
        return None
    error = UpstreamTimeout(
        f"The answer was not complete after {total_s:g} s (timeouts.total_s).", upstream=hop.name, phase="total"
    )
    return visit.gate.clock.call_later(total_s, lambda: visit.leash.pull(error))


async def _tell(reply: Reply, error: GatepassError) -> None:
    with suppress(ClientGone):
        await reply.fail(error)


def _observe(gate: Gate, exchange: Exchange) -> None:
    exchange.ended_s = gate.clock.now() - exchange.inbound.arrived_s
    gate.metrics.closed(exchange)
    level = logging.WARNING if (exchange.status or 0) >= SERVER_ERROR else logging.INFO
    emit(ACCESS_LOG, level, "exchange", exchange.fields())
    if exchange.bodies:
        shown = {which: gate.redactor.beginning(body, BODY_LOG_CHARS) for which, body in exchange.bodies.items()}
        emit(BODY_LOG, logging.INFO, "bodies", {"id": exchange.inbound.id, **shown})
