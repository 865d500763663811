"""The street: a request is a value that goes one way."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

from gatepass.adapt.chain import adapt
from gatepass.adapt.turn import my_turn
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
    UpstreamError,
    UpstreamTimeout,
)
from gatepass.gate import Gate, Hop
from gatepass.heartbeat import Heartbeat
from gatepass.lessons import given_up, learning_at, taught, tell
from gatepass.observe.exchange import BODY_LOG_CHARS, Exchange
from gatepass.observe.log import emit
from gatepass.parts import embedded
from gatepass.relaying import relay
from gatepass.reply import Reply
from gatepass.runtime import Leash, Timer
from gatepass.surface.decode import decode
from gatepass.surface.operations import Match, match
from gatepass.verdict import Answer, judge

ACCESS_LOG = logging.getLogger("gatepass.access")
BODY_LOG = logging.getLogger("gatepass.bodies")
SERVER_ERROR = 500
HOLD_S = 5.0
"""How long the head of a stream is held back for an upstream that answers whole: its errors keep their status."""
COMMENT_EVERY_S = 12.0
"""Proxies give up on a connection that is silent for 60 s, clients of few lines sooner (nginx: proxy_read_timeout)."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One request on its way: what came, who sent it, and where its answer goes."""

    inbound: Inbound
    gate: Gate
    catalog: Catalog
    client: Client
    reply: Reply
    exchange: Exchange
    leash: Leash
    heartbeat: Heartbeat


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
            await _serve(Visit(inbound, gate, catalog, client, reply, exchange, leash, heartbeat))
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
    gate, exchange = visit.gate, visit.exchange
    found = match(visit.inbound.method, visit.inbound.path, gate.config.server.base_path)
    exchange.operation = found.operation.name
    caller = gate.doors.admit(visit.inbound)
    exchange.caller = caller.name
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


def _left(visit: Visit) -> None:
    if not visit.reply.ended:
        visit.leash.pull(ClientGone())


async def _show_models(visit: Visit, found: Match, caller: AccessKey) -> None:
    if found.model is None:
        document = await visit.catalog.listing(caller, visit.exchange)
    else:
        document = await visit.catalog.entry(found.model, caller, visit.exchange)
    await visit.reply.whole(200, [(b"content-type", b"application/json")], document)


def _decoded(visit: Visit, found: Match, caller: AccessKey, body: bytes) -> Call:
    visit.exchange.keep_body("request", body)
    call = decode(visit.inbound, found.operation, body, caller.name)
    visit.exchange.model, visit.exchange.stream = call.model, call.stream
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
    base = adapt(call, target, gate.rules_for(call))
    with learning_at(gate, hop, target, call) as learning:
        await my_turn(learning, base, gate.clock)
        while True:
            adapted = adapt(learning.plan(base, gate.clock.now()), target, hop.dialect.rules)
            exchange.adapted = adapted.adapted
            if call.stream and not adapted.stream:
                visit.heartbeat.start()
            try:
                answer = await _asked(visit, call, adapted, hop, target)
            except UpstreamError as error:
                if taught(gate, learning, error):
                    continue
                shown = given_up(gate, learning, adapted, error)
                tell(gate, learning, exchange)
                raise shown from error.__cause__
            learning.succeeded(gate.clock.now())
            tell(gate, learning, exchange)
            accepted(hop, exchange)
            return answer


async def _asked(visit: Visit, call: Call, adapted: Call, hop: Hop, target: Target) -> Answer:
    """The judged answer to `adapted`, which is what `hop` is sent for the client's own `call`."""

    async def ask(part: Call, exchange: Exchange) -> Answer:
        request = hop.dialect.encode(
            part, target, hop.settings.base_url, target.timeouts or hop.timeouts, tuple(hop.settings.forward_headers)
        )
        return await _ask(visit, call, hop, request, exchange)

    if call.operation.surface is not Surface.EMBEDDINGS:
        return await ask(adapted, visit.exchange)
    return await embedded(call, adapted, hop.name, visit.exchange, ask)


async def _ask(visit: Visit, call: Call, hop: Hop, request: Request, exchange: Exchange) -> Answer:
    """A judged answer; where it turned out to be a rejection of the token, the next one, to a new token."""
    gate = visit.gate
    try:
        response = await send(gate, hop, request, exchange)
        said_id = header(response.headers, b"x-request-id")
        exchange.upstream_request_id = said_id.decode("latin-1")[:100] if said_id is not None else None
        return await judge(gate, call, hop, response, exchange)
    except UpstreamError as error:
        await renew(gate, hop, error, exchange)
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
