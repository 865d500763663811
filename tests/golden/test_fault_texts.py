"""Each text of a connection that failed, to an upstream, an MCP server, through a proxy and to a token endpoint."""

from dataclasses import replace

from gatepass.config.network import TimeoutSettings
from gatepass.errors import Fault, TransportFault
from gatepass.http_client.tls import TlsProblem
from gatepass.proxy.upstream_call import total_timeout, upstream_error
from gatepass.tokens.source import build_source
from gatepass.types import settings_of
from tests.golden.golden import same
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import Broken, ScriptedIssuer, failure_of, http_json

LIMITED = (Fault.TIMEOUT_CONNECT, Fault.TIMEOUT_FIRST_BYTE, Fault.TIMEOUT_IDLE)


def texts(upstream: str, url: str, detail: str) -> str:
    is_proxy = detail.startswith("proxy")
    kinds = (Fault.DNS, Fault.CONNECT, Fault.TLS) if is_proxy else Fault
    faults = [TransportFault(kind, detail, limit_s=2.5 if kind in LIMITED else None) for kind in kinds]
    if not is_proxy:
        faults += [TransportFault(Fault.TLS, problem) for problem in TlsProblem]
        faults.append(TransportFault(Fault.PROXY, "407 Who are you from proxy.example:3128"))
    timeouts = TimeoutSettings().value(settings_of(upstream))
    found = [f"{fault.kind}: {upstream_error(fault, upstream, url, timeouts).message}" for fault in faults]
    if not is_proxy:
        found.append(f"timeout_total: {total_timeout(upstream, replace(timeouts, total_s=2.5)).message}")
    return "\n".join(found)


async def text_of_issuer(kind: Fault) -> str:
    issuer = ScriptedIssuer(DrivenClock(), otherwise=Broken(kind, "why"))
    return f"{kind}: {(await failure_of(build_source('corp', http_json(), issuer, issuer.clock).fetch())).reason}"


async def test_the_text_of_each_fault_is_what_is_recorded() -> None:
    same(
        "fault_texts.txt",
        {
            "an upstream": texts("chat", "https://llm.example/v1", "why"),
            "an MCP server": texts("mcp/search", "https://mcp.example/mcp", "why"),
            "on the way to a proxy": texts("chat", "https://llm.example/v1", "proxy proxy.example:3128: why"),
            "a token endpoint": "\n".join(
                [await text_of_issuer(kind) for kind in Fault if kind is not Fault.TIMEOUT_POOL]
            ),
        },
    )
