"""The street: a request is a value that goes one way."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial

from gatepass.auth.cors import cors_headers, preflight
from gatepass.auth.model_access import may_use, permit
from gatepass.cancel import Leash
from gatepass.clock import Timer
from gatepass.errors import (
    ClientGone,
    Draining,
    GatepassError,
    InternalError,
    MethodNotAllowed,
    Overloaded,
    TokenUnavailable,
    UnknownPath,
    UpstreamError,
    UpstreamTimeout,
)
from gatepass.normalize.profiles import Prepared
from gatepass.observability.log import emit
from gatepass.operations.profile_path import chosen, split_profile
from gatepass.operations.table import Match, match
from gatepass.proxy.answer import Answer
from gatepass.proxy.app_state import Gate
from gatepass.proxy.client_response import Client, Reply
from gatepass.proxy.context import BODY_LOG_CHARS, RequestContext
from gatepass.proxy.heartbeat import Heartbeat
from gatepass.proxy.in_flight import Place
from gatepass.proxy.intake import (
    NO_OPERATION,
    PREFLIGHT,
    asked_for,
    decoded,
    decoded_large,
    form_of,
    named_by,
    unserved,
)
from gatepass.proxy.large_body import INLINE_BYTES
from gatepass.proxy.models import Catalog
from gatepass.proxy.relay import relay
from gatepass.proxy.trial import try_at
from gatepass.types import Call, Inbound, Surface, Target, header

ACCESS_LOG = logging.getLogger("gatepass.access")
BODY_LOG = logging.getLogger("gatepass.bodies")
CLIENT_ERROR, SERVER_ERROR, NO_CONTENT = 400, 500, 204


async def handle(inbound: Inbound, gate: Gate, catalog: Catalog, client: Client) -> None:
    """Serve one request, from its head to its access line.

    admit ─► decode ─► resolve ─► for each target: adapt ─► encode ─► authorize ─► send ─► judge,
    then relay ─► observe. The head alone admits: nobody unknown makes gatepass read a body.
    """
    context = RequestContext(inbound, gate, gate.profiles["plain"])
    reply = Reply(client, context)
    gate.metrics.opened()
    try:
        with gate.live.admit(reply) as place:
            await _serve(context, catalog, reply, place)
    except ClientGone:
        context.client_gone = True
    except GatepassError as error:
        if context.operation == NO_OPERATION:
            context.operation = asked_for(inbound, gate.config.server.base_path)
        await _tell(reply, error)
    except asyncio.CancelledError:
        context.error = Draining("gatepass was stopped at once.")
        raise
    except Exception:
        await _tell(reply, InternalError("gatepass failed at this request. Its log tells more."))
        raise  # the server logs its trace
    finally:
        _observe(context)


async def _serve(context: RequestContext, catalog: Catalog, reply: Reply, place: Place) -> None:
    gate, inbound = context.gate, context.inbound
    base_path = gate.config.server.base_path
    in_path, path = split_profile(inbound.path, base_path)
    has_origin = gate.has_pages and header(inbound.headers, b"origin") is not None
    if has_origin and await _is_told_to_a_page(context, reply, in_path):
        return
    try:
        found = match(inbound.method, path, base_path)
    except (MethodNotAllowed, UnknownPath) as fault:
        raise unserved(context, in_path, fault) from None
    operation = found.operation
    context.operation, context.holding = operation.name, place.holding
    caller = context.caller = gate.doors.admit(inbound, in_path, takes_form=operation.takes_form)
    name = caller.name
    place.claim(name, caller.max_concurrent)
    reply.client.authenticated(name)
    if in_path is not None or caller.profile is not None or gate.has_pages:
        _adopt(context, chosen(gate.profiles, in_path, caller.profile))
    if operation.takes_form:
        context.form = form_of(context, reply.client, operation)
        body = b""
    else:
        body = await reply.client.body(gate.config.limits.body_bytes, place.holding.claim)
        context.bytes_in = len(body)
    unwatch = reply.client.watch(lambda: place.pull(ClientGone()))
    try:
        if context.form is not None:
            await _converse(context, await named_by(context, context.form, found), reply, place)
        elif operation.surface is Surface.MODELS:
            await _show_models(context, catalog, reply, found)
        else:
            is_small = len(body) <= INLINE_BYTES
            call = decoded(context, found, body) if is_small else await decoded_large(context, found, body)
            await _converse(context, call, reply, place)
    finally:
        unwatch()


def _adopt(context: RequestContext, profile: Prepared) -> None:
    """Serve the client as `profile` says, from here on."""
    context.profile = profile
    context.headers = cors_headers(context.inbound.headers, profile.settings.cors_origins)


async def _is_told_to_a_page(context: RequestContext, reply: Reply, in_path: str | None) -> bool:
    """Whether a browser only asked if its page may call: it shows no key then, so the path alone can tell the profile.

    Raises UnknownPath, ForbiddenHost, ForbiddenOrigin.
    """
    gate, inbound = context.gate, context.inbound
    gate.doors.check_page(inbound)
    _adopt(context, chosen(gate.profiles, in_path, None))
    allowed = preflight(inbound.method, inbound.headers, context.profile.settings.cors_origins)
    if allowed is None:
        return False
    context.operation, context.headers = PREFLIGHT, allowed
    await reply.whole(NO_CONTENT, (), b"")
    return True


async def _show_models(context: RequestContext, catalog: Catalog, reply: Reply, found: Match) -> None:
    document = await (catalog.listing(context) if found.model is None else catalog.entry(context, found.model))
    await reply.whole(200, [(b"content-type", b"application/json")], document)


async def _converse(context: RequestContext, call: Call, reply: Reply, leash: Leash) -> None:
    """resolve, then the answer of the first target that gives one, relayed."""
    gate, caller = context.gate, context.caller
    may_see = None
    if caller.models is not None:
        permit(caller, call.model)
        may_see = partial(may_use, caller)
    targets = gate.routes.resolve(call.operation.name, call.model, may_see)
    bound = _bound_total(gate, leash, targets[0])
    heartbeat = Heartbeat(reply, gate.clock, gate.rounds)
    try:
        if len(targets) == 1:  # nearly always: no coroutine to choose among them
            answer = await try_at(context, call, targets[0], heartbeat)
        else:
            answer = await _answer(context, call, targets, heartbeat)
        await relay(answer, context, reply, heartbeat)
    finally:
        heartbeat.stop()
        if bound is not None:
            bound.cancel()


async def _answer(context: RequestContext, call: Call, targets: tuple[Target, ...], heartbeat: Heartbeat) -> Answer:
    """Try the targets in order, as long as not one byte of the request was written to the last one."""
    for target in targets[:-1]:
        try:
            return await try_at(context, call, target, heartbeat)
        except (UpstreamError, TokenUnavailable, Overloaded) as error:
            if context.attempts[-1].written:
                raise
            context.failover = (*context.failover, f"{target.upstream}={error.public_code}")
            context.gate.metrics.failed_over(target.upstream, error)
    return await try_at(context, call, targets[-1], heartbeat)


def _bound_total(gate: Gate, leash: Leash, target: Target) -> Timer | None:
    """Ends the whole conversation after `timeouts.total_s`, all attempts and the stream included."""
    hop = gate.hops[target.upstream]
    total_s = (target.timeouts or hop.timeouts).total_s
    if total_s is None:
        return None
    error = UpstreamTimeout(
        f"The answer was not complete after {total_s:g} s (timeouts.total_s).", upstream=hop.name, phase="total"
    )
    return gate.clock.call_later(total_s, lambda: leash.pull(error))


async def _tell(reply: Reply, error: GatepassError) -> None:
    with suppress(ClientGone):
        await reply.fail(error)


def _observe(context: RequestContext) -> None:
    gate, inbound, error = context.gate, context.inbound, context.error
    duration_s = gate.clock.now() - inbound.arrived_s
    if context.form is not None:
        context.bytes_in = context.form.bytes_in
    outcome = context.outcome
    gate.metrics.closed(context.operation, outcome, duration_s, context.bytes_in, context.bytes_out)
    if context.events and context.first_byte_s is not None:
        gate.metrics.began_stream(context.operation, context.first_byte_s)
    if error is not None:
        gate.metrics.refused(error)
    if context.empty_answer and context.upstream is not None:
        gate.metrics.empty_answer(context.upstream)
    level, status = logging.INFO, context.status or 0
    if status >= SERVER_ERROR or (error is not None and 0 < status < CLIENT_ERROR):  # its head was out already
        level = logging.WARNING
    emit(ACCESS_LOG, level, "exchange", context.record(outcome, duration_s))
    if gate.keeps_bodies and (bodies := context.captured_bodies()):
        shown = {which: gate.redactor.beginning(body, BODY_LOG_CHARS) for which, body in bodies.items()}
        emit(BODY_LOG, logging.INFO, "bodies", {"id": inbound.id, **shown})
