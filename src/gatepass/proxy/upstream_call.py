"""One request over the second hop: authorize ─► send, a rejected token renewed once."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from gatepass.cancel import timeout
from gatepass.dialects.error_body import Mask, is_error
from gatepass.dialects.hints import of_token, sentence
from gatepass.dialects.reply_check import Reply
from gatepass.errors import (
    Fault,
    GatepassError,
    Overloaded,
    TokenUnavailable,
    TransportFault,
    UpstreamAuth,
    UpstreamError,
)
from gatepass.http_client.response_body import read_whole
from gatepass.observability.redaction import whole_words
from gatepass.proxy.app_state import Gate, Hop
from gatepass.proxy.context import Attempt
from gatepass.proxy.fault import upstream_error
from gatepass.proxy.rejection import is_rejection, says_so
from gatepass.tokens import Token, TokenHolder, TokenReissued
from gatepass.types import Headers, Request, Response

REFUSAL_BYTES = 64 * 1024
"""As much of an error's body as is read."""
REJECTION_S = 1.0
"""How long the body of a rejection is waited for: its status has said all, and others wait for the new token."""


async def send(attempt: Attempt, request: Request) -> Response:
    """The reply to `request`, sent with the token of the moment in which it is written; whoever gets it closes it.

    A 401 (or what `rejection.statuses` adds) drops the token by its value, asks for one new token and
    sends once more: a second one is returned as it came. Raises TokenUnavailable and UpstreamError.
    """
    hop = attempt.hop
    response = await _sent(attempt, request)
    if hop.holder is None or attempt.token is None or attempt.renewed or not _is_rejected(hop, response):
        return response
    refusal = await refused(attempt, response, within_s=REJECTION_S)
    if not await _has_newer(attempt, hop.holder, attempt.token):
        raise refusal
    if not _can_be_sent_again(request):
        raise _by_the_client_again(hop) from refusal
    response = await _sent(attempt, request)
    if _is_rejected(hop, response):
        hop.holder.rejected_again(attempt.user)
    return response


async def renew(attempt: Attempt, error: UpstreamError, request: Request) -> None:
    """Have another token for `request` after a judged reply turned out to be a rejection of the last one.

    Some gateways write it so: HTTP 200 with `{"code":401,"msg":"token expired"}`, or a login page.
    Raises `error` where it is none, the request has had its new token already, or there is none to be had: with what
    was tried, where it is a rejection.
    """
    hop, token = attempt.hop, attempt.token
    if not is_rejection(error, hop.settings.rejection, hop.host):
        raise error
    if hop.holder is None or token is None:
        raise explained(attempt, error) if isinstance(error, UpstreamAuth) else error
    if attempt.renewed:
        hop.holder.rejected_again(attempt.user)
        raise explained(attempt, error)
    if not await _has_newer(attempt, hop.holder, token):
        raise explained(attempt, error)
    if not _can_be_sent_again(request):
        raise _by_the_client_again(hop) from error


def explained(attempt: Attempt, refusal: UpstreamError) -> UpstreamError:
    """`refusal` of a token, in words that say what was tried with which credential, and what to do."""
    hop, token = attempt.hop, attempt.token
    age_s = None if token is None or token.life_s is None else attempt.gate.clock.now() - token.born_s
    reason = hop.holder.not_renewed(attempt.user) if hop.holder is not None and not attempt.renewed else None
    told = of_token(hop.name, hop.settings.credential, age_s, not_renewed=reason)
    refusal.message = f"{sentence(refusal.message)} {told}"
    return refusal


def accepted(attempt: Attempt) -> None:
    """The upstream took the token: should it refuse it later, it is the token's end and not a wrong credential."""
    if attempt.hop.holder is not None and attempt.token is not None:
        attempt.hop.holder.confirm(attempt.token, attempt.user)


async def refused(attempt: Attempt, response: Response, within_s: float | None = None) -> GatepassError:
    """The error that a reply of 400 and above stands for, read from what came of it `within_s`; closes the reply."""
    gate = attempt.gate
    try:
        body = await _beginning(gate, response, within_s)
    except TransportFault as fault:
        return broken(attempt, fault)
    finally:
        await response.aclose()
    attempt.keep_reply(body)
    error = attempt.hop.dialect.judge_refusal(heard(attempt, response, body))
    error.relayed = _limit_headers(response.headers, gate.redactor.mask)
    return error


def heard(attempt: Attempt, response: Response, body: bytes) -> Reply:
    """What the upstream answered, as its dialect judges it; `body` is as much of it as was read."""
    gate, hop = attempt.gate, attempt.hop
    return Reply(
        hop.name,
        response.status,
        response.headers,
        body,
        hop.host,
        gate.clock.wall(),
        gate.redactor.mask,
        has_credential=hop.holder is not None,
    )


def broken(attempt: Attempt, fault: TransportFault) -> UpstreamError:
    """The error that a fault of the connection is to the client."""
    hop = attempt.hop
    return upstream_error(fault, hop.name, hop.settings.base_url, attempt.gate.redactor.mask)


async def whole(attempt: Attempt, response: Response, limit_bytes: int, beginning: bytes = b"") -> bytes:
    """The whole body of a reply, of which `beginning` was read already; closes it. Raises UpstreamError."""
    try:
        return await read_whole(response, limit_bytes, beginning, attempt.holding)
    except TransportFault as fault:
        raise broken(attempt, fault) from fault
    finally:
        await response.aclose()


class _Outdated(Exception):
    """The token ended while its request waited for a connection, and no other is here."""


async def _sent(attempt: Attempt, request: Request) -> Response:
    """The reply to `request`, which waits for a token, and for a connection, until it has both at one moment.

    Once more, on a new connection, where a kept one turned out to be dead before anything came back.
    """
    hop = attempt.hop
    while True:
        if hop.holder is not None:
            attempt.token = hop.holder.fresh() or await _waited(attempt, hop.holder)
        attempt.requests += 1
        attempt.gate.metrics.attempted(hop.name)
        try:
            response = await hop.transport.send(_authorized(attempt, request))
        except _Outdated:
            attempt.requests -= 1  # it never left: the log and the client are told of those that did
        except TransportFault as fault:
            request = _on_a_new_connection(attempt, request, fault)
        else:
            attempt.written = True
            return response


def _on_a_new_connection(attempt: Attempt, request: Request, fault: TransportFault) -> Request:
    """`request` for the one repeat that `fault` allows; raises what it is to the client where it allows none."""
    hop = attempt.hop
    if fault.fault is Fault.TIMEOUT_POOL:
        raise _pool_busy(hop) from fault
    attempt.written = attempt.written or fault.sent
    is_final = attempt.repeated or not _can_be_sent_again(request)
    if is_final or not (fault.stale and hop.settings.repeat_stale):
        raise broken(attempt, fault) from fault
    attempt.repeated = True
    attempt.gate.metrics.repeated_stale(hop.name)
    return replace(request, fresh=True)


def _can_be_sent_again(request: Request) -> bool:
    return request.upload is None or request.upload.again()


def _by_the_client_again(hop: Hop) -> TokenUnavailable:
    """The token is new, and the upload that went with the last one is not held: its sender has it."""
    error = TokenUnavailable(
        "The upstream refused the token during the upload. There is a new one now: send the request again.",
        credential=hop.settings.credential or "",
        retry_after_s=1,
    )
    error.should_retry = True
    return error


def _is_rejected(hop: Hop, response: Response) -> bool:
    return is_error(response.status) and says_so(response.status, hop.settings.rejection)


def _authorized(attempt: Attempt, request: Request) -> Request:
    hop, token = attempt.hop, attempt.token
    if hop.holder is None or token is None:
        return hop.carrier.loaded(request, None, attempt.gate.clock.now())
    anew = partial(_authorized_anew, attempt, hop.holder, request)
    return hop.carrier.loaded(request, token.value, attempt.gate.clock.now(), anew)


def _authorized_anew(attempt: Attempt, holder: TokenHolder, request: Request) -> Request | None:
    """`request` with another token, where this moment has another; raises _Outdated where it has none."""
    token = holder.fresh()
    if token is None:
        raise _Outdated
    if token is attempt.token:
        return None
    attempt.token = token
    return attempt.hop.carrier.loaded(request, token.value, attempt.gate.clock.now())


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
    attempt.gate.metrics.renewed(attempt.hop.name)
    return True


async def _beginning(gate: Gate, response: Response, within_s: float | None) -> bytes:
    """As much of a body as is read of an error, and as has come `within_s`."""
    pieces: list[bytes] = []
    size_bytes = 0

    def take(piece: bytes) -> bool:
        nonlocal size_bytes
        pieces.append(piece)
        size_bytes += len(piece)
        return size_bytes <= REFUSAL_BYTES

    with suppress(TimeoutError):
        reading = response.pour(take)
        await (reading if within_s is None else timeout(gate.clock, within_s, reading, TimeoutError()))
    body = b"".join(pieces)[:REFUSAL_BYTES]
    return whole_words(body) if size_bytes > REFUSAL_BYTES else body


async def _waited(attempt: Attempt, holder: TokenHolder, instead_of: str | None = None) -> Token:
    began_s = attempt.gate.clock.now()
    try:
        return await holder.token(instead_of)
    finally:
        attempt.token_wait_s += attempt.gate.clock.now() - began_s


def _pool_busy(hop: Hop) -> Overloaded:
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
