"""Serve one API request: authenticate, parse, route, admit, attempt targets, relay, end.

`handle` begins and ends a request. `serve_call` holds the steps in their order; the functions below it are their parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from gatepass import errors
from gatepass.auth.cors import cors_headers, is_preflight, preflight, preflight_error
from gatepass.auth.model_access import (
    check_body_access,
    check_model_access,
    check_operation_access,
    check_part_access,
    check_stored_access,
    may_use,
    stored_member,
    usable_servers,
)
from gatepass.config.access import PLAIN
from gatepass.errors import GatepassError, sentence
from gatepass.json_body import UNCOUNTED_BYTES
from gatepass.normalize.profiles import PROFILES, untyped
from gatepass.normalize.rules import with_model
from gatepass.observability.story import is_failure
from gatepass.protocols import PROTOCOLS
from gatepass.protocols.chat import has_messages
from gatepass.protocols.operations import (
    BY_PATH,
    CHAT_OPERATION,
    Match,
    base_url,
    is_probe,
    match_operation,
    operation_at,
    select_profile,
    split_profile,
    unknown_path_error,
    upgrade_error,
)
from gatepass.protocols.request import call_without_body, check_plain
from gatepass.proxy.app_state import AppState, Place
from gatepass.proxy.attempt import close_attempt, drop_tracebacks, send_with_retries, try_call
from gatepass.proxy.body_threads import INLINE_BYTES
from gatepass.proxy.client_response import NO_CONTENT, ClientResponse, KeepAlive, RequestCycle
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.failover import Failover
from gatepass.proxy.in_flight import FREE_BYTES, InFlightRequest
from gatepass.proxy.models import ModelCatalog
from gatepass.proxy.relay import relay
from gatepass.proxy.retry import TOO_MANY
from gatepass.proxy.routing import Route
from gatepass.proxy.uploads import Form, boundary_of
from gatepass.proxy.upstream_call import accepted_before, total_timeout
from gatepass.types import Call, ClientRequest, Operation, Timeouts, wait_text

NO_OPERATION, PREFLIGHT = "none", "preflight"
"""`operation` in the access log of a path without an operation, and of a CORS preflight."""

Serve = Callable[[InFlightRequest], Awaitable[None]]


async def handle(state: AppState, serve: Serve, client_request: ClientRequest, cycle: RequestCycle) -> None:
    """Serve one request, send its response or its error, and end its attempt and itself.

    `serve` sends the response of the admitted request, or raises the error: `serve_call`, or what serves an MCP server.
    """
    context = RequestContext.begin(client_request, state)
    client_response = ClientResponse(cycle, context)
    cause: BaseException | None = None
    try:
        with InFlightRequest(state.in_flight, client_response) as in_flight_request:
            context.memory = in_flight_request.memory
            await serve(in_flight_request)
    except errors.ClientGone as error:
        cause, context.left = error, "unread" if cycle.gave_up else "client_gone"
        drop_tracebacks(error)
    except GatepassError as error:
        drop_tracebacks(error)  # before the wait for the client
        if context.access.operation == NO_OPERATION:  # rejected before the operation was matched
            _name_operation(context)
        cause = error
        if context.attempt is not None:  # its target need not wait for a client that does not read
            close_attempt(context.attempt, error)
        await _send_error(client_response, error)
    except asyncio.CancelledError:  # the process stops without waiting for its requests
        cause = context.error = errors.Draining("gatepass was stopped before the response was complete.")
        raise
    except Exception:  # a fault of gatepass: the client gets an error with a code, and the fault is raised on
        where = f"Search the gatepass log for request id `{client_request.id}`."
        cause = errors.InternalError(f"Internal error while handling the request. {where}")
        await _send_error(client_response, cause)
        raise  # the server logs the traceback
    finally:
        attempt = context.attempt
        if attempt is not None and (cause is not None or not attempt.record.outcome):
            close_attempt(attempt, cause)
        context.end()
        # last, because `context` holds the bodies until here: also while an error waits for a client that does not read
        if context.memory is not None and context.memory.held_bytes > FREE_BYTES:  # most hold less and save the call
            context.memory.release()


async def serve_call(catalog: ModelCatalog, in_flight_request: InFlightRequest) -> None:
    """Serve an admitted request of the API, from its head to the last byte. `catalog` serves `/v1/models`."""
    client_response, context = in_flight_request.response, in_flight_request.response.context
    state, client_request, cycle = context.state, context.client_request, client_response.cycle
    # Authenticate. The head alone decides, so that gatepass reads no body of an unknown client.
    if state.config.server.cors_origins and await _answer_preflight(client_response):
        return
    takes_tokens = state.authenticator.tokens is not None
    found = await _verified(in_flight_request, context) if takes_tokens else _authenticated(in_flight_request, context)
    operation, protocol, caller, access = found.operation, context.protocol, context.caller, context.access

    # Parse.
    if client_request.names_coding:
        check_plain(client_request.headers)
    boundary = boundary_of(client_request.headers) if operation.takes_form else None
    body = await cycle.read_body(state.limits.body_bytes, in_flight_request.memory.claim)
    access.bytes_in = len(body)
    context.body_s = state.clock.now() - client_request.arrived_s
    if protocol.is_answered_here:
        document = await (catalog.listing(context) if found.model is None else catalog.entry(context, found.model))
        await client_response.send(200, [(b"content-type", b"application/json")], document)
        return
    if boundary is None and state.admission is not None and len(body) > INLINE_BYTES:
        await state.admission.admit_large(context)
    if boundary is not None:
        form = context.form = await Form.read(body, boundary, partial(check_part_access, caller))
        model = (form.model if operation.names_model else None) or state.routes.default_model(operation.name)
        call = _keep_call(context, call_without_body(client_request, operation, caller.identity, model))
    elif len(body) <= UNCOUNTED_BYTES:
        call = _parse(context, found, body)
    else:
        await asyncio.sleep(0)  # other requests run first: to join 30 MiB took 20 ms
        call = await state.body_threads.run_heavy(caller.identity, partial(_parse, context, found, body))

    # Route.
    may_see = None if caller.models is None else partial(may_use, caller)
    named = call.model if context.form is None else context.form.model or call.model
    if may_see is not None and (operation.names_model or named):
        check_model_access(caller, named)
    route = state.routes.find(call.operation.configured_as, call.model)
    if route is None:
        raise state.routes.not_found(call.operation.configured_as, call.model, may_see)

    # Admit, by the limits of use.
    if state.admission is not None:
        await state.admission.admit(context, call, route, state.body_threads)

    # Attempt the targets, and relay the first reply.
    if route.is_plain:
        await _attempt(in_flight_request, route, call, None, catalog)
    else:
        make_place = partial(Place, caller.identity, cycle.unread_s, cycle.abort)
        async with Failover.begin(state, route, call, client_request, caller, make_place, context.admitted) as failover:
            if await failover.choose(now_s := state.clock.now()) is not None:
                raise failover.unavailable(now_s)
            await _attempt(in_flight_request, route, call, failover, catalog)


async def _verified(in_flight_request: InFlightRequest, context: RequestContext) -> Match:
    """Do the same after the caller's token was verified, which may have to wait for a key of its issuer."""
    await in_flight_request.verify()
    return _authenticated(in_flight_request, context)


def _authenticated(in_flight_request: InFlightRequest, context: RequestContext) -> Match:
    """Return the operation of the request, whose caller `context` then has and may use it."""
    state, client_request = context.state, context.client_request
    base_path, path, path_profile = state.base_path, client_request.path, None
    # the table has the path of most requests, which saves the calls of two functions
    found = None if base_path else BY_PATH.get(path, {}).get(client_request.method)
    if found is None:
        path_profile, path = split_profile(path, base_path)
        found = _match(context, path, path_profile)
    operation = found.operation
    protocol = PROTOCOLS[operation.protocol]
    context.protocol = protocol.of_request(client_request) if protocol.is_answered_here else protocol
    context.access.operation = operation.name
    caller = context.authenticate(path_profile, takes_form=operation.takes_form)
    in_flight_request.begin(caller)
    if path_profile is not None or caller.profile is not None:  # otherwise it stays `plain`
        context.profile_rules = select_profile(PROFILES, path_profile, caller.profile)
    if state.authenticator.requires_key and not found.at_root:
        check_operation_access(caller, operation)
    return found


async def _attempt(
    in_flight_request: InFlightRequest, route: Route, call: Call, failover: Failover | None, catalog: ModelCatalog
) -> None:
    """Send `call`, and relay the first good reply. One total timeout limits all attempts."""
    client_response, context = in_flight_request.response, in_flight_request.response.context
    state, profile = context.state, context.profile_rules.settings
    target = route.targets[0] if failover is None else failover.target
    attempt = Attempt.begin(state, target, call, profile, context.memory, context.access, failover)
    timer = None
    if (total_s := route.total.total_s) is not None:
        attempt.deadline_s = state.clock.now() + total_s
        timer = state.clock.call_later(total_s, partial(_end_late, in_flight_request, attempt, route.total))
    keep_alive = KeepAlive(client_response)
    try:
        classified = await send_with_retries(attempt, try_call, context, keep_alive)
        await relay(classified, context.attempt or attempt, client_response, keep_alive)
    except (errors.UpstreamError, errors.TokenUnavailable, errors.Overloaded) as error:
        _explain(error, context, context.attempt or attempt, catalog)
        raise
    finally:
        keep_alive.stop()
        if timer is not None:
            timer.cancel()


def _explain(error: GatepassError, context: RequestContext, attempt: Attempt, catalog: ModelCatalog) -> None:
    """Add to the cause of `error`, which ended `attempt`, what gatepass knows besides the upstream's words."""
    more, is_limit, failover = [accepted_before(attempt, error, context.caller)], False, attempt.failover
    if isinstance(error, errors.UpstreamErrorReply) and (is_limit := error.http_status == TOO_MANY):
        retry = f" Retry in {wait_text(error.retry_after_s)}." if error.retry_after_s else ""
        more.append(f"The upstream {attempt.upstream.name!r} sets this limit, not gatepass.{retry}")
    if failover is not None and (is_limit or is_failure(error.stable_code, error.http_status, error.case)):
        more.append(others := failover.others(attempt.record, context.state.clock.now()))
        if others and isinstance(error, errors.UpstreamErrorReply) and not is_limit:
            error.original = b""  # else the client would not read it
    for one in filter(None, more):
        error.cause = f"{sentence(error.cause)} {one}"
    catalog.explain_unknown(attempt, error)


def _end_late(in_flight_request: InFlightRequest, first: Attempt, timeouts: Timeouts) -> None:
    """End a request whose total timeout passed. `first` is its first attempt."""
    attempt = in_flight_request.response.context.attempt or first
    error = total_timeout(attempt.upstream.name, timeouts)
    # a later target had only a part of the time, and one that has begun its reply is slow
    error.of_request = attempt is not first or attempt.record.status is not None
    in_flight_request.cancel(error)


async def _answer_preflight(client_response: ClientResponse) -> bool:
    """Return whether the request was the CORS preflight of an allowed origin, which then has its response.

    The response of another request gets its CORS headers. Raises NotAllowed, ForbiddenHost, ForbiddenOrigin.
    """
    context = client_response.context
    client_request, origins = context.client_request, context.state.config.server.cors_origins
    context.cors_headers = cors_headers(client_request.headers, origins)
    allowed = preflight(client_request.method, client_request.headers, origins)
    if allowed is None:
        return False
    context.state.authenticator.check_without_key(client_request)
    context.access.operation, context.cors_headers = PREFLIGHT, allowed
    await client_response.send(NO_CONTENT, (), b"")
    return True


def _match(context: RequestContext, path: str, path_profile: str | None) -> Match:
    """Return the operation of `path`, which the path of the request has after `path_profile`, and of its method.

    Without one, it raises the error that a client with a key receives, and NotAllowed, ForbiddenHost and
    ForbiddenOrigin: a forbidden client learns no more.
    """
    client_request, state = context.client_request, context.state
    try:
        return match_operation(client_request.method, path, state.base_path)
    except (errors.MethodNotAllowed, errors.UnknownPath) as found:
        error = found.with_traceback(None)
    state.authenticator.check_without_key(client_request)
    if state.authenticator.requires_key:
        with suppress(GatepassError):  # only for the log and the metrics: the path alone decides the response
            context.authenticate(path_profile)
    if isinstance(error, errors.UnknownPath):
        raise _unknown_path(context, path_profile)
    if not is_preflight(client_request.method, client_request.headers):
        raise upgrade_error(client_request) or error
    select_profile(PROFILES, path_profile, None)
    raise preflight_error(client_request.headers)


def _unknown_path(context: RequestContext, path_profile: str | None, *, at_root: bool = False) -> errors.UnknownPath:
    client_request = context.client_request
    base_path = client_request.mounted_at + context.state.base_path
    profile = path_profile if path_profile in PROFILES else None
    error = unknown_path_error(
        client_request.mounted_at + client_request.path,
        base_path,
        base_url(client_request.headers, base_path, profile, scheme=context.state.config.server.scheme),
        usable_servers(context.caller, context.state.config),
        at_root=at_root,
    )
    error.is_answer = is_probe(client_request, context.state.base_path)
    return error


def _parse(context: RequestContext, found: Match, body: bytes) -> Call:
    """Return the call in `body`.

    Raises the errors of `decode`, InvalidRequest if the operation requires a model and none is named, UnknownPath,
    and NotAllowed if the key does not allow the operation or the model.
    """
    client_request, caller = context.client_request, context.caller
    operation = _operation_at_root(context, found, body) if found.at_root else found.operation
    protocol = context.protocol
    if told := context.state.observers.request_body:
        context.state.observers.tell(told, context.access, body)
    default_model = context.state.routes.default_model
    call = protocol.parse(client_request, operation, body, caller.identity)
    if caller.models is not None and call.body:
        check_body_access(caller, call.opened())
    if protocol.names_stored and (member := stored_member(call.opened())) is not None:
        if context.state.authenticator.requires_key:
            check_stored_access(caller, member)
        call = replace(call, names_stored=True)
    if not call.model and (model := default_model(operation.configured_as)):
        call = replace(call, model=model)
        call = with_model(call, model) if call.body and operation.names_model else call
    elif not call.model and protocol.requires_model:
        advice = f"Send one, or set operations.{operation.configured_as}.model."
        raise errors.InvalidRequest(f"The body has no `model`. {advice}", param="model")
    return _keep_call(context, call)


def _operation_at_root(context: RequestContext, found: Match, body: bytes) -> Operation:
    """Return the operation that the `body` of a request to the root has. Raises UnknownPath, NotAllowed."""
    if not context.profile_rules.is_of_ragflow:
        path_profile, _ = split_profile(context.client_request.path, context.state.base_path)
        raise _unknown_path(context, path_profile, at_root=True)
    operation = CHAT_OPERATION if has_messages(body) else found.operation
    if context.state.authenticator.requires_key:
        check_operation_access(context.caller, operation)
    context.access.operation, context.protocol = operation.name, PROTOCOLS[operation.protocol]
    return operation


def _keep_call(context: RequestContext, call: Call) -> Call:
    """Set `context.call`, and return it. A profile may list a model as NAME@TYPE: the call then has only the NAME."""
    profile = context.profile_rules.settings
    if profile is not PLAIN and profile.typed_ids:
        call = replace(call, model=untyped(call.model))
    context.call = call
    context.access.model, context.access.stream = call.model, call.stream
    return call


async def _send_error(client_response: ClientResponse, error: GatepassError) -> None:
    with suppress(errors.ClientGone):
        await client_response.send_error(error)


def _name_operation(context: RequestContext) -> None:
    """Set the operation of a request that was rejected before its operation was matched."""
    client_request, base_path = context.client_request, context.state.base_path
    operation = operation_at(split_profile(client_request.path, base_path)[1], base_path)
    if operation is not None and is_preflight(client_request.method, client_request.headers):
        context.access.operation = PREFLIGHT
    elif operation is not None:
        context.access.operation = operation.name
        context.protocol = PROTOCOLS[operation.protocol].of_request(client_request)
