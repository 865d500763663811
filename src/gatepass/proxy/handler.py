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
from gatepass.auth.model_access import (
    check_body_access,
    check_model_access,
    check_operation_access,
    may_use,
    permit_part,
)
from gatepass.cancel import CancelScope
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
from gatepass.normalize.profiles import ProfileRules, untyped
from gatepass.normalize.rerank import is_question
from gatepass.observability.log import emit
from gatepass.operations.request import check_encoding, decode, without_body
from gatepass.operations.table import Match, base_url, match, nothing_at, operation_at, select_profile, split_profile
from gatepass.proxy.app_state import AppState
from gatepass.proxy.attempt import try_target
from gatepass.proxy.client_response import ClientResponse, RequestCycle
from gatepass.proxy.context import BODY_LOG_CHARS, RequestContext
from gatepass.proxy.in_flight import InFlightRequest
from gatepass.proxy.keepalive import KeepAlive
from gatepass.proxy.large_body import INLINE_BYTES, INLINE_VALUES, needs_scan, run_off_loop, scanned
from gatepass.proxy.models import Catalog
from gatepass.proxy.relay import relay
from gatepass.proxy.response import ClassifiedReply
from gatepass.proxy.uploads import MultipartScan, MultipartUpload, boundary_of
from gatepass.types import Call, ClientProtocol, ClientRequest, Operation, Target, header

ACCESS_LOG = logging.getLogger("gatepass.access")
BODY_LOG = logging.getLogger("gatepass.bodies")
CLIENT_ERROR, SERVER_ERROR, NO_CONTENT = 400, 500, 204


async def handle(client_request: ClientRequest, state: AppState, catalog: Catalog, cycle: RequestCycle) -> None:
    """Serve one request, from its head to its access line.

    admit ─► decode ─► resolve ─► for each target: adapt ─► encode ─► authorize ─► send ─► judge,
    then relay ─► observe. The head alone admits: nobody unknown makes gatepass read a body.
    """
    context = RequestContext(client_request, state, state.profiles["plain"])
    client_response = ClientResponse(cycle, context)
    state.metrics.request_started()
    try:
        with state.in_flight.admit(client_response) as request:
            await _serve(context, catalog, client_response, request)
    except ClientGone:
        context.client_gone = True
    except GatepassError as error:
        if context.operation == NO_OPERATION:
            context.operation = operation_name(client_request, state.config.server.base_path)
        await _send_error(client_response, error)
    except asyncio.CancelledError:
        context.error = Draining("gatepass was stopped at once.")
        raise
    except Exception:
        await _send_error(client_response, InternalError("gatepass failed at this request. Its log tells more."))
        raise  # the server logs its trace
    finally:
        _log_request(context)


async def _serve(
    context: RequestContext, catalog: Catalog, client_response: ClientResponse, request: InFlightRequest
) -> None:
    state, client_request = context.state, context.client_request
    base_path = state.config.server.base_path
    in_path, path = split_profile(client_request.path, base_path)
    has_origin = state.has_pages and header(client_request.headers, b"origin") is not None
    if has_origin and await _answered_preflight(context, client_response, in_path):
        return
    try:
        found = match(client_request.method, path, base_path)
    except (MethodNotAllowed, UnknownPath) as fault:
        raise unknown_operation(context, in_path, fault) from None
    operation = found.operation
    context.operation, context.memory = operation.name, request.memory
    caller = context.caller = state.authenticator.authenticate(client_request, in_path, takes_form=operation.takes_form)
    name = caller.name
    request.claim(name, caller.max_concurrent)
    client_response.cycle.set_caller(name)
    if in_path is not None or caller.profile is not None or state.has_pages:
        _apply_profile(context, select_profile(state.profiles, in_path, caller.profile))
    if operation.takes_form:
        context.upload = open_upload(context, client_response.cycle, operation)
        body = b""
    else:
        body = await client_response.cycle.read_body(state.config.limits.body_bytes, request.memory.claim)
        context.bytes_in = len(body)
    unwatch = client_response.cycle.on_disconnect(lambda: request.cancel(ClientGone()))
    try:
        if context.upload is not None:
            await _serve_call(context, await parse_upload(context, context.upload, found), client_response, request)
        elif operation.protocol is ClientProtocol.MODELS:
            await _show_models(context, catalog, client_response, found)
        else:
            is_small = len(body) <= INLINE_BYTES
            call = parse_call(context, found, body) if is_small else await decoded_large(context, found, body)
            await _serve_call(context, call, client_response, request)
    finally:
        unwatch()


def _apply_profile(context: RequestContext, profile: ProfileRules) -> None:
    """Serve the client as `profile` says, from here on."""
    context.profile = profile
    context.headers = cors_headers(context.client_request.headers, profile.settings.cors_origins)


async def _answered_preflight(context: RequestContext, client_response: ClientResponse, in_path: str | None) -> bool:
    """Whether a browser only asked if its page may call: it shows no key then, so the path alone can tell the profile.

    Raises UnknownPath, ForbiddenHost, ForbiddenOrigin.
    """
    state, client_request = context.state, context.client_request
    state.authenticator.check_page(client_request)
    _apply_profile(context, select_profile(state.profiles, in_path, None))
    allowed = preflight(client_request.method, client_request.headers, context.profile.settings.cors_origins)
    if allowed is None:
        return False
    context.operation, context.headers = PREFLIGHT, allowed
    await client_response.send(NO_CONTENT, (), b"")
    return True


async def _show_models(
    context: RequestContext, catalog: Catalog, client_response: ClientResponse, found: Match
) -> None:
    document = await (catalog.listing(context) if found.model is None else catalog.entry(context, found.model))
    await client_response.send(200, [(b"content-type", b"application/json")], document)


async def _serve_call(
    context: RequestContext, call: Call, client_response: ClientResponse, cancel_scope: CancelScope
) -> None:
    """resolve, then the answer of the first target that gives one, relayed."""
    state, caller = context.state, context.caller
    may_see = None
    if caller.models is not None:
        check_model_access(caller, call.model)
        may_see = partial(may_use, caller)
    targets = state.routes.resolve(call.operation.name, call.model, may_see)
    bound = _bound_total(state, cancel_scope, targets[0])
    keep_alive = KeepAlive(client_response, state.clock, state.periodic_checks)
    try:
        if len(targets) == 1:  # nearly always: no coroutine to choose among them
            classified = await try_target(context, call, targets[0], keep_alive)
        else:
            classified = await _answer(context, call, targets, keep_alive)
        await relay(classified, context, client_response, keep_alive)
    finally:
        keep_alive.stop()
        if bound is not None:
            bound.cancel()


async def _answer(
    context: RequestContext, call: Call, targets: tuple[Target, ...], keep_alive: KeepAlive
) -> ClassifiedReply:
    """Try the targets in order, as long as not one byte of the request was written to the last one."""
    for target in targets[:-1]:
        try:
            return await try_target(context, call, target, keep_alive)
        except (UpstreamError, TokenUnavailable, Overloaded) as error:
            if context.attempts[-1].written:
                raise
            context.failover = (*context.failover, f"{target.upstream}={error.public_code}")
            context.state.metrics.failed_over(target.upstream, error)
    return await try_target(context, call, targets[-1], keep_alive)


def _bound_total(state: AppState, cancel_scope: CancelScope, target: Target) -> Timer | None:
    """Ends the whole conversation after `timeouts.total_s`, all attempts and the stream included."""
    hop = state.upstreams[target.upstream]
    total_s = (target.timeouts or hop.timeouts).total_s
    if total_s is None:
        return None
    error = UpstreamTimeout(
        f"The answer was not complete after {total_s:g} s (timeouts.total_s).", upstream=hop.name, phase="total"
    )
    return state.clock.call_later(total_s, lambda: cancel_scope.cancel(error))


async def _send_error(client_response: ClientResponse, error: GatepassError) -> None:
    with suppress(ClientGone):
        await client_response.send_error(error)


def _log_request(context: RequestContext) -> None:
    state, client_request, error = context.state, context.client_request, context.error
    duration_s = state.clock.now() - client_request.arrived_s
    if context.upload is not None:
        context.bytes_in = context.upload.bytes_in
    outcome = context.outcome
    state.metrics.request_finished(context.operation, outcome, duration_s, context.bytes_in, context.bytes_out)
    if context.events and context.first_byte_s is not None:
        state.metrics.began_stream(context.operation, context.first_byte_s)
    if error is not None:
        state.metrics.error_sent(error)
    if context.empty_answer and context.upstream_name is not None:
        state.metrics.empty_answer(context.upstream_name)
    level, status = logging.INFO, context.status or 0
    if status >= SERVER_ERROR or (error is not None and 0 < status < CLIENT_ERROR):  # its head was out already
        level = logging.WARNING
    emit(ACCESS_LOG, level, "request", context.record(outcome, duration_s))
    if state.keeps_bodies and (bodies := context.captured_bodies()):
        shown = {which: state.redactor.beginning(body, BODY_LOG_CHARS) for which, body in bodies.items()}
        emit(BODY_LOG, logging.INFO, "bodies", {"id": client_request.id, **shown})


MODEL_IS_NEEDED = (ClientProtocol.CHAT, ClientProtocol.EMBEDDINGS, ClientProtocol.RESPONSES)
"""Without a model these are no requests: their body names one, or their operation does. Others go on without."""

AT_ONCE_BYTES, AT_ONCE_STEPS = 256 * 1024, 60_000
"""A body up to here is decoded on the loop: 10 ms at most, and 15 ms for the steps."""
MOST_AT_ONCE_BYTES = 8 * 1024 * 1024
"""One of few values up to here: 15 ms at most."""

NO_OPERATION, PREFLIGHT = "none", "preflight"
"""What the access line calls what is served nowhere, and a browser's question before a request."""


def unknown_operation(
    context: RequestContext, in_path: str | None, fault: MethodNotAllowed | UnknownPath
) -> GatepassError:
    """What to tell a client for whose path and method there is no operation; `in_path` is the profile in its path.

    Raises ForbiddenPeer, ForbiddenHost, ForbiddenOrigin and UnknownPath where the client is not to hear that.
    """
    client_request, state = context.client_request, context.state
    state.authenticator.check_page(client_request)
    if isinstance(fault, UnknownPath):
        return _nowhere(context, in_path)
    if not is_preflight(client_request.method, client_request.headers):
        return fault
    select_profile(state.profiles, in_path, None)
    return shut_out(client_request.headers, in_path)


def operation_name(client_request: ClientRequest, base_path: str) -> str:
    """What the access line of `client_request` names as its operation, where it is refused before that is known."""
    operation = operation_at(split_profile(client_request.path, base_path)[1], base_path)
    if operation is not None and is_preflight(client_request.method, client_request.headers):
        return PREFLIGHT
    return operation or NO_OPERATION


def _nowhere(context: RequestContext, in_path: str | None) -> UnknownPath:
    client_request = context.client_request
    base_path = client_request.mounted_at + context.state.config.server.base_path
    profile = in_path if in_path in context.state.profiles else None
    return nothing_at(
        client_request.mounted_at + client_request.path, base_path, base_url(client_request.headers, base_path, profile)
    )


async def decoded_large(context: RequestContext, found: Match, body: bytes) -> Call:
    """As `parse_call`, in slices or off the event loop if the body is large. Also raises BodyTooComplex."""
    operation, has_inputs = found.operation, found.operation.protocol is ClientProtocol.EMBEDDINGS
    is_json = operation.protocol is not ClientProtocol.RAW or operation.method == "POST"
    if is_json and needs_scan(body, has_inputs=has_inputs):
        check_operation_access(context.caller, operation)
        body = await scanned(body, counts_inputs=has_inputs)
    elif len(body) <= AT_ONCE_BYTES or (len(body) <= MOST_AT_ONCE_BYTES and not has_more_values(body, INLINE_VALUES)):
        try:
            return parse_call(context, found, body, AT_ONCE_STEPS)
        except TooManySteps:
            pass
    return await run_off_loop(body, partial(parse_call, context, found, body))


def parse_call(context: RequestContext, found: Match, body: bytes, most_steps: int = MOST_STEPS) -> Call:
    """The call that `body` asks for. Raises what `decode` and `_unnamed` do, UnknownPath and ModelNotAllowed."""
    operation, client_request, caller = found.operation, context.client_request, context.caller
    is_limited = caller.models is not None
    if is_limited:
        check_operation_access(caller, operation)
    if context.state.keeps_bodies:
        context.capture_request(body)
    if operation.protocol is ClientProtocol.RAW and (not body or operation.method != "POST"):
        call = without_body(client_request, operation, caller.name, context.state.routes.default_model(operation.name))
    else:
        call = decode(client_request, operation, body, caller.name, most_steps)
        if is_limited:
            check_body_access(caller, body, most_steps, names_model=bool(call.model))
        if not call.model:
            call = _unnamed(context, call)
    if found.at_root and not is_question(body):
        raise _nowhere(context, split_profile(client_request.path, context.state.config.server.base_path)[0])
    return _typed(context, call)


def _unnamed(context: RequestContext, call: Call) -> Call:
    """`call`, whose body names no model, under the one of its operation, which the body names from now on where it is
    about one. Raises InvalidRequest where it goes nowhere without."""
    operation = call.operation
    model = context.state.routes.default_model(operation.name)
    if not model:
        if operation.protocol in MODEL_IS_NEEDED:
            raise InvalidRequest("The body names no `model`.", param="model")
        return call
    named = replace(call, model=model)
    return with_model(named, model) if operation.names_model else named


def open_upload(context: RequestContext, cycle: RequestCycle, operation: Operation) -> MultipartUpload:
    """The body of `operation` as a form of which nothing was read yet. Raises UnsupportedEncoding, UnsupportedMediaType
    and InvalidRequest."""
    client_request, limits = context.client_request, context.state.config.limits
    boundary = boundary_of(client_request.headers)
    check_encoding(client_request.headers)
    if boundary is None:
        raise UnsupportedMediaType("Send the body as `content-type: multipart/form-data` with its boundary.")
    length = header(client_request.headers, b"content-length") or b""
    length_bytes = int(length) if length.isdigit() else None
    return MultipartUpload(
        cycle, operation, limits, MultipartScan(boundary, partial(permit_part, context.caller)), length_bytes
    )


async def parse_upload(context: RequestContext, upload: MultipartUpload, found: Match) -> Call:
    """The call that `upload` asks for, which is read until its model is known, where it is about one.

    Raises what `MultipartUpload.read` does, ModelNotAllowed, and InvalidRequest if the form exceeds the bytes that
    gatepass holds before its model arrives.
    """
    check_operation_access(context.caller, found.operation)
    await upload.begin()
    model = upload.model if found.operation.names_model else None
    if model is None:
        model = context.state.routes.default_model(found.operation.name)
        if found.operation.names_model and not upload.is_whole and not _leads_on(context, found.operation, model):
            raise upload.without_model()
    call = _typed(context, without_body(context.client_request, found.operation, context.caller.name, model))
    upload.routed = call.model
    return call


def _leads_on(context: RequestContext, operation: Operation, model: str) -> bool:
    try:
        context.state.routes.resolve(operation.name, model)
    except ModelNotFound:
        return False
    return may_use(context.caller, model)


def _typed(context: RequestContext, call: Call) -> Call:
    """`call` under the name that the model really has, where the profile lists it under another."""
    if context.profile.settings.typed_ids:
        call = replace(call, model=untyped(call.model))
    context.call = call
    return call
