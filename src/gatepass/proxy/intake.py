"""decode: the body of a request becomes a Call, under the name that its model really has."""

from __future__ import annotations

from functools import partial

from msgspec.structs import replace

from gatepass.auth.cors import is_preflight, shut_out
from gatepass.auth.model_access import may_use, permit_members, permit_operation, permit_part
from gatepass.errors import (
    GatepassError,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    UnknownPath,
    UnsupportedMediaType,
)
from gatepass.json_scan import MOST_STEPS, TooManySteps, has_more_values
from gatepass.normalize.built_in import with_model
from gatepass.normalize.profiles import untyped
from gatepass.normalize.rerank import is_question
from gatepass.operations.decode import decode, without_body
from gatepass.operations.headers import check_encoding
from gatepass.operations.profile_path import base_url, chosen, split_profile
from gatepass.operations.table import Match, nothing_at, operation_at
from gatepass.proxy.client_response import Client
from gatepass.proxy.context import RequestContext
from gatepass.proxy.large_body import INLINE_VALUES, apart, needs_scan, scanned
from gatepass.proxy.upload import Form
from gatepass.proxy.uploads import FormScan, boundary_of
from gatepass.types import Call, Inbound, Operation, Surface, header

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
