"""The street: a request is a value that goes one way.

decode: the body of a request becomes a Call, under the name that its model really has.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from gatepass.auth.cors import cors_headers, is_preflight, preflight, shut_out
from gatepass.auth.model_access import may_use, permit, permit_members, permit_operation, permit_part
from gatepass.cancel import Leash
from gatepass.clock import Timer
from gatepass.errors import (
    ClientGone,
    Draining,
    GatepassError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    Overloaded,
    TokenUnavailable,
    UnknownPath,
    UnsupportedMediaType,
    UpstreamError,
    UpstreamTimeout,
)
from gatepass.json_scan import MOST_STEPS, TooManySteps, has_more_values
from gatepass.normalize.built_in import with_model
from gatepass.normalize.profiles import Prepared, untyped
from gatepass.normalize.rerank import is_question
from gatepass.observability.log import emit
from gatepass.operations.request import check_encoding, decode, without_body
from gatepass.operations.table import Match, base_url, chosen, match, nothing_at, operation_at, split_profile
from gatepass.proxy.app_state import Gate
from gatepass.proxy.attempt import try_at
from gatepass.proxy.client_response import Client, Reply
from gatepass.proxy.context import BODY_LOG_CHARS, RequestContext
from gatepass.proxy.in_flight import Place
from gatepass.proxy.keepalive import Heartbeat
from gatepass.proxy.large_body import INLINE_BYTES, INLINE_VALUES, apart, needs_scan, scanned
from gatepass.proxy.models import Catalog
from gatepass.proxy.relay import relay
from gatepass.proxy.response import Answer
from gatepass.proxy.uploads import Form, FormScan, boundary_of
from gatepass.types import Call, Inbound, Operation, Surface, Target, header

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


MODEL_IS_NEEDED = (Surface.CHAT, Surface.EMBEDDINGS, Surface.RESPONSES)
"""Without a model these are no requests: their body names one, or their operation does. Others go on without."""

AT_ONCE_BYTES, AT_ONCE_STEPS = 256 * 1024, 60_000
"""A body up to here is decoded on the loop: 10 ms at most, and 15 ms for the steps."""
MOST_AT_ONCE_BYTES = 8 * 1024 * 1024
"""One of few values up to here: 15 ms at most."""

NO_OPERATION, PREFLIGHT = "none", "preflight"
"""What the access line calls what is served nowhere, and a browser's question before a request."""


def unserved(context: RequestContext, in_path: str | None, fault: MethodNotAllowed | UnknownPath) -> GatepassError:
    """What to tell a client for whose path and method there is no operation; `in_path` is the profile in its path.

    Raises ForbiddenPeer, ForbiddenHost, ForbiddenOrigin and UnknownPath where the client is not to hear that.
    """
    inbound, gate = context.inbound, context.gate
    gate.doors.check_page(inbound)
    if isinstance(fault, UnknownPath):
        return _nowhere(context, in_path)
    if not is_preflight(inbound.method, inbound.headers):
        return fault
    chosen(gate.profiles, in_path, None)
    return shut_out(inbound.headers, in_path)


def asked_for(inbound: Inbound, base_path: str) -> str:
    """What the access line of `inbound` names as its operation, where it is refused before that is known."""
    operation = operation_at(split_profile(inbound.path, base_path)[1], base_path)
    if operation is not None and is_preflight(inbound.method, inbound.headers):
        return PREFLIGHT
    return operation or NO_OPERATION


def _nowhere(context: RequestContext, in_path: str | None) -> UnknownPath:
    inbound = context.inbound
    base_path = inbound.mounted_at + context.gate.config.server.base_path
    profile = in_path if in_path in context.gate.profiles else None
    return nothing_at(inbound.mounted_at + inbound.path, base_path, base_url(inbound.headers, base_path, profile))


async def decoded_large(context: RequestContext, found: Match, body: bytes) -> Call:
    """As `decoded`, in slices or beside the loop where it would occupy the loop for long. Raises BodyTooComplex too."""
    operation, has_inputs = found.operation, found.operation.surface is Surface.EMBEDDINGS
    is_json = operation.surface is not Surface.RAW or operation.method == "POST"
    if is_json and needs_scan(body, has_inputs=has_inputs):
        permit_operation(context.caller, operation)
        body = await scanned(body, counts_inputs=has_inputs)
    elif len(body) <= AT_ONCE_BYTES or (len(body) <= MOST_AT_ONCE_BYTES and not has_more_values(body, INLINE_VALUES)):
        try:
            return decoded(context, found, body, AT_ONCE_STEPS)
        except TooManySteps:
            pass
    return await apart(body, partial(decoded, context, found, body))


def decoded(context: RequestContext, found: Match, body: bytes, most_steps: int = MOST_STEPS) -> Call:
    """The call that `body` asks for. Raises what `decode` and `_unnamed` do, UnknownPath and ModelNotAllowed."""
    operation, inbound, caller = found.operation, context.inbound, context.caller
    is_limited = caller.models is not None
    if is_limited:
        permit_operation(caller, operation)
    if context.gate.keeps_bodies:
        context.keep_request(body)
    if operation.surface is Surface.RAW and (not body or operation.method != "POST"):
        call = without_body(inbound, operation, caller.name, context.gate.routes.model_without_name(operation.name))
    else:
        call = decode(inbound, operation, body, caller.name, most_steps)
        if is_limited:
            permit_members(caller, body, most_steps, names_model=bool(call.model))
        if not call.model:
            call = _unnamed(context, call)
    if found.at_root and not is_question(body):
        raise _nowhere(context, split_profile(inbound.path, context.gate.config.server.base_path)[0])
    return _typed(context, call)


def _unnamed(context: RequestContext, call: Call) -> Call:
    """`call`, whose body names no model, under the one of its operation, which the body names from now on where it is
    about one. Raises InvalidRequest where it goes nowhere without."""
    operation = call.operation
    model = context.gate.routes.model_without_name(operation.name)
    if not model:
        if operation.surface in MODEL_IS_NEEDED:
            raise InvalidRequest("The body names no `model`.", param="model")
        return call
    named = replace(call, model=model)
    return with_model(named, model) if operation.names_model else named


def form_of(context: RequestContext, client: Client, operation: Operation) -> Form:
    """The body of `operation` as a form of which nothing was read yet. Raises UnsupportedEncoding, UnsupportedMediaType
    and InvalidRequest."""
    inbound, limits = context.inbound, context.gate.config.limits
    boundary = boundary_of(inbound.headers)
    check_encoding(inbound.headers)
    if boundary is None:
        raise UnsupportedMediaType("Send the body as `content-type: multipart/form-data` with its boundary.")
    length = header(inbound.headers, b"content-length") or b""
    length_bytes = int(length) if length.isdigit() else None
    return Form(client, operation, limits, FormScan(boundary, partial(permit_part, context.caller)), length_bytes)


async def named_by(context: RequestContext, form: Form, found: Match) -> Call:
    """The call that `form` asks for, which is read until its model is known, where it is about one.

    Raises what `Form.read` does, ModelNotAllowed, and InvalidRequest for a form that is too long to be held until its
    model comes, where the call leads nowhere without.
    """
    permit_operation(context.caller, found.operation)
    await form.begin()
    model = form.model if found.operation.names_model else None
    if model is None:
        model = context.gate.routes.model_without_name(found.operation.name)
        if found.operation.names_model and not form.is_whole and not _leads_on(context, found.operation, model):
            raise form.without_model()
    call = _typed(context, without_body(context.inbound, found.operation, context.caller.name, model))
    form.routed = call.model
    return call


def _leads_on(context: RequestContext, operation: Operation, model: str) -> bool:
    try:
        context.gate.routes.resolve(operation.name, model)
    except ModelNotFound:
        return False
    return may_use(context.caller, model)


def _typed(context: RequestContext, call: Call) -> Call:
    """`call` under the name that the model really has, where the profile lists it under another."""
    if context.profile.settings.typed_ids:
        call = replace(call, model=untyped(call.model))
    context.call = call
    return call
