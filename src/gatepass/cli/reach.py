"""The network step of `gatepass doctor`: a connection as requests open it. The last part explains a certificate."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from gatepass.clock import Clock, SystemClock
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.kinds import AnyCredential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.network import Network
from gatepass.config.upstream import UpstreamConfig
from gatepass.errors import Fault, TransportFault
from gatepass.http_client.connection import Connection
from gatepass.http_client.fault_text import ServerNames, fault_text, host_of
from gatepass.http_client.loop_turns import LoopTurns
from gatepass.http_client.message_head import Destination, ProxyServer, destination_of
from gatepass.http_client.pool import dial
from gatepass.http_client.tls import OF_CERTIFICATE, TlsProblem, ssl_context, tls_problem
from gatepass.tokens.failure import setting
from gatepass.types import settings_of


class StepOutcome(StrEnum):
    """The printed result of a step. UNPROVEN: the hop answers, but the step cannot prove that it works."""

    WORKS = "ok"
    FAILS = "FAIL"
    UNPROVEN = "????"
    SKIPPED = "skip"


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one test at one hop, with its reason and the advice for the operator.

    - `what`: configuration, store, resolve, connect, proxy, tls, token, running, models, call, stream,
      protocols, or a path of gatepass.
    - `advice`: empty if no action is necessary, or if `why` contains it.
    - `proves`: whether WORKS proves that the hop works. A configured key that was not sent anywhere proves nothing.
    - `base_url`: the URL of the upstream that works instead, if the configured one lacks the version.
    - `action`: the error's action in `advice`, with its code and names, from which the page words it in Chinese.
    - `error`: the status, code and text of an error. Steps that have the same one received the same error.
    - `model`: what a call named, for the page.
    """

    hop: str
    what: str
    outcome: StepOutcome
    why: str
    advice: str = ""
    seconds: float = field(default=0.0, compare=False)
    proves: bool = True
    base_url: str = ""
    action: Mapping[str, object] | None = None
    error: str = ""
    model: str = field(default="", compare=False)

    @property
    def failed(self) -> bool:
        return self.outcome is StepOutcome.FAILS

    def described(self) -> dict[str, object]:
        """Return the fields as JSON has them."""
        fields = asdict(self) | {"outcome": self.outcome.name.lower(), "seconds": round(self.seconds, 3)}
        hidden = ("proves", "base_url", "action", "error", "model")
        return {name: value for name, value in fields.items() if name not in hidden}


Steps = AsyncGenerator[Step, None]


async def timed(steps: Steps) -> Steps:
    async with aclosing(steps):
        began_s = time.monotonic()
        async for step in steps:
            yield replace(step, seconds=time.monotonic() - began_s)
            began_s = time.monotonic()


@dataclass(frozen=True, slots=True)
class Server:
    """A server to test, with its settings as texts name them."""

    hop: str
    url: str
    names: ServerNames
    connect_s: float = 5.0

    @property
    def destination(self) -> Destination:
        network = self.names.network
        auth = None if network.proxy_auth is None else network.proxy_auth.reveal()
        return destination_of(self.url, None if network.proxy is None else ProxyServer.of(network.proxy, auth))

    def step(self, what: str, outcome: StepOutcome, why: str, advice: str = "") -> Step:
        return Step(self.hop, what, outcome, why, advice, proves=False)


def upstream_server(name: str, upstream: UpstreamConfig) -> Server:
    timeouts = upstream.timeouts.value(settings_of(name))
    names = ServerNames.of_upstream(name, upstream.base_url, timeouts, upstream.network)
    return Server(f"upstream:{name}", upstream.base_url, names, timeouts.connect_s)


def issuer_server(name: str, credential: AnyCredential) -> Server | None:
    """Return the server of a credential's token endpoint; None if its type has no configured URL."""
    match credential:
        case Oauth2Credential():
            url, url_setting = credential.endpoint, "token_url" if credential.token_url else "issuer"
        case HttpJsonCredential():
            url, url_setting = credential.url, "url"
        case _:
            return None
    names = ServerNames(host_of(url), f"credentials.{name}", setting(name, url_setting), network=credential.network)
    return Server(f"credential:{name}", url, names, min(5.0, credential.timeout_s))


Begin = Callable[[str, str], object]
"""Called with the hop and the name of a step before it runs, to show progress."""

_STEPS = {Fault.DNS: "resolve", Fault.PROXY: "proxy", Fault.TLS: "tls"}


async def reach(server: Server, clock: Clock | None = None, begin: Begin = lambda *_: None) -> Step:
    """Open a connection as a request does, and return the step `resolve`, `connect`, `proxy` or `tls`.

    A failed step has the name of the phase that failed.
    """
    begin(server.hop, "connect")
    names, wall_s = server.names, (clock or SystemClock()).wall()
    try:
        context, destination = ssl_context(names.network), server.destination
    except TransportFault as fault:  # the URL has no valid host
        return server.step("resolve", StepOutcome.FAILS, fault.detail, f"Check {names.url_setting}.")
    except OSError:
        settings = [name for name in ("ca_file", "client_cert", "client_key") if getattr(names.network, name)]
        files = " and ".join(names.network.setting(names.settings, name) for name in settings)
        return server.step("tls", StepOutcome.FAILS, "a PEM file cannot be loaded", f"Check {files}.")
    try:
        opened = await _open(destination, context, server.connect_s)
    except TransportFault as fault:
        return await _failed(server, destination, fault, wall_s)
    first, name = destination, destination.host
    if destination.proxy is not None:
        first = destination.proxy.destination
        name = f"the proxy {first.host}"
    where = f"{name if opened.address == first.host else f'{name} ({opened.address})'} port {first.port}"
    if not destination.secure:
        return server.step("connect", StepOutcome.WORKS, f"{where} accepts connections")
    if destination.proxy is not None:  # the certificate is of the server behind it
        where = f"{names.host} by the proxy {first.authority.decode()}"
    certificate = opened.session.getpeercert() or {}
    described = describe_certificate(certificate, opened.session.version() or "TLS", wall_s)
    return server.step("tls", StepOutcome.WORKS, f"{where}, {described}")


class _NoPool:
    """The owner of a connection that sends no request."""

    def on_idle(self, connection: Connection) -> None: ...

    def on_lost(self, connection: Connection) -> None: ...

    def defers_write(self, connection: Connection) -> bool:  # noqa: ARG002 - the protocol's signature
        return False


class _Opened(Connection):
    address = ""
    session: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.address = str((transport.get_extra_info("peername") or [""])[0])
        self.session = transport.get_extra_info("ssl_object")
        super().connection_made(transport)


async def _open(destination: Destination, context: ssl.SSLContext, limit_s: float) -> _Opened:
    """Return a connection that is closed again, with its TLS session; raise TransportFault."""
    connection = _Opened(asyncio.get_running_loop(), _NoPool(), memoryview(bytearray(4096)), LoopTurns())
    try:
        await dial(destination, context, connection, limit_s)
        return connection
    finally:
        connection.abort()


async def _failed(server: Server, destination: Destination, fault: TransportFault, wall_s: float) -> Step:
    """Explain a connection that failed. A second one without verification shows the certificate."""
    names, network = server.names, server.names.network
    problem = tls_problem(fault.detail, has_ca_file=network.ca_file is not None)
    is_direct = destination.secure and destination.proxy is None
    if fault.kind is Fault.TIMEOUT_CONNECT and is_direct and await _accepts(destination, server.connect_s):
        limit = names.timeouts.get("connect_s", "the timeout of this step")
        why = f"{names.host} did not complete the TLS handshake within {server.connect_s:g} s"
        advice = f"Check the port in {names.url_setting}; {limit} sets the time."
        return server.step("tls", StepOutcome.FAILS, why, advice)
    # some servers without TLS close the connection at a handshake instead of answering
    if fault.kind is Fault.TLS and is_direct and problem in (TlsProblem.CLOSED, TlsProblem.OTHER):
        answer = await _plain_answer(destination, server.connect_s)
        if answer is not None and answer.startswith(b"HTTP/"):
            fault = TransportFault(Fault.TLS, TlsProblem.PLAIN_HTTP, sent=False)
    why, advice = fault_text(fault, names)
    if problem in OF_CERTIFICATE and not fault.detail.startswith("proxy "):
        with suppress(TransportFault, OSError):
            opened = await _open(destination, _unverified(network), server.connect_s)
            # `getpeercert` returns an empty dict for an unverified certificate
            read = getattr(getattr(opened.session, "_sslobj", None), "get_unverified_chain", list)
            if chain := [certificate.get_info() for certificate in read() or ()]:
                why, better = explain_certificate(chain, problem, names, trusted_names(network.ca_file), wall_s)
                advice = better or advice
    return server.step(_STEPS.get(fault.kind, "connect"), StepOutcome.FAILS, why, advice)


def _unverified(network: Network) -> ssl.SSLContext:
    """Return a context for a handshake in which nothing is sent, only to see how the server answers."""
    context = ssl_context(network)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def _accepts(destination: Destination, limit_s: float) -> bool:
    try:
        async with asyncio.timeout(limit_s):
            _, writer = await asyncio.open_connection(destination.host, destination.port)
    except OSError:
        return False
    writer.transport.abort()
    return True


async def _plain_answer(destination: Destination, limit_s: float) -> bytes | None:
    """Return the first bytes of the answer to a plain GET, b"" if the server closes, None without one in time."""
    try:
        async with asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_connection(destination.host, destination.port)
            try:
                writer.write(b"GET / HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n" % destination.authority)
                return await reader.read(len(_BAD_REQUEST[0]))
            finally:
                writer.transport.abort()
    except TimeoutError:
        return None
    except OSError:
        return b""


TLS_TRIAL_S = 2.0
_BAD_REQUEST = (b"HTTP/1.1 400", b"HTTP/1.0 400")
_STATUSES_OF_TLS = ("", "400", "502", "503")
"""The statuses of errors that a port with TLS may cause. With another one the server itself answered in HTTP."""


async def at_tls_port(server: Server, step: Step) -> Step | None:
    """Return a step that replaces the failed `step` of an http URL if its port speaks TLS; not with a proxy.

    A server with TLS closes a plain connection, sends an alert, or answers a page with the status 400.
    """
    destination, names, limit_s = server.destination, server.names, min(server.connect_s, TLS_TRIAL_S)
    if not step.failed or destination.proxy is not None or destination.secure:
        return None
    if step.error[:3] not in _STATUSES_OF_TLS:
        return None
    answer = await _plain_answer(destination, limit_s)
    if answer is None or (answer.startswith(b"HTTP/") and answer not in _BAD_REQUEST):
        return None
    try:
        # a server without TLS may wait for the rest of a request
        await _open(replace(destination, secure=True), _unverified(names.network), limit_s)
    except TransportFault:
        return None
    why = f"{names.host} speaks TLS on this port, and {names.url_setting} begins with http://"
    return server.step(step.what, StepOutcome.FAILS, why, f"Begin {names.url_setting} with https://.")


Certificate = Mapping[str, Any]
"""A certificate as `ssl.SSLSocket.getpeercert` returns it."""
DAY_S = 86_400.0
SOON_S = 14 * DAY_S
"""A certificate that ends sooner is reported with the days that are left."""
NAMES = 5


def trusted_names(ca_file: str | None) -> list[str]:
    """Return the names of the CAs in `ca_file`; raise OSError if it cannot be loaded."""
    if ca_file is None:
        return []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca_file)
    return [name_of(certificate, "subject") for certificate in context.get_ca_certs()]


def name_of(certificate: Certificate, whose: str) -> str:
    """Return the common name of the `subject` or `issuer`, or the organization's."""
    fields = {field: value for part in certificate.get(whose, ()) for field, value in part}
    return fields.get("commonName") or fields.get("organizationalUnitName") or fields.get("organizationName") or "?"


def _moment_s(certificate: Certificate, which: str) -> float:
    return float(ssl.cert_time_to_seconds(certificate[which]))


def _date(certificate: Certificate, which: str) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(_moment_s(certificate, which)))


def describe_certificate(certificate: Certificate, version: str, wall_s: float) -> str:
    """Return a line about a verified certificate. `version` is the protocol's."""
    left_s = _moment_s(certificate, "notAfter") - wall_s
    end = f"valid until {_date(certificate, 'notAfter')}"
    if left_s < SOON_S:
        end = f"it expires in {left_s / DAY_S:.0f} days ({_date(certificate, 'notAfter')}): renew it"
    return f"{version}, certificate of {name_of(certificate, 'issuer')}, {end}"


def explain_certificate(
    chain: Sequence[Certificate], problem: TlsProblem, names: ServerNames, trusted: Sequence[str], wall_s: float
) -> tuple[str, str | None]:
    """Return why the handshake failed, and what to do if the certificates say more than the problem.

    `trusted` are the names of the CAs in `ca_file`.
    """
    host, own = names.host, chain[0]
    match problem:
        case TlsProblem.EXPIRED:
            # Not always the server's own certificate: an expired CA certificate fails with the same error.
            late = next((each for each in chain if _moment_s(each, "notAfter") < wall_s), own)
            advice = None if late is own else f"Let {host} send a current certificate of that CA."
            return f"the certificate of {_owner(late, own, host)} expired on {_date(late, 'notAfter')}", advice
        case TlsProblem.NOT_YET_VALID:
            early = next((each for each in chain if _moment_s(each, "notBefore") > wall_s), own)
            return f"the certificate of {_owner(early, own, host)} is valid from {_date(early, 'notBefore')}", None
        case TlsProblem.WRONG_NAME:
            hosts = [name for _, name in own.get("subjectAltName", ())]
            more = f" and {len(hosts) - NAMES} more" if len(hosts) > NAMES else ""
            return f"the certificate is for {', '.join(hosts[:NAMES]) or 'no host name'}{more}, not for {host}", None
        case _:
            return _unknown_ca(chain, host, names.network.setting(names.settings, "ca_file"), trusted)


def _owner(certificate: Certificate, own: Certificate, host: str) -> str:
    return host if certificate is own else f"the CA {name_of(certificate, 'subject')}"


def _unknown_ca(chain: Sequence[Certificate], host: str, setting: str, trusted: Sequence[str]) -> tuple[str, str]:
    own = chain[0]
    contained = f"; ca_file contains {' and '.join(trusted)}" if trusted else ""
    if own.get("subject") == own.get("issuer"):
        why = f"the certificate of {host} is self-signed ({name_of(own, 'subject')}){contained}"
        return why, f"Set {setting} to a PEM file with this certificate, or install one that a CA signed."
    # Servers leave out the root, so the last certificate names it.
    issuer = name_of(chain[-1], "issuer")
    # a certificate that names a URL of its CA's certificate is most likely signed by an intermediate CA
    if len(chain) == 1 and any(url.startswith("http") for url in own.get("caIssuers", ())):
        why = f"{host} sends an incomplete chain: its own certificate without that of the CA {issuer}{contained}"
        return why, f"Let {host} send its intermediate certificates, or add that of {issuer} to {setting}."
    if issuer in trusted:
        why = f"the certificate of {host} names the CA {issuer}, but another key than that in ca_file signed it"
        return why, f"Replace the certificate in {setting} with the current one of {issuer}."
    why = f"the certificate of {host} is signed by the CA {issuer}, which this machine does not trust{contained}"
    if trusted:
        return why, f"Add the certificate of {issuer} to {setting}."
    return why, f"Set {setting} to a PEM file with the certificate of {issuer}."
