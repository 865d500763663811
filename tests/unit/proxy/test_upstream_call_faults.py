import re
from typing import Any

import pytest

from gatepass.config.model import Config
from gatepass.config.network import TimeoutSettings
from gatepass.errors import (
    Fault,
    TransportFault,
    UpstreamClosed,
    UpstreamConnect,
    UpstreamDns,
    UpstreamInvalid,
    UpstreamTimeout,
    UpstreamTls,
)
from gatepass.http_client.tls import TlsProblem
from gatepass.protocols.error_objects import error_headers
from gatepass.proxy.upstream_call import upstream_error

BASE = "https://llm.corp.example:8443/v1?api-version=1"
TIMEOUTS = TimeoutSettings().value("upstreams.chat")
EXPECTED = {
    Fault.DNS: (UpstreamDns, "upstream_dns"),
    Fault.CONNECT: (UpstreamConnect, "upstream_connect"),
    Fault.TLS: (UpstreamTls, "upstream_tls"),
    Fault.PROXY: (UpstreamConnect, "upstream_connect"),
    Fault.CLOSED: (UpstreamClosed, "upstream_closed"),
    Fault.INVALID: (UpstreamInvalid, "upstream_invalid"),
    Fault.TOO_LARGE: (UpstreamInvalid, "upstream_invalid"),
    Fault.TIMEOUT_CONNECT: (UpstreamTimeout, "upstream_timeout_connect"),
    Fault.TIMEOUT_POOL: (UpstreamTimeout, "upstream_timeout_connect"),
    Fault.TIMEOUT_FIRST_BYTE: (UpstreamTimeout, "upstream_timeout_first_byte"),
    Fault.TIMEOUT_IDLE: (UpstreamTimeout, "upstream_timeout_idle"),
}
"""The texts are in tests/golden/fault_texts.txt."""
# RAGFlow's _classify_error, in its order; the first pattern that is found in the lower-cased text wins
RAGFLOW_CLASSES = (
    ("QUOTA", r"quota|capacity|credit|billing|balance"),
    ("RATE_LIMIT", r"rate limit|429|tpm limit|too many requests|requests per minute"),
    ("AUTH", r"auth|key|apikey|401|forbidden|permission"),
    ("INVALID", r"invalid|bad request|400|format|malformed|parameter"),
    ("SERVER", r"server|503|502|504|500|unavailable"),
)


def ragflow_class(text):
    return next((name for name, words in RAGFLOW_CLASSES if re.search(words, text.lower())), None)


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("sent", [True, False])
def test_a_fault_has_its_error_which_ragflow_retries_if_it_may_pass(fault, sent):
    error = upstream_error(TransportFault(fault, "why.\n", sent=sent, limit_s=9), "chat", BASE, TIMEOUTS)
    kind, code = EXPECTED[fault]
    assert type(error) is kind
    assert (error.public_code, error.sent, error.hop) == (code, sent, "upstream:chat")
    assert error.http_status == (504 if kind is UpstreamTimeout else 502)
    body = {"error": {"message": error.message, "code": error.public_code}}
    shown = f"Error code: {error.http_status} - {body}"  # str() of openai-python's error
    assert ragflow_class(shown) == ("INVALID" if isinstance(error, UpstreamInvalid) else "SERVER")


@pytest.mark.parametrize("problem", TlsProblem)
def test_a_retry_is_denied_for_a_fault_of_the_certificate(problem):
    error = upstream_error(TransportFault(Fault.TLS, problem), "chat", BASE, TIMEOUTS)
    is_denied = (b"x-should-retry", b"false") in error_headers(error)
    assert is_denied is ("certificate" in problem and problem is not TlsProblem.CLIENT_CERTIFICATE)


def hop(**blocks: Any) -> tuple[str, str]:
    """What to check after an unknown CA and a refusal of the proxy."""
    upstreams = {"chat": {"base_url": "https://llm.corp.example/v1", **blocks.pop("own", {})}}
    network = Config.model_validate({"upstreams": upstreams, **blocks}).upstreams["chat"].network
    faults = (TransportFault(Fault.TLS, TlsProblem.UNKNOWN_CA), TransportFault(Fault.PROXY, "403 Forbidden from p:1"))
    first, second = (upstream_error(fault, "chat", BASE, TIMEOUTS, network=network).message for fault in faults)
    named = next(word.rstrip(",") for word in first.split() if "network.ca_file" in word)
    return named, second.rpartition("allow the host, or ")[2]


PROXIED = {"proxy": "http://proxy.corp.example:3128"}


@pytest.mark.parametrize(
    ("blocks", "named"),
    [
        ({"own": {"network": PROXIED}}, ("network.ca_file", "set upstreams.chat.network.proxy to none.")),
        ({"network": PROXIED}, ("network.ca_file", "add it to network.no_proxy.")),
        (
            {"network": {**PROXIED, "ca_file": "a.pem"}, "own": {"network": {"ca_file": "b.pem"}}},
            ("upstreams.chat.network.ca_file", "add it to network.no_proxy."),
        ),
        (
            {"network": {"ca_file": "a.pem"}, "own": {"network": PROXIED}},
            ("network.ca_file", "set upstreams.chat.network.proxy to none."),
        ),
    ],
)
def test_the_advice_names_the_setting_that_decides(blocks: dict[str, Any], named: tuple[str, str]):
    assert hop(**blocks) == named


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_that_does_not_reach_the_host_says_so_and_can_be_left_out(status: int):
    upstreams = {"chat": {"base_url": "https://llm.example/v1"}}
    network = Config.model_validate({"upstreams": upstreams, "network": PROXIED}).upstreams["chat"].network
    fault = TransportFault(Fault.PROXY, f"{status} Unavailable from p:1")
    assert upstream_error(fault, "chat", BASE, TIMEOUTS, network=network).message == (
        f"The proxy in front of llm.corp.example:8443 could not reach the host ({status} Unavailable from p:1). Check"
        " the host in upstreams.chat.base_url, whether it is up and the proxy can reach it, or add it to"
        " network.no_proxy."
    )


def test_detail_is_cut_and_may_be_missing():
    assert upstream_error(TransportFault(Fault.PROXY, ""), "chat", "http://h/v1", TIMEOUTS).message == (
        "The proxy in front of h refuses. Check network.proxy."
    )
    assert f"({'x' * 300})" in upstream_error(TransportFault(Fault.TLS, "x" * 999), "chat", BASE, TIMEOUTS).message
    assert "{0}" in upstream_error(TransportFault(Fault.TLS, "{0}"), "chat", BASE, TIMEOUTS).message


def test_a_quoted_secret_is_masked_before_the_detail_is_cut():
    fault = TransportFault(Fault.INVALID, "x" * 295 + " s3cret-value")
    error = upstream_error(fault, "chat", BASE, TIMEOUTS, lambda text: text.replace("s3cret-value", "***"))
    assert "x ***" in error.message
    assert "s3cret" not in error.message
