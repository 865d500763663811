"""The parts of a call to an upstream: attach and renew its token, read its errors, map transport faults to errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from gatepass import errors
from gatepass.auth.caller import Caller
from gatepass.auth.model_access import may_use
from gatepass.cancel import timeout
from gatepass.clock import wait_at_most
from gatepass.config.advice import Advice, with_variable
from gatepass.config.block import SECRET_NAME
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.network import NO_NETWORK, Network
from gatepass.config.routes import block_of_operation
from gatepass.config.upstream import RejectionConfig, url_with_version
from gatepass.dialects.base import RELAYED_WITH_ERROR, RELAYED_WITH_ERROR_PREFIXES
from gatepass.dialects.hints import Remedy, case_of, tried_with
from gatepass.dialects.reply_check import LOGIN_REDIRECT, ReceivedReply
from gatepass.draft import Draft
from gatepass.errors import Fault, GatepassError, TransportFault, UpstreamError, UpstreamErrorReply, sentence
from gatepass.http_client.fault_text import ServerNames, fault_text
from gatepass.http_client.response_body import read_whole
from gatepass.http_client.tls import TlsProblem, tls_problem
from gatepass.json_body import ONE_PASS_BYTES
from gatepass.learning.pointing import is_too_long, no_room, refuses_member
from gatepass.observability.observer import AttemptRecord, SentToken
from gatepass.observability.redaction import whole_words
from gatepass.observability.story import attempts_of
from gatepass.protocols import PROTOCOLS
from gatepass.protocols.client_protocol import ClientProtocol
from gatepass.protocols.operations import CHAT_OPERATION
from gatepass.protocols.translation.chat_request import SHOWN_CHARS
from gatepass.proxy.app_state import UNAUTHORIZED, AppState, Place, Upstream
from gatepass.proxy.context import Attempt
from gatepass.proxy.failover import Failover
from gatepass.replies.error_body import MESSAGE_CHARS, TRACE_CHARS, Mask, before_trace, error_kind
from gatepass.sse.usage import usage_of
from gatepass.tokens import Token, TokenHolder, TokenReissued
from gatepass.types import (
    CLIENT_ERROR,
    MCP_UPSTREAM,
    SERVER_ERROR,
    Call,
    Headers,
    OutboundRequest,
    Response,
    Timeouts,
    settings_of,
    span,
)

ERROR_BYTES = 64 * 1024
NAMED_BYTES = 256 * 1024
"""Limit on the body whose members are listed on the event loop. It may have 16,000."""
REFUSED = (UNAUTHORIZED, 403)
SERVED_BY_CHATS = ("/messages", "/responses")
"""The paths that an upstream may lack, because chats can serve their operations."""
REJECTION_S = 1.0
"""The longest wait for the body of a rejection. The status is enough to renew the token, and other requests need it."""


class TokenExpired(errors.TokenUnavailable):
    """The token expired while its request waited for a connection, and the holder has no other one."""


def reauthorized(attempt: Attempt, request: OutboundRequest) -> OutboundRequest | None:
    """Return `request` with the token that is current when it is written, None if that has not changed.

    A request may wait for a connection longer than its token is valid. Raises TokenExpired.
    """
    upstream, holder = attempt.upstream, attempt.upstream.holder
    if holder is None or (token := holder.current()) is None:
        waited = "The token expired while the request waited for a connection."
        raise TokenExpired(waited, credential=upstream.credential)
    if token is attempt.token:
        return None  # the transport sends the request unchanged
    attempt.token, attempt.record.token = token, holder.sent(token, attempt.state.clock.now())
    return traced(upstream.injector.authorize(request, token.value), attempt.record)


def traced(request: OutboundRequest, record: AttemptRecord) -> OutboundRequest:
    """Return `request` with the trace context of its attempt in place of the client's, if it has one."""
    if not record.trace:
        return request
    record.url = request.url.partition("?")[0]  # the query may hold the token
    kept = (field for field in request.headers if field[0] not in (b"traceparent", b"tracestate"))
    return replace(request, headers=(*kept, *record.trace))


async def wait_for_token(attempt: Attempt, holder: TokenHolder, instead_of: str | None = None) -> Token:
    began_s, record = attempt.state.clock.now(), attempt.record
    if attempt.token is None:
        record.token = SentToken(attempt.upstream.credential)
    try:
        return await holder.token(instead_of)
    finally:
        waited_s = attempt.state.clock.now() - began_s
        if instead_of is None:
            record.token_wait_s += waited_s
        else:
            record.renewal_s = waited_s


async def wait_for_place(attempt: Attempt, failover: Failover, place: Place) -> None:
    """Wait until the upstream has a place for the request. Raises Overloaded if it gets none in time."""
    queue, record, clock = failover.queue, attempt.record, attempt.state.clock
    name, began_s, limit_s = attempt.upstream.name, clock.now(), attempt.upstream.settings.queue_s
    if place in queue.waiting:
        until_s = began_s + limit_s - sum(one.queue_wait_s for one in attempts_of(record.after))
        record.queue_position = [*queue.waiting].index(place) + 1
        try:
            while place in queue.waiting and (left_s := until_s - clock.now()) > 0:
                place.clear()
                await wait_at_most(place, min(left_s, failover.end_unread()), clock)
        finally:
            record.queue_wait_s = clock.now() - began_s
            record.upstream_s += record.queue_wait_s
            key = (failover.caller.name, record.model, name, record.operation)
            attempt.state.metrics.waited_in_queue(key, record.queue_wait_s)
    if place in queue.holding:
        return
    block = settings_of(name)
    why = f"no place became free within {limit_s:g} s ({block}.queue_s)"
    if place not in queue.waiting:
        failover.end_unread()
        why = f"{len(queue.waiting)} wait for a place ({block}.queue)"
    busy = f"The upstream {name!r} is at its limit of {queue.limit} ({block}.max_in_flight), and {why}."
    raise errors.Overloaded(busy, retry_after_s=1)


async def renew_token(attempt: Attempt, error: GatepassError) -> bool:
    """Wait for another token than the one of `attempt`, which the upstream rejected with `error`.

    Returns False if the issuer has no other one, or the request already had a new one. Requests that were rejected
    with the same token share one renewal, and so do the parts of one call.
    """
    holder, token, user, caller = attempt.upstream.holder, attempt.token, attempt.user(), attempt.call.caller
    if holder is None or token is None:
        return False
    state = attempt.upstream.state
    state.accepted = {model: replace(one, is_confirmed=False) for model, one in state.accepted.items()}
    if attempt.renewed:
        holder.rejected_again(token, user, caller, is_page=is_page(error))
        return False
    if not holder.reject(token.text, user, caller, is_page=is_page(error)):
        return False
    try:
        await wait_for_token(attempt, holder, instead_of=token.text)
    except TokenReissued:
        return False
    return True


def send_error(attempt: Attempt, fault: TransportFault) -> UpstreamError | errors.Overloaded:
    """Return the error for `fault`, which ended a request before the head of its reply."""
    if fault.kind is Fault.TIMEOUT_POOL:
        name = attempt.upstream.name
        busy = f"Every connection to the upstream {name!r} is in use ({settings_of(name)}.max_connections)."
        return errors.Overloaded(busy, retry_after_s=1)
    attempt.sent, attempt.stale = fault.sent, fault.stale
    return connection_error(attempt, fault)


def is_rejection(error: GatepassError, config: RejectionConfig) -> bool:
    """Return whether `error` means that the upstream rejected the token."""
    if isinstance(error, UpstreamErrorReply):
        status = error.http_status
        has_code = not {error.upstream_code, error.kind}.isdisjoint(config.codes)
        return status == UNAUTHORIZED or status in config.statuses or has_code
    if isinstance(error, errors.UpstreamRedirect):
        return error.case == LOGIN_REDIRECT
    return isinstance(error, errors.UpstreamHtml)


def is_page(error: GatepassError) -> bool:
    """Whether `error` is a web page in place of an answer, which may concern the request alone: that of a filter."""
    is_401 = error.http_status == UNAUTHORIZED
    return not is_401 and error.stable_code in (errors.UpstreamHtml.code, errors.UpstreamRedirect.code)


def as_rejection(error: UpstreamError, config: RejectionConfig, replied: int) -> UpstreamError:
    """Return `error`, as UpstreamAuth if `rejection.codes` has its code or type: a retry of the client cannot fix it.

    It becomes a 401, unless the upstream `replied` with a 4xx of its own.
    """
    if not isinstance(error, UpstreamErrorReply) or isinstance(error, errors.UpstreamAuth):
        return error
    if {error.upstream_code, error.kind}.isdisjoint(config.codes):
        return error
    status = error.http_status if CLIENT_ERROR <= replied < SERVER_ERROR else UNAUTHORIZED
    rejection = errors.UpstreamAuth(
        error.cause,
        advice=error.advice,
        upstream=error.hop.partition(":")[2],
        status=status,
        kind=error.kind if status == error.http_status else error_kind(status),
        upstream_code=error.upstream_code,
        param=error.param,
        retry_after_s=error.retry_after_s,
    )
    rejection.relayed, rejection.should_retry, rejection.detail = error.relayed, error.should_retry, error.detail
    return rejection


def read_in_200(attempt: Attempt, error: UpstreamError) -> None:
    """Make `error` a 400 if it refuses a member of the request in a 200, under a code that gatepass does not know."""
    if not isinstance(error, UpstreamErrorReply) or not error.of_request:
        return
    sent, body = (attempt.normalized or attempt.call).body, error.error_body
    if body is not None and not body.own and len(sent) <= NAMED_BYTES and refuses_member(body, sent):
        error.http_status, error.kind = 400, body.kind or error_kind(400)
        if error.case == "5xx":
            error.case = case_of(body, 400, attempt.upstream.name, attempt.call.model)


def explain_rejection(attempt: Attempt, rejection: GatepassError) -> None:
    """Add to the text of `rejection` the credential, the renewal that was tried, and advice."""
    upstream, token = attempt.upstream, attempt.token
    age_s = None if token is None or token.lifetime_s is None else attempt.state.clock.now() - token.requested_s
    reason = None if upstream.holder is None or attempt.renewed else upstream.holder.denial_reason()
    is_key = token is not None and token.lifetime_s is None
    remedy = rejection_remedy(attempt.state, upstream, is_key=is_key)
    lacking = "" if rejection.http_status == UNAUTHORIZED else remedy.cause  # the text of a 401 has it
    if tried := tried_with(upstream.settings.credential, age_s, reason) or lacking:
        rejection.cause = f"{sentence(rejection.cause)} {tried}"
    # the advice for a page, about access to a model, and a hint about a 401, names more than the credential
    is_vague = rejection.http_status != UNAUTHORIZED or not rejection.advice
    if isinstance(rejection, UpstreamErrorReply) and rejection.case != "model_denied" and is_vague:
        rejection.advice, rejection.case, rejection.setting = remedy.advice, remedy.case, remedy.setting
    if attempt.renewed and rejection.http_status in REFUSED:
        rejection.should_retry = False


SAME_MODEL_S = 300.0
"""How long it counts that a key was accepted for the model for which it is rejected now."""


def accepted_before(attempt: Attempt, error: GatepassError, caller: Caller) -> str:
    """Return when the upstream accepted the credential that it rejects with `error`, "" if that is not known.

    It names a model that `caller` used, or that the configuration names, if `caller` may use it.
    """
    upstream, call, accepted = attempt.upstream, attempt.call, attempt.upstream.state.accepted
    is_rejected = isinstance(error, errors.UpstreamAuth) or error.case in ("static_key", "header_key", "rejected_token")
    error_body = error.error_body if isinstance(error, UpstreamErrorReply) else None
    said = error_body.message if error_body else error.cause  # which may have a page's text
    is_of_rights = re.search(r"(?i)\ballowed\b|permission|access to|to access|权限|开通", said[:MESSAGE_CHARS])
    if not is_rejected or is_of_rights or not (upstream.holder or header_keys(upstream)):
        return ""
    now_s, model, token = attempt.state.clock.now(), attempt.target.model or call.model, attempt.token
    is_key, credential = token is None or token.lifetime_s is None, upstream.holder or upstream.injector
    known = [
        one
        for name, one in accepted.items()
        if one.model and one.credential is credential and (name != model or now_s - one.at_s <= SAME_MODEL_S)
    ]
    if is_key and token is not None:  # its file may have another one since
        known = [one for one in known if one.token is not None and one.token.text == token.text]
    if not known:
        return ""
    is_configured = attempt.state.routes.configured_name
    shown = [one for one in known if one.scope.owner == call.caller or is_configured(one.model) == one.model]
    # two digits at most, because RAGFlow retries an error whose text contains a number such as 429
    shown = [one for one in shown if may_use(caller, one.model) and not re.search(r"\d{3}", one.model)]
    last = max(shown or known, key=lambda one: one.at_s)
    named = repr(last.model) if shown else "this model" if accepted.get(model) is last else "another model"
    return (
        f"The upstream accepted it {span(min(now_s - last.at_s, 99 * 86_400))} ago for {named}: if the"
        f" {'key' if is_key else 'login'} was not revoked since, the upstream's own key for what is behind it is wrong."
    )


def rejection_remedy(state: AppState, upstream: Upstream, *, is_key: bool) -> Remedy:
    """Return what to correct if `upstream` rejects what gatepass sends. `is_key`: it does not expire."""
    name, block = upstream.settings.credential, settings_of(upstream.name)
    if name is None or is_key:
        key = f"credentials.{name}.token"
        key = key if with_variable(key) != key else f"credentials.{name}"
        places = header_keys(upstream) if name is None else [key]
        if not places:
            advice, cause = Advice("no_credential", {"upstream": block}), "gatepass has no credential for it."
            return Remedy(str(advice), advice.case, cause=cause)
        case, setting = "header_key" if name is None else "static_key", ", ".join(places)
        return Remedy(str(Advice(case, {"setting": setting})), case, setting)
    used = ("scope", "audience") if isinstance(state.config.credentials[name], Oauth2Credential) else ()
    placed = f"credentials.{name}" if upstream.name.startswith(MCP_UPSTREAM) else block
    places = [*(f"credentials.{name}.{one}" for one in used), f"{placed}.token_placement"]
    return Remedy(str(Advice("rejected_token", {"credential": name})), "rejected_token", ", ".join(places))


def header_keys(upstream: Upstream) -> list[str]:
    """Return the settings under `headers` and `query` that are named like one of a key."""
    settings, block = upstream.settings, settings_of(upstream.name)
    places = {"headers": settings.headers, "query": settings.query}
    return [f"{block}.{place}.{name}" for place, names in places.items() for name in filter(SECRET_NAME.search, names)]


async def read_error(attempt: Attempt, response: Response, within_s: float | None = None) -> GatepassError:
    """Return the error in a response of status 400 or above, from what arrives `within_s`. Closes the response."""
    state, pieces, size_bytes = attempt.state, list[bytes](), 0

    def write(piece: bytes) -> bool:
        nonlocal size_bytes
        pieces.append(piece)
        size_bytes += len(piece)
        return size_bytes <= ERROR_BYTES

    try:
        reading = response.stream_to(write)
        with suppress(TimeoutError):
            # Without `within_s`, the timeouts of the upstream apply.
            await (reading if within_s is None else timeout(state.clock, within_s, reading, TimeoutError()))
    except TransportFault as fault:
        return connection_error(attempt, fault)
    finally:
        attempt.add_upstream_wait()
        await response.aclose()
    body, is_cut = b"".join(pieces), size_bytes > ERROR_BYTES
    if is_cut:
        body = whole_words(body[:ERROR_BYTES])  # a secret that is cut would not be masked
    reply = replace(received_reply(attempt, response, body), is_cut=is_cut)
    error = attempt.upstream.dialect.classify_error(reply)
    attempt.note_usage(usage_of(body))
    if isinstance(error, UpstreamErrorReply):
        keep_original(error, body, PROTOCOLS[attempt.call.operation.protocol], state.redactor.mask)
    return error


def keep_original(error: UpstreamErrorReply, body: bytes, protocol: ClientProtocol, mask: Mask) -> None:
    """Set `original` if the client receives the bytes of `error`, and add what clients search for in its message.

    `body` is the JSON text of the error. A 401 is about the credential of gatepass, not about that of the client. A
    stack trace names the upstream's files.
    """
    text = body[:TRACE_CHARS].decode("utf-8", "replace")
    text = re.sub(r"\\[nrt]", "\n", text)
    if error.http_status != UNAUTHORIZED and not error.detail and before_trace(text) == text:
        error.original = protocol.own_error(body, mask)
    mark_overflow(error, protocol)


def mark_overflow(error: UpstreamErrorReply, protocol: ClientProtocol) -> None:
    """Add to the message of an error about too long a context what clients search for."""
    room = no_room(error.error_body.message if error.error_body else error.message)
    if (room or is_too_long(error)) and (mark := protocol.overflow_mark(error.message, room)):
        error.cause, error.original = f"{sentence(error.cause)} {mark}", b""


def relayed_fields(response: Response, mask: Mask) -> Headers:
    return tuple(
        (name, mask(value.decode("latin-1")).encode("latin-1", "replace"))
        for name, value in response.headers
        if name in RELAYED_WITH_ERROR or name.startswith(RELAYED_WITH_ERROR_PREFIXES)
    )


def received_reply(attempt: Attempt, response: Response, body: bytes) -> ReceivedReply:
    """Return the reply as the dialect reads it. `body` is the part that was read."""
    state, upstream, operation = attempt.state, attempt.upstream, attempt.call.operation
    is_key, key = attempt.token is not None and attempt.token.lifetime_s is None, None
    if upstream.holder is not None or header_keys(upstream):
        key = "this key" if is_key or upstream.holder is None else ""
    is_mcp, route = upstream.name.startswith(MCP_UPSTREAM), ""
    has_version = is_mcp or url_with_version(upstream.settings.dialect, upstream.base_url) is None
    if is_mcp:
        missing = "mcp_no_path"
    else:
        route = state.declared.route_setting(operation.configured_as, attempt.call.model)
        if attempt.chat is not None:
            missing = "no_chat"
        elif operation.configured_as == "models":
            missing = "no_list"
        elif operation.path in SERVED_BY_CHATS:
            missing = "no_api" if has_version else "no_api_version"
        else:
            block = block_of_operation(state.config.operations, operation.configured_as)
            is_chosen = block is not None and block.upstream == upstream.name
            named = "no_path_of_operation" if is_chosen else "no_path"
            missing = "no_version" if not has_version else "no_path_of_model" if route else named
    largest = (
        f"{settings_of(upstream.name)}.headers",
        sum(len(value.reveal()) for value in upstream.settings.headers.values()),
    )
    if attempt.token is not None:
        largest = f"credentials.{upstream.settings.credential}", len(attempt.token.text)
    return ReceivedReply(
        upstream.name,
        response.status,
        response.headers,
        body,
        upstream.host,
        state.clock.wall(),
        state.redactor.mask,
        upstream.dialect.hints,
        key,
        rejected=rejection_remedy(state, upstream, is_key=is_key),
        rejection=upstream.settings.rejection,
        model=attempt.call.model,
        operation=operation.name,
        route=route,
        path="" if is_mcp else operation.path if attempt.chat is None else CHAT_OPERATION.path,
        missing=missing,
        largest=largest,
    )


async def read_body(attempt: Attempt, response: Response, limit_bytes: int, beginning: bytes = b"") -> bytes:
    """Return the whole body, after the `beginning` that was read before; raise UpstreamError. Closes the response."""
    try:
        return await read_whole(response, limit_bytes, beginning, attempt)
    except TransportFault as fault:
        raise connection_error(attempt, fault) from fault
    finally:
        attempt.add_upstream_wait()
        await response.aclose()


def total_timeout(upstream: str, timeouts: Timeouts) -> errors.UpstreamTimeout:
    """Return the error at the end of the total timeout of the first target. `upstream` is the one tried now."""
    limit = f"{timeouts.total_s:g} s ({timeouts.settings['total_s']})"
    return errors.UpstreamTimeout(
        f"The answer was not complete after {limit}.",
        advice=str(Advice("upstream_timeout_total")),
        upstream=upstream,
        phase="total",
        setting=timeouts.settings["total_s"],
    )


_ERROR_CLASSES: Mapping[Fault, type[UpstreamError]] = {
    Fault.DNS: errors.UpstreamDns,
    Fault.CONNECT: errors.UpstreamConnect,
    Fault.PROXY: errors.UpstreamConnect,
    Fault.TLS: errors.UpstreamTls,
    Fault.CLOSED: errors.UpstreamClosed,
    Fault.INVALID: errors.UpstreamInvalid,
    Fault.TOO_LARGE: errors.UpstreamInvalid,
}


def connection_error(attempt: Attempt, fault: TransportFault) -> UpstreamError:
    upstream = attempt.upstream
    mask, network = attempt.state.redactor.mask, upstream.settings.network
    timeouts = attempt.target.timeouts or upstream.timeouts
    return upstream_error(fault, upstream.name, upstream.settings.base_url, timeouts, mask, network)


def upstream_error(
    fault: TransportFault,
    upstream: str,
    base_url: str,
    timeouts: Timeouts,
    mask: Mask = str,
    network: Network = NO_NETWORK,
) -> UpstreamError:
    """Return the error of hop `upstream:NAME` for `fault`, with the setting to check."""
    text = fault_text(fault, ServerNames.of_upstream(upstream, base_url, timeouts, network), mask)
    advice = text.advice
    case = advice.case if advice and errors.explanations()[advice.case].of else ""  # a code is not a case of itself
    said: dict[str, Any] = {"advice": str(advice), "case": case, "names": advice.names}
    if fault.kind not in _ERROR_CLASSES:
        phase = "connect" if fault.kind is Fault.TIMEOUT_POOL else fault.kind.removeprefix("timeout_")
        return errors.UpstreamTimeout(text.why, upstream=upstream, phase=phase, sent=fault.sent, **said)
    of_request = fault.kind is Fault.TOO_LARGE
    error = _ERROR_CLASSES[fault.kind](text.why, upstream=upstream, sent=fault.sent, of_request=of_request, **said)
    of_certificate = (TlsProblem.CERTIFICATE, TlsProblem.UNKNOWN_CA)  # a retry cannot correct it
    if fault.kind is Fault.TLS and tls_problem(fault.detail) in of_certificate:
        error.should_retry = False
    return error


_TOOL = (
    r"(?i)\btools(?:[\[.]\d{1,4}\]?\.function_?declarations)?[\[.](\d{1,4})\b"
    r"\]?(?:\.function\b(?:\.(?!name\b)[\w.]+)?)?"
)
"""A tool by its number, with what messages and responses lack of its path."""


def name_tool(error: UpstreamErrorReply, attempt: Attempt, sent: Call) -> None:
    """Add the name of the tool at which an upstream points by its number, and of a translated one the place."""
    text = f"{error.param} {error.cause[:MESSAGE_CHARS]}"
    if (found := re.search(_TOOL, text)) is None or not 0 < len(sent.body) <= ONE_PASS_BYTES:
        return
    try:
        name = _tool_names(sent).get(int(found[1]))
        if name and attempt.chat is not None and (tool := attempt.chat.about.tools.get(name)) is not None:
            name = tool.name
            if place := next((f"tools[{at}]" for at, one in _tool_names(attempt.call).items() if one == name), ""):
                error.cause = error.cause.replace(found[0], place)
                error.param = error.param and error.param.replace(found[0], place)
    except errors.CallerError:  # the body has more values than gatepass opens
        return
    if name and name not in text:
        error.cause = f"{sentence(error.cause)} It is the tool {name[:SHOWN_CHARS]!r}."
        error.original = b""  # else the client would not read it


def _tool_names(call: Call) -> dict[int, str | None]:
    tools = enumerate(one.object for one in Draft(call).top.array("tools") or ())
    return {at: (tool.object("function") or tool).string("name") for at, tool in tools if tool is not None}
