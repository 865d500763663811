"""One request over the second hop: authorize ─► send, a rejected token renewed once."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from gatepass.call import Headers, Request, Response
from gatepass.error_body import Mask, is_error
from gatepass.errors import (
    Fault,
    GatepassError,
    Overloaded,
    TokenUnavailable,
    TransportFault,
    UpstreamAuth,
    UpstreamError,
)
from gatepass.gate import Gate, Hop
from gatepass.observe.exchange import Exchange
from gatepass.runtime import timeout
from gatepass.tokens import Token, TokenHolder, TokenReissued, User
from gatepass.transport.seam import read_whole
from gatepass.upstream.fault import upstream_error
from gatepass.upstream.hints import of_token, sentence
from gatepass.upstream.rejection import is_rejection, says_so
from gatepass.upstream.reply import Reply

REFUSAL_BYTES = 64 * 1024
"""As much of an error's body as is read."""
REJECTION_S = 1.0
"""How long the body of a rejection is waited for: its status has said all, and others wait for the new token."""


async def send(gate: Gate, hop: Hop, request: Request, exchange: Exchange) -> Response:
    """The reply to `request`, sent with the token of the moment in which it is written; whoever gets it closes it.

    A 401 (or what `rejection.statuses` adds) drops the token by its value, asks for one new token and
    sends once more: a second one is returned as it came. Raises TokenUnavailable and UpstreamError.
    """
    response = await _sent(gate, hop, request, exchange)
    token: Token | None = exchange.token
    if hop.holder is None or token is None or exchange.renewed or not _is_rejected(hop, response):
        return response
    refusal = await refused(gate, hop, response, exchange, within_s=REJECTION_S)
    if not await _has_newer(gate, hop, token, exchange):
        raise refusal
    if not _can_be_sent_again(request):
        raise _by_the_client_again(hop) from refusal
    response = await _sent(gate, hop, request, exchange)
    if _is_rejected(hop, response):
        hop.holder.rejected_again(_user(hop, exchange))
    return response


async def renew(gate: Gate, hop: Hop, error: UpstreamError, exchange: Exchange, request: Request) -> None:
    """Have another token for `request` after a judged reply turned out to be a rejection of the last one.

    Some gateways write it so: HTTP 200 with `{"code":401,"msg":"token expired"}`, or a login page.
    Raises `error` where it is none, the request has had its new token already, or there is none to be had: with what
    was tried, where it is a rejection.
    """
    if not is_rejection(error, hop.settings.rejection, hop.host):
        raise error
    if hop.holder is None or exchange.token is None:
        raise explained(gate, hop, error, exchange) if isinstance(error, UpstreamAuth) else error
    if exchange.renewed:
        hop.holder.rejected_again(_user(hop, exchange))
        raise explained(gate, hop, error, exchange)
    if not await _has_newer(gate, hop, exchange.token, exchange):
        raise explained(gate, hop, error, exchange)
    if not _can_be_sent_again(request):
        raise _by_the_client_again(hop) from error


def explained(gate: Gate, hop: Hop, refusal: UpstreamError, exchange: Exchange) -> UpstreamError:
    """`refusal` of a token, in words that say what was tried with which credential, and what to do."""
    token: Token | None = exchange.token
    age_s = None if token is None or token.life_s is None else gate.clock.now() - token.born_s
    told = of_token(hop.name, hop.settings.credential, age_s, renewed=exchange.renewed)
    refusal.message = f"{sentence(refusal.message)} {told}"
    return refusal


def accepted(hop: Hop, exchange: Exchange) -> None:
    """The upstream took the token: should it refuse it later, it is the token's end and not a wrong credential."""
    if hop.holder is not None and exchange.token is not None:
        hop.holder.confirm(exchange.token, _user(hop, exchange))


async def refused(
    gate: Gate, hop: Hop, response: Response, exchange: Exchange, within_s: float | None = None
) -> GatepassError:
    """The error that a reply of 400 and above stands for, read from what came of it `within_s`; closes the reply."""
    try:
        body = await _beginning(gate, response, within_s)
    except TransportFault as fault:
        return broken(gate, hop, fault)
    finally:
        await response.aclose()
    exchange.keep_body("reply", body)
    error = hop.dialect.judge_refusal(heard(gate, hop, response, body))
    error.relayed = _limit_headers(response.headers, gate.redactor.mask)
    return error


def heard(gate: Gate, hop: Hop, response: Response, body: bytes) -> Reply:
    """What `hop` answered, as its dialect judges it; `body` is as much of it as was read."""
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


def broken(gate: Gate, hop: Hop, fault: TransportFault) -> UpstreamError:
    """The error that a fault of the connection is to the client."""
    return upstream_error(fault, hop.name, hop.settings.base_url, gate.redactor.mask)


async def whole(gate: Gate, hop: Hop, response: Response, limit_bytes: int, beginning: bytes = b"") -> bytes:
    """The whole body of a reply, of which `beginning` was read already; closes it. Raises UpstreamError."""
    try:
        return await read_whole(response, limit_bytes, beginning)
    except TransportFault as fault:
        raise broken(gate, hop, fault) from fault
    finally:
        await response.aclose()


class _Outdated(Exception):
    """The token ended while its request waited for a connection, and no other is here."""


def _user(hop: Hop, exchange: Exchange) -> User:
    return User(hop.name, exchange.upstream_model or exchange.model or "")


async def _sent(gate: Gate, hop: Hop, request: Request, exchange: Exchange) -> Response:
    """The reply to `request`, which waits for a token, and for a connection, until it has both at one moment.

    Once more, on a new connection, where a kept one turned out to be dead before anything came back.
    """
    while True:
        if hop.holder is not None:
            by = _user(hop, exchange)
            exchange.token = hop.holder.fresh(by) or await _waited(gate, hop.holder, by, exchange)
        exchange.attempts += 1
        gate.metrics.attempted(hop.name)
        try:
            return await hop.transport.send(_authorized(gate, hop, request, exchange))
        except _Outdated:
            exchange.attempts -= 1
        except TransportFault as fault:
            request = _on_a_new_connection(gate, hop, request, exchange, fault)


def _on_a_new_connection(gate: Gate, hop: Hop, request: Request, exchange: Exchange, fault: TransportFault) -> Request:
    """`request` for the one repeat that `fault` allows; raises what it is to the client where it allows none."""
    if fault.fault is Fault.TIMEOUT_POOL:
        raise _pool_busy(hop) from fault
    is_final = exchange.repeated_stale or not _can_be_sent_again(request)
    if is_final or not (fault.stale and hop.settings.repeat_stale):
        raise broken(gate, hop, fault) from fault
    exchange.repeated_stale = True
    gate.metrics.repeated_stale(hop.name)
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
    error.relayed = ((b"x-should-retry", b"true"),)
    return error


def _is_rejected(hop: Hop, response: Response) -> bool:
    return is_error(response.status) and says_so(response.status, hop.settings.rejection)


def _authorized(gate: Gate, hop: Hop, request: Request, exchange: Exchange) -> Request:
    token: Token | None = exchange.token
    if hop.holder is None or token is None:
        return hop.carrier.loaded(request, None, gate.clock.now())
    anew = partial(_authorized_anew, gate, hop, hop.holder, request, exchange)
    return hop.carrier.loaded(request, token.value, gate.clock.now(), anew)


def _authorized_anew(gate: Gate, hop: Hop, holder: TokenHolder, request: Request, exchange: Exchange) -> Request | None:
    """`request` with another token, where this moment has another; raises _Outdated where it has none."""
    token = holder.fresh(_user(hop, exchange))
    if token is None:
        raise _Outdated
    if token is exchange.token:
        return None
    exchange.token = token
    return hop.carrier.loaded(request, token.value, gate.clock.now())


async def _has_newer(gate: Gate, hop: Hop, token: Token, exchange: Exchange) -> bool:
    """Wait for another token than the one that was refused; False where the issuer has no other."""
    by = _user(hop, exchange)
    if hop.holder is None or not hop.holder.reject(token.text, by):
        return False
    try:
        exchange.token = await _waited(gate, hop.holder, by, exchange, instead_of=token.text)
    except TokenReissued:
        return False
    exchange.renewed = True
    gate.metrics.renewed(hop.name)
    return True


async def _beginning(gate: Gate, response: Response, within_s: float | None) -> bytes:
    """As much of a body as is read of an error, and as has come `within_s`."""
    pieces: list[bytes] = []
    size_bytes = 0

    def take(piece: bytes) -> bool:
        nonlocal size_bytes
        pieces.append(piece)
        size_bytes += len(piece)
        return size_bytes < REFUSAL_BYTES

    with suppress(TimeoutError):
        reading = response.pour(take)
        await (reading if within_s is None else timeout(gate.clock, within_s, reading, TimeoutError()))
    return b"".join(pieces)[:REFUSAL_BYTES]


async def _waited(
    gate: Gate, holder: TokenHolder, by: User, exchange: Exchange, instead_of: str | None = None
) -> Token:
    began_s = gate.clock.now()
    try:
        return await holder.token(instead_of, by)
    finally:
        exchange.token_wait_s += gate.clock.now() - began_s


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
