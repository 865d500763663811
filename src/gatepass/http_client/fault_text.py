"""The one table of texts for a connection that failed: why, and which setting to check.

The texts of errors for clients and the steps of `gatepass doctor` come from it. RAGFlow sorts errors by words in their
text (`_classify_error`). So a fault that a retry can fix avoids three words: "auth" and "key" would mean a wrong
credential, "invalid" a permanent error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from gatepass.config.network import NO_NETWORK, Network
from gatepass.errors import Fault, TransportFault
from gatepass.http_client.message_head import WITHOUT_BASIC
from gatepass.http_client.tls import LATE_TLS, LATE_TUNNEL, TLS_PORT, TlsProblem, tls_problem
from gatepass.types import Timeouts, settings_of, url_setting_of

DETAIL_CHARS = 300
MOST_PATH_CHARS = 100

_TEXTS: Mapping[Fault, str] = MappingProxyType(
    {
        Fault.DNS: (
            "The name {host} cannot be resolved{detail}.\n"
            "Check the host in {url_setting}, the DNS of the machine that gatepass runs on, and whether this network"
            " needs {proxy}."
        ),
        Fault.CONNECT: (
            "No connection to {host}{detail}.\n"
            "Check the host and port in {url_setting}, whether it is up, and whether this network needs"
            " {proxy}."
        ),
        Fault.PROXY: "The proxy in front of {host} {proxy_did}{detail}.\n{proxy_advice}",
        Fault.TLS: "No secure connection to {host}{detail}.\n{tls}",
        Fault.CLOSED: (
            "{host} closed the connection before its reply was complete{detail}; whether it did the work is unknown.\n"
            "{try} again where that does no harm."
        ),
        Fault.INVALID: (
            "The reply of {host} is invalid HTTP{detail}.\nCheck that {url_setting} names an HTTP or HTTPS API."
        ),
        Fault.TOO_LARGE: (
            "The reply of {host} is larger than gatepass may hold, which makes it invalid here{detail}.\n"
            "Raise limits.reply_bytes, or ask for less in one call."
        ),
        Fault.TIMEOUT_CONNECT: (
            "No connection to {host} within {limit}.\n"
            "Check the host and port in {url_setting}, a firewall between, and whether this network needs"
            " {proxy}."
        ),
        Fault.TIMEOUT_POOL: (
            "All connections that {settings}.max_connections allows to {host} were busy.\nTry again, or raise it."
        ),
        Fault.TIMEOUT_FIRST_BYTE: (
            "{host} sent no reply within {limit}.\nA slow model needs more: raise this setting."
        ),
        Fault.TIMEOUT_IDLE: (
            "{host} stopped sending in the middle of its reply for longer than {limit}.\n"
            "Check the upstream first. A model that pauses needs more: raise this setting."
        ),
    }
)
"""Of each fault why, and in a second line what to check."""
_AT_PROXY_TEXTS: Mapping[Fault, str] = MappingProxyType(
    {
        Fault.DNS: (
            "The name {host} cannot be resolved{detail}.\n"
            "Check the host in {url_setting} and the DNS of the machine that gatepass runs on."
        ),
        Fault.CONNECT: (
            "No connection to {host}{detail}.\nCheck the host and port in {url_setting}, and whether the proxy is up."
        ),
    }
)
"""Those that differ on the way to the proxy."""
_BY_DETAIL: Mapping[str, str] = MappingProxyType(
    {
        LATE_TLS: (
            "Connected to {host}, but the TLS handshake did not end within {limit}.\n"
            "If the port serves plain HTTP, begin {url_setting} with http://. Otherwise check the TLS of {host}, and a"
            " firewall between."
        ),
        LATE_TUNNEL: (
            "Connected to {host}, but it opened no tunnel within {limit}.\n"
            "Check the address in {server_setting}, and whether the proxy can reach it."
        ),
        TLS_PORT: "{host} requires TLS on this port.\nBegin {url_setting} with https://.",
    }
)
"""Those of a detail that alone names the cause."""
_CASES: Mapping[str, str] = MappingProxyType({LATE_TLS: "tls_late", TLS_PORT: "tls_port"})
_TLS_TEXTS: Mapping[TlsProblem, str] = MappingProxyType(
    {
        TlsProblem.CERTIFICATE: (
            "Renew the certificate of {host}, use a host name of it in {url_setting}, or check the clock of this"
            " machine."
        ),
        TlsProblem.UNKNOWN_CA: "Set {ca_file} to a PEM file with the certificate of that CA.",
        TlsProblem.PLAIN_HTTP: "Check the port in {url_setting}, or begin it with http://.",
        TlsProblem.CLIENT_CERTIFICATE: "Set {client_cert} to a certificate that {host} trusts.",
        TlsProblem.OTHER: (
            "Check the port in {url_setting}, or begin it with http:// if it has no TLS. Otherwise check {ca_file} and,"
            " if {host} requires a client certificate, {client_cert}."
        ),
    }
)
"""Of a failed handshake what to check, in place of `{tls}`."""
_LIMITS: Mapping[Fault, str] = MappingProxyType(
    {Fault.TIMEOUT_CONNECT: "connect_s", Fault.TIMEOUT_FIRST_BYTE: "first_byte_s", Fault.TIMEOUT_IDLE: "idle_s"}
)
"""The member of `Timeouts` that limits each phase."""
_AT_PROXY = re.compile(r"proxy (\S+): ")
"""Begins the detail of a fault on the way to the proxy (`pool.dial`)."""


@dataclass(frozen=True, slots=True)
class ServerNames:
    """A server as texts name it: `settings` is such as `upstreams.chat`, `url_setting` the full name of its URL's."""

    host: str
    settings: str
    url_setting: str
    timeouts: Mapping[str, str] = field(default_factory=dict)
    """The setting of each timeout (`Timeouts.settings`), without those that have none."""
    network: Network = NO_NETWORK
    """The settings with which it is called."""
    proxy_variable: str = ""
    """Follows the setting of the proxy, such as ` (GATEPASS_PROXY)`."""
    is_plain: bool = False
    """Whether its URL begins with http://."""

    @classmethod
    def of_upstream(cls, name: str, base_url: str, timeouts: Timeouts, network: Network = NO_NETWORK) -> Self:
        plain = base_url.lower().startswith("http:")
        return cls(
            host_of(base_url), settings_of(name), url_setting_of(name), timeouts.settings, network, is_plain=plain
        )


def host_of(url: str) -> str:
    """Return the host and port of `url`, without user and password."""
    return urlsplit(url).netloc.rpartition("@")[2]


def redirect_place(target: str, own: str) -> str:
    """Return where a redirect leads: another host than `own`, or a path that holds no id of a session.

    Raises ValueError for an invalid URL.
    """
    parts = urlsplit(target)
    if parts.hostname not in (None, urlsplit(f"//{own}").hostname):
        return parts.hostname or ""
    plain = re.compile(r"(?=.{0,40}\Z)(?:\d?[A-Za-z_.~-]*+){0,6}")
    if len(parts.path) > MOST_PATH_CHARS or not all(map(plain.fullmatch, parts.path.split("/"))):
        return "another path of the same host"
    return f"{parts.scheme and f'{parts.scheme}://'}{parts.netloc.rpartition('@')[2]}{parts.path}"


class FaultText(NamedTuple):
    """Why a connection failed and what to check, with the `case` and the `setting` of its error."""

    why: str
    advice: str
    case: str = ""
    setting: str = ""


def fault_text(fault: TransportFault, names: ServerNames, mask: Callable[[str], str] = str) -> FaultText:
    """Return why a connection to a server failed, and what to check. `mask` hides known secrets."""
    # The detail may quote bytes from the network. A cut before the mask could leave half a secret.
    detail = "".join(char if char.isprintable() else " " for char in mask(fault.detail))
    detail = " ".join(detail.split())[:DETAIL_CHARS].rstrip(".")
    host, url_setting = names.host, names.url_setting
    member = partial(names.network.setting, names.settings)
    proxy = f"{member('proxy')}{names.proxy_variable}"
    text = _TEXTS[fault.kind]
    if at_proxy := _AT_PROXY.match(detail):
        detail, url_setting = detail[at_proxy.end() :], proxy
        host = at_proxy[1] if fault.kind is Fault.DNS else f"the proxy {at_proxy[1]}"
        text = _AT_PROXY_TEXTS.get(fault.kind, text)
    text, case = _BY_DETAIL.get(detail, text), _CASES.get(detail, "")
    if fault.kind is Fault.DNS:
        host = re.sub(r":\d+$", "", host)  # the port has no part in the name
    limit = "" if fault.limit_s is None else f"{fault.limit_s:g} s"
    if limit_setting := names.timeouts.get(_LIMITS.get(fault.kind, ""), ""):
        limit = f"{limit} ({limit_setting})"
    status, proxy_setting = fault.detail[:3], member("proxy_auth") if fault.detail[:3] == "407" else proxy
    # no_proxy has no effect on a server with its own proxy
    around = "add it to network.no_proxy" if proxy.startswith("network.") else f"set {proxy} to none"
    setting = limit_setting or (member("ca_file") if fault.kind is Fault.TLS else url_setting)
    proxy_did, proxy_advice = "refuses", f"Check {proxy_setting}."
    if fault.kind is Fault.PROXY:
        case = "proxy_refuses" if proxy.startswith("network.") else "own_proxy_refuses"
    elif at_proxy and fault.kind is Fault.TIMEOUT_CONNECT:
        case, setting = "proxy_late", proxy
    elif fault.kind is Fault.CLOSED and not fault.answered:
        case = "no_answer"
    elif fault.kind is Fault.TOO_LARGE:
        case = "too_large"
    if WITHOUT_BASIC in fault.detail:
        proxy_advice = (
            f"gatepass supports Basic alone. Set {proxy} to a local proxy that logs in to this one, such as px or"
            " cntlm, or ask its owner to allow this machine."
        )
    elif status == "403":
        proxy_advice = f"Ask the owner of the proxy to allow the host, or {around}."
    elif status in ("502", "503", "504"):
        proxy_did, case = "could not reach the host", ""
        proxy_advice = f"Check the host in {url_setting}, whether it is up and the proxy can reach it, or {around}."
    is_unlike_tls = fault.answered or fault.stale or not names.is_plain
    retry = "Try" if is_unlike_tls else f"If the port requires TLS, begin {url_setting} with https://. Otherwise try"
    fields = {
        "host": host,
        "settings": names.settings,
        "url_setting": url_setting,
        "server_setting": names.url_setting,
        "detail": f" ({detail})" if detail else "",
        "limit": limit,
        "try": retry,
        "proxy": proxy,
        "ca_file": member("ca_file"),
        "client_cert": member("client_cert"),
        "proxy_did": proxy_did,
        "proxy_advice": proxy_advice,
    }
    why, _, advice = text.replace("{tls}", _TLS_TEXTS[tls_problem(fault.detail)]).format_map(fields).partition("\n")
    return FaultText(why, advice, case, setting)
