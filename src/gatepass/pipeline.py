"""The street: a request is a value that goes one way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial

from gatepass.admission.cors import preflight
from gatepass.admission.doors import may_use, permit
from gatepass.call import Call, Client, Inbound, Surface, Target, header
from gatepass.catalog import Catalog
from gatepass.config.access import AccessKey
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
from gatepass.gate import Gate
from gatepass.heartbeat import Heartbeat
from gatepass.intake import NO_OPERATION, PREFLIGHT, asked_for, decoded, form_of, named_by, unserved
from gatepass.observe.access_line import AccessLine
from gatepass.observe.exchange import BODY_LOG_CHARS, Exchange
from gatepass.observe.log import emit
from gatepass.relaying import relay
from gatepass.reply import Reply
from gatepass.runtime import Timer
from gatepass.surface.openai_error import response_error
from gatepass.surface.operations import Match, match
from gatepass.surface.profile_path import chosen, split_profile
from gatepass.trial import try_at
from gatepass.verdict import Answer
from gatepass.visit import Visit

ACCESS_LOG = logging.getLogger("gatepass.access")
BODY_LOG = logging.getLogger("gatepass.bodies")
SERVER_ERROR, NO_CONTENT = 500, 204


async def handle(inbound: Inbound, gate: Gate, catalog: Catalog, client: Client) -> None:
    """Serve one request, from its head to its access line.

    admit ─► decode ─► resolve ─► for each target: adapt ─► encode ─► authorize ─► send ─► judge,
    then relay ─► observe. The head alone admits: nobody unknown makes gatepass read a body.
    """
    exchange = Exchange(inbound, keeps_bodies=gate.config.log.bodies)
    reply = Reply(client, exchange, gate.clock)
    gate.metrics.opened()
    try:
        with gate.live.admit(reply) as leash:
            heartbeat = Heartbeat(reply, gate.clock, gate.rounds)
            plain = gate.profiles["plain"]
            await _serve(Visit(inbound, gate, catalog, client, reply, exchange, leash, heartbeat, plain))
    except ClientGone:
        exchange.client_gone = True
    except GatepassError as error:
        if exchange.operation == NO_OPERATION:
            exchange.operation = asked_for(inbound, gate.config.server.base_path)
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
    try:
        found = match(inbound.method, path, gate.config.server.base_path)
    except (MethodNotAllowed, UnknownPath) as fault:
        raise unserved(visit, in_path, fault) from None
    exchange.operation = found.operation.name
    if found.operation.name == Surface.RESPONSES:
        visit.reply.last_word = response_error
    caller = gate.doors.admit(inbound, in_path, takes_form=found.operation.takes_form)
    exchange.caller = caller.name
    if in_path is not None or caller.profile is not None or gate.has_pages:
        visit.adopt(chosen(gate.profiles, in_path, caller.profile))
    if found.operation.takes_form:
        await _pass_form(visit, found, caller)
        return
    body = await visit.client.body(gate.config.limits.body_bytes)
    exchange.bytes_in = len(body)
    unwatch = visit.client.watch(visit.leave)
    try:
        if found.operation.surface is Surface.MODELS:
            await _show_models(visit, found, caller)
        else:
            await _converse(visit, decoded(visit, found, caller, body), caller)
    finally:
        unwatch()


async def _pass_form(visit: Visit, found: Match, caller: AccessKey) -> None:
    visit.form = form = form_of(visit, found.operation)
    unwatch = visit.client.watch(visit.leave)
    try:
        await _converse(visit, await named_by(visit, form, found, caller), caller)
    finally:
        unwatch()


async def _is_told_to_a_page(visit: Visit, in_path: str | None) -> bool:
    """Whether a browser only asked if its page may call: it shows no key then, so the path alone can tell the profile.

    Raises UnknownPath, ForbiddenHost, ForbiddenOrigin.
    """
    inbound = visit.inbound
    visit.gate.doors.check_page(inbound)
    visit.adopt(chosen(visit.gate.profiles, in_path, None))
    allowed = preflight(inbound.method, inbound.headers, visit.profile.settings.cors_origins)
    if allowed is None:
        return False
    visit.exchange.operation, visit.reply.more = PREFLIGHT, allowed
    await visit.reply.whole(NO_CONTENT, (), b"")
    return True


async def _show_models(visit: Visit, found: Match, caller: AccessKey) -> None:
    is_typed = visit.profile.settings.typed_ids
    if found.model is None:
        document = await visit.catalog.listing(caller, visit.exchange, is_typed=is_typed)
    else:
        document = await visit.catalog.entry(found.model, caller, visit.exchange, is_typed=is_typed)
    await visit.reply.whole(200, [(b"content-type", b"application/json")], document)


async def _converse(visit: Visit, call: Call, caller: AccessKey) -> None:
    """resolve, then the answer of the first target that gives one, relayed."""
    permit(caller, call.model)
    may_see = None if caller.models is None else partial(may_use, caller)
    targets = visit.gate.routes.resolve(call.operation.name, call.model, may_see)
    bound = _bound_total(visit, targets[0])
    try:
        # nearly always there is one: no coroutine to choose among them
        answer = await (_at(visit, call, targets[0]) if len(targets) == 1 else _answer(visit, call, targets))
        await relay(answer, visit.reply, visit.exchange, visit.heartbeat, visit.gate)
    finally:
        visit.heartbeat.stop()
        if bound is not None:
            bound.cancel()


async def _answer(visit: Visit, call: Call, targets: tuple[Target, ...]) -> Answer:
    """Try the targets in order, as long as not one byte of the request was written to the last one."""
    gate, exchange = visit.gate, visit.exchange
    for target in targets[:-1]:
        tried = exchange.attempts
        try:
            return await _at(visit, call, target)
        except (UpstreamError, TokenUnavailable, Overloaded) as error:
            if not _nothing_sent(error, exchange.attempts - tried):
                raise
            exchange.failover = (*exchange.failover, f"{target.upstream}={error.public_code}")
            gate.metrics.failed_over(target.upstream, error)
    return await _at(visit, call, targets[-1])


def _at(visit: Visit, call: Call, target: Target) -> Awaitable[Answer]:
    return try_at(visit.gate, call, target, visit.exchange, visit.profile, visit.heartbeat, visit.form)


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
    emit(ACCESS_LOG, level, "exchange", AccessLine.of(exchange))
    if exchange.bodies:
        shown = {which: gate.redactor.beginning(body, BODY_LOG_CHARS) for which, body in exchange.bodies.items()}
        emit(BODY_LOG, logging.INFO, "bodies", {"id": exchange.inbound.id, **shown})
