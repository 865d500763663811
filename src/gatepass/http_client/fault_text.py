"""The one table for a connection that failed: why, and the entry of errors.json that says which setting to check.

The texts of errors for clients and the steps of `gatepass doctor` come from it. RAGFlow sorts errors by words in their
text (`_classify_error`). So a fault that a retry can fix avoids three words: "auth" and "key" would mean a wrong
credential, "invalid" a permanent error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from gatepass.config.advice import Advice
from gatepass.config.network import NO_NETWORK, Network
from gatepass.errors import Fault, TransportFault
from gatepass.http_client.message_head import WITHOUT_BASIC
from gatepass.http_client.tls import LATE_TLS, LATE_TUNNEL, TLS_PORT, TlsProblem, tls_problem
from gatepass.types import Timeouts, settings_of, url_setting_of

DETAIL_CHARS = 300
MOST_PATH_CHARS = 100

_WHY: Mapping[Fault, str] = {
    Fault.DNS: "The name {host} cannot be resolved{detail}.",
    Fault.CONNECT: "No connection to {host}{detail}.",
    Fault.PROXY: "The proxy in front of {host} {proxy_did}{detail}.",
    Fault.TLS: "No secure connection to {host}{detail}.",
    Fault.CLOSED: ("{host} closed the connection before its reply was complete{detail}{doubt}."),
    Fault.INVALID: "The reply of {host} is invalid HTTP{detail}.",
    Fault.TOO_LARGE: "The reply of {host} is larger than gatepass may hold, which makes it invalid here{detail}.",
    Fault.TIMEOUT_CONNECT: "No connection to {host} within {limit}.",
    Fault.TIMEOUT_POOL: (
        "All connections that {settings}.max_connections allows to {host} were busy. Try again, or raise it."
    ),
    Fault.TIMEOUT_FIRST_BYTE: "{host} sent no reply within {limit}.",
    Fault.TIMEOUT_IDLE: "{host} stopped sending in the middle of its reply for longer than {limit}.",
}
_BY_DETAIL: Mapping[str, tuple[str, str]] = {
    LATE_TLS: ("Connected to {host}, but the TLS handshake did not end within {limit}.", "tls_late"),
    LATE_TUNNEL: ("Connected to {host}, but it opened no tunnel within {limit}.", "tunnel_late"),
    TLS_PORT: ("{host} requires TLS on this port.", "tls_port"),
}
"""Why, and the entry of errors.json, by a detail that alone names the cause."""
_ADVICE: Mapping[Fault, str] = {
    Fault.DNS: "upstream_dns",
    Fault.CONNECT: "upstream_connect",
    Fault.CLOSED: "upstream_closed",
    Fault.INVALID: "not_http",
    Fault.TOO_LARGE: "reply_too_large",
    Fault.TIMEOUT_CONNECT: "upstream_timeout_connect",
    Fault.TIMEOUT_FIRST_BYTE: "upstream_timeout_first_byte",
    Fault.TIMEOUT_IDLE: "upstream_timeout_idle",
}
_ADVICE_ABOUT_TLS: Mapping[TlsProblem, str] = {
    TlsProblem.CERTIFICATE: "tls_certificate",
    TlsProblem.UNKNOWN_CA: "tls_unknown_ca",
    TlsProblem.PLAIN_HTTP: "tls_plain_http",
    TlsProblem.CLIENT_CERTIFICATE: "tls_client_certificate",
    TlsProblem.OTHER: "tls_other",
}
_ADVICE_AT_PROXY: Mapping[Fault, str] = {
    Fault.DNS: "proxy_dns",
    Fault.CONNECT: "proxy_connect",
    Fault.TIMEOUT_CONNECT: "proxy_late",
}
_AT_PROXY = re.compile(r"proxy (\S+): ")
"""Begins the detail of a fault on the way to the proxy (`pool.dial`)."""


class ServerNames(msgspec.Struct, frozen=True):
    """A server as texts name it: `settings` is such as `upstreams.chat`, `url_setting` the full name of its URL's."""

    host: str
    settings: str
    url_setting: str
    timeouts: Mapping[str, str] = msgspec.field(default_factory=dict)
    """The setting of each timeout (`Timeouts.settings`), without those that have none."""
    network: Network = NO_NETWORK
    """The settings with which it is called."""
    is_plain: bool = False
    """Whether its URL begins with http://."""
    is_read: bool = False
    """Whether its requests only read, so that nothing is in doubt after one that broke."""

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
    """Why a connection failed, and what to check."""

    why: str
    advice: Advice


def fault_text(fault: TransportFault, names: ServerNames, mask: Callable[[str], str] = str) -> FaultText:
    """Return why a connection to a server failed, and what to check. `mask` hides known secrets."""
    # The detail may quote bytes from the network. A cut before the mask could leave half a secret.
    detail = "".join(char if char.isprintable() else " " for char in mask(fault.detail))
    detail = " ".join(detail.split())[:DETAIL_CHARS].rstrip(".")
    host, url, entry = names.host, names.url_setting, _ADVICE.get(fault.kind, "")
    member = partial(names.network.setting, names.settings)
    proxy, proxy_did = member("proxy"), "refuses"
    if at_proxy := _AT_PROXY.match(detail):
        detail = detail[at_proxy.end() :]
        host = at_proxy[1] if fault.kind is Fault.DNS else f"the proxy {at_proxy[1]}"
        entry = _ADVICE_AT_PROXY.get(fault.kind, entry)
        url = url if detail == LATE_TUNNEL else proxy
    why, entry = _BY_DETAIL.get(detail, (_WHY[fault.kind], entry))
    if fault.kind is Fault.DNS:
        host = re.sub(r":\d+$", "", host)  # the port has no part in the name
    limit = "" if fault.limit_s is None else f"{fault.limit_s:g} s"
    if limit_setting := names.timeouts.get(f"{fault.kind.removeprefix('timeout_')}_s", ""):
        limit = f"{limit} ({limit_setting})"
    elif entry == "upstream_timeout_connect":
        entry = "issuer_timeout_connect"
    if fault.kind is Fault.TLS:
        entry = _ADVICE_ABOUT_TLS[tls_problem(fault.detail)]
    elif fault.kind is Fault.PROXY:
        entry, status = "proxy_fails", fault.detail[:3]
        # no_proxy has no effect on a server with its own proxy
        own = "" if proxy.startswith("network.") else "own_"
        if WITHOUT_BASIC in fault.detail:
            entry = "proxy_without_basic"
        elif status in ("401", "407"):  # tinyproxy refuses a wrong password with a 401
            entry = "proxy_login"
        elif status == "403":
            entry = f"{own}proxy_refuses"
        elif status in ("502", "503", "504"):
            proxy_did, entry = "could not reach the host", f"{own}proxy_reaches_nothing"
    elif fault.kind is Fault.CLOSED and names.is_plain and not (fault.answered or fault.stale):
        entry = "no_answer"
    fields = {
        "host": host,
        "settings": names.settings,
        "detail": f" ({detail})" if detail else "",
        "limit": limit,
        "proxy_did": proxy_did,
        "doubt": "" if names.is_read else "; whether it did the work is unknown",
    }
    known = {name: member(name) for name in ("proxy", "proxy_auth", "ca_file", "client_cert")}
    known |= {"own_proxy": proxy, "url": url, "host": host, "setting": limit_setting or url}
    return FaultText(why.format_map(fields), Advice(entry, known))
