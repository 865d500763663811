"""One request over the second hop: authorize ─► send, a rejected token renewed once.

When is an error of an upstream its way to say that it does not take the token? Pure.

What a broken connection means for the second hop, in words that say what to do.

The words are chosen for RAGFlow too, which sorts errors by words in their text (its
`_classify_error`): "auth" and "key" would make a fault of the network a wrong credential, and final;
"invalid" makes final what no repeat can mend.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from types import MappingProxyType
from urllib.parse import urlsplit

from msgspec.structs import replace

from gatepass.cancel import timeout
from gatepass.config.upstream import RejectionConfig
from gatepass.dialects.error_body import Mask, is_error, kind_of, unmasked
from gatepass.dialects.hints import sentence, token_hint
from gatepass.dialects.reply_check import ReceivedReply
from gatepass.errors import (
    Fault,
    GatepassError,
    Overloaded,
    TokenUnavailable,
    TransportFault,
    UpstreamAuth,
    UpstreamClosed,
    UpstreamConnect,
    UpstreamDns,
    UpstreamError,
    UpstreamErrorReply,
    UpstreamHtml,
    UpstreamInvalid,
    UpstreamRedirect,
    UpstreamTimeout,
    UpstreamTls,
)
from gatepass.http_client.response_body import read_whole
from gatepass.observability.redaction import whole_words
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.context import Attempt
from gatepass.tokens import Token, TokenHolder, TokenReissued
from gatepass.types import Headers, OutboundRequest, Response

UNAUTHORIZED = 401
SERVER_ERROR = 500

_LOGIN = re.compile(
    r"(?:\A|/)(?:log-?[io]n|sign-?in|sso|saml2?|oauth2?|openid-connect|adfs|cas|idp|auth)(?:[/.;_-]|\Z)", re.IGNORECASE
)
"""A segment of a path behind which people log in."""


def is_rejection(error: GatepassError, told_by: RejectionConfig, host: str) -> bool:
    """Whether `error`, from the upstream at `host` (`name:port`), says that it did not take the token."""
    if isinstance(error, UpstreamErrorReply):
        return says_so(error.upstream_status, told_by) or error.upstream_code in told_by.codes
    if isinstance(error, UpstreamRedirect):
        return told_by.login_page and leads_to_login(error.target, host, told_by.login_hosts)
    return isinstance(error, UpstreamHtml) and told_by.login_page


def says_so(status: int, told_by: RejectionConfig) -> bool:
    return status == UNAUTHORIZED or status in told_by.statuses


def named(error: UpstreamError, told_by: RejectionConfig) -> UpstreamError:
    """`error`, or what a code of the configuration makes of it: a client's retry cannot mend it.

    In a 200 that code had no status of its own, so it got 502; now it has.
    """
    if not isinstance(error, UpstreamErrorReply) or isinstance(error, UpstreamAuth):
        return error
    if error.upstream_code is None or error.upstream_code not in told_by.codes:
        return error
    status = error.upstream_status if error.upstream_status < SERVER_ERROR else UNAUTHORIZED
    refusal = UpstreamAuth(
        error.message,
        upstream=error.hop.partition(":")[2],
        status=status,
        kind=error.kind if status == error.upstream_status else kind_of(status),
        upstream_code=error.upstream_code,
        param=error.param,
        retry_after_s=error.retry_after_s,
        raw=error.raw,
    )
    refusal.relayed, refusal.should_retry = error.relayed, error.should_retry
    return refusal


def leads_to_login(target: str | None, host: str, login_hosts: list[str] | None) -> bool:
    """Whether a redirect from `host` to `target` ends at a login.

    Without `login_hosts` every other host counts (no API is answered from there, and gatepass follows
    no redirect), and a path of this one with a word such as `login`; not the step from http to https,
    or to a path with a slash at its end: these say that `base_url` is wrong.
    """
    try:
        own, there = urlsplit(f"//{host}").hostname, urlsplit(target or "")
        name = there.hostname or own
    except ValueError:
        return False
    if target is None or name is None:
        return False
    if login_hosts is not None:
        return any(fnmatchcase(name, known.lower()) for known in login_hosts)
    return name != own or _LOGIN.search(there.path) is not None


DETAIL_CHARS = 300

_CLASS: Mapping[Fault, type[UpstreamError]] = MappingProxyType(
    {
        Fault.DNS: UpstreamDns,
        Fault.CONNECT: UpstreamConnect,
        Fault.PROXY: UpstreamConnect,
        Fault.TLS: UpstreamTls,
        Fault.CLOSED: UpstreamClosed,
        Fault.INVALID: UpstreamInvalid,
        Fault.TOO_LARGE: UpstreamInvalid,
    }
)

_PHASE: Mapping[Fault, str] = MappingProxyType(
    {
        Fault.TIMEOUT_CONNECT: "connect",
        Fault.TIMEOUT_POOL: "connect",
        Fault.TIMEOUT_FIRST_BYTE: "first_byte",
        Fault.TIMEOUT_IDLE: "idle",
    }
)

_TEXT: Mapping[Fault, str] = MappingProxyType(
    {
        Fault.DNS: (
            "The name {host} cannot be resolved{detail}. Check the host in {settings}.base_url and the DNS"
            " of the machine that gatepass runs on."
        ),
        Fault.CONNECT: (
            "No connection to {host}{detail}. Check the host and port in {settings}.base_url, whether it is up,"
            " and whether this network needs {settings}.network.proxy."
        ),
        Fault.PROXY: "The proxy in front of {host} refuses{detail}. Check {settings}.network.{proxy_setting}.",
        Fault.TLS: (
            "No secure connection to {host}{detail}. If a company certificate signs this host, name its PEM"
            " file in {settings}.network.ca_file; if the host wants a client certificate, set"
            " {settings}.network.client_cert."
        ),
        Fault.CLOSED: (
            "{host} closed the connection before its reply was complete{detail}; whether it did the work is"
            " unknown. Try again where that does no harm."
        ),
        Fault.INVALID: (
            "The reply of {host} is invalid HTTP{detail}. Check that {settings}.base_url names an HTTP or HTTPS API."
        ),
        Fault.TOO_LARGE: (
            "The reply of {host} is larger than gatepass may hold, which makes it invalid here{detail}. Raise"
            " limits.reply_bytes, or ask for less in one call."
        ),
        Fault.TIMEOUT_CONNECT: (
            "No connection to {host} within {settings}.timeouts.connect_s. Check the host and port in"
            " {settings}.base_url, a firewall between, and whether this network needs {settings}.network.proxy."
        ),
        Fault.TIMEOUT_POOL: (
            "All connections that {settings}.max_connections allows to {host} were busy. Try again, or raise it."
        ),
        Fault.TIMEOUT_FIRST_BYTE: (
            "{host} sent no reply within timeouts.first_byte_s. A slow model needs more: set it in"
            " {settings}.timeouts, or in `timeouts` of the model or the operation where that is set."
        ),
        Fault.TIMEOUT_IDLE: (
            "{host} fell silent in the middle of its reply for longer than timeouts.idle_s. A model that pauses"
            " needs more: set it in {settings}.timeouts, or in `timeouts` of the model or the operation where that is"
            " set."
        ),
    }
)


def upstream_error(fault: TransportFault, upstream: str, base_url: str, mask: Mask = unmasked) -> UpstreamError:
    """The error of hop `upstream:NAME` for `fault`: what happened, and which setting to look at.

    The detail may quote what came over the wire, so `mask` is asked before it is cut.
    """
    detail = " ".join(mask(fault.detail).split())[:DETAIL_CHARS].rstrip(".")
    message = _TEXT[fault.fault].format(
        host=urlsplit(base_url).netloc.rpartition("@")[2],
        settings=f"upstreams.{upstream}",
        detail=f" ({detail})" if detail else "",
        proxy_setting="proxy_auth" if fault.detail.startswith("407") else "proxy",
    )
    phase = _PHASE.get(fault.fault)
    if phase is not None:
        return UpstreamTimeout(message, upstream=upstream, phase=phase, sent=fault.sent)
    return _CLASS[fault.fault](message, upstream=upstream, sent=fault.sent)


REFUSAL_BYTES = 64 * 1024
"""As much of an error's body as is read."""
REJECTION_S = 1.0
"""How long the body of a rejection is waited for: its status has said all, and others wait for the new token."""


async def send(attempt: Attempt, request: OutboundRequest) -> Response:
    """The reply to `request`, sent with the token of the moment in which it is written; whoever gets it closes it.

    A 401 (or what `rejection.statuses` adds) drops the token by its value, asks for one new token and
    sends once more: a second one is returned as it came. Raises TokenUnavailable and UpstreamError.
    """
    hop = attempt.upstream
    response = await _sent(attempt, request)
    if hop.holder is None or attempt.token is None or attempt.renewed or not _is_rejected(hop, response):
        return response
    refusal = await read_error(attempt, response, within_s=REJECTION_S)
    if not await _has_newer(attempt, hop.holder, attempt.token):
        raise refusal
    if not _can_be_sent_again(request):
        raise _by_the_client_again(hop) from refusal
    response = await _sent(attempt, request)
    if _is_rejected(hop, response):
        hop.holder.rejected_again(attempt.user)
    return response


async def renew_token(attempt: Attempt, error: UpstreamError, request: OutboundRequest) -> None:
    """Have another token for `request` after a judged reply turned out to be a rejection of the last one.

    Some gateways write it so: HTTP 200 with `{"code":401,"msg":"token expired"}`, or a login page.
    Raises `error` where it is none, the request has had its new token already, or there is none to be had: with what
    was tried, where it is a rejection.
    """
    hop, token = attempt.upstream, attempt.token
    if not is_rejection(error, hop.settings.rejection, hop.host):
        raise error
    if hop.holder is None or token is None:
        raise explain_rejection(attempt, error) if isinstance(error, UpstreamAuth) else error
    if attempt.renewed:
        hop.holder.rejected_again(attempt.user)
        raise explain_rejection(attempt, error)
    if not await _has_newer(attempt, hop.holder, token):
        raise explain_rejection(attempt, error)
    if not _can_be_sent_again(request):
        raise _by_the_client_again(hop) from error


def explain_rejection(attempt: Attempt, refusal: UpstreamError) -> UpstreamError:
    """`refusal` of a token, in words that say what was tried with which credential, and what to do."""
    hop, token = attempt.upstream, attempt.token
    age_s = None if token is None or token.lifetime_s is None else attempt.state.clock.now() - token.requested_s
    reason = hop.holder.not_renewed(attempt.user) if hop.holder is not None and not attempt.renewed else None
    hint = token_hint(hop.name, hop.settings.credential, age_s, not_renewed=reason)
    refusal.message = f"{sentence(refusal.message)} {hint}"
    return refusal


def confirm_token(attempt: Attempt) -> None:
    """The upstream took the token: should it refuse it later, it is the token's end and not a wrong credential."""
    if attempt.upstream.holder is not None and attempt.token is not None:
        attempt.upstream.holder.confirm(attempt.token, attempt.user)


async def read_error(attempt: Attempt, response: Response, within_s: float | None = None) -> GatepassError:
    """The error that a reply of 400 and above stands for, read from what came of it `within_s`; closes the reply."""
    state = attempt.state
    try:
        body = await _beginning(state, response, within_s)
    except TransportFault as fault:
        return connection_error(attempt, fault)
    finally:
        await response.aclose()
    attempt.capture_reply(body)
    error = attempt.upstream.dialect.classify_error(received_reply(attempt, response, body))
    error.relayed = _limit_headers(response.headers, state.redactor.mask)
    return error


def received_reply(attempt: Attempt, response: Response, body: bytes) -> ReceivedReply:
    """What the upstream answered, as its dialect judges it; `body` is as much of it as was read."""
    state, hop = attempt.state, attempt.upstream
    return ReceivedReply(
        hop.name,
        response.status,
        response.headers,
        body,
        hop.host,
        state.clock.wall(),
        state.redactor.mask,
        has_credential=hop.holder is not None,
    )


def connection_error(attempt: Attempt, fault: TransportFault) -> UpstreamError:
    """The error that a fault of the connection is to the client."""
    hop = attempt.upstream
    return upstream_error(fault, hop.name, hop.settings.base_url, attempt.state.redactor.mask)


async def read_body(attempt: Attempt, response: Response, limit_bytes: int, beginning: bytes = b"") -> bytes:
    """The whole body of a reply, of which `beginning` was read already; closes it. Raises UpstreamError."""
    try:
        return await read_whole(response, limit_bytes, beginning, attempt.memory)
    except TransportFault as fault:
        raise connection_error(attempt, fault) from fault
    finally:
        await response.aclose()


class _Outdated(Exception):
    """The token ended while its request waited for a connection, and no other is here."""


async def _sent(attempt: Attempt, request: OutboundRequest) -> Response:
    """The reply to `request`, which waits for a token, and for a connection, until it has both at one moment.

    Once more, on a new connection, where a kept one turned out to be dead before anything came back.
    """
    hop = attempt.upstream
    while True:
        if hop.holder is not None:
            attempt.token = hop.holder.current() or await _waited(attempt, hop.holder)
        attempt.requests += 1
        attempt.state.metrics.attempted(hop.name)
        try:
            response = await hop.transport.send(_authorized(attempt, request))
        except _Outdated:
            attempt.requests -= 1  # it never left: the log and the client are told of those that did
        except TransportFault as fault:
            request = _on_a_new_connection(attempt, request, fault)
        else:
            attempt.written = True
            return response


def _on_a_new_connection(attempt: Attempt, request: OutboundRequest, fault: TransportFault) -> OutboundRequest:
    """`request` for the one repeat that `fault` allows; raises what it is to the client where it allows none."""
    hop = attempt.upstream
    if fault.fault is Fault.TIMEOUT_POOL:
        raise _pool_busy(hop) from fault
    attempt.written = attempt.written or fault.sent
    is_final = attempt.repeated or not _can_be_sent_again(request)
    if is_final or not (fault.stale and hop.settings.repeat_stale):
        raise connection_error(attempt, fault) from fault
    attempt.repeated = True
    attempt.state.metrics.repeated_stale(hop.name)
    return replace(request, new_connection=True)


def _can_be_sent_again(request: OutboundRequest) -> bool:
    return request.upload is None or request.upload.can_restart()


def _by_the_client_again(hop: Upstream) -> TokenUnavailable:
    """The token is new, and the upload that went with the last one is not held: its sender has it."""
    error = TokenUnavailable(
        "The upstream refused the token during the upload. There is a new one now: send the request again.",
        credential=hop.settings.credential or "",
        retry_after_s=1,
    )
    error.should_retry = True
    return error


def _is_rejected(hop: Upstream, response: Response) -> bool:
    return is_error(response.status) and says_so(response.status, hop.settings.rejection)


def _authorized(attempt: Attempt, request: OutboundRequest) -> OutboundRequest:
    hop, token = attempt.upstream, attempt.token
    if hop.holder is None or token is None:
        return hop.injector.loaded(request, None, attempt.state.clock.now())
    anew = partial(_authorized_anew, attempt, hop.holder, request)
    return hop.injector.loaded(request, token.value, attempt.state.clock.now(), anew)


def _authorized_anew(attempt: Attempt, holder: TokenHolder, request: OutboundRequest) -> OutboundRequest | None:
    """`request` with another token, where this moment has another; raises _Outdated where it has none."""
    token = holder.current()
    if token is None:
        raise _Outdated
    if token is attempt.token:
        return None
    attempt.token = token
    return attempt.upstream.injector.loaded(request, token.value, attempt.state.clock.now())


async def _has_newer(attempt: Attempt, holder: TokenHolder, token: Token) -> bool:
    """Wait for another token than the one that was refused; False where the issuer has no other.

    Requests that were refused with the same token share one renewal, the parts of one call too.
    """
    if not holder.reject(token.text, attempt.user):
        return False
    try:
        attempt.token = await _waited(attempt, holder, instead_of=token.text)
    except TokenReissued:
        return False
    attempt.renewed = True
    attempt.state.metrics.renewed(attempt.upstream.name)
    return True


async def _beginning(state: AppState, response: Response, within_s: float | None) -> bytes:
    """As much of a body as is read of an error, and as has come `within_s`."""
    pieces: list[bytes] = []
    size_bytes = 0

    def write(piece: bytes) -> bool:
        nonlocal size_bytes
        pieces.append(piece)
        size_bytes += len(piece)
        return size_bytes <= REFUSAL_BYTES

    with suppress(TimeoutError):
        reading = response.stream_to(write)
        await (reading if within_s is None else timeout(state.clock, within_s, reading, TimeoutError()))
    body = b"".join(pieces)[:REFUSAL_BYTES]
    return whole_words(body) if size_bytes > REFUSAL_BYTES else body


async def _waited(attempt: Attempt, holder: TokenHolder, instead_of: str | None = None) -> Token:
    began_s = attempt.state.clock.now()
    try:
        return await holder.token(instead_of)
    finally:
        attempt.token_wait_s += attempt.state.clock.now() - began_s


def _pool_busy(hop: Upstream) -> Overloaded:
    return Overloaded(
        f"Every connection to the upstream {hop.name!r} is in use (upstreams.{hop.name}.max_connections).",
        retry_after_s=1,
    )


def _limit_headers(headers: Headers, mask: Mask) -> Headers:
    """What tells a client how long to wait, passed on with the error: the OpenAI SDKs read these."""
    return tuple(
        (name, mask(value.decode("latin-1")).encode("latin-1", "replace"))
        for name, value in headers
        if name.startswith(b"x-ratelimit-") or name == b"retry-after-ms"
    )
