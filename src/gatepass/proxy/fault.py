"""What a broken connection means for the second hop, in words that say what to do.

The words are chosen for RAGFlow too, which sorts errors by words in their text (its
`_classify_error`): "auth" and "key" would make a fault of the network a wrong credential, and final;
"invalid" makes final what no repeat can mend.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from gatepass.dialects.error_body import Mask, unmasked
from gatepass.errors import (
    Fault,
    TransportFault,
    UpstreamClosed,
    UpstreamConnect,
    UpstreamDns,
    UpstreamError,
    UpstreamInvalid,
    UpstreamTimeout,
    UpstreamTls,
)

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
