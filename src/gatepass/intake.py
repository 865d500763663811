"""decode: the body of a request becomes a Call, under the name that its model really has."""

from __future__ import annotations

from msgspec.structs import replace

from gatepass.adapt.model_name import with_model
from gatepass.adapt.rerank.question import is_question
from gatepass.adapt.typed_ids import untyped
from gatepass.admission.cors import is_preflight, shut_out
from gatepass.admission.doors import may_use, permit_operation
from gatepass.call import Call, Inbound, Operation, Surface, header
from gatepass.config.access import AccessKey
from gatepass.errors import (
    GatepassError,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    UnknownPath,
    UnsupportedMediaType,
)
from gatepass.surface.base_url import base_url
from gatepass.surface.decode import decode, without_body
from gatepass.surface.form_data import boundary_of
from gatepass.surface.headers import check_encoding
from gatepass.surface.operations import Match, nothing_at, operation_at
from gatepass.surface.profile_path import chosen, split_profile
from gatepass.upload import Form
from gatepass.visit import Visit

MODEL_IS_NEEDED = (Surface.CHAT, Surface.EMBEDDINGS, Surface.RESPONSES)
"""Without a model these are no requests: their body names one, or their operation does. Others go on without."""

NO_OPERATION, PREFLIGHT = "none", "preflight"
"""What the access line calls what is served nowhere, and a browser's question before a request."""


def unserved(visit: Visit, in_path: str | None, fault: MethodNotAllowed | UnknownPath) -> GatepassError:
    """What to tell a client for whose path and method there is no operation; `in_path` is the profile in its path.

    Raises ForbiddenHost, ForbiddenOrigin and UnknownPath where a browser's page is not to hear that.
    """
    inbound, gate = visit.inbound, visit.gate
    if isinstance(fault, UnknownPath):
        return _nowhere(visit, in_path)
    if not is_preflight(inbound.method, inbound.headers):
        return fault
    gate.doors.check_page(inbound)
    chosen(gate.profiles, in_path, None)
    return shut_out(inbound.headers, in_path)


def asked_for(inbound: Inbound, base_path: str) -> str:
    """What the access line of `inbound` names as its operation, where it is refused before that is known."""
    operation = operation_at(split_profile(inbound.path, base_path)[1], base_path)
    if operation is not None and is_preflight(inbound.method, inbound.headers):
        return PREFLIGHT
    return operation or NO_OPERATION


def _nowhere(visit: Visit, in_path: str | None) -> UnknownPath:
    inbound, base_path = visit.inbound, visit.gate.config.server.base_path
    profile = in_path if in_path in visit.gate.profiles else None
    return nothing_at(inbound.path, base_path, base_url(inbound.headers, base_path, profile))


def decoded(visit: Visit, found: Match, caller: AccessKey, body: bytes) -> Call:
    """The call that `body` asks for. Raises what `decode` and `_unnamed` do, UnknownPath and ModelNotAllowed."""
    permit_operation(caller, found.operation)
    visit.exchange.keep_body("request", body)
    operation, inbound = found.operation, visit.inbound
    if operation.surface is Surface.RAW and (not body or operation.method != "POST"):
        call = without_body(inbound, operation, caller.name, visit.gate.routes.model_without_name(operation.name))
    else:
        call = decode(inbound, operation, body, caller.name)
        if not call.model:
            call = _unnamed(visit, call)
    if found.at_root and not is_question(body):
        raise _nowhere(visit, split_profile(inbound.path, visit.gate.config.server.base_path)[0])
    return _typed(visit, call)


def _unnamed(visit: Visit, call: Call) -> Call:
    """`call`, whose body names no model, under the one of its operation, which the body names from now on where it is
    about one. Raises InvalidRequest where it goes nowhere without."""
    operation = call.operation
    model = visit.gate.routes.model_without_name(operation.name)
    if not model:
        if operation.surface in MODEL_IS_NEEDED:
            raise InvalidRequest("The body names no `model`.", param="model")
        return call
    named = replace(call, model=model)
    return with_model(named, model) if operation.names_model else named


def form_of(visit: Visit, operation: Operation) -> Form:
    """The body of `operation` as a form of which nothing was read yet. Raises UnsupportedEncoding, UnsupportedMediaType
    and InvalidRequest."""
    inbound, limits = visit.inbound, visit.gate.config.limits
    boundary = boundary_of(inbound.headers)
    check_encoding(inbound.headers)
    if boundary is None:
        raise UnsupportedMediaType("Send the body as `content-type: multipart/form-data` with its boundary.")
    length = header(inbound.headers, b"content-length") or b""
    length_bytes = int(length) if length.isdigit() else None
    held_bytes = limits.body_bytes if operation.names_model else 0
    return Form(visit.client, visit.exchange, limits.upload_bytes, boundary, length_bytes, held_bytes)


async def named_by(visit: Visit, form: Form, found: Match, caller: AccessKey) -> Call:
    """The call that `form` asks for, which is read until its model is known, where it is about one.

    Raises what `Form.read` does, ModelNotAllowed, and InvalidRequest for a form that is too long to be held until its
    model comes, where the call leads nowhere without.
    """
    permit_operation(caller, found.operation)
    await form.begin()
    model = form.model if found.operation.names_model else None
    if model is None:
        model = visit.gate.routes.model_without_name(found.operation.name)
        if found.operation.names_model and not form.is_whole and not _leads_on(visit, found.operation, model, caller):
            raise form.without_model()
    call = _typed(visit, without_body(visit.inbound, found.operation, caller.name, model))
    form.routed = call.model
    return call


def _leads_on(visit: Visit, operation: Operation, model: str, caller: AccessKey) -> bool:
    try:
        visit.gate.routes.resolve(operation.name, model)
    except ModelNotFound:
        return False
    return may_use(caller, model)


def _typed(visit: Visit, call: Call) -> Call:
    """`call` under the name that the model really has, where the profile lists it under another."""
    if visit.profile.settings.typed_ids:
        call = replace(call, model=untyped(call.model))
    visit.exchange.model, visit.exchange.stream = call.model or None, call.stream
    return call
