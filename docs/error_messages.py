"""Example messages of docs/reference/errors.md. tests/docs/test_errors.py finds the text of each in the code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gatepass.config.network import TimeoutSettings
from gatepass.errors import Fault, TransportFault, explanations
from gatepass.proxy.upstream_call import total_timeout, upstream_error

TIMEOUTS = TimeoutSettings().value("upstreams.chat")
HOST = "https://llm.corp.example/v1"
FAULTS: Mapping[str, TransportFault] = {
    "upstream_connect": TransportFault(Fault.CONNECT, "connection refused"),
    "upstream_dns": TransportFault(Fault.DNS, "Name or service not known"),
    "upstream_tls": TransportFault(Fault.TLS, "certificate has expired"),
    "upstream_closed": TransportFault(Fault.CLOSED, ""),
    "upstream_timeout_connect": TransportFault(Fault.TIMEOUT_CONNECT, "", limit_s=5),
    "upstream_timeout_first_byte": TransportFault(Fault.TIMEOUT_FIRST_BYTE, "", limit_s=600),
    "upstream_timeout_idle": TransportFault(Fault.TIMEOUT_IDLE, "", limit_s=300),
}
MESSAGES: Mapping[str, str] = {
    **{code: entry.example for code, entry in explanations().items() if entry.example},
    "upstream_timeout_total": total_timeout("chat", replace(TIMEOUTS, total_s=600)).message,
    **{code: upstream_error(fault, "chat", HOST, TIMEOUTS).message for code, fault in FAULTS.items()},
}
