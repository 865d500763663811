"""The steps of `gatepass doctor`. Each tests one part of one hop and returns a Step, or several.

`reach` runs the network steps of a Server: resolve, connect, proxy and tls. It requires no AppState. `check_token`,
`check_models`, `check_call` and `check_stream` use the AppState of a configuration, with the same code as a client's
request. No step raises for a fault of the network, an issuer or an upstream.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from gatepass.cancel import timeout
from gatepass.cli.peer_certificate import (
    Peer,
    certificate_chain,
    describe_certificate,
    explain_certificate,
    trusted_names,
)
from gatepass.clock import Clock, SystemClock
from gatepass.config.checks import UNSHARED_REFRESH_LOGIN, has_unshared_refresh_token
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.kinds import AnyCredential, token_location
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.credential.vendor import EntraCredential
from gatepass.config.model import StoreSettings
from gatepass.config.network import Network
from gatepass.config.upstream import UpstreamConfig
from gatepass.dialects.hints import sentence
from gatepass.errors import (
    CallerError,
    Fault,
    GatepassError,
    TokenUnavailable,
    TransportFault,
    UpstreamAuth,
    UpstreamErrorReply,
    UpstreamHtml,
    UpstreamRedirect,
    UpstreamTimeout,
    system_reason,
)
from gatepass.http_client.connection import Connection
from gatepass.http_client.message_head import Destination, ProxyServer, destination_of
from gatepass.http_client.pool import dial
from gatepass.http_client.tls import TlsProblem, ssl_context, tls_advice, tls_problem
from gatepass.normalize.profiles import ProfileRules
from gatepass.operations.table import OPERATIONS, call_of, samples
from gatepass.proxy.app_state import AppState, Upstream
from gatepass.proxy.attempt import try_target
from gatepass.proxy.context import Attempt, RequestContext
from gatepass.proxy.models import model_list_request
from gatepass.proxy.response import BufferedReply, StreamingReply, SynthesizedStream, classify
from gatepass.proxy.upstream_call import connection_error, explain_rejection, send
from gatepass.store.base import StoreUnavailable
from gatepass.store.guarded import StoreState
from gatepass.tokens import TokenHolder
from gatepass.tokens.failure import setting
from gatepass.tokens.lifetime import LifetimeSource
from gatepass.types import Call, Target


class Outcome(StrEnum):
    """The result of a step, as it is printed. UNPROVEN: the hop answers, but the step cannot show that it works."""

    WORKS = "ok"
    FAILS = "FAIL"
    UNPROVEN = "????"
    SKIPPED = "skip"


@dataclass(frozen=True, slots=True)
class Step:
    """One finding: what was tested at which hop, the result, the reason, and what to do.

    - `what`: configuration, store, resolve, connect, proxy, tls, token, models, call, stream, or a path of gatepass.
    - `advice`: empty if nothing is to be done, or if `why` already says it.
    - `proves`: whether WORKS proves that the hop works. A configured key that was not sent anywhere proves nothing.
    """

    hop: str
    what: str
    outcome: Outcome
    why: str
    advice: str = ""
    seconds: float = field(default=0.0, compare=False)
    proves: bool = True

    @property
    def failed(self) -> bool:
        return self.outcome is Outcome.FAILS


@dataclass(frozen=True, slots=True)
class Server:
    """A server to reach: its hop, its URL, and the settings that apply. `settings` is such as `upstreams.chat`."""

    hop: str
    url: str
    settings: str
    url_setting: str
    network: Network = field(default_factory=Network)
    connect_s: float = 5.0
    connect_setting: str = ""

    @property
    def destination(self) -> Destination:
        """Raises TransportFault if a URL is not valid."""
        auth = None if self.network.proxy_auth is None else self.network.proxy_auth.reveal()
        proxy = None if self.network.proxy is None else ProxyServer.of(self.network.proxy, auth)
        return destination_of(self.url, proxy)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def step(self, what: str, outcome: Outcome, why: str, advice: str = "") -> Step:
        return Step(self.hop, what, outcome, why, advice, proves=False)


def upstream_server(name: str, upstream: UpstreamConfig) -> Server:
    """Return the server of an upstream."""
    settings = f"upstreams.{name}"
    return Server(
        f"upstream:{name}",
        upstream.base_url,
        settings,
        f"{settings}.base_url",
        upstream.network,
        upstream.timeouts.connect_s,
        f"{settings}.timeouts.connect_s",
    )


def issuer_server(name: str, credential: AnyCredential) -> Server | None:
    """Return the server of a credential's token endpoint; None if its type has no configured URL."""
    match credential:
        case Oauth2Credential():
            url, url_setting = credential.endpoint, "token_url" if credential.token_url else "issuer"
        case HttpJsonCredential():
            url, url_setting = credential.url, "url"
        case EntraCredential() if not credential.managed_identity:
            url, url_setting = credential.authority_host, "authority_host"
        case _:
            return None
    settings = f"credentials.{name}"
    url_setting, limit_s = setting(name, url_setting), min(5.0, credential.timeout_s)
    return Server(f"credential:{name}", url, settings, url_setting, credential.network, limit_s)


Begin = Callable[[str, str], object]
"""Called with the hop and the name of a step before it runs, to show progress."""


async def reach(server: Server, clock: Clock | None = None, begin: Begin = lambda *_: None) -> AsyncIterator[Step]:
    """Yield the network steps of `server` in order, and stop after the first that fails."""
    clock = clock or SystemClock()
    try:
        destination = server.destination
    except TransportFault as fault:
        yield server.step("resolve", Outcome.FAILS, fault.detail, f"Check {server.url_setting}.")
        return
    for what, make in (("resolve", _resolve), ("connect", _connect), ("tls", _secure)):
        began_s = clock.now()
        begin(server.hop, what)
        for step in await make(server, destination, clock):
            yield replace(step, seconds=clock.now() - began_s)
            if step.failed:
                return


def _first(server: Server, destination: Destination) -> tuple[Destination, str]:
    """Return the server that gatepass itself connects to, and the setting with its address."""
    if destination.proxy is None:
        return destination, server.url_setting
    return destination.proxy.destination, f"{server.settings}.network.proxy"


async def _resolve(server: Server, destination: Destination, clock: Clock) -> list[Step]:
    first, where = _first(server, destination)
    late = TimeoutError()
    try:
        lookup = asyncio.get_running_loop().getaddrinfo(first.host, first.port, type=socket.SOCK_STREAM)
        found = await timeout(clock, server.connect_s, lookup, late)
    except (OSError, UnicodeError) as error:
        reason = f"no answer within {server.connect_s:g} s" if error is late else "the name is unknown"
        advice = f"Check the host in {where} and the DNS of this machine."
        return [server.step("resolve", Outcome.FAILS, f"{first.host} cannot be resolved: {reason}", advice)]
    addresses = ", ".join(dict.fromkeys(str(address[0]) for *_, address in found))
    why = "is an address" if addresses == first.host else f"is {addresses}"
    return [server.step("resolve", Outcome.WORKS, f"{_named(destination, first)} {why}")]


def _named(destination: Destination, first: Destination) -> str:
    return first.host if first is destination else f"the proxy {first.host}"


async def _connect(server: Server, destination: Destination, clock: Clock) -> list[Step]:
    first, where = _first(server, destination)
    named = f"{_named(destination, first)} port {first.port}"
    late = TimeoutError()
    try:
        connecting = asyncio.get_running_loop().create_connection(asyncio.Protocol, first.host, first.port)
        transport, _ = await timeout(clock, server.connect_s, connecting, late)
    except OSError as error:
        if error is late:
            limit = f" ({server.connect_setting})" if server.connect_setting else ""
            why = f"{named} did not accept a connection within {server.connect_s:g} s{limit}"
            advice = f"Check the host and port in {where}, a firewall between, and {server.settings}.network.proxy."
        else:
            why = f"{named}: {system_reason(error)}"
            advice = f"Check the host and port in {where}, and whether the server runs."
        return [server.step("connect", Outcome.FAILS, why, advice)]
    transport.abort()
    return [server.step("connect", Outcome.WORKS, f"{named} accepts connections")]


CERTIFICATE_PROBLEMS = frozenset(
    (
        *(TlsProblem.EXPIRED, TlsProblem.NOT_YET_VALID, TlsProblem.WRONG_NAME),
        *(TlsProblem.UNKNOWN_CA, TlsProblem.OTHER_CA),
    )
)
"""Problems that the certificate itself explains."""


class _Owner:
    """The owner of a connection that sends no request."""

    def on_idle(self, connection: Connection) -> None: ...

    def on_lost(self, connection: Connection) -> None: ...

    def defers_write(self, connection: Connection) -> bool:  # noqa: ARG002 - the protocol's signature
        return False


class _Handshake(Connection):
    """A connection that shows its TLS session."""

    session: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.session = transport.get_extra_info("ssl_object")
        super().connection_made(transport)


async def _secure(server: Server, destination: Destination, clock: Clock) -> list[Step]:
    """Open a tunnel through the proxy if there is one, and do the TLS handshake."""
    if not destination.secure:
        return []
    try:
        context = ssl_context(server.network)
    except OSError:
        files = f"{server.settings}.network.ca_file, client_cert and client_key"
        return [server.step("tls", Outcome.FAILS, "a PEM file cannot be loaded", f"Check {files}.")]
    tunnel = []
    if destination.proxy is not None:
        name = f"{destination.host}:{destination.port}"
        tunnel = [server.step("proxy", Outcome.WORKS, f"the proxy opens a tunnel to {name}")]
    try:
        session = await _handshake(server, destination, context)
    except TransportFault as fault:
        if fault.fault is Fault.PROXY:
            is_auth = fault.detail.startswith("407")
            why = f"the proxy refuses a tunnel to {destination.host}: {fault.detail}"
            where = f"{server.settings}.network.{'proxy_auth' if is_auth else 'proxy'}"
            return [server.step("proxy", Outcome.FAILS, why, f"Check {where}.")]
        if fault.fault is not Fault.TLS:
            why = f"{server.host} did not complete the TLS handshake within {server.connect_s:g} s"
            limit = server.connect_setting or "the timeout of this step"
            advice = f"Check the port in {server.url_setting}; {limit} sets the time."
            return [*tunnel, server.step("tls", Outcome.FAILS, why, advice)]
        return [*tunnel, await _failed_handshake(server, destination, fault, clock.wall())]
    why = describe_certificate(session.getpeercert() or {}, session.version() or "TLS", clock.wall())
    return [*tunnel, server.step("tls", Outcome.WORKS, why)]


async def _handshake(server: Server, destination: Destination, context: Any) -> Any:
    """Return the TLS session with the server. Raises TransportFault."""
    loop = asyncio.get_running_loop()
    connection = _Handshake(loop, _Owner(), memoryview(bytearray(4096)))
    try:
        await dial(destination, context, connection, server.connect_s)
        return connection.session
    finally:
        connection.abort()


async def _failed_handshake(server: Server, destination: Destination, fault: TransportFault, wall_s: float) -> Step:
    """Explain a handshake that failed. A second one without verification shows the certificate."""
    problem = tls_problem(fault.detail, has_ca_file=server.network.ca_file is not None)
    if problem in (TlsProblem.CLOSED, TlsProblem.OTHER) and await _speaks_http(destination, server.connect_s):
        problem = TlsProblem.PLAIN_HTTP
    advice = tls_advice(problem, server.host, server.settings, server.url_setting)
    why = f"{server.host}: {fault.detail if problem is TlsProblem.OTHER else problem.value}"
    if problem in CERTIFICATE_PROBLEMS:
        context = ssl_context(server.network)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only to read the certificate
        try:
            chain = certificate_chain(await _handshake(server, destination, context))
        except TransportFault:
            chain = []
        if chain:
            setting = f"{server.settings}.network.ca_file"
            peer = Peer(server.host, setting, trusted_names(server.network.ca_file))
            why, better = explain_certificate(chain, problem, peer, wall_s)
            advice = better or advice
    return server.step("tls", Outcome.FAILS, why, advice)


async def _speaks_http(destination: Destination, limit_s: float) -> bool:
    """Return whether the server answers plain HTTP on this port. Only asked without a proxy."""
    if destination.proxy is not None:
        return False
    try:
        async with asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_connection(destination.host, destination.port)
            try:
                writer.write(b"GET / HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n" % destination.authority)
                return (await reader.read(5)).startswith(b"HTTP/")
            finally:
                writer.transport.abort()
    except OSError:
        return False


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """The time limit for all requests of one step together."""

    began_s: float
    limit_s: float

    def used_s(self, clock: Clock) -> float:
        return clock.now() - self.began_s


async def within(limit: TimeLimit, state: AppState, upstream: Upstream, answer: Awaitable[T]) -> T:
    """Return `answer`; raise UpstreamTimeout after the rest of `limit`, even if its timeouts are longer."""
    message = f"{upstream.host} did not return a complete reply within {limit.limit_s:g} s, the limit of this check."
    late = UpstreamTimeout(message, upstream=upstream.name, phase="total")
    return await timeout(state.clock, limit.limit_s - limit.used_s(state.clock), answer, late)


TOKEN_S = 10.0
"""The limit of one token fetch. An operator waits, so that it ignores the credential's timeout_s."""


async def check_token(state: AppState, name: str, holder: TokenHolder) -> Step:
    """Fetch a token of the credential `name`. Its holder must be started, unless its login may not be used."""
    hop = f"credential:{name}"
    if has_unshared_refresh_token(state.config, name):
        return Step(hop, "token", Outcome.SKIPPED, UNSHARED_REFRESH_LOGIN)
    settings, began_s = state.config.credentials[name], state.clock.now()
    own_limit = f"{setting(name, 'timeout_s')} is {settings.timeout_s:g} s"
    message = f"no token from {token_location(settings)} within {TOKEN_S:g} s, the limit of this check ({own_limit})"
    late = TokenUnavailable(message, credential=name)
    try:
        token = await timeout(state.clock, TOKEN_S, holder.token(), late)
    except TokenUnavailable as error:
        # the error's own message announces the next try, but this command ends now
        reason = holder.status().last_error
        failed = error.message if error is late or reason is None else f"no token for credential {name}"
        why, advice = split_advice(f"{failed}: {reason}" if reason else failed)
        return Step(error.hop, "token", Outcome.FAILS, why, advice, state.clock.now() - began_s)
    seconds = state.clock.now() - began_s
    if token.lifetime_s is None:
        found = "a key is configured; it does not expire"
    elif token.lifetime_source is LifetimeSource.DEFAULT:
        found = f"a token was fetched; no lifetime was found, so default_ttl_s is used: {token.lifetime_s:g} s"
    else:
        found = f"a token was fetched; its lifetime is {token.lifetime_s:g} s"
    return Step(hop, "token", Outcome.WORKS, found, "", seconds, proves=token.lifetime_s is not None)


PROVE = "add a model and --call: one small real call, which may be billed"

LIST_S = 10.0
"""The limit of both requests of `check_models`. An operator waits, so that it ignores configured timeouts."""

NO_LIST = (404, 405)
"""Statuses of GET /models at an upstream without a model list, or with a wrong base_url."""

BUSY = (408, 429)


async def check_models(state: AppState, upstream: Upstream) -> Step:
    """Request the model list with the token and once more without it. Such a request costs nothing."""
    limit, hop = TimeLimit(state.clock.now(), LIST_S), hop_of(upstream)

    def step(outcome: Outcome, why: str, advice: str = "") -> Step:
        return Step(hop, "models", outcome, why, advice, limit.used_s(state.clock))

    try:
        await within(limit, state, upstream, _request_model_list(state, upstream))
    except GatepassError as error:
        if isinstance(error, UpstreamErrorReply) and error.http_status in NO_LIST:
            path = urlsplit(model_list_request(upstream).url).path
            return step(
                Outcome.UNPROVEN,
                f"answers, but GET {path} returns {error.http_status}: it has no model list, or base_url is wrong,"
                " so neither base_url nor the token is proven",
                PROVE,
            )
        return _failed(error, "models", limit.used_s(state.clock))
    if upstream.holder is None:
        return step(Outcome.WORKS, "answers; no credential is configured")
    try:
        await within(limit, state, upstream, _request_model_list(state, replace(upstream, holder=None)))
    except GatepassError as error:
        # a 4xx or a login page without the token proves that the token was accepted
        is_rejection = isinstance(error, UpstreamErrorReply) and 400 <= error.http_status < 500
        if isinstance(error, UpstreamRedirect | UpstreamHtml) or (is_rejection and error.http_status not in BUSY):
            return step(Outcome.WORKS, "answers and accepts the token")
        reason = f"without the token it returns {error.http_status} {error.public_code}, which proves nothing"
    else:
        reason = "its model list is public"
    return step(Outcome.UNPROVEN, f"answers; {reason}, so it is not proven that it accepts the token", PROVE)


async def _request_model_list(state: AppState, upstream: Upstream) -> bytes:
    """Request the model list; raise the classified error, with a rejected token explained as for a client."""
    models = next(operation for operation in OPERATIONS if operation.name == "models")
    call, target = call_of(models), Target(upstream.name)
    attempt = Attempt(state, upstream, target, call)
    request = upstream.dialect.encode(call, target, upstream.settings.base_url, upstream.timeouts)
    try:
        reply = await classify(attempt, await send(attempt, request))
    except UpstreamAuth as refusal:
        raise explain_rejection(attempt, refusal) from refusal.__cause__
    return reply.body if isinstance(reply, BufferedReply) else b""


def _failed(error: GatepassError, what: str, seconds: float) -> Step:
    prefix = f"HTTP {error.http_status}: " if isinstance(error, UpstreamErrorReply) else ""
    why, advice = split_advice(error.message)
    return Step(error.hop, what, Outcome.FAILS, prefix + why, advice, seconds)


_ADVICE = re.compile(
    r"(?:(?<=[.!?…。]) |; )(?=(?:Add|Ask|Begin|Check|Compare|If|Let|Raise|Renew|Set|Tried|Try|Use|check|set|use)\b)"
)


def split_advice(message: str) -> tuple[str, str]:
    """Split an error message into its reason and its advice, which begins with an imperative."""
    why, *advice = _ADVICE.split(message, maxsplit=1)
    text = advice[0] if advice else ""
    return why, text[:1].upper() + text[1:]


def hop_of(upstream: Upstream) -> str:
    return f"upstream:{upstream.name}"


SERVER_ERROR = 500
ANSWER_S = 30.0
"""The limit of one real call. It is longer because some servers load a model at its first request."""

LEARNED = "(learned from a rejection, as for any client)"


@dataclass(frozen=True, slots=True)
class ProbeCall:
    """A small real call of a model with one word, sent to each upstream of its route with `profile`."""

    operation: str
    model: str
    profile: str = "plain"
    stream: bool = False


@dataclass(frozen=True, slots=True)
class TargetProbe:
    """The call at one target. `calls` are its variants; the one that most upstreams accept comes first."""

    what: str
    target: Target
    calls: tuple[Call, ...]
    profile: ProfileRules


def probes_of(state: AppState, upstream: Upstream, probe_call: ProbeCall) -> list[TargetProbe]:
    """Return the calls that `probe_call` sends to `upstream`, in the order of its route."""
    calls = samples(probe_call.operation, probe_call.model)
    if probe_call.stream:
        calls = tuple(msgspec.structs.replace(call, body=_streamed(call.body), stream=True) for call in calls)
    named = f"{probe_call.operation}{' as a stream' if probe_call.stream else ''}"
    return [
        TargetProbe(
            f"{named} with {target.model or probe_call.model}", target, calls, state.profiles[probe_call.profile]
        )
        for target in state.routes.resolve(probe_call.operation, probe_call.model)
        if target.upstream == upstream.name
    ]


STREAM_TOKENS = 16
"""Enough for a few events, so that the gaps between them can be measured."""


def _streamed(body: bytes) -> bytes:
    members = msgspec.json.decode(body, type=dict[str, Any])
    limit = next((name for name in ("max_tokens", "max_completion_tokens") if name in members), "max_tokens")
    return msgspec.json.encode({**members, limit: STREAM_TOKENS, "stream": True})


async def check_call(state: AppState, upstream: Upstream, target_probe: TargetProbe) -> Step:
    """Send a small real call, which may be billed, as a client would."""
    limit, hop = TimeLimit(state.clock.now(), ANSWER_S), hop_of(upstream)
    what = "stream" if target_probe.calls[0].stream else "call"
    try:
        status, learned = await within(limit, state, upstream, _first_accepted(state, target_probe))
    except GatepassError as error:
        reason, advice = split_advice(error.message)
        used_s = limit.used_s(state.clock)
        result = f"{error.http_status} {error.public_code} after {used_s:.2f} s: {reason}"
        failed_hop = hop if isinstance(error, CallerError) else error.hop
        return Step(failed_hop, what, Outcome.FAILS, f"{target_probe.what}: {result}", advice, used_s)
    rules = f"; {', '.join(learned)} {LEARNED}" if learned else ""
    used_s = limit.used_s(state.clock)
    return Step(hop, what, Outcome.WORKS, f"{target_probe.what}: {status} in {used_s:.2f} s{rules}", "", used_s)


async def _first_accepted(state: AppState, target_probe: TargetProbe) -> tuple[str, tuple[str, ...]]:
    *first, last = target_probe.calls
    for call in first:
        try:
            return await _call(state, target_probe, call)
        except UpstreamErrorReply as rejection:
            # the next variant limits its answer by another member than max_tokens
            if rejection.http_status >= SERVER_ERROR or "max_tokens" not in f"{rejection.param} {rejection.message}":
                raise
    return await _call(state, target_probe, last)


async def _call(state: AppState, target_probe: TargetProbe, call: Call) -> tuple[str, tuple[str, ...]]:
    """Return the status of a good reply and the rules learned for it; raise the error that a client would get."""
    context, began_s = RequestContext.of_own(state, target_probe.profile), state.clock.now()
    answer = await try_target(context, call, target_probe.target)
    learned = context.attempts[-1].learned
    if isinstance(answer, StreamingReply):
        first_s = state.clock.now() - began_s
        return f"first event after {first_s:.2f} s, {await _read_stream(state, context.attempts[-1], answer)}", learned
    if isinstance(answer, SynthesizedStream):
        return "200, a whole reply of which gatepass makes a stream", learned
    if not isinstance(answer, BufferedReply):
        raise TypeError("a call without stream got a stream")
    return str(answer.status), learned


async def _read_stream(state: AppState, attempt: Attempt, reply: StreamingReply) -> str:
    """Read a stream to its end and return its events and the longest gap; raise the error that ended it."""
    events, moments_s = reply.events, [state.clock.now()]

    def write(piece: bytes) -> bool:
        if events.feed(piece):
            moments_s.append(state.clock.now())
        return not (events.done or events.failure is not None or events.waiting)

    at_end = reply.body_ended
    try:
        while not (at_end or events.done or events.failure is not None):
            if events.waiting:
                write(b"")
                continue
            at_end = await reply.response.stream_to(write)
            if at_end:
                events.finish()
    except TransportFault as fault:
        raise connection_error(attempt, fault) from fault
    finally:
        await reply.response.aclose()
    if events.failure is not None:
        raise events.failure
    gaps_s = [later - earlier for earlier, later in pairwise(moments_s)]
    return f"{events.events} events, longest gap {max(gaps_s, default=0.0):.2f} s, complete"


async def check_store(state: AppState, settings: StoreSettings) -> Step:
    """Read and write the store, and compare the encryption key. The result proves nothing about an upstream."""
    store, address, began_s = state.shared_store, f"{settings.host}:{settings.port}", state.clock.now()
    assert store is not None  # noqa: S101 - open_store returns a shared one for these settings
    with suppress(StoreUnavailable):  # its health has the reason
        await store.check()
    health, seconds = store.health, state.clock.now() - began_s
    if health.state is StoreState.UP:
        why = f"{address} answers, and the encryption key matches"
        return Step("store", "store", Outcome.WORKS, why, "", seconds, proves=False)
    why, advice = split_advice(state.redactor.mask(str(health.reason)))
    if health.state is StoreState.UNREADABLE:
        return Step("store", "store", Outcome.FAILS, f"{address} answers, but {why}", advice, seconds)
    advice = f"{sentence(advice)} Until then each process fetches tokens itself." if advice else ""
    return Step("store", "store", Outcome.FAILS, f"no use of {address}: {why}", advice, seconds)
