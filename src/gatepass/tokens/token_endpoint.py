"""Send requests to a token endpoint, and return its token or the reason for the failure.

The HTTP client is httpx2. Only credentials with a token endpoint import this module.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx2

from gatepass.cancel import timeout
from gatepass.clock import Clock
from gatepass.config.advice import Advice
from gatepass.config.block import crosses_network_in_plain
from gatepass.config.credential.base import Credential
from gatepass.config.network import Network
from gatepass.errors import Fault, TransportFault
from gatepass.http_client.fault_text import ServerNames, fault_text
from gatepass.http_client.message_head import destination_of, has_line_break
from gatepass.http_client.tls import LATE_TLS, causes_of, tls_detail
from gatepass.observability.redaction import whole_words
from gatepass.replies.error_body import Mask
from gatepass.tokens.failure import FailureKind, FetchFailure, slow_advice
from gatepass.tokens.issuer_error import REPLY_BYTES, TimedTokenResponse, TokenResponse, one_line
from gatepass.tokens.lifetime import Token
from gatepass.tokens.secrets import mask_of
from gatepass.tokens.token_reply import TokenReplyFormat, parse_token_response
from gatepass.types import OutboundRequest, Secret

CONNECT_S = 5.0
HEADERS = (
    (b"accept", b"application/json"),
    # A compressed reply could expand to any size.
    (b"accept-encoding", b"identity"),
    (b"user-agent", b"gatepass"),
)
"""Sent with every fetch. Some firewalls before issuers reject requests without a user agent."""
FORM = (b"content-type", b"application/x-www-form-urlencoded")
_WITH_ADVICE = frozenset({Fault.DNS, Fault.CONNECT, Fault.TIMEOUT_CONNECT, Fault.PROXY, Fault.TLS, Fault.INVALID})
_SLOW = frozenset({Fault.TIMEOUT_FIRST_BYTE, Fault.TIMEOUT_IDLE})
"""Faults that `timeout_s` bounds. A connection attempt has CONNECT_S."""
WRONG_PROXY_AUTH = ("401 ", "407 ")
"""Begin the fault of a proxy that rejects the password. Another attempt could lock the account at the proxy."""


@dataclass(frozen=True, slots=True)
class TokenEndpointClient:
    """Sends a credential's fetches. `name` is the credential's; `reply_format` describes its replies."""

    name: str
    settings: Credential
    reply_format: TokenReplyFormat
    connect: Connect
    clock: Clock

    async def fetch_token(self, request: OutboundRequest, secrets: Iterable[Secret]) -> Token:
        """Send `request` and return the token in the reply within `timeout_s`; raise FetchFailure, `secrets` masked."""
        return self.parse_token(await self.send(request, secrets))

    async def send(self, request: OutboundRequest, secrets: Iterable[Secret]) -> TimedTokenResponse:
        """Send `request` and return the reply, with any status, within `timeout_s`; raise FetchFailure."""
        proxy = self.settings.network.proxy
        if crosses_network_in_plain(request.url, proxy) and not self.settings.allow_plain_http:
            way = "" if crosses_network_in_plain(request.url) else " by a proxy on another machine"
            raise FetchFailure(
                f"{self.reply_format.issuer} would receive the secret over plain HTTP{way}, where others can read it",
                FailureKind.REFUSED,
                advice=Advice("issuer_plain_http", {"credential": self.name}),
            )
        mask = mask_of(secrets)
        began_s, wall_s = self.clock.now(), self.clock.wall()
        bound_s = self.settings.timeout_s
        try:
            reply = await timeout(self.clock, bound_s, send_request(self.connect, request, bound_s), self._late())
        except TransportFault as fault:
            if fault.kind in _SLOW:
                raise self._late() from fault
            is_wrong_auth = fault.kind is Fault.PROXY and fault.detail.startswith(WRONG_PROXY_AUTH)
            kind = FailureKind.REFUSED if is_wrong_auth else FailureKind.OUTAGE
            why, advice = self._text(fault, mask, min(CONNECT_S, bound_s))
            raise FetchFailure(why, kind, advice=advice, case=fault.kind) from fault
        return TimedTokenResponse(
            reply.status, reply.headers, reply.body, requested_s=began_s, wall_s=wall_s, mask=mask
        )

    def parse_token(self, reply: TimedTokenResponse) -> Token:
        """Return the token in a reply; raise FetchFailure with the issuer's own text if there is none."""
        return parse_token_response(reply, self.reply_format)

    def _late(self) -> FetchFailure:
        """Return the failure of a fetch that took too long. No variable holds it: its traceback refers to the frame."""
        bound_s, issuer = self.settings.timeout_s, self.reply_format.issuer
        why = f"{issuer} sent no complete answer within {bound_s:g} s (credentials.{self.name}.timeout_s)"
        return FetchFailure(why, advice=slow_advice(self.name, bound_s))

    def _text(self, fault: TransportFault, mask: Mask, connect_s: float) -> tuple[str, Advice]:
        """Return why the issuer cannot be reached, and what to check."""
        settings, host = f"credentials.{self.name}", self.reply_format.issuer
        if fault.kind is Fault.TOO_LARGE:
            return f"the reply of {host} is not a token: {one_line(fault.detail, mask)}", Advice()
        proxy = self.settings.network.proxy
        where = "" if proxy is None else destination_of(proxy).authority.decode()
        # with a proxy, httpx2 resolves and connects to the proxy alone
        if where and fault.kind is Fault.PROXY:
            fault.detail += f" from {where}"
        elif where and fault.kind in (Fault.DNS, Fault.CONNECT):
            fault.detail = f"proxy {where}: {fault.detail}"
        elif fault.kind is Fault.TIMEOUT_CONNECT:
            fault.limit_s = connect_s
        names = ServerNames(host, settings, self.reply_format.url_setting, network=self.settings.network)
        why, advice = fault_text(fault, names, mask)
        why = why.partition(";")[0] if fault.kind is Fault.CLOSED else why
        why = why if why.startswith(host) else why[:1].lower() + why[1:]
        return why.rstrip("."), advice if fault.kind in _WITH_ADVICE else Advice()


Connect = Callable[[], httpx2.AsyncBaseTransport]
"""Returns the HTTP transport of one request. Tests pass one without a network."""


def issuer_transport(network: Network, context: ssl.SSLContext) -> Connect:
    """Return what opens a connection to an issuer, for each request a new one.

    So a renewed client certificate and a changed DNS record apply to the next request. A cancelled request leaves no
    slot of a pool occupied: httpx2 2.16 never frees the slot of a tunnel whose TLS handshake failed
    (pydantic/httpx2#1175). A transport follows no redirect, which would take the secret to another address, keeps no
    cookie, and reads no environment variable.
    """
    # at DEBUG it logs response headers, which may contain a token
    logging.getLogger("httpcore2").setLevel(logging.ERROR)
    proxy = None
    if network.proxy is not None:
        user, _, password = network.proxy_auth.reveal().partition(":") if network.proxy_auth else ("", "", "")
        # httpx2 rejects an `ssl_context` for a proxy without TLS.
        secured = context if network.proxy.startswith("https:") else None
        proxy = httpx2.Proxy(network.proxy, ssl_context=secured, auth=(user, password) if user else None)
    return partial(httpx2.AsyncHTTPTransport, verify=context, trust_env=False, proxy=proxy)


class _Handshake:
    """Closes the socket of a cancelled TLS handshake, which httpx2 2.16 leaves open. httpx2 calls it at each step."""

    has_failed = False

    def __init__(self) -> None:
        self._stream: Any = None

    async def __call__(self, event: str, values: Mapping[str, Any]) -> None:
        _, _, step = event.partition(".")
        if step in ("connect_tcp.complete", "start_tls.complete"):
            self._stream = values["return_value"]
        elif step == "start_tls.failed":
            self.has_failed = True
            await self._stream.aclose()


async def send_request(connect: Connect, request: OutboundRequest, limit_s: float) -> TokenResponse:
    """Send `request` and return its reply; raise TransportFault. `limit_s` bounds each wait for the issuer.

    The body of a success is read to its end, up to REPLY_BYTES. If an error's body breaks off, the reply has its status
    and an empty body. The body of a redirect is not read, because it may never end.
    """
    if has_line_break(value for _, value in request.headers):
        raise TransportFault(Fault.INVALID, "a header field of the request holds a line break", sent=False)
    # These limits do not suffice: an issuer that sends byte by byte exceeds none (ThalesGroup/fred#2309).
    handshake, limits = _Handshake(), httpx2.Timeout(limit_s, connect=min(CONNECT_S, limit_s)).as_dict()
    sent = httpx2.Request(
        request.method,
        urlsplit(request.url)._replace(query="", fragment="").geturl(),
        headers=[*request.headers],
        content=request.body,
        # the target byte for byte, which httpx2 would normalize
        extensions={"timeout": limits, "target": destination_of(request.url).target, "trace": handshake},
    )
    async with connect() as transport:
        try:
            response = await transport.handle_async_request(sent)
        except (httpx2.TransportError, ssl.SSLError) as error:
            fault = _fault(error)
            if fault.kind is Fault.TIMEOUT_CONNECT and handshake.has_failed:
                fault.detail = LATE_TLS
            raise fault from error
        body = bytearray()
        try:
            if not 300 <= response.status_code < 400:
                async for piece in response.aiter_bytes():
                    body += piece
                    if len(body) > REPLY_BYTES:
                        break
        except (httpx2.TransportError, httpx2.DecodingError, ssl.SSLError) as error:
            if response.is_success:
                raise _fault(error, slow=Fault.TIMEOUT_IDLE) from error
            body.clear()  # a part of an error object could be misread
        finally:
            await response.aclose()
    if len(body) > REPLY_BYTES and response.is_success:
        raise TransportFault(Fault.TOO_LARGE, f"the reply is larger than {REPLY_BYTES} bytes")
    headers = tuple((name.lower(), value) for name, value in response.headers.raw)
    is_cut = len(body) > REPLY_BYTES
    return TokenResponse(
        response.status_code, headers, whole_words(bytes(body[:REPLY_BYTES])) if is_cut else bytes(body)
    )


def _fault(error: Exception, slow: Fault = Fault.TIMEOUT_FIRST_BYTE) -> TransportFault:
    """Return `error` as a TransportFault. `slow` is the meaning of a read timeout at this point."""
    detail, causes = str(error), [*causes_of(error)]
    match error:
        case httpx2.ConnectTimeout():
            fault = Fault.TIMEOUT_CONNECT
        case httpx2.TimeoutException():
            fault = slow
        case httpx2.ProxyError():
            fault = Fault.PROXY
        # httpx2 has no class for a closed connection, only these texts.
        case httpx2.RemoteProtocolError() if "disconnected" in detail or "closed connection" in detail:
            fault = Fault.CLOSED
        case httpx2.ProtocolError() | httpx2.UnsupportedProtocol() | httpx2.DecodingError():
            fault = Fault.INVALID
        case httpx2.ConnectError() if any(isinstance(cause, socket.gaierror) for cause in causes):
            fault = Fault.DNS
        case ssl.SSLError():  # TLS 1.3: a refused client certificate is reported after the handshake
            fault, detail = Fault.TLS, tls_detail(error)
        case httpx2.ConnectError() if any(isinstance(cause, ssl.SSLError) for cause in causes):
            fault, detail = Fault.TLS, tls_detail(error)
        case httpx2.ConnectError():
            # The system's text for each address, such as `connection refused`, replaces httpx2's.
            numbers = [cause.errno for cause in causes if isinstance(cause, OSError) and cause.errno is not None]
            refusals = ", ".join(dict.fromkeys(os.strerror(number).lower() for number in numbers))
            fault, detail = Fault.CONNECT, refusals or detail
        case _:
            fault = Fault.CLOSED
    # The number means nothing to an operator.
    # h11 quotes the line, in which a token may stand that gatepass does not know yet
    return TransportFault(fault, re.sub(r"\[Errno -?[0-9]{1,3}\] |: bytearray\(.*", "", detail))
